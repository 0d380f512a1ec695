"""What the scorecard, the plan and the metrics say, read tolerantly: the report and the card share these."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bessemer.registry.svg import minus, signed

LOWER_IS_BETTER = frozenset({"bits_per_byte"})
METRIC_WORDS = {
    "auroc": "AUROC",
    "both_right": "both twins right",
    "bits_per_byte": "bits per byte",
}
VERDICT_WORDS = {
    "SHIP": "everything that was asked of this model was measured and holds",
    "HOLD": "the measurements do not decide: nothing is shown to be wrong, too little is shown to be right",
    "REJECT": "a measurement says no",
}


@dataclass(frozen=True)
class Measured:
    """A value with its 95 % interval; low and high are None where none was measured."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Slice:
    """One slice of a task, with an interval for `after` that may be only rough."""

    name: str
    n_items: int | None
    before: float | None
    after: Measured | None
    rough: bool


def section(value: object) -> Mapping[str, Any]:
    """The mapping, or an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def measured(value: object) -> Measured | None:
    """`{"value", "low", "high"}` or a bare number as Measured; None when nothing was measured."""
    if isinstance(value, Mapping):
        got = number(value.get("value"))
        return None if got is None else Measured(got, number(value.get("low")), number(value.get("high")))
    bare = number(value)
    return None if bare is None else Measured(bare)


def metric_of(task: Mapping[str, Any]) -> str:
    return str(task.get("metric") or "auroc")


def metric_words(metric: str) -> str:
    return METRIC_WORDS.get(metric, metric.replace("_", " "))


def digits_of(metric: str) -> int:
    return 3 if metric in LOWER_IS_BETTER else 2


def show(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else minus(f"{value:.{digits}f}")


def show_measured(m: Measured | None, digits: int = 2) -> str:
    """`0.91 (0.88 to 0.94)`; `not measured` for None."""
    if m is None:
        return "not measured"
    if m.low is None or m.high is None:
        return show(m.value, digits)
    return f"{show(m.value, digits)} ({show(m.low, digits)} to {show(m.high, digits)})"


def show_signed(m: Measured | None, digits: int = 2, *, percent: bool = False) -> str:
    """`+0.31 (+0.25 to +0.37)`, or the same in percent: `+1.2 % (+0.8 to +1.6)`."""
    if m is None:
        return "not measured"
    factor, unit = (100.0, " %") if percent else (1.0, "")
    ends = (
        ""
        if m.low is None or m.high is None
        else (f" ({signed(m.low * factor, digits)} to {signed(m.high * factor, digits)})")
    )
    return f"{signed(m.value * factor, digits)}{unit}{ends}"


def show_interval(m: Measured | None, digits: int = 2, *, sign: bool = False, percent: bool = False) -> str:
    """`0.88 to 0.94`; empty where there is no interval."""
    if m is None or m.low is None or m.high is None:
        return ""
    ends = [v * 100 if percent else v for v in (m.low, m.high)]
    return " to ".join(signed(v, digits) if sign else show(v, digits) for v in ends)


def show_change(change: Measured | None, metric: str) -> str:
    """Tasks: after minus before; bits per byte: after / before - 1, in percent."""
    relative = metric in LOWER_IS_BETTER
    return show_signed(change, 1 if relative else digits_of(metric), percent=relative)


def chance_of(task: Mapping[str, Any], metric: str) -> float | None:
    """The task's chance level where it has one (`chance` belongs to the task's own metric)."""
    if metric in LOWER_IS_BETTER:
        return None
    return number(task.get("chance")) if metric == metric_of(task) else None


def tasks_of(scorecard: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(k): section(v) for k, v in section(scorecard.get("tasks")).items()}


def slices_of(task: Mapping[str, Any]) -> list[Slice]:
    """Slices, best result first; for tasks with two answers their values are shares of right answers.

    Where the scorecard has no interval for a share, a rough one is added from the number of items.
    """
    found: list[Slice] = []
    for name, entry in section(task.get("slices")).items():
        facts = section(entry)
        after, before = measured(facts.get("after")), measured(facts.get("before"))
        n = number(facts.get("n_items"))
        rough = after is not None and after.low is None and metric_of(task) == "auroc" and bool(n)
        if rough and after is not None and n:
            after = share_interval(after.value, n)
        found.append(Slice(str(name), None if n is None else int(n), before and before.value, after, rough))
    sign = 1 if metric_of(task) in LOWER_IS_BETTER else -1
    return sorted(found, key=lambda s: (s.after is None, sign * (s.after.value if s.after else 0), s.name))


def share_interval(share: float, n_items: float) -> Measured:
    """Wilson's 95 % interval of a share of n independent items."""
    z2 = 1.96**2
    middle = (share + z2 / (2 * n_items)) / (1 + z2 / n_items)
    inside = max(0.0, share * (1 - share) / n_items + z2 / (4 * n_items**2))
    reach = 1.96 * math.sqrt(inside) / (1 + z2 / n_items)
    return Measured(share, min(share, max(0.0, middle - reach)), max(share, min(1.0, middle + reach)))


def not_learnt(name: str, task: Mapping[str, Any]) -> list[str]:
    """Sentences on what this task does not show: values at chance, no sure change, weak slices."""
    metric = metric_of(task)
    digits, chance = digits_of(metric), chance_of(task, metric)
    after = measured(section(task.get("after")).get(metric))
    change = measured(section(task.get("change")).get(metric))
    found: list[str] = []
    if after is None:
        found.append(f"{name}: not measured after training.")
    elif chance is not None and after.low is not None and after.low <= chance:
        found.append(f"{name}: not shown to be better than chance: {show_measured(after, digits)}.")
    if change is not None and change.low is not None and change.high is not None:
        gain = (-change.high if metric in LOWER_IS_BETTER else change.low) > 0
        loss = (-change.low if metric in LOWER_IS_BETTER else change.high) < 0
        if loss:
            found.append(f"{name}: worse than before training: change {show_change(change, metric)}.")
        elif not gain:
            found.append(f"{name}: no sure gain over the start checkpoint: change {show_change(change, metric)}.")
    weak = weak_slices(task)
    if weak:
        listed = ", ".join(f"{s.name} ({show(s.after.value if s.after else None)})" for s in weak)
        found.append(f"{name}: these slices are not shown to be better than chance: {listed}.")
    return found


def weak_slices(task: Mapping[str, Any]) -> list[Slice]:
    """Slices whose interval after training includes chance or lies below it."""
    chance = chance_of(task, metric_of(task))
    if chance is None:
        return []
    return [s for s in slices_of(task) if s.after and s.after.low is not None and s.after.low <= chance]


def probe_words(probe: Mapping[str, Any]) -> str:
    """Within the budget, over it, or not decided - by the whole interval of the change."""
    change, limit = measured(probe.get("change")), number(probe.get("limit"))
    if change is None or limit is None:
        return "not measured" if change is None else "no budget given"
    low, high = (change.value if v is None else v for v in (change.low, change.high))
    if high <= limit:
        return "within the budget"
    return "over the budget" if low > limit else "not decided: the interval includes the limit"


def stages_of(plan: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """Stage names in order: the plan's, else as the metrics name them."""
    planned = [str(section(s).get("name", f"{i + 1:02d}")) for i, s in enumerate(listed(plan.get("stages")))]
    seen = [str(e["stage"]) for e in metrics if "stage" in e]
    return list(dict.fromkeys([*planned, *seen]))


def sources_of(plan: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every source with the recipe's words and the plan's counts together; domain sources first."""
    asked = section(section(plan.get("recipe")).get("sources"))
    counted = section(plan.get("sources"))
    names = dict.fromkeys([*map(str, asked), *map(str, counted)])
    both = {n: {**section(asked.get(n)), **section(counted.get(n))} for n in names}
    return dict(sorted(both.items(), key=lambda item: item[1].get("role", "domain") != "domain"))


def consumed(
    plan: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], tokens: object
) -> dict[str, dict[str, int]]:
    """{stage: {source: tokens}} really fed: the release's own count, else the sum over the step events."""
    if section(tokens):
        return {str(k): {str(n): int(t) for n, t in section(v).items()} for k, v in section(tokens).items()}
    total: dict[str, dict[str, int]] = {name: {} for name in stages_of(plan, metrics)}
    for event in metrics:
        if event.get("event") == "step":
            stage = total.setdefault(str(event.get("stage", "")), {})
            for source, n in section(event.get("tokens")).items():
                stage[str(source)] = stage.get(str(source), 0) + int(n)
    return {k: v for k, v in total.items() if v}


def listed(value: object) -> list[Any]:
    """The list, or an empty one for anything else."""
    return list(value) if isinstance(value, list | tuple) else []


def flat(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """A nested value as (dotted path, leaf), in order."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        yield path, ", ".join(map(str, value)) or "–"
    else:
        yield path, "–" if value is None or value == {} else value
