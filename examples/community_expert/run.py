"""One expert for every community's rules: is it as good as a classifier for each, and does it read the rule?

    python examples/community_expert/run.py --data FOLDER [--out FOLDER] [--seeds 1 2 3] [--arms ...] [--answers FOLDER]

FOLDER holds `moderation/` and `general/` (README.md says which files). Arms are trained one after the other, each is
measured and kept, and the page is written anew; the same command goes on after a kill. Hours on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))
import encoder
import measure
import page
import prepare

from bessemer.errors import StoppedByUserError
from bessemer.evaluate.stats import Interval
from bessemer.files import canonical_json, sha256_text
from bessemer.launch.here import quiet_libraries, stop_requests
from bessemer.launch.place import Place
from bessemer.launch.start import start
from bessemer.merging import merge
from bessemer.moderate.build import Built, build
from bessemer.recipe.load import parse_recipe
from bessemer.recipe.moderation_recipe import ModerationRecipe
from bessemer.track.runs import runs_folder
from bessemer.track.screen import Screen

Row = dict[str, Any]
START = "smollm2-135m@post"
READ = 50_000  # tokens of continued pre-training
FULL = {"twins": 24_000, "named": 8000}  # under computed rules: in the main data set, in those of few labels
FEW = {"twins": 2500, "named": 1000}
PER_COMMENT = 8  # twins of a removed comment, each beside another approved one: the few positives are read again
# arm -> (data set, continued pre-training?, replay?). What a part of the recipe does is asked of few labels: three
# arms on the same twins for less than the price of an expert.
PARTS = f"labels-{max(measure.LABELS)}"
ARMS: dict[str, tuple[str, bool, bool]] = {
    "expert": ("expert", False, True),
    **{f"labels-{n}": (f"labels-{n}", True, True) for n in measure.LABELS},
    "no-replay": (PARTS, True, False),
    "tuning-only": (PARTS, False, True),
}

AVERAGE = "average"  # of the expert's seeds: one model
MERGE, AVERAGE_MERGE = 0.8, 0.9  # of the way from the start to the trained weights; their mean forgets less
UNTUNED = ("base", "encoder")  # the start itself; a small encoder for each task, which is no arm of this model


def recipe(out: Path, name: str, seed: int, reference: str, tests: str, pre_training: bool, replay: bool) -> Row:
    """Pre-training on the communities' texts, then one comment and one rule at a time. tests: what all are asked."""
    general = {
        "encyclopedia": {"from": str(out / "data" / "replay.jsonl"), "role": "general"},
        "docstrings": {"from": "bessemer:python/docstrings", "role": "general"},
        "questions": {"from": "bessemer:python/questions", "kind": "chat", "role": "general"},
        "sums": {"from": str(out / "data" / "sums.jsonl"), "role": "general"},
    }
    texts = {"encyclopedia": 0.15, "docstrings": 0.1} if replay else {}
    old = {"encyclopedia": 0.06, "docstrings": 0.03, "sums": 0.02, "questions": 0.015} if replay else {}
    first = {
        "objective": "cpt",
        "mixture": {"texts": 1 - sum(texts.values()), **texts},
        "tokens": READ,
        "lr": 1e-4,
        "freeze": 0.5,
    }
    tune: Row = {
        "objective": "sft",
        "mixture": {"rules": 1 - sum(old.values()), **old},
        "lr": 3e-4,
        "row_tokens": 1024,  # the longest comments under two rules: a few thousand characters
        "rows": 4,
    }
    if replay:
        tune |= {
            "general": "start",
            "loss_weight": dict.fromkeys(["rules", *old], 1),
        }
    return {
        "name": name,
        "start": START,
        "seed": seed,
        "retain": 0.99,
        "merge": MERGE,
        "probe_every": 0.25,
        "checkpoint_every": 0.1,
        "sources": {
            **({"texts": {"from": f"dataset:{reference}/texts"}} if pre_training else {}),
            "rules": {"from": f"dataset:{reference}/train", "kind": "chat", "long": "drop"},
            **(general if replay else {}),
        },
        "stages": [*([first] if pre_training else []), tune],
        "probes": {
            "topics": {"from": "bessemer:python/topics", "tokens": "6k"},
            "newspaper": {"from": "bessemer:newspaper", "tokens": "4k"},
        },
        "tasks": {
            "new-rules": {"from": f"dataset:{tests}/new-rules", "metric": "auroc"},
        },
    }


def build_data(data: Path, out: Path, name: str, tests: str = "") -> Built:
    """The data set of an arm, built once; both blind baselines are printed."""
    n_labels = int(name.removeprefix("labels-")) if name.startswith("labels-") else None
    values = prepare.data_recipe(data, out, name, n_labels, tests, FEW if n_labels else FULL, PER_COMMENT)
    built = build(ModerationRecipe.model_validate(values), Screen())
    for side, facts in built.report["splits"].items():
        blind = {k: f"{v['value']:.3f}" if v else "none" for k, v in facts["blind"].items()}
        print(f"  {side}: {facts['twins']} twins; blind baselines (AUROC) {blind}")
    return built


def train(values: Row) -> str:
    screen, asked = Screen(), parse_recipe(yaml.safe_dump(values), where=values["name"])
    with stop_requests(screen.say) as stop_asked:
        start(asked, Place(), screen, stop_asked)
    return values["name"]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", type=Path, required=True)
    asked.add_argument("--out", type=Path, default=Path("community-expert"))
    asked.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the expert; other arms have the first"
    )
    asked.add_argument(
        "--arms",
        nargs="+",
        choices=[*UNTUNED, *ARMS, AVERAGE],
        default=[*list(ARMS)[:1], *UNTUNED, *list(ARMS)[1:], AVERAGE],
    )
    asked.add_argument("--answers", type=Path, help="folder of arms asked elsewhere (arms/*.json.gz of another --out)")
    options = asked.parse_args()
    if any(len(set(given)) < len(given) for given in (options.seeds, options.arms)):
        asked.error("the same seed or arm twice is one model, not two")
    if options.answers and not list(options.answers.glob("*.json.gz")):
        asked.error(f"no arms (*.json.gz) in {options.answers}")
    data, out = options.data.absolute(), options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("BESSEMER_HOME", str(out / "home"))
    quiet_libraries()
    prepare.prepare(data, out)
    expert = build_data(data, out, "expert")  # every arm is asked its held-out twins
    tests = expert.prepared.reference
    questions = dict.fromkeys([*UNTUNED, *ARMS, AVERAGE], measure.questions_digest(data, out, tests))
    questions["encoder"] = measure.tasks_digest(out)
    wanted = [(arm, seed, f"{arm}-{seed}" if arm in ARMS else arm) for arm, seed in order(options)]
    known = {name: arm for of, _, name in wanted if (arm := elsewhere(options.answers, name, questions[of]))}
    away = [name for arm, _, name in wanted if arm == "expert" and name in known]
    if away and AVERAGE not in known and (AVERAGE, 0, AVERAGE) in wanted:
        print(f"{AVERAGE}: left out, only answers of {', '.join(away)} are here, and weights are what is averaged")
        wanted.remove((AVERAGE, 0, AVERAGE))
    asked_of: dict[str, list[Row]] = {}
    for arm, seed, name in wanted:
        if name not in known:
            made, address = "", START if arm == "base" else name
            if arm == AVERAGE:
                address = average([f"expert-{seed}" for seed in options.seeds])
            elif arm in ARMS:
                dataset, pre_training, replay = ARMS[arm]
                prepared = build_data(data, out, dataset, tests).prepared
                values = recipe(out, name, seed, prepared.reference, tests, pre_training, replay)
                made = made_of(values, prepared.manifest["ingredients"], out)
                train(values)
            known[name] = (
                {"name": name, "questions": questions[arm], **encoder.answers(out, questions[arm], seed)}
                if arm == "encoder"
                else {"made": made, **ask(name, address, data, out, tests, questions[arm])}
            )
            measure.write_arm(out / "arms" / f"{name}.json.gz", known[name])
        asked_of.setdefault(arm, []).append(known[name])
        measure.need_seeds(asked_of[arm])
        show(asked_of, expert, data, out)


def made_of(values: Row, ingredients: Row, out: Path) -> str:
    """sha256 of what an arm's seeds share: the recipe but for its name and seed, and what its data is made of."""
    shared = {k: v for k, v in values.items() if k not in {"name", "seed"}}
    return sha256_text(canonical_json([shared, ingredients]).replace(str(out), "OUT"))


def elsewhere(folder: Path | None, name: str, questions: str) -> Row | None:
    """An arm's answers from another machine. All are looked at before anything is trained."""
    path = folder and folder / f"{name}.json.gz"
    if not path or not path.exists():
        return None
    print(f"{name}: answers from {path}")
    return measure.read_arm(path, questions)


def average(names: Sequence[str]) -> str:
    """The folder of the mean of these runs."""
    return merge(names[0], [AVERAGE_MERGE], Screen(), others=names[1:])["model"]


def ask(name: str, address: str, data: Path, out: Path, tests: str, questions: str) -> Row:
    """All that is measured of an arm. probes: how the losses that the run watched changed."""
    before, after = (measure.old(n, a, out, questions) for n, a in (("base", START), (name, address)))
    found = measure.answers(name, address, data, out, tests, questions)
    card = (runs_folder() / name if name != AVERAGE else Path(address).parent) / "scorecard.json"
    probes = {n: p["change"] for n, p in json.loads(card.read_text())["probes"].items()} if name != "base" else {}
    return {"name": name, "questions": questions, **found, "before": before, "old": after, "probes": probes}


def show(asked_of: Mapping[str, Sequence[Row]], expert: Built, data: Path, out: Path) -> None:
    """Write the page and result.json from what is known so far; print the replaced classifiers."""
    separate = measure.separate(out)
    arms = {arm: facts_of(models, data, out) for arm, models in asked_of.items() if arm != "encoder"}
    blind = measure.blind(expert.report, out, expert.prepared.reference)
    sections, result = list[Any](), {"arms": arms, "blind": blind}
    if "expert" in asked_of:
        seeds = asked_of["expert"]
        found = {t: measure.replaced(t, seeds, separate[t]["separate"], out) for t in prepare.TASKS}
        encoders = asked_of.get("encoder", [])
        tuned = {t: measure.replaced(t, seeds, encoders[0][t], out) for t in prepare.TASKS} if encoders else {}
        pooled = {t: measure.pooled(t, separate[t]["pooled"], out) for t in prepare.TASKS}
        sections = [page.replace_section(found, tuned, len(seeds), pooled), page.promise_section(found)]
        for key, title, compared in (("replace", "own classifier", found), ("encoder", "own encoder", tuned)):
            result |= {key: {t: one.as_dict() for t, one in compared.items()}} if compared else {}
            for task, one in compared.items():
                change = one.change["auroc"].change
                own, its = (page.shown(side["auroc"].result) for side in (one.own, one.its))
                print(f"{task}: AUROC {own}, {title} {its}, change {page.shown(change)}: {page.verdict(change)}")
    if AVERAGE in asked_of:
        found = {t: measure.replaced(t, asked_of[AVERAGE], separate[t]["separate"], out) for t in prepare.TASKS}
        result |= {AVERAGE: {t: one.as_dict() for t, one in found.items()}}
        sections += [page.average_section(found, len(asked_of["expert"]))]
    rules = measure.by_rule(asked_of["expert"][0]["twins"]["new-rules"]) if "expert" in asked_of else {}
    result |= {"new_rules": rules} if rules else {}
    sections += [page.steer_section(arms, blind, rules)] if arms else []
    few = {
        arm.removeprefix("labels-"): measure.few_labels(models[0], arm, out, expert.prepared.reference)
        for arm, models in asked_of.items()
        if arm.startswith("labels-")
    }
    sections += [page.labels_section(few, sum(FEW.values()), sum(FULL.values()))] if few else []
    if PARTS in asked_of and (left_out := asked_of.keys() & {"no-replay", "tuning-only"}):
        parts = {arm: measure.without(asked_of[arm][0], asked_of[PARTS][0], out) for arm in sorted(left_out)}
        result |= {"without": parts}
        sections += [page.parts_section(parts, PARTS)]
    sections += [page.cite_section(arms)] if arms else []
    sections += [page.keep_section(arms)] if arms.keys() - {"base"} else []
    if "expert" in asked_of:
        sections += [page.serve_section(asked_of["expert"][0]["speed"])]
    page.write_page(out / "index.html", sections)
    (out / "result.json").write_text(json.dumps(result, indent=1, default=lambda x: x.as_dict()) + "\n")
    print(f"page {out / 'index.html'}")


def facts_of(models: Sequence[Row], data: Path, out: Path) -> Row:
    """Of an arm's first seed, what the page shows beside the replaced classifiers."""
    first = models[0]
    scale, twins = measure.unlabelled_scale(first), first["twins"]
    steer = {title: measure.steered(twins[side], truth, scale) for title, (side, truth) in measure.STEERED.items()}
    steer["a policy never seen"] = measure.unseen(first["unseen"], out, scale)
    keep = {n: page.percent(Interval(c["value"], c["low"], c["high"])) for n, c in first["probes"].items()}
    if first["name"] != "base":
        keep |= {n: page.percent(d.change) for n, d in measure.changes(first["before"], first["old"]).items()}
    return {"model": first["digest"], "steer": steer, "cite": measure.cited(first["cite"], data), "keep": keep}


def order(options: argparse.Namespace) -> list[tuple[str, int]]:
    """The first seed of every arm, then the expert's others, then the average of all of them."""
    first = [(arm, options.seeds[0]) for arm in options.arms if arm != AVERAGE]
    others = [("expert", seed) for seed in options.seeds[1:] if "expert" in options.arms]
    return first + others + [(AVERAGE, 0) for _ in others[:1] if AVERAGE in options.arms]


if __name__ == "__main__":
    try:
        main()
    except StoppedByUserError as stopped:  # Ctrl-C while an arm is trained
        print(f"error: {stopped}", file=sys.stderr)
        sys.exit(stopped.exit_code)
