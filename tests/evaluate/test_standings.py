"""Ranks are what the pairs show, and no more."""

from __future__ import annotations

from typing import Any

import numpy as np

from bessemer.evaluate.metrics import METRICS, Columns
from bessemer.evaluate.standings import front, standings

N = 600
IDS = tuple(map(str, range(N)))


def answered(right: Any) -> Columns:
    return Columns("judge", IDS, IDS, ("",) * N, {"right": np.array(right, float)[:, None]})


def bits(each: float) -> Columns:
    noise = np.random.default_rng(1).normal(0, 0.5, N)
    return Columns("perplexity", IDS, IDS, ("",) * N, {"bits": 100 * each + noise, "bytes": np.full(N, 100.0)})


def test_a_rank_is_what_the_pairs_show() -> None:
    n = np.arange(N) % 5
    sides = {"bad": [answered(n < 2)], "good": [answered(n != 0)], "twin": [answered(n != 1)]}
    order, pairs = standings(METRICS["score"], sides, margin=0.01, alpha=0.05)
    assert {s.name: (s.best, s.worst) for s in order} == {"good": (1, 2), "twin": (1, 2), "bad": (3, 3)}
    assert order[-1].name == "bad"
    assert {(p.first, p.second): p.better for p in pairs} == {
        ("bad", "good"): "good",
        ("bad", "twin"): "twin",
        ("good", "twin"): "",
    }


def test_many_contestants_can_be_told_apart() -> None:
    """105 pairs: with 1,999 permutations no p, adjusted for all of them, could lie below .05."""
    n = np.arange(N) % 10
    sides = {f"c{i:02d}": [answered(n < (9 if i else 1))] for i in range(15)}
    order, _ = standings(METRICS["score"], sides, margin=0.01, alpha=0.05)
    assert (order[-1].name, order[-1].best, order[-1].worst) == ("c00", 15, 15)


def test_fewer_bits_are_better() -> None:
    order, pairs = standings(
        METRICS["bits_per_byte"], {"more": [bits(1.0)], "fewer": [bits(0.9)]}, margin=0.01, alpha=0.05
    )
    assert [(s.name, s.best, s.worst) for s in order] == [("fewer", 1, 1), ("more", 2, 2)]
    assert pairs[0].better == "fewer"


def test_the_front_holds_who_is_beaten_in_neither() -> None:
    assert front({"a": (0.3, 0.0), "b": (0.2, 0.01), "c": (0.4, 0.05), "d": (0.3, 0.0)}) == ["a", "c", "d"]
