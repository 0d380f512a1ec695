"""Numbers with units, read and written the same way everywhere."""

from __future__ import annotations

import re
from fractions import Fraction

_COUNT = re.compile(r"^\s*(\d[\d_]*(?:\.\d+)?)\s*([kKmMbB]?)\s*$")
_FACTOR = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
GIB = 1024**3


def parse_count(text: str | int) -> int:
    """`200k` -> 200000, `1.5M` -> 1500000, `2_000` -> 2000.

    Raises ValueError when the text is no count or the result is no whole number.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    match = _COUNT.match(text) if isinstance(text, str) else None
    if not match:
        raise ValueError(f"{text!r} is no count; write for example 200k, 1.5M or 2000")
    value = Fraction(match[1].replace("_", "")) * _FACTOR[match[2].lower()]  # exact: 1.001 * 1000 is not, in floats
    if value.denominator != 1:
        raise ValueError(f"{text!r} is not a whole number")
    return int(value)


def show_count(n: int | float) -> str:
    """1234 -> '1.2k', 71600 -> '71.6k', 2e6 -> '2.0M'; below 1000 as it is."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(n) >= size:
            return f"{n / size:.1f}{unit}"
    return f"{n:g}"


def show_bytes(n: int | float) -> str:
    """Bytes in binary units: 538090408 -> '513.2 MiB'."""
    value = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def show_seconds(seconds: float) -> str:
    """75.2 -> '1 min 15 s'."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def show_change(now: float, start: float) -> str:
    """Relative change in percent with its sign: (0.91, 0.90) -> '+1.1 %'."""
    return f"{(now / start - 1) * 100:+.1f} %"
