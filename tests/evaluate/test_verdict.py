from __future__ import annotations

from typing import Any

import pytest

from bessemer.evaluate.verdict import decide


def iv(value: float, half: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def task(change: float, after: float = 0.8, at_least: float | None = None, role: str = "decides") -> dict[str, Any]:
    return {
        "metric": "auroc", "role": role, "at_least": at_least,
        "before": {"auroc": iv(after - change)}, "after": {"auroc": iv(after)}, "change": {"auroc": iv(change)},
    }  # fmt: skip


def probe(change: float) -> dict[str, Any]:
    return {"change": iv(change, 0.002), "limit": 0.0101}


@pytest.mark.parametrize(
    ("tasks", "probes", "word"),
    [
        ({"t": task(0.3)}, {"p": probe(0.0)}, "SHIP"),
        ({"t": task(0.3)}, {"p": probe(-0.02)}, "SHIP"),
        ({"t": task(0.3)}, {"p": probe(0.0095)}, "HOLD"),
        ({"t": task(0.3)}, {"p": probe(0.05)}, "REJECT"),
        ({"t": task(0.3)}, {"p": probe(0.0), "q": probe(0.05)}, "REJECT"),
        ({"t": task(0.005)}, {"p": probe(0.0)}, "HOLD"),
        ({"t": task(-0.1)}, {"p": probe(0.0)}, "REJECT"),
        ({"t": task(0.3, at_least=0.795)}, {"p": probe(0.0)}, "HOLD"),
        ({"t": task(0.3, at_least=0.7)}, {"p": probe(0.0)}, "SHIP"),
        ({"t": task(0.3, at_least=0.9)}, {"p": probe(0.0)}, "REJECT"),
        ({"t": task(0.3), "u": task(-0.1, role="reported")}, {"p": probe(0.0)}, "SHIP"),
    ],
)
def test_the_gate(tasks: dict[str, Any], probes: dict[str, Any], word: str) -> None:
    verdict = decide(tasks, probes)
    assert verdict.word == word and verdict.reasons
    assert verdict.exit_code == {"SHIP": 0, "HOLD": 2, "REJECT": 3}[word]


def test_for_bits_per_byte_less_is_better() -> None:
    lower = {
        "metric": "bits_per_byte", "role": "decides", "at_least": None, "before": {"bits_per_byte": iv(2.0)},
        "after": {"bits_per_byte": iv(1.8)}, "change": {"bits_per_byte": iv(-0.1)},
    }  # fmt: skip
    assert decide({"t": lower}, {"p": probe(0.0)}).word == "SHIP"
    assert decide({"t": lower | {"change": {"bits_per_byte": iv(0.1)}}}, {"p": probe(0.0)}).word == "REJECT"
