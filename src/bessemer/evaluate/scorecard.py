"""Before and after, item by item -> the scorecard with paired intervals and the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bessemer.data.items import Item
from bessemer.errors import BessemerError
from bessemer.evaluate import stats
from bessemer.evaluate.measure import Measured
from bessemer.evaluate.verdict import decide
from bessemer.recipe.schema import Recipe

FORMAT = "bessemer.scorecard/1"
SAMPLES_PER_TASK = 2  # clusters shown


def build_scorecard(
    recipe: Recipe, before: Measured, after: Measured, tasks: Mapping[str, Sequence[Item]]
) -> dict[str, Any]:
    """Deterministic in its arguments. Raises BessemerError when before and after measured different items."""
    scored: dict[str, Any] = {}
    for i, (name, task) in enumerate(recipe.tasks.items()):
        a, b = before["tasks"][name], after["tasks"][name]
        _same_items(name, a, b)
        card = _answers_card(a, b) if task.metric == "auroc" else _bits_card(a, b)
        role = "decides" if i == 0 else "reported"
        scored[name] = {"metric": task.metric, "role": role, "at_least": task.at_least, **card}
    probes: dict[str, Any] = {}
    for name in recipe.probes:
        a, b = before["probes"][name], after["probes"][name]
        _same_items(name, a, b)
        card = _bits_card(a, b)
        compared = {k: card[k]["bits_per_byte"] for k in ("before", "after", "change")}
        probes[name] = {"n_windows": card["n_items"], **compared, "limit": 1 / recipe.retain - 1}
    verdict = decide(scored, probes)
    return {
        "format": FORMAT,
        "verdict": {"word": verdict.word, "reasons": verdict.reasons},
        "retain": recipe.retain,
        "tasks": scored,
        "probes": probes,
        "samples": [s for name, items in tasks.items() for s in _samples(name, items, before, after)],
    }


def _same_items(name: str, a: Measured, b: Measured) -> None:
    if a["ids"] != b["ids"]:
        raise BessemerError(
            "the held-out items changed between before and after", where=name, fix="run again with --restart"
        )


def _card(values: dict[str, stats.Compared], clusters: Sequence[str]) -> dict[str, Any]:
    return {
        "n_items": len(clusters),
        "n_clusters": len(set(clusters)),
        "before": {k: v.before.as_dict() for k, v in values.items()},
        "after": {k: v.after.as_dict() for k, v in values.items()},
        "change": {k: v.change.as_dict() for k, v in values.items()},
    }


def _answers_card(a: Measured, b: Measured) -> dict[str, Any]:
    clusters, labels = a["clusters"], np.array(a["labels"], np.bool_)
    before, after = np.array(a["scores"]), np.array(b["scores"])
    weights = stats.draw_weights(clusters)
    values = {"auroc": stats.compare_auroc(before, after, labels, weights)}
    if len(set(clusters)) < len(clusters):
        both = (stats.all_right(before, labels, clusters), stats.all_right(after, labels, clusters))
        values["both_right"] = stats.compare(stats.weighted_mean(weights), *both)
    slices: dict[str, Any] = {}
    for name in sorted(set(a["slices"]) - {""}):
        mine = np.array([s == name for s in a["slices"]])
        right = [float(((scores[mine] > 0) == labels[mine]).mean()) for scores in (before, after)]
        slices[name] = {"n_items": int(mine.sum()), "before": right[0], "after": right[1]}
    return {**_card(values, clusters), "chance": 0.5, "slices": slices}


def _bits_card(a: Measured, b: Measured) -> dict[str, Any]:
    weights = stats.draw_weights(a["clusters"])
    metric = stats.weighted_ratio(weights, np.array(a["bytes"], np.float64))
    compared = stats.compare(metric, np.array(a["bits"]), np.array(b["bits"]), relative=True)
    return {**_card({"bits_per_byte": compared}, a["clusters"]), "slices": {}}


def _samples(name: str, items: Sequence[Item], before: Measured, after: Measured) -> list[dict[str, Any]]:
    if not items or not items[0].messages:
        return []
    a, b = before["tasks"][name], after["tasks"][name]
    wanted = list(dict.fromkeys(a["clusters"]))[:SAMPLES_PER_TASK]
    return [
        {
            "title": name,
            "messages": [{"role": m.role, "content": m.content} for m in item.messages[:-1]],
            "wanted": item.messages[-1].content,
            "before": _answer(a, i),
            "after": _answer(b, i),
        }
        for i, item in enumerate(items)
        if item.cluster in wanted
    ]


def _answer(measured: Measured, i: int) -> str:
    """The more likely of the two answers and its share of the two."""
    odds = measured["scores"][i]
    share = 1 / (1 + math.exp(-abs(odds)))
    return f"{measured['options'][0 if odds > 0 else 1]} ({share:.0%})"
