from __future__ import annotations

import pickle
from collections import Counter
from fractions import Fraction
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.data.mixture import BLOCK, Change, Mixture, permute, unpermute
from bessemer.errors import BessemerError

NAMES = "abcdef"
weight = st.sampled_from([0, 1, 2, 5, 100, 0.1, 0.001, "0.3", Fraction(1, 3)])
some_weights = st.lists(weight, min_size=1, max_size=6).filter(lambda ws: any(float(w) > 0 for w in ws))


@st.composite
def schedules(draw: st.DrawFn) -> tuple[dict[str, object], list[Change]]:
    n = draw(st.integers(1, 6))
    weights = st.lists(weight, min_size=n, max_size=n).filter(lambda ws: any(float(w) > 0 for w in ws))
    at, changes = 0, []
    for _ in range(draw(st.integers(0, 4))):
        ramp = draw(st.sampled_from([0, 0, 1, 7, 40]))
        at += ramp + draw(st.integers(1, 60))
        changes.append(Change(at, dict(zip(NAMES, draw(weights), strict=False)), ramp))
    return dict(zip(NAMES, draw(weights), strict=False)), changes


def exact(weights: dict[str, object], names: list[str]) -> list[Fraction]:
    values = [Fraction(str(weights.get(n, 0))) for n in names]
    return [v / sum(values) for v in values]


def share_at(row: int, weights: dict[str, object], changes: list[Change], names: list[str]) -> list[Fraction]:
    """The shares of one row, straight from the definition of steps and ramps."""
    now = exact(weights, names)
    for change in changes:
        then = exact(dict(change.weights), names)
        if row >= change.at:
            now = then
        elif row >= change.at - change.ramp:
            done = Fraction(row - (change.at - change.ramp), change.ramp)
            return [a + (b - a) * done for a, b in zip(now, then, strict=True)]
        else:
            break
    return now


@settings(max_examples=150)
@given(schedules())
def test_every_source_stays_within_one_row_of_its_share_at_every_moment(
    made: tuple[dict[str, object], list[Change]],
) -> None:
    weights, changes = made
    names = list(weights)
    used = sum(any(Fraction(str(w.get(n, 0))) > 0 for w in (weights, *(c.weights for c in changes))) for n in names)
    bound = 1 - Fraction(1, 2 * used - 2) if used > 1 else 0
    due = [Fraction(0)] * len(names)
    counts = dict.fromkeys(names, 0)
    for row, pick in enumerate(islice(iter(Mixture(weights, changes=changes)), 260)):  # type: ignore[arg-type]
        due = [a + b for a, b in zip(due, share_at(row, weights, changes, names), strict=True)]
        counts[pick.source] += 1
        assert all(abs(d - counts[n]) <= bound for d, n in zip(due, names, strict=True))


@given(some_weights, st.integers(1, 9), st.integers(0, 3), st.integers(1, 200), st.integers(1, 7))
def test_a_row_is_a_pure_function_of_its_position(
    ws: list[object], rows_each: int, seed: int, n_rows: int, world: int
) -> None:
    weights = dict(zip(NAMES, ws, strict=False))
    rows = dict.fromkeys(weights, rows_each)
    mixture = Mixture(weights, rows, n_rows=n_rows, seed=seed)  # type: ignore[arg-type]
    picks = list(mixture)
    assert len(picks) == len(mixture) == n_rows
    # Resumed at any position, in any process, in any order, and pickled to a worker: the same.
    fresh = Mixture(weights, rows, n_rows=n_rows + 50, seed=seed)  # type: ignore[arg-type]
    assert [fresh[k] for k in range(n_rows - 1, -1, -1)] == picks[::-1]
    by_rank = [[pickle.loads(pickle.dumps(mixture))[k] for k in range(r, n_rows, world)] for r in range(world)]  # noqa: S301
    assert [by_rank[k % world][k // world] for k in range(n_rows)] == picks
    taken = mixture.taken(n_rows)
    for name in weights:
        mine = [p for p in picks if p.source == name]
        assert len(mine) == taken[name]
        assert [p.epoch for p in mine] == [i // rows_each for i in range(len(mine))]
        for epoch in range(len(mine) // rows_each):
            assert Counter(p.row for p in mine if p.epoch == epoch) == Counter(range(rows_each))


@given(some_weights, st.integers(1, 9), st.integers(1, 120))
def test_places_are_the_inverse(ws: list[object], rows_each: int, n_rows: int) -> None:
    weights = dict(zip(NAMES, ws, strict=False))
    mixture = Mixture(weights, dict.fromkeys(weights, rows_each))  # type: ignore[arg-type]
    for name in weights:
        for row in range(rows_each):
            wanted = [k for k in range(n_rows) if (mixture[k].source, mixture[k].row) == (name, row)]
            assert mixture.places(name, row, n_rows) == wanted


def test_positions_beyond_a_block_of_remembered_counts() -> None:
    mixture = Mixture({"a": 0.9, "b": 0.1})
    order = [mixture[k].source for k in range(3 * BLOCK)]
    for k in (BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 77):
        assert mixture[k].row == order[:k].count(order[k])
        assert mixture.taken(k) == {"a": order[:k].count("a"), "b": order[:k].count("b")}
        assert mixture.places(order[k], mixture[k].row, 3 * BLOCK) == [k]


def test_quarters_are_exact_in_every_step_of_four() -> None:
    order = [p.source for p in islice(iter(Mixture({"a": 0.75, "b": 0.25})), 400)]
    assert all(Counter(order[i : i + 4]) == {"a": 3, "b": 1} for i in range(0, 400, 4))


def test_a_tenth_of_a_percent_comes_once_in_a_thousand_rows() -> None:
    mixture = Mixture({"big": 0.999, "small": 0.001})
    places = mixture.places("small", 0, 1500) + mixture.places("small", 1, 2500)
    assert len(places) == 2 and abs(places[1] - places[0] - 1000) <= 1
    assert mixture.taken(10_000)["small"] == 10


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"a": -1, "b": 2}, "a: -1 is negative"),
        ({"a": 0}, "all weights are 0"),
        ({}, "0 sources"),
        ({"a": float("nan")}, "no finite number"),
        ({"a": "much"}, "'much' is no finite number"),
    ],
)
def test_weights_that_are_refused(weights: dict[str, object], said: str) -> None:
    with pytest.raises(BessemerError, match=said):
        Mixture(weights)  # type: ignore[arg-type]


def test_changes_that_are_refused() -> None:
    for changes in ([Change(0, {"a": 1})], [Change(10, {"a": 1}), Change(15, {"a": 1}, ramp=6)]):
        with pytest.raises(BessemerError, match="begins before row"):
            Mixture({"a": 1}, changes=changes)
    with pytest.raises(BessemerError, match="does not begin with"):
        Mixture({"a": 1}, changes=[Change(10, {"b": 1})])
    with pytest.raises(BessemerError, match="no rows in b"):
        Mixture({"a": 1, "b": 1}, {"a": 3, "b": 0})
    with pytest.raises(IndexError):
        Mixture({"a": 1}, n_rows=3)[3]


@given(st.integers(1, 3000), st.integers(0, 2**40))
def test_a_permutation_and_its_inverse(n: int, key: int) -> None:
    some = range(0, n, max(1, n // 50))
    there = [permute(i, n, str(key)) for i in some]
    assert all(0 <= p < n for p in there) and len(set(there)) == len(there)
    assert [unpermute(p, n, str(key)) for p in there] == list(some)


def test_permutations_differ_by_key_and_mix() -> None:
    one, two = ([permute(i, 1000, key) for i in range(1000)] for key in ("x", "y"))
    assert sorted(one) == list(range(1000)) and one != two
    far = sum(abs(p - i) for i, p in enumerate(one)) / 1000
    assert 280 < far < 390  # a third of n, when places have nothing to do with each other
