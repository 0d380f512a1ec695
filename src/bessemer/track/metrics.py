"""metrics.jsonl: one JSON object a line, append-only; a resumed run continues where its checkpoint stood."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from bessemer.errors import BessemerError

BLOCK = 1 << 16  # bytes


class MetricsFile:
    """Append events; remember the offset so that a resumed run forgets what came after its checkpoint."""

    def __init__(self, path: Path, see: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        """see: told of every event too."""
        self._see = see
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        keep = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(keep.rfind(b"\n") + 1)  # a line cut off by a kill goes too
        self._file = path.open("a")

    def log(self, event: str, **values: Any) -> None:
        whole = {"event": event, **values}
        self._file.write(json.dumps(whole, ensure_ascii=False) + "\n")
        self._file.flush()
        self._see(whole)

    def offset(self) -> int:
        """Bytes written so far, safely on the disk."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def rewind(self, offset: int) -> None:
        """Forget what came after `offset`."""
        self._file.truncate(min(offset, os.fstat(self._file.fileno()).st_size))  # else a lost file is filled with zeros
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole events of a file, also of a run that is going on; an absent file has none.

    Raises BessemerError naming a line that is no event.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # an id may hold other line separators
    return [_event(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def last_step(path: Path) -> dict[str, Any] | None:
    """The newest event "step", looked for from the file's end: a long run has millions of them.

    Raises BessemerError for a line that is no event on the way there.
    """
    if not path.exists():
        return None
    with path.open("rb") as file:
        size, n = file.seek(0, os.SEEK_END), 0
        while n < size:
            n = min(size, max(BLOCK, 4 * n))
            file.seek(size - n)
            lines = file.read(n).split(b"\n")[:-1]
            for line in reversed(lines if n == size else lines[1:]):  # the first one may be cut
                event = _event(line, str(path))
                if event["event"] == "step":
                    return event
    return None


def _event(line: bytes, where: str) -> dict[str, Any]:
    try:
        event: Any = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or "event" not in event:
        fix = "take the line out; a run that goes on cuts the file where its checkpoint stood"
        raise BessemerError("the line is no event", where=where, fix=fix)
    return cast(dict[str, Any], event)


class Tail:
    """Whole new lines of a file of JSON lines that grows, or is cut and grows again."""

    def __init__(self, path: Path, *, skip: bool = False) -> None:
        """skip: pass over what is there already."""
        self.path = path
        self.offset = path.stat().st_size if skip and path.exists() else 0

    def new(self) -> Iterator[Any]:
        size = self.path.stat().st_size if self.path.exists() else 0
        self.offset = min(self.offset, size)
        if size == self.offset:
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]
        self.offset += len(new)
        for line in new.splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # cut and grown beyond our offset since the last look
                continue
