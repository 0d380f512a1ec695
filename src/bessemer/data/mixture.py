"""Which row comes next: a pure function of one integer.

The order of sources follows Tijdeman's chairman assignment ("The chairman assignment problem", Discrete
Mathematics 32, 1980): after every row, each source is within 1 - 1/(2k-2) rows of its share (k sources), so within
one row at every moment, in every step. Random draws would give a 10 % source a standard deviation of 3.75 points
at 64 rows a step. Arithmetic is exact (fractions), so every machine computes the same order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property


def chairman_order(shares: Sequence[Fraction], n_rows: int) -> list[int]:
    """The source (index into `shares`) of each of the first `n_rows` rows.

    shares: positive, sum 1. Ties go to the earlier source.
    """
    assert sum(shares) == 1 and all(s > 0 for s in shares)
    k = len(shares)
    if k == 1:
        return [0] * n_rows
    slack = Fraction(1, 2 * k - 2)
    counts = [0] * k
    order: list[int] = []
    for n in range(1, n_rows + 1):
        # A source may be chosen once its share is ahead of its count; the one whose deadline comes first is.
        ready = [j for j in range(k) if n * shares[j] - counts[j] >= slack]
        chosen = min(ready, key=lambda j: ((1 - slack - (n * shares[j] - counts[j])) / shares[j], j))
        counts[chosen] += 1
        order.append(chosen)
    return order


@dataclass(frozen=True)
class Mixture:
    """Sources with shares. `row(i)` is all there is to know about row i of the run."""

    names: tuple[str, ...]
    shares: tuple[Fraction, ...]
    n_rows_of: tuple[int, ...]  # rows that each source has
    n_rows: int  # rows that the stage consumes
    seed: int

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """(source, how many of its rows came before) of every row."""
        taken = [0] * len(self.names)
        places: list[tuple[int, int]] = []
        for source in chairman_order(self.shares, self.n_rows):
            places.append((source, taken[source]))
            taken[source] += 1
        return places

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows of each source that the whole stage consumes."""
        return tuple(sum(1 for s, _ in self._places if s == j) for j in range(len(self.names)))

    def row(self, i: int) -> tuple[int, int]:
        """(source, row of that source) of row i: a fresh permutation of the source's rows in every epoch."""
        source, taken = self._places[i]
        epoch, place = divmod(taken, self.n_rows_of[source])
        return source, _permutation(self.n_rows_of[source], f"{self.seed} {self.names[source]} {epoch}")[place]


@cache
def _permutation(n: int, key: str) -> list[int]:
    order = list(range(n))
    random.Random(f"epoch {key}").shuffle(order)
    return order
