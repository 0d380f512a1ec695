from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bessemer.data.batch import NO_TARGET, build_batch, divide, part_of_rank, share_prefix, shift
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


@given(documents, st.integers(2, 30), st.integers(1, 4))
def test_weights_sum_to_the_loss_weights_however_the_batch_is_divided(
    made: list[tuple[int, int]], max_tokens: int, world: int
) -> None:
    rows = [(source, (segment(list(range(n)), [True] * n),)) for source, n in made]
    batch = build_batch(rows, ["a", "b", "c"], {"b": 0.5})
    present = {s for s, _ in made}
    expected = (0.5 if 1 in present else 0) + (1 if present & {0, 2} else 0)
    assert np.isclose(batch.weights_N.sum(), expected, atol=1e-6)
    everyone = divide(batch, world, max_tokens)
    assert len({len(parts) for parts in everyone}) == 1, "sharded weights are gathered by all processes together"
    parts = [p for parts in everyone for p in parts]
    assert np.isclose(sum(float(p.weights_N.sum()) for p in parts), expected, atol=1e-6)
    targets = [t for p in parts for t in p.targets_N[p.targets_N != NO_TARGET].tolist()]
    assert sorted(targets) == sorted(batch.targets_N[batch.targets_N != NO_TARGET].tolist())
    largest = max(sum(p.lengths_D) for p in parts)
    assert largest <= max_tokens + max(batch.lengths_D)


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


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 14), st.integers(2, 9)), min_size=1, max_size=9),
    st.integers(2, 6),
)
def test_a_shared_prefix_loses_no_target_and_no_token(made: list[tuple[int, int, int]], smallest: int) -> None:
    """Documents of a source begin alike for some tokens; targets come after."""
    rows = []
    for i, (source, alike, own) in enumerate(made):
        ids = [100 * source + t for t in range(alike)] + [1000 + 10 * i + t for t in range(own)]
        rows.append((source, (segment(ids, [False] * (alike + 1) + [True] * (own - 1)),)))
    batch = build_batch(rows, ["a", "b", "c"], {})
    shared = share_prefix(batch, smallest)
    wanted, kept = batch.targets_N != NO_TARGET, shared.targets_N != NO_TARGET
    for field in FIELDS:
        assert np.array_equal(getattr(batch, field)[wanted], getattr(shared, field)[kept])
    assert sum(shared.lengths_D) == len(shared.tokens_N) <= len(batch.tokens_N)
    if shared is not batch:
        pieces = np.split(shared.tokens_N, np.cumsum(shared.lengths_D)[:-1])
        whole = [np.concatenate([pieces[0], p]) if s else p for p, s in zip(pieces[1:], shared.sees_D[1:], strict=True)]
        assert np.array_equal(np.concatenate(whole), batch.tokens_N)
        starts = [int(p) for p in shared.positions_N[np.cumsum([0, *shared.lengths_D[:-1]])]]
        assert starts == [0, *(shared.lengths_D[0] if s else 0 for s in shared.sees_D[1:])]
