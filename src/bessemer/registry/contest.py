"""A contest as a folder that anyone can check: the same papers as an evaluation's, and a table over all contestants.

contest.json     who competed, what they spent, standings as ranges, who is on the front, every submission
page.html        the same to look at
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.evaluate import seal, stats
from bessemer.evaluate.card import GAIN, KEEP, order_fault, primary_metric
from bessemer.evaluate.result import TaskResult, judge_controls
from bessemer.evaluate.standings import front, standings
from bessemer.files import exclusive, home, new_folder, read_json, tell, write_json, write_text
from bessemer.registry.contest_page import build_contest_page
from bessemer.registry.papers import (
    RESTORE,
    check_papers,
    check_seal,
    compare,
    find_papers,
    finish_papers,
    need_models,
    next_folder,
    read_results,
    write_papers,
)

FORMAT = "bessemer.contest/1"
CARD, PAGE = "contest.json", "page.html"
FACTS = ("created", "by", "code", "contest")
KEPT = ("name", "division", "models", "base", "trials", "tokens", "flops", "seconds")  # of an entrant, as they are
Results = dict[str, list[TaskResult]]  # task -> one result for each seed


@dataclass(frozen=True)
class Contested:
    """A task of a contest. seal: facts of the seal, empty for an open task."""

    name: str
    role: str
    spec: Mapping[str, Any]
    seal: Mapping[str, Any]


@dataclass(frozen=True)
class Entrant:
    """A contestant that was measured. before: its base's results; empty for an endpoint. tokens, flops, seconds: of
    everything that it trained."""

    name: str
    division: str
    models: Sequence[Mapping[str, Any]]
    base: Mapping[str, Any] | None
    before: Results
    after: Results
    trials: Sequence[Mapping[str, Any]]
    tokens: int
    flops: float
    seconds: float


def contests_folder() -> Path:
    return home() / "contests"


def names() -> list[str]:
    """The contests here, sorted, without reading any."""
    return sorted(p.parent.name for p in contests_folder().glob(f"*/{CARD}"))


def write_contest(
    contest: Mapping[str, Any], tasks: Sequence[Contested], entrants: Sequence[Entrant], *, created: str, by: str
) -> Path:
    """Compute the card and write the folder `NAME-N`, whole or not at all."""
    facts = {"created": created, "by": by, "code": seal.code_digests(), "contest": dict(contest)}
    card = build_contest(facts, tasks, entrants)
    root = contests_folder()
    with exclusive(root / ".lock", "the list of contests", wait=tell):
        folder = next_folder(root, contest["name"])
        with new_folder(folder) as tmp:
            results = [r for e in entrants for side in (e.before, e.after) for rs in side.values() for r in rs]
            write_papers(tmp, results, {t.seal["name"]: t.seal["head"] for t in tasks if t.seal})
            write_json(tmp / CARD, card)
            write_text(tmp / PAGE, build_contest_page(card))
            finish_papers(tmp)
    return folder


def is_contest(path: Path) -> bool:
    """Whether a path is a contest's folder or card."""
    return path.name == CARD or (path / CARD).is_file()


def find_contest(name: str) -> Path:
    """The folder of a contest: a path to it or to its card, or its name in our home. Raises BessemerError."""
    return find_papers(name, contests_folder(), CARD, "contest")


def verify_contest(folder: Path, *, head: str = "") -> dict[str, Any]:
    """Check a contest from its folder alone and return its card. Raises BessemerError for the first fault."""
    with seal.from_anyone(folder, "a contest", RESTORE):
        check_papers(folder, CARD, head)
        card = read_json(folder / CARD)
        if card["format"] != FORMAT:
            raise BessemerError(f"format {card['format']!r} is not read here", where=CARD, fix=f"use {FORMAT}")
        tasks = [Contested(name, t["role"], t["spec"], t["seal"]) for name, t in card["tasks"].items()]
        entrants = [_read_entrant(folder, e) for e in card["entrants"]]
        for entrant in entrants:
            models, base = [m["digest"] for m in entrant.models], (entrant.base or {}).get("digest")
            for results in entrant.after.values():
                need_models(entrant.name, results, models)
            for results in entrant.before.values():
                need_models(entrant.name, results, [base] * len(results))
        for task in (t for t in tasks if t.seal):
            mine = [r for e in entrants for side in (e.before, e.after) for r in side.get(task.name, [])]
            check_seal(folder, task.seal, task.spec, mine)
        compare(card, build_contest({key: card[key] for key in FACTS}, tasks, entrants), folder / CARD)
    return card


def _read_entrant(folder: Path, entrant: Mapping[str, Any]) -> Entrant:
    def read(side: str) -> Results:
        return {task: read_results(folder, digests) for task, digests in entrant["results"][side].items()}

    kept: dict[str, Any] = {key: entrant[key] for key in KEPT}
    return Entrant(before=read("before"), after=read("after"), **kept)


# -- the card -----------------------------------------------------------------------------------------------


def build_contest(facts: Mapping[str, Any], tasks: Sequence[Contested], entrants: Sequence[Entrant]) -> dict[str, Any]:
    """A pure function of its arguments, as an evaluation's card is."""
    first = next(t for t in tasks if t.role == GAIN)
    kept = [t for t in tasks if t.role == KEEP]
    rows = [_entrant(e, first, tasks, kept) for e in entrants]
    points = {
        row["name"]: (row["gain"]["value"], row["forgotten"]["value"])
        for row in rows
        if row["gain"] and row["forgotten"]
    }
    return {
        "format": FORMAT,
        **facts,
        "tasks": {t.name: _task(t, entrants) for t in tasks},
        "entrants": rows,
        "front": front(points),
    }


def _task(task: Contested, entrants: Sequence[Entrant]) -> dict[str, Any]:
    metric, spec = primary_metric(task.spec), task.spec
    sides = {e.name: [r.columns for r in e.after[task.name]] for e in entrants if task.name in e.after}
    placed, pairs = standings(metric, sides, margin=spec["smallest_effect"], alpha=spec["alpha"])
    return {
        "role": task.role,
        "spec": dict(spec),
        "seal": dict(task.seal),
        "primary": metric.name,
        "higher_is_better": metric.higher_is_better,
        "standings": [s.as_dict() for s in placed],
        "pairs": [p.as_dict() for p in pairs],
    }


def _entrant(
    entrant: Entrant, first: Contested, tasks: Sequence[Contested], kept: Sequence[Contested]
) -> dict[str, Any]:
    gain = _change(entrant, first)
    row: dict[str, Any] = {
        **{key: getattr(entrant, key) for key in KEPT},
        "results": {
            side: {task: [r.digest for r in results] for task, results in getattr(entrant, side).items()}
            for side in ("before", "after")
        },
        "gain": gain,
        "forgotten": _forgotten(entrant, kept),
        "faults": _faults(entrant, tasks),
    }
    better = gain["value"] if gain else 0.0
    row["flops_per_point"] = round(entrant.flops / (100 * better)) if better > 0 and entrant.flops else None
    return row


def _change(entrant: Entrant, task: Contested) -> dict[str, Any] | None:
    """What it gained over its base on the task that decides; positive is better. None without a base."""
    if not entrant.before:
        return None
    metric = primary_metric(task.spec)
    sides = [[r.columns for r in side[task.name]] for side in (entrant.before, entrant.after)]
    found = stats.difference(
        metric,
        *sides,
        margin=task.spec["smallest_effect"],
        alpha=task.spec["alpha"],
        relative=metric.name == "bits_per_byte",
        permutations=0,
    )
    change = found.change
    if not metric.higher_is_better:
        change = stats.Interval(-change.value, -change.high, -change.low)
    return {"task": task.name, **change.as_dict()}


def _forgotten(entrant: Entrant, kept: Sequence[Contested]) -> dict[str, Any] | None:
    """The worst loss among the tasks where nothing may be lost; positive is worse. None when there are none."""
    losses = [c for task in kept if task.name in entrant.after and (c := _change(entrant, task))]
    if not losses:
        return None
    worst = min(losses, key=lambda c: c["value"])
    return {"task": worst["task"], "value": -worst["value"], "low": -worst["high"], "high": -worst["low"]}


def _faults(entrant: Entrant, tasks: Sequence[Contested]) -> list[str]:
    """Why its numbers may not count: overlap with what it was fed, controls that it knows, a seal that came late."""
    found: list[str] = []
    for task in (t for t in tasks if t.seal and t.name in entrant.after):
        found += [fault for model in entrant.models if entrant.base and (fault := order_fault(task.seal, model))]
        for result in entrant.after[task.name]:
            if entrant.base and not result.fed.known:
                found.append(f"{task.name}: nothing is known of what it was fed")
            n_hit = int((~result.clean()).sum())
            if n_hit > task.spec["overlap_limit"] * len(result.columns):
                found.append(f"{task.name}: {n_hit} of {len(result.columns)} items were fed to it")
            if result.leaked:
                found.append(f"{task.name}: {len(result.leaked)} canaries were fed to it")
            if (controls := judge_controls(result)) and controls["seen"]:
                found.append(f"{task.name}: right on {controls['right']:g} of {controls['n']} coin flips")
    return list(dict.fromkeys(found))
