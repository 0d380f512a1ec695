"""Lengths -> rows of a fixed number of tokens. Places only: no token is read or copied.

A row is a list of segments, each a part of one item, that never see each other. Items are placed by best fit,
longest first: into the fullest row that still has room (Ding et al., "Fewer Truncations Improve Language
Modeling", arXiv 2404.10830). Items of one group (twins) lie in one row, where one can hold them.

    >>> import numpy as np
    >>> packed = Packer(row_tokens=8).pack(np.array([5, 3, 12, 4]))
    >>> [packed.row(i) for i in range(packed.n_rows)]
    [[(2, 0, 8)], [(2, 8, 4), (3, 0, 4)], [(0, 0, 5), (1, 0, 3)]]
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bessemer.errors import BessemerError
from bessemer.files import check_files, digest_files, new_folder, read_json, saving_arrays, sha256_text, write_json

Long = Literal["split", "drop", "truncate", "fail"]
WINDOW = 1 << 16  # groups that are sorted and placed together: bounds memory, fills no worse
VERSION = 2  # raised where the same items become other rows: those of before are not taken for them
ARRAYS = ("ends", "items", "starts", "lengths")


@dataclass(frozen=True)
class Counts:
    """What became of the items. Tokens are real ones; places of a row that stay empty are not counted."""

    items: int = 0
    placed: int = 0  # tokens
    split: int = 0  # items cut into pieces that are all kept
    truncated: int = 0  # items that lost their end
    dropped: int = 0  # items left out
    lost: int = 0  # tokens of truncated and dropped items that no row holds


@dataclass(frozen=True)
class Packed:
    """Rows as arrays: row i holds the segments ends[i-1] to ends[i], each (item, first token, number of tokens)."""

    row_tokens: int
    counts: Counts
    ends: NDArray[np.int64]
    items: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def n_rows(self) -> int:
        return len(self.ends)

    @property
    def digest(self) -> str:
        """sha256 over every place of every row."""
        return sha256_text(" ".join(hashlib.sha256(getattr(self, name).tobytes()).hexdigest() for name in ARRAYS))

    def row(self, i: int) -> list[tuple[int, int, int]]:
        """(item, first token, number of tokens) of every segment of row i."""
        part = slice(int(self.ends[i - 1]) if i else 0, int(self.ends[i]))
        return list(
            zip(self.items[part].tolist(), self.starts[part].tolist(), self.lengths[part].tolist(), strict=True)
        )

    def rows_of(self, item: int) -> list[int]:
        """The rows that hold a part of an item."""
        segments = np.flatnonzero(self.items == item)
        return sorted(set(np.searchsorted(self.ends, segments, side="right").tolist()))

    def save(self, folder: Path, about: dict[str, Any]) -> None:
        with new_folder(folder) as tmp, saving_arrays(tmp):
            for name in ARRAYS:
                np.save(tmp / f"{name}.npy", getattr(self, name))
            files = {"files": digest_files(tmp)}
            about |= {"row_tokens": self.row_tokens, "counts": asdict(self.counts)}
            write_json(tmp / "packed.json", about | files)


def load_packed(folder: Path) -> Packed:
    """Memory-mapped: opening ten gigabytes of rows costs nothing."""
    about = read_json(folder / "packed.json")
    fix = f"remove {folder}; the next run makes it again"
    if missing := {f"{name}.npy" for name in ARRAYS} - about["files"].keys():
        raise BessemerError(f"{min(missing)} is missing", where=str(folder), fix=fix)
    check_files(folder, about["files"], fix=fix)
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    return Packed(about["row_tokens"], Counts(**about["counts"]), **arrays)


@dataclass(frozen=True)
class Packer:
    """row_tokens: length of a row. long: what happens to an item longer than a row. seed: the items' order.

    split: cut into full rows and a rest, nothing is left out (of a piece but the first, the first token is context, no
    target). drop: left out. truncate: its end is cut off.
    fail: an error. Dropped and truncated items are counted. A group longer than a row is taken apart; with `drop`
    it goes as a whole where one of its items is too long.
    """

    row_tokens: int = 512
    long: Long = "split"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.long not in get_args(Long):
            raise BessemerError(f"{self.long!r} is none of {', '.join(get_args(Long))}", where="Packer.long")

    def pack(
        self,
        lengths: NDArray[np.integer[Any]],
        groups: NDArray[np.integer[Any]] | None = None,
        *,
        where: str = "",
        id_of: Callable[[int], str] = str,
    ) -> Packed:
        """lengths [items]: tokens of each. groups [items]: a number per item; items of one number share a row.
        Empty items are left out. where, id_of: for errors, the place and an item's id.

        Raises BessemerError for an item longer than a row with `fail`, and when no row can be made.
        """
        by_group, first = _by_group(len(lengths), groups)
        if self.long == "fail":
            self._refuse_long(lengths, where, id_of)
        maker = _Rows(self.row_tokens)
        tally = {"split": 0, "truncated": 0, "dropped": 0, "lost": 0}
        order = shuffled(len(first) - 1, self.seed)
        for begin in range(0, len(order), WINDOW):
            pieces: list[_Piece] = []
            for g in order[begin : begin + WINDOW].tolist():
                members = by_group[first[g] : first[g + 1]].tolist()
                pieces += self._pieces([(i, int(lengths[i])) for i in members if lengths[i]], maker, tally)
            pieces.sort(key=lambda piece: -sum(n for _, _, n in piece))
            for piece in pieces:
                maker.place(piece)
            maker.close()
        placed = sum(maker.lengths)
        if not maker.ends:
            raise BessemerError(
                "nothing is left to fill a row with", where=where, fix="look at dropped and empty items"
            )
        arrays = (np.array(x, np.int64) for x in (maker.ends, maker.items, maker.starts, maker.lengths))
        return Packed(self.row_tokens, Counts(len(lengths), placed, **tally), *arrays)

    def _refuse_long(self, lengths: NDArray[Any], where: str, id_of: Callable[[int], str]) -> None:
        if (too_long := np.flatnonzero(lengths > self.row_tokens)).size:
            longest = int(lengths.max())
            raise BessemerError(
                f"{len(too_long)} of {len(lengths)} items are longer than a row of {self.row_tokens} tokens; "
                f"the longest has {longest}; the first is {id_of(int(too_long[0]))}",
                where=where,
                fix=f"row_tokens: {1 << (longest - 1).bit_length()} or more, or `long:` drop or truncate",
            )

    def _pieces(self, members: list[tuple[int, int]], maker: _Rows, tally: dict[str, int]) -> list[_Piece]:
        """What of a group is left to place by best fit. Full rows of split items go to `maker` at once."""
        if sum(n for _, n in members) <= self.row_tokens:
            return [[(i, 0, n) for i, n in members]] if members else []
        if self.long == "drop" and max(n for _, n in members) > self.row_tokens:
            tally["dropped"] += len(members)
            tally["lost"] += sum(n for _, n in members)
            return []
        pieces: list[_Piece] = []
        for i, n in members:  # a group that is longer than a row is taken apart
            if self.long == "truncate":
                tally["truncated"] += n > self.row_tokens
                tally["lost"] += max(0, n - self.row_tokens)
                pieces.append([(i, 0, min(n, self.row_tokens))])
                continue
            tally["split"] += n > self.row_tokens
            full = n // self.row_tokens
            for at in range(full):
                maker.add_row([(i, at * self.row_tokens, self.row_tokens)])
            if n % self.row_tokens:
                pieces.append([(i, full * self.row_tokens, n % self.row_tokens)])
        return pieces


_Piece = list[tuple[int, int, int]]  # (item, first token, number of tokens), all in one row


class _Rows:
    """Open rows by how much room they have. The smallest room that fits is the lowest bit at or above a length."""

    def __init__(self, row_tokens: int) -> None:
        self.row_tokens = row_tokens
        self.ends, self.items, self.starts, self.lengths = (array("q") for _ in ARRAYS)
        self._open: dict[int, list[_Piece]] = {}
        self._rooms = 0  # bit r is set when an open row has exactly r places left

    def place(self, piece: _Piece) -> None:
        size = sum(n for _, _, n in piece)
        fitting = self._rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = self._open[room].pop()
            if not self._open[room]:
                self._rooms &= ~(1 << room)
        else:
            room, row = self.row_tokens, []
        row += piece
        if room > size:
            self._open.setdefault(room - size, []).append(row)
            self._rooms |= 1 << (room - size)
        else:
            self.add_row(row)

    def close(self) -> None:
        """Rows with room left are rows too."""
        for room in sorted(self._open):
            for row in self._open[room]:
                self.add_row(row)
        self._open.clear()
        self._rooms = 0

    def add_row(self, row: _Piece) -> None:
        for item, start, length in row:
            self.items.append(item)
            self.starts.append(start)
            self.lengths.append(length)
        self.ends.append(len(self.items))


def shuffled(n: int, seed: int) -> NDArray[np.int64]:
    """A fixed pseudo-random order of range(n), the same with every version of numpy: sorted by a hash.

    The hash is SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014).
    """
    with np.errstate(over="ignore"):
        x = np.arange(n, dtype=np.uint64) + np.uint64(seed % 2**32) * np.uint64(0x9E3779B97F4A7C15)
        x = (x + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xD1342543DE82EF95)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return np.argsort(x, kind="stable").astype(np.int64)


def _by_group(n: int, groups: NDArray[np.integer[Any]] | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(items, group after group; where each group begins among them, and n)."""
    if groups is None:
        return np.arange(n, dtype=np.int64), np.arange(n + 1, dtype=np.int64)
    items = np.argsort(groups, kind="stable")
    ordered = groups[items]
    changes = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    return items, np.concatenate([[0] if n else [], changes, [n]]).astype(np.int64)
