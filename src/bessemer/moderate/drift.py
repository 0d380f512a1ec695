"""Whether the comments, or what the model makes of them, are still those that the thresholds were chosen on.

Each is a number per comment: a rule's log-odds, the length, the share of words that the calibration's comments do not
have. The two-sample Kolmogorov-Smirnov test compares it with the calibration's: it needs no bins, sees a move anywhere
in a skewed distribution, and its statistic, the largest gap between two curves, is a size that can be read. p values
are adjusted by Holm; because with many comments a meaningless gap becomes significant, a gap must also be large.

What is kept of the calibration's comments are numbers and hashes of words, no texts.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bessemer.errors import BessemerError
from bessemer.evaluate.stats import holm

ALPHA = 0.01
GAP = 0.1  # smallest gap that counts as a move
MOST_VALUES = 2000  # of a distribution that are kept
MOST_WORDS = 20_000
DIGITS = 5  # of what is kept; compared values are rounded too, or equal ones would lie on two sides
FEWEST = 50  # comments
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """The calibration's comments as numbers. words: hashes of the words of every second comment."""

    odds: dict[str, Floats]
    lengths: Floats
    new_words: Floats  # of the other comments
    words: frozenset[int]

    @staticmethod
    def of(odds: Mapping[str, ArrayLike], texts: Sequence[str]) -> Reference:
        counts = Counter(h for text in texts[::2] for h in _hashes(text))
        words = frozenset(h for h, _ in counts.most_common(MOST_WORDS))
        values = {name: np.sort(np.asarray(v, np.float64)) for name, v in odds.items()}
        return Reference(values, _lengths(texts), _new_words(texts[1::2], words), words)

    def as_json(self) -> dict[str, Any]:
        return {
            "odds": {name: _few(values) for name, values in self.odds.items()},
            "lengths": _few(self.lengths),
            "new_words": _few(self.new_words),
            "words": sorted(self.words),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Reference:
        odds = {str(k): np.array(v, np.float64) for k, v in data["odds"].items()}
        return Reference(odds, np.array(data["lengths"]), np.array(data["new_words"]), frozenset(data["words"]))


@dataclass(frozen=True)
class Move:
    """What was compared, the gap between the two curves, and the adjusted p."""

    what: str
    gap: float
    p: float

    @property
    def moved(self) -> bool:
        return self.p < ALPHA and self.gap >= GAP

    def as_dict(self) -> dict[str, Any]:
        return {"what": self.what, "gap": round(self.gap, 4), "p": self.p, "moved": self.moved}


def drift(reference: Reference, odds: Mapping[str, ArrayLike], texts: Sequence[str]) -> list[Move]:
    """Every comparison, the largest gap first. Raises BessemerError for too few comments."""
    if len(texts) < FEWEST:
        raise BessemerError(
            f"{len(texts)} comments are too few to see a move", where="drift", fix=f"give {FEWEST} or more"
        )
    pairs = {f"score of {name}": (reference.odds[name], odds[name]) for name in reference.odds if name in odds}
    pairs["length of the texts"] = (reference.lengths, _lengths(texts))
    pairs["share of new words"] = (reference.new_words, _new_words(texts, reference.words))
    found = {name: ks_test(*(np.round(np.asarray(v, np.float64), DIGITS) for v in own)) for name, own in pairs.items()}
    adjusted = holm([p for _, p in found.values()])
    moves = [Move(name, gap, p) for (name, (gap, _)), p in zip(found.items(), adjusted, strict=True)]
    return sorted(moves, key=lambda m: -m.gap)


def ks_test(a: ArrayLike, b: ArrayLike) -> tuple[float, float]:
    """(largest gap between the two empirical distributions, p). Asymptotic p with Stephens' correction (1970)."""
    a, b = np.sort(np.asarray(a, np.float64)), np.sort(np.asarray(b, np.float64))
    both = np.concatenate([a, b])
    gap = float(np.abs(np.searchsorted(a, both, "right") / len(a) - np.searchsorted(b, both, "right") / len(b)).max())
    n = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    x = (n + 0.12 + 0.11 / n) * gap
    if x < 0.2:
        return gap, 1.0
    return gap, min(1.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 101)))


def _hashes(text: str) -> set[int]:
    return {zlib.crc32(word.encode()) for word in text.lower().split()}


def _lengths(texts: Sequence[str]) -> Floats:
    return np.sort(np.array([float(len(text)) for text in texts]))


def _new_words(texts: Sequence[str], words: frozenset[int]) -> Floats:
    shares = [1 - len(own & words) / len(own) if (own := _hashes(text)) else 0.0 for text in texts]
    return np.sort(np.array(shares))


def _few(values: Floats) -> list[float]:
    """At most MOST_VALUES of sorted numbers, evenly spaced: the same curve to 1 / MOST_VALUES."""
    if len(values) > MOST_VALUES:
        values = values[np.linspace(0, len(values) - 1, MOST_VALUES).round().astype(int)]
    return np.round(values, DIGITS).tolist()
