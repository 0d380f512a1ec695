"""What needs all items at once: exact and near duplicates, and the side of each item. One task; arrays, no texts.

Reads the facts of every clean part and leaves, for each part, the fate and the side of its items. Memory: about 100
bytes an item; n-gram sets and bands stay on disk and are mapped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bessemer.data.curate.counts import Counts, excerpt
from bessemer.data.curate.near import I64, U64, Library, Sets, clusters_of
from bessemer.data.curate.parts import read_ids, read_part, whole_folder
from bessemer.data.curate.split import by_time, draw, n_straddling, united
from bessemer.data.curate.stages import Stage, Wanted
from bessemer.data.items import Item
from bessemer.errors import BessemerError
from bessemer.files import write_json, write_text
from bessemer.recipe.data_recipe import NearDuplicates

STAYS, EXACT, NEAR, NEAR_OTHER_ANSWER = range(4)
REASONS = {
    EXACT: "same text as an earlier item",
    NEAR: "near-duplicate of an earlier item",
    NEAR_OTHER_ANSWER: "near-duplicate of an earlier item, but with another answer",
}


@dataclass(frozen=True)
class Facts:
    """The facts of all items, one behind the other, and where each part begins."""

    folders: list[Path]
    starts: I64
    values: dict[str, NDArray[Any]]

    @staticmethod
    def read(folders: list[Path]) -> Facts:
        parts = [dict(np.load(folder / "facts.npz")) for folder in folders]
        starts = np.concatenate([[0], np.cumsum([len(p["id"]) for p in parts])])
        return Facts(folders, starts, {name: np.concatenate([p[name] for p in parts]) for name in parts[0]})

    def library(self) -> Library:
        return Library([Sets(np.load(f / "sets.npy", mmap_mode="r"), np.load(f / "offsets.npy")) for f in self.folders])

    def bands(self) -> Iterator[U64]:
        """One band of all parts at a time."""
        parts = [np.load(f / "bands.npy", mmap_mode="r") for f in self.folders]
        for band in range(len(parts[0])):
            yield np.concatenate([part[band] for part in parts])

    def place(self, item: int) -> tuple[int, int]:
        """(part, row) of an item."""
        part = int(np.searchsorted(self.starts, item, side="right")) - 1
        return part, item - int(self.starts[part])

    def item(self, item: int) -> Item:
        part, row = self.place(item)
        return next(x for k, x in enumerate(read_part(self.folders[part] / "items.parquet")) if k == row)


class MatchStage(Stage):
    """Task 0: facts of all clean parts -> the fate and the side of every item, and the records of these steps."""

    name = "match"

    def __init__(self, work: Path, n_parts: int, wanted: Wanted, near: NearDuplicates | None) -> None:
        super().__init__(work)
        self.folders = [work / "clean" / f"{k:05d}" for k in range(n_parts)]
        self.wanted = wanted
        self.near = near

    def do(self, data: Any, rank: int) -> None:
        final = self.work / "match"
        if final.exists():
            return
        facts = Facts.read(self.folders)
        _refuse_equal_ids(facts)
        fate, twin, labels = fates(facts, self.wanted, self.near)
        side = choose_sides(facts, labels, fate == STAYS, self.wanted)
        records, dropped = _records(facts, fate, twin, self.wanted.exact, self.near is not None)
        with whole_folder(final) as folder:
            for k, (first, last) in enumerate(zip(facts.starts[:-1], facts.starts[1:], strict=True)):
                np.savez(folder / f"{k:05d}.npz", fate=fate[first:last], side=side[first:last])
            write_json(folder / "record.json", {"steps": records})
            write_text(folder / "dropped.jsonl", "".join(json.dumps(d, ensure_ascii=False) + "\n" for d in dropped))


def fates(facts: Facts, wanted: Wanted, near: NearDuplicates | None) -> tuple[NDArray[np.uint8], I64, I64]:
    """(fate, earlier twin, cluster of near duplicates) of every item; a cluster is named by its earliest item."""
    n = len(facts.values["id"])
    fate, twin = np.zeros(n, np.uint8), np.arange(n)
    if wanted.exact:
        twin = first_equal(facts.values["exact"])
        fate[twin != np.arange(n)] = EXACT
    if wanted.jaccard is None:
        return fate, twin, np.arange(n)
    library = facts.library()
    library.sizes[fate != STAYS] = 0  # what is gone is compared no more
    labels = clusters_of(library, facts.bands(), wanted.jaccard)
    if near:
        gone = labels != np.arange(n)
        if near.same_group == "keep":
            group = facts.values["group"]
            gone &= (group != group[labels]) | (group == 0)
        answer = facts.values["answer"]
        fate[gone] = np.where(answer[gone] == answer[labels[gone]], NEAR, NEAR_OTHER_ANSWER)
        twin[gone] = labels[gone]
    return fate, twin, labels


def first_equal(keys: U64) -> I64:
    """For each row of (n, 2) keys the first row that equals it."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    new = np.concatenate([[True], (keys[order][1:] != keys[order][:-1]).any(axis=1)])[: len(order)]
    heads = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    found = np.empty(len(order), np.int64)
    found[order] = order[heads]
    return found


def choose_sides(facts: Facts, labels: I64, stays: NDArray[np.bool_], wanted: Wanted) -> NDArray[np.uint8]:
    """The side of every item. Raises BessemerError when near-duplicates would be on two sides, or a side is empty."""
    split, ids = wanted.split, facts.values["id"]
    if split is None:
        return np.zeros(len(ids), np.uint8)
    labels = united(labels, facts.values["group"])
    match split.by:
        case "random":
            sides = draw(ids, split)
        case "cluster":
            sides = draw(ids[united(labels, facts.values["unit"])], split)
        case "group":
            if not facts.values["unit"].any():
                raise BessemerError("no item has a group", where="split.by", fix="set split.column, or by: cluster")
            sides = draw(ids[united(labels, facts.values["unit"])], split)
        case "time":
            sides = by_time(facts.values["time"], split)
    if n := n_straddling(labels, sides, stays):
        near = f"a near-duplicate (Jaccard {wanted.jaccard:g} over {wanted.words}-word runs) or an item of their group"
        keep = ", or keep what belongs together with split.by: cluster" if split.by == "random" else ""
        raise BessemerError(
            f"{n} of {int(stays.sum())} items have {near} on another side of the split, so a model could score well "
            "from memory",
            where="split.by",
            fix=f"remove near-duplicates with steps.near_duplicates: {{}}{keep}",
        )
    return sides


def _refuse_equal_ids(facts: Facts) -> None:
    """An id is what deletion requests, traces and splits go by."""
    ids = facts.values["id"]
    order = np.argsort(ids, kind="stable")
    twice = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if len(twice):
        first, second = int(order[twice[0]]), int(order[twice[0] + 1])
        raise BessemerError(
            f"{len(twice)} items have an id that another item has too, e.g. {facts.item(second).id!r}: "
            f"{excerpt(facts.item(first))!r} and {excerpt(facts.item(second))!r}",
            where="sources",
            fix="map another column to id (columns: {id: ...}), or make the ids different",
        )


def _records(
    facts: Facts, fate: NDArray[np.uint8], twin: I64, exact: bool, near: bool
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """The record of each of the two steps that ran, and the list of what they dropped."""
    tokens = facts.values["tokens"]
    left = np.ones(len(fate), bool)
    records: list[dict[str, Any]] = []
    for step, done, reasons in (("duplicates", exact, [EXACT]), ("near_duplicates", near, [NEAR, NEAR_OTHER_ANSWER])):
        if not done:
            continue
        counts = Counts(step, items_in=int(left.sum()), tokens_in=int(tokens[left].sum()))
        for reason in reasons:
            gone = np.flatnonzero(fate == reason)
            left[gone] = False
            if len(gone):
                counts.why[REASONS[reason]] = len(gone)
            for i in gone[:3]:
                counts.show(REASONS[reason], f"{excerpt(facts.item(int(i)))}  <- {excerpt(facts.item(int(twin[i])))}")
        counts.items_out, counts.tokens_out = int(left.sum()), int(tokens[left].sum())
        records.append(counts.as_json())
    return records, _dropped(facts, fate, twin)


def _dropped(facts: Facts, fate: NDArray[np.uint8], twin: I64) -> list[dict[str, str]]:
    gone = np.flatnonzero(fate != STAYS)
    needed = np.unique(np.concatenate([gone, twin[gone]]))
    of_part = np.searchsorted(facts.starts, needed, side="right") - 1
    names: dict[int, str] = {}
    for part in np.unique(of_part):
        ids = read_ids(facts.folders[part] / "items.parquet")
        names |= {int(i): ids[int(i - facts.starts[part])] for i in needed[of_part == part]}
    steps = {EXACT: "duplicates", NEAR: "near_duplicates", NEAR_OTHER_ANSWER: "near_duplicates"}
    return [
        {"id": names[i], "step": steps[f], "reason": REASONS[f], "of": names[int(twin[i])]}
        for i, f in zip(gone.tolist(), fate[gone].tolist(), strict=True)
    ]
