"""Charts: round ticks, safe text, well-formed SVG, values that land where they should."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.registry import charts
from bessemer.registry.charts import NARROW, WIDE, Bar, Guide, Mark, Pair, Row, Series
from bessemer.registry.svg import Scale, escape, nice_ticks, shorten, signed, text_width, tick_texts

HOSTILE = ["<script>alert(1)</script>", '"</title>', "a&b'", "w" * 300, "שלום עולם", "🙂🙂", "\x00\x1b\ud800\u202e", ""]
WIDTHS = [WIDE, NARROW]
GUIDE = Guide("chance", 0.5)


def parse(svg: str) -> ET.Element:
    svg.encode("utf-8")
    return ET.fromstring(svg)  # noqa: S314 - our own output


def circles(svg: str, class_: str) -> list[float]:
    return [float(c.get("cx", "nan")) for c in parse(svg).iter("circle") if class_ in (c.get("class") or "").split()]


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(2, 8))
def test_ticks_are_round_and_enclose_the_range(low: float, span: float, n: int) -> None:
    ticks = nice_ticks(low, low + span, n)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + 1e-6 * max(step, 1e-9) and ticks[-1] >= low + span - 1e-6 * max(step, 1e-9)
    assert 2 <= len(ticks) <= n + 3
    power = 10.0 ** math.floor(math.log10(step) + 1e-4)
    nearest = min((1, 2, 2.5, 5), key=lambda f: abs(step / power - f)) * power
    assert step == pytest.approx(nearest, rel=1e-4)  # as floats of 1e6 tell 0.001 apart
    assert all(abs(t / nearest - round(t / nearest)) < 1e-4 for t in ticks)
    assert len(set(tick_texts(ticks))) == len(ticks)


def test_ticks_of_known_ranges() -> None:
    assert nice_ticks(0.42, 0.94, 6) == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert nice_ticks(0, 300, 6) == [0, 50, 100, 150, 200, 250, 300]
    assert tick_texts([-0.005, 0.0, 0.005], percent=True) == ["−0.5 %", "0 %", "+0.5 %"]
    assert tick_texts([0, 10_000, 20_000]) == ["0", "10k", "20k"]
    assert signed(-0.0001, 2) == "+0.00" and signed(-0.5, 1) == "−0.5"


@pytest.mark.parametrize("words", HOSTILE)
def test_escaped_text_is_valid_in_xml_and_utf8(words: str) -> None:
    got = ET.fromstring(f'<a b="{escape(words)}">{escape(words)}</a>')  # noqa: S314
    assert got.text == got.get("b") or not words
    assert "\u202e" not in escape(words)


@given(st.text(max_size=80), st.floats(20, 400))
def test_shortened_text_fits(words: str, room: float) -> None:
    short = shorten(words, room)
    assert short == words or (short.endswith("…") and (text_width(short) <= room or short == "…"))


@pytest.mark.parametrize("width", WIDTHS)
def test_whiskers_put_marks_on_a_straight_scale(width: int) -> None:
    rows = [
        Row(
            "a", (Mark("before", 0.5, 0.4, 0.6, filled=False), Mark("after", 0.9, 0.85, 0.95)), (Guide("chance", 0.5),)
        ),
        Row("b", (Mark("after", 0.7),)),
    ]
    svg = charts.whiskers(rows, width=width, alt="what", show=lambda v: f"{v:.2f}")
    root = parse(svg)
    assert root.get("viewBox", "").startswith(f"0 0 {width} ") and root.get("aria-label") == "what"
    (before,), (a, b) = circles(svg, "before"), circles(svg, "after")
    assert (b - before) == pytest.approx((a - b), abs=0.1)  # 0.5, 0.7, 0.9 are equally far apart
    guides = [e for e in root.iter("line") if e.get("class") == "guide"]
    assert [float(g.get("x1", "nan")) for g in guides] == [pytest.approx(before, abs=0.1)]
    assert "95 % interval 0.85 to 0.95" in svg


@pytest.mark.parametrize("width", WIDTHS)
def test_everything_stays_inside_the_picture(width: int) -> None:
    rows = [
        Row("x" * 200, (Mark("before", 0.0, -1, 1, filled=False), Mark("after", 1.0, 1, 1)), (Guide("g" * 9, 1.0),))
    ]
    pairs = [Pair("y" * 200, 0.9, 0.0, 10_000), Pair("", None, 1.0), Pair("z", 0.3, None, 0)]
    series = [Series("s" * 90, [(1, 1.0), (2, 1.0)]), Series("t", [(1, 1.0), (9, 1.0)], [(1, 4.0)], 7, dots=True)]
    bars = [Bar("b" * 99, [("p" * 99, 0.999, 0), ("q", 0.001, 8)])]
    svgs = [
        charts.whiskers(rows, width=width, alt="", show=str),
        charts.dumbbells(pairs, width=width, alt="", show=str, guides=[GUIDE], span=(0, 1)),
        charts.lines(series, width=width, height=200, alt="", x_name="step", y_name="loss", cuts=[(1, "a"), (2, "b")]),
        charts.stacked(bars, width=width, alt=""),
    ]
    for svg in svgs:
        root = parse(svg)
        height = float(root.get("viewBox", "").split()[3])
        for e in root.iter():
            for name in ("x", "x1", "x2", "cx"):
                assert -1 <= float(e.get(name) or 0) <= width + 1, ET.tostring(e)
            for name in ("y", "y1", "y2", "cy"):
                assert -1 <= float(e.get(name) or 0) <= height + 1, ET.tostring(e)
        for e in root.iter("text"):
            shown = (e.text or "") + "".join(title.tail or "" for title in e)
            x, long = float(e.get("x") or 0), text_width(shown)
            left = {"end": x - long, "middle": x - long / 2}.get(e.get("text-anchor") or "", x)
            assert left > -30 and left + long < width + 45, ET.tostring(e)


def test_lines_follow_their_points() -> None:
    svg = charts.lines(
        [Series("loss", [(0, 4.0), (50, 2.0), (100, 0.0)])], width=WIDE, height=200, alt="", x_name="step", y_name="y"
    )
    (curve,) = [e for e in parse(svg).iter("polyline") if "curve" in (e.get("class") or "")]
    (x0, y0), (x1, y1), (x2, y2) = [tuple(map(float, p.split(","))) for p in curve.get("points", "").split()]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.1) and y1 - y0 == pytest.approx(y2 - y1, abs=0.1)
    assert y0 < y1 < y2  # a falling loss falls on the page


def test_stacked_parts_have_widths_in_proportion() -> None:
    svg = charts.stacked([Bar("", [("a", 0.75, 0), ("b", 0.25, 1)])], width=NARROW, alt="")
    a, b = [float(r.get("width", "0")) + 1.5 for r in parse(svg).iter("rect")]
    assert a / b == pytest.approx(3, rel=0.01)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=5))
def test_any_finite_values_can_be_drawn(values: list[float]) -> None:
    rows = [Row("r", (Mark("m", v, v - 1, v + abs(v)),)) for v in values]
    parse(charts.whiskers(rows, width=WIDE, alt="", show=str))
    points = list(enumerate(values))
    parse(charts.lines([Series("s", points)], width=NARROW, height=120, alt="", x_name="x", y_name="y"))


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_names_leave_the_svg_whole(words: str) -> None:
    svg = charts.dumbbells([Pair(words, 0.2, 0.8, 3)], width=NARROW, alt=words, show=str)
    svg += charts.stacked([Bar(words, [(words, 1.0, 0)])], width=WIDE, alt=words)
    for part in re.findall(r"<svg.*?</svg>", svg, re.DOTALL):
        assert "script" not in {e.tag for e in parse(part).iter()}


def test_scale_is_straight_and_survives_a_single_value() -> None:
    assert Scale(0, 10, 100, 200)(5) == 150
    assert Scale(3, 3, 10, 20)(3) == 10
