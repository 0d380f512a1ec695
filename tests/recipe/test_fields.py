"""A field that changes nothing is a bug: every field of a recipe is flipped, and something must change.

A recipe is observed in four places, none of which repeats the recipe itself: the plan (digests, tokens, steps,
rates), the batches (ids and weights), a trained stage (losses, weights, probes and checkpoints by step), and the
verdict. A new field without a case here fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from bessemer.errors import BessemerError, RecipeError
from bessemer.evaluate.measure import cut_probes
from bessemer.evaluate.scorecard import build_scorecard
from bessemer.files import home, read_json, sha256_file
from bessemer.infer.model import load
from bessemer.plan.resolve import Prepared, prepare
from bessemer.recipe.load import parse_recipe
from bessemer.recipe.schema import Blend, Change, Probe, Recipe, Source, Stage, Task
from bessemer.run import _Story, make_plan
from bessemer.track.metrics import read_metrics
from bessemer.track.runs import PLAN, runs_folder
from bessemer.track.screen import Screen
from bessemer.train import checkpoint, guard
from tests.recipe.flips import Case, fields
from tests.story import write_story
from tests.tiny import CHAT_TEMPLATE, make_tiny_model

MODELS: dict[str, type[BaseModel]] = {
    "": Recipe,
    "sources": Source,
    "stages": Stage,
    "blend": Blend,
    "changes": Change,
    "probes": Probe,
    "tasks": Task,
}
Observe = Callable[[Recipe], Any]


# -- where a recipe shows -------------------------------------------------------------------------------------


def in_plan(recipe: Recipe) -> Any:
    plan = prepare(recipe).plan
    return [plan["base"]["digest"], plan["sources"], plan["held_out"], plan["stages"]]


def in_batches(recipe: Recipe) -> Any:
    data = prepare(recipe).stages
    return [(b.ids, b.tokens_N.tolist(), b.weights_N.tolist()) for d in data for b in map(d.batch, range(d.n_steps))]


def in_training(recipe: Recipe) -> Any:
    """The first stage, trained: what happened at which step, and the weights that came out."""
    saved: list[int] = []
    save = checkpoint.Writer.save

    def note(writer: checkpoint.Writer, step: int, *rest: Any) -> Any:
        saved.append(step)
        return save(writer, step, *rest)

    screen = Screen(quiet=True)
    prepared = make_plan(recipe, screen, measured=False, restart=True)
    folder = runs_folder() / recipe.name
    story = _Story(prepared, folder, screen, lambda: False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.Writer, "save", note)
        patch.setattr(guard, "LEAST_HISTORY", 4)
        story.before()
        story.train(0)
    events = [
        {k: v for k, v in e.items() if k not in {"seconds", "memory"}}
        for e in read_metrics(folder / "metrics.jsonl")
        if e["event"] != "machine"
    ]
    done = read_json(folder / prepared.plan["stages"][0]["name"] / "done.json")
    return [events, saved, done["weights_sha256"]]


def in_export(recipe: Recipe) -> Any:
    """The weights that would be released."""
    screen = Screen(quiet=True)
    prepared = make_plan(recipe, screen, measured=False, restart=True)
    folder = runs_folder() / recipe.name
    story = _Story(prepared, folder, screen, lambda: False)
    story.before()
    for n in range(len(recipe.stages)):
        story.train(n)
    story.export()
    return sha256_file(folder / "model" / "model.safetensors")


def in_verdict(recipe: Recipe) -> Any:
    """The scorecard of made-up measurements: a little learnt, a little forgotten."""
    prepared = prepare(recipe)
    before, after = (made_up(recipe, prepared, shift) for shift in (0.0, 0.02))
    return build_scorecard(recipe, before, after, prepared.tasks)["verdict"]


def made_up(recipe: Recipe, prepared: Prepared, shift: float) -> dict[str, Any]:
    bits = {
        "ids": ["a:0", "b:0"],
        "clusters": ["a", "b"],
        "bits": [100 * (1 + shift), 90 * (1 + shift)],
        "bytes": [50, 50],
    }
    tasks: dict[str, Any] = {}
    for name, task in recipe.tasks.items():
        items = prepared.tasks[name]
        labels = [i.messages[-1].content == "yes" for i in items] if task.metric == "auroc" else []
        answers = {
            "ids": [i.id for i in items],
            "clusters": [i.cluster for i in items],
            "slices": [""] * len(items),
            "options": ["yes", "no"],
            "labels": labels,
            "scores": [(0.1 if yes else -0.1) + (n % 7 - 3) * 0.1 + shift * yes for n, yes in enumerate(labels)],
        }
        tasks[name] = answers if task.metric == "auroc" else bits
    return {"tasks": tasks, "probes": dict.fromkeys(recipe.probes, bits)}


def in_probe_windows(recipe: Recipe) -> Any:
    prepared = prepare(recipe)
    return {
        k: [w.id for w in v] for k, v in cut_probes(load(prepared.checkpoint.path), recipe, prepared.probes).items()
    }


def identity(recipe: Recipe) -> Any:
    return prepare(recipe).identity


def in_quarantine(recipe: Recipe) -> Any:
    prepare(recipe)
    return [p.read_text() for p in (home() / "quarantine").glob("*.jsonl")]


def in_folder(recipe: Recipe) -> Any:
    make_plan(recipe, Screen(quiet=True), measured=False)
    return sorted(p.parent.name for p in runs_folder().glob(f"*/{PLAN}"))


# -- the cases ------------------------------------------------------------------------------------------------


CASES: dict[str, Case] = {
    "name": Case("name", "other", in_folder),
    "start": Case("start", "another-model", in_plan),
    "chat_template": Case("chat_template", "other.jinja", in_plan),
    "seed": Case("seed", 2, in_batches),
    "retain": Case("retain", 0.97, in_verdict),
    "merge": Case("merge", 0.5, in_export),
    "probe_every": Case("probe_every", 0.9, in_training),
    "checkpoint_every": Case("checkpoint_every", 0.9, in_training),
    "keep_checkpoints": Case("keep_checkpoints", "all", in_training),
    "sources.from": Case("sources.own.from", "own-other.jsonl", in_plan),
    "sources.kind": Case("sources.both.kind", "chat", in_plan),
    "sources.role": Case("sources.both.role", "general", in_plan),
    "sources.columns": Case("sources.own.columns", {"text": "body"}, in_plan),
    "sources.on_error": Case("sources.own.on_error", "quarantine", in_quarantine),
    "sources.category": Case("sources.more.category", "general", in_plan),
    "sources.weight": Case(
        "sources.more.weight",
        3,
        in_plan,
        ("sources.more.category=general", "sources.general.weight=1", "sources.more.weight=1"),
    ),
    "sources.long": Case("sources.own.long", "truncate", in_plan),
    "stages.mixture": Case("stages[0].mixture", {"own": 0.5, "general": 0.45, "refusals": 0.05}, in_plan),
    "blend.domain": Case("stages[2].blend.domain", 0.25, in_plan),
    "blend.general": Case("stages[2].blend.general", {"general": 0.9, "spares": 0.1}, in_plan),
    "blend.temperature": Case("stages[2].blend.temperature", 5, in_plan),
    "changes.at": Case("stages[2].changes[0].at", 0.7, in_batches),
    "changes.mixture": Case("stages[2].changes[0].mixture", {"own": 0.2, "general": 0.8}, in_plan),
    "changes.ramp": Case("stages[2].changes[0].ramp", 0.3, in_batches),
    "stages.tokens": Case("stages[0].tokens", 2048, in_plan),
    "stages.loss_weight": Case("stages[1].loss_weight", {"rules": 2, "both": 1}, in_batches),
    "stages.general": Case("stages[0].general", "start", in_training),
    "stages.lr": Case("stages[0].lr", 1e-3, in_training),
    "stages.warmup": Case("stages[0].warmup", 0.9, in_training),
    "stages.schedule": Case("stages[0].schedule", "constant", in_training),
    "stages.decay": Case("stages[0].decay", 0.9, in_training, ("stages[0].schedule=wsd",)),
    "stages.method": Case("stages[0].method", "lora", in_training),
    "stages.rank": Case("stages[0].rank", 2, in_training, ("stages[0].method=dora",)),
    "stages.optimizer": Case("stages[0].optimizer", "muon", in_training),
    "stages.z_loss": Case("stages[0].z_loss", 0.1, in_training),
    "stages.skip_above": Case("stages[0].skip_above", 1.0, in_training, ("stages[0].lr=1e-6",)),
    "stages.final_lr": Case("stages[0].final_lr", 0.9, in_training),
    "stages.freeze": Case("stages[0].freeze", 0.5, in_training),
    "stages.row_tokens": Case("stages[0].row_tokens", 128, in_plan),
    "stages.rows": Case("stages[0].rows", 1, in_plan),
    "stages.weight_decay": Case("stages[0].weight_decay", 0.5, in_training),
    "stages.clip": Case("stages[0].clip", 0.01, in_training),
    "probes.from": Case("probes.elsewhere.from", "own-test.jsonl", in_plan),
    "probes.tokens": Case("probes.elsewhere.tokens", 200, in_probe_windows),
    "tasks.from": Case("tasks.rules.from", "rules-other.jsonl", in_plan),
    "tasks.metric": Case("tasks.both.metric", "auroc", in_verdict),
    "tasks.at_least": Case("tasks.rules.at_least", 0.99, in_verdict),
}
# The objective follows from the kinds of the sources; a stage whose two halves contradict each other is refused.
# What a blend may drop and how much may be lost or repeated are gates: they change whether there is a plan at all.
REFUSED = {
    "stages.objective": [("stages[0].objective", "sft"), ("stages[1].objective", "cpt")],
    "blend.drop": [("stages[2].blend.drop", [])],
}
REFUSED_BY_PLAN = {
    "sources.max_lost": ("sources.own.max_lost", 0, "would be dropped"),
    "sources.max_epochs": ("sources.own.max_epochs", 0.01, "would repeat source own"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Any]:
    """The tiny story, a few steps long, with files whose rows can be read in two ways."""
    folder = tmp_path_factory.mktemp("fields")
    make_tiny_model(folder / "another-model", seed=1)
    (folder / "other.jinja").write_text(
        CHAT_TEMPLATE.replace("<|im_start|>' +", "<|im_start|>turn of ' +").replace(
            "<|im_start|>assistant", "<|im_start|>turn of assistant"
        )
    )
    raw = yaml.safe_load(write_story(folder, tiny_model).read_text())
    rows = [json.loads(line) for line in (folder / "own.jsonl").read_text().splitlines()[:100]]
    rows[0]["text"] = " ".join(r["text"] for r in rows[:9])  # longer than a row of 64 tokens
    write(folder / "own.jsonl", [{**r, "body": r["text"].upper()} for r in rows])
    (folder / "own.jsonl").open("a").write("no JSON\n")  # left out: `on_error: skip`
    write(folder / "own-other.jsonl", rows[:50])
    for name in ("own-test", "rules-test"):  # little to measure: these tests are about training
        write(
            folder / f"{name}.jsonl", [json.loads(x) for x in (folder / f"{name}.jsonl").read_text().splitlines()[:12]]
        )
    raw["probes"]["elsewhere"]["tokens"] = 500
    for name in ("rules", "rules-test"):
        pairs = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        both = [{**p, "text": f"{name}: {p['prompt']}", "prompt": f"really {p['prompt']}"} for p in pairs]
        write(folder / f"{name}-both.jsonl", both)
    write(folder / "rules-other.jsonl", pairs[:10])
    raw["sources"]["both"] = {"from": str(folder / "rules-both.jsonl"), "kind": "documents"}
    raw["sources"]["own"] |= {"long": "drop", "max_lost": 1, "on_error": "skip"}
    for name, category in (("spare", "spares"), ("more", "spares"), ("refusals", "safety")):
        write(folder / f"{name}.jsonl", [{"text": f"{name} {r['text']}"} for r in rows[10:60]])
        raw["sources"][name] = {"from": str(folder / f"{name}.jsonl"), "role": "general", "category": category}
    blend = {"domain": 0.5, "general": {"spares": 0.9, "general": 0.1}, "drop": ["safety"]}
    mixture = {"own": 0.8, "general": 0.2}
    raw["stages"].append({"objective": "cpt", "blend": blend, "tokens": 1024, "row_tokens": 64, "rows": 4})
    raw["stages"][2]["changes"] = [{"at": 0.5, "mixture": mixture}]
    raw["stages"][0].update(tokens=None, mixture={"own": 0.7, "general": 0.25, "refusals": 0.05}, row_tokens=64, rows=4)
    raw["stages"][1].update(tokens=1024, mixture={"rules": 0.75, "both": 0.25}, loss_weight={"rules": 1, "both": 1})
    raw["tasks"]["both"] = {"from": str(folder / "rules-test-both.jsonl"), "metric": "bits_per_byte"}
    raw["folder"] = str(folder)
    return raw


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def recipe_of(base: dict[str, Any], change: tuple[str, Any] | None = None, given: tuple[str, ...] = ()) -> Recipe:
    raw = {k: v for k, v in base.items() if k != "folder"}
    overrides = list(given)
    if change is not None:
        path, value = change
        file = Path(base["folder"]) / str(value)
        overrides.append(f"{path}={json.dumps(str(file) if isinstance(value, str) and file.exists() else value)}")
    return parse_recipe(yaml.safe_dump(raw), overrides=overrides)


_seen: dict[Any, Any] = {}


def unflipped(base: dict[str, Any], where: Observe, given: tuple[str, ...] = ()) -> Any:
    if (where, given) not in _seen:
        _seen[where, given] = where(recipe_of(base, None, given))
    return _seen[where, given]


def test_every_field_has_a_case() -> None:
    assert fields(MODELS) == CASES.keys() | REFUSED.keys() | REFUSED_BY_PLAN.keys()


@pytest.mark.parametrize("field", CASES)
def test_a_flipped_field_changes_something(base: dict[str, Any], field: str) -> None:
    case = CASES[field]
    before = unflipped(base, case.where, case.given)
    flipped = recipe_of(base, (case.path, case.value), case.given)
    assert prepare(flipped).identity != unflipped(base, identity, case.given)
    assert case.where(flipped) != before


@pytest.mark.parametrize("where", sorted({c.where for c in CASES.values()} - {in_folder}, key=lambda w: w.__name__))
def test_the_same_recipe_shows_the_same(base: dict[str, Any], where: Observe) -> None:
    """Otherwise a change in the test above would prove nothing."""
    assert where(recipe_of(base)) == unflipped(base, where)


@pytest.mark.parametrize(("path", "value"), [case for cases in REFUSED.values() for case in cases])
def test_a_field_that_contradicts_others_is_refused(base: dict[str, Any], path: str, value: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_of(base, (path, value))
    assert path in {p.where for p in caught.value.problems}


@pytest.mark.parametrize("field", REFUSED_BY_PLAN)
def test_a_gate_that_is_closed_refuses_the_plan(base: dict[str, Any], field: str) -> None:
    path, value, said = REFUSED_BY_PLAN[field]
    with pytest.raises(BessemerError, match=said):
        prepare(recipe_of(base, (path, value)))
