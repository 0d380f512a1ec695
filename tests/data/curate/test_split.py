from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.data.curate.match import first_equal
from bessemer.data.curate.split import by_time, draw, n_straddling, sides_of, united
from bessemer.errors import BessemerError
from bessemer.recipe.data_recipe import Split
from bessemer.units import parse_time

HASHES = np.random.default_rng(1).integers(1, 2**63, 20_000).astype(np.uint64)


def test_shares_are_met_and_the_seed_matters() -> None:
    split = Split(shares={"train": 0.9, "validation": 0.07, "test": 0.03})
    sides = draw(HASHES, split)
    shares = np.bincount(sides, minlength=3) / len(sides)
    assert shares == pytest.approx([0.9, 0.07, 0.03], abs=0.006)
    assert (draw(HASHES, Split(seed=2)) != draw(HASHES, Split(seed=1))).mean() > 0.1


@settings(deadline=None)
@given(st.integers(1, 200))
def test_more_data_moves_no_old_item(n: int) -> None:
    split = Split()
    assert np.array_equal(draw(HASHES[:n], split), draw(HASHES[: n + 50], split)[:n])


def test_a_later_part_begins_at_its_cut() -> None:
    split = Split(by="time", column="t", cuts={"test": "2025-06-01", "validation": "2025-01-01T00:00:00+00:00"})
    assert sides_of(split) == ["train", "validation", "test"]
    cut = parse_time("2025-06-01", "")
    assert by_time(np.array([0.0, parse_time("2025-01-01", ""), cut - 1, cut, cut + 1]), split).tolist() == [
        0,
        1,
        1,
        2,
        2,
    ]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("1970-01-02", 86400), (1_700_000_000, 1.7e9), ("1700000000.5", 1700000000.5), ("912010100", 912010100.0),
     ("2023-11-14T22:13:20Z", 1.7e9),
     ("20231114T221320+0000", 1.7e9), ("2023-11-14 23:13:20+01:00", 1.7e9)],
)  # fmt: skip
def test_moments(value: object, seconds: float) -> None:
    assert parse_time(value, "") == seconds


@pytest.mark.parametrize("value", ["yesterday", "", None, float("nan"), 2024, 1.7e12, True, [1]])
def test_what_is_no_moment_is_refused(value: object) -> None:
    with pytest.raises(BessemerError, match="is no time"):
        parse_time(value, "item x")


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30))
def test_units_and_clusters_end_on_one_side(items: list[tuple[int, int]]) -> None:
    """Items that share a cluster, or a group other than 0, or a chain of both, have one label; no others do."""
    n = len(items)
    clusters = np.array([next(j for j in range(n) if items[j][0] == items[i][0]) for i in range(n)])
    groups = np.array([g for _, g in items], np.uint64)
    got = united(clusters, groups)
    names = list(range(n))
    for _ in range(n):
        for i in range(n):
            for j in range(n):
                if clusters[i] == clusters[j] or (groups[i] == groups[j] != 0):
                    names[i] = names[j] = min(names[i], names[j])
    assert got.tolist() == names


def test_straddling_counts_only_what_stays() -> None:
    labels = np.array([0, 0, 2, 2, 4])
    sides = np.array([0, 1, 0, 1, 1], np.uint8)
    assert n_straddling(labels, sides, np.ones(5, bool)) == 4
    assert n_straddling(labels, sides, np.array([True, False, True, True, True])) == 2


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20))
def test_first_equal(rows: list[tuple[int, int]]) -> None:
    keys = np.array(rows, np.uint64).reshape(-1, 2)
    assert first_equal(keys).tolist() == [rows.index(r) for r in rows]
