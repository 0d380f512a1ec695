"""A log that is only appended to: rotated files of JSON lines, each line holding the hash of the one before.

For many small entries: nothing is read again when one is written, unlike the ledgers of `evaluate/ledger.py`. Each
process writes a series of its own, so several may write into one folder. A flipped bit or a missing line breaks the
chain at the next line; a cut end does not show.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.files import canonical_json, fsync_folder, need_writable, sha256_text

MAX_BYTES = 64 << 20  # of a file, then the next one begins
START = "0" * 64
Entry = dict[str, Any]
_ID = re.compile(r"^[a-z]+-\d{8}t\d{6}-\d+-[0-9a-f]{6}-\d{4}-(\d+)$")


class ChainLog:
    """Writes entries of one kind. Safe between threads; entries are on the disk when `write` returns."""

    def __init__(self, folder: Path, kind: str, *, max_bytes: int = MAX_BYTES) -> None:
        need_writable(folder)
        self._folder, self._kind, self._max = folder, kind, max_bytes
        self._series = datetime.now(UTC).strftime("%Y%m%dt%H%M%S") + f"-{os.getpid()}-{secrets.token_hex(3)}"
        self._number, self._size, self._previous = 0, 0, START
        self._file = -1
        self._lock = threading.Lock()

    def write(self, entries: Sequence[Entry]) -> list[str]:
        """Append; returns an id for each. Raises OSError when the disk is full; nothing is half-written then."""
        with self._lock:
            if self._file < 0 or self._size >= self._max:
                self._rotate()
            ids, lines, size, previous = list[str](), list[bytes](), self._size, self._previous
            for entry in entries:
                ids.append(f"{self._kind}-{self._series}-{self._number:04d}-{size}")
                line = canonical_json({**entry, "id": ids[-1], "previous": previous})
                previous = sha256_text(line)
                lines.append(line.encode() + b"\n")
                size += len(lines[-1])
            self._append(b"".join(lines))
            self._size, self._previous = size, previous
            return ids

    def close(self) -> None:
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1

    def _append(self, content: bytes) -> None:
        written = 0
        try:
            while written < len(content):
                written += os.write(self._file, content[written:])
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise

    def _rotate(self) -> None:
        """The first line of a file holds the hash of the last one of the file before."""
        if self._file >= 0:
            closing, self._file = self._file, -1  # whatever fails from here on, no number is left that others may get
            os.close(closing)
        self._number += 1
        path = self._folder / f"{self._kind}-{self._series}-{self._number:04d}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self._size = 0
        fsync_folder(self._folder)


def find_entry(folder: Path, identity: str) -> Entry:
    """The entry with this id, without reading the others. Raises BessemerError when there is none."""
    found = _ID.match(identity)
    path = folder / f"{identity.rpartition('-')[0]}.jsonl"
    if found and path.is_file():
        with path.open("rb") as file:
            try:
                file.seek(int(found[1]))
                entry = json.loads(file.readline())
            except (ValueError, OverflowError, OSError):
                entry = {}
        if isinstance(entry, dict) and entry.get("id") == identity:
            return entry
    raise BessemerError(f"there is no entry {identity[:80]!r}", where=str(folder), fix="take the id from the answer")


def read_entries(folder: Path, kind: str) -> Iterator[Entry]:
    """Every entry, oldest file first, after its link of the chain was checked; a torn last line of a file is left out.

    Raises BessemerError naming the line that does not fit the one before.
    """
    previous, series = START, ""
    for path in sorted(folder.glob(f"{kind}-*.jsonl")):
        own = path.stem.rpartition("-")[0]
        previous = previous if own == series else START
        series = own
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.endswith(b"\n"):
                    break  # the writer was killed; nobody was told of it
                line = raw.decode(errors="replace").rstrip("\n")
                try:
                    entry = json.loads(line)
                    fits = entry["previous"] == previous
                except (ValueError, KeyError, TypeError):
                    fits, entry = False, {}
                if not fits:
                    raise BessemerError(
                        "the line does not continue the one before: the log was changed, or part of it is missing",
                        where=f"{path}:{number}",
                        fix="restore it from a copy",
                    )
                previous = sha256_text(line)
                yield entry
