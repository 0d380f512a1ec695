"""How sure a number is: intervals, paired differences, and the word that sums them up.

A cluster (twins, a document, one author) is drawn whole, and all models are measured on the same draws: items of one
cluster are not independent, and neither are two models' answers to one item. Source: Miller, "Adding error bars to
evals" (arXiv 2411.00640).

**Intervals.** The clustered bootstrap gives the standard error, which a t quantile widens, since few clusters know
their own spread badly: value +- t(C - 1) * error * sqrt(C / (C - 1)). Numbers in 0..1 are widened on the log-odds
scale, so that an interval near 1 is longer below than above; differences are widened as they are. C counts the
clusters; where one of two classes decides (AUROC, F1), the clusters that hold the rarer one. Measured by
tests/evaluate/test_coverage.py, 2,000 replications each, on n = 200 and 1,000 single items and clusters of 4: the
nominal 95 % interval covers 94.3-95.6 % for means, 94.5-96.0 % for AUROC, 95.2-96.9 % for macro-F1, 94.6-96.1 % for
their paired changes. On such data percentile intervals covered 89 % at the worst (AUROC 0.95, 50 clusters) and BCa ones
91.5 % (a change of AUROC), which is why neither is used. Where no draw differs from another (all right, or two models
that agree everywhere) the bootstrap sees no uncertainty at all; there the interval is the exact one for 0 events in C
clusters. Where few answers changed (what must not be lost is mostly kept) it sees too little of it: a change of a mean
is then as wide as what was lost and what was gained, each a share with an interval of its own (Zou and Donner 2008,
doi 10.1002/sim.3095). Where .02 of 245 and of 500 single answers are truly lost, "at most .02" is
said in 0.7 and 1.0 of 100 (with the bootstrap alone in 13.1 and 6.5).

**Seeds.** With several training seeds the spread between them is a second level: it is added to the error, with the
degrees of freedom that Satterthwaite's rule gives (three seeds are two). What items and seeds do together is in both
parts: 94.3-97.2 % covered, three and five seeds. With one seed the result carries THIS_ONLY.

Legend: B bootstrap draws (row 0: the sample itself), I items, C clusters, M models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bessemer.errors import BessemerError
from bessemer.evaluate.metrics import Columns, Floats, Metric, chances, in_parts, numbered, rightness

DRAWS = 2000
PERMUTATIONS = 1999
MISSING = 0.05  # share of draws that may lack what a metric needs
TIE = 1e-12  # differences closer than this are one
THIS_ONLY = "this checkpoint only"


@dataclass(frozen=True)
class Interval:
    """A measured value and its interval, of 95 % where nothing else is said."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def as_dict(self) -> dict[str, float]:
        return {k: round(v, 6) for k, v in asdict(self).items()}


# -- the draws ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draws:
    """Clusters drawn with replacement, as many as there are. The same seed gives the same draws to every model."""

    cluster_I: NDArray[np.int64]
    n_clusters: int
    n_draws: int = DRAWS
    seed: int = 0

    @staticmethod
    def of(clusters: Sequence[str], *, draws: int = DRAWS, seed: int = 0) -> Draws:
        cluster_I = numbered(clusters)
        return Draws(cluster_I, int(cluster_I.max()) + 1, draws, seed)

    def parts(self) -> Iterator[Floats]:
        """Weights of the items, first of the sample itself, then of draws; a part at a time. [b, I]"""
        yield np.ones((1, len(self.cluster_I)))
        rng = np.random.default_rng(self.seed)
        for part in in_parts(len(self.cluster_I), self.n_draws):
            rows = part.stop - part.start
            drawn = rng.integers(0, self.n_clusters, (rows, self.n_clusters))
            drawn += np.arange(rows)[:, None] * self.n_clusters
            counts = np.bincount(drawn.ravel(), minlength=rows * self.n_clusters)
            yield counts.reshape(rows, -1)[:, self.cluster_I].astype(np.float64)

    def alone(self) -> Draws:
        """The same items as if each one were a cluster."""
        n_items = len(self.cluster_I)
        return Draws(np.arange(n_items), n_items, self.n_draws, self.seed)


def draw_values(metric: Metric, models: Sequence[Columns], draws: Draws) -> Floats:
    """A metric of every model on every draw; column 0 is the sample itself. [M, B + 1]"""
    computes = [metric.on(columns) for columns in models]
    return np.concatenate([[compute(weights) for compute in computes] for weights in draws.parts()], axis=1)


# -- from draws to an interval ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Spread:
    """A value and how far it may be off. n_known: clusters that tell something about it."""

    value: float
    error: float
    freedom: float
    n_known: int

    def interval(self, alpha: float, *, share: bool = False, change: bool = False) -> Interval:
        """share: lies in 0..1. change: is the difference of two shares."""
        value, wide = self.value, t_quantile(1 - alpha / 2, self.freedom) * self.error
        unseen = 1 - (alpha / 2) ** (1 / self.n_known)  # a rarer event than this stays unseen in n_known clusters
        if change:
            wide = max(wide, unseen if self.error <= TIE else 0.0)
            return Interval(value, max(value - wide, -1.0), min(value + wide, 1.0))
        if not share:
            return Interval(value, value - wide, value + wide)
        if TIE < value < 1 - TIE and self.error > TIE:
            odds, wide = math.log(value / (1 - value)), wide / (value * (1 - value))
            return Interval(value, _share(odds - wide), _share(odds + wide))
        wide = max(wide, unseen)
        return Interval(value, max(value - wide, 0.0), min(value + wide, 1.0))


def _share(odds: float) -> float:
    return 1 / (1 + math.exp(-odds)) if odds > 0 else math.exp(odds) / (1 + math.exp(odds))


def _spread(values_B: Floats, n_known: int, name: str, seeds: Sequence[tuple[float, int]] = ()) -> _Spread:
    """seeds: (variance that training seeds add to the value, its degrees of freedom), one for each side."""
    drawn_B = values_B[1:]
    lost = np.isnan(drawn_B)
    if n_known < 2 or np.isnan(values_B[0]) or lost.mean() > MISSING:
        raise BessemerError(
            f"{name} has no interval: {n_known} group{'s' if n_known != 1 else ''} of items with what it needs, and "
            f"{lost.mean():.0%} of the draws lack it",
            where="columns",
            fix="add items of the rarer class, in groups of their own",
        )
    items = float(drawn_B[~lost].var(ddof=1)) * n_known / (n_known - 1)
    parts = [(items, n_known - 1), *seeds]
    variance = sum(v for v, _ in parts)
    # Satterthwaite: a sum of variances is known as well as one with this many degrees of freedom
    freedom = variance**2 / sum(v**2 / f for v, f in parts) if variance > TIE**2 else float(n_known - 1)
    return _Spread(float(values_B[0]), math.sqrt(variance), freedom, n_known)


def _lost_and_gained(
    metric: Metric, before: Sequence[Columns], after: Sequence[Columns], draws: Draws
) -> tuple[_Spread, _Spread, float]:
    """What clusters lost and what they gained, as shares of all there was to lose or gain, and how these correlate."""
    own_MC = np.empty((len(before) + len(after), draws.n_clusters))
    computes = [metric.on(columns) for columns in (*before, *after)]
    for part in in_parts(len(draws.cluster_I), draws.n_clusters):
        alone = np.arange(part.start, part.stop)[:, None] == draws.cluster_I
        own_MC[:, part] = [compute(alone.astype(np.float64)) for compute in computes]
    size_C = np.bincount(draws.cluster_I) if metric.mean_of == "items" else np.ones(draws.n_clusters)
    change_C = (own_MC[len(before) :].mean(axis=0) - own_MC[: len(before)].mean(axis=0)) * size_C / size_C.mean()
    both = np.stack([np.maximum(-change_C, 0), np.maximum(change_C, 0)])
    errors = both.std(axis=1, ddof=1) / math.sqrt(draws.n_clusters)
    lost, gained = (
        _Spread(min(float(value), 1.0), float(error), draws.n_clusters - 1, draws.n_clusters)
        for value, error in zip(both.mean(axis=1), errors, strict=True)
    )
    product = float(errors.prod()) * draws.n_clusters
    return lost, gained, float(np.cov(both)[0, 1]) / product if product > TIE**2 else 0.0


def _of_parts(lost: Interval, gained: Interval, correlation: float) -> Interval:
    """gained - lost from their intervals: by "method of variance estimates recovery"."""

    def wide(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a + b * b - 2 * correlation * a * b))

    value = gained.value - lost.value
    low = value - wide(gained.value - gained.low, lost.high - lost.value)
    return Interval(value, low, value + wide(gained.high - gained.value, lost.value - lost.low))


def _n_known(metric: Metric, columns: Columns, draws: Draws) -> int:
    if not metric.by_class or columns.values["logprob"].shape[1] != 2:
        return draws.n_clusters
    label_I = columns.values["label"]
    return min(len(np.unique(draws.cluster_I[label_I == k])) for k in (0, 1))


@lru_cache(maxsize=4096)
def t_quantile(share: float, freedom: float) -> float:
    """Student's t below which this share (at least one half) lies. `freedom` need not be whole, but at least 1."""
    assert 0.5 <= share < 1 and freedom >= 1, (share, freedom)
    if freedom > 1e6:
        return NormalDist().inv_cdf(share)
    angle, area = _t_areas(freedom)
    return math.sqrt(freedom) * math.tan(float(np.interp(share - 0.5, area, angle)))


def t_tail(value: float, freedom: float) -> float:
    """Two-sided p of a t statistic."""
    if freedom > 1e6:
        return 2 * NormalDist().cdf(-abs(value))
    angle, area = _t_areas(freedom)
    return float(1 - 2 * np.interp(math.atan(abs(value) / math.sqrt(freedom)), angle, area))


@lru_cache(maxsize=64)
def _t_areas(freedom: float) -> tuple[Floats, Floats]:
    """Area under the density from 0 to t = sqrt(freedom) * tan(angle), where it is cos(angle) ** (freedom - 1)."""
    end = min(math.pi / 2, 12 / math.sqrt(freedom))  # beyond 12 standard errors nothing is left
    angle = np.linspace(0, end, 20_001)
    height = np.cos(angle) ** (freedom - 1)
    area = np.concatenate([[0.0], np.cumsum((height[1:] + height[:-1]) / 2)]) * (angle[1] - angle[0])
    whole = math.sqrt(math.pi) * math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2))
    return angle, np.minimum(area / whole, 0.5)


# -- one model ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A metric of one model, or the mean of it over training seeds. level: of the interval.

    design_effect: how much larger the variance is than that of as many independent items.
    """

    metric: str
    result: Interval
    error: float
    level: float
    n_items: int
    n_clusters: int
    design_effect: float
    scope: str

    def as_dict(self) -> dict[str, Any]:
        return {**_plain(self), "result": self.result.as_dict()}


def _plain(result: Any) -> dict[str, Any]:
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in vars(result).items()}


def estimate(
    metric: Metric, models: Columns | Sequence[Columns], *, alpha: float = 0.05, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """A metric with its interval. models: one, or one recipe's seeds on the same items (then the mean over seeds).

    Raises BessemerError when the models were asked different items, or when the draws lack a class too often.
    """
    several = _several(models)
    drawn = Draws.of(several[0].clusters, draws=draws, seed=seed)
    _same_items(several)
    spread, values_MB = _mean_spread(metric, several, drawn)
    effect = _design_effect(metric, several, drawn, lambda v: v.mean(axis=0), values_MB.mean(axis=0))
    interval = spread.interval(alpha, share=metric.bounded)
    scope = THIS_ONLY if len(several) == 1 else f"{len(several)} seeds"
    n_items = len(several[0])
    return Estimate(metric.name, interval, spread.error, 1 - alpha, n_items, drawn.n_clusters, effect, scope)


def shares(values_IM: Floats, clusters: Sequence[str], *, alpha: float = 0.05) -> list[Interval]:
    """The mean of each column of 0s and 1s (or what lies between) with its interval, all from the same draws.

    What `estimate` of their mean gives, one column at a time. Raises BessemerError for fewer than two clusters.
    """
    drawn = Draws.of(clusters)
    means_BM = np.concatenate([(w @ values_IM) / w.sum(axis=1, keepdims=True) for w in drawn.parts()])
    return [_spread(means_B, drawn.n_clusters, "a share").interval(alpha, share=True) for means_B in means_BM.T]


def enough_permutations(n_tests: int, alpha: float) -> int:
    """So many that the smallest p, after Holm's adjustment for all tests, can be below alpha."""
    return max(PERMUTATIONS, math.ceil(2 * n_tests / alpha))


def _several(models: Columns | Sequence[Columns]) -> list[Columns]:
    return [models] if isinstance(models, Columns) else list(models)


def _mean_spread(metric: Metric, models: Sequence[Columns], draws: Draws) -> tuple[_Spread, Floats]:
    values_MB = draw_values(metric, models, draws)
    n_known = _n_known(metric, models[0], draws)
    return _spread(values_MB.mean(axis=0), n_known, metric.name, _seed_level(values_MB)), values_MB


def _seed_level(values_MB: Floats, slope: float = 1.0) -> list[tuple[float, int]]:
    """Variance of the mean over seeds, with its degrees of freedom; nothing for one seed.

    What drawing S seeds with replacement would give, times S / (S - 1), without the noise of drawing.
    """
    n_seeds = len(values_MB)
    if n_seeds == 1:
        return []
    return [(float(values_MB[:, 0].var(ddof=1)) * slope**2 / n_seeds, n_seeds - 1)]


def _design_effect(
    metric: Metric, models: Sequence[Columns], draws: Draws, of: Callable[[Floats], Floats], values_B: Floats
) -> float:
    """Variance with clusters over variance without. of: the models' values -> the number of interest."""
    if draws.n_clusters == len(draws.cluster_I):
        return 1.0
    alone = float(np.nanvar(of(draw_values(metric, models, draws.alone()))[1:]))
    return float(np.nanvar(values_B[1:])) / alone if alone > TIE**2 else 1.0


def design_effect(metric: Metric, columns: Columns, *, draws: int = DRAWS, seed: int = 0) -> float:
    """Variance of the metric with its clusters over its variance if all items were independent."""
    return estimate(metric, columns, draws=draws, seed=seed).design_effect


def _same_items(models: Sequence[Columns]) -> None:
    first = models[0]
    for other in models[1:]:
        if first.kind != other.kind or first.ids != other.ids or first.clusters != other.clusters:
            odd = next((b for a, b in zip(first.ids, other.ids, strict=False) if a != b), first.ids[-1])
            what = f"the models were not asked the same items: {len(first)} and {len(other)}, or in other groups"
        elif first.judge != other.judge:
            odd, what = first.ids[0], f"two judges graded: {first.judge or 'none'} and {other.judge or 'none'}"
        elif (differs := _truth(first) != _truth(other)).any():
            odd, what = first.ids[int(np.argmax(differs))], "the right answer is not the same for both models"
        else:
            continue
        raise BessemerError(what, where=f"item {odd}", fix="evaluate both on the same task")


def _truth(columns: Columns) -> NDArray[Any]:
    """What is right, of the kinds that keep it."""
    return columns.values.get("label", columns.values.get("gold", np.zeros(len(columns))))


# -- two models ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """after - before, or after / before - 1, item by item on the same draws.

    change: at `level` (1 - alpha). inner: at 1 - 2 alpha, the interval of two one-sided tests (TOST), which must lie
    inside +-margin for EQUIVALENT. p: two-sided; p_adjusted: by Holm, where several metrics decide together.
    """

    metric: str
    higher_is_better: bool
    before: Interval
    after: Interval
    change: Interval
    inner: Interval
    error: float
    level: float
    margin: float
    p: float
    p_by: str
    answer: str
    n_items: int
    n_clusters: int
    design_effect: float
    scope: str
    p_adjusted: float | None = None

    def as_dict(self) -> dict[str, Any]:
        intervals = ("before", "after", "change", "inner")
        return {**_plain(self), **{name: getattr(self, name).as_dict() for name in intervals}}


def difference(
    metric: Metric,
    before: Columns | Sequence[Columns],
    after: Columns | Sequence[Columns],
    *,
    margin: float,
    alpha: float = 0.05,
    relative: bool = False,
    permutations: int = PERMUTATIONS,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Two models, or two recipes with one or several seeds each, on the same items.

    margin: the smallest change that matters, in the unit of the change. p comes from swapping answers; with several
    seeds (swapping items says nothing about them), or `permutations=0`, from t. Raises BessemerError as `estimate`.
    """
    sides = (_several(before), _several(after))
    every = [*sides[0], *sides[1]]
    _same_items(every)
    drawn, n_before = Draws.of(every[0].clusters, draws=draws, seed=seed), len(sides[0])
    values_MB = draw_values(metric, every, drawn)

    def changed(values: Floats) -> Floats:
        a_B, b_B = values[:n_before].mean(axis=0), values[n_before:].mean(axis=0)
        return b_B / a_B - 1 if relative else b_B - a_B

    n_known = _n_known(metric, every[0], drawn)
    a, b = float(values_MB[:n_before, 0].mean()), float(values_MB[n_before:, 0].mean())
    slopes = (b / a**2, 1 / a) if relative else (1.0, 1.0)
    levels = [_seed_level(v, s) for v, s in zip((values_MB[:n_before], values_MB[n_before:]), slopes, strict=True)]
    spread = _spread(changed(values_MB), n_known, metric.name, [*levels[0], *levels[1]])
    shares = [
        _spread(v.mean(axis=0), n_known, metric.name, _seed_level(v)).interval(alpha, share=metric.bounded)
        for v in (values_MB[:n_before], values_MB[n_before:])
    ]
    bounded = metric.bounded and not relative
    parts = _lost_and_gained(metric, *sides, drawn) if metric.mean_of else None

    def interval(level: float) -> Interval:
        found = spread.interval(level, change=bounded)
        if parts is None:
            return found
        lost, gained = (part.interval(level, share=True) for part in parts[:2])
        rare = _of_parts(lost, gained, parts[2])
        return Interval(found.value, max(-1.0, min(found.low, rare.low)), min(1.0, max(found.high, rare.high)))

    change, inner = interval(alpha), interval(2 * alpha)
    if len(every) == 2 and permutations:
        p, p_by = permutation_p(metric, every[0], every[1], permutations=permutations, seed=seed), "permutation"
    else:
        # Without any spread: what a permutation would say of clusters that all moved alike.
        certain = 1.0 if abs(spread.value) <= TIE else min(1.0, 2.0 ** (1 - n_known))
        p, p_by = (t_tail(spread.value / spread.error, spread.freedom) if spread.error > TIE else certain), "t"
    return Difference(
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        before=shares[0],
        after=shares[1],
        change=change,
        inner=inner,
        error=spread.error,
        level=1 - alpha,
        margin=margin,
        p=p,
        p_by=p_by,
        answer=answer_word(change, inner, margin=margin, higher_is_better=metric.higher_is_better),
        n_items=len(every[0]),
        n_clusters=drawn.n_clusters,
        design_effect=_design_effect(metric, every, drawn, changed, changed(values_MB)),
        scope=THIS_ONLY if len(every) == 2 else f"seeds: {len(sides[0])} before, {len(sides[1])} after",
    )


def answer_word(change: Interval, inner: Interval, *, margin: float, higher_is_better: bool) -> str:
    """WIN, LOSS, EQUIVALENT or INCONCLUSIVE.

    EQUIVALENT comes first: the inner interval (1 - 2 alpha, so that each of the two one-sided tests has level alpha)
    inside +-margin shows that the change is too small to matter, whatever its sign. WIN and LOSS: the whole outer
    interval (1 - alpha) is on one side of 0.
    """
    if -margin < inner.low and inner.high < margin:
        return "EQUIVALENT"
    sign = 1 if higher_is_better else -1
    low, high = sorted((sign * change.low, sign * change.high))
    if low > TIE:
        return "WIN"
    return "LOSS" if high < -TIE else "INCONCLUSIVE"


def permutation_p(
    metric: Metric, before: Columns, after: Columns, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> float:
    """Two-sided p of "it does not matter which of the two models answered".

    The two models' answers are swapped for random clusters and the metric is computed anew, so that it holds for any
    metric. Scores of two models need not have one scale: where only their order counts they are swapped as ranks
    (Bandos, Rockette and Gur 2005, doi 10.1002/sim.2149).
    """
    _same_items([before, after])
    if metric.ranks and before.values["logprob"].shape[1] == 2:
        before, after = _as_ranks(before), _as_ranks(after)
    compute = metric.on(_stacked(before, after))
    draws = Draws.of(before.clusters)
    rng = np.random.default_rng(seed)
    n_items = len(before)

    def gaps(swap_BC: NDArray[np.bool_]) -> Floats:
        swapped = swap_BC[:, draws.cluster_I].astype(np.float64)
        return compute(np.hstack([swapped, 1 - swapped])) - compute(np.hstack([1 - swapped, swapped]))

    seen = abs(float(gaps(np.zeros((1, draws.n_clusters), np.bool_))[0]))
    as_large = 0
    for part in in_parts(2 * n_items, permutations):
        swap_BC = rng.integers(0, 2, (part.stop - part.start, draws.n_clusters)).astype(np.bool_)
        as_large += int((~(np.abs(gaps(swap_BC)) < seen - TIE)).sum())
    return (1 + as_large) / (1 + permutations)


def _as_ranks(columns: Columns) -> Columns:
    scores_I = columns.values["logprob"][:, 0] - columns.values["logprob"][:, 1]
    ordered = np.sort(scores_I)
    rank_I = (np.searchsorted(ordered, scores_I) + np.searchsorted(ordered, scores_I, side="right")) / 2
    logprob = np.stack([rank_I, np.zeros(len(columns))], axis=1)
    return replace(columns, values={**columns.values, "logprob": logprob})


def _stacked(before: Columns, after: Columns) -> Columns:
    """Both models' answers as the items of one: which one is looked at is a matter of weights."""

    def named(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{side}:{name}" for side in ("before", "after") for name in names)

    values = {k: np.concatenate([v, after.values[k]]) for k, v in before.values.items()}
    return Columns(before.kind, named(before.ids), named(before.clusters), before.slices * 2, values)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted so that the chance of one false claim among all is at most alpha. Holm 1979."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    factors = np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1.0)
    return adjusted.tolist()


def adjust(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """Several metrics that decide together: a WIN or LOSS whose adjusted p is above alpha becomes INCONCLUSIVE."""
    adjusted = holm([d.p for d in differences.values()])
    out: dict[str, Difference] = {}
    for (name, found), p in zip(differences.items(), adjusted, strict=True):
        unsure = found.answer in {"WIN", "LOSS"} and p > 1 - found.level
        out[name] = replace(found, p_adjusted=p, answer="INCONCLUSIVE" if unsure else found.answer)
    return out


# -- what was forgotten, what was learnt --------------------------------------------------------------------


@dataclass(frozen=True)
class Transitions:
    """Shares of items. forgot, learnt: the same without what guessing does; None where nothing can be guessed."""

    right_to_wrong: Interval
    wrong_to_right: Interval
    forgot: Interval | None
    learnt: Interval | None
    n_items: int

    def as_dict(self) -> dict[str, Any]:
        return {k: v.as_dict() if isinstance(v, Interval) else v for k, v in vars(self).items()}


def transitions(
    before: Columns, after: Columns, *, alpha: float = 0.05, draws: int = DRAWS, seed: int = 0
) -> Transitions:
    """How many right answers became wrong and how many wrong ones right; an average hides both.

    Where options can be guessed, some answers flip although nothing was forgotten. Taking every item as known or
    guessed, and guesses of the two models as independent with chance c: the share that was known and is guessed now is
    (right -> wrong) / (1 - c) - (wrong -> wrong) * c / (1 - c)^2, and mirrored for what was learnt. Noise can take it
    below 0; models that guess alike (they share a favourite option) flip less, and then it is too low. The question:
    "Mapping Post-Training Forgetting" (arXiv 2510.17776); the formula is derived here.
    """
    _same_items([before, after])
    was_I, is_I, chance_I = rightness(before), rightness(after), chances(before)
    drawn = Draws.of(before.clusters, draws=draws, seed=seed)
    still_I = (1 - was_I) * (1 - is_I) * chance_I / (1 - chance_I) ** 2
    guessed = bool(chance_I.any())
    values_IM = np.stack(
        [
            np.maximum(was_I - is_I, 0),  # of several samples: by how much the share of right ones fell
            np.maximum(is_I - was_I, 0),
            was_I * (1 - is_I) / (1 - chance_I) - still_I,
            is_I * (1 - was_I) / (1 - chance_I) - still_I,
        ],
        axis=1,
    )
    means_BM = np.concatenate([w @ values_IM / w.sum(axis=1, keepdims=True) for w in drawn.parts()])
    spreads = [_spread(means_B, drawn.n_clusters, "a share") for means_B in means_BM.T]
    lost, gained = (s.interval(alpha, share=True) for s in spreads[:2])
    forgot, learnt = (s.interval(alpha) if guessed else None for s in spreads[2:])
    return Transitions(lost, gained, forgot, learnt, len(before))
