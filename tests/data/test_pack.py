from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.data.batches import NO_TARGET, build_batch, shift, split_batch
from bessemer.data.pack import PackedSource, Segment, pack_documents, pack_groups
from bessemer.data.render import Example
from bessemer.errors import BessemerError


def example(n: int, name: str, group: str = "", start: int = 0) -> Example:
    supervised = np.zeros(n, np.bool_)
    supervised[n // 2 :] = True
    return Example(name, group or name, np.arange(start, start + n, dtype=np.int32), supervised, 0)


@given(st.lists(st.integers(1, 90), min_size=1, max_size=30), st.integers(0, 5))
def test_documents_lose_no_token_and_fill_every_row(lengths: list[int], seed: int) -> None:
    packed = pack_documents("s", [example(n, f"d{i}", start=1000 * i) for i, n in enumerate(lengths)], 32, seed)
    rows = [sum(len(s.ids_L) for s in row) for row in packed.rows]
    assert all(size == 32 for size in rows) or len(rows) == 1
    ids = [int(t) for row in packed.rows for s in row for t in s.ids_L]
    everything = {1000 * i + t for i, n in enumerate(lengths) for t in range(n)}
    assert set(ids) <= everything and len(ids) == len(set(ids))
    assert sum(lengths) - len(ids) < 32


@given(st.lists(st.integers(1, 15), min_size=1, max_size=40), st.integers(0, 5))
def test_groups_are_kept_whole_and_complete(lengths: list[int], seed: int) -> None:
    examples = [example(n, f"{i}{side}", f"g{i}") for i, n in enumerate(lengths) for side in "ab"]
    packed = pack_groups("s", examples, 32, seed)
    assert sorted(s.id for row in packed.rows for s in row) == sorted(e.id for e in examples)
    assert all(sum(len(s.ids_L) for s in row) <= 32 for row in packed.rows)
    row_of = {s.id: r for r, row in enumerate(packed.rows) for s in row}
    assert all(row_of[f"{i}a"] == row_of[f"{i}b"] for i in range(len(lengths)))


def test_a_conversation_longer_than_a_row_is_refused_with_numbers() -> None:
    with pytest.raises(BessemerError, match="1 of 2 conversations.*row of 32.*longest has 40"):
        pack_groups("s", [example(40, "long"), example(4, "short")], 32, 0)


def segment(ids: list[int], supervised: list[bool]) -> Segment:
    return Segment("x", np.array(ids, np.int32), np.array(supervised))


def test_targets_are_the_next_supervised_tokens_and_never_cross_documents() -> None:
    assert shift(segment([5, 6, 7, 8], [False, False, True, True])).tolist() == [NO_TARGET, 7, 8, NO_TARGET]
    batch = build_batch([(0, (segment([1, 2], [True] * 2), segment([3, 4], [True] * 2)))], ["a"], {})
    assert batch.targets_N.tolist() == [2, NO_TARGET, 4, NO_TARGET]
    assert batch.positions_N.tolist() == [0, 1, 0, 1]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(2, 9)), min_size=1, max_size=12), st.integers(2, 30))
def test_weights_sum_to_the_loss_weights_however_the_batch_is_split(
    documents: list[tuple[int, int]], max_tokens: int
) -> None:
    rows = [(source, (segment(list(range(n)), [True] * n),)) for source, n in documents]
    weight = {"b": 0.5}
    batch = build_batch(rows, ["a", "b", "c"], weight)
    present = {s for s, _ in documents}
    expected = (0.5 if 1 in present else 0) + (1 if present & {0, 2} else 0)
    assert np.isclose(batch.weights_N.sum(), expected, atol=1e-6)
    parts = split_batch(batch, max_tokens)
    for field in ("tokens_N", "targets_N", "weights_N", "sources_N", "positions_N"):
        assert np.array_equal(np.concatenate([getattr(p, field) for p in parts]), getattr(batch, field))
    assert sum((p.lengths_D for p in parts), ()) == batch.lengths_D


def test_the_digest_sees_every_bit() -> None:
    base = [example(8, "a"), example(8, "b", start=50)]
    one = pack_documents("s", base, 8, 0)
    assert one.digest() == pack_documents("s", base, 8, 0).digest()
    ids = base[0].ids_L.copy()
    ids[3] += 1
    changed = Example("a", "a", ids, base[0].supervised_L, 0)
    masked = Example("a", "a", base[0].ids_L, ~base[0].supervised_L, 0)
    digests = {pack_documents("s", [e, base[1]], 8, 0).digest() for e in (base[0], changed, masked)}
    assert len(digests) == 3
    assert isinstance(one, PackedSource) and one.fill == 1
