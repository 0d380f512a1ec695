"""SHIP, HOLD or REJECT, and why. The budget is a gate, not a hope.

REJECT: something is shown to be bad (a whole interval on the wrong side). SHIP: everything that must hold is
shown to hold (a whole interval on the right side). HOLD: the data cannot tell; more items or a longer run can.
"""

from __future__ import annotations

from collections.abc import Mapping
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

    def verdict(self) -> Verdict:
        if self.bad:
            return Verdict("REJECT", self.bad + self.unclear)
        return Verdict("HOLD", self.unclear) if self.unclear else Verdict("SHIP", self.good)


def decide(tasks: dict[str, Any], probes: dict[str, Any]) -> Verdict:
    """tasks and probes as in the scorecard (docs/design/formats.md)."""
    found = _Findings([], [], [])
    for name, probe in probes.items():
        _judge_probe(found, name, probe)
    for name, task in tasks.items():
        _judge_task(found, name, task)
    return found.verdict()


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


# -- an evaluation's scorecard ------------------------------------------------------------------------------


def judge_evaluation(tasks: dict[str, Any], probes: Mapping[str, Any], other_than_base: str = "") -> Verdict:
    """Domain gain, and nothing forgotten beyond the budget, and clean, and the sealed part opened in order.

    tasks: as in the evaluation's scorecard (docs/design/formats.md), each with its role: gain or keep. other_than_base:
    says with what the models were compared, where that is not what they started from.
    """
    found = _Findings([], [], [])
    for name, probe in probes.items():
        _judge_probe(found, name, probe)
    for name, task in tasks.items():
        if "change" not in task:
            found.unclear.append(f"{name}: there is nothing to compare with (--against)")
        elif task["role"] == "gain":
            _judge_gain(found, name, task)
        else:
            _judge_kept(found, name, task)
        _judge_clean(found, name, task)
    roles = [t["role"] for t in tasks.values()]
    if "gain" not in roles:
        found.unclear.append("no task is there that has to gain")
    if not probes and "keep" not in roles:
        found.unclear.append("nothing general was measured, so what was forgotten is not known (--keep TASK)")
    if other_than_base and "keep" in roles:
        (found.good if probes else found.unclear).append(f"{other_than_base}: kept means as good as that one")
    _judge_seals(found, tasks)
    return found.verdict()


def _judge_seals(found: _Findings, tasks: Mapping[str, Any]) -> None:
    sealed = {name: t["seal"] for name, t in tasks.items() if t["role"] == "gain" and t["seal"]}
    if not sealed:
        found.unclear.append("no task is sealed: `bessemer seal create` before the training, then --tasks seal:NAME")
    for name, seal in sealed.items():
        if seal["out_of_order"]:
            found.unclear.append(f"{name}: {seal['out_of_order']}")
    for name, task in tasks.items():  # of any role: nobody stands by such a score
        measured = {*task["results"]["before"], *task["results"]["after"]}
        for s in (task["seal"] or {}).get("submissions", ()):
            if s["state"] == "withdrawn" and s["result"] in measured:
                found.unclear.append(f"{name}: the score of {s['model'][:12]} was withdrawn: {s['why']}")


def _judge_gain(found: _Findings, name: str, task: dict[str, Any]) -> None:
    shown = _shown(name, task)
    match task["change"]["answer"]:
        case "WIN":
            found.good.append(f"learnt {shown}")
        case "LOSS":
            found.bad.append(f"worse than before on {shown}")
        case "EQUIVALENT":
            found.bad.append(f"nothing gained that matters on {shown}, smallest effect {task['margin']:g}")
        case _:
            found.unclear.append(f"no change shown on {shown}")


def _judge_kept(found: _Findings, name: str, task: dict[str, Any]) -> None:
    """Not worse by more than the margin: the whole interval on the right side of it."""
    change, better = task["change"]["change"], task["change"]["higher_is_better"]
    low, high = (change["low"], change["high"]) if better else (-change["high"], -change["low"])
    shown = f"{_shown(name, task)}, may lose {task['margin']:.4g}"
    texts = (f"kept {shown}", f"cannot tell whether it was kept, {shown}", f"forgot {shown}")
    found.add(low, high, -task["margin"], texts)


def _judge_clean(found: _Findings, name: str, task: dict[str, Any]) -> None:
    """A score on items that were trained on says nothing about the model, good or bad: it holds the verdict up."""
    overlap = task["overlap"]
    if overlap["known"] and overlap["n_untold"] > task["n_items"] / 2:
        found.unclear.append(
            f"{name}: {overlap['n_untold']} of {task['n_items']} items are too short, or too much like the others, to "
            "be found in what the model was fed"
        )
    if task["role"] == "gain" and not overlap["known"]:
        found.unclear.append(f"{name}: nothing is known of what this model was fed, so its items may be among it")
    if overlap["known"] and overlap["share"] > task["spec"]["overlap_limit"]:
        found.unclear.append(
            f"{name}: {overlap['n_contaminated']} of {task['n_items']} items were fed to the model "
            f"({overlap['share']:.1%}, limit {task['spec']['overlap_limit']:.1%})"
        )
    if overlap["known"] and overlap["leaked_canaries"]:
        found.unclear.append(f"{name}: {overlap['leaked_canaries']} canaries were fed to the model: the file leaked")
    for controls in filter(None, task["controls"]):
        if controls["seen"]:
            found.unclear.append(
                f"{name}: right on {controls['right']:g} of {controls['n']} coin flips (p {controls['p']:.1g}): "
                "the model has seen the answers"
            )


def _shown(name: str, task: dict[str, Any]) -> str:
    d = task["change"]
    unit = (100, " %") if d["relative"] else (1, "")
    change = [f"{d['change'][k] * unit[0]:+.3f}" for k in ("value", "low", "high")]
    return (
        f"{name}: {task['primary']} {d['before']['value']:.3f} -> {d['after']['value']:.3f} "
        f"(change {change[0]}{unit[1]} [{change[1]}, {change[2]}])"
    )
