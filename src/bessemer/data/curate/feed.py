"""The only place where curation touches sources: files in a stable order, and the items of one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bessemer.data.items import Item
from bessemer.data.sources import _files, read_items  # pyright: ignore[reportPrivateUsage]
from bessemer.files import canonical_json, sha256_file, sha256_text
from bessemer.recipe.data_recipe import DataSource

GROUP_BYTES = 16 << 20  # files are read together up to this size


@dataclass(frozen=True)
class Feed:
    """Some consecutive files of a source: what one task reads. `where` is the place in the recipe."""

    name: str
    source: DataSource
    where: str
    files: tuple[str, ...]

    def __iter__(self) -> Iterator[Item]:
        for file in self.files:
            text = self.source.columns.get("text", "text")
            yield from read_items(file, kind=self.source.kind, text=text, where=f"{self.where}.from")


def feeds_of(name: str, source: DataSource, where: str) -> list[Feed]:
    """The tasks of a source. They follow from its files alone."""
    if source.from_.startswith("bessemer:"):
        return [Feed(name, source, where, (source.from_,))]
    sizes = [(str(path), path.stat().st_size) for path in _files(source.from_, f"{where}.from")]
    return [Feed(name, source, where, files) for files in _together(sizes)]


def digest_of(source: DataSource, where: str) -> str:
    """What the source holds and how it is read; nothing is parsed."""
    settings = [source.kind, source.columns]
    if source.from_.startswith("bessemer:"):
        return sha256_text(canonical_json([source.from_, settings]))
    files = [(path.name, sha256_file(path)) for path in _files(source.from_, f"{where}.from")]
    return sha256_text(canonical_json([files, settings]))


def _together(sizes: Sequence[tuple[str, int]]) -> list[tuple[str, ...]]:
    groups: list[list[str]] = []
    room = 0
    for file, size in sizes:
        if size > room:
            groups.append([])
            room = GROUP_BYTES
        groups[-1].append(file)
        room = max(room - size, 0)
    return [tuple(group) for group in groups]
