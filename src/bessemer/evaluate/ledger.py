"""A list that only grows: one JSON object a line, each with the hash of the one before.

    {"at": "2026-11-24T10:00:00Z", "event": "opened", ..., "hash": H2, "n": 2, "previous": H1}

The hash covers everything else of its entry, and every line is canonical JSON, so a flipped bit anywhere breaks the
chain at the entry that holds it. A cut tail leaves a sound chain: it shows only to who knows a later hash (a scorecard
does). Appending takes a lock, checks the whole chain and is on the disk before it returns.

A process killed while it wrote leaves a last line without its end, which nobody was told of. The next append takes it
away and says so in an entry `repaired`, with what stood there; if only the line's newline is missing, it is added.
Anything else that is wrong is damage, and nothing is appended to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bessemer.errors import BessemerError
from bessemer.files import canonical_json, exclusive, fsync_folder, need_writable, sha256_text
from bessemer.units import now

Entry = dict[str, Any]
START = "0" * 64  # what the first entry holds as the hash of the one before
WAIT_S = 30.0  # for others who append; each takes milliseconds
RESERVED = {"n", "previous", "at", "event", "hash"}


@dataclass(frozen=True)
class Writer:
    """A ledger whose lock is held. `entries` grows with `add`."""

    path: Path
    entries: list[Entry]

    def add(self, event: str, **facts: Any) -> Entry:
        """Append one entry; on the disk when this returns. On an error (a full disk) the file is as it was."""
        assert not facts.keys() & RESERVED
        previous = self.entries[-1]["hash"] if self.entries else START
        entry: Entry = {"n": len(self.entries) + 1, "previous": previous, "at": now(), "event": event, **facts}
        entry["hash"] = _hash(entry)
        _extend(self.path, (canonical_json(entry) + "\n").encode())
        self.entries.append(entry)
        return entry


@contextlib.contextmanager
def writing(path: Path, lock: Path | None = None) -> Generator[Writer]:
    """Hold the ledger, so that what is read from it still holds when an entry is added.

    A torn last line is repaired first. lock: its lock file, by default beside it. Raises BessemerError when the chain
    is broken or others hold it for longer than WAIT_S.
    """
    with _locked(lock or path.with_name(f".{path.name}.lock"), f"the ledger {path}"):
        content = path.read_bytes() if path.exists() else b""
        lines, rest = _split(content)
        writer = Writer(path, _chain(path, lines))
        if rest and _is_whole(path, lines, rest):
            _extend(path, b"\n")
            writer.entries.extend(_chain(path, [*lines, rest])[len(lines) :])
        elif rest:
            os.truncate(path, len(content) - len(rest))
            writer.add("repaired", removed=rest.decode(errors="backslashreplace"), why="a line that was not finished")
        yield writer


def append(path: Path, event: str, *, lock: Path | None = None, **facts: Any) -> Entry:
    """Add one entry; the file is made when missing. Raises as `writing` does."""
    with writing(path, lock) as ledger:
        return ledger.add(event, **facts)


def read_ledger(path: Path, *, head: str = "", torn_ok: bool = False) -> list[Entry]:
    """Every entry, after checking the whole chain; nothing is written.

    head: a hash that the chain must contain, from a scorecard. torn_ok: leave out a last line that a kill cut off.
    Raises BessemerError naming the entry that breaks the chain.
    """
    try:
        lines, rest = _split(path.read_bytes())
    except FileNotFoundError:
        raise BessemerError("the ledger is missing", where=str(path), fix="restore it from a copy") from None
    entries = _chain(path, lines)
    if rest and not _is_whole(path, lines, rest) and not torn_ok:
        raise BessemerError(
            f"the last line, after entry {len(entries)}, is incomplete ({len(rest)} bytes without an end of line): "
            "its writer was killed, or the file was cut",
            where=str(path),
            fix="where it was written, the next entry repairs it and says so; a copy is taken again",
        )
    if rest and _is_whole(path, lines, rest):
        entries = _chain(path, [*lines, rest])
    if not entries:
        raise BessemerError("the ledger holds no entry", where=str(path), fix="restore it from a copy")
    if head and head not in {entry["hash"] for entry in entries}:
        raise BessemerError(
            f"entry {head[:12]}... is not among the {len(entries)} of the ledger: its end was cut off, or it was "
            "written anew",
            where=str(path),
            fix="restore the ledger from a copy that has it; results that need this entry are not backed by this one",
        )
    return entries


def _split(content: bytes) -> tuple[list[bytes], bytes]:
    """(lines that have their end, what follows the last of them)."""
    *lines, rest = content.split(b"\n")
    return lines, rest


def _is_whole(path: Path, lines: list[bytes], rest: bytes) -> bool:
    """Whether a last line lacks nothing but its end. Raises BessemerError when no kill can have left it so."""
    try:
        json.JSONDecoder().raw_decode(rest.decode(errors="replace"))
    except ValueError:
        return False  # it stops within its object
    _chain(path, [*lines, rest])  # an object with something behind it, such as a newline with a flipped bit
    return True


def _chain(path: Path, lines: list[bytes]) -> list[Entry]:
    entries: list[Entry] = []
    for n, line in enumerate(lines, 1):
        entry, previous = _entry(line), entries[-1]["hash"] if entries else START
        if entry is None:
            raise _broken(path, n, "is no line that Bessemer wrote")
        if entry.get("n") != n or entry.get("previous") != previous:
            raise _broken(path, n, "does not follow the one before it (one was changed, added, moved or taken out)")
        if entry.get("hash") != _hash(entry):
            raise _broken(path, n, "was changed: its hash is not that of its content")
        entries.append(entry)
    return entries


def _entry(line: bytes) -> Entry | None:
    """The object of a line, if it is spelt as we spell it."""
    try:
        text = line.decode()
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast(Entry, entry) if isinstance(entry, dict) and canonical_json(entry) == text else None


def _hash(entry: Entry) -> str:
    return sha256_text(canonical_json({k: v for k, v in entry.items() if k != "hash"}))


def _broken(path: Path, n: int, what: str) -> BessemerError:
    return BessemerError(
        f"entry {n} of the ledger {what}",
        where=str(path),
        fix="restore the ledger from a copy; without one, what was scored before is not backed by it",
    )


def _extend(path: Path, content: bytes) -> None:
    new = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(handle, left) :]
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)
    if new:
        fsync_folder(path.parent)


@contextlib.contextmanager
def _locked(lock: Path, what: str) -> Generator[None]:
    need_writable(lock.parent)
    until = time.monotonic() + WAIT_S
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(exclusive(lock, what))
                break
            except BessemerError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)
        yield
