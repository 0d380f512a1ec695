from __future__ import annotations

import itertools
import json
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as reference
from sklearn.metrics import roc_auc_score

from bessemer.errors import BessemerError
from bessemer.evaluate import stats
from bessemer.evaluate.metrics import CELLS, METRICS, Columns, metric_named

# -- columns: one model, two models, several seeds ----------------------------------------------------------

SCORE, AUROC = METRICS["score"], METRICS["auroc"]


def graded(right: Any, size: int = 1) -> Columns:
    array = np.array(right, np.float64).reshape(len(right), -1)
    ids = tuple(f"i{i}" for i in range(len(array)))
    groups = tuple(f"g{i // size}" for i in range(len(array)))
    return Columns("judge", ids, groups, ("",) * len(array), {"right": array})


def classified(label: NDArray[Any], odds: NDArray[Any], size: int = 1) -> Columns:
    ids = tuple(f"i{i}" for i in range(len(label)))
    groups = tuple(f"g{i // size}" for i in range(len(label)))
    logprob = np.stack([odds, np.zeros(len(odds))], axis=1)
    return Columns("classify", ids, groups, ("",) * len(label), {"label": label, "logprob": logprob})


def models(shift: float, seed: int = 0, n_items: int = 300, size: int = 1) -> tuple[Columns, Columns]:
    """Two models, the second one better by `shift`."""
    rng = np.random.default_rng(seed)
    label = rng.permutation(n_items) % 3 != 0
    common = rng.normal(size=n_items)
    odds = [common + 0.5 * rng.normal(size=n_items) + (1 + s) * (~label - 0.5) for s in (0, shift)]
    before, after = (classified(label.astype(np.int64), o, size) for o in odds)
    return before, after


@given(st.floats(0.5, 0.9999), st.floats(1, 1e5))
def test_t_quantiles_equal_scipy(share: float, freedom: float) -> None:
    found = stats.t_quantile(share, freedom)
    expected = reference.t.ppf(share, freedom)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert stats.t_tail(found, freedom) == pytest.approx(2 * (1 - share), rel=5e-3, abs=1e-6)


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = stats.Draws.of([f"g{i // 3}" for i in range(30)], draws=50, seed=3)
    together = np.concatenate(list(draws.parts()))
    monkeypatch.setattr("bessemer.evaluate.metrics.CELLS", 100)
    assert np.array_equal(together, np.concatenate(list(draws.parts())))
    assert together.shape == (51, 30) and (together[0] == 1).all() and (together.sum(axis=1) == 30).all()
    assert (together.reshape(51, 10, 3) == together.reshape(51, 10, 3)[:, :, :1]).all()  # clusters stay whole
    assert CELLS > 100


def test_a_mean_has_the_interval_of_the_textbook() -> None:
    """Symmetric around one half, so the log-odds scale changes little: Student's interval."""
    right = np.arange(200) % 2
    found = stats.estimate(SCORE, graded(right), draws=20_000)
    wide = reference.t.ppf(0.975, 199) * right.std(ddof=1) / np.sqrt(200)
    assert found.result.value == 0.5 and found.level == 0.95
    assert (found.result.high - found.result.low) / 2 == pytest.approx(wide, rel=0.03)
    assert found.scope == stats.THIS_ONLY and found.design_effect == 1.0


def test_the_design_effect_of_repeated_items_is_their_number() -> None:
    right = np.random.default_rng(0).random(200) < 0.7
    once, four = graded(right), graded(np.repeat(right, 4), size=4)
    found = stats.estimate(SCORE, four)
    assert found.n_items == 800 and found.n_clusters == 200
    assert found.design_effect == pytest.approx(4, rel=0.15)
    assert found.error == pytest.approx(stats.estimate(SCORE, once).error, rel=0.06)
    assert stats.design_effect(SCORE, once) == 1.0


@pytest.mark.parametrize(("right", "low", "high"), [(1.0, 0.025 ** (1 / 50), 1.0), (0.0, 0.0, 1 - 0.025 ** (1 / 50))])
def test_all_right_is_not_certainty(right: float, low: float, high: float) -> None:
    found = stats.estimate(SCORE, graded([right] * 50)).result
    assert (found.value, found.low, found.high) == (right, pytest.approx(low), pytest.approx(high))
    few = stats.estimate(SCORE, graded([right] * 50, size=10)).result  # 5 groups know less
    assert few.high - few.low > 5 * (found.high - found.low)


@given(st.integers(1, 49), st.sampled_from([0.01, 0.05, 0.2]))
def test_intervals_of_shares_stay_inside_0_and_1_and_hold_the_value(n_right: int, alpha: float) -> None:
    found = stats.estimate(SCORE, graded(np.arange(50) < n_right), alpha=alpha, draws=200).result
    assert 0 < found.low < found.value < found.high < 1


def test_a_difference_is_paired_and_says_who_won() -> None:
    before, after = models(1.0)
    win = stats.difference(AUROC, before, after, margin=0.01)
    loss = stats.difference(AUROC, after, before, margin=0.01)
    assert (win.answer, loss.answer) == ("WIN", "LOSS")
    assert win.change.value == pytest.approx(win.after.value - win.before.value) == -loss.change.value
    assert win.change.low == pytest.approx(-loss.change.high)
    assert win.p == loss.p == pytest.approx(1 / 2000) and win.p_by == "permutation"
    unpaired = np.hypot(stats.estimate(AUROC, before).error, stats.estimate(AUROC, after).error)
    assert win.error < 0.7 * unpaired
    assert win.change.low < win.inner.low < win.inner.high < win.change.high
    json.dumps(win.as_dict(), allow_nan=False)


def test_less_is_better_for_bits() -> None:
    rng = np.random.default_rng(0)
    ids = tuple(map(str, range(100)))
    n_bytes = rng.integers(100, 900, 100).astype(float)
    bits = n_bytes * rng.uniform(0.9, 1.1, 100)
    pair = [Columns("perplexity", ids, ids, ids, {"bits": bits * f, "bytes": n_bytes}) for f in (1, 0.95)]
    found = stats.difference(METRICS["bits_per_byte"], *pair, margin=0.01, relative=True)
    assert found.answer == "WIN" and found.change.value == pytest.approx(-0.05)
    assert stats.difference(METRICS["bits_per_byte"], *pair, margin=0.06, relative=True).answer == "EQUIVALENT"


@pytest.mark.parametrize(
    ("change", "inner", "higher", "word"),
    [
        ((0.01, 0.05), (0.015, 0.045), True, "WIN"),
        ((0.01, 0.05), (0.015, 0.045), False, "LOSS"),
        ((-0.05, -0.01), (-0.045, -0.015), True, "LOSS"),
        ((-0.05, -0.01), (-0.045, -0.015), False, "WIN"),
        ((-0.01, 0.05), (0.0, 0.04), True, "INCONCLUSIVE"),
        ((-0.021, 0.021), (-0.019, 0.019), True, "EQUIVALENT"),  # the 90 % interval decides: two one-sided tests
        ((-0.03, 0.021), (-0.02, 0.019), True, "INCONCLUSIVE"),  # on the margin is not inside
        ((0.001, 0.009), (0.002, 0.008), True, "EQUIVALENT"),  # a gain that is shown to be too small to matter
        ((0.0, 0.05), (0.01, 0.04), True, "INCONCLUSIVE"),
    ],
)
def test_the_four_words(change: tuple[float, float], inner: tuple[float, float], higher: bool, word: str) -> None:
    intervals = [stats.Interval(sum(i) / 2, *i) for i in (change, inner)]
    assert stats.answer_word(*intervals, margin=0.02, higher_is_better=higher) == word


def test_few_items_on_which_all_agree_are_not_equivalence() -> None:
    few, many = graded([1.0] * 20), graded([1.0] * 2000)
    assert stats.difference(SCORE, few, few, margin=0.02).answer == "INCONCLUSIVE"
    assert stats.difference(SCORE, many, many, margin=0.02).answer == "EQUIVALENT"


@pytest.mark.parametrize(("n_items", "most"), [(165, -1), (184, 0), (245, 0), (500, 3)])
def test_a_loss_of_the_margin_is_not_called_kept(n_items: int, most: int) -> None:
    """With few changes the bootstrap knows its own spread badly: one lost answer of 165 was "kept", none was not."""
    wrong = np.zeros(n_items)
    lows = []
    for n_lost in range(7):
        wrong[:n_lost] = 1
        lows.append(stats.difference(SCORE, graded(np.ones(n_items)), graded(1 - wrong), margin=0.02).change.low)
    assert lows == sorted(lows, reverse=True)
    assert [n for n, low in enumerate(lows) if low >= -0.02] == list(range(most + 1))
    assert reference.binom.cdf(most, n_items, 0.02) <= 0.025


def test_many_changes_have_the_interval_of_the_bootstrap() -> None:
    rng = np.random.default_rng(5)
    sides = [graded(rng.random(1000) < share) for share in (0.7, 0.75)]
    found = stats.difference(SCORE, *sides, margin=0.02, permutations=0)
    right = [side.values["right"][:, 0] for side in sides]
    error = (right[1] - right[0]).std(ddof=1) / np.sqrt(1000)
    assert found.change.high - found.change.low == pytest.approx(2 * 1.962 * error, rel=0.06)


def test_what_a_group_always_gets_half_right_is_not_certain() -> None:
    """Twins under a model that always says yes: every group is as good as any other."""
    found = stats.estimate(SCORE, graded([1, 0] * 50, size=2)).result
    assert found.value == 0.5 and found.low < 0.45 and found.high > 0.55


def test_a_permutation_p_equals_counting_all_swaps() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(20).round(2), rng.random(20).round(2)
    gaps = (b - a).reshape(10, 2).sum(axis=1)  # 10 clusters of two
    swaps = np.array(list(itertools.product([-1, 1], repeat=10)))
    exact = np.mean(np.abs(swaps @ gaps) >= abs(gaps.sum()) - 1e-12)
    found = stats.permutation_p(SCORE, graded(a, 2), graded(b, 2), permutations=20_000)
    assert found == pytest.approx(exact, abs=0.012)


def test_a_permutation_p_of_auroc_equals_counting_all_swaps_of_ranks() -> None:
    rng = np.random.default_rng(1)
    label = np.arange(10) % 2
    ranks = [np.argsort(np.argsort(rng.normal(size=10) - 0.8 * label)).astype(float) for _ in range(2)]

    def gap(swap: Any) -> float:
        sides = np.where(swap, ranks[1], ranks[0]), np.where(swap, ranks[0], ranks[1])
        return abs(float(np.subtract(*(roc_auc_score(label == 0, s) for s in sides))))

    gaps = np.array([gap(s) for s in itertools.product([False, True], repeat=10)])
    exact = np.mean(gaps >= gaps[0] - 1e-12)
    for scale in (1.0, 40.0):  # of one model's scores: it does not matter
        pair = (classified(label, ranks[0]), classified(label, scale * ranks[1] - 3))
        assert stats.permutation_p(AUROC, *pair, permutations=10_000) == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "auroc", "auprc", "recall_at_precision", "ece", "both_right"])
def test_every_metric_has_a_difference_and_equal_models_have_none(name: str) -> None:
    before, after = models(1.5, size=2)
    found = stats.difference(METRICS[name], before, after, margin=0.001, draws=300, permutations=99)
    assert found.p <= 0.1 or name == "ece"
    same = stats.difference(METRICS[name], before, before, margin=0.001, draws=300, permutations=99)
    assert same.p == 1.0 and same.change.value == 0 and same.change.low <= 0 <= same.change.high
    assert same.answer == "INCONCLUSIVE"  # 150 groups cannot show a margin of 0.1 %


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_by_its_definition(p_values: list[float]) -> None:
    adjusted = stats.holm(p_values)
    order = np.argsort(p_values, kind="stable")
    worst = 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, p_values[i] * (len(p_values) - rank)))
        assert adjusted[i] == pytest.approx(worst)


def test_holm_takes_back_a_win_that_was_luck() -> None:
    sure, lucky = (stats.difference(AUROC, *models(1.0), margin=0.01, permutations=0) for _ in range(2))
    found = stats.adjust(
        {"sure": replace(sure, p=0.001), "lucky": replace(lucky, p=0.04), "other": replace(lucky, p=0.5)}
    )
    assert [d.answer for d in found.values()] == ["WIN", "INCONCLUSIVE", "INCONCLUSIVE"]
    assert [d.p_adjusted for d in found.values()] == pytest.approx([0.003, 0.08, 0.5])


def test_seeds_are_a_second_level() -> None:
    rng = np.random.default_rng(0)
    chances = [0.60, 0.70, 0.80]
    seeds = [graded(rng.random(2000) < c) for c in chances]
    start = graded(rng.random(2000) < 0.5)
    one = stats.difference(SCORE, start, seeds[2], margin=0.02)
    all_of_them = stats.difference(SCORE, start, seeds, margin=0.02)
    assert one.answer == "WIN" and one.scope == stats.THIS_ONLY
    assert all_of_them.answer == "INCONCLUSIVE" and all_of_them.scope == "seeds: 1 before, 3 after"
    values = [float(s.values["right"].mean()) for s in seeds]
    assert all_of_them.after.value == pytest.approx(np.mean(values))
    between = np.std(values, ddof=1) / np.sqrt(3)
    assert all_of_them.error == pytest.approx(between, rel=0.1)  # items add little to it
    width = all_of_them.change.high - all_of_them.change.low
    assert width / 2 == pytest.approx(reference.t.ppf(0.975, 2) * between, rel=0.15)
    assert all_of_them.p_by == "t" and 0.05 < all_of_them.p < 0.2
    assert stats.estimate(SCORE, seeds).scope == "3 seeds"


def test_what_every_item_of_every_seed_shows_is_certain() -> None:
    """Without any spread there is no t; two clusters that moved alike are still little."""
    for n, p, answer in ((100, 0.0, "WIN"), (2, 0.5, "INCONCLUSIVE")):
        start, better = graded(np.zeros(n)), [graded(np.ones(n))] * 3
        found = stats.difference(SCORE, start, better, margin=0.02)
        assert found.p == pytest.approx(p, abs=1e-9) and found.answer == answer
        assert stats.difference(SCORE, start, [start] * 3, margin=0.02).p == 1.0


def test_equal_seeds_add_nothing() -> None:
    before, after = models(1.0)
    one = stats.difference(AUROC, before, after, margin=0.01, permutations=0)
    three = stats.difference(AUROC, [before] * 3, [after] * 3, margin=0.01, permutations=0)
    assert three.error == pytest.approx(one.error) and three.change == one.change


def test_transitions_are_counted_and_a_flip_that_cancels_is_seen() -> None:
    before, after = graded([1.0] * 60 + [0.0] * 40), graded([1.0] * 40 + [0.0] * 40 + [1.0] * 20)
    found = stats.transitions(before, after)
    assert found.right_to_wrong.value == 0.2 and found.wrong_to_right.value == 0.2
    assert 0.12 < found.right_to_wrong.low < 0.2 < found.right_to_wrong.high < 0.3
    assert found.forgot is None and found.learnt is None  # free answers cannot be guessed
    assert stats.difference(SCORE, before, after, margin=0.02).change.value == 0.0
    json.dumps(found.as_dict(), allow_nan=False)
    none = stats.transitions(before, before)
    assert none.right_to_wrong.low == 0.0 < none.right_to_wrong.high < 0.05


def test_guessing_is_taken_out_of_transitions() -> None:
    """4 choices: 50 % known by both, 10 % forgotten, 5 % learnt, 35 % guessed twice."""
    rng = np.random.default_rng(0)
    n_items = 20_000
    state = rng.choice(4, n_items, p=[0.5, 0.1, 0.05, 0.35])
    known = [np.isin(state, s) for s in ([0, 1], [0, 2])]
    ids = tuple(map(str, range(n_items)))
    pair: list[Columns] = []
    for sure in known:
        right = sure | (rng.random(n_items) < 0.25)
        logprob = np.where(right[:, None], [-1.0, -2, -2, -2], [-2.0, -1, -2, -2])
        values = {"gold": np.zeros(n_items, np.int64), "logprob": logprob, "bytes": np.ones((n_items, 4))}
        pair.append(Columns("choice", ids, ids, ids, values))
    found = stats.transitions(*pair, draws=500)
    assert found.right_to_wrong.value == pytest.approx(0.1 * 0.75 + 0.35 * 0.25 * 0.75, abs=0.01)
    assert (
        found.forgot and found.forgot.low < 0.1 < found.forgot.high and found.forgot.value < found.right_to_wrong.value
    )
    assert found.learnt and found.learnt.low < 0.05 < found.learnt.high


def test_models_that_were_asked_other_items_are_refused() -> None:
    before, after = models(0.5)
    with pytest.raises(BessemerError, match="300 and 299"):
        stats.difference(AUROC, before, after.take(np.arange(299)), margin=0.1)
    with pytest.raises(BessemerError, match="item x: .*not asked the same"):
        stats.transitions(before, replace(after, ids=("i0", "x", *after.ids[2:])))
    label = after.values["label"].copy()
    label[7] = 1 - label[7]
    with pytest.raises(BessemerError, match="item i7: the right answer is not the same"):
        stats.permutation_p(AUROC, before, replace(after, values=after.values | {"label": label}))


def test_a_class_that_too_few_groups_hold_has_no_interval() -> None:
    label = (np.arange(40) > 0).astype(np.int64)
    lonely = classified(label, np.random.default_rng(0).normal(size=40))
    with pytest.raises(BessemerError, match="auroc has no interval: 1 group "):
        stats.estimate(AUROC, lonely)
    with pytest.raises(BessemerError, match="score has no interval: 1 group "):
        stats.estimate(SCORE, graded([1.0, 0.0], size=2))
    assert stats.estimate(metric_named("accuracy"), lonely).n_clusters == 40


def test_what_two_judges_graded_is_not_compared() -> None:
    first, second = (replace(graded(np.ones(20)), judge=name) for name in ("judge-1/", "judge-2/"))
    assert Columns.from_json(json.loads(json.dumps(first.as_json()))) == first != second
    with pytest.raises(BessemerError, match="two judges graded: judge-1/ and judge-2/"):
        stats.difference(SCORE, first, second, margin=0.02)


def test_a_cluster_may_have_a_long_name() -> None:
    """Comments are clusters' names; an array of them would be as wide as the longest."""
    names = ["x" * 100_000, *(f"comment {n}" for n in range(2000))]
    tracemalloc.start()
    drawn = stats.Draws.of(names)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000 and drawn.n_clusters == 2001
    tracemalloc.stop()


def test_many_shares_at_once_are_what_each_is_alone() -> None:
    rng = np.random.default_rng(1)
    groups = [f"g{n}" for n in rng.integers(0, 30, 90)]
    values = (rng.random((90, 4)) < [0.1, 0.5, 0.9, 1.0]).astype(float)
    for column, found in zip(values.T, stats.shares(values, groups), strict=True):
        ids = tuple(map(str, range(90)))
        alone = Columns("judge", ids, tuple(groups), ("",) * 90, {"right": column[:, None]})
        assert found == stats.estimate(METRICS["score"], alone).result
    with pytest.raises(BessemerError, match="no interval"):
        stats.shares(values, ["one"] * 90)
