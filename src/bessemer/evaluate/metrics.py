"""Columns and item weights -> numbers.

`Columns` hold what a model said about every item; a metric reads them and takes a matrix of item weights, one row a
bootstrap draw, so that an interval costs one pass instead of one evaluation a draw. Weights are counts: weight 2 is
the item standing there twice. Numbers agree with scikit-learn's of the same name, `sample_weight` included.

Legend: B rows of weights, I items, K options of an item, S samples of an answer, G distinct scores (ties are one).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bessemer.errors import BessemerError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Weighted = Callable[[Floats], Floats]  # weights_BI -> values_B

CELLS = 1 << 16  # weights that are looked at together: half a megabyte stays in the cache, twice as fast as 16
BINS = 15  # of the calibration error
PRECISION = 0.9  # of recall_at_precision
NEAR = 1e-12  # two shares this close are equal

_AXES: dict[str, dict[str, int]] = {  # kind -> {column: its number of axes}
    "classify": {"label": 1, "logprob": 2},
    "choice": {"gold": 1, "logprob": 2, "bytes": 2},
    "pairs": {"logprob": 2},
    "generate": {"right": 2},
    "perplexity": {"bits": 1, "bytes": 1},
    "judge": {"right": 2},
}
_WHOLE = ("label", "gold")  # columns of whole numbers
_PICKS = ("classify", "choice", "pairs")  # kinds whose items have options, one of them right
_RIGHT = (*_PICKS, "generate", "judge")  # kinds whose items are answered rightly or wrongly


# -- columns ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Columns:
    """What one model said about every item of a task. values: {column: array, first axis the item}.

    classify: label [I] (place among the answers, 0 is the positive one), logprob [I, K]. choice: gold [I], logprob
    and bytes [I, K], nan beyond an item's choices. pairs: logprob [I, 2], the good one first. generate and judge:
    right [I, S], 0..1. perplexity: bits and bytes [I]. group: items that are not independent share one; an empty one
    is the item alone. judge: what the model that graded calls itself. Raises BessemerError that names the item for
    whatever cannot be measured.
    """

    kind: str
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    slices: tuple[str, ...]
    values: dict[str, NDArray[Any]]
    judge: str = ""

    def __post_init__(self) -> None:
        if self.kind not in _AXES:
            raise BessemerError(f"{self.kind!r} is no kind of task", where="columns", fix=f"known: {', '.join(_AXES)}")
        _check_shapes(self)
        arrays = {k: np.array(v, np.int64 if k in _WHOLE else np.float64) for k, v in self.values.items()}  # copies
        for array in arrays.values():
            array.flags.writeable = False
        object.__setattr__(self, "values", arrays)
        _check_values(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Columns):
            return NotImplemented
        mine, its = (self.kind, self.ids, self.groups, self.slices), (other.kind, other.ids, other.groups, other.slices)
        return (mine, self.judge) == (its, other.judge) and all(
            np.array_equal(v, other.values[k], equal_nan=True) for k, v in self.values.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def clusters(self) -> tuple[str, ...]:
        """The group of every item; of an item without one its id."""
        return tuple(group or name for group, name in zip(self.groups, self.ids, strict=True))

    def take(self, rows: Sequence[int] | NDArray[Any]) -> Columns:
        """Some items only, such as one slice or the clean ones. rows: places, or a mask."""
        places: list[int] = np.arange(len(self))[np.asarray(rows)].tolist()

        def chosen(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(names[i] for i in places)

        values = {k: v[places] for k, v in self.values.items()}
        return Columns(self.kind, chosen(self.ids), chosen(self.groups), chosen(self.slices), values, self.judge)

    def as_json(self) -> dict[str, Any]:
        """Plain data; nan is None. `from_json` gives back the same bits."""
        names = {"ids": list(self.ids), "groups": list(self.groups), "slices": list(self.slices)}
        judge = {"judge": self.judge} if self.judge else {}
        return {"kind": self.kind, **names, **judge, "values": {k: _plain(v.tolist()) for k, v in self.values.items()}}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Columns:
        """Raises BessemerError when the data are no columns."""
        try:
            names = (tuple(map(str, data["ids"])), tuple(map(str, data["groups"])), tuple(map(str, data["slices"])))
            values = {
                str(k): np.array(v, np.int64) if k in _WHOLE else np.array(v, np.float64)  # None becomes nan
                for k, v in data["values"].items()
            }
            return Columns(str(data["kind"]), *names, values, str(data.get("judge", "")))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, BessemerError):
                raise
            raise BessemerError(f"these are no columns ({type(error).__name__}: {error})", where="columns") from None


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    return None if isinstance(value, float) and math.isnan(value) else value


def _check_shapes(columns: Columns) -> None:
    """Raises BessemerError unless every column of the kind is there, and every array speaks of the same items."""
    wanted, n_items = _AXES[columns.kind], len(columns.ids)
    problem = ""
    if n_items == 0:
        problem = "there are no items"
    elif set(columns.values) != set(wanted):
        problem = f"kind {columns.kind} has {', '.join(wanted)}, given {', '.join(columns.values) or 'nothing'}"
    elif len(columns.groups) != n_items or len(columns.slices) != n_items:
        problem = f"{n_items} ids, {len(columns.groups)} groups, {len(columns.slices)} slices"
    else:
        shapes = {name: np.shape(array) for name, array in columns.values.items()}
        if any(len(shapes[k]) != axes or shapes[k][0] != n_items for k, axes in wanted.items()):
            problem = f"{n_items} items, but shapes {shapes}"
        elif columns.kind == "choice" and shapes["bytes"] != shapes["logprob"]:
            problem = f"{shapes['logprob']} log-probabilities, but {shapes['bytes']} lengths"
        elif columns.kind in _PICKS and shapes["logprob"][1] < 2:
            problem = "one option is no choice"
        elif columns.kind == "pairs" and shapes["logprob"][1] != 2:
            problem = f"a pair has two log-probabilities, given {shapes['logprob'][1]}"
        elif columns.kind in {"generate", "judge"} and shapes["right"][1] == 0:
            problem = "there are no samples"
    if problem:
        raise BessemerError(problem, where="columns")
    if len(set(columns.ids)) < n_items:
        seen: set[str] = set()
        twice = next(i for i in columns.ids if i in seen or seen.add(i))
        raise BessemerError("two items have this id", where=f"item {twice}", fix="give every item an id of its own")


def _check_values(columns: Columns) -> None:
    values = columns.values
    if columns.kind == "choice":
        beyond = np.isnan(values["bytes"])
        _refuse(columns, beyond[:, 0] | (beyond[:, :-1] & ~beyond[:, 1:]).any(axis=1), "choices have gaps", "bytes")
        _refuse(columns, np.where(beyond, 1.0, values["bytes"]).min(axis=1) <= 0, "a choice has no bytes", "bytes")
        _refuse(columns, (np.isnan(values["logprob"]) & ~beyond).any(axis=1), "a score is no number", "logprob")
        _refuse(columns, (beyond & ~np.isnan(values["logprob"])).any(axis=1), "a score without a choice", "logprob")
        _refuse(columns, np.isinf(values["logprob"]).any(axis=1), "a score is infinite", "logprob")
        outside = (values["gold"] < 0) | (values["gold"] >= (~beyond).sum(axis=1))
        _refuse(columns, outside, "the right answer is none of the choices", "gold")
        return
    for name, array in values.items():
        finite = np.isfinite(array)
        _refuse(columns, ~(finite if array.ndim == 1 else finite.all(axis=1)), "a score is no finite number", name)
    if columns.kind == "classify":
        outside = (values["label"] < 0) | (values["label"] >= values["logprob"].shape[1])
        _refuse(columns, outside, "the label is none of the answers", "label")
    if columns.kind in {"generate", "judge"}:
        outside = ((values["right"] < 0) | (values["right"] > 1)).any(axis=1)
        _refuse(columns, outside, "a grade is outside 0..1", "right")
    if columns.kind == "perplexity":
        _refuse(columns, values["bytes"] <= 0, "the text has no bytes", "bytes")


def _refuse(columns: Columns, bad: ArrayLike, what: str, name: str) -> None:
    """Raises BessemerError that names the first bad item and shows its row."""
    bad_I = np.asarray(bad, np.bool_)
    if not bad_I.any():
        return
    first, n_bad = int(np.argmax(bad_I)), int(bad_I.sum())
    more = f"; so in {n_bad} of {len(columns)} items" if n_bad > 1 else ""
    raise BessemerError(
        f"{what}: {name} is {columns.values[name][first].tolist()}{more}",
        where=f"item {columns.ids[first]}",
        fix="evaluate the model again; where it happens again, its weights or the item are damaged",
    )


# -- what every item is worth -------------------------------------------------------------------------------


def rightness(columns: Columns) -> Floats:
    """How right every item is answered, 0..1; the mean over its samples. [I]

    The likeliest option is the answer. Among equal ones: classify takes the first, as argmax does; choice and pairs
    count the item for its chance, since the right option often stands first and a model that cannot tell must not
    gain from it. Raises BessemerError for perplexity, where nothing is right or wrong.
    """
    values = columns.values
    if columns.kind == "classify":
        return (np.argmax(values["logprob"], axis=1) == values["label"]).astype(np.float64)
    if columns.kind == "choice":
        return _share_of_best(values["logprob"], values["gold"])
    if columns.kind == "pairs":
        return _share_of_best(values["logprob"], np.zeros(len(columns), np.int64))
    if columns.kind in _RIGHT:
        return values["right"].mean(axis=1)
    raise BessemerError(f"items of kind {columns.kind} are not right or wrong", where="columns")


def chances(columns: Columns) -> Floats:
    """How often a guess is right: one of the item's options; 0 where an answer is written freely. [I]"""
    if columns.kind not in _PICKS:
        return np.zeros(len(columns))
    return 1 / np.isfinite(columns.values["logprob"]).sum(axis=1)


def _share_of_best(score_IK: Floats, gold_I: NDArray[np.int64]) -> Floats:
    score_IK = np.where(np.isnan(score_IK), -np.inf, score_IK)
    best_IK = score_IK == score_IK.max(axis=1, keepdims=True)
    return best_IK[np.arange(len(gold_I)), gold_I] / best_IK.sum(axis=1)


def _top_share(logprob_IK: Floats) -> Floats:
    """Probability of the likeliest option among the options. [I]"""
    score_IK = np.where(np.isnan(logprob_IK), -np.inf, logprob_IK)
    return 1 / np.exp(score_IK - score_IK.max(axis=1, keepdims=True)).sum(axis=1)


def one_against_rest(logprob_IK: Floats) -> Floats:
    """Log-odds of each option against all others together; with two options their difference. [I, K]

    Ranks items as the softmax does, but does not round a sure answer to 1.
    """
    odds_IK = np.empty_like(logprob_IK)
    for k in range(logprob_IK.shape[1]):
        others = np.delete(logprob_IK, k, axis=1)
        odds_IK[:, k] = logprob_IK[:, k] - np.logaddexp.reduce(others, axis=1)
    return odds_IK


# -- metrics of scores and labels ---------------------------------------------------------------------------


def in_parts(n_items: int, n_rows: int) -> Iterator[slice]:
    """Slices of the rows of a weight matrix, so small that temporaries of their size are no burden."""
    size = max(1, CELLS // max(1, n_items))
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def _ranked(scores_I: Floats, positive_I: Bools) -> Callable[[Floats], tuple[Floats, Floats]]:
    """weights_BI -> weight of the positive and of the negative items at each distinct score, from low to high."""
    order = np.argsort(scores_I, kind="stable")
    scores, positive = scores_I[order], positive_I[order].astype(np.float64)
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    tied = len(starts) < len(scores)

    def counts(weights_BI: Floats) -> tuple[Floats, Floats]:
        sorted_BI = weights_BI[:, order]
        up, down = sorted_BI * positive, sorted_BI * (1 - positive)
        if tied:
            return np.add.reduceat(up, starts, axis=1), np.add.reduceat(down, starts, axis=1)
        return up, down

    return counts


def _ratio(above: Floats, below: Floats) -> Floats:
    """above / below, nan where below is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below == 0, np.nan, above / below)


def ranking_auroc(scores_I: Floats, positive_I: Bools) -> Weighted:
    """Area under the ROC curve: the share of (positive, negative) pairs in the right order, ties half."""
    counts = _ranked(scores_I, positive_I)

    def compute(weights_BI: Floats) -> Floats:
        up_BG, down_BG = counts(weights_BI)
        below_BG = np.cumsum(down_BG, axis=1) - down_BG / 2
        return _ratio(np.einsum("bg,bg->b", up_BG, below_BG), up_BG.sum(axis=1) * down_BG.sum(axis=1))

    return compute


def _precision_recall(scores_I: Floats, positive_I: Bools) -> Callable[[Floats], tuple[Floats, Floats, Floats]]:
    """weights_BI -> (precision, recall, step of recall) at each threshold from high to low, each [B, G]."""
    counts = _ranked(scores_I, positive_I)

    def curve(weights_BI: Floats) -> tuple[Floats, Floats, Floats]:
        up_BG, down_BG = (side[:, ::-1] for side in counts(weights_BI))
        found = np.cumsum(up_BG, axis=1)
        taken = found + np.cumsum(down_BG, axis=1)
        total = found[:, -1:]
        precision = np.divide(found, taken, out=np.zeros_like(found), where=taken > 0)
        return precision, _ratio(found, total), _ratio(up_BG, total)

    return curve


def _whole(compute: Weighted, weights_BI: Floats) -> Floats:
    weights_BI = np.atleast_2d(weights_BI)
    parts = in_parts(weights_BI.shape[1], weights_BI.shape[0])
    return np.concatenate([compute(np.asarray(weights_BI[part], np.float64)) for part in parts])


def _both_classes(columns: Columns) -> None:
    labels = columns.values["label"]
    if (labels == labels[0]).all():
        raise BessemerError(
            f"all {len(columns)} items have label {labels[0]}, so there is nothing to tell apart",
            where="columns",
            fix="add items of the other answers",
        )


def _binary(columns: Columns) -> tuple[Floats, Bools]:
    """(log-odds of the positive answer, whether it is right). Raises BessemerError without exactly two classes."""
    logprob = columns.values["logprob"]
    if logprob.shape[1] != 2:
        raise BessemerError(
            f"this metric needs two answers, there are {logprob.shape[1]}", where="columns", fix="take auroc"
        )
    _both_classes(columns)
    return logprob[:, 0] - logprob[:, 1], columns.values["label"] == 0


# -- the metrics: columns -> (weights_BI -> values_B) -------------------------------------------------------


def _mean(values_I: Floats) -> Weighted:
    return lambda weights_BI: _ratio(weights_BI @ values_I, weights_BI.sum(axis=1))


def _accuracy(columns: Columns) -> Weighted:
    return _mean(rightness(columns))


def _accuracy_norm(columns: Columns) -> Weighted:
    """The choice with the largest log-probability per byte: acc_bytes of lm-evaluation-harness, whose acc_norm counts
    characters (the same where all is ASCII)."""
    values = columns.values
    return _mean(_share_of_best(values["logprob"] / values["bytes"], values["gold"]))


def numbered(names: Sequence[str]) -> NDArray[np.int64]:
    """Equal names have one number, in sorted order. [I]

    `np.unique` would make an array of texts as wide as the longest: a comment may be a cluster's name.
    """
    place = {name: n for n, name in enumerate(sorted(set(names)))}
    return np.fromiter((place[name] for name in names), np.int64, len(names))


def _both_right(columns: Columns) -> Weighted:
    """Share of groups whose items are all answered rightly."""
    right_I = rightness(columns)
    group_I = numbered(columns.clusters)
    wrong_C = np.bincount(group_I, weights=right_I < 1 - NEAR)
    size_C = np.bincount(group_I)
    part_I = 1 / size_C[group_I]  # a group counts once, however many items it has
    all_I = (wrong_C[group_I] == 0) * part_I
    return lambda weights_BI: _ratio(weights_BI @ all_I, weights_BI @ part_I)


def _macro_f1(columns: Columns) -> Weighted:
    """Mean over classes of 2 TP / (2 TP + FP + FN). A class that is neither wanted nor said is left out."""
    label_I, said_I = columns.values["label"], np.argmax(columns.values["logprob"], axis=1)
    classes = np.arange(columns.values["logprob"].shape[1])
    wanted_IK = (label_I[:, None] == classes).astype(np.float64)
    said_IK = (said_I[:, None] == classes).astype(np.float64)
    hit_IK, any_IK = wanted_IK * said_IK, wanted_IK + said_IK

    def compute(weights_BI: Floats) -> Floats:
        f1_BK = _ratio(2 * (weights_BI @ hit_IK), weights_BI @ any_IK)
        there_BK = ~np.isnan(f1_BK)
        return _ratio(np.where(there_BK, f1_BK, 0).sum(axis=1), there_BK.sum(axis=1).astype(np.float64))

    return compute


def _auroc(columns: Columns) -> Weighted:
    """Of the positive answer; with more than two answers the mean of each one against the rest."""
    _both_classes(columns)
    logprob_IK, label_I = columns.values["logprob"], columns.values["label"]
    odds_IK = one_against_rest(logprob_IK)
    classes = [0] if logprob_IK.shape[1] == 2 else np.unique(label_I).tolist()
    areas = [ranking_auroc(odds_IK[:, k], label_I == k) for k in classes]

    def compute(weights_BI: Floats) -> Floats:
        area_KB = np.array([area(weights_BI) for area in areas])
        there_KB = ~np.isnan(area_KB)  # a draw may lack one class of many
        return _ratio(np.where(there_KB, area_KB, 0).sum(axis=0), there_KB.sum(axis=0).astype(np.float64))

    return compute


def _auprc(columns: Columns) -> Weighted:
    """Average precision: the mean of precision over steps of recall, without interpolation."""
    curve = _precision_recall(*_binary(columns))

    def compute(weights_BI: Floats) -> Floats:
        precision_BG, _, step_BG = curve(weights_BI)
        return np.einsum("bg,bg->b", precision_BG, step_BG)

    return compute


def _recall_at(columns: Columns, *, precision: float) -> Weighted:
    """The largest recall at which the precision is at least `precision`; 0 where it never is."""
    curve = _precision_recall(*_binary(columns))

    def compute(weights_BI: Floats) -> Floats:
        precision_BG, recall_BG, _ = curve(weights_BI)
        # A threshold that takes nothing has no precision; it is 0 here, and its recall is 0 too.
        return np.where(precision_BG >= precision - NEAR, recall_BG, 0 * recall_BG).max(axis=1)

    return compute


def _ece(columns: Columns) -> Weighted:
    """Expected calibration error: |right - confidence| over bins of confidence, weighted by their items.

    Guo et al. 2017 (arXiv 1706.04599). Confidence: the likeliest option's share of the options. Bins are closed on
    the right. It is never negative, so that noise raises it: small differences of small samples mean nothing.
    """
    sure_I = _top_share(columns.values["logprob"])
    bin_I = np.clip(np.ceil(sure_I * BINS - NEAR).astype(np.int64) - 1, 0, BINS - 1)
    gap_IN = np.zeros((len(columns), BINS))
    gap_IN[np.arange(len(columns)), bin_I] = rightness(columns) - sure_I
    return lambda weights_BI: _ratio(np.abs(weights_BI @ gap_IN).sum(axis=1), weights_BI.sum(axis=1))


def _pass_at_k(columns: Columns, *, k: int) -> Weighted:
    """1 - C(n - c, k) / C(n, k) for c right ones of n samples: unbiased. Chen et al. 2021 (arXiv 2107.03374)."""
    right_IS = columns.values["right"]
    n_samples = right_IS.shape[1]
    if not 1 <= k <= n_samples:
        raise BessemerError(f"pass@{k} of {n_samples} samples", where="columns", fix=f"k from 1 to {n_samples}")
    n_right_I = (right_IS >= 1 - NEAR).sum(axis=1)  # a sample that is partly right has not passed
    by_count = [1 - math.comb(n_samples - c, k) / math.comb(n_samples, k) for c in range(n_samples + 1)]
    return _mean(np.array(by_count)[n_right_I])


def _bits_per_byte(columns: Columns) -> Weighted:
    bits_I, bytes_I = columns.values["bits"], columns.values["bytes"]
    return lambda weights_BI: _ratio(weights_BI @ bits_I, weights_BI @ bytes_I)


# -- the table ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """A number that columns of some kinds have.

    prepare: what does not depend on the weights is done once, such as sorting. bounded: it lies in 0..1.
    by_class: the rarer class decides how well it is known. ranks: of two answers only the order of their log-odds
    counts, not their size. binary: it needs exactly two answers. mean_of: it is the mean of items, or of groups.
    """

    name: str
    kinds: tuple[str, ...]
    higher_is_better: bool
    prepare: Callable[[Columns], Weighted]
    bounded: bool = True
    by_class: bool = False
    ranks: bool = False
    binary: bool = False
    mean_of: Literal["", "items", "groups"] = ""

    def compute(self, columns: Columns, weights_BI: Floats) -> Floats:
        """[B]; nan where a row of weights leaves nothing to measure. Raises BessemerError for another kind."""
        return _whole(self.on(columns), weights_BI)

    def on(self, columns: Columns) -> Weighted:
        """The metric of these columns as a function of weights; the caller keeps the weights small (`in_parts`)."""
        if columns.kind not in self.kinds:
            raise BessemerError(
                f"{self.name} is no metric of kind {columns.kind}",
                where="columns",
                fix=f"one of {', '.join(m.name for m in metrics_for(columns.kind))}",
            )
        return self.prepare(columns)

    def value(self, columns: Columns) -> float:
        return float(self.compute(columns, np.ones((1, len(columns))))[0])


def recall_at_precision(precision: float = PRECISION) -> Metric:
    def prepare(columns: Columns) -> Weighted:
        return _recall_at(columns, precision=precision)

    return Metric("recall_at_precision", ("classify",), True, prepare, by_class=True, ranks=True, binary=True)


def pass_at_k(k: int = 1) -> Metric:
    return Metric("pass_at_k", ("generate",), True, lambda columns: _pass_at_k(columns, k=k), mean_of="items")


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("accuracy", _PICKS, True, _accuracy, mean_of="items"),
        Metric("accuracy_norm", ("choice",), True, _accuracy_norm, mean_of="items"),
        Metric("macro_f1", ("classify",), True, _macro_f1, by_class=True),
        Metric("auroc", ("classify",), True, _auroc, by_class=True, ranks=True),
        Metric("auprc", ("classify",), True, _auprc, by_class=True, ranks=True, binary=True),
        recall_at_precision(),
        Metric("ece", ("classify", "choice"), False, _ece),
        Metric("both_right", ("classify",), True, _both_right, mean_of="groups"),
        Metric("exact_match", ("generate",), True, _accuracy, mean_of="items"),
        pass_at_k(),
        Metric("score", ("judge",), True, _accuracy, mean_of="items"),
        Metric("bits_per_byte", ("perplexity",), False, _bits_per_byte, bounded=False),
    )
}


def metrics_for(kind: str) -> tuple[Metric, ...]:
    """All metrics of a kind, the usual one first."""
    return tuple(m for m in METRICS.values() if kind in m.kinds)


def metrics_of(columns: Columns, *, precision: float = PRECISION, k: int = 1) -> tuple[Metric, ...]:
    """The metrics that say something about these columns, with the parameters of their task.

    Left out: those of two answers where there are more, both_right without groups, pass@k of one sample.
    """
    found = (metric_named(m.name, precision=precision, k=k) for m in metrics_for(columns.kind))
    n_answers = columns.values["logprob"].shape[1] if columns.kind == "classify" else 2
    grouped = len(set(columns.clusters)) < len(columns)
    several = columns.kind == "generate" and columns.values["right"].shape[1] > 1
    return tuple(
        m
        for m in found
        if (n_answers == 2 or not m.binary)
        and (grouped or m.name != "both_right")
        and (several or m.name != "pass_at_k")
    )


def metric_named(name: str, *, precision: float = PRECISION, k: int = 1) -> Metric:
    """Raises BessemerError for an unknown name."""
    if name not in METRICS:
        raise BessemerError(f"{name!r} is no metric", where="metric", fix=f"known: {', '.join(METRICS)}")
    if name == "recall_at_precision":
        return recall_at_precision(precision)
    return pass_at_k(k) if name == "pass_at_k" else METRICS[name]
