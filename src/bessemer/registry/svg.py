"""The small parts that charts are made of: safe text, round ticks, scales and SVG elements."""

from __future__ import annotations

import html
import math
import re
import unicodedata
from dataclasses import dataclass

FONT_PX = 13
N_COLOURS = 6  # classes c0..c5 in report.html; later series repeat them with other dashes
# What XML forbids, and characters that silently reorder a line: shown by their code instead.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def escape(value: object) -> str:
    """Any value as text that is safe in HTML, in SVG and in a quoted attribute."""
    return html.escape(visible(value), quote=True)


def visible(value: object) -> str:
    """Any value as text in which control, reordering and half characters are shown by their code: `[U+202E]`."""
    return _UNSAFE.sub(lambda m: f"[U+{ord(m[0]):04X}]", str(value).replace("\r\n", "\n"))


def text_width(text: str, font_px: float = FONT_PX) -> float:
    """Rough width in pixels: Latin letters about 0.6 em, East Asian characters and emoji 1.05 em."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    marks = sum(unicodedata.combining(c) > 0 for c in text)
    return font_px * (0.6 * (len(text) - wide - marks) + 1.05 * wide)


def shorten(text: str, max_px: float) -> str:
    """The text, or as much of its beginning as fits with an ellipsis."""
    if text_width(text) <= max_px:
        return text
    while text and text_width(text + "…") > max_px:
        text = text[: max(0, min(len(text) - 1, int(len(text) * 0.97)))]
    return text + "…"


def nice_step(span: float, n: int) -> float:
    """The round step (1, 2, 2.5 or 5 times a power of ten) that cuts `span` into at most about `n` parts."""
    raw = span / max(1, n)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= raw * (1 - 1e-9))


def nice_ticks(low: float, high: float, n: int = 5) -> list[float]:
    """Round ticks that enclose [low, high]; a span of almost zero is widened first."""
    if not high - low > max(1e-6, 1e-9 * max(abs(low), abs(high))):
        pad = abs(low) * 0.1 if abs(low) > 1e-5 else 0.5
        low, high = low - pad, high + pad
    step = nice_step(high - low, n)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_texts(ticks: list[float], *, percent: bool = False) -> list[str]:
    """Every tick with the same, smallest sufficient number of decimals; percent adds a sign and ` %`."""
    values = [t * 100 for t in ticks] if percent else ticks
    digits = next(d for d in range(9) if d == 8 or all(abs(round(v, d) - v) < 1e-9 for v in values))
    if percent:
        return ["0 %" if abs(v) < 1e-12 else signed(v, digits) + " %" for v in values]
    if max(map(abs, values), default=0) >= 10_000 and all(v % 100 == 0 for v in values):
        return [minus(f"{v / 1000:,.1f}".removesuffix(".0")) + "k" if v else "0" for v in values]
    return [minus(f"{v:,.{digits}f}") for v in values]


def minus(text: str) -> str:
    """Hyphens before digits as true minus signs."""
    return text.replace("-", "−")


def signed(value: float, digits: int) -> str:
    """A number with its sign, and never `−0.0`."""
    text = f"{value:+.{digits}f}"
    return minus(text.replace("-", "+") if float(text) == 0 else text)


@dataclass(frozen=True)
class Scale:
    """A straight map from values to pixels."""

    low: float
    high: float
    px_low: float
    px_high: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return round(self.px_low + share * (self.px_high - self.px_low), 2)


def element(tag: str, body: str = "", **attributes: object) -> str:
    """One SVG element; `class_` is `class`, underscores become hyphens, None is left out."""
    parts = [
        f'{name.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for name, value in attributes.items()
        if value is not None
    ]
    return f"<{' '.join([tag, *parts])}>{body}</{tag}>" if body else f"<{' '.join([tag, *parts])}/>"


def text(x: float, y: float, words: str, class_: str = "", anchor: str = "start", *, hover: str = "") -> str:
    """A line of text; `hover` is shown by the browser when the pointer rests on it."""
    title = f"<title>{escape(hover)}</title>" if hover else ""
    return element("text", title + escape(words), x=x, y=y, class_=class_ or None, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def dot(x: float, y: float, class_: str, hover: str = "", r: float = 5) -> str:
    return element("circle", f"<title>{escape(hover)}</title>" if hover else "", cx=x, cy=y, r=r, class_=class_)


def picture(body: list[str], width: float, height: float, alt: str, class_: str = "") -> str:
    """The parts as one scalable SVG. alt: what a reader who cannot see it should know."""
    view = f"0 0 {_number(width)} {_number(math.ceil(height))}"
    return element("svg", "".join(body), viewBox=view, role="img", aria_label=alt, class_=f"chart {class_}".strip())


def _number(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
