"""Metrics with 95 % intervals from a paired bootstrap over clusters.

A cluster (twins, a document) is drawn whole, and before and after are computed on the same draws: items of one
comment are not independent, and neither are two models' answers to it. Source: Miller, "Adding error bars to
evals" (arXiv 2411.00640), sections on clustering and pairing; percentile intervals.

Legend: B bootstrap draws, I items, C clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A measured value and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def as_dict(self) -> dict[str, float]:
        return {k: round(v, 6) for k, v in asdict(self).items()}


def weighted_auroc(scores_I: Floats, labels_I: NDArray[np.bool_], weights_BI: Floats) -> Floats:
    """Area under the ROC curve for each row of item weights, ties counted half. [B]

    Equal to the probability that a positive item scores above a negative one. NaN where a draw lacks a class.
    """
    order = np.argsort(scores_I, kind="stable")
    scores, labels = scores_I[order], labels_I[order]
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    positive = np.add.reduceat(weights_BI[:, order] * labels, starts, axis=1)
    negative = np.add.reduceat(weights_BI[:, order] * ~labels, starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + negative / 2)).sum(axis=1)
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return wins / np.where(pairs == 0, np.nan, pairs)


def draw_weights(clusters_I: Sequence[str], *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """How often each item is in each draw of clusters with replacement. Row 0 is the sample itself. [B + 1, I]"""
    _, index_I = np.unique(np.asarray(clusters_I), return_inverse=True)
    n_clusters = int(index_I.max()) + 1
    rng = np.random.default_rng(seed)
    counts_BC = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=draws)
    return np.vstack([np.ones(len(index_I)), counts_BC[:, index_I]]).astype(np.float64)


def interval(values_B: Floats) -> Interval:
    """Row 0 is the value; the other rows are bootstrap draws."""
    low, high = np.nanpercentile(values_B[1:], [2.5, 97.5])
    return Interval(float(values_B[0]), float(low), float(high))


@dataclass(frozen=True)
class Compared:
    before: Interval
    after: Interval
    change: Interval


def compare(
    metric: Callable[[Floats], Floats],
    before: Floats,
    after: Floats,
    *,
    relative: bool = False,
) -> Compared:
    """Apply a metric (item values -> [B + 1]) to both models on the same draws.

    change: after - before, or after / before - 1 when `relative`.
    """
    a_B, b_B = metric(before), metric(after)
    return Compared(interval(a_B), interval(b_B), interval(b_B / a_B - 1 if relative else b_B - a_B))


def compare_auroc(before_I: Floats, after_I: Floats, labels_I: NDArray[np.bool_], weights_BI: Floats) -> Compared:
    return compare(lambda scores_I: weighted_auroc(scores_I, labels_I, weights_BI), before_I, after_I)


def all_right(scores_I: Floats, labels_I: NDArray[np.bool_], clusters_I: Sequence[str]) -> Floats:
    """1 for every item whose whole cluster is answered rightly (score above 0 = positive), else 0. [I]"""
    right_I = (scores_I > 0) == labels_I
    _, index_I = np.unique(np.asarray(clusters_I), return_inverse=True)
    wrong_C = np.bincount(index_I, weights=~right_I)
    return (wrong_C[index_I] == 0).astype(np.float64)


def weighted_mean(weights_BI: Floats) -> Callable[[Floats], Floats]:
    return lambda values_I: weights_BI @ values_I / weights_BI.sum(axis=1)


def weighted_ratio(weights_BI: Floats, denominator_I: Floats) -> Callable[[Floats], Floats]:
    """Sum of values over sum of denominators, as in bits per byte."""
    return lambda values_I: (weights_BI @ values_I) / (weights_BI @ denominator_I)
