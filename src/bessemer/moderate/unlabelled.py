"""Twins under rules that a model was not trained on -> the scale of policies that were not calibrated for it.

Of a rule that it does not know, a model says no more often than is right, and it is surer than it should be. How much
is measured on some rules that training never had (`validation-rules` of a data set) and taken for all others. Twins are
broken as often as kept: a score is what it would be if half of the comments broke the rule. A policy's own labels
replace it (`calibrate.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bessemer.data.items import Item
from bessemer.data.moderation import YES
from bessemer.errors import BessemerError
from bessemer.files import home, keep_record, read_record, record_digest, sha256_text
from bessemer.moderate.calibrate import FOLDS, fit_scale, load_calibration, share
from bessemer.moderate.decide import Known, Scale
from bessemer.moderate.policy import Policy
from bessemer.units import now

FORMAT = "bessemer.scale/1"
SIDE = "validation-rules"
CONFIDENCE: float = Policy.model_fields["confidence"].default
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def need_rules(items: Sequence[Item], source: str) -> None:
    """Raises BessemerError for too few to say anything about others."""
    names = {str(item.meta.get("rule", "")) for item in items}
    if len(names) < FOLDS:
        raise BessemerError(
            f"{len(names)} rules are too few to say anything about others", where=source,
            fix=f"name {FOLDS} or more in the data recipe (computed.validation)",
        )  # fmt: skip


def measure_scale(items: Sequence[Item], odds: Sequence[float], model_digest: str, source: str) -> dict[str, Any]:
    """What the file holds. without, with: what twins become as the model says them, and on a scale that was chosen on
    other rules than an answer's: both right at a score of one half (interval over comments), and what a rule without
    a threshold makes of broken and of kept ones.

    items: of one group, two with opposite answers; odds: of each. Raises BessemerError for too few rules.
    """
    need_rules(items, source)
    rules = [str(item.meta["rule"]) for item in items]
    scores, broken = np.array(odds, np.float64), np.array([i.messages[-1].content == YES for i in items])
    final = fit_scale(scores, broken)
    return {
        "format": FORMAT,
        "created": now(),
        "model": model_digest,
        "source": source,
        "rules": sorted(set(rules)),
        "temperature": final.temperature,
        "bias": final.bias,
        "n_twins": len(items) // 2,
        "without": _outcome(items, scores, broken),
        "with": _outcome(items, scaled_by_others(rules, scores, broken), broken),
    }


def scaled_by_others(rules: Sequence[str], scores: Floats, broken: Bools) -> Floats:
    """Every log-odds on a scale that none of its rule's answers chose."""
    order = {rule: i % FOLDS for i, rule in enumerate(sorted(set(rules), key=sha256_text))}
    fold, found = np.array([order[rule] for rule in rules]), np.zeros(len(rules))
    for k in range(FOLDS):
        scale = fit_scale(scores[fold != k], broken[fold != k])
        found[fold == k] = scores[fold == k] / scale.temperature + scale.bias
    return found


def _outcome(items: Sequence[Item], scores: Floats, broken: Bools) -> dict[str, Any]:
    twins: dict[str, list[bool]] = defaultdict(list)
    comments = {item.cluster: str(item.meta["comment"]) for item in items}
    for item, right in zip(items, ((scores > 0) == broken).tolist(), strict=True):
        twins[item.cluster].append(right)
    both = share([all(own) for own in twins.values()], [comments[group] for group in twins])
    sure = float(np.log(CONFIDENCE / (1 - CONFIDENCE)))
    found: dict[str, Any] = {"both_right": both.as_dict()}
    for name, own in (("broken", scores[broken]), ("kept", scores[~broken])):
        said = {"broken": own >= sure, "unsure": np.abs(own) < sure, "kept": own <= -sure}
        found[name] = {word: round(float(values.mean()), 6) for word, values in said.items()}
    return found


def path_of(model_digest: str) -> Path:
    return home() / "scales" / f"{model_digest[:32]}.json"


def save(facts: dict[str, Any]) -> Path:
    """A newer one replaces it. Under its digest, which answers name, it stays."""
    path = path_of(facts["model"])
    keep_record(path, facts)
    return path


def load_scale(model_digest: str) -> Known:
    """As the model says it, where nothing was measured. Raises BessemerError when the file was changed."""
    path = path_of(model_digest)
    if not path.exists():
        return Known()
    facts = read_record(path, fix="bessemer moderate --scale DATASET")
    if facts["model"] != model_digest:
        return Known()
    return Known(unlabelled=Scale(facts["temperature"], facts["bias"]), digest=record_digest(facts))


def known_of(policy: Policy, model_digest: str) -> Known:
    """What decides about a policy's rules. Raises BessemerError when its file was changed."""
    found = load_calibration(policy, model_digest)
    return found.known if found else load_scale(model_digest)
