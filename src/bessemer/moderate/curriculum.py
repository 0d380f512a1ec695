"""Easy to hard by the model's own uncertainty: a data set of twins in parts, for stages that follow each other.

How easy a twin is: the mean margin of its two answers (log-odds of the right one), as the model has them before it is
tuned on them. What it has confidently wrong comes last; among real labels those are often mistakes, so they are worth a
look (`bessemer review export`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bessemer.data.curate.prepare import Prepared
from bessemer.data.items import Item, digest_items
from bessemer.data.moderation import YES
from bessemer.errors import BessemerError
from bessemer.infer.score import Progress
from bessemer.moderate.dataset import add_version, find_version, held
from bessemer.moderate.judge import Judge


@dataclass(frozen=True)
class Part:
    """One part of the curriculum, and the margins in it."""

    name: str
    items: list[Item]
    margins: list[float]


def margins_of(judge: Judge, groups: Sequence[Sequence[Item]], progress: Progress | None = None) -> list[float]:
    """The mean margin of each group. Raises BessemerError as `Judge.twins`."""
    found: list[float] = []
    for group, odds in zip(groups, judge.twins(groups, progress), strict=True):
        signs = [1 if item.messages[-1].content == YES else -1 for item in group]
        found.append(float(np.mean([s * x for s, x in zip(signs, odds, strict=True)])))
    return found


def order_parts(judge: Judge, items: Sequence[Item], n: int, progress: Progress | None = None) -> list[Part]:
    """`n` parts of equally many groups, the easiest first; what shares a group stays together.

    Raises BessemerError for too few items.
    """
    grouped: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        grouped[item.cluster].append(item)
    groups = list(grouped.values())
    if not 2 <= n <= len(groups):
        raise BessemerError(
            f"{len(groups)} groups of twins do not make {n} parts", where="--parts", fix="from 2 to their number"
        )
    margins = margins_of(judge, groups, progress)
    order = sorted(range(len(groups)), key=lambda g: (-margins[g], g))
    return [
        Part(f"part-{k + 1}", [item for g in own for item in groups[g]], [margins[g] for g in own])
        for k, own in enumerate(np.array_split(np.array(order), n))
    ]


def make_curriculum(
    judge: Judge, name: str, items: Sequence[Item], n: int, progress: Progress | None = None
) -> Prepared:
    """Write the parts as a data set, or find it made by this model from these items."""
    ingredients: dict[str, Any] = {"items": digest_items(items), "model": judge.loaded.digest, "parts": n}
    with held(name):
        if old := find_version(name, ingredients):
            return old
        parts = order_parts(judge, items, n, progress)
        report = {
            p.name: {
                "twins": len(p.items) // 2,
                "margin": [round(x, 3) for x in (max(p.margins), float(np.median(p.margins)), min(p.margins))],
            }
            for p in parts
        }
        return add_version(name, {p.name: p.items for p in parts}, ingredients=ingredients, recipe={}, report=report)
