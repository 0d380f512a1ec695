"""The ends of the stages: sources -> parts, parts -> clean parts with the facts that matching needs, -> the data set.

A task's result is a folder or file that appears whole, so a killed task leaves nothing behind and is simply done again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep

from bessemer.data.curate.counts import Counts
from bessemer.data.curate.feed import Feed
from bessemer.data.curate.near import Bands, normalise, sets_of
from bessemer.data.curate.parts import read_part, whole_folder, write_part
from bessemer.data.curate.steps import Step
from bessemer.data.curate.texts import answer_of, calls_in, n_tokens, own_text, question_of, texts_in
from bessemer.data.items import Item
from bessemer.errors import BessemerError
from bessemer.files import canonical_json, saving_arrays, write_json
from bessemer.recipe.data_recipe import Split
from bessemer.units import parse_time

PART_TOKENS = 8_000_000  # about 32 MB of text
PART_ITEMS = 100_000


class Stage(PipelineStep):
    """An end of a pipeline that consumes items; `work` is the folder of all stages."""

    type = "Bessemer"

    def __init__(self, work: Path) -> None:
        super().__init__()
        self.work = work

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Does the task and yields nothing."""
        with self.track_time("task"):
            self.do(data, rank)

    def do(self, data: Any, rank: int) -> None:
        raise NotImplementedError


class ReadStage(Stage):
    """Task: some files of a source -> parts of bounded size. An item's id begins with the name of its source."""

    name = "read"

    def __init__(self, work: Path, feeds: Sequence[Feed]) -> None:
        super().__init__(work)
        self.feeds = feeds
        self.part_items = PART_ITEMS  # travels with the stage to other processes and machines

    def do(self, data: Any, rank: int) -> None:
        final = self.work / "read" / f"{rank:05d}"
        if final.exists():
            return
        counts = Counts("read")
        with whole_folder(final) as folder:
            for k, items in enumerate(_bounded(self.feeds[rank], self.part_items, counts)):
                write_part(folder / f"{k:05d}.parquet", items)
            counts.did.update({f"rows refused: {why}": n for why, n in self.feeds[rank].refused.items()})
            write_json(folder / "counts.json", counts.as_json())


def _bounded(feed: Feed, part_items: int, counts: Counts) -> Iterator[list[Item]]:
    part: list[Item] = []
    room = PART_TOKENS
    for read in feed:
        item = dataclasses.replace(read, id=f"{feed.name}/{read.id}")
        tokens = n_tokens(item)
        counts.take(tokens)
        counts.give(tokens)
        part.append(item)
        room -= tokens
        if room <= 0 or len(part) == part_items:
            yield part
            part, room = [], PART_TOKENS
    if part:
        yield part


class ReadPart(Step):
    """The items of the part of this task."""

    name = "parts"

    def __init__(self, parts: Sequence[Path]) -> None:
        super().__init__()
        self.parts = parts

    def run(self, data: Iterable[Item] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Item]:  # type: ignore[override]
        yield from read_part(self.parts[rank])


@dataclass(frozen=True)
class Wanted:
    """Which facts are needed of every item. None or empty: not needed."""

    exact: bool
    jaccard: float | None
    words: int
    split: Split | None


class CleanStage(Stage):
    """Task: the items that the steps left of a part -> a clean part, the record of each step, facts for matching."""

    name = "clean"

    def __init__(self, work: Path, steps: Sequence[Step], wanted: Wanted) -> None:
        super().__init__(work)
        self.steps = steps
        self.wanted = wanted

    def do(self, data: Iterable[Item], rank: int) -> None:
        final = self.work / "clean" / f"{rank:05d}"
        if final.exists():
            return
        items = list(data)
        with whole_folder(final) as folder:
            write_part(folder / "items.parquet", items)
            self._write_facts(folder, items)
            record = {
                "steps": [s.counts.as_json() for s in self.steps],
                "dropped": [d for s in self.steps for d in s.dropped],
            }
            write_json(folder / "record.json", record)

    def _write_facts(self, folder: Path, items: Sequence[Item]) -> None:
        with saving_arrays(folder):
            np.savez(folder / "facts.npz", **facts_of(items, self.wanted))  # type: ignore[arg-type]
            if self.wanted.jaccard is not None:
                sets = sets_of([own_text(item) for item in items], self.wanted.words)
                np.save(folder / "sets.npy", sets.hashes)
                np.save(folder / "offsets.npy", sets.offsets)
                np.save(folder / "bands.npy", Bands.for_threshold(self.wanted.jaccard).keys(sets))


def facts_of(items: Sequence[Item], wanted: Wanted) -> dict[str, np.ndarray[Any, Any]]:
    """One number an item for each fact; hashes are 64 bits, 0 means that there is none."""
    facts: dict[str, np.ndarray[Any, Any]] = {
        "id": _hashes([item.id for item in items]),
        "tokens": np.array([n_tokens(item) for item in items], np.int64),
        "answer": _hashes([normalise(answer_of(item)) for item in items]),
        "group": _hashes([item.group for item in items]),
    }
    if wanted.exact:
        keys = [hashlib.blake2b(_exact_form(item).encode(errors="replace"), digest_size=16).digest() for item in items]
        facts["exact"] = np.frombuffer(b"".join(keys), np.uint64).reshape(-1, 2)
    split = wanted.split
    if split and split.by == "time":
        facts["time"] = np.array([parse_time(_column(item, split), f"item {item.id}") for item in items], np.float64)
    if split and split.by == "cluster":
        facts["unit"] = _hashes([normalise(question_of(item)) for item in items])
    if split and split.by == "group":
        facts["unit"] = _hashes([str(_column(item, split)) if split.column else item.group for item in items])
    return facts


def _exact_form(item: Item) -> str:
    """What two exact duplicates share: their words with case, width and white space evened out, who says them, what is
    called, and the tools there are."""
    turns = (*item.messages, *item.chosen, *item.rejected)
    calls = [call for m in turns for call in calls_in(m)]
    words = [" ".join(normalise(text).split()) for text in texts_in(item)]
    return "\n".join([*(m.role for m in turns), *words, *calls, *map(canonical_json, item.tools)])


def _column(item: Item, split: Split) -> Any:
    assert split.column
    if (value := item.meta.get(split.column)) is None:
        raise BessemerError(
            f"item {item.id} has nothing in column {split.column!r}",
            where="split.column",
            fix=f"it has {', '.join(map(repr, item.meta)) or 'only text and id'}; fill the column, or split otherwise",
        )
    return value


def _hashes(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    digests = [hashlib.blake2b(t.encode(errors="replace"), digest_size=8).digest() if t else bytes(8) for t in texts]
    return np.frombuffer(b"".join(digests), np.uint64)


class WriteStage(Stage):
    """Task: a clean part -> its items that stay, each in the folder of its side."""

    name = "write"

    def __init__(self, work: Path, sides: Sequence[str]) -> None:
        super().__init__(work)
        self.sides = sides

    def do(self, data: Iterable[Item], rank: int) -> None:
        match = np.load(self.work / "match" / f"{rank:05d}.npz")
        items = list(data)
        for number, side in enumerate(self.sides):
            stays = np.flatnonzero((match["fate"] == 0) & (match["side"] == number))
            if len(stays):
                write_part(self.work / "out" / side / f"part-{rank:05d}.parquet", [items[i] for i in stays])


def read_record(path: Path) -> Any:
    return json.loads(path.read_text())
