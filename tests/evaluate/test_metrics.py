from __future__ import annotations

import itertools
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
)

from bessemer.errors import BessemerError
from bessemer.evaluate import metrics
from bessemer.evaluate.metrics import METRICS, Columns, metric_named, metrics_for, metrics_of
from bessemer.evaluate.tasks import METRICS_OF
from bessemer.files import canonical_json

Floats = NDArray[np.float64]


def columns(kind: str, groups: list[str] | None = None, **values: Any) -> Columns:
    arrays = {k: np.array(v) for k, v in values.items()}
    n_items = len(next(iter(arrays.values())))
    ids = tuple(f"i{i}" for i in range(n_items))
    return Columns(kind, ids, tuple(groups or [""] * n_items), ("",) * n_items, arrays)


def whole(n_items: int) -> Floats:
    return np.ones((1, n_items))


@st.composite
def classified(draw: st.DrawFn, n_options: int = 2, all_there: bool = True) -> tuple[Columns, Floats]:
    """Few different scores, so that many are tied; weights are counts, some of them 0."""
    n_items = draw(st.integers(n_options, 30))
    label = draw(st.lists(st.integers(0, n_options - 1), min_size=n_items, max_size=n_items))
    if all_there:
        label[:n_options] = range(n_options)
    rows = st.lists(st.integers(-4, 3), min_size=n_options, max_size=n_options)
    logprob = draw(st.lists(rows, min_size=n_items, max_size=n_items))
    weights = draw(st.lists(st.integers(0, 3), min_size=n_items, max_size=n_items))
    if all_there:
        weights[:n_options] = [1] * n_options
    weights[0] = 1
    return columns("classify", label=label, logprob=logprob), np.array([weights], np.float64)


def odds(c: Columns) -> Floats:
    return c.values["logprob"][:, 0] - c.values["logprob"][:, 1]


@given(classified(3, all_there=False))
def test_accuracy_and_f1_equal_sklearn(given_: tuple[Columns, Floats]) -> None:
    c, weights = given_
    label, said = c.values["label"], np.argmax(c.values["logprob"], axis=1)
    ours = METRICS["accuracy"].compute(c, weights)[0]
    assert np.isclose(ours, accuracy_score(label, said, sample_weight=weights[0]))
    there = weights[0] > 0  # sklearn counts classes that only items of weight 0 have
    expected = f1_score(label[there], said[there], average="macro", sample_weight=weights[0][there])
    assert np.isclose(METRICS["macro_f1"].compute(c, weights)[0], expected)


@given(classified())
def test_binary_rankings_equal_sklearn(given_: tuple[Columns, Floats]) -> None:
    c, weights = given_
    positive, w = c.values["label"] == 0, weights[0]
    assert np.isclose(METRICS["auroc"].compute(c, weights)[0], roc_auc_score(positive, odds(c), sample_weight=w))
    expected = average_precision_score(positive, odds(c), sample_weight=w)
    assert np.isclose(METRICS["auprc"].compute(c, weights)[0], expected)


@given(classified(), st.sampled_from([0.25, 0.5, 0.75, 0.9, 1.0]))
def test_recall_at_precision_equals_the_curve_of_sklearn(given_: tuple[Columns, Floats], wanted: float) -> None:
    c, weights = given_
    positive = c.values["label"] == 0
    precision, recall, _ = precision_recall_curve(positive, odds(c), sample_weight=weights[0])
    expected = max(r for p, r in zip(precision, recall, strict=True) if p >= wanted - 1e-12)
    found = metric_named("recall_at_precision", precision=wanted).compute(c, weights)[0]
    assert np.isclose(found, expected)


@given(classified(4))
def test_auroc_of_many_answers_is_the_mean_of_one_against_the_rest(given_: tuple[Columns, Floats]) -> None:
    c, weights = given_
    scores = metrics.one_against_rest(c.values["logprob"])
    areas = [roc_auc_score(c.values["label"] == k, scores[:, k], sample_weight=weights[0]) for k in range(4)]
    assert np.isclose(METRICS["auroc"].compute(c, weights)[0], np.mean(areas))


def test_auroc_of_many_answers_equals_sklearn() -> None:
    rng = np.random.default_rng(0)
    label, weights = rng.integers(0, 5, 300), rng.integers(1, 4, 300)
    logprob = rng.normal(size=(300, 5)) + 1.5 * np.eye(5)[label]
    shares = np.exp(logprob) / np.exp(logprob).sum(axis=1, keepdims=True)
    expected = roc_auc_score(label, shares, multi_class="ovr", average="macro")
    assert np.isclose(METRICS["auroc"].value(columns("classify", label=label, logprob=logprob)), expected)
    ours = METRICS["auroc"].compute(columns("classify", label=label, logprob=logprob), weights[None].astype(float))
    by_hand = [roc_auc_score(label == k, shares[:, k], sample_weight=weights) for k in range(5)]
    assert np.isclose(ours[0], np.mean(by_hand))


def test_sure_answers_do_not_round_to_ties() -> None:
    """Softmax shares of all six are 1.0 or 0.0 in float64; their order is perfect all the same."""
    logprob = [[0.0, -900.0], [0.0, -800.0], [0.0, -700.0], [0.0, -600.0], [0.0, -500.0], [0.0, -400.0]]
    c = columns("classify", label=[0, 0, 0, 1, 1, 1], logprob=logprob)
    assert METRICS["auroc"].value(c) == 1.0


@given(st.sampled_from(list(METRICS)), st.integers(0, 10_000))
def test_a_weight_of_n_is_n_items(name: str, seed: int) -> None:
    """Every metric, with and without groups: weights are counts."""
    rng = np.random.default_rng(seed)
    metric = metric_named(name, k=2)
    c = example(metric.kinds[0], rng)
    counts = rng.integers(1, 4, len(c))
    if name == "both_right":  # a group is drawn whole
        counts = np.repeat(rng.integers(1, 4, len(c) // 2), 2)
    rows = np.repeat(np.arange(len(c)), counts)
    nth = np.concatenate([np.arange(n) for n in counts])
    groups = tuple(f"{c.groups[i]}/{k}" for i, k in zip(rows, nth, strict=True))
    ids = tuple(f"{i}/{k}" for i, k in zip(rows, nth, strict=True))
    copied = Columns(c.kind, ids, groups, ids, {k: v[rows] for k, v in c.values.items()})
    assert np.isclose(metric.compute(c, counts[None].astype(float))[0], metric.value(copied))


def example(kind: str, rng: np.random.Generator) -> Columns:
    groups = [f"g{i // 2}" for i in range(40)]
    match kind:
        case "classify":
            return columns(kind, groups, label=np.arange(40) % 2, logprob=rng.integers(-5, 0, (40, 2)))
        case "choice":
            logprob, lengths = rng.normal(size=(40, 4)), rng.integers(1, 30, (40, 4)).astype(float)
            logprob[::3, 3] = lengths[::3, 3] = np.nan
            return columns(kind, groups, gold=rng.integers(0, 3, 40), logprob=logprob, bytes=lengths)
        case "pairs":
            return columns(kind, groups, logprob=rng.normal(size=(40, 2)))
        case "perplexity":
            return columns(kind, groups, bits=rng.exponential(900, 40), bytes=rng.integers(1, 900, 40).astype(float))
        case _:
            return columns(kind, groups, right=rng.integers(0, 2, (40, 3)).astype(float))


@pytest.mark.parametrize("name", METRICS)
def test_rows_of_weights_do_not_touch_each_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    metric = METRICS[name]
    c = example(metric.kinds[0], rng)
    weights = np.repeat(rng.integers(0, 3, (50, 20)), 2, axis=1).astype(float)
    alone = [metric.compute(c, w[None])[0] for w in weights]
    together = metric.compute(c, weights)
    monkeypatch.setattr(metrics, "CELLS", 3 * len(c))  # parts of three rows
    assert np.allclose(together, alone)
    assert np.allclose(metric.compute(c, weights), alone)


def test_accuracy_norm_divides_by_bytes_and_skips_what_is_not_there() -> None:
    nan = np.nan
    c = columns(
        "choice",
        gold=[1, 0],
        logprob=[[-4.0, -6.0, -9.0], [-3.0, -2.0, nan]],
        bytes=[[2.0, 6.0, 3.0], [3.0, 4.0, nan]],
    )
    assert METRICS["accuracy"].value(c) == 0.0
    assert METRICS["accuracy_norm"].value(c) == 0.5  # -2, -1, -3: the second; -1, -0.5: the second, not the first


def test_a_model_that_cannot_tell_gains_nothing_from_the_order() -> None:
    """The good one stands first in every pair, and often in choices; equal scores are worth a guess."""
    assert METRICS["accuracy"].value(columns("pairs", logprob=[[-1.0, -1.0], [-1.0, -2.0]])) == 0.75
    c = columns("choice", gold=[0], logprob=[[-1.0, -1.0, -1.0, -5.0]], bytes=[[1.0] * 4])
    assert METRICS["accuracy"].value(c) == pytest.approx(1 / 3)


def test_a_nan_or_inf_of_weights_is_never_a_number() -> None:
    """A draw without a class has no area; one without items has no mean."""
    c = columns("classify", label=[0, 1, 1], logprob=[[-1.0, -2.0], [-1.0, -1.0], [-2.0, -1.0]])
    weights = np.array([[0.0, 1, 1], [1, 0, 0], [1, 1, 1]])
    assert np.isnan(METRICS["auroc"].compute(c, weights)).tolist() == [True, True, False]
    assert np.isnan(METRICS["accuracy"].compute(c, np.zeros((1, 3)))).all()


def test_calibration_error_by_hand() -> None:
    rng = np.random.default_rng(2)
    logprob, label = rng.normal(size=(200, 3)) * 2, rng.integers(0, 3, 200)
    weights = rng.integers(0, 4, 200).astype(float)
    shares = np.exp(logprob) / np.exp(logprob).sum(axis=1, keepdims=True)
    sure, right = shares.max(axis=1), shares.argmax(axis=1) == label
    error = 0.0
    for k in range(15):
        inside = (sure > k / 15) & (sure <= (k + 1) / 15)
        if (w := weights[inside]).sum():
            gap = abs(np.average(right[inside], weights=w) - np.average(sure[inside], weights=w))
            error += w.sum() / weights.sum() * gap
    c = columns("classify", label=label, logprob=logprob)
    assert np.isclose(METRICS["ece"].compute(c, weights[None])[0], error)
    assert not METRICS["ece"].higher_is_better


def test_calibration_error_of_choices_leaves_out_what_is_not_there() -> None:
    nan = np.nan
    c = columns("choice", gold=[0, 1], logprob=[[-1.0, -1.0, nan], [-1.0, -1.0, -1.0]], bytes=[[1, 1, nan], [1, 1, 1]])
    assert METRICS["ece"].value(c) == pytest.approx(0.0)  # half and a third sure, worth half and a third


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=6), st.integers(1, 5))
def test_pass_at_k_is_the_share_of_draws_of_k_with_a_right_one(right: list[list[bool]], k: int) -> None:
    shares = [np.mean([any(draw) for draw in itertools.combinations(row, k)]) for row in right]
    c = columns("generate", right=np.array(right, float))
    assert np.isclose(metric_named("pass_at_k", k=k).value(c), np.mean(shares))


def test_pass_at_k_needs_k_samples_and_counts_whole_answers_only() -> None:
    c = columns("generate", right=[[0.9, 0.99], [1.0, 0.0]])
    assert metric_named("pass_at_k", k=1).value(c) == 0.25
    assert METRICS["exact_match"].value(c) == pytest.approx((0.9 + 0.99 + 1) / 4)
    with pytest.raises(BessemerError, match="pass@3 of 2 samples"):
        metric_named("pass_at_k", k=3).value(c)


def test_both_right_counts_groups() -> None:
    c = columns(
        "classify",
        ["a", "a", "b", "b", "b", ""],
        label=[0, 1, 0, 0, 1, 1],
        logprob=[[-1, -2], [-2, -1], [-1, -2], [-2, -1], [-2, -1], [-2, -1]],
    )
    assert METRICS["both_right"].value(c) == pytest.approx(2 / 3)  # a and the single one; b has a mistake
    assert METRICS["both_right"].compute(c, np.array([[1.0, 1, 2, 2, 2, 0]]))[0] == pytest.approx(1 / 3)


def test_bits_per_byte_is_a_ratio_of_sums() -> None:
    c = columns("perplexity", bits=[10.0, 90.0], bytes=[10.0, 30.0])
    found = METRICS["bits_per_byte"].compute(c, np.array([[1.0, 1], [1, 2]]))
    assert found.tolist() == [2.5, 190 / 70]


# -- columns on disk ----------------------------------------------------------------------------------------


@given(st.sampled_from(["classify", "choice", "pairs", "generate", "judge", "perplexity"]), st.integers(0, 1000))
def test_columns_come_back_from_json_bit_by_bit(kind: str, seed: int) -> None:
    c = example(kind, np.random.default_rng(seed))
    for write in (json.dumps, canonical_json):
        back = Columns.from_json(json.loads(write(c.as_json())))
        assert back == c
        assert {k: v.dtype for k, v in back.values.items()} == {k: v.dtype for k, v in c.values.items()}
    json.dumps(c.as_json(), allow_nan=False)  # JSON proper


def test_whole_numbers_of_another_writer_are_the_same_columns() -> None:
    c = columns("perplexity", bits=[8.0], bytes=[2.0])
    text = json.dumps(c.as_json()).replace("8.0", "8").replace("2.0", "2")
    assert Columns.from_json(json.loads(text)) == c


def test_columns_cannot_be_changed_and_some_items_can_be_taken() -> None:
    c = example("classify", np.random.default_rng(0))
    with pytest.raises(ValueError, match="read-only"):
        c.values["label"][0] = 1
    some = c.take(np.arange(40) % 4 == 0)
    assert some.ids == c.ids[::4] and some == c.take(range(0, 40, 4))
    assert some != c
    assert c != "columns"


def test_what_was_given_is_copied() -> None:
    mine = np.array([1.0, 2.0])
    values: dict[str, NDArray[Any]] = {"bits": mine, "bytes": mine}
    c = Columns("perplexity", ("a", "b"), ("", ""), ("", ""), values)
    mine[0] = 5
    assert c.values["bits"][0] == 1.0 and values["bits"] is mine


# -- refusals -----------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("kind", "values", "where", "what"),
    [
        ("classify", {"label": [0, 1], "logprob": [[-1, -2], [NAN, -1]]}, "i1", "no finite number: logprob is .nan"),
        ("classify", {"label": [0, 1], "logprob": [[-INF, -2], [-1, -1]]}, "i0", "no finite number"),
        ("classify", {"label": [0, 2], "logprob": [[-1, -2], [-1, -1]]}, "i1", "none of the answers"),
        ("classify", {"label": [-1, 0], "logprob": [[-1, -2], [-1, -1]]}, "i0", "none of the answers"),
        ("choice", {"gold": [0], "logprob": [[-1, NAN]], "bytes": [[3, 3]]}, "i0", "a score is no number"),
        ("choice", {"gold": [0], "logprob": [[-1, INF]], "bytes": [[3, 3]]}, "i0", "infinite"),
        ("choice", {"gold": [0], "logprob": [[-1, -1]], "bytes": [[3, NAN]]}, "i0", "a score without a choice"),
        ("choice", {"gold": [0], "logprob": [[NAN, -1]], "bytes": [[NAN, 3]]}, "i0", "gaps"),
        ("choice", {"gold": [1], "logprob": [[-1, NAN]], "bytes": [[3, NAN]]}, "i0", "none of the choices"),
        ("choice", {"gold": [0], "logprob": [[-1, -1]], "bytes": [[3, 0]]}, "i0", "no bytes"),
        ("pairs", {"logprob": [[-1, -1], [-1, NAN]]}, "i1", "no finite number"),
        ("generate", {"right": [[1.0], [1.5]]}, "i1", "outside 0..1"),
        ("judge", {"right": [[NAN]]}, "i0", "no finite number"),
        ("perplexity", {"bits": [1.0, INF], "bytes": [1, 1]}, "i1", "no finite number"),
        ("perplexity", {"bits": [1.0], "bytes": [0]}, "i0", "no bytes"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_its_item(kind: str, values: Any, where: str, what: str) -> None:
    with pytest.raises(BessemerError, match=what) as caught:
        columns(kind, **values)
    assert caught.value.where == f"item {where}" and caught.value.fix


@pytest.mark.parametrize(
    ("kind", "values", "what"),
    [
        ("essay", {"right": [[1.0]]}, "no kind"),
        ("judge", {"right": np.zeros((0, 1))}, "no items"),
        ("judge", {"right": [1.0]}, "shapes"),
        ("judge", {"right": np.zeros((1, 0))}, "no samples"),
        ("judge", {"wrong": [[1.0]]}, "kind judge has right, given wrong"),
        ("classify", {"label": [0], "logprob": [[-1.0]]}, "one option"),
        ("pairs", {"logprob": [[-1.0, -1.0, -1.0]]}, "two log-probabilities, given 3"),
        ("choice", {"gold": [0], "logprob": [[-1.0, -1.0]], "bytes": [[1.0, 1.0, 1.0]]}, "lengths"),
    ],
)
def test_columns_that_do_not_fit_are_refused(kind: str, values: Any, what: str) -> None:
    with pytest.raises(BessemerError, match=what):
        columns(kind, **values)


def test_an_id_that_stands_twice_is_refused() -> None:
    with pytest.raises(BessemerError, match="item b: two items"):
        Columns("judge", ("a", "b", "b"), ("",) * 3, ("",) * 3, {"right": np.ones((3, 1))})
    with pytest.raises(BessemerError, match="2 ids, 1 groups"):
        Columns("judge", ("a", "b"), ("",), ("",) * 2, {"right": np.ones((2, 1))})


@pytest.mark.parametrize("data", [{}, {"kind": "judge"}, {"kind": "judge", "ids": [], "groups": [], "slices": []}, []])
def test_json_that_is_no_columns_is_refused(data: Any) -> None:
    with pytest.raises(BessemerError, match="no columns"):
        Columns.from_json(data)


def test_json_with_a_hole_is_refused_with_its_item() -> None:
    data = columns("judge", right=[[1.0], [0.5]]).as_json()
    data["values"]["right"][1][0] = None
    with pytest.raises(BessemerError, match="item i1"):
        Columns.from_json(data)


@pytest.mark.parametrize("name", ["auroc", "auprc", "recall_at_precision"])
def test_a_task_of_one_class_is_refused(name: str) -> None:
    c = columns("classify", label=[1, 1], logprob=[[-1.0, -2.0], [-2.0, -1.0]])
    with pytest.raises(BessemerError, match="all 2 items have label 1"):
        METRICS[name].value(c)
    assert METRICS["accuracy"].value(c) == 0.5


def test_a_metric_of_another_kind_or_number_of_answers_is_refused() -> None:
    three = columns("classify", label=[0, 1, 2], logprob=-np.ones((3, 3)))
    with pytest.raises(BessemerError, match="two answers, there are 3"):
        METRICS["auprc"].value(three)
    with pytest.raises(BessemerError, match=r"no metric of kind classify[\s\S]*accuracy, macro_f1"):
        METRICS["bits_per_byte"].value(three)
    with pytest.raises(BessemerError, match="'f1' is no metric"):
        metric_named("f1")
    with pytest.raises(BessemerError, match="not right or wrong"):
        metrics.rightness(columns("perplexity", bits=[1.0], bytes=[1.0]))


# -- the table ----------------------------------------------------------------------------------------------


def test_tasks_and_metrics_know_the_same_names() -> None:
    assert {kind: {m.name for m in metrics_for(kind)} for kind in METRICS_OF} == {
        kind: set(names) for kind, names in METRICS_OF.items()
    }


def test_only_metrics_that_say_something_are_reported() -> None:
    def names(c: Columns) -> list[str]:
        return [m.name for m in metrics_of(c)]

    three = columns("classify", label=[0, 1, 2], logprob=-np.ones((3, 3)))
    assert names(three) == ["accuracy", "macro_f1", "auroc", "ece"]
    assert "both_right" in names(example("classify", np.random.default_rng(0)))
    assert names(columns("generate", right=[[1.0]])) == ["exact_match"]
    assert names(columns("generate", right=[[1.0, 0.0]])) == ["exact_match", "pass_at_k"]
    for kind in METRICS_OF:
        c = example(kind, np.random.default_rng(0))
        assert all(np.isfinite(m.value(c)) for m in metrics_of(c))


def test_chances() -> None:
    nan = np.nan
    c = columns("choice", gold=[0, 0], logprob=[[-1, -1, nan], [-1, -1, -1]], bytes=[[1, 1, nan], [1, 1, 1]])
    assert metrics.chances(c).tolist() == pytest.approx([1 / 2, 1 / 3])
    assert metrics.chances(columns("judge", right=[[1.0]])).tolist() == [0.0]


def test_many_items_need_little_memory() -> None:
    """100,000 items and 20 draws: the weights themselves are 16 MB, a metric adds less than 50."""
    rng = np.random.default_rng(3)
    label = rng.integers(0, 2, 100_000)
    c = columns("classify", label=label, logprob=rng.normal(size=(100_000, 2)))
    weights = rng.integers(0, 3, (20, 100_000)).astype(float)
    for name in ("auroc", "auprc", "recall_at_precision", "macro_f1", "ece"):
        tracemalloc.start()
        METRICS[name].compute(c, weights)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 50e6, name
