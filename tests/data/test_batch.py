from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bessemer.data.batch import NO_TARGET, build_batch, part_of_rank, shift, split_batch
from bessemer.data.shards import Segment

documents = st.lists(st.tuples(st.integers(0, 2), st.integers(2, 9)), min_size=1, max_size=12)
FIELDS = ("tokens_N", "targets_N", "weights_N", "sources_N", "positions_N")


def segment(ids: list[int], supervised: list[bool]) -> Segment:
    return Segment("x", np.array(ids, np.int32), np.array(supervised))


def test_targets_are_the_next_supervised_tokens_and_never_cross_documents() -> None:
    assert shift(segment([5, 6, 7, 8], [False, False, True, True])).tolist() == [NO_TARGET, 7, 8, NO_TARGET]
    batch = build_batch([(0, (segment([1, 2], [True] * 2), segment([3, 4], [True] * 2)))], ["a"], {})
    assert batch.targets_N.tolist() == [2, NO_TARGET, 4, NO_TARGET]
    assert batch.positions_N.tolist() == [0, 1, 0, 1]


@given(documents, st.integers(2, 30))
def test_weights_sum_to_the_loss_weights_however_the_batch_is_split(
    made: list[tuple[int, int]], max_tokens: int
) -> None:
    rows = [(source, (segment(list(range(n)), [True] * n),)) for source, n in made]
    batch = build_batch(rows, ["a", "b", "c"], {"b": 0.5})
    present = {s for s, _ in made}
    expected = (0.5 if 1 in present else 0) + (1 if present & {0, 2} else 0)
    assert np.isclose(batch.weights_N.sum(), expected, atol=1e-6)
    parts = split_batch(batch, max_tokens)
    for field in FIELDS:
        assert np.array_equal(np.concatenate([getattr(p, field) for p in parts]), getattr(batch, field))
    for field in ("lengths_D", "rows_D", "ids"):
        assert sum((getattr(p, field) for p in parts), ()) == getattr(batch, field)


@given(documents, st.integers(1, 5))
def test_ranks_share_the_rows_of_a_step_and_its_weights(made: list[tuple[int, int]], world: int) -> None:
    rows = [
        (source, tuple(segment([100 * r + i, r], [True] * 2) for i in range(n))) for r, (source, n) in enumerate(made)
    ]
    batch = build_batch(rows, ["a", "b", "c"], {"b": 0.5})
    parts = [part_of_rank(batch, rank, world) for rank in range(world)]
    assert sorted(t for p in parts for t in p.tokens_N.tolist()) == sorted(batch.tokens_N.tolist())
    assert np.isclose(sum(float(p.weights_N.sum()) for p in parts), float(batch.weights_N.sum()), atol=1e-6)
    for rank, part in enumerate(parts):
        assert {r % world for r in part.rows_D} <= {rank}
        assert sum(part.lengths_D) == len(part.tokens_N) == len(part.targets_N)
