from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.data.pack import Long, Packed, Packer, load_packed, shuffled
from bessemer.errors import BessemerError

sizes = st.lists(st.integers(0, 90), min_size=1, max_size=40)


def held(packed: Packed) -> dict[int, list[tuple[int, int]]]:
    """{item: [(first token, number of tokens)]} over all rows."""
    found: dict[int, list[tuple[int, int]]] = {}
    for r in range(packed.n_rows):
        row = packed.row(r)
        assert 0 < sum(n for _, _, n in row) <= packed.row_tokens
        for item, start, n in row:
            found.setdefault(item, []).append((start, n))
    return {item: sorted(parts) for item, parts in found.items()}


@given(sizes.filter(any), st.integers(0, 5))
def test_split_loses_nothing_and_repeats_nothing(lengths: list[int], seed: int) -> None:
    packed = Packer(32, "split", seed).pack(np.array(lengths))
    parts = held(packed)
    for item, length in enumerate(lengths):
        at = 0
        for start, n in parts.get(item, []):
            assert start == at
            at += n
        assert at == length
        assert len(parts.get(item, [])) == -(-length // 32)  # never in more pieces than rows it needs
    assert packed.counts.placed == sum(lengths) and packed.counts.lost == 0
    assert packed.counts.split == sum(n > 32 for n in lengths)


@given(sizes, st.sampled_from(["drop", "truncate"]), st.integers(0, 5))
def test_what_is_dropped_or_truncated_is_counted(lengths: list[int], long: Long, seed: int) -> None:
    if not any(0 < n <= 32 or (n and long == "truncate") for n in lengths):
        with pytest.raises(BessemerError, match="nothing is left"):
            Packer(32, long, seed).pack(np.array(lengths))
        return
    packed = Packer(32, long, seed).pack(np.array(lengths))
    parts = held(packed)
    too_long = [n for n in lengths if n > 32]
    if long == "drop":
        assert parts == {i: [(0, n)] for i, n in enumerate(lengths) if 0 < n <= 32}
        assert (packed.counts.dropped, packed.counts.truncated) == (len(too_long), 0)
        assert packed.counts.lost == sum(too_long)
    else:
        assert parts == {i: [(0, min(n, 32))] for i, n in enumerate(lengths) if n}
        assert (packed.counts.dropped, packed.counts.truncated) == (0, len(too_long))
        assert packed.counts.lost == sum(n - 32 for n in too_long)
    assert packed.counts.placed + packed.counts.lost == sum(lengths)


@given(st.lists(st.tuples(st.integers(1, 10), st.integers(0, 12)), min_size=1, max_size=40), st.integers(0, 5))
def test_a_group_that_fits_lies_in_one_row_wherever_its_items_stood(items: list[tuple[int, int]], seed: int) -> None:
    lengths, groups = np.array([n for n, _ in items]), np.array([g for _, g in items])
    packed = Packer(32, "split", seed).pack(lengths, groups)
    assert {i: [(0, int(n))] for i, n in enumerate(lengths)} == held(packed)
    for group in set(groups.tolist()):
        members = np.flatnonzero(groups == group)
        if lengths[members].sum() <= 32:
            assert len({row for i in members for row in packed.rows_of(int(i))}) == 1


def test_best_fit_fills_rows() -> None:
    lengths = np.random.default_rng(0).lognormal(4.5, 1, 5000).astype(np.int64) + 1
    packed = Packer(512).pack(lengths)
    assert packed.counts.placed > 0.99 * packed.n_rows * 512


def test_items_longer_than_a_row_are_refused_with_numbers_not_groups_of_short_ones() -> None:
    lengths, groups = np.array([20, 4, 20, 33, 40]), np.array([7, 8, 7, 9, 9])
    with pytest.raises(BessemerError) as caught:
        Packer(32, "fail").pack(lengths, groups, where="sources.chats", id_of=lambda i: f"file:{i}")
    said = str(caught.value)
    assert "sources.chats: 2 of 5 items" in said and "the longest has 40; the first is file:3" in said
    assert "row_tokens: 64" in said
    assert held(Packer(32, "fail").pack(lengths[:3], groups[:3])) == {i: [(0, int(lengths[i]))] for i in range(3)}


def test_of_a_group_longer_than_a_row_only_what_is_too_long_itself_is_dropped_with_its_group() -> None:
    lengths, groups = np.array([20, 4, 20, 33, 5, 12]), np.array([7, 8, 7, 9, 9, 8])
    packed = Packer(32, "drop").pack(lengths, groups)
    assert held(packed) == {0: [(0, 20)], 1: [(0, 4)], 2: [(0, 20)], 5: [(0, 12)]}
    assert (packed.counts.dropped, packed.counts.lost) == (2, 38)  # 33 and its twin


def test_rows_are_the_same_every_time_and_differ_by_seed(tmp_path: Path) -> None:
    lengths = np.arange(1, 200) % 57 + 1
    one, again, other = (Packer(64, "split", seed).pack(lengths) for seed in (1, 1, 2))
    assert one.digest == again.digest != other.digest
    one.save(tmp_path / "rows", {})
    loaded = load_packed(tmp_path / "rows")
    assert loaded.digest == one.digest and loaded.counts == one.counts
    changed = (tmp_path / "rows" / "items.npy").read_bytes()
    (tmp_path / "rows" / "items.npy").write_bytes(changed[:-3] + bytes([changed[-3] ^ 1]) + changed[-2:])
    with pytest.raises(BessemerError, match="bytes changed"):
        load_packed(tmp_path / "rows")


@given(st.integers(0, 300), st.integers(0, 9))
def test_an_order_is_a_permutation(n: int, seed: int) -> None:
    assert sorted(shuffled(n, seed).tolist()) == list(range(n))


def test_an_order_never_changes() -> None:
    """A new version of numpy must not feed other batches to a resumed run."""
    assert shuffled(8, 1).tolist() == [4, 3, 2, 1, 7, 6, 5, 0]


def test_a_misspelt_way_with_long_items_is_refused() -> None:
    with pytest.raises(BessemerError, match="'splt' is none of split, drop"):
        Packer(64, "splt")  # type: ignore[arg-type]


def test_a_full_disk_under_large_arrays_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("8388608 requested and 4096 written")  # numpy's words, without the error's number

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        Packer(32).pack(np.array([5, 6])).save(tmp_path / "rows", {})
    assert list(tmp_path.iterdir()) == []
