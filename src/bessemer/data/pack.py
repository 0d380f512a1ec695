"""Examples -> rows of a fixed number of tokens; a row is a list of documents that never see each other.

Documents fill rows exactly: a text longer than what is left goes on in the next row, as a document of its own,
so no token is lost. Conversations are never cut: whole groups (twins) are placed into a row by best fit; a
conversation longer than a row is refused.

Legend: R rows, N tokens of a batch, D documents of a batch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bessemer.data.render import Example
from bessemer.errors import BessemerError
from bessemer.files import sha256_text

OPEN_ROWS = 24  # rows that best fit looks at; more fills little better and mixes neighbours less


@dataclass(frozen=True)
class Segment:
    """Part of an example that lies in a row: ids and supervised have the same length."""

    id: str
    ids_L: NDArray[np.int32]
    supervised_L: NDArray[np.bool_]


@dataclass(frozen=True)
class PackedSource:
    """A source as rows. n_tokens counts real tokens, never padding."""

    name: str
    rows: tuple[tuple[Segment, ...], ...]
    n_items: int
    n_tokens: int
    row_tokens: int

    @property
    def fill(self) -> float:
        """Share of the rows' places that hold a real token."""
        return self.n_tokens / (len(self.rows) * self.row_tokens)

    def digest(self) -> str:
        """sha256 over every id and mask bit of every row, in order."""
        text = "\n".join(
            f"{s.id} {s.ids_L.tobytes().hex()} {np.packbits(s.supervised_L).tobytes().hex()}"
            for row in self.rows
            for s in row
        )
        return sha256_text(text)


def pack_documents(name: str, examples: Sequence[Example], row_tokens: int, seed: int) -> PackedSource:
    """Shuffle documents and pour them into full rows; a rest of less than a row is left out."""
    order = list(examples)
    random.Random(f"pack {seed} {name}").shuffle(order)
    rows: list[tuple[Segment, ...]] = []
    row: list[Segment] = []
    room = row_tokens
    for example in order:
        at = 0
        while at < len(example.ids_L):
            take = min(room, len(example.ids_L) - at)
            row.append(Segment(example.id, example.ids_L[at : at + take], example.supervised_L[at : at + take]))
            at, room = at + take, room - take
            if room == 0:
                rows.append(tuple(row))
                row, room = [], row_tokens
    if not rows:  # too little for one row: then the one row there is
        rows.append(tuple(row))
    return _packed(name, rows, len(order), row_tokens)


def pack_groups(name: str, examples: Sequence[Example], row_tokens: int, seed: int) -> PackedSource:
    """Shuffle groups and place each whole into the fullest open row that has room (best fit).

    Raises BessemerError when a group is longer than a row.
    """
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.group, []).append(example)
    sizes = {key: sum(len(e.ids_L) for e in group) for key, group in groups.items()}
    too_long = [key for key, size in sizes.items() if size > row_tokens]
    if too_long:
        longest = max(sizes.values())
        raise BessemerError(
            f"{len(too_long)} of {len(groups)} conversations (with their twins) are longer than a row of "
            f"{row_tokens} tokens; the longest has {longest}",
            where=f"sources.{name}, first: {too_long[0]}",
            fix=f"set row_tokens to {1 << (longest - 1).bit_length()} or more, or shorten them",
        )
    order = list(groups)
    random.Random(f"pack {seed} {name}").shuffle(order)
    rows: list[tuple[Segment, ...]] = []
    open_rows: list[tuple[int, list[Segment]]] = []  # (room, segments)
    for key in order:
        segments = [Segment(e.id, e.ids_L, e.supervised_L) for e in groups[key]]
        fitting = [i for i, (room, _) in enumerate(open_rows) if room >= sizes[key]]
        if fitting:
            best = min(fitting, key=lambda i: open_rows[i][0])
            room, row = open_rows.pop(best)
            open_rows.insert(best, (room - sizes[key], row + segments))
        else:
            if len(open_rows) == OPEN_ROWS:
                fullest = min(range(OPEN_ROWS), key=lambda i: open_rows[i][0])
                rows.append(tuple(open_rows.pop(fullest)[1]))
            open_rows.append((row_tokens - sizes[key], segments))
    rows += [tuple(row) for _, row in open_rows]
    return _packed(name, rows, len(examples), row_tokens)


def _packed(name: str, rows: list[tuple[Segment, ...]], n_items: int, row_tokens: int) -> PackedSource:
    n_tokens = sum(len(s.ids_L) for row in rows for s in row)
    return PackedSource(name, tuple(rows), n_items, n_tokens, row_tokens)
