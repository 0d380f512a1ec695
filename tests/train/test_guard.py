"""Which steps count: spikes are told from what is usual for the sources of a step."""

from __future__ import annotations

import math
import random

import pytest

from bessemer.train.guard import HISTORY, IN_A_ROW, LEAST_HISTORY, Guard


def usual(rng: random.Random, mean: float = 0.3) -> float:
    return mean + rng.gauss(0, 0.2 * mean)


def test_a_spike_is_left_out_and_never_becomes_usual() -> None:
    guard, rng = Guard(6), random.Random(1)
    for _ in range(60):
        loss = usual(rng)
        assert guard.judge(loss, 1 + rng.random(), {"rules": loss}) == "apply"
    assert guard.judge(9.0, 1.0, {"rules": 9.0}) == "skip" and "loss of rules 9" in guard.reason
    assert guard.judge(0.3, 90.0, {"rules": 0.3}) == "skip" and "gradient norm 90" in guard.reason
    assert guard.judge(math.nan, 1.0, {"rules": math.nan}) == "roll back"
    assert len(guard.losses["rules"]) == 60 and guard.in_a_row == IN_A_ROW


@pytest.mark.parametrize("share", [0.01, 0.04, 0.3])
def test_a_source_that_stands_in_few_steps_is_no_spike(share: float) -> None:
    """Replay at ten times the loss of the rest: against all steps it would be left out for ever."""
    guard, rng, applied = Guard(6), random.Random(2), 0
    for _ in range(1500):
        rules, docs = usual(rng), usual(rng, 3.0)
        with_docs = rng.random() < share
        sources = {"rules": rules} | ({"docs": docs} if with_docs else {})
        norm = usual(rng, 20.0 if with_docs else 2.0)
        decision = guard.judge(sum(sources.values()), norm, sources)
        applied += with_docs and decision == "apply"
        assert decision == "apply", guard.reason
    assert applied > 5


def test_a_change_of_the_mixture_is_no_spike_and_one_after_it_is() -> None:
    guard, rng = Guard(6), random.Random(3)
    for step in range(400):
        rules = usual(rng)
        sources = {"rules": rules} | ({"docs": usual(rng, 3.0)} if step >= 200 else {})
        assert guard.judge(sum(sources.values()), 1 + rng.random(), sources) == "apply"
    assert guard.judge(30.0, 1.0, {"rules": 0.3, "docs": 30.0}) == "skip" and "loss of docs" in guard.reason
    assert guard.judge(30.0, 1.0, {"rules": 30.0, "docs": 3.0}) == "skip" and "loss of rules" in guard.reason


def test_what_is_remembered_comes_back() -> None:
    guard, rng = Guard(6), random.Random(4)
    for n in range(HISTORY + 40):
        guard.judge(1.0, 1.0, {"rules": usual(rng)} | ({"docs": 3.0} if n % LEAST_HISTORY == 0 else {}))
    other = Guard(6)
    other.judge(5.0, 5.0, {"another": 5.0})
    other.load(guard.state())
    assert other.state() == guard.state() and len(other.losses["rules"]) == HISTORY
    assert [g.judge(9.0, 1.0, {"rules": 9.0}) for g in (guard, other)] == ["skip", "skip"]
