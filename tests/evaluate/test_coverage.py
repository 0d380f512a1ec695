"""Do nominal 95 % intervals cover the truth 93 to 97 times in 100? Simulated with known truths, on the production code.

A replication draws 400 times, not 2,000: the standard error then is off by 3.5 % instead of 1.6 %, which costs the
coverage a few tenths of a point, so that what is measured here is a lower limit. Clustered: 4 items share half of the
variance of every latent normal (labels, scores), an intra-class correlation of 0.5 before thresholds.
Prints what it measured with `-s`. Legend: I items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from bessemer.evaluate import stats
from bessemer.evaluate.metrics import METRICS, Columns

pytestmark = pytest.mark.full
Floats = NDArray[np.float64]
DRAWS, REPLICATIONS, SHARED, NORMAL = 400, 2000, 0.5, NormalDist()
LOW, HIGH = 0.93, 0.97


def latent(rng: np.random.Generator, n_items: int, size: int) -> Floats:
    """Standard normals; `size` neighbours share half of their variance."""
    own = rng.normal(size=n_items)
    if size == 1:
        return own
    together = np.repeat(rng.normal(size=n_items // size), size)
    return np.sqrt(SHARED) * together + np.sqrt(1 - SHARED) * own


def columns(kind: str, size: int, **values: Floats | NDArray[np.int64]) -> Columns:
    n_items = len(next(iter(values.values())))
    ids = tuple(map(str, range(n_items)))
    groups = tuple(str(i // size) for i in range(n_items))
    return Columns(kind, ids, groups, ("",) * n_items, dict(values))


def answered(latent_I: Floats, share: float, size: int) -> Columns:
    right = (latent_I < NORMAL.inv_cdf(share)).astype(float)
    return columns("judge", size, right=right[:, None])


def classified(label_I: NDArray[np.bool_], noise_I: Floats, shift: float, size: int) -> Columns:
    """Positive items score `shift` higher; the answer changes half-way."""
    odds = noise_I + shift * label_I - shift / 2
    logprob = np.stack([odds, np.zeros(len(odds))], axis=1)
    return columns("classify", size, label=np.where(label_I, 0, 1), logprob=logprob)


def true_auroc(shift: float) -> float:
    return NORMAL.cdf(shift / np.sqrt(2))


def true_f1(shift: float, positive: float) -> float:
    hit, alarm = positive * NORMAL.cdf(shift / 2), (1 - positive) * NORMAL.cdf(-shift / 2)
    miss, rest = positive - hit, 1 - positive - alarm
    return (2 * hit / (2 * hit + alarm + miss) + 2 * rest / (2 * rest + alarm + miss)) / 2


def covered(name: str, truth: float, intervals: Iterator[stats.Interval]) -> float:
    inside = below = 0
    found = [next(intervals) for _ in range(REPLICATIONS)]
    for interval in found:
        inside += interval.low <= truth <= interval.high
        below += truth < interval.low
    share, under = inside / REPLICATIONS, below / REPLICATIONS
    width = np.mean([i.high - i.low for i in found])
    print(f"{name:58s} covers {share:.1%} (misses {under:.1%} below, {1 - share - under:.1%} above), width {width:.3f}")
    return share


SIZES = [(200, 1), (200, 4), (1000, 1), (1000, 4)]


@pytest.mark.parametrize(("n_items", "size"), SIZES)
@pytest.mark.parametrize("share", [0.7, 0.9])
def test_of_a_mean(share: float, n_items: int, size: int) -> None:
    rng = np.random.default_rng(1)

    def intervals() -> Iterator[stats.Interval]:
        while True:
            one = answered(latent(rng, n_items, size), share, size)
            seed = int(rng.integers(1 << 30))
            yield stats.estimate(METRICS["score"], one, draws=DRAWS, seed=seed).result

    assert LOW <= covered(f"mean {share}, n={n_items}, clusters of {size}", share, intervals()) <= HIGH


USUAL = [("auroc", 1.0, 0.3), ("macro_f1", 1.5, 0.3)]
HARD = [("auroc", 2.3, 0.3), ("auroc", 2.0, 0.1), ("macro_f1", 3.0, 0.3), ("macro_f1", 1.5, 0.1)]  # high, or rare


@pytest.mark.parametrize(
    ("metric", "shift", "positive", "n_items", "size"),
    [(*case, *n) for case in USUAL for n in SIZES] + [(*case, *n) for case in HARD for n in SIZES[:2]],
)
def test_of_a_metric_that_is_no_mean(metric: str, shift: float, positive: float, n_items: int, size: int) -> None:
    rng = np.random.default_rng(2)
    truth = true_auroc(shift) if metric == "auroc" else true_f1(shift, positive)

    def intervals() -> Iterator[stats.Interval]:
        while True:
            label = latent(rng, n_items, size) < NORMAL.inv_cdf(positive)
            one = classified(label, latent(rng, n_items, size), shift, size)
            seed = int(rng.integers(1 << 30))
            yield stats.estimate(METRICS[metric], one, draws=DRAWS, seed=seed).result

    name = f"{metric} {truth:.3f}, {positive:.0%} positive, n={n_items}, clusters of {size}"
    assert LOW <= covered(name, truth, intervals()) <= HIGH


@pytest.mark.parametrize(("n_items", "size"), SIZES)
@pytest.mark.parametrize("metric", ["score", "auroc", "macro_f1"])
def test_of_a_paired_difference(metric: str, n_items: int, size: int) -> None:
    """Two models whose answers correlate, the second one better."""
    rng = np.random.default_rng(3)
    positive, before, after = 0.3, 1.5, 1.8
    truths: dict[str, Callable[[], float]] = {
        "score": lambda: 0.05,
        "auroc": lambda: true_auroc(after) - true_auroc(before),
        "macro_f1": lambda: true_f1(after, positive) - true_f1(before, positive),
    }

    def intervals() -> Iterator[stats.Interval]:
        while True:
            common = latent(rng, n_items, size)
            a, b = (np.sqrt(0.6) * common + np.sqrt(0.4) * latent(rng, n_items, size) for _ in range(2))
            if metric == "score":
                pair = (answered(a, 0.75, size), answered(b, 0.80, size))
            else:
                label = latent(rng, n_items, size) < NORMAL.inv_cdf(positive)
                pair = (classified(label, a, before, size), classified(label, b, after, size))
            seed = int(rng.integers(1 << 30))
            found = stats.difference(METRICS[metric], *pair, margin=0.02, permutations=0, draws=DRAWS, seed=seed)
            yield found.change

    name = f"change of {metric}, n={n_items}, clusters of {size}"
    assert LOW <= covered(name, truths[metric](), intervals()) <= HIGH


@pytest.mark.parametrize(("n_items", "size"), [(245, 1), (500, 1), (1000, 1), (1000, 4)])
def test_of_a_loss_that_is_just_the_margin(n_items: int, size: int) -> None:
    """Few answers change: how often is it said that no more than the margin was lost?"""
    rng, margin, said = np.random.default_rng(7), 0.02, 0
    for _ in range(REPLICATIONS):
        before = answered(np.full(n_items, -9.0), 0.9, size)
        after = answered(latent(rng, n_items, size), 1 - margin, size)
        seed = int(rng.integers(1 << 30))
        found = stats.difference(METRICS["score"], before, after, margin=margin, permutations=0, draws=DRAWS, seed=seed)
        said += found.change.low >= -margin
    print(f"a loss of the margin, n={n_items}, clusters of {size}: called kept in {said / REPLICATIONS:.1%}")
    assert said / REPLICATIONS <= 0.04


@pytest.mark.parametrize("n_seeds", [3, 5])
@pytest.mark.parametrize("between", [0.01, 0.04])
def test_of_a_mean_over_seeds(n_seeds: int, between: float) -> None:
    """The truth is the accuracy of the recipe on all items, over all seeds; `between` is the spread of its seeds."""
    rng = np.random.default_rng(4)
    share, n_items = 0.7, 400

    def intervals() -> Iterator[stats.Interval]:
        while True:
            common = latent(rng, n_items, 1)
            models: list[Columns] = []
            for _ in range(n_seeds):
                own = np.sqrt(0.6) * common + np.sqrt(0.4) * latent(rng, n_items, 1)
                models.append(answered(own, float(np.clip(share + between * rng.normal(), 0.01, 0.99)), 1))
            seed = int(rng.integers(1 << 30))
            yield stats.estimate(METRICS["score"], models, draws=DRAWS, seed=seed).result

    name = f"mean over {n_seeds} seeds that spread by {between}"
    assert LOW <= covered(name, share, intervals()) <= 0.985  # three seeds: better too wide than too narrow


@pytest.mark.parametrize("size", [1, 4])
def test_of_bits_per_byte(size: int) -> None:
    """Documents of very different lengths, before and after a change of 2 %."""
    rng = np.random.default_rng(5)

    def intervals() -> Iterator[stats.Interval]:
        while True:
            n_bytes = np.ceil(np.exp(6 + 0.7 * latent(rng, 200, size)))
            bits = n_bytes * np.exp(0.3 * latent(rng, 200, size))
            after = bits * 0.98 * np.exp(0.05 * latent(rng, 200, size) - 0.05**2 / 2)
            pair = (columns("perplexity", size, bits=b, bytes=n_bytes) for b in (bits, after))
            seed = int(rng.integers(1 << 30))
            yield stats.difference(
                METRICS["bits_per_byte"], *pair, margin=0.01, relative=True, permutations=0, draws=DRAWS, seed=seed
            ).change

    assert LOW <= covered(f"bits per byte, after / before - 1, clusters of {size}", -0.02, intervals()) <= HIGH


def test_a_permutation_test_that_finds_nothing_errs_as_often_as_it_says() -> None:
    """Two models of one quality, scores of one on ten times the scale of the other."""
    rng = np.random.default_rng(6)
    said = 0
    for seed in range(1000):
        label = latent(rng, 200, 4) < NORMAL.inv_cdf(0.3)
        common = latent(rng, 200, 4)
        a, b = (np.sqrt(0.6) * common + np.sqrt(0.4) * latent(rng, 200, 4) for _ in range(2))
        before, after = classified(label, a, 1.5, 4), classified(label, b, 1.5, 4)
        after = Columns(
            after.kind, after.ids, after.groups, after.slices, after.values | {"logprob": 10 * after.values["logprob"]}
        )
        said += stats.permutation_p(METRICS["auroc"], before, after, permutations=199, seed=seed) <= 0.05
    print(f"permutation p <= 0.05 without a difference: {said / 1000:.1%}")
    assert 0.03 <= said / 1000 <= 0.07
