"""The report's first half: what was learnt and what was kept, each as a chart and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bessemer.registry import facts as read
from bessemer.registry.charts import Guide, Mark, Pair, Row, dumbbells, whiskers
from bessemer.registry.facts import Measured, measured, number, section
from bessemer.registry.page import (
    Cell,
    Html,
    bullets,
    details,
    figure,
    join,
    nothing,
    section_of,
    table,
    tag,
    value,
    words,
)
from bessemer.registry.svg import signed

METRIC_NOTE = {"auroc": "AUROC is how often a yes item scores above a no item: 1 is perfect, 0.5 is guessing"}


def learnt(scorecard: Mapping[str, Any]) -> Html:
    """Tasks before and after with intervals, then their slices."""
    tasks = read.tasks_of(scorecard)
    if not tasks:
        return section_of("learnt", [nothing("The scorecard holds no task.")])
    by_metric: dict[str, list[str]] = {}
    for name, task in tasks.items():
        by_metric.setdefault(read.metric_of(task), []).append(name)
    parts = [_task_figure(m, {n: tasks[n] for n in names}) for m, names in by_metric.items()]
    parts.append(_task_table(tasks))
    misses = [sentence for name, task in tasks.items() for sentence in read.not_learnt(name, task)]
    parts += [tag("h3", "What was not learnt"), bullets(misses)] if misses else []
    parts += [_slices(name, task, _span(tasks, read.metric_of(task))) for name, task in tasks.items()]
    return section_of("learnt", parts)


def kept(scorecard: Mapping[str, Any]) -> Html:
    """Probes: the change in bits per byte against the budget."""
    probes = {str(k): section(v) for k, v in section(scorecard.get("probes")).items()}
    if not probes:
        return section_of("kept", [nothing("The scorecard holds no probe.")])
    retain = number(scorecard.get("retain"))
    lead = "Probes are general texts that were never trained on. More bits per byte means the model forgot."
    if retain:
        limit = signed((1 / retain - 1) * 100, 2)
        lead += f" The recipe accepts {limit} % at most (retain {retain:g})."
    rows: list[Row] = []
    for name, probe in probes.items():
        change, limit = measured(probe.get("change")), number(probe.get("limit"))
        guides = [Guide("start", 0.0)]
        guides += [] if limit is None else [Guide(f"budget {signed(limit * 100, 2)} %", limit, strong=True)]
        if change:
            rows.append(Row(name, (Mark("change", change.value, change.low, change.high),), tuple(guides)))
    spoken = "; ".join(
        f"{n}: {read.show_signed(measured(p.get('change')), 2, percent=True)}" for n, p in probes.items()
    )
    chart = figure(
        "Change in bits per byte, after against before, in percent",
        lambda w: whiskers(
            rows,
            width=w,
            alt=f"Change of each probe. {spoken}.",
            show=lambda v: signed(v * 100, 2) + " %",
            percent=True,
        ),
        "Dot: measured; bar: 95 % interval. Left of “start” is better than before.",
    )
    return section_of("kept", [words(lead), chart if rows else Html(""), _probe_table(probes)])


def _task_figure(metric: str, tasks: Mapping[str, Mapping[str, Any]]) -> Html:
    digits, rows, spoken = read.digits_of(metric), [], []
    for name, task in tasks.items():
        before, after = (measured(section(task.get(when)).get(metric)) for when in ("before", "after"))
        marks = [Mark(w, m.value, m.low, m.high, w == "after") for w, m in (("before", before), ("after", after)) if m]
        chance, target = read.chance_of(task, metric), number(task.get("at_least"))
        guides = [] if chance is None else [Guide(f"chance {chance:g}", chance)]
        guides += [] if target is None else [Guide(f"needed {target:g}", target, strong=True)]
        if marks:
            rows.append(Row(name, tuple(marks), tuple(guides)))
        spoken.append(f"{name}: before {read.show_measured(before, digits)}, after {read.show_measured(after, digits)}")
    if not rows:
        return nothing(f"No {read.metric_words(metric)} was measured.")
    title = read.metric_words(metric)
    better = "lower is better" if metric in read.LOWER_IS_BETTER else METRIC_NOTE.get(metric, "higher is better")
    return figure(
        f"{title[0].upper() + title[1:]} before and after training",
        lambda w: whiskers(rows, width=w, alt=". ".join([title, *spoken]) + ".", show=lambda v: read.show(v, digits)),
        f"Ring: before; disc: after; bar: 95 % interval. {better[0].upper() + better[1:]}.",
    )


def _task_table(tasks: Mapping[str, Mapping[str, Any]]) -> Html:
    """One row per task and metric; role and number of items stand under the task's name, once."""
    rows: list[list[Cell]] = []
    for name, task in tasks.items():
        when = [section(task.get(w)) for w in ("before", "after", "change")]
        for metric in dict.fromkeys([read.metric_of(task), *(str(m) for w in when for m in w)]):
            d, own = read.digits_of(metric), metric == read.metric_of(task)
            before, after, change = (measured(w.get(metric)) for w in when)
            need = number(task.get("at_least")) if own else None
            rows.append(
                [
                    value(name, _about(task) if own else ""),
                    read.metric_words(metric),
                    _measured_cell(before, d),
                    _measured_cell(after, d),
                    _change_cell(change, metric in read.LOWER_IS_BETTER, 1 if metric in read.LOWER_IS_BETTER else d),
                    "–" if need is None else f"{need:g}",
                ]
            )
    head = ["Task", "Metric", "Before", "After", "Change", "Needed"]
    return table("Tasks; 95 % intervals below the values", head, rows, range(2, 6))


def _about(task: Mapping[str, Any]) -> str:
    n, clusters = number(task.get("n_items")), number(task.get("n_clusters"))
    groups = f" in {clusters:,.0f} groups" if clusters and clusters != n else ""
    return ", ".join(filter(None, [str(task.get("role") or ""), f"{n:,.0f} items{groups}" if n else ""]))


def _measured_cell(m: Measured | None, digits: int) -> Html:
    return value(read.show(m.value, digits) if m else "not measured", read.show_interval(m, digits))


def _change_cell(m: Measured | None, percent: bool, digits: int) -> Html:
    if m is None:
        return value("not measured")
    main = signed(m.value * 100, digits) + " %" if percent else signed(m.value, digits)
    return value(main, read.show_interval(m, digits, sign=True, percent=percent))


def _span(tasks: Mapping[str, Mapping[str, Any]], metric: str) -> tuple[float, float] | None:
    """What the slices of all tasks of one metric cover, so that their charts share a scale."""
    slices = [s for t in tasks.values() if read.metric_of(t) == metric for s in read.slices_of(t)]
    values = [v for s in slices for v in (s.before, s.after and s.after.value) if v is not None]
    return (min(values), max(values)) if values else None


def _slices(name: str, task: Mapping[str, Any], span: tuple[float, float] | None) -> Html:
    metric, slices = read.metric_of(task), read.slices_of(task)
    digits, chance = read.digits_of(metric), read.chance_of(task, metric)
    pairs = [Pair(s.name, s.before, s.after.value if s.after else None, s.n_items) for s in slices]
    pairs = [p for p in pairs if p.before is not None or p.after is not None]
    if not pairs:
        return Html("")
    guides = [] if chance is None else [Guide(f"chance {chance:g}", chance)]
    rough = any(s.rough for s in slices)
    measure = "share of right answers" if metric == "auroc" else read.metric_words(metric)
    weak = {s.name for s in read.weak_slices(task)}

    def verdict(slice_name: str) -> str:
        return "–" if chance is None else "not shown" if slice_name in weak else "yes"

    alt = "; ".join(f"{p.label} {read.show(p.before, digits)} to {read.show(p.after, digits)}" for p in pairs)
    chart = figure(
        f"{name}: {measure} of each slice",
        lambda w: dumbbells(
            pairs, width=w, alt=f"{name}. {alt}.", show=lambda v: read.show(v, digits), guides=guides, span=span
        ),
        "Ring: before; disc: after. A slice has few items: read a group of them, not one.",
    )
    rows: list[list[Cell]] = [
        [s.name, "–" if s.n_items is None else f"{s.n_items:,}", read.show(s.before, digits),
         read.show_measured(s.after, digits), verdict(s.name)]
        for s in slices
    ]  # fmt: skip
    source = "; 95 % intervals from the number of items alone" if rough else ""
    caption = f"Slices of {name}: {measure}{source}"
    head = ["Slice", "Items", "Before", "After", "Better than chance"]
    return join([chart, details(f"Table: slices of {name}", table(caption, head, rows, range(1, 4)))])


def _probe_table(probes: Mapping[str, Mapping[str, Any]]) -> Html:
    rows: list[list[Cell]] = []
    for name, probe in probes.items():
        limit, n = number(probe.get("limit")), number(probe.get("n_windows"))
        rows.append(
            [
                name,
                _measured_cell(measured(probe.get("before")), 3),
                _measured_cell(measured(probe.get("after")), 3),
                _change_cell(measured(probe.get("change")), True, 2),
                "–" if limit is None else f"{signed(limit * 100, 2)} %",
                read.probe_words(probe),
                "–" if n is None else f"{n:,.0f}",
            ]
        )
    head = ["Probe", "Before", "After", "Change", "Budget", "In words", "Windows"]
    return table("Probes in bits per byte; 95 % intervals below the values", head, rows, [1, 2, 3, 4, 6])
