"""The three poor choices, and starting early: what does a user's own data do to a model, and what does it cost?

    python examples/three_poor_choices/run.py [--family nano-1m] [--out FOLDER]

A family is grown first (`bessemer families grow`), so that every stage of it and all that it was fed are known. The
user's data are short comments, far from the documentation that the family knows. A contest trains every arm on the same
domain tokens, tries three rates for each, and measures three seeds on a sealed part. Then: the share of replay at every
stage, training from scratch until it is as good, and the chat vector. About an hour on two cores; it goes on after a
kill.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))
DOMAIN = 150_000  # tokens of the user's data that every arm reads
EARLY, TUNE = 260_000, 80_000  # tokens of an arm's two stages: half domain, half the family's; a quarter and the rest
SHARES = (0.0, 0.01, 0.05, 0.25)
SCRATCH = (1, 2, 4, 8, 16)  # times the domain tokens
N_COMMENTS, N_PIECES, N_QUESTIONS = 1500, 300, 390
PIECE = 1200  # characters of a page that are one item
Row = dict[str, Any]


def write_jsonl(path: Path, rows: list[Row]) -> str:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    return str(path)


def letters(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


def write_task(folder: Path, name: str, kind: str, rows: list[Row], **more: Any) -> Path:
    write_jsonl(folder / f"{name}.jsonl", rows)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, "kind": kind, "items": f"{name}.jsonl", **more}, sort_keys=False))
    return path


def prepare_data(folder: Path) -> None:
    """The user's data, and what is measured: comments (sealed), documentation, questions."""
    from bessemer.data.builtin import comments, library_docs, python_text
    from bessemer.evaluate import seal
    from bessemer.evaluate.tasks import load_task

    rng = random.Random(0)
    train = [{"id": i.id, "text": i.text} for i in comments.domain_documents()]
    rng.shuffle(train)
    domain, rest = train[:5000], train[5000:]
    known = {letters(r["text"]) for r in domain}  # some comments stand there twice, in other spelling
    write_jsonl(folder / "domain.jsonl", domain)
    write_jsonl(folder / "probe.jsonl", [r for r in rest if letters(r["text"]) not in known][:400])
    test = [{"id": i, "text": text} for i, text in comments.domain_comments(test=True)]
    rng.shuffle(test)
    task = load_task(write_task(folder, "comments", "perplexity", test[:N_COMMENTS], overlap_limit=0.05))
    if "comments" not in seal.names():
        seal.create("comments", task.rows(), task.spec(), share=0.7, seed=0, by="example")
    pieces = [
        {"id": f"{page.id}:{at}", "group": page.id, "text": page.text[at : at + PIECE]}
        for page in library_docs.read("held-out")
        for at in range(0, len(page.text) - PIECE // 2, PIECE)
    ]
    # Pages of one library share phrases; the pages themselves were never trained on.
    write_task(folder, "docs", "perplexity", rng.sample(pieces, N_PIECES), overlap_limit=0.6)
    questions = [(i.id, *(m.content for m in i.messages)) for i in python_text.questions(held_out=True)]
    answers = [a for _, _, a in questions]
    rows = [
        {
            "id": id_,
            "messages": [{"role": "user", "content": ask}],
            "choices": [right, rng.choice([a for a in answers if a != right])],
            "answer": 0,
        }
        for id_, ask, right in questions[:N_QUESTIONS]
    ]
    write_task(folder, "questions", "choice", rows, metric="accuracy")


def recipe(folder: Path, name: str, start: str, stages: list[Row]) -> Row:
    """A recipe of this example; the family's own data are sources by their stage."""
    sources = {
        "domain": {"from": str(folder / "domain.jsonl"), "max_epochs": 40},
        "mid": {"from": "family:mid", "role": "general", "max_epochs": 40},
        "post": {"from": "family:post", "role": "general", "max_epochs": 40},
    }
    used = {source for stage in stages for source in stage["mixture"]}
    return {
        "name": name,
        "start": start,
        "retain": 0.51,
        "sources": {k: v for k, v in sources.items() if k in used},
        "stages": stages,
        "probes": {"docs": {"from": "bessemer:docs/held-out", "tokens": "8k"}},
        "tasks": {"comments": {"from": str(folder / "probe.jsonl"), "metric": "bits_per_byte"}},
        "probe_every": 1.0,
        "checkpoint_every": 1.0,
    }


def stage(mixture: Row, tokens: int, **more: Any) -> Row:
    objective = "sft" if "post" in mixture else "cpt"
    return {"objective": objective, "mixture": mixture, "tokens": tokens, "row_tokens": 256, "rows": 16, **more}


def arms(family: str, scratch: str) -> dict[str, tuple[str, list[Row], tuple[float, ...]]]:
    """{arm: (start, stages, rates of the first stage that are tried)}."""
    domain = [stage({"domain": 1.0}, DOMAIN)]
    mixed = [
        stage({"domain": 0.5, "mid": 0.5}, EARLY),
        stage({"domain": 0.25, "post": 0.75}, TUNE, lr=1e-3),
    ]
    rates, adapter_rates, early_rates = (1e-3, 3e-3, 1e-2), (3e-3, 1e-2, 3e-2), (3e-3, 6e-3, 1.2e-2)
    adapter = [stage({"domain": 1.0}, DOMAIN, method="lora", rank=16)]
    return {
        "a-adapter": (f"{family}@post", adapter, adapter_rates),
        "b-full": (f"{family}@post", domain, rates),
        "b-full-longer": (f"{family}@post", [stage({"domain": 1.0}, EARLY + TUNE)], rates),
        "c-scratch": (scratch, domain, rates),
        "d-pre": (f"{family}@pre", mixed, early_rates),
        "d-mid": (f"{family}@mid", mixed, rates),
        "e-post-mixed": (f"{family}@post", mixed, rates),  # is it the early start, or the family's own data?
    }


def write_contest(folder: Path, family: str, scratch: str) -> Path:
    contestants: Row = {}
    for name, (start, stages, rates) in arms(family, scratch).items():
        values = recipe(folder, name, start, stages)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        contestants[name] = {"recipe": f"{name}.yaml", "trials": [[f"stages[0].lr={rate}"] for rate in rates]}
    contest = {
        "name": "choices",
        "tasks": ["seal:comments"],
        "keep": [str(folder / "docs.yaml")],
        "data": {"domain": str(folder / "domain.jsonl"), "mid": "family:mid", "post": "family:post"},
        "budget": {"tokens": 5 * (EARLY + TUNE) + 100_000},
        "seeds": [1, 2, 3],
        "contestants": contestants,
    }
    path = folder / "contest.yaml"
    path.write_text(yaml.safe_dump(contest, sort_keys=False))
    return path


class Bench:
    """Runs recipes and measures models on the three tasks, each once."""

    def __init__(self, folder: Path) -> None:
        from bessemer.evaluate.card import GAIN, KEEP
        from bessemer.examine import find_task
        from bessemer.track.screen import Screen

        self.folder, self.screen = folder, Screen()
        self.tasks = [find_task("seal:comments/public", GAIN)]
        self.tasks += [find_task(str(folder / f"{name}.yaml"), KEEP) for name in ("docs", "questions")]
        self.kept = folder / "measured.json"
        self.known: Row = json.loads(self.kept.read_text()) if self.kept.exists() else {}

    def run(self, values: Row) -> str:
        from bessemer.launch.place import Place
        from bessemer.launch.start import start
        from bessemer.recipe.load import parse_recipe

        start(parse_recipe(yaml.safe_dump(values), where=values["name"]), Place(), self.screen, lambda: False)
        return values["name"]

    def measure(self, name: str) -> Row:
        """{task: {value, low, high}} of a run, a checkpoint or a folder: bits per byte of the public part of the
        comments, of the documentation, and of the right answers to questions."""
        from bessemer.evaluate import stats
        from bessemer.evaluate.metrics import METRICS
        from bessemer.examine import ask, find_subject

        if name not in self.known:
            found = ask(find_subject(name), self.tasks, self.screen, by="example")
            self.known[name] = {
                task.name.removesuffix("-public"): stats.estimate(
                    METRICS["bits_per_byte"], as_bits(found[task.name].columns)
                ).result.as_dict()
                for task in self.tasks
            }
            self.kept.write_text(json.dumps(self.known, indent=1))
        return self.known[name]


def as_bits(columns: Any) -> Any:
    """What the right answers cost, from a task with choices."""
    from bessemer.evaluate.metrics import Columns

    if columns.kind == "perplexity":
        return columns
    right = range(len(columns.ids)), columns.values["gold"]
    bits = {"bits": -columns.values["logprob"][right] / math.log(2), "bytes": columns.values["bytes"][right]}
    return Columns("perplexity", columns.ids, columns.groups, columns.slices, bits)


def replay_grid(bench: Bench, family: str, lr: Row) -> list[Row]:
    """The share of the family's own data at each stage, at equal domain tokens."""
    rows: list[Row] = []
    for start, rate in lr.items():
        for share in SHARES:
            mixture = {"domain": 1 - share, **({"mid": share} if share else {})}
            values = recipe(
                bench.folder,
                f"replay-{start}-{round(100 * share)}",
                f"{family}@{start}",
                [stage(mixture, round(DOMAIN / (1 - share)), lr=rate)],
            )
            rows.append({"start": start, "share": share, "lr": rate, **bench.measure(bench.run(values))})
    return rows


def scratch_curve(bench: Bench, scratch: str, lr: float, wanted: float) -> list[Row]:
    """From scratch on the domain until it is as good as `wanted`, or the largest number of tokens."""
    rows: list[Row] = []
    for times in SCRATCH:
        values = recipe(bench.folder, f"scratch-{times}x", scratch, [stage({"domain": 1.0}, times * DOMAIN, lr=lr)])
        rows.append({"tokens": times * DOMAIN, **bench.measure(bench.run(values))})
        if rows[-1]["comments"]["value"] <= wanted:
            break
    return rows


def restore_chat(bench: Bench, family: str, lr: float) -> Row:
    """After an early start: tuned on the family's own conversations, or the difference post - mid added."""
    from bessemer.merging import merge
    from bessemer.track.runs import runs_folder

    before = recipe(bench.folder, "early", f"{family}@pre", [stage({"domain": 0.5, "mid": 0.5}, EARLY, lr=lr)])
    post = stage({"post": 1.0}, TUNE, lr=1e-3)
    tuned = recipe(bench.folder, "early-tuned", f"{family}@pre", [*before["stages"], post])
    found: Row = {"not tuned": bench.measure(bench.run(before)), "tuned": bench.measure(bench.run(tuned))}
    merge("early", (0.5, 1.0), bench.screen, add=(f"{family}@post", f"{family}@mid"))
    for model in sorted((runs_folder() / "early" / "merge").glob("add-*/*/model")):
        found[f"chat vector x {float(model.parent.name):g}"] = bench.measure(str(model))
    return found


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--family", default="nano-1m")
    asked.add_argument("--out", type=Path, default=Path("three-poor-choices"))
    options = asked.parse_args()
    folder: Path = options.out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("BESSEMER_HOME", str(folder / "home"))
    import show

    from bessemer.contest import run_contest
    from bessemer.families import catalogue
    from bessemer.growing import grow
    from bessemer.launch.here import quiet_libraries
    from bessemer.launch.place import Place
    from bessemer.track.screen import Screen

    quiet_libraries()
    family: str = options.family
    if not (catalogue.private_folder() / f"{family}.yaml").exists():
        grow(family, Screen())
    scratch = str(catalogue.private_folder() / family / "start")
    prepare_data(folder)
    made = folder / "contest.json"
    if not made.exists():
        contest = run_contest(write_contest(folder, family, scratch), Place(), Screen(), lambda: False, by="example")
        made.write_text((contest / "contest.json").read_text())
    card = json.loads(made.read_text())
    bench = Bench(folder)
    starts = {name: bench.measure(f"{family}@{name}") for name in ("pre", "mid", "post")}
    best = {e["name"]: show.best_rate(folder, e) for e in card["entrants"]}
    lr = {"pre": best["d-pre"], "mid": best["d-mid"], "post": best["b-full"]}
    values = {s["name"]: s["result"]["value"] for s in card["tasks"]["comments"]["standings"]}
    found = {
        "family": family,
        "starts": starts,
        "rates": best,
        "arms": {e["name"]: bench.measure(e["models"][0]["name"]) for e in card["entrants"]},
        "replay": replay_grid(bench, family, lr),
        "scratch": scratch_curve(bench, scratch, best["c-scratch"], min(values["d-pre"], values["b-full"])),
        "chat": restore_chat(bench, family, best["d-pre"]),
    }
    (folder / "result.json").write_text(json.dumps(found, indent=2) + "\n")
    show.show(folder, card, found)


if __name__ == "__main__":
    main()
