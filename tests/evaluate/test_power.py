from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.errors import BessemerError
from bessemer.evaluate import power, stats
from bessemer.evaluate.metrics import METRICS, Columns


def classified(n_items: int, shift: float, seed: int, *, positive: float = 0.4, size: int = 1) -> Columns:
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(n_items) < positive * n_items)
    odds = rng.normal(size=n_items) + shift * label
    ids = tuple(map(str, range(n_items)))
    groups = tuple(str(i // size) for i in range(n_items))
    logprob = np.stack([odds, np.zeros(n_items)], axis=1)
    return Columns("classify", ids, groups, ("",) * n_items, {"label": np.where(label, 0, 1), "logprob": logprob})


@pytest.mark.parametrize(
    ("n_items", "disagreement", "points"),
    [(500, 0.1, 4.0), (500, 0.2, 5.6), (1000, 0.1, 2.8), (1000, 0.2, 4.0), (2000, 0.1, 2.0), (10_000, 0.2, 1.25)],
)
def test_the_table_of_the_design(n_items: int, disagreement: float, points: float) -> None:
    found = power.smallest_effect(power.noise_of_shares(disagreement), n_items)
    assert found * 100 == pytest.approx(points, abs=0.05)


def test_clusters_cost_the_root_of_their_design_effect() -> None:
    alone, together = power.noise_of_shares(0.2), power.noise_of_shares(0.2, design_effect=2.5)
    ratio = power.smallest_effect(together, 700) / power.smallest_effect(alone, 700)
    assert ratio == pytest.approx(math.sqrt(2.5))


@given(st.floats(0.01, 2), st.floats(0.001, 0.5), st.floats(0.001, 0.2), st.floats(0.5, 0.99))
def test_items_and_effects_are_each_others_inverse(spread: float, effect: float, alpha: float, wanted: float) -> None:
    noise = power.Noise(spread, 1.0, "")
    n_items = power.items_needed(noise, effect, alpha=alpha, power=wanted)
    assert power.smallest_effect(noise, n_items, alpha=alpha, power=wanted) <= effect * (1 + 1e-9)
    if n_items > 1:
        assert power.smallest_effect(noise, n_items - 1, alpha=alpha, power=wanted) > effect


@given(st.integers(2, 100_000), st.floats(0.01, 1))
def test_the_items_that_gave_an_effect_are_what_it_needs(n_items: int, disagreement: float) -> None:
    noise = power.noise_of_shares(disagreement)
    assert power.items_needed(noise, power.smallest_effect(noise, n_items)) == n_items


def test_an_effect_of_that_size_is_found_as_often_as_said() -> None:
    """80 of 100 samples show it, give or take the noise of 400 samples."""
    n_items, disagreement = 400, 0.2
    effect = power.smallest_effect(power.noise_of_shares(disagreement), n_items)
    rng = np.random.default_rng(0)
    ids, found = tuple(map(str, range(n_items))), 0
    chances = [(disagreement - effect) / 2, (disagreement + effect) / 2, 1 - disagreement]
    for seed in range(400):
        outcome = rng.choice(3, n_items, p=chances)
        pair = [
            Columns("judge", ids, ids, ids, {"right": right[:, None].astype(float)})
            for right in (outcome != 1, outcome != 0)
        ]
        result = stats.difference(METRICS["score"], *pair, margin=1e-6, permutations=0, draws=200, seed=seed)
        found += result.answer == "WIN"
    assert 0.74 <= found / 400 <= 0.87


@pytest.mark.parametrize(("shift", "positive"), [(1.0, 0.4), (1.5, 0.1)])
def test_the_formula_for_auroc_is_near_the_bootstrap(shift: float, positive: float) -> None:
    sample = classified(2000, shift, 0, positive=positive)
    auroc = METRICS["auroc"].value(sample)
    formula = power.noise_of_auroc(positive, auroc=auroc)
    measured = power.noise_of_columns(METRICS["auroc"], sample)
    assert measured.spread == pytest.approx(formula.spread, rel=0.12)


def test_one_model_twice_the_items_half_the_variance() -> None:
    metric = METRICS["auroc"]
    few, many = (power.noise_of_columns(metric, classified(n, 1.0, 1)) for n in (1000, 4000))
    assert few.spread == pytest.approx(many.spread, rel=0.1)
    assert power.items_needed(few, 0.02) == pytest.approx(power.items_needed(many, 0.02), rel=0.2)


def test_two_models_are_measured_as_a_pair() -> None:
    metric, a, b = METRICS["accuracy"], classified(1000, 1.0, 2), classified(1000, 1.0, 2)
    close = b.values["logprob"] + 0.1 * np.random.default_rng(3).normal(size=(1000, 2))
    b = Columns(b.kind, b.ids, b.groups, b.slices, b.values | {"logprob": close})
    differ = float(np.mean(np.argmax(a.values["logprob"], 1) != np.argmax(close, 1)))
    assert power.noise_of_columns(metric, a, b).spread == pytest.approx(math.sqrt(differ), rel=0.1)


def test_the_design_effect_of_a_sample_is_in_its_spread() -> None:
    base = classified(300, 1.0, 4)
    ids = tuple(map(str, range(1200)))
    groups = tuple(base.ids[i // 4] for i in range(1200))  # every item four times
    repeated = Columns(base.kind, ids, groups, ids, {k: np.repeat(v, 4, axis=0) for k, v in base.values.items()})
    noise = power.noise_of_columns(METRICS["accuracy"], repeated)
    assert noise.design_effect == pytest.approx(4, rel=0.15)
    assert noise.spread == pytest.approx(2 * power.noise_of_columns(METRICS["accuracy"], base).spread, rel=0.1)


def test_bits_per_byte_are_measured_as_shares_of_themselves() -> None:
    rng = np.random.default_rng(5)
    ids = tuple(map(str, range(300)))
    n_bytes = rng.integers(100, 1000, 300).astype(float)
    a = Columns("perplexity", ids, ids, ids, {"bits": n_bytes * rng.uniform(0.8, 1.2, 300), "bytes": n_bytes})
    halved = Columns("perplexity", ids, ids, ids, {"bits": a.values["bits"] * 3, "bytes": n_bytes})
    metric = METRICS["bits_per_byte"]
    spreads = [power.noise_of_columns(metric, c, relative=True).spread for c in (a, halved)]
    assert spreads[0] == pytest.approx(spreads[1])


def test_what_is_assumed_without_a_measurement() -> None:
    assert power.assumed_noise(METRICS["accuracy"]).spread == pytest.approx(math.sqrt(0.2))
    rare, even = (power.assumed_noise(METRICS["auroc"], positive_share=p).spread for p in (0.05, 0.5))
    assert rare > 1.5 * even
    with pytest.raises(BessemerError, match="macro_f1 has no formula"):
        power.assumed_noise(METRICS["macro_f1"])


@pytest.mark.parametrize(
    "ask",
    [
        lambda: power.noise_of_shares(0),
        lambda: power.noise_of_shares(1.2),
        lambda: power.noise_of_shares(design_effect=0),
        lambda: power.noise_of_auroc(0),
        lambda: power.noise_of_auroc(0.5, auroc=1),
        lambda: power.noise_of_auroc(0.5, correlation=1),
        lambda: power.smallest_effect(power.noise_of_shares(), 0),
        lambda: power.items_needed(power.noise_of_shares(), 0),
        lambda: power.items_needed(power.noise_of_shares(), 0.1, alpha=0),
        lambda: power.noise_of_columns(METRICS["accuracy"], classified(50, 1, 0), classified(50, 1, 0)),
    ],
)
def test_what_makes_no_sense_is_refused(ask: object) -> None:
    with pytest.raises(BessemerError, match="fix:"):
        ask()  # type: ignore[operator]
