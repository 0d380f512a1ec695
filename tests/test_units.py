from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.units import parse_count, show_bytes, show_change, show_count, show_seconds

FACTORS = {"": 1, "k": 10**3, "K": 10**3, "m": 10**6, "M": 10**6, "b": 10**9, "B": 10**9}


@given(st.integers(0, 10**6), st.sampled_from(sorted(FACTORS)))
def test_counts_with_units(n: int, unit: str) -> None:
    assert parse_count(f"{n}{unit}") == parse_count(f" {n:_} {unit} ") == n * FACTORS[unit]


@given(st.integers(0, 10**15))
def test_plain_counts_are_themselves(n: int) -> None:
    assert parse_count(n) == parse_count(str(n)) == parse_count(f"{n:_}") == n


@given(st.integers(0, 999), st.integers(0, 999))
def test_decimals(whole: int, thousandths: int) -> None:
    assert parse_count(f"{whole}.{thousandths:03}k") == 1000 * whole + thousandths
    assert parse_count(f"{whole}.{thousandths:03}M") == 1000 * (1000 * whole + thousandths)


@pytest.mark.parametrize(
    "text", ["", "k", "-1", "1.5", "1.0005k", "1e3", "1kk", "0x10", "one", "1 000", "½", True, 1.5, None, [1]]
)
def test_what_is_no_count(text: Any) -> None:
    with pytest.raises(ValueError, match="count|whole number"):
        parse_count(text)


@given(st.integers(0, 10**12))
def test_shown_counts_are_close_to_the_number(n: int) -> None:
    shown = show_count(n)
    size = FACTORS.get(shown[-1], 1)
    assert abs(float(shown.rstrip("kMB")) * size - n) <= (0.0501 * size if size > 1 else 0)


@given(st.integers(0, 2**60))
def test_shown_bytes_are_close_to_the_number(n: int) -> None:
    number, unit = show_bytes(n).split()
    size = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)
    assert abs(float(number) * size - n) <= 0.0501 * size


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.9, "1 min 00 s"),
        (75.2, "1 min 15 s"),
        (3599.9, "1 h 00 min"),
        (7322, "2 h 02 min"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert show_seconds(seconds) == shown


def test_examples_of_the_docstrings() -> None:
    assert (show_count(1234), show_count(71600), show_count(2e6), show_count(12)) == ("1.2k", "71.6k", "2.0M", "12")
    assert show_bytes(538090408) == "513.2 MiB"
    assert (show_change(0.91, 0.90), show_change(0.9, 1.0)) == ("+1.1 %", "-10.0 %")


@given(st.floats(0.1, 10), st.floats(0.1, 10))
def test_changes_carry_their_sign(now: float, start: float) -> None:
    assert show_change(now, start)[0] == ("+" if now >= start else "-")
