"""The report's middle: how training went and what it was fed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bessemer.registry.charts import Bar, Guide, Series, label_room, lines, stacked
from bessemer.registry.facts import consumed, listed, number, section, sources_of, stages_of
from bessemer.registry.page import (
    Cell,
    Html,
    digest,
    figure,
    join,
    keys,
    nothing,
    section_of,
    table,
    tag,
    words,
)
from bessemer.registry.svg import signed
from bessemer.units import show_count, show_seconds

Event = Mapping[str, Any]
Point = tuple[float, float]
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def went(plan: Mapping[str, Any], metrics: Sequence[Event], scorecard: Mapping[str, Any]) -> Html:
    """Loss per source and the learning rate of every stage, then the probes over the whole run."""
    steps = {name: _of(metrics, "step", name) for name in stages_of(plan, metrics)}
    parts = [_stage(name, events, _colours(plan, events)) for name, events in steps.items()]
    if not any(steps.values()):
        parts = [nothing("No training step was recorded.")]
    parts += [
        tag("h3", "Forgetting, watched during training"),
        _probes(metrics, steps, _limit(scorecard), len(sources_of(plan))),
    ]
    return section_of("went", parts)


def smooth(points: Sequence[Point]) -> list[Point]:
    """A centred moving mean over about a fifteenth of the points; fewer than 8 points stay as they are."""
    if len(points) < 8:
        return list(points)
    reach = max(1, len(points) // 30)
    windows = ((i, points[max(0, i - reach) : i + reach + 1]) for i in range(len(points)))
    return [(points[i][0], sum(y for _, y in w) / len(w)) for i, w in windows]


def thin(points: Sequence[Point], most: int = 400) -> list[Point]:
    """At most about `most` points that keep every stretch's lowest and highest."""
    if len(points) <= most:
        return list(points)
    size = -(-len(points) * 2 // most)
    kept: list[Point] = []
    for i in range(0, len(points), size):
        part = points[i : i + size]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return kept


def fed(plan: Mapping[str, Any], metrics: Sequence[Event], lineage: Mapping[str, Any]) -> Html:
    """Asked and real mixture of every stage, and where each source comes from."""
    sources = sources_of(plan)
    real = consumed(plan, metrics, lineage.get("tokens"))
    names = list(dict.fromkeys([*sources, *(s for stage in real.values() for s in stage)]))
    colour = {name: i for i, name in enumerate(names)}
    asked = {str(section(s).get("name")): section(section(s).get("sources")) for s in listed(plan.get("stages"))}
    parts = [_mixture(asked, real, colour), _fed_table(asked, real, sources)]
    parts.append(_source_table(sources, section(lineage.get("data"))))
    return section_of("fed", parts)


def _of(metrics: Sequence[Event], event: str, stage: str) -> list[Event]:
    return [e for e in metrics if e.get("event") == event and str(e.get("stage")) == stage]


def _points(events: Sequence[Event], read: Mapping[str, str] | str) -> list[Point]:
    """(step, value) of a field of every event that has it; {"source_loss": name} reads inside a mapping."""
    found: list[Point] = []
    for e in events:
        value = e.get(read) if isinstance(read, str) else next(section(e.get(k)).get(v) for k, v in read.items())
        step, y = number(e.get("step")), number(value)
        if step is not None and y is not None:
            found.append((step, y))
    return found


def _colours(plan: Mapping[str, Any], events: Sequence[Event]) -> dict[str, int]:
    seen = [str(s) for e in events for s in section(e.get("source_loss"))]
    return {name: i for i, name in enumerate(dict.fromkeys([*sources_of(plan), *seen]))}


def _stage(name: str, events: Sequence[Event], colours: Mapping[str, int]) -> Html:
    """Loss per source and, below it on the same steps, the learning rate."""
    if not events:
        return join([tag("h3", f"Stage {name}"), nothing("No step of this stage was recorded.")])
    curves = {s: _points(events, {"source_loss": s}) for s in colours}
    curves = {s: p for s, p in curves.items() if p} or {"loss": _points(events, "loss")}
    series = [Series(s, thin(smooth(p)), thin(p), colours.get(s, 0)) for s, p in curves.items() if p]
    rate = _points(events, "lr")
    if not series and not rate:
        return join([tag("h3", f"Stage {name}"), nothing("Its steps carry neither loss nor learning rate.")])
    ends = ", ".join(f"{s.label} {s.points[0][1]:.2f} to {s.points[-1][1]:.2f}" for s in series)

    def draw(width: int) -> str:
        loss = f"Loss per source in stage {name}, smoothed: {ends}."
        room = label_room([s.label for s in series], width)
        above = (
            ""
            if not series
            else lines(series, width=width, height=250, alt=loss, x_name="step", y_name="loss, nats per token")
        )
        return above + (_rate(name, rate, width, room) if rate else "")

    tokens = sum(int(number(t) or 0) for e in events for t in section(e.get("tokens")).values())
    seconds = sum(number(e.get("seconds")) or 0.0 for e in events)
    kind = " Bold: smoothed; faint: every step." if len(events) >= 8 and series else ""
    note = f"{len(events):,} steps, {show_count(tokens)} tokens, {show_seconds(seconds)}.{kind}"
    return figure(f"Stage {name}: loss on each source", draw, f"{note} First to last: {ends}." if ends else note)


def _rate(name: str, rate: Sequence[Point], width: int, room: float) -> str:
    """The learning rate, small, in units of a power of ten that keep its ticks short."""
    top = max(y for _, y in rate)
    power = math.floor(math.log10(top)) if top > 0 else 0
    unit = f" × 10{str(power).translate(_RAISED)}" if power else ""
    peak = f"{top / 10**power:.2g}"
    points = thin([(x, y / 10**power) for x, y in rate])
    return lines(
        [Series("", points, colour=5)], width=width, height=112, x_name="step", from_zero=True, right=room,
        alt=f"Learning rate in stage {name}: highest {top:g}, last {rate[-1][1]:g}.",
        y_name=f"learning rate{unit}, highest {peak}",
    )  # fmt: skip


def _limit(scorecard: Mapping[str, Any]) -> float | None:
    limits = [number(section(p).get("limit")) for p in section(scorecard.get("probes")).values()]
    known = [v for v in limits if v is not None]
    if known:
        return min(known)
    retain = number(scorecard.get("retain"))
    return 1 / retain - 1 if retain else None


def _probes(
    metrics: Sequence[Event], steps: Mapping[str, Sequence[Event]], limit: float | None, first_colour: int
) -> Html:
    starts, at = {}, 0.0
    for stage, events in steps.items():
        starts[stage] = at
        probed = [number(e.get("step")) or 0.0 for e in _of(metrics, "probe", stage)]
        at += max([number(e.get("step")) or 0.0 for e in events] + probed, default=0.0)
    curves: dict[str, list[Point]] = {}
    for e in metrics:
        value, start = number(e.get("bits_per_byte")), number(e.get("start"))
        if e.get("event") == "probe" and value is not None and start:
            x = starts.get(str(e.get("stage")), 0.0) + (number(e.get("step")) or 0.0)
            curves.setdefault(str(e.get("probe")), [(0.0, 0.0)] if x else []).append((x, value / start - 1))
    if not curves:
        return nothing("No probe was measured during training; see “What was kept” for before and after.")
    series = [
        Series(name, points, colour=first_colour + i, dots=True) for i, (name, points) in enumerate(curves.items())
    ]
    guides = [Guide(f"budget {signed(limit * 100, 2)} %", limit, strong=True)] if limit is not None else []
    ends = ", ".join(f"{s.label} {signed(s.points[-1][1] * 100, 2)} %" for s in series)
    cuts = [(x, name) for name, x in starts.items()]
    alt = f"Change in bits per byte of each probe over the run, last measured: {ends}."
    return figure(
        "Bits per byte of each probe, against the start checkpoint",
        lambda w: lines(
            series, width=w, height=270, alt=alt, x_name="step", y_name="change in bits per byte",
            guides=guides, cuts=cuts, percent=True,
        ),
        f"Higher is forgetting. Quick measurements while training; the last ones: {ends}.",
    )  # fmt: skip


def _mixture(asked: Mapping[str, Any], real: Mapping[str, Mapping[str, int]], colour: Mapping[str, int]) -> Html:
    bars: list[Bar] = []
    for stage in dict.fromkeys([*asked, *real]):
        wanted = {str(s): number(section(v).get("share")) or 0.0 for s, v in section(asked.get(stage)).items()}
        got = real.get(stage, {})
        for what, parts in (("asked", wanted), ("fed", {s: float(n) for s, n in got.items()})):
            total = sum(parts.values())
            shares = [
                (s, parts[s] / total, colour.get(s, 0)) for s in sorted(parts, key=lambda s: colour.get(s, 0)) if total
            ]
            if shares:
                bars.append(Bar(f"{stage} {what}", shares, apart=what == "asked" and bool(bars)))
    if not bars:
        return nothing("Neither an asked nor a consumed mixture is recorded.")
    spoken = "; ".join(f"{b.label}: " + ", ".join(f"{s} {v:.0%}" for s, v, _ in b.parts) for b in bars)
    return figure(
        "Share of each source in tokens, asked and really fed",
        lambda w: stacked(bars, width=w, alt=f"Mixture of every stage. {spoken}."),
        keys=keys([(s, c) for s, c in colour.items() if any(s == p[0] for b in bars for p in b.parts)]),
    )


def _fed_table(
    asked: Mapping[str, Any], real: Mapping[str, Mapping[str, int]], sources: Mapping[str, Mapping[str, Any]]
) -> Html:
    rows: list[list[Cell]] = []
    for stage in dict.fromkeys([*asked, *real]):
        wanted, got = section(asked.get(stage)), real.get(stage, {})
        for source in dict.fromkeys([*map(str, wanted), *got]):
            plan, n = section(wanted.get(source)), got.get(source)
            share, planned = number(plan.get("share")), number(plan.get("tokens"))
            size = number(plan.get("tokens_in_source")) or number(section(sources.get(source)).get("tokens"))
            epochs = n / size if n is not None and size else number(plan.get("epochs"))
            rows.append(
                [
                    f"{stage}: {source}",
                    "–" if share is None else f"{share:.1%}".replace("%", " %"),
                    "–" if n is None else f"{n / (sum(got.values()) or 1):.1%}".replace("%", " %"),
                    "–" if planned is None else f"{planned:,.0f}",
                    "–" if n is None else f"{n:,}",
                    "–" if epochs is None else f"{epochs:.2f}",
                ]
            )
    if not rows:
        return Html("")
    head = ["Stage and source", "Asked", "Fed", "Tokens planned", "Tokens fed", "Epochs"]
    return table("Tokens of each source in each stage", head, rows, range(1, 6))


def _source_table(sources: Mapping[str, Mapping[str, Any]], data: Mapping[str, Any]) -> Html:
    rows: list[list[Cell]] = []
    for name in dict.fromkeys([*sources, *map(str, data)]):
        known = {**section(data.get(name)), **section(sources.get(name))}
        licences = ", ".join(map(str, listed(known.get("licences")))) or "not stated"
        items = number(known.get("items"))
        rows.append(
            [
                name,
                str(known.get("role", "domain")),
                licences,
                str(known.get("from", known.get("from_", "–"))),
                "–" if items is None else f"{items:,.0f}",
                digest(known.get("digest")),
            ]
        )
    if not rows:
        return nothing("No source is recorded.")
    head = ["Source", "Role", "Licences", "From", "Items", "Digest"]
    return join(
        [
            tag("h3", "Where it comes from"),
            words(
                "Domain sources are the user's own; general sources keep old skills alive. "
                "A digest pins every item that could reach the model.",
                "note",
            ),
            table("Sources", head, rows, [4]),
        ]
    )
