from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from bessemer.evaluate import stats

items = st.lists(st.tuples(st.integers(-5, 5), st.booleans(), st.integers(1, 3)), min_size=2, max_size=40).filter(
    lambda x: 0 < sum(label for _, label, _ in x) < len(x)
)


@given(items)
def test_weighted_auroc_equals_sklearn(x: list[tuple[int, bool, int]]) -> None:
    scores, labels, weights = (np.array(v) for v in zip(*x, strict=True))
    ours = stats.weighted_auroc(scores.astype(float), labels, weights[None].astype(float))[0]
    assert np.isclose(ours, roc_auc_score(labels, scores, sample_weight=weights))


def test_all_right_needs_the_whole_cluster() -> None:
    scores, labels = np.array([1.0, -1.0, 2.0, 2.0]), np.array([True, False, True, False])
    assert stats.all_right(scores, labels, ["a", "a", "b", "b"]).tolist() == [1, 1, 0, 0]


def test_equal_models_have_a_change_of_exactly_zero() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=60), rng.random(60) > 0.5
    weights = stats.draw_weights([f"c{i // 2}" for i in range(60)])
    compared = stats.compare_auroc(scores, scores, labels, weights)
    assert compared.change == stats.Interval(0.0, 0.0, 0.0)


def test_clusters_widen_the_interval_and_pairing_narrows_it() -> None:
    rng = np.random.default_rng(1)
    values = np.repeat(rng.normal(size=40), 10)
    alone = stats.weighted_mean(stats.draw_weights([str(i) for i in range(400)]))
    together = stats.weighted_mean(stats.draw_weights([str(i // 10) for i in range(400)]))
    width = {f: (i := stats.interval(f(values))).high - i.low for f in (alone, together)}
    assert width[together] > 2 * width[alone]
    paired = stats.compare(together, values, values + 0.1 + 0.01 * rng.normal(size=400))
    assert paired.change.high - paired.change.low < 0.1 * width[together]
    assert paired.change.low > 0


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_a_95_percent_interval_covers_about_95_percent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    covered = 0
    for i in range(60):
        values = rng.normal(size=80)
        interval = stats.interval(
            stats.weighted_mean(stats.draw_weights(list(map(str, range(80))), draws=400, seed=i))(values)
        )
        covered += interval.low <= 0 <= interval.high
    assert covered >= 48  # below this with probability < 1e-4 when the coverage is 93 %
