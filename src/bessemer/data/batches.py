"""Rows of several sources -> the batch of one step, with the weight of every target in the loss.

Legend: N tokens of a batch (documents one after another, no padding), D documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bessemer.data.mixture import Mixture
from bessemer.data.pack import PackedSource, Segment

NO_TARGET = -100


@dataclass(frozen=True)
class Batch:
    """Documents laid end to end. weights_N sums to the total loss weight over the whole step's batch."""

    tokens_N: NDArray[np.int64]
    positions_N: NDArray[np.int64]
    targets_N: NDArray[np.int64]  # NO_TARGET where nothing is predicted
    weights_N: NDArray[np.float32]
    sources_N: NDArray[np.int64]
    anchored_D: tuple[bool, ...]  # documents whose targets are the start checkpoint's own predictions
    lengths_D: tuple[int, ...]
    ids: tuple[str, ...]  # item id per document


@dataclass(frozen=True)
class StageData:
    """Everything a stage feeds: the packed sources, their mixture and the rows of one step."""

    sources: tuple[PackedSource, ...]
    mixture: Mixture
    rows_per_step: int
    loss_weight: dict[str, float]
    anchored: frozenset[str] = frozenset()  # sources that keep the start checkpoint's predictions

    @property
    def n_steps(self) -> int:
        return self.mixture.n_rows // self.rows_per_step

    def rows(self, step: int) -> list[tuple[int, tuple[Segment, ...]]]:
        """(source, row) of every row in step `step` (from 0)."""
        first = step * self.rows_per_step
        places = [self.mixture.row(i) for i in range(first, first + self.rows_per_step)]
        return [(source, self.sources[source].rows[row]) for source, row in places]

    def batch(self, step: int) -> Batch:
        return build_batch(self.rows(step), [s.name for s in self.sources], self.loss_weight, self.anchored)


def shift(segment: Segment) -> NDArray[np.int64]:
    """Targets of a document: token t predicts token t+1 where that one is supervised; the last predicts nothing."""
    targets_L = np.full(len(segment.ids_L), NO_TARGET, np.int64)
    wanted = segment.supervised_L[1:]
    targets_L[:-1][wanted] = segment.ids_L[1:][wanted]
    return targets_L


def build_batch(
    rows: Sequence[tuple[int, tuple[Segment, ...]]],
    names: Sequence[str],
    loss_weight: dict[str, float],
    anchored: frozenset[str] = frozenset(),
) -> Batch:
    """Lay the rows' documents end to end and give every target its weight.

    A source with a loss weight w counts as w times the mean over its own targets in this batch; the other sources
    share one mean over their targets. So the loss does not depend on how the batch is split for computing.
    """
    documents = [(source, segment) for source, row in rows for segment in row]
    lengths = [len(s.ids_L) for _, s in documents]
    tokens_N = np.concatenate([s.ids_L for _, s in documents]).astype(np.int64)
    targets_N = np.concatenate([shift(s) for _, s in documents])
    sources_N = np.repeat([source for source, _ in documents], lengths).astype(np.int64)
    positions_N = np.concatenate([np.arange(n) for n in lengths])
    wanted_N = targets_N != NO_TARGET
    weights_N = np.zeros(len(tokens_N), np.float32)
    own = [i for i, name in enumerate(names) if name in loss_weight]
    shared_N = wanted_N & ~np.isin(sources_N, own)
    weights_N[shared_N] = 1 / max(1, int(shared_N.sum()))
    for i in own:
        mine_N = wanted_N & (sources_N == i)
        weights_N[mine_N] = loss_weight[names[i]] / max(1, int(mine_N.sum()))
    return Batch(
        tokens_N,
        positions_N,
        targets_N,
        weights_N,
        sources_N,
        tuple(names[source] in anchored for source, _ in documents),
        tuple(lengths),
        tuple(s.id for _, s in documents),
    )


def split_batch(batch: Batch, max_tokens: int) -> list[Batch]:
    """Parts of at most about `max_tokens` tokens, cut between documents; the weights stay, so losses add up."""
    parts: list[Batch] = []
    first_doc, first_token, tokens = 0, 0, 0
    for d, length in enumerate(batch.lengths_D):
        if tokens and tokens + length > max_tokens:
            parts.append(_slice(batch, first_doc, d, first_token, first_token + tokens))
            first_doc, first_token, tokens = d, first_token + tokens, 0
        tokens += length
    parts.append(_slice(batch, first_doc, len(batch.lengths_D), first_token, first_token + tokens))
    return parts


def _slice(batch: Batch, d0: int, d1: int, n0: int, n1: int) -> Batch:
    return Batch(
        batch.tokens_N[n0:n1],
        batch.positions_N[n0:n1],
        batch.targets_N[n0:n1],
        batch.weights_N[n0:n1],
        batch.sources_N[n0:n1],
        batch.anchored_D[d0:d1],
        batch.lengths_D[d0:d1],
        batch.ids[d0:d1],
    )
