"""One pass over everything that is held out: tasks and probes, for one model. Plain data in, plain data out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bessemer.data.items import Item
from bessemer.data.render import Renderer
from bessemer.data.sources import read_items
from bessemer.errors import BessemerError
from bessemer.infer import score
from bessemer.infer.model import Loaded
from bessemer.recipe.schema import Recipe

POSITIVE_FIRST = ("yes", "true", "1")
Measured = dict[str, Any]
TASK_TOKENS = 16_384  # of a bits_per_byte task


def read_held_out(recipe: Recipe) -> tuple[dict[str, list[Item]], dict[str, list[Item]]]:
    """(tasks, probes): their items. Raises BessemerError for items that cannot be measured."""
    tasks: dict[str, list[Item]] = {}
    for name, task in recipe.tasks.items():
        tasks[name] = read_items(task.from_, kind=task.kind, where=f"tasks.{name}.from")
        if task.metric == "auroc":
            answers(tasks[name], f"tasks.{name}")
    probes = {
        name: read_items(probe.from_, kind="documents", where=f"probes.{name}.from")
        for name, probe in recipe.probes.items()
    }
    return tasks, probes


def answers(items: Sequence[Item], where: str) -> tuple[str, str]:
    """(positive, negative): the two answers of a yes/no task. Raises BessemerError when there are not two."""
    found = sorted({i.messages[-1].content.strip() for i in items})
    if len(found) != 2:
        raise BessemerError(
            f"metric auroc needs exactly two different answers, found {len(found)}: {', '.join(found[:5])}",
            where=where,
            fix="use answers such as yes and no",
        )
    positive = next((a for a in found if a.lower() in POSITIVE_FIRST), found[1])
    return positive, next(a for a in found if a != positive)


def refuse_long_items(
    recipe: Recipe, tasks: Mapping[str, Sequence[Item]], renderer: Renderer, limit: int, name: str
) -> None:
    """Raises BessemerError for an item of a yes/no task that has more tokens than `limit`, which the start scores."""
    for task, items in tasks.items():
        if recipe.tasks[task].metric != "auroc":
            continue  # cut into windows
        asked = score.asked_ids(renderer, [i.messages[:-1] for i in items], [i.tools for i in items])
        for item, ids in zip(items, asked, strict=True):
            if len(ids) > limit:
                raise BessemerError(
                    f"item {item.id} has {len(ids):,} tokens; {name} reads {limit:,}",
                    where=f"tasks.{task}.from",
                    fix="shorten the item, or leave it out",
                )


def cut_probes(loaded: Loaded, recipe: Recipe, probes: Mapping[str, Sequence[Item]]) -> dict[str, list[score.Window]]:
    return {
        name: score.cut_windows(loaded, loaded.renderer.render(items), recipe.probes[name].tokens)
        for name, items in probes.items()
    }


def measure(
    loaded: Loaded,
    recipe: Recipe,
    tasks: Mapping[str, Sequence[Item]],
    windows: Mapping[str, Sequence[score.Window]],
    progress: score.Progress | None = None,
) -> Measured:
    """Per-item scores (log-odds of the positive answer) or bits, ready for JSON.

    progress: called with shares that add up to 1 over everything.
    """
    total = len(tasks) + len(windows)

    def part(share: float) -> None:
        if progress:
            progress(share / total)

    out: Measured = {"digest": loaded.digest, "precision": precision_of(loaded), "tasks": {}, "probes": {}}
    for name, items in tasks.items():
        if recipe.tasks[name].metric == "auroc":
            out["tasks"][name] = _measure_answers(loaded, items, part)
        else:
            cut = score.cut_windows(loaded, loaded.renderer.render(items), TASK_TOKENS)
            out["tasks"][name] = _measure_windows(loaded, cut, part)
    for name, cut in windows.items():
        out["probes"][name] = _measure_windows(loaded, cut, part)
    return out


def precision_of(loaded: Loaded) -> str:
    """Device and type of the numbers: in others a model measures a little otherwise."""
    return f"{loaded.machine.device.type} {str(loaded.machine.dtype).removeprefix('torch.')}"


def need_one_precision(before: Measured, after: Measured, where: str) -> None:
    """Raises BessemerError when two measurements that are to be compared were made with other numbers."""
    pair = [measured.get("precision", "") for measured in (before, after)]
    if all(pair) and pair[0] != pair[1]:
        raise BessemerError(
            f"the start was measured on {pair[0]}, the trained model on {pair[1]}: a small change cannot be told from "
            "that",
            where=where,
            fix="set BESSEMER_DEVICE and BESSEMER_DTYPE to one of them, remove what was measured with the other, and "
            "run the same command again",
        )


def _measure_answers(loaded: Loaded, items: Sequence[Item], progress: score.Progress) -> Measured:
    options = answers(items, "task")
    asked = [i.messages[:-1] for i in items]
    names = [f"item {i.id}" for i in items]
    logprobs = score.option_logprobs(loaded, asked, options, progress, [i.tools for i in items], names)
    return {
        "ids": [i.id for i in items],
        "clusters": [i.cluster for i in items],
        "slices": [str(i.meta.get("rule", "")) for i in items],
        "options": list(options),
        "labels": [i.messages[-1].content.strip() == options[0] for i in items],
        "scores": np.round(logprobs[:, 0] - logprobs[:, 1], 6).tolist(),
    }


def _measure_windows(loaded: Loaded, windows: Sequence[score.Window], progress: score.Progress) -> Measured:
    bits = score.window_bits(loaded, windows, progress)
    documents = [w.group or w.id.rpartition(":")[0] for w in windows]
    return {
        "ids": [w.id for w in windows],
        "clusters": documents if len(set(documents)) > 1 else [w.id for w in windows],  # of one text its windows
        "bits": np.round(bits, 4).tolist(),
        "bytes": [w.n_bytes for w in windows],
    }
