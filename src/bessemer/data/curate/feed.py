"""The only place where curation touches sources: which files a task reads, and what a source is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bessemer.data.items import Item
from bessemer.data.open import File
from bessemer.data.sources import Source
from bessemer.recipe.schema import DataSource

GROUP_BYTES = 16 << 20  # files are read together up to this size


@dataclass(frozen=True)
class Feed:
    """Some consecutive files of a source: what one task reads. refused: {reason: rows}, filled while reading."""

    name: str
    source: Source
    files: tuple[File, ...]
    refused: Counter[str] = field(default_factory=Counter[str], compare=False)

    def __iter__(self) -> Iterator[Item]:
        for file in self.files:
            yield from self.source.read(file)
        self.refused.update(self.source.refused.reasons)


def feeds_of(name: str, asked: DataSource, where: str) -> list[Feed]:
    """The tasks of a source. They follow from its files alone."""
    source = Source.of(asked, where)
    return [Feed(name, source, files) for files in _together(source.files())]


def digest_of(asked: DataSource, where: str) -> str:
    """What the source holds and how it is read; nothing is parsed."""
    return Source.of(asked, where).digest()


def _together(files: Sequence[File]) -> list[tuple[File, ...]]:
    groups: list[list[File]] = []
    room = 0
    for file in files:
        if file.n_bytes > room or not groups:
            groups.append([])
            room = GROUP_BYTES
        groups[-1].append(file)
        room = max(room - file.n_bytes, 0)
    return [tuple(group) for group in groups]
