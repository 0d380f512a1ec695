"""Several models on the same items: estimates, all pairs, and ranks as ranges.

A rank is a range because a difference that the items cannot show is none: the best possible rank is one more than the
number of contestants that are shown to be better, the worst leaves below it only those that are shown to be worse. All
pairs are looked at together, so their p values are adjusted by Holm's rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from bessemer.evaluate import stats
from bessemer.evaluate.metrics import Columns, Metric

Sides = Mapping[str, Sequence[Columns]]  # contestant -> its seeds


@dataclass(frozen=True)
class Standing:
    """One contestant on one task. best and worst: its rank, from 1."""

    name: str
    estimate: stats.Estimate
    best: int
    worst: int

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "best": self.best, "worst": self.worst, **self.estimate.as_dict()}


@dataclass(frozen=True)
class Pair:
    """Is the second better than the first? p: adjusted over all pairs."""

    first: str
    second: str
    change: stats.Interval
    p: float
    better: str  # whose advantage is shown; "" when it is not

    def as_dict(self) -> dict[str, Any]:
        return {
            "first": self.first,
            "second": self.second,
            "change": self.change.as_dict(),
            "p": round(self.p, 6),
            "better": self.better,
        }


def standings(metric: Metric, sides: Sides, *, margin: float, alpha: float) -> tuple[list[Standing], list[Pair]]:
    """Every contestant, the best estimate first, and every pair. Raises BessemerError as `stats.difference`."""
    relative = metric.name == "bits_per_byte"
    pairs = list(combinations(sides, 2))
    permutations = stats.enough_permutations(len(pairs), alpha)
    found = {
        (a, b): stats.difference(
            metric, sides[a], sides[b], margin=margin, alpha=alpha, relative=relative, permutations=permutations
        )
        for a, b in pairs
    }
    adjusted = stats.adjust({f"{a}/{b}": d for (a, b), d in found.items()})
    pairs = [
        Pair(a, b, d.change, float(d.p_adjusted or 0.0), {"WIN": b, "LOSS": a}.get(_word(d, alpha), ""))
        for (a, b), d in zip(found, adjusted.values(), strict=True)
    ]
    sign = -1 if metric.higher_is_better else 1
    estimates = {name: stats.estimate(metric, columns, alpha=alpha) for name, columns in sides.items()}
    order = sorted(estimates, key=lambda name: sign * estimates[name].result.value)
    return [Standing(name, estimates[name], *_rank(name, pairs, len(order))) for name in order], pairs


def _word(found: stats.Difference, alpha: float) -> str:
    """A small difference is one here too: EQUIVALENT says that it does not matter, not who is ahead."""
    if found.p_adjusted is not None and found.p_adjusted > alpha:
        return ""
    return stats.answer_word(found.change, found.inner, margin=0.0, higher_is_better=found.higher_is_better)


def _rank(name: str, pairs: Sequence[Pair], n: int) -> tuple[int, int]:
    mine = [p for p in pairs if name in {p.first, p.second} and p.better]
    return 1 + sum(p.better != name for p in mine), n - sum(p.better == name for p in mine)


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points that no other one beats in both: more gain and less forgetting."""

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    return [name for name, own in points.items() if not any(beats(other, own) for other in points.values())]
