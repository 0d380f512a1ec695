"""Charts as SVG text: pure functions, readable without JavaScript, drawn once wide and once for a phone.

Colours and line styles come from classes that report.html defines, so that light and dark need one drawing.
Whatever a colour says is also said by a label, a shape or a dash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bessemer.registry.svg import (
    N_COLOURS,
    Scale,
    dot,
    element,
    escape,
    line,
    nice_ticks,
    picture,
    shorten,
    text,
    text_width,
    tick_texts,
)

WIDE, NARROW = 720, 350
Format = Callable[[float], str]


@dataclass(frozen=True)
class Mark:
    """A measured value; low and high are the ends of its interval. `filled` tells after from before."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    filled: bool = True


@dataclass(frozen=True)
class Guide:
    """A value to compare with, such as chance, a target or a limit. `strong` draws it solid."""

    name: str
    value: float
    strong: bool = False


@dataclass(frozen=True)
class Row:
    """A line of a dot chart: what was measured, the marks, and what to compare them with."""

    label: str
    marks: tuple[Mark, ...]
    guides: tuple[Guide, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Before and after of one slice."""

    label: str
    before: float | None
    after: float | None
    n: int | None = None


@dataclass(frozen=True)
class Series:
    """A line: `points` are drawn, `raw` lies faintly behind them."""

    label: str
    points: Sequence[tuple[float, float]]
    raw: Sequence[tuple[float, float]] = ()
    colour: int = 0
    dots: bool = False


@dataclass(frozen=True)
class Bar:
    """A stacked bar; parts are (label, share of 1, colour). `apart` leaves more room above it."""

    label: str
    parts: Sequence[tuple[str, float, int]]
    apart: bool = False


def series_class(colour: int) -> str:
    """Class names of the n-th series: six colours, then the same with dashes."""
    return f"c{colour % N_COLOURS} d{colour // N_COLOURS % 3}"


def whiskers(rows: Sequence[Row], *, width: int, alt: str, show: Format, percent: bool = False) -> str:
    """Dot and whisker: one line per mark, its interval as a bar, its value beside it."""
    narrow = width < 500
    left = 8.0 if narrow else min(max(text_width(r.label) for r in rows) + 18, width * 0.3)
    ticks = nice_ticks(*_range(rows), 4 if narrow else 6)
    x = Scale(ticks[0], ticks[-1], left + 12, width - (22 if narrow else 34))
    guides = list(dict.fromkeys(g for r in rows for g in r.guides))
    head, levels = _guide_labels(guides, x, width)
    top = levels * 17 + 8.0
    body: list[str] = []
    y = top
    for row in rows:
        height = (20 if narrow else 0) + 23 * len(row.marks) + 14
        body += [_guide_line(g, x(g.value), y, y + height) for g in row.guides]
        label_y = y + 16 if narrow else y + height / 2 + 4.5
        room = width - 16 if narrow else left - 6
        body.append(text(0, label_y, shorten(row.label, room), "label", hover=row.label))
        first = y + (20 if narrow else 0) + 18
        body += [
            _whisker(m, x, first + 23 * i, width=width, show=show, named=row is rows[0] and len(row.marks) > 1)
            for i, m in enumerate(row.marks)
        ]
        y += height
    axis = _bottom_axis(x, ticks, top, y, percent)
    return picture([*axis, *head, *body], width, y + 24, alt, "narrow" if narrow else "wide")


def dumbbells(
    pairs: Sequence[Pair],
    *,
    width: int,
    alt: str,
    show: Format,
    guides: Sequence[Guide] = (),
    span: tuple[float, float] | None = None,
) -> str:
    """One line per slice from before (ring) to after (disc), with n at the right.

    span: what the axis covers at least, so that several charts can share one scale.
    """
    narrow = width < 500
    left = min(max(text_width(p.label) for p in pairs) + 16, width * 0.33)
    values = [v for p in pairs for v in (p.before, p.after) if v is not None] + [g.value for g in guides]
    values += span or ()
    falls = any(p.before is not None and p.after is not None and p.after < p.before for p in pairs)
    ticks = nice_ticks(min(values), max(values), 3 if narrow else 6)
    x = Scale(ticks[0], ticks[-1], left + (44 if falls else 14), width - 80)
    head, levels = _guide_labels(list(guides), x, width - 50)
    top = max(1, levels) * 17 + 8.0
    bottom = top + 22 * len(pairs) + 8
    body = [_guide_line(g, x(g.value), top, bottom) for g in guides]
    body.append(text(width - 4, 13, "items", "axis", "end"))
    for i, pair in enumerate(pairs):
        y = top + 22 * i + 16
        body.append(text(0, y + 4.5, shorten(pair.label, left - 4), "label", hover=pair.label))
        body += _dumbbell(pair, x, y, show)
        body.append(text(width - 4, y + 4.5, "–" if pair.n is None else f"{pair.n:,}", "axis", "end"))
    axis = _bottom_axis(x, ticks, top, bottom, percent=False)
    return picture([*axis, *head, *body], width, bottom + 24, alt, "narrow" if narrow else "wide")


def lines(
    series: Sequence[Series],
    *,
    width: int,
    height: int,
    alt: str,
    x_name: str,
    y_name: str,
    guides: Sequence[Guide] = (),
    cuts: Sequence[tuple[float, str]] = (),
    percent: bool = False,
    from_zero: bool = False,
    right: float = 0.0,
) -> str:
    """Lines over steps with their names at the right end. cuts: (x, name) of where a stage begins.

    right: room at the right at least, so that charts above one another can share their steps.
    """
    narrow = width < 500
    xs = [p[0] for s in series for p in (*s.points, *s.raw)]
    ys = [p[1] for s in series for p in (*s.points, *s.raw)] + [g.value for g in guides]
    y_ticks = nice_ticks(min([*ys, 0.0] if from_zero else ys), max(ys), max(2, height // 55))
    y_labels = tick_texts(y_ticks, percent=percent)
    left = max(34.0, *(text_width(t) + 8 for t in y_labels))
    names = [*(s.label for s in series), *(g.name for g in guides)]
    right = max(right, label_room(names, width))
    top, bottom = (58.0 if cuts else 24.0), height - 24.0
    x = Scale(min(xs), max(xs), left + 4, width - right)
    y = Scale(y_ticks[0], y_ticks[-1], bottom, top)
    body = [text(0, 12, y_name, "axis")]
    for tick, label in zip(y_ticks, y_labels, strict=True):
        body += [
            line(left, y(tick), width - right, y(tick), "grid"),
            text(left - 5, y(tick) + 4.5, label, "axis", "end"),
        ]
    body += _steps_axis(x, bottom, 3 if narrow else 6, x_name)
    body += _cuts(cuts, x, top, bottom)
    body += [line(left, y(g.value), width - right, y(g.value), "guide strong" if g.strong else "guide") for g in guides]
    for s in series:
        body.append(_curve(s.raw, x, y, f"raw {series_class(s.colour)}"))
        body.append(_curve(s.points, x, y, f"curve {series_class(s.colour)}"))
        if s.dots:
            body += [dot(x(a), y(b), f"disc {series_class(s.colour)}", f"{s.label}: {b:.4g}", 3.5) for a, b in s.points]
    ends = [(y(s.points[-1][1]), s.label, f"ink {series_class(s.colour)}") for s in series if s.points]
    ends += [(y(g.value), g.name, "axis") for g in guides]
    body += _end_labels(ends, width - right + 6, right - 6, top, bottom)
    return picture(body, width, height, alt, "narrow" if narrow else "wide")


def label_room(names: Sequence[str], width: float) -> float:
    """Pixels that the names of lines need at the right of a chart; at most a third of its width."""
    return min(max((text_width(n) * 1.08 for n in names), default=0.0) + 14, width / 3)


def stacked(bars: Sequence[Bar], *, width: int, alt: str) -> str:
    """Horizontal bars that add up to 1; a part says name and share, the share, or nothing, as it fits."""
    narrow = width < 500
    left = 0.0 if narrow else min(max(text_width(b.label) for b in bars) + 14, width * 0.3)
    body: list[str] = []
    y = 4.0
    for bar in bars:
        y += 12 if bar.apart else 0
        if narrow:
            body.append(text(0, y + 12, shorten(bar.label, width), "label", hover=bar.label))
            y += 18
        else:
            body.append(text(0, y + 18, shorten(bar.label, left - 6), "label", hover=bar.label))
        body += _stack(bar, Scale(0, 1, left, width), y)
        y += 30
    return picture(body, width, y, alt, "narrow" if narrow else "wide")


def _range(rows: Sequence[Row]) -> tuple[float, float]:
    marks = [v for r in rows for m in r.marks for v in (m.value, m.low, m.high) if v is not None]
    values = marks + [g.value for r in rows for g in r.guides]
    return min(values), max(values)


def _guide_labels(guides: Sequence[Guide], x: Scale, width: float) -> tuple[list[str], int]:
    """Names of the guides above the plot, on as many lines as they need to stay apart."""
    body: list[str] = []
    ends: list[float] = []
    for guide in sorted(guides, key=lambda g: g.value):
        half = text_width(guide.name) / 2
        middle = max(half, min(x(guide.value), width - half))
        level = next((i for i, end in enumerate(ends) if middle - half > end + 8), len(ends))
        ends[level : level + 1] = [middle + half]
        body.append(text(middle, 13 + 17 * level, guide.name, "axis", "middle"))
    return body, len(ends)


def _guide_line(guide: Guide, at: float, y0: float, y1: float) -> str:
    return line(at, y0, at, y1, "guide strong" if guide.strong else "guide")


def _whisker(mark: Mark, x: Scale, y: float, *, width: float, show: Format, named: bool) -> str:
    ends = [mark.value if v is None else v for v in (mark.low, mark.high)]
    x0, x1 = x(min(*ends, mark.value)), x(max(*ends, mark.value))
    style = "after" if mark.filled else "before"
    number = show(mark.value)
    hover = f"{mark.name}: {number}"
    if mark.low is not None and mark.high is not None:
        hover += f", 95 % interval {show(mark.low)} to {show(mark.high)}"
    words = f"{number} {mark.name}" if named else number
    long = text_width(words) + 9
    if x1 + long <= width:
        label = text(x1 + 9, y + 4.5, words, f"value {style}")
    elif x0 - long >= 0:
        label = text(x0 - 9, y + 4.5, words, f"value {style}", "end")
    else:  # the interval fills the width
        label = text(max(long / 2, min(x(mark.value), width - long / 2)), y - 8, words, f"value {style}", "middle")
    return line(x0, y, x1, y, f"whisker {style}") + dot(x(mark.value), y, f"mark {style}", hover) + label


def _dumbbell(pair: Pair, x: Scale, y: float, show: Format) -> list[str]:
    body: list[str] = []
    if pair.before is not None and pair.after is not None:
        body.append(line(x(pair.before), y, x(pair.after), y, "link"))
    if pair.before is not None:
        body.append(dot(x(pair.before), y, "mark before", f"{pair.label} before: {show(pair.before)}", 4))
    if pair.after is not None:
        body.append(dot(x(pair.after), y, "mark after", f"{pair.label} after: {show(pair.after)}", 4.5))
        falls = pair.before is not None and pair.after < pair.before
        at, anchor = (x(pair.after) - 9, "end") if falls else (x(pair.after) + 9, "start")
        body.append(text(at, y + 4.5, show(pair.after), "value after", anchor))
    return body


def _bottom_axis(x: Scale, ticks: list[float], top: float, bottom: float, percent: bool) -> list[str]:
    labels = zip(ticks, tick_texts(ticks, percent=percent), strict=True)
    grid = [line(x(t), top, x(t), bottom, "grid") for t in ticks]
    return [*grid, *(text(x(t), bottom + 17, label, "axis", "middle") for t, label in labels)]


def _steps_axis(x: Scale, bottom: float, n: int, name: str) -> list[str]:
    ticks = [t for t in nice_ticks(x.low, x.high, n) if x.low <= t <= x.high]
    labels = tick_texts(ticks)
    last = x(ticks[-1]) + text_width(labels[-1]) / 2 if ticks else x.px_low
    body = [text(x(t), bottom + 18, w, "axis", "middle") for t, w in zip(ticks, labels, strict=True)]
    body += [line(x(t), bottom, x(t), bottom + 4, "tick") for t in ticks]
    body.append(text(max(x.px_high, last + 8), bottom + 18, name, "axis"))
    return body


def _cuts(cuts: Sequence[tuple[float, str]], x: Scale, top: float, bottom: float) -> list[str]:
    """Where stages begin: a fine line and the stage's name; names alternate in height, so short stages fit."""
    body: list[str] = []
    starts = [*(x(at) for at, _ in cuts), x.px_high + 60, x.px_high + 60]
    for i, (at, name) in enumerate(cuts):
        lift = 17 * (1 - i % 2) + 6
        body.append(line(x(at), top - lift - 10, x(at), bottom, "cut"))
        words = shorten(name, starts[i + 2] - starts[i] - 10)
        body.append(text(starts[i] + 5, top - lift, words, "axis", hover=name) if len(words) > 3 else "")
    return body


def _curve(points: Sequence[tuple[float, float]], x: Scale, y: Scale, class_: str) -> str:
    if not points:
        return ""
    return element("polyline", points=" ".join(f"{x(a):g},{y(b):g}" for a, b in points), class_=class_)


def _end_labels(ends: list[tuple[float, str, str]], at: float, room: float, top: float, bottom: float) -> list[str]:
    """Labels beside the ends of lines, pushed apart to 16 pixels and kept inside the plot."""
    placed: list[list[float]] = []
    order = sorted(range(len(ends)), key=lambda i: ends[i][0])
    for i in order:
        placed.append([max(ends[i][0], placed[-1][0] + 16 if placed else top), i])
    over = max(0.0, placed[-1][0] - bottom) if placed else 0.0
    for k in range(len(placed) - 1, -1, -1):
        below = placed[k + 1][0] - 16 if k + 1 < len(placed) else bottom
        placed[k][0] = min(placed[k][0], below) if over else placed[k][0]
    return [
        text(at, y + 4.5, shorten(ends[int(i)][1], room), ends[int(i)][2], hover=ends[int(i)][1]) for y, i in placed
    ]


def _stack(bar: Bar, x: Scale, y: float) -> list[str]:
    body: list[str] = []
    start = 0.0
    for label, share, colour in bar.parts:
        x0, x1 = x(start), x(start + share)
        percent = f"{share * 100:.0f} %" if share >= 0.01 else f"{share * 100:.1f} %"
        body.append(
            element(
                "rect",
                f"<title>{escape(f'{label} {percent}')}</title>",
                x=x0,
                y=y,
                width=max(0.0, x1 - x0 - 1.5),
                height=26,
                class_=f"part {series_class(colour)}",
            )
        )
        words = next((w for w in (f"{label} {percent}", percent) if text_width(w) + 10 < x1 - x0), "")
        if words:
            body.append(text(x0 + 7, y + 17.5, words, "on-part"))
        start += share
    return body
