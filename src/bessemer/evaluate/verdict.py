"""SHIP, HOLD or REJECT, and why. The budget is a gate, not a hope.

REJECT: something is shown to be bad (a whole interval on the wrong side). SHIP: everything that must hold is
shown to hold (a whole interval on the right side). HOLD: the data cannot tell; more items or a longer run can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bessemer.errors import EXIT_CODES

TIE = 1e-9  # a change of exactly zero shows neither better nor worse


@dataclass(frozen=True)
class Verdict:
    word: str
    reasons: list[str]

    @property
    def exit_code(self) -> int:
        return {"SHIP": EXIT_CODES["ok"], "HOLD": EXIT_CODES["hold"], "REJECT": EXIT_CODES["reject"]}[self.word]


@dataclass
class _Findings:
    good: list[str]
    unclear: list[str]
    bad: list[str]

    def add(self, low: float, high: float, limit: float, texts: tuple[str, str, str]) -> None:
        """File one interval: wholly above the limit is good, wholly below is bad. texts: good, unclear, bad."""
        if low >= limit:
            self.good.append(texts[0])
        elif high < limit:
            self.bad.append(texts[2])
        else:
            self.unclear.append(texts[1])


def decide(tasks: dict[str, Any], probes: dict[str, Any]) -> Verdict:
    """tasks and probes as in the scorecard (docs/design/formats.md)."""
    found = _Findings([], [], [])
    for name, probe in probes.items():
        _judge_probe(found, name, probe)
    for name, task in tasks.items():
        _judge_task(found, name, task)
    if found.bad:
        return Verdict("REJECT", found.bad + found.unclear)
    if found.unclear:
        return Verdict("HOLD", found.unclear)
    return Verdict("SHIP", found.good)


def _judge_probe(found: _Findings, name: str, probe: dict[str, Any]) -> None:
    change, limit = probe["change"], probe["limit"]
    shown = f"{name}: {_percent(change['value'])} bits per byte {_percents(change)}, budget {_percent(limit)}"
    texts = (f"kept {shown}", f"cannot tell whether the budget holds, {shown}", f"forgot {shown}")
    found.add(-change["high"], -change["low"], -limit, texts)  # more bits are worse


def _judge_task(found: _Findings, name: str, task: dict[str, Any]) -> None:
    metric = "auroc" if task["metric"] == "auroc" else "bits_per_byte"
    after, change = task["after"][metric], task["change"][metric]
    text = f"{name}: {metric} {task['before'][metric]['value']:.3f} -> {after['value']:.3f}"
    if task["role"] == "decides":
        low, high = (change["low"], change["high"]) if metric == "auroc" else (-change["high"], -change["low"])
        shown = f"{text} (change {change['value']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}])"
        texts = (f"learnt {shown}", f"no change shown on {shown}", f"worse than before on {shown}")
        found.add(low - TIE, high + TIE, 0.0, texts)
    if (target := task.get("at_least")) is not None:
        shown = f"{text} [{after['low']:.3f}, {after['high']:.3f}], asked for at least {target:g}"
        texts = (f"reached {shown}", f"cannot tell whether the target is reached, {shown}", f"missed {shown}")
        found.add(after["low"], after["high"], target, texts)


def _percent(share: float) -> str:
    return f"{share * 100:+.1f} %"


def _percents(change: dict[str, float]) -> str:
    return f"[{change['low'] * 100:+.1f}, {change['high'] * 100:+.1f}]"
