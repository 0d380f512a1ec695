from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bessemer.data.batch import NO_TARGET, build_batch, divide, part_of_rank, share_beginnings, shift, without_ends
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


def test_what_closes_a_document_is_left_out_after_its_last_target() -> None:
    turns = segment([5, 6, 7, 8, 9], [False, False, True, True, False]), segment([1, 2], [True] * 2)
    batch = build_batch([(0, turns), (1, (segment([3, 4], [False] * 2),))], ["a", "b"], {})
    short = without_ends(batch)
    assert short.lengths_D == (3, 1, 1)
    assert short.tokens_N.tolist() == [5, 6, 7, 1, 3]
    assert short.targets_N.tolist() == [NO_TARGET, 7, 8, 2, NO_TARGET]
    assert short.positions_N.tolist() == [0, 1, 2, 0, 0]
    assert short.weights_N.sum() == batch.weights_N.sum()


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


@given(st.lists(st.tuples(st.integers(2, 12), st.integers(1, 4), st.integers(1, 4)), min_size=4, max_size=20))
def test_twins_are_not_parted_so_that_a_divided_step_still_shares_their_beginnings(
    made: list[tuple[int, int, int]],
) -> None:
    """made: tokens of a comment, questions about it, tokens of each."""
    rows = [
        (0, tuple(segment([1000 * r + i for i in range(n)] + [100 * q + 50] * own, [False] * (n + own - 1) + [True])
                  for q in range(questions)))
        for r, (n, questions, own) in enumerate(made)
    ]  # fmt: skip
    batch = build_batch(rows, ["a"], {})
    parts = [p for parts in divide(batch, 2, 64) for p in parts]
    for row, (n, questions, own) in enumerate(made):
        if n >= own + 2 and questions * (n + own) <= len(batch.tokens_N) // len(parts) // 4:
            assert len([p for p in parts if row in p.rows_D and p.weights_N.any()]) == 1


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
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 14), st.integers(0, 1), st.integers(0, 12), st.integers(2, 9)),
        min_size=1,
        max_size=9,
    ),
    st.integers(2, 6),
)
def test_shared_beginnings_lose_no_target_and_no_token(
    made: list[tuple[int, int, int, int, int]], smallest: int
) -> None:
    """Documents of a source begin alike for some tokens, those of a comment for some more; targets come after."""
    rows = []
    for i, (source, alike, comment, n, own) in enumerate(made):
        first = [100 * source + t for t in range(alike)] + [10_000 * (comment + 1) + t for t in range(n)]
        ids = first + [1000 + 10 * i + t for t in range(own)]
        rows.append((source, (segment(ids, [False] * (len(first) + 1) + [True] * (own - 1)),)))
    batch = build_batch(rows, ["a", "b", "c"], {})
    shared = share_beginnings(batch, smallest)
    wanted, kept = batch.targets_N != NO_TARGET, shared.targets_N != NO_TARGET
    for field in FIELDS:
        assert np.array_equal(getattr(batch, field)[wanted], getattr(shared, field)[kept])
    assert sum(shared.lengths_D) == len(shared.tokens_N) <= len(batch.tokens_N)
    sees = shared.sees_D or (False,) * len(shared.lengths_D)
    found: list[tuple[list[int], list[int]]] = []
    places = np.split(np.arange(len(shared.tokens_N)), np.cumsum(shared.lengths_D)[:-1])
    for d, own_N in enumerate(places):
        if d == 0 and shared.sees_D:
            continue
        ends = shared.branches_D[d] if shared.branches_D else ()
        n = len(own_N) - sum(ends)
        before_N = [*(places[0] if sees[d] else []), *own_N[:n]]
        for end_N in np.split(own_N[n:], np.cumsum(ends)[:-1]) if ends else [own_N[n:]]:
            whole_N = np.array([*before_N, *end_N], np.int64)
            found.append((shared.tokens_N[whole_N].tolist(), shared.positions_N[whole_N].tolist()))
    ends_N = np.cumsum(batch.lengths_D)
    assert found == [
        (batch.tokens_N[end - n : end].tolist(), list(range(n))) for end, n in zip(ends_N, batch.lengths_D, strict=True)
    ]


def test_twins_share_their_comment() -> None:
    """Two comments under two rules each: the comment stands there once, and a third rule joins where it saves."""

    def twin(comment: int, rule: int) -> Segment:
        ids = [1, 2, 3, 4, *range(comment, comment + 6), *range(rule, rule + 3)]
        return segment(ids, [False] * 12 + [True])

    rows = [(0, (twin(100, 500), twin(100, 600), twin(100, 700), twin(200, 500), twin(200, 600)))]
    shared = share_beginnings(build_batch(rows, ["a"], {}), 4)
    assert shared.lengths_D == (4, 6 + 9, 6 + 6)
    assert shared.branches_D == ((), (3, 3, 3), (3, 3))
    assert shared.sees_D == (False, True, True)
