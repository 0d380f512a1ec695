"""Which documents were in a step, and which runs and releases saw a document: from the arithmetic, with no log.

A run's plan names its token sets. The functions that fed the training say again what it was fed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bessemer.data.batch import StageData
from bessemer.data.shards import TokenSet, open_tokens
from bessemer.data.stage import build_stage
from bessemer.errors import BessemerError
from bessemer.families.catalogue import STAGES
from bessemer.files import read_json
from bessemer.recipe.schema import Recipe
from bessemer.registry import store
from bessemer.signatures import MANIFEST
from bessemer.track.metrics import read_metrics
from bessemer.track.runs import DONE, METRICS, PLAN, runs_folder

SAME_VERSION = "use the version of Bessemer that made the plan"
SAME_ORDER = "bessemer.plan/1"  # then every stage read a source from the same beginning


@dataclass(frozen=True)
class Fed:
    """A piece of a document in a row of a step."""

    row: int  # of the step, from 0
    source: str
    id: str
    epoch: int
    start: int  # its first token in the document
    tokens: int
    excerpt: str


@dataclass(frozen=True)
class Seen:
    """A run or release that was fed a document, and when."""

    what: str  # run NAME, release NAME@VERSION
    stage: str
    source: str
    steps: tuple[int, ...]  # from 1; empty: it was in the source but not in a step that was done
    of: int  # steps that were done


def trace_step(run: str, step: int, stage: str | None = None) -> tuple[str, list[Fed]]:
    """(stage, every document in its step `step`, counted from 1). stage: its name; without it the run's last.

    Raises BessemerError for an unknown run, stage or step, and when a token set is gone.
    """
    plan = _plan(run)
    names = [s["name"] for s in plan["stages"]]
    name = stage or names[-1]
    if name not in names:
        raise BessemerError(f"no stage {name!r}", where=run, fix=f"--stage {' | '.join(names)}")
    data = _stage_data(plan, names.index(name))
    if not 1 <= step <= data.n_steps:
        raise BessemerError(f"no step {step}: the stage has 1 to {data.n_steps}", where=f"{run} {name}")
    sources = {s.name: s for s in data.sources}
    fed: list[Fed] = []
    for row in range(data.rows_per_step):
        pick = data.mixture[(step - 1) * data.rows_per_step + row]
        source = sources[pick.source]
        for item, start, tokens in source.packed.row(pick.row):
            about = source.tokens.about(item)
            fed.append(Fed(row, pick.source, about["id"], pick.epoch, start, tokens, about["excerpt"]))
    return name, fed


def trace_document(document: str) -> tuple[list[Seen], list[str]]:
    """(runs and releases whose sources hold the document, what could not be looked at and why)."""
    seen: list[Seen] = []
    gone: list[str] = []
    for what, read in _trained():
        try:
            plan, done = read()
        except (BessemerError, OSError) as error:
            gone.append(f"{what}: {_why(error)}")
            continue
        for n, stage in enumerate(plan["stages"]):
            try:
                seen += _in_stage(what, document, plan, n, done.get(stage["name"], 0))
            except (BessemerError, OSError) as error:
                gone.append(f"{what}, {stage['name']}: {_why(error)}")
    return seen, gone


def _why(error: BessemerError | OSError) -> str:
    return f"{error.what} ({error.where})" if isinstance(error, BessemerError) else str(error)


def _in_stage(what: str, document: str, plan: dict[str, Any], n: int, done: int) -> Iterator[Seen]:
    names = {name: open_tokens(plan["token_sets"][name]).find(document) for name in plan["stages"][n]["sources"]}
    if not any(names.values()):
        return
    data = _stage_data(plan, n)
    for source in data.sources:
        for item in names[source.name]:
            places = (
                k
                for row in source.packed.rows_of(item)
                for k in data.mixture.places(source.name, row, done * data.rows_per_step)
            )
            steps = sorted({k // data.rows_per_step + 1 for k in places})
            yield Seen(what, plan["stages"][n]["name"], source.name, tuple(steps), done)


AVERAGED = "averaged.json"  # beside models that are the mean of several runs: the others


@dataclass(frozen=True)
class Training:
    """What weights went through. folder: of the run or release whose plan it is. done: {stage: steps}."""

    folder: Path
    plan: dict[str, Any]
    done: dict[str, int]


def trainings(run: str) -> list[Training]:
    """Those of a run or release (name@version), the last one first, then those of what it was averaged with and of what
    it started from, where that was made by Bessemer and its folder is still there.

    Raises BessemerError when there is no such run, or what it was averaged with is gone.
    """
    plan, folder = _plan(run), _folder(run)
    found: list[Training] = []
    left = [Training(folder, plan, _all_steps(plan) if "@" in run else _steps_done(folder))]
    while left:
        one = left.pop(0)
        if one.folder in {t.folder for t in found}:
            continue  # not for ever, where two runs began again from each other
        found.append(one)
        left += _averaged_with(one.folder)
        left += _of_start(one.plan)
    return found


def _averaged_with(folder: Path) -> list[Training]:
    """Of a release whose weights are the mean of several runs': the others."""
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).exists() else {}
    return _others(manifest.get("averaged") or [], folder)


def _others(averaged: Sequence[dict[str, Any]], folder: Path) -> list[Training]:
    found: list[Training] = []
    for other in averaged:
        path = runs_folder() / other["run"]
        plan = read_json(path / PLAN) if (path / PLAN).exists() else {}
        if plan.get("identity") != other["identity"]:
            raise BessemerError(
                f"it was averaged with the run {other['run']}, which is no longer there as it was", where=str(folder),
                fix="restore runs/NAME; without it nobody can say what the weights were trained on",
            )  # fmt: skip
        found.append(Training(path, plan, _steps_done(path)))
    return found


def _of_start(plan: dict[str, Any]) -> list[Training]:
    origin, stage = str(plan["base"].get("origin", "")), plan["base"].get("stage", "")
    if origin.startswith("family ") and origin.endswith(" of this machine"):
        folder = runs_folder() / f"grow-{plan['recipe']['start'].partition('@')[0]}"
        if not (folder / PLAN).exists():
            return []
        made = read_json(folder / PLAN)
        names = [s["name"] for s in made["stages"]][: STAGES.index(stage) + 1 if stage in STAGES else None]
        return [Training(folder, made, {name: n for name, n in _steps_done(folder).items() if name in names})]
    path = Path(origin.removeprefix("folder ")) if origin.startswith("folder ") else None
    above = [path, *list(path.parents)[:4]] if path else []  # runs/NAME/model, runs/NAME/merge/0.500/model
    folder = next((p for p in above if (p / PLAN).exists()), None)
    if folder is None:
        return []
    made = read_json(folder / PLAN)
    facts = next((p / AVERAGED for p in above if (p / AVERAGED).exists()), None)  # runs/NAME/merge/with-.../0.900/model
    others = _others(read_json(facts), facts.parent) if facts else []
    return [Training(folder, made, _all_steps(made) if folder == path else _steps_done(folder)), *others]


def consumed(found: Sequence[Training]) -> Iterator[tuple[str, str, list[int]]]:
    """(source, document id, token ids) of everything that was fed in the steps that were done, each piece once.

    Raises BessemerError when a token set is gone.
    """
    pieces: dict[tuple[str, str, int], set[tuple[int, int]]] = {}
    sets: dict[str, TokenSet] = {}
    for training in found:
        plan = training.plan
        for n, stage in enumerate(plan["stages"]):
            data = _stage_data(plan, n)
            packed = {s.name: s for s in data.sources}
            picks = (data.mixture[k] for k in range(training.done.get(stage["name"], 0) * data.rows_per_step))
            for source, row in dict.fromkeys((pick.source, pick.row) for pick in picks):
                reference = plan["token_sets"][source]
                sets[reference] = packed[source].tokens
                for item, start, length in packed[source].packed.row(row):
                    pieces.setdefault((source, reference, item), set()).add((start, start + length))
    for (source, reference, item), spans in pieces.items():
        for start, end in _joined(sorted(spans)):
            segment = sets[reference].segment(item, start, end - start)
            yield source, segment.id, segment.ids_L.tolist()


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted spans, those that touch made one: a text that was cut at a row's end is looked at whole."""
    found = [spans[0]]
    for start, end in spans[1:]:
        if start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _steps_done(folder: Path) -> dict[str, int]:
    """Of a run. A stage that is finished has done all of its steps, whatever became of the list of its events."""
    try:
        told = {e["stage"]: e["step"] for e in read_metrics(folder / METRICS) if e["event"] == "step"}
    except (KeyError, TypeError, ValueError) as error:
        raise BessemerError(f"its events are damaged ({error})", where=str(folder / METRICS)) from None
    whole = _all_steps(read_json(folder / PLAN))
    return told | {name: n for name, n in whole.items() if (folder / name / DONE).exists()}


def _all_steps(plan: dict[str, Any]) -> dict[str, int]:
    return {s["name"]: s["steps"] for s in plan["stages"]}


def _trained() -> Iterator[tuple[str, Callable[[], tuple[dict[str, Any], dict[str, int]]]]]:
    """(what, reads its plan and {stage: steps that were done}) of every run, and of every release (all of its steps).

    One that cannot be read stands in nobody else's way.
    """
    for path in sorted(runs_folder().glob(f"*/{PLAN}")):
        yield f"run {path.parent.name}", partial(_of_run, path.parent)
    for reference in store.references():
        yield f"release {reference}", partial(_of_release, reference)


def _of_run(folder: Path) -> tuple[dict[str, Any], dict[str, int]]:
    return _read_plan(folder / PLAN), _steps_done(folder)


def _of_release(reference: str) -> tuple[dict[str, Any], dict[str, int]]:
    path = store.find_release(reference).path / PLAN
    plan = _read_plan(path) if path.exists() else {"stages": []}
    return plan, _all_steps(plan)


def _folder(run: str) -> Path:
    return store.find_release(run).path if "@" in run else runs_folder() / run


def _plan(run: str) -> dict[str, Any]:
    """The plan of a run, or of a release (name@version)."""
    path = _folder(run) / PLAN
    if not path.exists():
        raise BessemerError(f"no run {run!r}", where=str(path.parent), fix="bessemer runs")
    return _read_plan(path)


def _read_plan(path: Path) -> dict[str, Any]:
    """Raises BessemerError for a file that is no plan, or one of an older version."""
    plan = read_json(path)
    stages = plan.get("stages") if isinstance(plan, dict) else None
    if not isinstance(stages, list) or not all(
        isinstance(s, dict) and {"name", "steps", "sources"} <= s.keys() for s in stages
    ):
        raise BessemerError("this is no plan", where=str(path), fix="restore it from a copy")
    if not isinstance(plan.get("token_sets"), dict):
        raise BessemerError("its plan is of an older version and names no token sets", where=str(path))
    return plan


def _stage_data(plan: dict[str, Any], n: int) -> StageData:
    try:
        recipe = Recipe.model_validate(plan["recipe"])
    except (KeyError, ValidationError):
        raise BessemerError(
            "this version of Bessemer does not understand the plan's recipe",
            where=plan["stages"][n]["name"],
            fix=SAME_VERSION,
        ) from None
    stage = recipe.stages[n]
    sets = {name: open_tokens(plan["token_sets"][name]) for name in recipe.used_by(stage)}
    order = 0 if plan.get("format") == SAME_ORDER else n
    data = build_stage(recipe, n, sets, order=order)
    for source in data.sources:
        planned = plan["stages"][n]["sources"][source.name]["digest"]
        if source.digest() != planned:
            raise BessemerError(
                f"rows of {source.name} are no longer those of the plan ({source.digest()[:12]}, not {planned[:12]})",
                where=plan["stages"][n]["name"],
                fix=SAME_VERSION,
            )
    return data
