"""Texts -> token ids, special tokens read as plain text.

`tokenizers` says what the ids are. Much text goes through the engine of data/fast.py where it is installed: the same
ids, many times as fast, checked all the way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import islice
from typing import Any

import numpy as np

from bessemer.data.fast import CheckedEngine, EnginesDiffer, Ids, load_checked

PIECE = 1 << 16  # characters of a piece of a long text, at least
CALL = 1 << 20  # characters encoded in one call, about
LINE_END = re.compile(r"(?<=\S)(?=\n)|(?<=\S\n)(?=\S)")  # before or after it: families differ
AROUND, TRIES = 256, 64  # characters that are looked at beside a place to cut; places that are tried
WORTH = 1 << 23  # characters from which on the fast engine repays its loading and its probes

Read = Callable[[list[str]], list[Ids]]
Load = Callable[[Any, Collection[int]], CheckedEngine | None]


class Encoder:
    """plain: a tokenizer that reads special tokens as text. control: ids that no text may become. load: the fast engine
    for them, or None."""

    def __init__(self, plain: Any, control: Collection[int], load: Load = load_checked) -> None:
        self._plain, self._control, self._load = plain, control, load
        self._fast: CheckedEngine | None = None
        self._until_fast = WORTH

    @property
    def engine(self) -> str:
        """Name and version of what encodes much text at the moment."""
        return self._fast.name if self._fast else f"tokenizers {version('tokenizers')}"

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """A few texts: with `tokenizers`."""
        return [ids.tolist() for ids in self._encode(texts, self._read)]

    def encode_much(self, texts: Sequence[str]) -> list[Ids]:
        """The same ids. Raises EnginesDiffer when ids that were given before are in doubt; the caller may begin again,
        from then on with `tokenizers` alone."""
        if self._until_fast > 0:
            self._until_fast -= sum(map(len, texts))
            if self._until_fast <= 0:
                self._fast = self._load(self._plain, self._control)
        try:
            return self._encode(texts, self._fast.read if self._fast else self._read)
        except EnginesDiffer:
            self._fast = None
            raise

    def _encode(self, texts: Sequence[str], read: Read) -> list[Ids]:
        """In threaded calls; long texts in pieces: with `tokenizers` a token takes 270 bytes on its way."""
        pieces = [list(self._cut(text)) for text in texts]
        encoded = (ids for call in _calls(piece for own in pieces for piece in own) for ids in read(call))
        return [next(encoded) if len(own) == 1 else np.concatenate([next(encoded) for _ in own]) for own in pieces]

    def _read(self, texts: list[str]) -> list[Ids]:
        return [np.array(e.ids, np.int32) for e in self._plain.encode_batch_fast(texts, add_special_tokens=False)]

    def _cut(self, text: str) -> Iterator[str]:
        """Pieces of a long text, cut at line ends where the tokenizer cuts too: around the place, the ids of both
        sides are the ids of the whole. A text without such places stays whole."""
        start = 0
        while len(text) - start > 2 * PIECE:
            places = LINE_END.finditer(text, start + PIECE, start + 2 * PIECE)
            at = next((m.start() for m in islice(places, TRIES) if self._cuts_at(text, m.start())), None)
            if at is None:
                break
            yield text[start:at]
            start = at
        yield text[start:]

    def _cuts_at(self, text: str, at: int) -> bool:
        around = (text[at - AROUND : at + AROUND], text[at - AROUND : at], text[at : at + AROUND])
        whole, left, right = (e.ids for e in self._plain.encode_batch_fast(list(around), add_special_tokens=False))
        return left + right == whole


def _calls(pieces: Iterable[str]) -> Iterator[list[str]]:
    call: list[str] = []
    size = 0
    for piece in pieces:
        call.append(piece)
        size += len(piece)
        if size >= CALL:
            yield call
            call, size = [], 0
    if call:
        yield call
