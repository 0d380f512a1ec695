"""`bessemer merge RUN`: between the start and the trained weights, where is the best model within the budget?

Weights on the straight line from the start checkpoint (0) to the trained weights (1) are measured at several points, on
the run's own tasks and probes. A little less than all the way gives back much of what was forgotten for little of what
was learnt (Wortsman et al., arXiv 2109.01903), but not always: so it is measured. What is there is not measured again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.evaluate.measure import Measured, cut_probes, measure, read_held_out
from bessemer.evaluate.scorecard import build_scorecard
from bessemer.families.fetch import Checkpoint, resolve
from bessemer.files import exclusive, read_json, read_record, write_json, write_record
from bessemer.infer.model import load
from bessemer.recipe.schema import Recipe
from bessemer.run import Plan, release_model
from bessemer.stage import overlay_of
from bessemer.track.runs import PLAN, lock_path, run_folder
from bessemer.track.screen import Screen
from bessemer.train.export import Difference, export_model

POINTS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Point:
    """A measured point. value: of the first task, larger is better. kept: every probe is inside the budget."""

    share: float
    value: float
    worst: float  # upper end of the worst probe's change
    kept: bool
    card: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "card"} | {"verdict": self.card["verdict"]["word"]}


def merge(run: str, shares: Sequence[float], screen: Screen, *, release: bool = False) -> dict[str, Any]:
    """Measure points, choose the best one within the budget, and (with `release`) release it if its verdict is SHIP.

    Raises BessemerError for a run that has not finished training, or a share outside 0..1.
    """
    folder = run_folder(run)
    if bad := [s for s in shares if not 0 < s <= 1]:
        raise BessemerError(f"{bad[0]:g} is no share of the way", where="--at", fix="above 0, at most 1")
    with exclusive(lock_path(run), f"the run {run}"):
        plan: Plan = read_json(folder / PLAN)
        recipe = Recipe.model_validate(plan["recipe"])
        points = [_measured(folder, plan, recipe, share, screen) for share in sorted(set(shares))]
        best = choose(points)
        found: dict[str, Any] = {
            "run": run,
            "retain": recipe.retain,
            "task": next(iter(recipe.tasks)),
            "points": [p.as_dict() for p in points],
            "best": best.share,
            "release": None,
        }
        if release and best.card["verdict"]["word"] == "SHIP":
            found["release"] = release_model(folder, plan, recipe, _model(folder, best.share), best.card, best.share)
        write_json(folder / "merge" / "result.json", found)
    return found


def add_vector(run: str, plus: str, minus: str, scale: float, out: Path) -> None:
    """A run's trained weights and the difference of two checkpoints on them, as a model folder.

    post - base of a family restores how it was tuned after continued pre-training of its base ("chat vector", Huang et
    al., arXiv 2310.04799), without another training. Raises BessemerError when they do not belong together.
    """
    folder = run_folder(run)
    plan: Plan = read_json(folder / PLAN)
    difference = Difference(resolve(plus), resolve(minus), scale)
    overlay = overlay_of(folder, plan, len(plan["stages"]))
    out.parent.mkdir(parents=True, exist_ok=True)
    export_model(_start(plan), overlay, out, plan["recipe"]["merge"], add=difference)


def choose(points: Sequence[Point]) -> Point:
    """The best first task among the points inside the budget; when none is, the one that forgot least."""
    kept = [p for p in points if p.kept]
    return max(kept, key=lambda p: p.value) if kept else min(points, key=lambda p: p.worst)


def _model(folder: Path, share: float) -> Path:
    return folder / "merge" / f"{share:.3f}" / "model"


def _start(plan: Plan) -> Checkpoint:
    start = resolve(plan["recipe"]["start"])
    if start.digest != plan["base"]["digest"]:
        raise BessemerError("the base is no longer the one of the plan", where=plan["recipe"]["start"])
    return start


def _measured(folder: Path, plan: Plan, recipe: Recipe, share: float, screen: Screen) -> Point:
    model = _model(folder, share)
    record = model.with_name("measured.json")
    start = _start(plan)
    if not model.exists():
        with screen.step(f"merge at {share:g}"):
            model.parent.mkdir(parents=True, exist_ok=True)
            export_model(start, overlay_of(folder, plan, len(recipe.stages)), model, share)
    tasks, probes = read_held_out(recipe)
    if not record.exists():
        with screen.step(f"measure at {share:g}") as advance:
            loaded = load(model, digest=f"merge {share}", end_of_text=plan["base"]["end_of_text"])
            windows = cut_probes(loaded, recipe, probes)
            write_record(record, dict(measure(loaded, recipe, tasks, windows, lambda part: advance(part, ""))))
    before: Measured = read_record(folder / "measured" / "before.json")
    card = build_scorecard(recipe, before, read_record(record), tasks)
    first = next(iter(card["tasks"].values()))
    metric = first["metric"]
    value = first["after"][metric]["value"] * (1 if metric == "auroc" else -1)
    changes = [(p["change"]["high"], p["limit"]) for p in card["probes"].values()]
    kept = all(high <= limit for high, limit in changes)
    return Point(share, value, max(high for high, _ in changes), kept, card)
