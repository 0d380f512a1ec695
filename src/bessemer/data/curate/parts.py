"""Parts of a data set on disk: canonical items as Parquet. A part appears whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import shutil
import uuid
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bessemer.data.items import Item, Message
from bessemer.errors import BessemerError
from bessemer.files import fsync_folder

FULL_DISK = "free some disk and run the same command again; what is finished stays"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("group", pa.string()),
        ("meta", pa.string()),  # JSON: every source has other columns
    ]
)


def write_part(path: Path, items: Sequence[Item]) -> None:
    """Equal items give equal bytes."""
    columns: dict[str, list[Any]] = {
        "id": [i.id for i in items],
        "text": [i.text for i in items],
        "messages": [[dataclasses.asdict(m) for m in i.messages] for i in items],
        "group": [i.group for i in items],
        "meta": [json.dumps(dict(i.meta), ensure_ascii=False, default=str) for i in items],
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SCHEMA), buffer, compression="zstd")
    write_bytes(path, buffer.getbuffer())


def read_part(path: Path) -> Iterator[Item]:
    """Raises BessemerError when the bytes are no part."""
    try:
        batches = pq.ParquetFile(path).iter_batches(batch_size=4096)
        for batch in batches:
            for row in batch.to_pylist():
                messages = tuple(Message(**m) for m in row["messages"])
                yield Item(row["id"], row["text"], messages, row["group"], json.loads(row["meta"]))
    except (pa.ArrowException, KeyError, TypeError) as error:
        raise BessemerError(f"no part of a data set ({error})", where=str(path)) from None


def read_ids(path: Path) -> list[str]:
    return pq.read_table(path, columns=["id"])["id"].to_pylist()


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write through a temporary file, fsync and rename. Raises BessemerError when the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with tmp.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        tmp.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        tmp.unlink(missing_ok=True)
        raise BessemerError(
            f"writing {len(content)} bytes failed ({error.strerror})",
            where=str(path),
            fix=FULL_DISK,
        ) from None


@contextlib.contextmanager
def whole_folder(final: Path) -> Generator[Path]:
    """A folder that appears whole under its final name; several processes may try, equal work has equal results."""
    tmp = final.with_name(f".tmp-{uuid.uuid4().hex}-{final.name}")
    try:
        tmp.mkdir(parents=True)
        yield tmp
        tmp.rename(final)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return  # another process was first
        raise BessemerError(f"writing failed ({error.strerror})", where=str(final), fix=FULL_DISK) from None
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
