"""Near duplicates: sets of word n-grams as sorted hashes, MinHash to find pairs, exact Jaccard to confirm them.

Everything works on many texts at once; no Python object is made for a word. Legend: a text is a row in `offsets`;
`hashes[offsets[i]:offsets[i + 1]]` are its words or n-grams.

Sources: Broder 1997 (MinHash); Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, ch. 3 (bands).
"""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]
I64 = NDArray[np.int64]

BLOCK = 1 << 20  # characters or n-grams worked on at once: small enough for the cache, large enough for numpy
PAIR_BLOCK = 1 << 22  # n-grams compared at once when pairs are confirmed: bounds memory
MISSED = 0.001  # a pair exactly at the threshold is overlooked so often
MOST_HASHES = 128
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2**64
_ALONE = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
          (0xF900, 0xFAFF))  # fmt: skip
"""Scripts without spaces (Thai, Lao, Burmese, Khmer, kana, ideographs): a letter counts as a word."""
_PICTURES = ((0x2600, 0x27BF), (0x1F000, 0x1FAFF), (0x20000, 0x3FFFF))  # symbols, emoji, rare ideographs


@dataclass(frozen=True)
class Ragged:
    """Many sequences of hashes, one behind the other."""

    hashes: U64
    offsets: I64  # one more than there are texts

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> I64:
        return np.diff(self.offsets)


def normalise(text: str) -> str:
    """One form for what looks the same: NFKC, lower case."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).lower()


def mix(x: U64) -> U64:
    """Spread every bit over all others (the finaliser of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@functools.cache
def _kinds() -> NDArray[np.uint8]:
    """For every code point: 0 separates words, 1 is part of a word, 2 is a word of its own."""
    kinds = np.zeros(0x110000, np.uint8)
    kinds[:0x20000] = [unicodedata.category(chr(c))[0] in "LNM" for c in range(0x20000)]
    kinds[0xFE00:0xFE10] = 0  # how an emoji is drawn
    for first, last in _ALONE:
        kinds[first : last + 1][kinds[first : last + 1] > 0] = 2
    for first, last in _PICTURES:
        kinds[first : last + 1] = 2
    return kinds


@functools.cache
def _powers() -> tuple[U64, U64]:
    """Powers of the base and of its inverse, modulo 2**64, for one block."""
    inverse = pow(_BASE, -1, 1 << 64)
    ones = np.full(2 * BLOCK, 1, np.uint64)
    up, down = ones.copy(), ones.copy()
    up[1:], down[1:] = np.uint64(_BASE), np.uint64(inverse)
    return np.multiply.accumulate(up), np.multiply.accumulate(down)


def words_of(texts: Sequence[str]) -> Ragged:
    """The hashes of the words of each text, in order."""
    hashes: list[U64] = []
    counts = np.zeros(len(texts), np.int64)
    block: list[tuple[int, str]] = []
    size = 0
    for i, text in enumerate(texts):
        plain = normalise(text)
        while plain:
            cut = len(plain) if len(plain) <= BLOCK else plain.rfind(" ", 0, BLOCK) + 1 or BLOCK  # only giants are cut
            if size + cut > BLOCK:
                hashes.append(_block_words(block, counts))
                block, size = [], 0
            block.append((i, plain[:cut]))
            size += cut
            plain = plain[cut:]
    hashes.append(_block_words(block, counts))
    return Ragged(np.concatenate(hashes), np.concatenate([[0], np.cumsum(counts)]))


def _block_words(block: list[tuple[int, str]], counts: I64) -> U64:
    """Word hashes of a block of texts, in order; adds how many each text has to `counts`."""
    text = "\n".join(plain for _, plain in block)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _kinds()[codes]
    inside = kinds > 0
    border = np.zeros(1, np.uint8)
    before, after = np.concatenate([border, kinds])[:-1], np.concatenate([kinds, border])[1:]
    starts = np.flatnonzero(inside & ((before == 0) | (before == 2) | (kinds == 2)))
    ends = np.flatnonzero(inside & ((after == 0) | (after == 2) | (kinds == 2))) + 1
    up, down = _powers()
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(mix(codes.astype(np.uint64) + np.uint64(1)) * up[: len(codes)], out=sums[1:])
    borders = np.cumsum([len(plain) + 1 for _, plain in block])
    of_text = np.searchsorted(borders, starts, side="right")
    np.add.at(counts, [i for i, _ in block], np.bincount(of_text, minlength=len(block)))
    return mix((sums[ends] - sums[starts]) * down[starts])


def ngrams_of(words: Ragged, n: int) -> Ragged:
    """The hashes of the n-grams of each text, in order. A text with 1 to n - 1 words has one: all of its words."""
    lengths = words.lengths
    rows = np.arange(len(words))
    padded = np.zeros(len(words.hashes) + len(words) * (n - 1), np.uint64)  # n - 1 times nothing behind each text
    padded[np.arange(len(words.hashes)) + np.repeat(rows * (n - 1), lengths)] = words.hashes
    counts = np.where(lengths > 0, np.maximum(lengths - n + 1, 1), 0)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    at = np.arange(offsets[-1]) + np.repeat(words.offsets[:-1] + rows * (n - 1) - offsets[:-1], counts)
    grams = np.zeros(len(at), np.uint64)
    for weight in _odd_numbers(n, seed=n).astype(np.uint64):
        grams += padded[at] * mix(weight[None])
        at += 1
    return Ragged(mix(grams), offsets)


def _odd_numbers(n: int, seed: int) -> U32:
    """Fixed pseudo-random odd multipliers."""
    return (mix(np.arange(1, n + 1, dtype=np.uint64) + np.uint64(seed << 32)) >> np.uint64(32)).astype(
        np.uint32
    ) | np.uint32(1)


@dataclass(frozen=True)
class Sets:
    """The set of n-grams of each text: 32-bit hashes, sorted."""

    hashes: U32
    offsets: I64

    @property
    def sizes(self) -> I64:
        return np.diff(self.offsets)


def sets_of(texts: Sequence[str], n: int) -> Sets:
    """The sets of word n-grams of many texts. A text without words has an empty set."""
    grams = ngrams_of(words_of(texts), n)
    hashes: list[U32] = []
    sizes: list[I64] = []
    for first, last in _blocks(grams.offsets):
        lengths = grams.lengths[first:last]
        keys = np.repeat(np.arange(last - first, dtype=np.uint64) << np.uint64(32), lengths)
        keys |= grams.hashes[grams.offsets[first] : grams.offsets[last]] >> np.uint64(32)
        keys.sort()
        keys = keys[np.diff(keys, prepend=~keys[:1]) != 0]
        hashes.append(keys.astype(np.uint32))
        sizes.append(np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=last - first))
    return Sets(np.concatenate([*hashes, np.zeros(0, np.uint32)]), np.cumsum(np.concatenate([[0], *sizes])))


def _blocks(offsets: I64, size: int = BLOCK // 4) -> list[tuple[int, int]]:
    """Runs of texts, [first, last), with about `size` hashes each and at least one text."""
    found: list[tuple[int, int]] = []
    first = 0
    while first < len(offsets) - 1:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + size, side="right")) - 1)
        found.append((first, last))
        first = last
    return found


@dataclass(frozen=True)
class Bands:
    """How MinHash looks for pairs: a pair is compared when one of `n` bands of `rows` minima agrees."""

    n: int
    rows: int

    @staticmethod
    def for_threshold(jaccard: float) -> Bands:
        """The longest bands that find a pair at the threshold with probability 1 - MISSED and few hashes."""
        for rows in range(16, 0, -1):
            n = math.ceil(math.log(MISSED) / math.log1p(-min(jaccard**rows, 1 - 1e-9)))
            if n * rows <= MOST_HASHES:
                return Bands(n, rows)
        raise AssertionError(f"{jaccard} needs more than {MOST_HASHES} hashes")

    def keys(self, sets: Sets) -> U64:
        """(bands, texts): one number a band. Texts with equal numbers are candidates. Empty sets have key 0."""
        keys = np.zeros((self.n, len(sets.sizes)), np.uint64)
        full = np.flatnonzero(sets.sizes)
        offsets = np.concatenate([sets.offsets[full], sets.offsets[-1:]])
        multipliers = _odd_numbers(self.n * self.rows, seed=77).reshape(self.n, self.rows)
        for first, last in _blocks(offsets):
            hashes = sets.hashes[offsets[first] : offsets[last]]
            starts = offsets[first:last] - offsets[first]
            buffer = np.empty_like(hashes)
            for band in range(self.n):
                key = np.full(last - first, band, np.uint64)
                for multiplier in multipliers[band]:
                    np.multiply(hashes, multiplier, out=buffer)
                    np.bitwise_xor(buffer, multiplier, out=buffer)
                    key = mix(key ^ np.minimum.reduceat(buffer, starts))
                keys[band, full[first:last]] = key
        return keys


def candidates(keys: U64, texts: I64) -> tuple[I64, I64]:
    """Pairs (earlier, later) of `texts` whose keys agree: each with the first of its bucket and the one before it."""
    order = np.argsort(keys, kind="stable")
    new = np.diff(keys[order], prepend=~keys[order[:1]]) != 0
    position = np.arange(len(order))
    heads = np.maximum.accumulate(np.where(new, position, 0))
    later = np.flatnonzero(~new)
    near = later[heads[later] < later - 1]
    return texts[order[np.concatenate([heads[later], near - 1])]], texts[order[np.concatenate([later, near])]]


class Clusters:
    """Disjoint sets; each is known by its earliest member."""

    def __init__(self, n: int) -> None:
        self.parents: I64 = np.arange(n)

    def join(self, firsts: I64, seconds: I64) -> None:
        parents = self.parents
        for a, b in zip(firsts.tolist(), seconds.tolist(), strict=True):
            roots = self._root(a), self._root(b)
            parents[max(roots)] = min(roots)

    def _root(self, x: int) -> int:
        while (parent := int(self.parents[x])) != x:
            self.parents[x] = x = int(self.parents[parent])
        return x

    def labels(self) -> I64:
        """For each member the earliest member of its set."""
        while not np.array_equal(shorter := self.parents[self.parents], self.parents):
            self.parents = shorter
        return self.parents


def overlap(a: Sets, b: Sets) -> NDArray[np.float64]:
    """The Jaccard similarity of each set of `a` with the set of `b` at the same place; two empty sets have 0."""
    rows = np.arange(len(a.sizes), dtype=np.uint64) << np.uint64(32)
    keys = np.concatenate([np.repeat(rows, a.sizes) | a.hashes, np.repeat(rows, b.sizes) | b.hashes])
    keys.sort()
    twice = keys[1:][keys[1:] == keys[:-1]]
    shared = np.bincount((twice >> np.uint64(32)).astype(np.int64), minlength=len(rows))
    return shared / np.maximum(a.sizes + b.sizes - shared, 1)


class Library:
    """The n-gram sets of all texts, part by part, possibly on disk; only what is compared comes into memory."""

    def __init__(self, parts: Sequence[Sets]) -> None:
        self.parts = parts
        self.sizes: I64 = np.concatenate([np.zeros(0, np.int64), *(p.sizes for p in parts)])
        self.starts = np.concatenate([[0], np.cumsum([len(p.sizes) for p in parts])])

    def take(self, texts: I64) -> Sets:
        sizes = self.sizes[texts]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        hashes = np.empty(offsets[-1], np.uint32)
        of_part = np.searchsorted(self.starts, texts, side="right") - 1
        for p in np.unique(of_part):
            mine = np.flatnonzero(of_part == p)
            within = np.arange(sizes[mine].sum()) - np.repeat(np.cumsum(sizes[mine]) - sizes[mine], sizes[mine])
            source = self.parts[p].offsets[texts[mine] - self.starts[p]]
            hashes[np.repeat(offsets[mine], sizes[mine]) + within] = self.parts[p].hashes[
                np.repeat(source, sizes[mine]) + within
            ]
        return Sets(hashes, offsets)

    def alike(self, firsts: I64, seconds: I64, jaccard: float) -> NDArray[np.bool_]:
        """Which pairs have at least this Jaccard similarity, exactly."""
        small = np.minimum(self.sizes[firsts], self.sizes[seconds])
        large = np.maximum(self.sizes[firsts], self.sizes[seconds])
        found = small >= jaccard * large  # the others cannot reach it
        asked = np.flatnonzero(found)
        work = np.concatenate([[0], np.cumsum((small + large)[asked])])
        for first, last in _blocks(work, PAIR_BLOCK):
            pairs = asked[first:last]
            found[pairs] = overlap(self.take(firsts[pairs]), self.take(seconds[pairs])) >= jaccard
        return found


def clusters_of(library: Library, bands: Iterable[U64], jaccard: float) -> I64:
    """For each text the earliest text of its cluster of near duplicates.

    bands: for each band the keys of all texts, see `Bands.keys`. Memory: about 60 bytes a text, and `PAIR_BLOCK`
    n-grams.
    """
    clusters = Clusters(len(library.sizes))
    texts = np.flatnonzero(library.sizes)
    for keys in bands:
        firsts, seconds = candidates(np.asarray(keys)[texts], texts)
        labels = clusters.labels()
        new = labels[firsts] != labels[seconds]  # what is together already needs no second look
        firsts, seconds = firsts[new], seconds[new]
        found = library.alike(firsts, seconds, jaccard)
        clusters.join(firsts[found], seconds[found])
    return clusters.labels()


def near_duplicates(texts: Sequence[str], *, jaccard: float = 0.8, words: int = 3) -> I64:
    """For each text the index of the earliest text of its cluster; its own index when it is the first or alone."""
    sets = sets_of(texts, words)
    return clusters_of(Library([sets]), list(Bands.for_threshold(jaccard).keys(sets)), jaccard)
