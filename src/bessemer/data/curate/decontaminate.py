"""Find items that hold an evaluation item, and say which.

An item is a hit when it shares a run of `ngram` words with an evaluation item, or holds at least `coverage` of the
evaluation item's runs of `coverage_ngram` words. Evaluation items of fewer words (comments) are hits only when the
whole text is the same: short runs are common speech. Words are compared without case, width and punctuation.

Sources: Brown et al. 2020, appendix C (13-grams); Singh et al. 2024, "Evaluation data contamination in LLMs"
(coverage).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datatrove.utils.batching import batched

from bessemer.data.curate.near import I64, U64, Ragged, ngrams_of, words_of
from bessemer.data.curate.steps import RepairStep, Step
from bessemer.data.curate.texts import n_tokens, own_text
from bessemer.data.items import Item
from bessemer.recipe.data_recipe import Decontaminate

BATCH = 256  # items looked at together


@dataclass(frozen=True)
class Runs:
    """All different runs of n words of the evaluation items: sorted hashes, and the items that each comes from."""

    n: int
    hashes: U64  # sorted; a run of several items is there several times
    owners: I64

    @staticmethod
    def of(words: Ragged, n: int) -> Runs:
        grams = ngrams_of(words, n)
        owners = np.repeat(np.arange(len(words)), grams.lengths)
        long_enough = words.lengths[owners] >= n
        pairs = np.unique(np.stack([grams.hashes[long_enough], owners[long_enough].astype(np.uint64)]), axis=1)
        return Runs(n, pairs[0], pairs[1].astype(np.int64))

    def found_in(self, words: Ragged) -> tuple[I64, I64]:
        """(text, evaluation item) for every different shared run; a pair stands there once for each run."""
        grams = ngrams_of(words, self.n)
        texts = np.repeat(np.arange(len(words)), grams.lengths)
        keep = words.lengths[texts] >= self.n
        texts, hashes = texts[keep], grams.hashes[keep]
        first = np.searchsorted(self.hashes, hashes, side="left")
        n_owners = np.searchsorted(self.hashes, hashes, side="right") - first
        hit = n_owners > 0
        texts, hashes, first, n_owners = texts[hit], hashes[hit], first[hit], n_owners[hit]
        within = np.arange(n_owners.sum()) - np.repeat(np.cumsum(n_owners) - n_owners, n_owners)
        runs = np.stack([np.repeat(texts, n_owners), np.repeat(first, n_owners) + within])
        runs = np.unique(runs, axis=1)  # a run that a text repeats counts once
        return runs[0], self.owners[runs[1]]


class Evaluation:
    """The evaluation items of all sets, ready to be looked for."""

    def __init__(self, sets: Mapping[str, Sequence[Item]], settings: Decontaminate) -> None:
        self.settings = settings
        self.names = [item.id for items in sets.values() for item in items]  # `set/id`
        words = words_of([own_text(item) for items in sets.values() for item in items])
        self.long = Runs.of(words, settings.ngram)
        self.covering = Runs.of(words, settings.coverage_ngram)
        self.n_covering = np.bincount(self.covering.owners, minlength=len(words))
        short = words.lengths < settings.coverage_ngram
        self.whole = {whole: i for i, whole in reversed(list(enumerate(_wholes(words)))) if short[i] and whole}

    def hits(self, texts: Sequence[str]) -> dict[int, tuple[str, str]]:
        """{index of a text: (why, evaluation item)} for the texts that are contaminated."""
        words = words_of(texts)
        found: dict[int, tuple[str, str]] = {}
        for i, whole in enumerate(_wholes(words)):
            if whole in self.whole:
                found[i] = ("the same short text", self.names[self.whole[whole]])
        for i, owner in zip(*self.long.found_in(words), strict=True):
            found.setdefault(int(i), (f"{self.long.n} words in a row", self.names[owner]))
        where, owners = self.covering.found_in(words)
        pairs, shared = np.unique(np.stack([where, owners]), axis=1, return_counts=True)
        for i, owner, n in zip(*pairs, shared, strict=True):
            if n >= self.settings.coverage * self.n_covering[owner]:
                why = f"{self.settings.coverage:.0%} of its {self.covering.n}-word runs"
                found.setdefault(int(i), (why, self.names[owner]))
        return found


def _wholes(words: Ragged) -> list[bytes]:
    return [words.hashes[a:b].tobytes() for a, b in zip(words.offsets[:-1], words.offsets[1:], strict=True)]


class DecontaminateStep(Step):
    """Drop what holds an evaluation item; the record names the evaluation item."""

    name = "decontaminate"

    def __init__(self, sets: dict[str, list[Path]], settings: Decontaminate, repair: RepairStep | None = None) -> None:
        """repair: what the items went through, so that evaluation items are compared in the same form."""
        super().__init__()
        self.sets = sets
        self.settings = settings
        self.repair = repair

    def run(self, data: Iterable[Item], rank: int = 0, world_size: int = 1) -> Iterator[Item]:  # type: ignore[override]
        from bessemer.data.curate.parts import read_part

        sets = {name: [item for path in paths for item in read_part(path)] for name, paths in self.sets.items()}
        if self.repair:
            sets = {name: [self.repair.repaired(item) for item in items] for name, items in sets.items()}
        evaluation = Evaluation(sets, self.settings)
        for batch in batched(data, BATCH):
            with self.track_time("batch"):
                hits = evaluation.hits([own_text(item) for item in batch])
            for i, item in enumerate(batch):
                tokens = n_tokens(item)
                self.counts.take(tokens)
                if i in hits:
                    why, name = hits[i]
                    self.drop(item, f"{name.partition('/')[0]}: {why}", note=f"  <- {name}", because=name)
                else:
                    self.counts.give(tokens)
                    yield item
