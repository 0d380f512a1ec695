"""For each held-out item the largest overlap with what a run was fed.

Question and answer are looked for apart. Words are compared without case, width and punctuation. Runs of words that
several groups of the held-out set share (the form of the task, a rule's wording) say nothing about one item and are
not counted; a group is what cannot be told apart anyway (twins).

Sources: Brown et al. 2020, appendix C (13-grams); Singh et al. 2024, "Evaluation data contamination in LLMs"
(coverage). Legend: F fields of the items (a question or an answer), I items.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from datatrove.utils.batching import batched
from numpy.typing import NDArray

from bessemer.data.curate.decontaminate import Runs
from bessemer.data.curate.near import I64, U64, Ragged, ngrams_of, words_of

LONG, COVERING, SHORTEST = 13, 8, 5  # words of a run
COVERAGE_LIMIT = 0.5  # an item of which so much was fed is no longer held out
BATCH = 512  # documents looked at together


@dataclass(frozen=True)
class Field:
    """The question or the answer of an item."""

    item: int
    name: str
    text: str
    group: str


@dataclass
class Overlap:
    """The largest overlap of one field with a document. longest: words in a row, 0 for fewer than SHORTEST.

    coverage: share of its own runs of COVERING words that one document holds. can_tell: whether it has runs of words
    that are its own; a word such as yes has none.
    """

    item: int
    field: str
    longest: int = 0
    coverage: float = 0.0
    document: str = ""
    can_tell: bool = True

    @property
    def contaminated(self) -> bool:
        return self.longest >= LONG or self.coverage >= COVERAGE_LIMIT

    def as_dict(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if k != "item"} | {"contaminated": self.contaminated}


class Search:
    """All fields of a held-out set, ready to be looked for in any number of documents."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = list(fields)
        self.words = words_of([f.text for f in fields])
        lengths = self.words.lengths
        groups = {g: k for k, g in enumerate(dict.fromkeys(f.group for f in fields))}
        group_F = np.array([groups[f.group] for f in fields], np.int64)
        # The shortest runs find candidates; a field of fewer words than COVERING is covered by all of its own words.
        self.shortest = _own(Runs.of(self.words, SHORTEST), group_F)
        # The same by field, so that a field's own are a slice: there may be ten million fields.
        self._by_field = self.shortest.hashes[np.argsort(self.shortest.owners, kind="stable")]
        self._ends = np.cumsum(np.bincount(self.shortest.owners, minlength=len(fields)))
        self.covering = {n: _own(Runs.of(_only(self.words, lengths == n), n), group_F) for n in range(3, COVERING)}
        self.covering[COVERING] = _own(Runs.of(self.words, COVERING), group_F)
        self.n_covering = np.zeros(len(fields), np.int64)
        for runs in self.covering.values():
            self.n_covering += np.bincount(runs.owners, minlength=len(fields))
        self.found = [
            Overlap(f.item, f.name, can_tell=bool(n)) for f, n in zip(fields, self.n_covering.tolist(), strict=True)
        ]

    def look(self, documents: Iterable[tuple[str, str]]) -> int:
        """Look through (id, text) pairs; returns how many there were."""
        n = 0
        for batch in batched(documents, BATCH):
            n += len(batch)
            words = words_of([text for _, text in batch])
            for runs in self.covering.values():
                self._cover(runs, words, batch)
            self._longest(words, batch)
        return n

    def _cover(self, runs: Runs, words: Ragged, batch: Sequence[tuple[str, str]]) -> None:
        texts, owners = runs.found_in(words)
        if not len(texts):
            return
        pairs, shared = np.unique(np.stack([texts, owners]), axis=1, return_counts=True)
        for text, owner, n in zip(pairs[0].tolist(), pairs[1].tolist(), shared.tolist(), strict=True):
            coverage = n / int(self.n_covering[owner])
            if coverage > self.found[owner].coverage:
                self.found[owner].coverage = round(coverage, 4)
                self.found[owner].document = batch[text][0]

    def _longest(self, words: Ragged, batch: Sequence[tuple[str, str]]) -> None:
        texts, owners = self.shortest.found_in(words)
        for text, owner in sorted(set(zip(texts.tolist(), owners.tolist(), strict=True))):
            own = self.words.hashes[self.words.offsets[owner] : self.words.offsets[owner + 1]]
            other = words.hashes[words.offsets[text] : words.offsets[text + 1]]
            n = self._run(owner, own, other)
            if n > self.found[owner].longest:
                self.found[owner].longest = n
                self.found[owner].document = self.found[owner].document or batch[text][0]

    def _run(self, owner: int, own: U64, other: U64) -> int:
        """Words of the longest common run that holds a run of the field's own."""
        mine = self._by_field[self._ends[owner - 1] if owner else 0 : self._ends[owner]]
        is_own = np.isin(_grams(own, SHORTEST), mine)  # by where the run begins
        best = 0
        previous = np.zeros(len(other) + 1, np.int64)
        for i, word in enumerate(own):
            current = np.zeros(len(other) + 1, np.int64)
            current[1:] = np.where(other == word, previous[:-1] + 1, 0)
            top = int(current.max(initial=0))
            if top > best and is_own[max(0, i - top + 1) : i - SHORTEST + 2].any():
                best = top
            previous = current
        return best


def _own(runs: Runs, group_F: I64) -> Runs:
    """The runs that stand in the fields of one group only."""
    if not len(runs.hashes):
        return runs
    group_R = group_F[runs.owners]
    starts = np.flatnonzero(np.r_[True, runs.hashes[1:] != runs.hashes[:-1]])
    same = np.minimum.reduceat(group_R, starts) == np.maximum.reduceat(group_R, starts)
    keep = np.repeat(same, np.diff(np.r_[starts, len(runs.hashes)]))
    return Runs(runs.n, runs.hashes[keep], runs.owners[keep])


def _only(words: Ragged, keep_F: NDArray[np.bool_]) -> Ragged:
    """The same texts, those that are not wanted without words."""
    lengths = np.where(keep_F, words.lengths, 0)
    return Ragged(words.hashes[np.repeat(keep_F, words.lengths)], np.concatenate([[0], np.cumsum(lengths)]))


def _grams(words: U64, n: int) -> U64:
    if len(words) < n:
        return np.zeros(0, np.uint64)
    return ngrams_of(Ragged(words, np.array([0, len(words)])), n).hashes
