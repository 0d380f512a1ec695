"""Rows of several sources -> the batch of one step, with the weight of every target in the loss.

Legend: N tokens of a batch (documents one after another, no padding), D documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bessemer.data.mixture import Mixture
from bessemer.data.pack import Packed
from bessemer.data.shards import Segment, TokenSet
from bessemer.data.shares import Phase
from bessemer.files import sha256_text

NO_TARGET = -100
Row = tuple[Segment, ...]


@dataclass(frozen=True)
class PackedSource:
    """A source as rows of tokens."""

    name: str
    tokens: TokenSet
    packed: Packed

    @property
    def n_rows(self) -> int:
        return self.packed.n_rows

    @property
    def n_tokens(self) -> int:
        """Real tokens in its rows, never padding."""
        return self.packed.counts.placed

    def row(self, i: int) -> Row:
        return tuple(self.tokens.segment(*place) for place in self.packed.row(i))

    def digest(self) -> str:
        """sha256 over every token, mask bit and id, and how they are laid into rows."""
        return sha256_text(f"{self.tokens.digest()} {self.packed.digest}")


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
    rows_D: tuple[int, ...]  # row of the step in which the document lies
    ids: tuple[str, ...]  # item id per document
    sees_D: tuple[bool, ...] = ()  # documents that continue the first one; empty when none does
    branches_D: tuple[tuple[int, ...], ...] = ()  # lengths of ends that do not see each other; empty when none branches


@dataclass(frozen=True)
class StageData:
    """Everything a stage feeds: the packed sources, their mixture and the rows of one step."""

    sources: tuple[PackedSource, ...]
    mixture: Mixture
    rows_per_step: int
    loss_weight: Mapping[str, float]
    anchored: frozenset[str] = frozenset()  # sources that keep the start checkpoint's predictions
    phases: tuple[Phase, ...] = ()  # the shares in tokens that were asked for

    @property
    def n_steps(self) -> int:
        return len(self.mixture) // self.rows_per_step

    def rows(self, step: int) -> list[tuple[int, Row]]:
        """(source, row) of every row in step `step` (from 0)."""
        numbers = {source.name: j for j, source in enumerate(self.sources)}
        first = step * self.rows_per_step
        picks = [self.mixture[k] for k in range(first, first + self.rows_per_step)]
        return [(numbers[p.source], self.sources[numbers[p.source]].row(p.row)) for p in picks]

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The batch of a step; of several processes each takes its rows, with the weights of the whole."""
        names = [s.name for s in self.sources]
        return part_of_rank(build_batch(self.rows(step), names, self.loss_weight, self.anchored), rank, world)


def batches(
    sources: Sequence[PackedSource],
    mixture: Mixture,
    *,
    rows: int,
    loss_weight: Mapping[str, float] | None = None,
    first: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """The batches of every step from `first` on, `rows` rows each; usable without recipe, plan or run."""
    data = StageData(tuple(sources), mixture, rows, loss_weight or {})
    yield from (data.batch(step, rank, world) for step in range(first, data.n_steps))


def shift(segment: Segment) -> NDArray[np.int64]:
    """Targets of a document: token t predicts token t+1 where that one is supervised; the last predicts nothing."""
    targets_L = np.full(len(segment.ids_L), NO_TARGET, np.int64)
    wanted = segment.supervised_L[1:]
    targets_L[:-1][wanted] = segment.ids_L[1:][wanted]
    return targets_L


def build_batch(
    rows: Sequence[tuple[int, Row]],
    names: Sequence[str],
    loss_weight: Mapping[str, float],
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
        tuple(r for r, (_, row) in enumerate(rows) for _ in row),
        tuple(s.id for _, s in documents),
    )


def part_of_rank(batch: Batch, rank: int, world: int) -> Batch:
    """The rows rank, rank + world, ... of a step. Weights stay, so the losses of all ranks add up to the whole."""
    if world == 1:
        return batch
    return _take(batch, [d for d, row in enumerate(batch.rows_D) if row % world == rank])


def without_ends(batch: Batch) -> Batch:
    """Without the tokens after a document's last target (what closes an answer): nothing is learned there, and no
    token sees a later one. A document without any target keeps its first token."""
    keep_N = np.ones(len(batch.tokens_N), np.bool_)
    lengths: list[int] = []
    for span in _spans(batch):
        targets = np.flatnonzero(batch.targets_N[span] != NO_TARGET)
        lengths.append(int(targets[-1]) + 1 if len(targets) else 1)
        keep_N[span.start + lengths[-1] : span.stop] = False
    return replace(
        batch,
        **{name: x[keep_N] for name, x in vars(batch).items() if name.endswith("_N")},
        lengths_D=tuple(lengths),
    )


def share_beginnings(batch: Batch, smallest: int = 8) -> Batch:
    """Compute once what documents begin with alike; loss and gradients stay what they were.

    What most documents begin with (the first words of one task's prompts) becomes a document of its own, which they
    continue. Neighbours that still begin alike (a comment under several rules) become one document whose ends branch.
    Beginnings teach nothing by themselves, and every end sees what it saw before. Documents with the start checkpoint's
    targets stay whole.
    """
    return _join_neighbours(_share_first(batch, smallest), smallest)


def _share_first(batch: Batch, smallest: int) -> Batch:
    spans = _spans(batch)
    groups: dict[bytes, list[int]] = {}
    for d, span in enumerate(spans):
        if not batch.anchored_D[d] and batch.lengths_D[d] > smallest:
            groups.setdefault(batch.tokens_N[span][:smallest].tobytes(), []).append(d)
    members = max(groups.values(), key=len, default=[])
    n = min((_shared(batch, spans[d], spans[members[0]]) for d in members), default=0)
    if len(members) < 2 or n < smallest:
        return batch
    keep_N = np.ones(len(batch.tokens_N), np.bool_)
    for d in members:
        keep_N[spans[d].start : spans[d].start + n] = False
    head = slice(spans[members[0]].start, spans[members[0]].start + n)
    first, shorter = members[0], set(members)
    return Batch(
        **{name: np.concatenate([x[head], x[keep_N]]) for name, x in vars(batch).items() if name.endswith("_N")},
        anchored_D=(False, *batch.anchored_D),
        lengths_D=(n, *(length - n * (d in shorter) for d, length in enumerate(batch.lengths_D))),
        rows_D=(batch.rows_D[first], *batch.rows_D),
        ids=(batch.ids[first], *batch.ids),
        sees_D=(False, *(d in shorter for d in range(len(spans)))),
        branches_D=(),
    )


def _join_neighbours(batch: Batch, smallest: int) -> Batch:
    """A document joins the ones before it where that saves tokens: all of them then branch off what all share."""
    spans = _spans(batch)
    families: list[tuple[list[int], int]] = []  # documents, tokens they share
    for d, span in enumerate(spans):
        if families and not batch.anchored_D[d]:
            before, n = families[-1]
            same_kind = not batch.anchored_D[before[0]] and batch.sees_D[d : d + 1] == batch.sees_D[before[0] :][:1]
            shared = min(_shared(batch, span, spans[before[0]]), n or len(batch.tokens_N)) if same_kind else 0
            is_head = before[0] == 0 and bool(batch.sees_D)
            if shared >= smallest and not is_head and shared * len(before) > n * (len(before) - 1):
                families[-1] = [*before, d], shared
                continue
        families.append(([d], 0))
    if all(n == 0 for _, n in families):
        return batch
    keep_N = np.ones(len(batch.tokens_N), np.bool_)
    for members, n in families:
        for d in members[1:]:
            keep_N[spans[d].start : spans[d].start + n] = False
    firsts = [members[0] for members, _ in families]
    ends = [[batch.lengths_D[d] - n for d in members] if n else [] for members, n in families]
    return Batch(
        **{name: x[keep_N] for name, x in vars(batch).items() if name.endswith("_N")},
        anchored_D=tuple(batch.anchored_D[d] for d in firsts),
        lengths_D=tuple(
            n + sum(own) if n else batch.lengths_D[d] for d, (_, n), own in zip(firsts, families, ends, strict=True)
        ),
        rows_D=tuple(batch.rows_D[d] for d in firsts),
        ids=tuple(batch.ids[d] for d in firsts),
        sees_D=tuple(batch.sees_D[d] for d in firsts) if batch.sees_D else (),
        branches_D=tuple(map(tuple, ends)),
    )


def _spans(batch: Batch) -> list[slice]:
    ends = np.cumsum(batch.lengths_D)
    return [slice(int(end) - n, int(end)) for end, n in zip(ends, batch.lengths_D, strict=True)]


def _shared(batch: Batch, own: slice, other: slice) -> int:
    """How many tokens two documents begin with alike, before the first that predicts one; at least one is left."""
    n = min(own.stop - own.start, other.stop - other.start) - 1
    differ = np.flatnonzero(batch.tokens_N[own][:n] != batch.tokens_N[other][:n])
    predicts = np.flatnonzero(batch.targets_N[own][:n] != NO_TARGET)
    return min([n, *differ[:1].tolist(), *predicts[:1].tolist()])


def divide(batch: Batch, world: int, max_tokens: int) -> list[list[Batch]]:
    """A step's documents for each of `world` processes, in equally many parts of at most about `max_tokens` tokens.

    Documents stay whole and in their order, and neighbours that begin alike stay together; the weights stay, so the
    losses of all parts add up to the step's. Where there are too few documents, a part is the shortest one with nothing
    to predict. [world][parts]
    """
    n_parts = -(-len(batch.tokens_N) // (world * max_tokens)) * world
    if n_parts == 1:
        return [[batch]]
    loads, members = [0] * n_parts, [list[int]() for _ in range(n_parts)]
    units = [(sum(batch.lengths_D[d] for d in own), own) for own in _alike(batch, len(batch.tokens_N) // n_parts // 4)]
    for size, own in sorted(units, key=lambda unit: (-unit[0], unit[1])):  # the longest first
        lightest = loads.index(min(loads))
        loads[lightest] += size
        members[lightest] += own
    parts = [_take(batch, sorted(m)) if m else _idle(batch) for m in members]
    return [parts[rank::world] for rank in range(world)]


def _alike(batch: Batch, most: int) -> list[list[int]]:
    """Neighbours of a row whose beginnings, half of them or more, are the same (twins), in runs of `most` tokens."""
    spans = _spans(batch)
    runs: list[list[int]] = []
    size = 0
    for d, span in enumerate(spans):
        length = batch.lengths_D[d]
        before = runs[-1][-1] if runs else d
        near = bool(runs) and batch.rows_D[before] == batch.rows_D[d] and size + length <= most
        if near and 2 * _shared(batch, span, spans[before]) >= min(length, batch.lengths_D[before]):
            runs[-1].append(d)
            size += length
        else:
            runs.append([d])
            size = length
    return runs


def _take(batch: Batch, documents: Sequence[int]) -> Batch:
    """Some of the documents, in this order."""
    spans = _spans(batch)
    spans = [np.arange(spans[d].start, spans[d].stop) for d in documents]
    places_N = np.concatenate(spans) if spans else np.empty(0, np.int64)
    taken = {name: x[places_N] for name, x in vars(batch).items() if name.endswith("_N")}
    return Batch(
        **taken,
        anchored_D=tuple(batch.anchored_D[d] for d in documents),
        lengths_D=tuple(batch.lengths_D[d] for d in documents),
        rows_D=tuple(batch.rows_D[d] for d in documents),
        ids=tuple(batch.ids[d] for d in documents),
    )


def _idle(batch: Batch) -> Batch:
    """The shortest document, teaching nothing: for a process that has none but must take part in every pass."""
    shortest = min(range(len(batch.lengths_D)), key=lambda d: batch.lengths_D[d])
    part = _take(batch, [shortest])
    nothing_N = np.full_like(part.targets_N, NO_TARGET)
    return replace(part, targets_N=nothing_N, weights_N=np.zeros_like(part.weights_N), anchored_D=(False,))
