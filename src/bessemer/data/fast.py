"""fastokens beside `tokenizers`: the same ids many times as fast, or none at all.

Wrong ids would go unnoticed into every model trained on them, so nothing is taken on trust; `tokenizers` is right.

1. At first both read the probes of data/probes.py, every token of the vocabulary, and words made of tokens. A cut
   between letters, digits or spaces matters only where a token of the vocabulary could lie across it, so these show
   how the engine cuts. One difference, and it is not used.
2. A character that has not come before is read by both, in SURROUNDINGS. Where they differ, every text with it is
   read by `tokenizers`.
3. All ids must spell their text, byte by byte, and none may be a control token. What fails is read by both, and so is
   one text in EVERY. A difference raises EnginesDiffer: earlier ids are in doubt, and whoever kept them begins again.

What the engine refuses, such as a byte that the vocabulary lacks, is read by `tokenizers`.

Shapes: N tokens, B bytes, V vocabulary, U code points of Unicode.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from importlib.metadata import version
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bessemer.data.probes import SURROUNDINGS, fixed_probes, spelled_probes
from bessemer.errors import BessemerError

EVERY = 32  # one text in so many is read by both
PROBES = 2048  # read at once
BLOCK = 1 << 18  # tokens spelled at once
UNICODE = 0x110000

Ids = NDArray[np.int32]
NOTHING: Ids = np.zeros(0, np.int32)


class EnginesDiffer(BessemerError):
    """The fast engine's ids are wrong for a text, so those that it gave before may be, too."""


class Engine(Protocol):
    """What is used of fastokens: the ids of all texts end to end (uint32); a 0, and where each text ends (uint64)."""

    def encode_batch_flat(self, inputs: list[str], *, split_special_tokens: bool) -> tuple[bytes, bytes]: ...


def load_checked(plain: Any, control: Collection[int]) -> CheckedEngine | None:
    """The engine for a tokenizer that reads special tokens as text; None where it is not installed or differs."""
    try:
        from fastokens import Tokenizer

        engine = Tokenizer.from_json_str(plain.to_str())
        return probed(engine, f"fastokens {version('fastokens')}", plain, control)
    except BaseException as error:
        _need_failure(error)
        return None


def probed(engine: Engine, name: str, plain: Any, control: Collection[int]) -> CheckedEngine | None:
    """The engine with its checks, if it gives the ids of `plain` for every probe. Raises KeyError when the vocabulary's
    tokens are not made of bytes."""
    checked = CheckedEngine(engine, name, plain, control)
    added = [token.content for token in plain.get_added_tokens_decoder().values()]
    return checked if checked.passes([*fixed_probes(added), *spelled_probes(checked.spelling.texts())]) else None


class CheckedEngine:
    """name: for manifests and messages. control: ids that no text may become."""

    def __init__(self, engine: Engine, name: str, plain: Any, control: Collection[int]) -> None:
        self.name = name
        self.spelling = Spelling(plain)
        self._engine, self._plain = engine, plain
        self._control_V = np.zeros(self.spelling.n_vocabulary, np.bool_)
        self._control_V[list(control)] = True
        self._met_U, self._agreed_U = np.zeros((2, UNICODE), np.bool_)
        self._random = np.random.default_rng(0)

    def read(self, texts: list[str]) -> list[Ids]:
        """The ids of each text. Raises EnginesDiffer."""
        found = self._try(texts)
        for i in self._strange(texts):
            found.pop(i, None)
        sample = np.flatnonzero(self._random.random(len(texts)) * EVERY < 1).tolist()
        again = sorted({*sample, *self._doubtful(texts, found), *(set(range(len(texts))) - found.keys())})
        for i, right in zip(again, self._right([texts[i] for i in again]), strict=True):
            if not _same(found.get(i, right), right):
                raise EnginesDiffer(
                    f"{self.name} gives other ids than `tokenizers` for {texts[i][:60]!r}",
                    fix="pip uninstall fastokens; token sets whose parts name it as their engine may be wrong",
                )
            found[i] = right
        return [found[i] for i in range(len(texts))]

    def passes(self, probes: Sequence[str]) -> bool:
        """Whether all ids are right, and few are doubtful or refused: what is read by both is not fast."""
        n_slow = 0
        for at in range(0, len(probes), PROBES):
            texts = list(probes[at : at + PROBES])
            found = self._try(texts)
            right = self._right(texts)
            if not all(_same(ids, right[i]) for i, ids in found.items()):
                return False
            n_slow += len(texts) - len(found) + len(self._doubtful(texts, found))
        return n_slow * 10 < len(probes)

    def _right(self, texts: list[str]) -> list[Ids]:
        return [np.array(e.ids, np.int32) for e in self._plain.encode_batch_fast(texts, add_special_tokens=False)]

    def _try(self, texts: list[str]) -> dict[int, Ids]:
        """{place: ids} without the texts that the engine refuses."""
        try:
            return dict(enumerate(self._flat(texts)))
        except BaseException as error:
            _need_failure(error)
        found: dict[int, Ids] = {}
        for i, text in enumerate(texts):
            try:
                (found[i],) = self._flat([text])
            except BaseException as error:
                _need_failure(error)
        return found

    def _flat(self, texts: list[str]) -> list[Ids]:
        raw, ends = self._engine.encode_batch_flat(texts, split_special_tokens=True)
        ids_N = np.frombuffer(raw, "<u4").view(np.int32)
        places = np.frombuffer(ends, "<u8").astype(np.int64).tolist()
        if len(places) != len(texts) + 1 or (places[0], places[-1]) != (0, len(ids_N)):
            raise ValueError("the ids do not come one text after another")
        return [ids_N[a:b] for a, b in pairwise(places)]

    def _strange(self, texts: list[str]) -> list[int]:
        """Places of texts with a character on which the engines differ."""
        other = [i for i, text in enumerate(texts) if not text.isascii()]
        codes = _codes("".join(texts[i] for i in other))
        self._meet(np.unique(codes[~self._met_U[codes]]))
        if self._agreed_U[codes].all():
            return []
        return [i for i in other if not self._agreed_U[_codes(texts[i])].all()]

    def _meet(self, codes: NDArray[np.uint32]) -> None:
        shown = [SURROUNDINGS.replace("_", chr(code)) for code in codes.tolist()]
        found = self._try(shown)
        right = self._right(shown)
        self._met_U[codes] = True
        self._agreed_U[codes] = [_same(found.get(i, ids), ids) for i, ids in enumerate(right)]

    def _doubtful(self, texts: list[str], found: dict[int, Ids]) -> list[int]:
        """Places of ids that do not spell their text or hold a control token."""
        if self._sound(list(found.values()), [texts[i] for i in found]):
            return []
        return [i for i, ids in found.items() if not self._sound([ids], [texts[i]])]

    def _sound(self, ids: list[Ids], texts: list[str]) -> bool:
        ids_N = np.concatenate([NOTHING, *ids])
        return self.spelling.spells(ids_N, [len(own) for own in ids], texts) and not self._control_V[ids_N].any()


class Spelling:
    """The bytes of every token of a byte-level vocabulary."""

    def __init__(self, plain: Any) -> None:
        added = {i: token.content.encode() for i, token in plain.get_added_tokens_decoder().items()}
        vocabulary = plain.get_vocab()
        byte_of = bytes_of_characters()
        self.n_vocabulary = max(vocabulary.values()) + 1
        self._tokens = [b""] * self.n_vocabulary
        for token, i in vocabulary.items():
            self._tokens[i] = added[i] if i in added else bytes(byte_of[c] for c in token)
        self._lengths_V = np.array([len(token) for token in self._tokens], np.int64)
        self._starts_V = np.cumsum(self._lengths_V) - self._lengths_V
        self._bytes = np.frombuffer(b"".join(self._tokens), np.uint8)

    def texts(self) -> list[str]:
        """The tokens that are whole characters."""
        texts = [token.decode(errors="replace") for token in self._tokens]
        return [text for text, token in zip(texts, self._tokens, strict=True) if token and text.encode() == token]

    def spells(self, ids_N: Ids, counts: list[int], texts: list[str]) -> bool:
        """Whether the ids, `counts` of them for each text, are the bytes of the texts."""
        if ids_N.size and int(ids_N.view(np.uint32).max()) >= self.n_vocabulary:
            return False
        lengths_N = self._lengths_V[ids_N]
        ends_N = np.cumsum(lengths_N)
        sizes = [len(text) if text.isascii() else len(text.encode()) for text in texts]
        if not np.array_equal(
            np.append(0, ends_N)[np.cumsum(counts, dtype=np.int64)], np.cumsum(sizes, dtype=np.int64)
        ):
            return False
        text_B = np.frombuffer("".join(texts).encode(), np.uint8)
        begins_N = ends_N - lengths_N
        for a in range(0, len(ids_N), BLOCK):
            own = slice(a, a + BLOCK)
            shift_N = self._starts_V[ids_N[own]] - begins_N[own]
            begin, end = int(begins_N[a]), int(ends_N[own][-1])
            places_B = np.repeat(shift_N, lengths_N[own]) + np.arange(begin, end)
            if not np.array_equal(self._bytes[places_B], text_B[begin:end]):
                return False
        return True


@functools.cache
def bytes_of_characters() -> dict[str, int]:
    """How byte-level vocabularies write bytes: a printable Latin-1 character is itself, the others follow from U+0100
    (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + k): b for k, b in enumerate(others)}


def _same(a: Ids, b: Ids) -> bool:
    return a.tobytes() == b.tobytes()


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), "<u4")


def _need_failure(error: BaseException) -> None:
    """Let through what is no failure of the engine. A panic in Rust is a BaseException, but no Exception."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)):
        raise error
