"""Numbers with units, read and written the same way everywhere."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from bessemer.errors import BessemerError

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


def now() -> str:
    """UTC, to the second, as every file of ours has it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(value: Any, where: str) -> float:
    """Seconds since 1970. Text is ISO 8601 (UTC when it names no zone) or a number.

    Raises BessemerError when the value is no moment.
    """
    with contextlib.suppress(ValueError, TypeError):  # first: ISO 8601 would read 912010100 as the year 9120
        if 1e8 <= (seconds := float(value)) < 1e11:  # 1973 to 5138: no year, no milliseconds, no not-a-number
            return seconds
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(str(value))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    raise BessemerError(
        f"{value!r} is no time", where=where, fix="write ISO 8601, e.g. 2025-06-01T12:00:00Z, or seconds since 1970"
    )


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
