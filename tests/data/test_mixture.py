from __future__ import annotations

from collections import Counter
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from bessemer.data.mixture import Mixture, chairman_order

shares = st.lists(st.integers(1, 50), min_size=1, max_size=6).map(lambda w: [Fraction(x, sum(w)) for x in w])


@given(shares, st.integers(1, 300))
def test_every_source_stays_within_one_row_of_its_share_at_every_moment(s: list[Fraction], n_rows: int) -> None:
    counts = [0] * len(s)
    for n, source in enumerate(chairman_order(s, n_rows), start=1):
        counts[source] += 1
        bound = 1 - Fraction(1, 2 * len(s) - 2) if len(s) > 1 else 0
        assert all(abs(n * share - count) <= bound for share, count in zip(s, counts, strict=True))


@given(shares, st.integers(1, 100), st.integers(1, 7), st.integers(0, 3))
def test_row_is_a_pure_function_and_epochs_are_permutations(
    s: list[Fraction], n_rows: int, rows_each: int, seed: int
) -> None:
    names = tuple("abcdef"[: len(s)])
    make = lambda n: Mixture(names, tuple(s), (rows_each,) * len(s), n, seed)  # noqa: E731
    mixture, longer = make(n_rows), make(n_rows + 10)
    places = [mixture.row(i) for i in range(n_rows)]
    assert places == [longer.row(i) for i in range(n_rows)]
    assert mixture.row(n_rows - 1) == places[-1]
    for source in range(len(s)):
        mine = [row for j, row in places if j == source]
        for epoch in range(0, len(mine) - rows_each + 1, rows_each):
            assert Counter(mine[epoch : epoch + rows_each]) == Counter(range(rows_each))


def test_quarters_are_exact_in_every_step_of_four() -> None:
    order = chairman_order([Fraction(3, 4), Fraction(1, 4)], 400)
    assert all(Counter(order[i : i + 4]) == {0: 3, 1: 1} for i in range(0, 400, 4))
