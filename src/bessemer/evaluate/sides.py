"""Which items of a task are public and which are sealed: what belongs together stays on one side.

Together are items of one `group`, items with the same text but for case and spaces, and near duplicates. Whole
clusters are dealt out, the largest first, so that each answer has its share on both sides as far as clusters allow.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from bessemer.data.curate.near import I64, U64, Bands, Library, Sets, clusters_of, normalise, sets_of
from bessemer.data.curate.split import united
from bessemer.errors import BessemerError
from bessemer.files import canonical_json

JACCARD, WORDS = 0.8, 3  # two items are near duplicates when so much of their runs of so many words is the same
FORM_ITEMS = 20  # a run of words that more than half of the items share, and more than these, is the task's form
MOST_STRATA = 50  # more different answers than this are texts, not classes
LEAST_ITEMS = 4
ALL = "all"  # a stratum of every item, so that many rare answers together keep the share too; answers are JSON

Row = dict[str, Any]


def choose_sealed(rows: Sequence[Row], share: float, seed: int) -> list[bool]:
    """For each item whether it is sealed. `share` of the items are, as nearly as whole clusters allow.

    Raises BessemerError when a side would be empty.
    """
    if not 0 < share < 1:
        raise BessemerError(f"{share:g} of the items cannot be sealed", where="share", fix="between 0 and 1, e.g. 0.5")
    if len(rows) < LEAST_ITEMS:
        raise BessemerError(
            f"{len(rows)} items cannot be split into a public and a sealed part",
            where="items",
            fix=f"at least {LEAST_ITEMS}; `bessemer eval power` says how many an effect needs",
        )
    labels = clusters(rows)
    members: dict[int, list[int]] = defaultdict(list)
    for i, label in enumerate(labels.tolist()):
        members[label].append(i)
    sealed = _dealt(list(members.values()), _strata(rows), share, seed)
    if len(set(sealed)) == 1:
        largest = max(members.values(), key=len)
        raise BessemerError(
            f"the {'public' if sealed[0] else 'sealed'} part would be empty: {len(rows)} items are only "
            f"{len(members)} clusters of what belongs together, the largest one with {len(largest)} items "
            f"(such as {rows[largest[0]]['id']!r})",
            where="items",
            fix="give more items that are different, smaller groups, or a share nearer to 0.5",
        )
    return sealed


def clusters(rows: Sequence[Row]) -> I64:
    """For each item the first item of what belongs together with it."""
    texts = [question(row) for row in rows]
    sets = _without_form(sets_of(texts, WORDS))
    labels = clusters_of(Library([sets]), list(Bands.for_threshold(JACCARD).keys(sets)), JACCARD)
    labels = united(labels, _numbered([" ".join(normalise(text).split()) for text in texts]))
    return united(labels, _numbered([row.get("group") or "" for row in rows]))


def question(row: Row) -> str:
    """The texts of an item that are not its answer."""
    turns = [str(turn.get("content", "")) for turn in row.get("messages") or ()]
    texts = [*turns, *(row.get(name) or "" for name in ("prompt", "text", "good", "bad")), *(row.get("choices") or ())]
    return "\n".join(str(text) for text in texts if text)


def _without_form(sets: Sets) -> Sets:
    """Without the instruction that most items repeat: it would make one cluster of all of them."""
    n = len(sets.sizes)
    runs, counts = np.unique(sets.hashes, return_counts=True)
    kept = ~np.isin(sets.hashes, runs[counts > max(FORM_ITEMS, n / 2)])
    sizes = np.bincount(np.repeat(np.arange(n), sets.sizes)[kept], minlength=n)
    return Sets(sets.hashes[kept], np.concatenate([[0], np.cumsum(sizes)]))


def _numbered(keys: Sequence[str]) -> U64:
    """Equal keys have equal numbers; the empty key has 0, which stands for none."""
    numbers: dict[str, int] = {"": 0}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.uint64)


def _strata(rows: Sequence[Row]) -> list[Hashable]:
    answers = [canonical_json(row.get("answer")) for row in rows]
    return list(answers) if len(set(answers)) <= MOST_STRATA else [""] * len(rows)


def _dealt(units: list[list[int]], strata: Sequence[Hashable], share: float, seed: int) -> list[bool]:
    """Each unit goes to the side where the counts of its answers then lie nearer to their share."""
    rng = random.Random(seed)
    rng.shuffle(units)
    units.sort(key=len, reverse=True)  # stable: equal sizes stay shuffled
    surplus: dict[Hashable, float] = defaultdict(float)  # sealed so far, less the share of all so far
    sealed = [False] * len(strata)
    for unit in units:
        counts = Counter(strata[i] for i in unit)
        counts[ALL] = len(unit)
        inside, outside = (sum((surplus[s] + part * n) ** 2 for s, n in counts.items()) for part in (1 - share, -share))
        chosen = inside < outside or (inside == outside and rng.random() < share)
        for stratum, n in counts.items():
            surplus[stratum] += (1 - share if chosen else -share) * n
        for i in unit:
            sealed[i] = chosen
    return sealed
