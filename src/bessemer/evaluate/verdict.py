"""SHIP, HOLD or REJECT, and why. The budget is a gate, not a hope.

REJECT: something is shown to be bad (a whole interval on the wrong side). SHIP: everything that must hold is
shown to hold (a whole interval on the right side). HOLD: the data cannot tell; more items or a longer run can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bessemer.errors import EXIT_CODES


@dataclass(frozen=True)
class Verdict:
    word: str
    reasons: list[str]

    @property
    def exit_code(self) -> int:
        return {"SHIP": EXIT_CODES["ok"], "HOLD": EXIT_CODES["hold"], "REJECT": EXIT_CODES["reject"]}[
            self.word
        ]


def decide(tasks: dict[str, Any], probes: dict[str, Any]) -> Verdict:
    """tasks and probes as in the scorecard (docs/design/formats.md)."""
    good: list[str] = []
    unclear: list[str] = []
    bad: list[str] = []
    for name, probe in probes.items():
        change, limit = probe["change"], probe["limit"]
        shown = (
            f"{name}: {_percent(change['value'])} bits per byte {_percents(change)}, budget {_percent(limit)}"
        )
        if change["high"] <= limit:
            good.append(f"kept {shown}")
        elif change["low"] > limit:
            bad.append(f"forgot {shown}")
        else:
            unclear.append(f"cannot tell whether the budget holds, {shown}")
    for name, task in tasks.items():
        metric = "auroc" if task["metric"] == "auroc" else "bits_per_byte"
        after, change = task["after"][metric], task["change"][metric]
        better = 1 if metric == "auroc" else -1
        ends = sorted((better * change["low"], better * change["high"]))
        text = f"{name}: {metric} {task['before'][metric]['value']:.3f} -> {after['value']:.3f}"
        if task["role"] == "decides":
            if ends[0] > 0:
                good.append(
                    f"learnt {text} (change {change['value']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}])"
                )
            elif ends[1] < 0:
                bad.append(f"worse than before on {text}")
            else:
                unclear.append(f"no change shown on {text} [{change['low']:+.3f}, {change['high']:+.3f}]")
        if (target := task.get("at_least")) is not None:
            shown = f"{text} [{after['low']:.3f}, {after['high']:.3f}], asked for at least {target:g}"
            if after["low"] >= target:
                good.append(f"reached {shown}")
            elif after["high"] < target:
                bad.append(f"missed {shown}")
            else:
                unclear.append(f"cannot tell whether the target is reached, {shown}")
    if bad:
        return Verdict("REJECT", bad + unclear)
    if unclear:
        return Verdict("HOLD", unclear)
    return Verdict("SHIP", good)


def _percent(share: float) -> str:
    return f"{share * 100:+.1f} %"


def _percents(change: dict[str, float]) -> str:
    return f"[{change['low'] * 100:+.1f}, {change['high'] * 100:+.1f}]"
