"""Steps that must not count: losses and gradients that are not finite, and spikes.

Such a step is skipped: weights and moments stay as they were. Several in a row mean that the weights themselves went
wrong: back to the last checkpoint, and the steps since then are left out. What the guard remembers is part of a
checkpoint, so a resumed run decides as an uninterrupted one does.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

HISTORY = 128  # steps that a spike is measured against, of each kind
LEAST_HISTORY = 32  # fewer say nothing about what is usual
IN_A_ROW = 3  # skipped steps that lead back to the checkpoint
ROLL_BACKS = 2  # in one stage; one more ends it

Decision = Literal["apply", "skip", "roll back"]


def _history() -> deque[float]:
    return deque(maxlen=HISTORY)


@dataclass
class Guard:
    """skip_above: standard deviations over what is usual that make a spike (as OLMo-core's SkipStep: 6).

    Usual is, for the loss of a source, what it was in the last steps that held it; for the gradient's norm, what it was
    in the last steps that held the same sources. Against all steps, a source that stands in few of them, such as
    replay, would be a spike for ever: what is left out never becomes usual.
    """

    skip_above: float
    losses: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(_history))
    norms: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(_history))
    in_a_row: int = 0
    roll_backs: int = 0
    reason: str = ""

    def judge(self, loss: float, norm: float, sources: Mapping[str, float]) -> Decision:
        """What to do with a step of this loss and gradient norm; `reason` says why it is not applied. sources: the mean
        loss of each one that has targets in it."""
        together = " + ".join(sorted(sources))
        self.reason = self._find_fault(loss, norm, sources, together)
        if not self.reason:
            for name, value in sources.items():
                self.losses[name].append(value)
            self.norms[together].append(norm)
            self.in_a_row = 0
            return "apply"
        self.in_a_row += 1
        return "roll back" if self.in_a_row >= IN_A_ROW else "skip"

    def _find_fault(self, loss: float, norm: float, sources: Mapping[str, float], together: str) -> str:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"loss {loss:g}, gradient norm {norm:g}"
        known = [(f"loss of {name}", value, self.losses[name]) for name, value in sources.items()]
        for what, value, seen in (*known, ("gradient norm", norm, self.norms[together])):
            if len(seen) < LEAST_HISTORY:
                continue
            mean, deviation = statistics.fmean(seen), statistics.stdev(seen)
            if deviation > 0 and value > mean + self.skip_above * deviation:
                return f"{what} {value:.4g}, {(value - mean) / deviation:.0f} standard deviations above {mean:.4g}"
        return ""

    def roll_back(self) -> bool:
        """Count one; whether it was still allowed."""
        self.roll_backs += 1
        self.in_a_row = 0
        return self.roll_backs <= ROLL_BACKS

    def state(self) -> dict[str, Any]:
        return {
            "losses": {name: list(seen) for name, seen in self.losses.items()},
            "norms": {name: list(seen) for name, seen in self.norms.items()},
            "in_a_row": self.in_a_row,
            "roll_backs": self.roll_backs,
        }

    def load(self, state: dict[str, Any]) -> None:
        for seen, told in ((self.losses, state["losses"]), (self.norms, state["norms"])):
            seen.clear()
            for name, values in told.items():
                seen[name].extend(values)
        self.in_a_row, self.roll_backs = state["in_a_row"], state["roll_backs"]
