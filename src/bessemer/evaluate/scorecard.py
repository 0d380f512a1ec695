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
from bessemer.evaluate.metrics import METRICS, Columns, rightness
from bessemer.evaluate.verdict import decide
from bessemer.recipe.schema import Recipe

FORMAT = "bessemer.scorecard/1"
BITS = "bits_per_byte"
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


def need_intervals(recipe: Recipe, before: Measured) -> None:
    """Raises BessemerError when a held-out set is so small that nothing about it can be shown; before any training."""
    for name, task in recipe.tasks.items():
        measured = before["tasks"][name]
        columns, metric = (
            (answers_columns(measured), "auroc") if task.metric == "auroc" else (bits_columns(measured), BITS)
        )
        _estimated(f"tasks.{name}", columns, metric)
    for name in recipe.probes:
        _estimated(f"probes.{name}", bits_columns(before["probes"][name]), BITS)


def _estimated(where: str, columns: Columns, metric: str) -> None:
    try:
        stats.estimate(METRICS[metric], columns)
    except BessemerError as error:
        raise BessemerError(error.what, where=where, fix=error.fix) from None


def answers_columns(measured: Measured) -> Columns:
    """Log-odds of the positive answer, as columns."""
    scores = np.array(measured["scores"])
    values = {"label": 1 - np.array(measured["labels"], np.int64), "logprob": np.stack([scores, 0 * scores], axis=1)}
    return Columns("classify", *_names(measured, measured["slices"]), values)


def bits_columns(measured: Measured) -> Columns:
    values = {"bits": np.array(measured["bits"]), "bytes": np.array(measured["bytes"])}
    return Columns("perplexity", *_names(measured, [""] * len(measured["ids"])), values)


def _names(measured: Measured, slices: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    return tuple(measured["ids"]), tuple(measured["clusters"]), tuple(slices)


def _card(before: Columns, after: Columns, metrics: Sequence[str], *, relative: bool = False) -> dict[str, Any]:
    found = {
        name: stats.difference(METRICS[name], before, after, margin=0.0, relative=relative, permutations=0)
        for name in metrics
    }
    sides = ("before", "after", "change")
    return {
        "n_items": len(before),
        "n_clusters": len(set(before.clusters)),
        **{side: {name: getattr(d, side).as_dict() for name, d in found.items()} for side in sides},
    }


def _answers_card(a: Measured, b: Measured) -> dict[str, Any]:
    before, after = answers_columns(a), answers_columns(b)
    grouped = len(set(before.clusters)) < len(before)
    slices: dict[str, Any] = {}
    right, names = [rightness(c) for c in (before, after)], np.array(before.slices)
    for name in sorted(set(before.slices) - {""}):
        mine = names == name
        shares = [float(r[mine].mean()) for r in right]
        slices[name] = {"n_items": int(mine.sum()), "before": shares[0], "after": shares[1]}
    card = _card(before, after, ["auroc", "both_right"] if grouped else ["auroc"])
    return {**card, "chance": 0.5, "slices": slices}


def _bits_card(a: Measured, b: Measured) -> dict[str, Any]:
    return {**_card(bits_columns(a), bits_columns(b), [BITS], relative=True), "slices": {}}


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
