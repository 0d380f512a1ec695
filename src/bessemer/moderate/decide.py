"""Log-odds -> scores -> what a rule says, and what happens to the comment. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bessemer.moderate.policy import Action, Policy

Word = Literal["broken", "kept", "unsure"]
Outcome = Literal["remove", "queue", "allow"]


@dataclass(frozen=True)
class Scale:
    """Log-odds of the model -> probability: sigmoid(log-odds / temperature + bias)."""

    temperature: float = 1.0
    bias: float = 0.0

    def score(self, odds: float) -> float:
        x = odds / self.temperature + self.bias
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


@dataclass(frozen=True)
class Measured:
    """How a rule was calibrated. threshold None: the wanted precision was not reached, so the rule only queues."""

    scale: Scale
    threshold: float | None


@dataclass(frozen=True)
class Known:
    """What was measured of a model. rules: of one calibrated policy, by id; unlabelled: of rules that are not there;
    digest: of the calibration or scale that says so, empty without one."""

    rules: Mapping[str, Measured] = field(default_factory=dict[str, Measured])
    unlabelled: Scale = Scale()
    digest: str = ""


@dataclass(frozen=True)
class Finding:
    """What one rule says of a comment. action: what it asks for; None when it asks for nothing."""

    rule: str
    score: float
    threshold: float | None
    word: Word
    action: Action | None
    calibrated: bool

    def as_dict(self) -> dict[str, Any]:
        return {
            "score": round(self.score, 6),
            "threshold": None if self.threshold is None else round(self.threshold, 6),
            "decision": self.word,
            "action": self.action,
            "calibrated": self.calibrated,
        }


@dataclass(frozen=True)
class Decision:
    """What happens to a comment, and why."""

    outcome: Outcome
    findings: tuple[Finding, ...]

    @property
    def cited(self) -> list[str]:
        """The rules that it breaks, surest first."""
        return [f.rule for f in sorted(self.findings, key=lambda f: -f.score) if f.word == "broken"]


def decide(policy: Policy, odds: Sequence[float], known: Known) -> Decision:
    """A rule that was not calibrated has no threshold of its own and never removes."""
    findings = tuple(
        _finding(policy, rule.id, rule.action, value, known) for rule, value in zip(policy.rules, odds, strict=True)
    )
    asked = {f.action for f in findings}
    return Decision("remove" if "remove" in asked else "queue" if "queue" in asked else "allow", findings)


def _finding(policy: Policy, rule: str, action: Action, odds: float, known: Known) -> Finding:
    calibrated = known.rules.get(rule)
    measured = calibrated or Measured(known.unlabelled, policy.confidence)
    score, threshold = measured.scale.score(odds), measured.threshold
    if threshold is not None and score >= threshold:
        # Without a measured threshold nobody knows how often this is wrong, so a person looks first.
        return Finding(
            rule,
            score,
            threshold,
            "broken",
            "queue" if calibrated is None and action == "remove" else action,
            calibrated is not None,
        )
    if 1 - score >= policy.confidence:
        return Finding(rule, score, threshold, "kept", None, calibrated is not None)
    return Finding(rule, score, threshold, "unsure", None if action == "flag" else "queue", calibrated is not None)
