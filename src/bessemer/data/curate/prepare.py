"""A data recipe -> the data set `name@version`. Read this first.

read (sources -> parts) -> clean (steps on each item) -> match (duplicates, sides) -> write. Everything happens in a
work folder named by the fingerprint of the ingredients, so a killed command continues; at the end the finished folder
is renamed to its version. The same ingredients make the same bytes, whoever makes them and with however many workers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bessemer.data.curate import feed, presidio
from bessemer.data.curate.counts import Counts
from bessemer.data.curate.decontaminate import DecontaminateStep
from bessemer.data.curate.executors import Place, run_stage
from bessemer.data.curate.match import MatchStage
from bessemer.data.curate.split import sides_of
from bessemer.data.curate.stages import CleanStage, ReadPart, ReadStage, Wanted, WriteStage, read_record
from bessemer.data.curate.steps import LanguageStep, PiiStep, QualityStep, RepairStep, Step, languages
from bessemer.data.curate.texts import TOKEN_RULE
from bessemer.errors import BessemerError, Problem, RecipeError
from bessemer.files import (
    canonical_json,
    digest_files,
    exclusive,
    fsync_folder,
    home,
    read_json,
    sha256_text,
    write_json,
)
from bessemer.recipe.data_recipe import DataRecipe, NearDuplicates
from bessemer.track.screen import Screen

FORMAT = "bessemer-dataset-1"
MANIFEST = "manifest.json"
RULES = 3  # the meaning of the steps; a change here makes new versions


@dataclass(frozen=True)
class Prepared:
    """A finished data set. new: whether this call made it."""

    folder: Path
    manifest: dict[str, Any]
    new: bool

    @property
    def reference(self) -> str:
        return f"{self.manifest['name']}@{self.manifest['version']}"


def datasets_folder() -> Path:
    return home() / "datasets"


def prepare(recipe: DataRecipe, screen: Screen, *, on: str = "local", workers: int | None = None) -> Prepared:
    """Make the data set that the recipe asks for, or find it made. Raises BessemerError or RecipeError."""
    place = Place.parse(on, workers)
    _check_languages(recipe)
    shelf = datasets_folder() / recipe.name
    with exclusive(shelf / ".lock", f"data set {recipe.name}"):
        with screen.step("sources looked at"):
            ingredients = ingredients_of(recipe)
        fingerprint = sha256_text(canonical_json(ingredients))
        made = versions(shelf)
        for old in made:
            if old.manifest["fingerprint"] == fingerprint:
                screen.say(f"{old.reference} is made of exactly this; nothing to do")
                return old
        if made:
            for line in changes(made[-1].manifest["ingredients"], ingredients):
                screen.say(f"changed since {made[-1].reference}: {line}")
        number = int(made[-1].manifest["version"]) + 1 if made else 1
        work = shelf / f".work-{fingerprint[:16]}"
        records = _run_stages(recipe, work, place, screen)
        if canonical_json(ingredients_of(recipe)) != canonical_json(ingredients):
            shutil.rmtree(work, ignore_errors=True)
            raise BessemerError(
                "a source changed while it was read", where=recipe.name, fix="run it again when nobody writes to it"
            )
        out = work / "out"
        manifest = _finish(recipe, out, records, ingredients, fingerprint, str(number))
        out.rename(shelf / str(number))
        fsync_folder(shelf)
        for left in shelf.glob(".work-*"):
            shutil.rmtree(left, ignore_errors=True)
        return Prepared(shelf / str(number), manifest, new=True)


def versions(shelf: Path) -> list[Prepared]:
    """The finished versions of a data set, oldest first."""
    numbers = sorted(int(p.name) for p in shelf.iterdir() if p.name.isdigit()) if shelf.is_dir() else []
    return [Prepared(shelf / str(n), read_json(shelf / str(n) / MANIFEST), new=False) for n in numbers]


def ingredients_of(recipe: DataRecipe) -> dict[str, Any]:
    """Everything that the bytes of the data set follow from. Paths and machines are not among them."""
    evaluation = recipe.steps.decontaminate.against if recipe.steps.decontaminate else {}
    libraries = {
        "ftfy": version("ftfy") if recipe.steps.repair else "",
        "py3langid": version("py3langid") if recipe.steps.language else "",
    }
    if recipe.steps.pii and recipe.steps.pii.presidio:
        libraries |= presidio.ingredients(recipe.steps.pii.presidio)
    return {
        "sources": {k: feed.digest_of(s, f"sources.{k}") for k, s in recipe.sources.items()},
        "evaluation": {k: feed.digest_of(s, f"steps.decontaminate.against.{k}") for k, s in evaluation.items()},
        # The same items either way, but whoever asks for a quarantine wants to see one.
        "on_error": {k: s.on_error for k, s in [*recipe.sources.items(), *evaluation.items()]},
        "steps": recipe.steps.model_dump(mode="json", exclude_none=False, exclude={"decontaminate": {"against"}}),
        "split": recipe.split.model_dump(mode="json") if recipe.split else None,
        # The first of two copies stays, and the shares are cut one after the other.
        "order": [list(recipe.sources), list(recipe.split.shares) if recipe.split else []],
        "rules": RULES,
        "libraries": {k: v for k, v in libraries.items() if v},
    }


def changes(old: Any, new: Any, path: str = "") -> list[str]:
    """What differs between two trees of ingredients, a line each: `steps.quality.characters: 50 -> 20`."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in dict.fromkeys([*old, *new])
            for line in changes(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    if old == new:
        return []
    if path.split(".", maxsplit=1)[0] in {"sources", "evaluation"}:
        return [f"{path}: {'is new' if old is None else 'is gone' if new is None else 'holds other data'}"]
    return [f"{path}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    return "off" if value is None else "on" if isinstance(value, dict) else str(value)


def _check_languages(recipe: DataRecipe) -> None:
    if recipe.steps.language:
        unknown = sorted(set(recipe.steps.language.keep) - set(languages()))
        if unknown:
            problem = Problem(
                "steps.language.keep", f"no such language: {', '.join(unknown)}", "use ISO 639 codes: en, de"
            )
            raise RecipeError("data recipe", [problem])


def _run_stages(recipe: DataRecipe, work: Path, place: Place, screen: Screen) -> list[dict[str, Any]]:
    """All stages in order; returns the record of each step."""
    logs = work / "logs"
    feeds = [f for name, s in recipe.sources.items() for f in feed.feeds_of(name, s, f"sources.{name}")]
    own = len(feeds)
    decontaminate = recipe.steps.decontaminate
    if decontaminate:
        at = "steps.decontaminate.against"
        feeds += [f for name, s in decontaminate.against.items() for f in feed.feeds_of(name, s, f"{at}.{name}")]
    with screen.step(f"sources read ({len(feeds)} tasks)") as advance:
        run_stage("read", [ReadStage(work, feeds)], len(feeds), logs, place, advance)
    read = [work / "read" / f"{k:05d}" for k in range(len(feeds))]
    parts_of: dict[str, list[Path]] = {}
    for task, folder in zip(feeds, read, strict=True):
        parts_of.setdefault(task.source.where, []).extend(sorted(folder.glob("*.parquet")))
    for where, parts in parts_of.items():
        if not parts:
            raise BessemerError("no usable rows", where=where, fix="give a source with rows of this kind in it")
    for task, folder in zip(feeds[own:], read[own:], strict=True):
        for what, n in read_record(folder / "counts.json")["did"].items():
            screen.say(f"evaluation set {task.name}, which items are compared with: {n} x {what}")
    parts = [part for f in read[:own] for part in sorted(f.glob("*.parquet"))]
    evaluation: dict[str, list[Path]] = {}
    for task, folder in zip(feeds[own:], read[own:], strict=True):
        evaluation.setdefault(task.name, []).extend(sorted(folder.glob("*.parquet")))

    steps = _steps(recipe, evaluation)
    wanted = _wanted(recipe)
    with screen.step(f"items cleaned ({len(parts)} tasks)") as advance:
        pipeline = [ReadPart(parts), *steps, CleanStage(work, steps, wanted)]
        run_stage("clean", pipeline, len(parts), logs, place, advance)
    records = _merge([[read_record(f / "counts.json")] for f in read[:own]])
    records += _merge([read_record(work / "clean" / f"{k:05d}" / "record.json")["steps"] for k in range(len(parts))])
    if not records[-1]["items_out"]:
        raise BessemerError(f"nothing is left after step {records[-1]['step']!r}: {records[-1]['why']}", where="steps")

    with screen.step("duplicates looked for and sides chosen") as advance:
        stage = MatchStage(work, len(parts), wanted, recipe.steps.near_duplicates)
        run_stage("match", [stage], 1, logs, place, advance)
    records += read_record(work / "match" / "record.json")["steps"]

    with screen.step("data set written") as advance:
        clean = [work / "clean" / f"{k:05d}" / "items.parquet" for k in range(len(parts))]
        pipeline = [ReadPart(clean), WriteStage(work, sides_of(recipe.split))]
        run_stage("write", pipeline, len(parts), logs, place, advance)
    return records


def _steps(recipe: DataRecipe, evaluation: dict[str, list[Path]]) -> list[Step]:
    """The steps on single items, in their fixed order."""
    asked = recipe.steps
    steps: list[Step] = []
    if asked.repair:
        steps.append(RepairStep())
    if asked.language:
        steps.append(LanguageStep(asked.language))
    if asked.quality:
        steps.append(QualityStep(asked.quality))
    if asked.decontaminate:
        steps.append(DecontaminateStep(evaluation, asked.decontaminate, RepairStep() if asked.repair else None))
    if asked.pii:
        masking = PiiStep(asked.pii)
        for step in steps:  # examples of earlier steps hold names, too
            step.counts.mask = masking.mask
        steps.append(masking)
    return steps


def _wanted(recipe: DataRecipe) -> Wanted:
    """A split needs near-duplicates even when none are removed: it must not put two of them on two sides."""
    near = recipe.steps.near_duplicates or (NearDuplicates.model_validate({}) if recipe.split else None)
    exact = recipe.steps.duplicates is not None
    return Wanted(exact, near.jaccard if near else None, near.words if near else 0, recipe.split)


def _merge(parts: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The records of the tasks -> one record a step."""
    merged: list[dict[str, Any]] = []
    for same_step in zip(*parts, strict=True):
        counts = Counts(same_step[0]["step"])
        for record in same_step:
            counts.add(record)
        merged.append(counts.as_json())
    return merged


def _finish(
    recipe: DataRecipe,
    out: Path,
    records: list[dict[str, Any]],
    ingredients: dict[str, Any],
    fingerprint: str,
    number: str,
) -> dict[str, Any]:
    """Write the report, the list of what was dropped, and last the manifest."""
    import pyarrow.parquet as pq

    work = out.parent
    for left in out.rglob(".tmp-*"):
        left.unlink()  # of killed tasks, which were done again
    splits: dict[str, dict[str, int]] = {}
    for side in sides_of(recipe.split):
        files = sorted((out / side).glob("*.parquet"))
        rows = sum(pq.read_metadata(file).num_rows for file in files)
        if not rows:
            raise BessemerError(
                f"the side {side!r} of the split is empty", where="split", fix="give it a larger share or another cut"
            )
        splits[side] = {"items": rows, "files": len(files)}
    _write_dropped(work, out)
    write_json(out / "report.json", {"tokens": TOKEN_RULE, "steps": records, "splits": splits})
    manifest = {
        "format": FORMAT,
        "name": recipe.name,
        "version": number,
        "fingerprint": fingerprint,
        "ingredients": ingredients,
        "recipe": recipe.model_dump(by_alias=True, mode="json", exclude_none=True),
        "tokens": TOKEN_RULE,
        "steps": [{k: v for k, v in record.items() if k != "examples"} for record in records],
        "splits": splits,
        "files": digest_files(out, frozenset({MANIFEST})),
    }
    write_json(out / MANIFEST, manifest)
    return manifest


def _write_dropped(work: Path, out: Path) -> None:
    """One line for each item that is not in the data set: its id, the step, the reason, and what it is a copy of."""
    with (out / ".tmp-dropped").open("w") as file:
        for record in sorted((work / "clean").glob("[0-9]*/record.json")):  # no half one of a killed task
            file.writelines(canonical_json(line) + "\n" for line in read_record(record)["dropped"])
        file.write((work / "match" / "dropped.jsonl").read_text())
        file.flush()
        os.fsync(file.fileno())  # before a manifest says so
    (out / ".tmp-dropped").replace(out / "dropped.jsonl")
