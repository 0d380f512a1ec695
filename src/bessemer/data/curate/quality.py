"""Quality rules on one text. Each is a share or a length with a published threshold; the recipe may change every one.

Sources: Laurencon et al. 2022 (ROOTS: repetition of character and word n-grams); Data-Juicer (arXiv 2309.02033), whose
operators of the same names define how a share is counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np

from bessemer.data.curate.near import U64, mix
from bessemer.recipe.data_recipe import Quality

_URL = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)


def broken_rules(text: str, rules: Quality) -> Iterator[str]:
    """The rules that the text breaks, each as a reason with its threshold; cheap ones first."""
    length = max(len(text), 1)
    if rules.characters is not None and len(text) < rules.characters:
        yield f"shorter than {rules.characters} characters"
    if rules.mean_line is not None and mean_line(text) < rules.mean_line:
        yield f"mean line below {rules.mean_line} characters"
    if rules.alphanumeric_share is not None and sum(map(str.isalnum, text)) / length < rules.alphanumeric_share:
        yield f"letters and digits below {rules.alphanumeric_share:.0%}"
    if rules.url_share is not None and sum(len(m[0]) for m in _URL.finditer(text)) / length > rules.url_share:
        yield f"URLs above {rules.url_share:.0%}"
    if rules.word_repetition is not None and word_repetition(text, rules.ngram) > rules.word_repetition:
        yield f"repeated word {rules.ngram}-grams above {rules.word_repetition:.0%}"
    if rules.character_repetition is not None and character_repetition(text, rules.ngram) > rules.character_repetition:
        yield f"repeated character {rules.ngram}-grams above {rules.character_repetition:.0%}"


def mean_line(text: str) -> float:
    """Characters in a line, on average."""
    return len(text) / max(len(text.splitlines()), 1)


def word_repetition(text: str, n: int) -> float:
    """The share of the word n-grams that occur more than once; 0 for a text without n-grams."""
    words = text.lower().split()
    if len(words) <= n:
        return 0.0
    codes = np.array(list(map(hash, words)), np.int64).view(np.uint64)  # differs by process; which are equal does not
    counts = _counts(codes, n)
    return float(counts[counts > 1].sum() / counts.sum())


def character_repetition(text: str, n: int) -> float:
    """The share that the commonest n-grams have of all character n-grams; 0 for a text without n-grams.

    The commonest are as many as the square root of the number of different ones, but only those that occur again, so
    that a long text is not punished for its length.
    """
    if len(text) <= n:
        return 0.0
    counts = _counts(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64), n)
    common = min(math.isqrt(len(counts)), int((counts > 1).sum()))
    return float(np.sort(counts)[len(counts) - common :].sum() / counts.sum())


def _counts(codes: U64, n: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """How often each different n-gram occurs."""
    total = len(codes) - n + 1
    grams = np.zeros(total, np.uint64)
    for k in range(n):
        grams = grams * np.uint64(0x9E3779B97F4A7C15) + codes[k : k + total]
    return np.unique(mix(grams), return_counts=True)[1]
