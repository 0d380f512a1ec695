"""`bessemer merge RUN`: between the start and the trained weights, where is the best model within the budget?

With `--with OTHER` the far end is the mean of what several runs of one start changed; with `--add POST --minus BASE`
the points lie between the trained weights and those with a difference added.
Weights on the straight line from the start checkpoint (0) to the trained weights (1) are measured at several points, on
the run's own tasks and probes. A little less than all the way gives back much of what was forgotten for little of what
was learnt (Wortsman et al., arXiv 2109.01903), but not always: so it is measured. What is there is not measured again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bessemer.data.start import resolve_start
from bessemer.errors import BessemerError, StoppedByUserError
from bessemer.evaluate.measure import Measured, cut_probes, measure, need_one_precision, read_held_out
from bessemer.evaluate.scorecard import build_scorecard
from bessemer.families.fetch import Checkpoint, resolve
from bessemer.files import canonical_json, exclusive, read_json, read_record, sha256_text, write_json, write_record
from bessemer.infer.model import load
from bessemer.recipe.schema import Recipe
from bessemer.registry.lineage import AVERAGED
from bessemer.run import Plan, digest_of, need_measured, need_signer, release_model
from bessemer.stage import overlay_of
from bessemer.track.runs import DONE, PLAN, STOP, lock_path, run_folder
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


@dataclass(frozen=True)
class Added:
    """Two checkpoints whose difference is added to the trained weights: post - base of a family restores how it was
    tuned after continued pre-training of its base ("chat vector", Huang et al., arXiv 2310.04799)."""

    plus: Checkpoint
    minus: Checkpoint

    @property
    def folder(self) -> str:
        return f"add-{self.plus.digest[:8]}-{self.minus.digest[:8]}"

    def as_dict(self) -> dict[str, str]:
        sides = {"plus": self.plus, "minus": self.minus}
        return {side: f"{c.name} ({c.digest})" for side, c in sides.items()}


@dataclass(frozen=True)
class Others:
    """Further runs of the same start whose trained weights are averaged with the run's. Trainings that differ in their
    seed (or a little in their recipe) learn the same and forget each in its own way, which the mean takes out
    (Wortsman et al., arXiv 2203.05482)."""

    facts: list[dict[str, Any]]  # run, identity of its plan, weights_sha256, tokens: as a release's manifest has them
    overlays: list[Path]

    @property
    def folder(self) -> str:
        return f"with-{sha256_text(canonical_json([f['weights_sha256'] for f in self.facts]))[:16]}"


def _others(run: str, plan: Plan, names: Sequence[str]) -> Others:
    """Raises BessemerError for a run that is named twice, is not trained, or began with another start."""
    if len({run, *names}) <= len(names):
        raise BessemerError("a run stands twice", where=f"--with {' '.join(names)}", fix="name each one once")
    found = Others([], [])
    for name in sorted(names):
        folder = run_folder(name)
        other: Plan = read_json(folder / PLAN)
        _need_trained(name, folder, other)
        if other["base"]["digest"] != plan["base"]["digest"]:
            raise BessemerError(
                f"it began with {other['base']['name']}, {run} with {plan['base']['name']}",
                where=f"--with {name}",
                fix="what two starts learnt cannot be averaged",
            )
        found.overlays.append(overlay_of(folder, other, len(other["stages"])))
        tokens = {s["name"]: s["tokens"] for s in other["stages"]}
        weights = read_json(folder / other["stages"][-1]["name"] / DONE)["weights_sha256"]
        found.facts.append({"run": name, "identity": other["identity"], "weights_sha256": weights, "tokens": tokens})
    return found


def _need_trained(run: str, folder: Path, plan: Plan) -> None:
    if left := [s["name"] for s in plan["stages"] if not (folder / s["name"] / DONE).exists()]:
        raise BessemerError(f"{', '.join(left)} is not trained yet", where=f"run {run}", fix="bessemer run RECIPE")


def merge(
    run: str,
    shares: Sequence[float],
    screen: Screen,
    *,
    add: tuple[str, str] | None = None,
    others: Sequence[str] = (),
    release: bool = False,
) -> dict[str, Any]:
    """Measure points, choose the best one within the budget, and (with `release`) release it if its verdict is SHIP.

    add: (plus, minus), two starts. The points then are how much of their difference is added to the run's weights.
    others: runs whose trained weights are averaged with the run's.
    Raises BessemerError for a run that has not finished training, a share outside 0..1, checkpoints of another kind, or
    runs of another start.
    """
    folder = run_folder(run)
    if bad := [s for s in shares if not 0 < s <= 1]:
        raise BessemerError(f"{bad[0]:g} is no share of the way", where="--at", fix="above 0, at most 1")
    if fine := [s for s in shares if round(s, 3) != s]:
        raise BessemerError(f"{fine[0]} is finer than a thousandth of the way", where="--at", fix=f"{fine[0]:.3f}")
    if release:
        need_signer(folder)
    added = Added(resolve(add[0]), resolve(add[1])) if add else None
    with ExitStack() as held:
        for name in sorted({run, *others}):  # what is averaged must not begin again meanwhile
            run_folder(name)
            held.enter_context(exclusive(lock_path(name), f"the run {name}"))
        (folder / STOP).unlink(missing_ok=True)  # `runs stop` asks for one from now on
        plan: Plan = read_json(folder / PLAN)
        recipe = Recipe.model_validate(plan["recipe"])
        _need_trained(run, folder, plan)
        more = added or (_others(run, plan, others) if others else None)
        if isinstance(more, Others):  # for runs that start from such a point: what it was fed is looked for in all
            write_json(folder / "merge" / more.folder / AVERAGED, more.facts)
        points = [_measured(folder, plan, recipe, share, more, screen) for share in sorted(set(shares))]
        best = choose(points)
        found: dict[str, Any] = {
            "run": run,
            "retain": recipe.retain,
            "task": next(iter(recipe.tasks)),
            "added": added.as_dict() if added else None,
            "averaged": more.facts if isinstance(more, Others) else None,
            "points": [p.as_dict() for p in points],
            "best": best.share,
            "model": str(model_at(folder, best.share, more)),
            "release": None,
        }
        if release and best.card["verdict"]["word"] == "SHIP":
            model = model_at(folder, best.share, more)
            facts: dict[str, Any] = {"added": {**added.as_dict(), "scale": best.share}} if added else {}
            facts |= {"averaged": more.facts} if isinstance(more, Others) else {}
            share = recipe.merge if added else best.share
            found["release"] = release_model(folder, plan, recipe, model, best.card, share, facts)
        write_json(folder / "merge" / (more.folder if more else "") / "result.json", found)
    return found


def choose(points: Sequence[Point]) -> Point:
    """The best first task among the points inside the budget; when none is, the one that forgot least."""
    kept = [p for p in points if p.kept]
    return max(kept, key=lambda p: p.value) if kept else min(points, key=lambda p: p.worst)


def model_at(folder: Path, share: float, more: Added | Others | None = None) -> Path:
    """Where the model of a point is."""
    return folder / "merge" / (more.folder if more else "") / f"{share:.3f}" / "model"


def _start(plan: Plan) -> Checkpoint:
    start = resolve_start(plan["recipe"]["start"], plan["recipe"].get("chat_template"))
    if start.digest != plan["base"]["digest"]:
        raise BessemerError("the base is no longer the one of the plan", where=plan["recipe"]["start"])
    return start


def _measured(
    folder: Path, plan: Plan, recipe: Recipe, share: float, more: Added | Others | None, screen: Screen
) -> Point:
    model = model_at(folder, share, more)
    record = model.with_name("measured.json")
    start = _start(plan)
    if not model.exists():
        with screen.step(f"merge at {share:g}"):
            overlays = [overlay_of(folder, plan, len(recipe.stages))]
            model.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(more, Added):
                export_model(start, overlays, model, recipe.merge, add=Difference(more.plus, more.minus, share))
            else:
                export_model(start, overlays + (more.overlays if more else []), model, share)
    tasks, probes = read_held_out(recipe)
    if not record.exists():
        with screen.step(f"measure at {share:g}") as advance:
            loaded = load(model, digest=digest_of(model), end_of_text=plan["base"]["end_of_text"])
            windows = cut_probes(loaded, recipe, probes)

            def progress(part: float) -> None:
                advance(part, "")
                if (folder / STOP).exists():
                    (folder / STOP).unlink(missing_ok=True)
                    raise StoppedByUserError("stopped while measuring", fix="the same command goes on")

            write_record(record, dict(measure(loaded, recipe, tasks, windows, progress)))
    before: Measured = read_record(folder / "measured" / "before.json")
    after: Measured = read_record(record)
    need_measured(model, after)
    need_one_precision(before, after, str(record))
    card = build_scorecard(recipe, before, after, tasks)
    write_json(model.with_name("scorecard.json"), card)
    first = next(iter(card["tasks"].values()))
    metric = first["metric"]
    value = first["after"][metric]["value"] * (1 if metric == "auroc" else -1)
    changes = [(p["change"]["high"], p["limit"]) for p in card["probes"].values()]
    kept = all(high <= limit for high, limit in changes)
    return Point(share, value, max(high for high, _ in changes), kept, card)
