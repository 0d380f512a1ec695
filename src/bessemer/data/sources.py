"""The front of all reading: a source yields items, file by file, and says what it refused.

>>> source = Source("comments/*.jsonl.gz", columns={"text": "body", "id": "post_id"}, on_error="skip")
>>> for item in source: ...                                          # doctest: +SKIP
>>> source.refused.n                                                 # doctest: +SKIP
"""

from __future__ import annotations

import difflib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

from bessemer.data.builtin import COLLECTIONS
from bessemer.data.columns import TARGETS, Columns, Unusable, guess_kind, plain
from bessemer.data.formats import BINARY, CHUNK, NUMBERED, WHOLE, BadRow, rows
from bessemer.data.items import KINDS, Item, digest_items
from bessemer.data.open import File, check_bytes, digest_of, list_files, need, open_file, reading
from bessemer.errors import BessemerError, Problem, RecipeError
from bessemer.families.fetch import need_known
from bessemer.files import canonical_json, home, need_writable, sha256_text
from bessemer.recipe.schema import DataSource, Recipe, is_family

POLICIES = ("fail", "skip", "quarantine")


@dataclass
class Refused:
    """What a source left out, by file; reading a file again counts it again from nothing."""

    counts: dict[str, Counter[str]] = field(default_factory=dict[str, "Counter[str]"])  # file -> reason -> rows

    @property
    def n(self) -> int:
        return sum(c.total() for c in self.counts.values())

    @property
    def reasons(self) -> dict[str, int]:
        """{reason: rows}, the most frequent first."""
        return dict(sum(self.counts.values(), Counter[str]()).most_common())

    def begin(self, file: str) -> None:
        self.counts.pop(file, None)

    def add(self, file: str, reason: str) -> None:
        self.counts.setdefault(file, Counter())[reason] += 1


@dataclass(frozen=True)
class Source:
    """A stream of items behind an address (data/open.py lists the kinds of addresses).

    kind: documents, chat, preference or prompts. columns: our name -> the file's, for what is not detected.
    on_error: `fail` raises at the first bad row, `skip` counts it in `refused`, `quarantine` also keeps it in
    BESSEMER_HOME/quarantine; all three raise where the rest of a file cannot be read. where: what errors name as the
    place, such as `sources.posts.from`.

    Iterating raises BessemerError when a row is refused under `fail`, no row is left, the disk or the network fails,
    or the bytes are not those that a data set's manifest promises.
    """

    address: str
    kind: str = "documents"
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    on_error: str = "fail"
    where: str = ""
    refused: Refused = field(default_factory=Refused, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _need_one_of("kind", self.kind, KINDS, self.where)
        _need_one_of("on_error", self.on_error, POLICIES, self.where)
        for name in self.columns:
            _need_one_of(f"columns of {self.kind}", name, TARGETS[self.kind], self.where)
        if self.columns and self._collection:
            raise BessemerError(f"{self.address} has no columns to choose from", where=self.where, fix="drop `columns`")

    def files(self) -> list[File]:
        """Every file, sorted by name; listed once. `read` takes them one by one, in any order or process."""
        return list(self._files)

    @staticmethod
    def of(asked: DataSource, where: str) -> Source:
        """The source that a recipe asks for; `where` is its place there."""
        columns = {str(ours): theirs for ours, theirs in asked.columns.items()}
        return Source(asked.from_, asked.kind, columns, asked.on_error, f"{where}.from")

    @cached_property
    def _files(self) -> list[File]:
        if name := self._collection:
            return [File(name, self.address, 0)]
        return list_files(self.address, self.where)

    @property
    def _collection(self) -> str:
        """The name of a collection that comes with a package; empty when the address is none."""
        if not self.address.startswith("bessemer:"):
            return ""
        name = self.address.removeprefix("bessemer:")
        if name not in COLLECTIONS:
            known = ", ".join("bessemer:" + n for n in COLLECTIONS)
            raise BessemerError(f"{self.address!r} is no collection", where=self.where, fix=f"known: {known}")
        has = COLLECTIONS[name][0]
        if has != self.kind:
            raise BessemerError(f"{self.address!r} holds {has}, not {self.kind}", where=self.where, fix=f"kind: {has}")
        return name

    def digest(self) -> str:
        """sha256 over the bytes of every file and how they are read; nothing is parsed."""
        settings = {"kind": self.kind, "columns": dict(self.columns), "skips": self.on_error != "fail"}
        if name := self._collection:
            return sha256_text(canonical_json([digest_items(COLLECTIONS[name][1]()), settings]))
        return digest_of(self._files, settings)

    def __iter__(self) -> Iterator[Item]:
        seen: set[int] = set()
        n = 0
        for file in self._files:
            for item in self._read(file, seen):
                n += 1
                yield item
        if not n:
            reasons = "; ".join(f"{count} x {reason}" for reason, count in self.refused.reasons.items())
            raise BessemerError(
                f"{self.address!r} has no usable rows"
                + (f", {self.refused.n} were refused: {reasons}" if reasons else ""),
                where=self.where,
                fix="give a source with rows of this kind in it",
            )

    def read(self, file: File) -> Iterator[Item]:
        """The items of one file. Ids that stand twice are found within the file only."""
        return self._read(file, set())

    def _read(self, file: File, seen: set[int]) -> Iterator[Item]:
        """seen: hashes of the ids that rows brought; ids made of file and line cannot repeat."""
        if name := self._collection:
            yield from COLLECTIONS[name][1]()
            return
        self.refused.begin(file.name)
        with _Policy(self, file) as policy:
            for row, item in self._items(file):
                if isinstance(item, BadRow):
                    policy.refuse(item)
                elif row.brought_id and hash(item.id) in seen:
                    policy.refuse(BadRow(row.number, 0, "an id stands twice", self._twice(item.id, file, row)))
                else:
                    if row.brought_id:
                        seen.add(hash(item.id))
                    yield item

    def _items(self, file: File) -> Iterator[tuple[_Place, Item | BadRow]]:
        """Every row of a file as an item or as what is wrong with it."""
        if file.format in WHOLE and self.kind != "documents":
            raise BessemerError(
                f"a text file holds documents, not {self.kind}", where=file.path, fix="use .jsonl, or kind: documents"
            )
        if file.format in BINARY:
            need("pyarrow", file.path, f"{file.format} files")
        check_bytes(file)
        columns = Columns(self.kind, self.columns, canonical=self.address.startswith("dataset:"))
        with ExitStack() as stack:
            stack.enter_context(reading(file))
            stream = stack.enter_context(open_file(file))
            for row in rows(file.name, stream):
                if isinstance(row, BadRow):
                    yield _Place(row.number, False), row
                    continue
                default_id = f"{file.name}:{row.number}" if row.number else file.name
                try:
                    item, brought_id = columns.item(row.values, default_id)
                    yield _Place(row.number, brought_id), item
                except Unusable as error:
                    bad = BadRow(row.number, 0, error.reason, error.detail, _raw(row.values), fix=error.fix)
                    yield _Place(row.number, False), bad

    def _twice(self, id: str, file: File, row: _Place) -> str:
        """Both places of a repeated id. Only `fail` looks for the first one: it reads again from the start."""
        if self.on_error != "fail":
            return repr(id)
        for earlier in self._files[: [f.name for f in self._files].index(file.name) + 1]:
            for place, item in self._items(earlier):
                if isinstance(item, Item) and item.id == id and (earlier.name, place.number) != (file.name, row.number):
                    return f"{id!r}, first in {_place(earlier, place.number, 0)}"
        return repr(id)


def good_rows(address: str, where: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, row) of every row behind an address, as the files have them; place is FILE:NUMBER.

    Raises BessemerError for the first row that cannot be read, and where bytes are not what a manifest promises.
    """
    for file in list_files(address, where):
        check_bytes(file)
        with reading(file), open_file(file) as stream:
            for row in rows(file.name, stream):
                place = f"{file.name}:{row.number}"
                if isinstance(row, BadRow):
                    raise BessemerError(f"{row.reason} {row.detail}".strip(), where=place, fix=row.fix or "repair it")
                yield place, row.values


def look_of(address: str) -> str:
    """The kind of items that an address holds, by its first row. Raises BessemerError when nothing is there."""
    if collection := COLLECTIONS.get(address.removeprefix("bessemer:")) if address.startswith("bessemer:") else None:
        return collection[0]
    for file in Source(address, where=address).files():
        if file.format in WHOLE:
            break
        if file.format in BINARY:
            need("pyarrow", file.path, f"{file.format} files")
        with reading(file), open_file(file) as stream:
            first = next((row for row in rows(file.name, stream) if not isinstance(row, BadRow)), None)
        if first:
            return guess_kind(first.values)
    return "documents"


def need_found(recipe: Recipe) -> None:
    """Look for the start and for the files behind every address, without fetching or opening any.

    Raises BessemerError with all that are not there at once.
    """
    held_out = [
        *(Source(task.from_, task.kind, where=f"tasks.{name}.from") for name, task in recipe.tasks.items()),
        *(Source(probe.from_, where=f"probes.{name}.from") for name, probe in recipe.probes.items()),
    ]
    mixed = (Source.of(asked, f"sources.{name}") for name, asked in recipe.sources.items() if not is_family(asked))
    here = [s for s in (*mixed, *held_out) if "://" not in s.address and not s.address.startswith("hf:")]
    faults: list[BessemerError] = []
    for look in (lambda: need_known(recipe.start), *(source.files for source in here)):
        try:
            look()
        except BessemerError as error:
            faults.append(error)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise RecipeError(recipe.name, [Problem(fault.where, fault.what, fault.fix) for fault in faults])


def _raw(values: Any) -> bytes:
    """A refused row as a quarantine keeps it; nothing of one that is nested too deeply."""
    with suppress(Unusable):
        return json.dumps(plain(values), ensure_ascii=False).encode(errors="backslashreplace")[:CHUNK]
    return b""


@dataclass(frozen=True)
class _Place:
    number: int
    brought_id: bool


class _Policy:
    """What happens to the bad rows of one file. Kept rows appear under their final name when the file is through."""

    def __init__(self, source: Source, file: File) -> None:
        self._source, self._file = source, file
        self._kept: TextIO | None = None
        self._path = quarantine_path(source, file)

    def __enter__(self) -> _Policy:
        if self._source.on_error == "quarantine":
            self._path.unlink(missing_ok=True)  # of an earlier reading
        return self

    def refuse(self, row: BadRow) -> None:
        policy = self._source.on_error
        if policy == "fail" or row.lost:  # nobody who skips rows means all that stands behind one
            fix = "repair it, or set `on_error: skip` or `quarantine`"
            raise BessemerError(
                f"{row.reason} ({row.detail})" if row.detail else row.reason,
                where=_place(self._file, row.number, row.column),
                fix=row.fix
                or ("make the file again, or leave it out: what stands behind cannot be read" if row.lost else fix),
            )
        self._source.refused.add(self._file.name, row.reason)
        if policy == "quarantine":
            self._keep(row)

    def _keep(self, row: BadRow) -> None:
        about: dict[str, Any] = {"address": self._source.address, "file": self._file.name, "line": row.number}
        about |= {"column": row.column, "reason": row.reason, "detail": row.detail}
        text = row.raw.decode(errors="backslashreplace")
        with self._room():
            if self._kept is None:
                need_writable(self._path.parent)
                self._kept = self._path.with_suffix(f".{os.getpid()}.tmp").open("w")
            self._kept.write(json.dumps(about | {"raw": text}, ensure_ascii=False) + "\n")

    def __exit__(self, *failed: object) -> None:
        if self._kept is None:
            return
        written = Path(self._kept.name)
        try:
            if failed[0] is None:
                with self._room():
                    self._kept.flush()
                    os.fsync(self._kept.fileno())
                written.replace(self._path)
        finally:
            with suppress(OSError):  # what could not be written is given up
                self._kept.close()
            written.unlink(missing_ok=True)

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BessemerError(
                f"refused rows cannot be kept ({error.strerror})",
                where=str(self._path),
                fix="make room, or set `on_error: skip`, which only counts them",
            ) from None


def quarantine_path(source: Source, file: File) -> Path:
    """Where `on_error: quarantine` keeps the bad rows of a file, as JSON lines with place, reason and raw text."""
    settings = [source.address, source.kind, dict(source.columns), file.name]
    name = "".join(c if c.isalnum() or c in ".-_" else "-" for c in file.name)[-80:]
    return home() / "quarantine" / f"{name}-{sha256_text(canonical_json(settings))[:12]}.jsonl"


def read_items(
    address: str, *, kind: str = "documents", columns: Mapping[str, str] | None = None, where: str = ""
) -> list[Item]:
    """All items behind an address, in a stable order: for held-out sets, which are small.

    Raises BessemerError when it does not exist or any row is unusable (with file and line).
    """
    return list(Source(address, kind, columns or {}, where=where))


def _place(file: File, number: int, column: int) -> str:
    if file.format in NUMBERED and not column:
        return f"{file.path} row {number}" if number else file.path
    return ":".join([file.path, *(str(n) for n in (number, column) if n)])


def _need_one_of(what: str, value: str, allowed: tuple[str, ...], where: str) -> None:
    if value not in allowed:
        close = difflib.get_close_matches(value, allowed, n=1, cutoff=0.5)
        fix = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(allowed)}"
        raise BessemerError(f"{what}: {value!r} is none of the choices", where=where, fix=fix)
