"""Labelled comments -> for every rule a scale and a threshold, and what they will do, with intervals.

Temperature and bias are Platt's (1999), with a weak pull to 1 and 0; a rule with few labels takes those of all rules
together. A threshold is the smallest one that reaches the wanted precision. Its precision, recall and volumes are
measured on comments that neither scale nor threshold were chosen on (cross-fitting over clusters), because the best of
many thresholds looks better than it is. The labelled comments must be drawn as the comments come, at random: precision
and volumes depend on how often rules are broken.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bessemer.data.moderation import clean
from bessemer.errors import BessemerError
from bessemer.evaluate.metrics import METRICS, Columns
from bessemer.evaluate.stats import Interval, estimate, shares
from bessemer.files import home, keep_record, read_record, record_digest, sha256_text
from bessemer.moderate.decide import Decision, Known, Measured, Scale, decide
from bessemer.moderate.drift import Reference
from bessemer.moderate.labelled import Row, clusters
from bessemer.moderate.policy import Policy, store
from bessemer.moderate.review import UNSURE
from bessemer.units import now

FORMAT = "bessemer.calibration/1"
FOLDS = 5
FEWEST_LABELS = 5  # of each answer, for a scale of a rule's own
MIN_FLAGGED = 10  # comments above a threshold: below, its precision is luck
MIN_FLAGGED_FOLD = MIN_FLAGGED * (FOLDS - 1) // FOLDS  # in a fold, which has that share of the comments
SMALLEST_SLOPE = 0.02  # of a model that knows nothing of a rule, or has it the wrong way round
OUTCOMES = ("remove", "queue", "allow")
WORDS = ("broken", "unsure", "kept")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """What was measured for one model and one policy. facts: what the file holds."""

    facts: dict[str, Any]

    @property
    def measured(self) -> dict[str, Measured]:
        return {
            name: Measured(Scale(rule["temperature"], rule["bias"]), rule["threshold"])
            for name, rule in self.facts["rules"].items()
        }

    @property
    def digest(self) -> str:
        """With model and policy it decides what every answer says."""
        return record_digest(self.facts)

    @property
    def known(self) -> Known:
        return Known(self.measured, digest=self.digest)

    @property
    def reference(self) -> Reference:
        return Reference.from_json(self.facts["reference"])


def need_labels(policy: Policy, rows: Sequence[Row]) -> None:
    """Raises BessemerError for rows that nothing can be measured on, before anyone judges them."""
    if unsure := sum(row.drawn == UNSURE for row in rows):
        raise BessemerError(
            f"{unsure} of {len(rows)} comments were chosen because the model was unsure of them: what it is wrongly "
            "sure of is not among them, and they are not as they come",
            where="calibration",
            fix="bessemer review export --random; the others teach (bessemer data moderation)",
        )
    n_clusters, marks = len(set(clusters(rows))), {row.labels.get(r.id) for row in rows for r in policy.rules}
    if n_clusters < 2 * FOLDS:
        raise BessemerError(
            f"{n_clusters} independent comments are too few (copies, and comments of one group, count once)",
            where="calibration",
            fix="a few hundred at least, drawn at random",
        )
    if not {True, False} <= marks:
        raise BessemerError(
            "all labels are the same", where="calibration", fix="label comments that break rules and that do not"
        )


def need_calibration(policy: Policy, digest: str) -> Calibration:
    """Raises BessemerError when there is none of this policy for this model."""
    if (known := load_calibration(policy, digest)) is None:
        raise BessemerError(
            f"{policy.reference} was not calibrated for this model", fix="bessemer moderate --calibrate LABELLED"
        )
    return known


def calibrate(policy: Policy, rows: Sequence[Row], odds: Sequence[Sequence[float]], model_digest: str) -> Calibration:
    """odds: of each comment, by rule. Raises BessemerError when no rule has labels of both kinds."""
    need_labels(policy, rows)
    table = np.array(odds, np.float64)
    marks = np.array([[_mark(row.labels.get(rule.id)) for rule in policy.rules] for row in rows])
    groups = clusters(rows)
    fold = _folds(groups, marks)
    final = _fit(policy, table, marks)
    none = {name for name, fitted in final.items() if fitted.threshold is None}
    folds = [_fit(policy, table[fold != k], marks[fold != k], MIN_FLAGGED_FOLD) for k in range(FOLDS)]
    folds = [_without(fitted, none) for fitted in folds]
    decisions = _held_out(policy, table, fold, folds)
    precision = {rule.id: _precision(r, decisions, marks, groups) for r, rule in enumerate(policy.rules)}
    dropped: dict[str, str] = {}
    for rule in policy.rules:
        found = precision[rule.id]
        if final[rule.id].threshold is not None and found is None:
            dropped[rule.id] = "too few held-out comments lie above the threshold to measure its precision"
        elif final[rule.id].threshold is not None and found is not None and found["high"] < rule.precision:
            dropped[rule.id] = "held-out comments do not reach the precision"
    if dropped:  # what follows is about the thresholds that will be used
        final = _without(final, dropped)
        decisions = _held_out(policy, table, fold, [_without(fitted, dropped) for fitted in folds])
    words_IRW = np.array([[[f.word == w for w in WORDS] for f in d.findings] for d in decisions], np.float64)
    words = iter(shares(words_IRW.reshape(len(rows), -1), groups))
    rules = {
        rule.id: _rule_facts(policy, r, final[rule.id], marks, decisions, groups)
        | {"words": {w: next(words).as_dict() for w in WORDS}}
        | {"precision": precision[rule.id]}
        | ({"why": dropped[rule.id]} if rule.id in dropped else {})
        for r, rule in enumerate(policy.rules)
    }
    acted = shares(np.array([[d.outcome == o for o in OUTCOMES] for d in decisions], np.float64), groups)
    volumes = {o: found.as_dict() for o, found in zip(OUTCOMES, acted, strict=True)}
    facts = {
        "format": FORMAT,
        "created": now(),
        "model": model_digest,
        "policy": {"reference": policy.reference, "digest": policy.digest},
        "n_comments": len(rows),
        "rules": rules,
        "volumes": volumes,
        "reference": Reference.of(
            {rule.id: table[:, r] for r, rule in enumerate(policy.rules)}, [clean(row.comment.text) for row in rows]
        ).as_json(),
    }
    return Calibration(facts)


def _folds(groups: Sequence[str], marks: NDArray[Any]) -> NDArray[np.int_]:
    """Of each comment its part, whole clusters; those that break the same rules are dealt evenly, so that no part holds
    most of a rule's few."""
    broken: dict[str, set[int]] = {group: set() for group in groups}
    for group, own in zip(groups, marks, strict=True):
        broken[group].update(np.flatnonzero(own == 1).tolist())
    order = sorted(broken, key=lambda group: (sorted(broken[group]), sha256_text(group)))
    dealt = {group: i % FOLDS for i, group in enumerate(order)}
    return np.array([dealt[group] for group in groups])


def share(values: Sequence[bool], groups: Sequence[str]) -> Interval:
    """How many of the comments, with the clustered interval of `evaluate/stats.py`."""
    ids = tuple(map(str, range(len(values))))
    right: dict[str, Any] = {"right": np.array(values, np.float64)[:, None]}
    return estimate(METRICS["score"], Columns("judge", ids, tuple(groups), ("",) * len(ids), right)).result


# -- fitting ----------------------------------------------------------------------------------------------------


def _mark(label: bool | None) -> int:
    return -1 if label is None else int(label)


def _fit(policy: Policy, table: Floats, marks: NDArray[Any], min_flagged: int = MIN_FLAGGED) -> dict[str, Measured]:
    known = marks >= 0
    together = fit_scale(table[known], marks[known] == 1) if (marks == 1).any() and (marks == 0).any() else Scale()
    found: dict[str, Measured] = {}
    for r, rule in enumerate(policy.rules):
        own = known[:, r]
        odds, broken = table[own, r], marks[own, r] == 1
        enough = min(int(broken.sum()), int((~broken).sum())) >= FEWEST_LABELS
        scale = fit_scale(odds, broken) if enough else together
        scores = np.array([scale.score(x) for x in odds.tolist()])
        found[rule.id] = Measured(scale, pick_threshold(scores, broken, rule.precision, min_flagged))
    return found


def _without(fitted: Mapping[str, Measured], dropped: Container[str]) -> dict[str, Measured]:
    return {name: Measured(m.scale, None) if name in dropped else m for name, m in fitted.items()}


def _held_out(
    policy: Policy, table: Floats, fold: NDArray[np.int_], folds: Sequence[Mapping[str, Measured]]
) -> list[Decision]:
    """Each comment by what was fitted on the other folds."""
    return [decide(policy, odds, Known(folds[k])) for odds, k in zip(table.tolist(), fold.tolist(), strict=True)]


def fit_scale(odds: Floats, broken: NDArray[np.bool_], pull: float = 1.0) -> Scale:
    """By Newton's method on the log loss, with a penalty of pull / 2 * ((slope - 1)^2 + bias^2)."""
    slope, bias = 1.0, 0.0
    target = broken.astype(np.float64)

    def loss(a: float, b: float) -> float:
        x = a * odds + b
        return float(np.logaddexp(0, x).sum() - (target * x).sum() + pull / 2 * ((a - 1) ** 2 + b**2))

    for _ in range(100):
        x = slope * odds + bias
        p = 1 / (1 + np.exp(-np.clip(x, -500, 500)))
        w = p * (1 - p)
        gradient = np.array([((p - target) * odds).sum() + pull * (slope - 1), (p - target).sum() + pull * bias])
        hessian = np.array([[(w * odds * odds).sum() + pull, (w * odds).sum()], [(w * odds).sum(), w.sum() + pull]])
        step = np.linalg.solve(hessian, gradient)
        size, now = 1.0, loss(slope, bias)
        while loss(slope - size * step[0], bias - size * step[1]) > now and size > 1e-6:
            size /= 2
        slope, bias = slope - size * float(step[0]), bias - size * float(step[1])
        if np.abs(size * step).max() < 1e-9:
            break
    if slope < SMALLEST_SLOPE:  # a bias belongs to its slope
        slope, bias = SMALLEST_SLOPE, _fit_bias(SMALLEST_SLOPE * odds, target, pull)
    return Scale(1 / slope, bias)


def _fit_bias(odds: Floats, target: Floats, pull: float) -> float:
    """Where the gradient of the same penalised loss is 0; it rises with the bias, so halving finds it."""
    low, high = -50.0, 50.0
    while high - low > 1e-9:
        bias = (low + high) / 2
        gradient = float((1 / (1 + np.exp(-np.clip(odds + bias, -500, 500))) - target).sum() + pull * bias)
        low, high = (low, bias) if gradient > 0 else (bias, high)
    return (low + high) / 2


def pick_threshold(
    scores: Floats, broken: NDArray[np.bool_], precision: float, min_flagged: int = MIN_FLAGGED
) -> float | None:
    """The smallest threshold that at least `min_flagged` scores reach, with at least this precision; None without one.

    It lies halfway to the next lower score.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, right = scores[order], np.cumsum(broken[order])
    n_flagged = np.arange(1, len(ranked) + 1)
    ends = np.r_[ranked[1:] < ranked[:-1], True] if len(ranked) else np.zeros(0, np.bool_)  # ties go together
    good = np.flatnonzero(ends & (n_flagged >= min_flagged) & (right >= precision * n_flagged - 1e-9))
    if not len(good):
        return None
    last = int(good[-1])
    lowest = float(ranked[last])
    below = float(ranked[last + 1]) if last + 1 < len(ranked) else lowest
    halfway = (lowest + below) / 2
    return halfway if halfway > below else lowest  # between neighbouring numbers there is none


# -- what was measured ------------------------------------------------------------------------------------------


def _rule_facts(
    policy: Policy,
    r: int,
    final: Measured,
    marks: NDArray[Any],
    decisions: Sequence[Decision],
    groups: Sequence[str],
) -> dict[str, Any]:
    """recall among the labelled."""
    rule = policy.rules[r]
    words = [d.findings[r].word for d in decisions]
    labelled = [i for i in range(len(words)) if marks[i, r] >= 0]
    positive = [i for i in labelled if marks[i, r] == 1]
    held_out = [d.findings[r].score for d in decisions]
    facts: dict[str, Any] = {
        "temperature": final.scale.temperature,
        "bias": final.scale.bias,
        "threshold": final.threshold,
        "wanted_precision": rule.precision,
        "n_labelled": len(labelled),
        "n_broken": len(positive),
        "recall": _among(positive, lambda i: words[i] == "broken", groups),
        "seen_by_people_or_acted_on": _among(positive, lambda i: words[i] != "kept", groups),
        "calibration_error": _error(np.array([held_out[i] for i in labelled]), marks[labelled, r] == 1),
    }
    if final.threshold is None:
        few = len(positive) < MIN_FLAGGED
        facts["why"] = (
            f"{len(positive)} labelled comments break it, at least {MIN_FLAGGED} are needed"
            if few
            else f"no threshold reaches a precision of {rule.precision:g} on {MIN_FLAGGED} or more comments"
        )
    return facts


def _precision(
    r: int, decisions: Sequence[Decision], marks: NDArray[Any], groups: Sequence[str]
) -> dict[str, float] | None:
    """Of a rule, among the labelled comments that it was said to be broken by."""
    flagged = [i for i, d in enumerate(decisions) if marks[i, r] >= 0 and d.findings[r].word == "broken"]
    return _among(flagged, lambda i: marks[i, r] == 1, groups)


def _among(places: Sequence[int], right: Callable[[int], bool], groups: Sequence[str]) -> dict[str, float] | None:
    """A share with its interval; None where there are too few groups for one."""
    if len({groups[i] for i in places}) < 2:
        return None
    return share([bool(right(i)) for i in places], [groups[i] for i in places]).as_dict()


def _error(scores: Floats, broken: NDArray[np.bool_]) -> float | None:
    """Expected calibration error over ten bins of equal size of the score."""
    if not len(scores):
        return None
    bins = np.minimum((scores * 10).astype(int), 9)
    gaps = [abs(float((scores[bins == b] - broken[bins == b]).sum())) for b in range(10)]
    return round(sum(gaps) / len(scores), 6)


# -- files ------------------------------------------------------------------------------------------------------


def path_of(policy: Policy, model_digest: str) -> Path:
    return home() / "policies" / policy.name / policy.version / "calibrations" / f"{model_digest[:32]}.json"


def save(policy: Policy, found: Calibration) -> Path:
    """Keep it beside the stored policy. A newer one replaces it; under its digest, which answers name, it stays."""
    store(policy)
    path = path_of(policy, found.facts["model"])
    keep_record(path, found.facts)
    return path


def load_calibration(policy: Policy, model_digest: str) -> Calibration | None:
    """None where this policy was not calibrated for this model. Raises BessemerError when the file was changed."""
    path = path_of(policy, model_digest)
    if not path.exists():
        return None
    facts: Mapping[str, Any] = read_record(path, fix="bessemer moderate --calibrate LABELLED")
    if facts["policy"]["digest"] != policy.digest or facts["model"] != model_digest:
        return None  # of another policy that has this name and version elsewhere
    return Calibration(dict(facts))
