"""Parts of a data set on disk: canonical items as Parquet. A part appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import shutil
import uuid
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bessemer.data.columns import NESTED, Columns, Unusable, row_of
from bessemer.data.items import KINDS, Item
from bessemer.errors import BessemerError
from bessemer.files import finish_folder, write_bytes

FULL_DISK = "free some disk and run the same command again; what is finished stays"
# NESTED as JSON text: rows differ in what is in them
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "group", "text", *NESTED[:4], "reference", *NESTED[4:])])


def write_part(path: Path, items: Sequence[Item]) -> None:
    """Equal items give equal bytes. Raises BessemerError when the disk is full."""
    rows = [
        {k: json.dumps(v, ensure_ascii=False) if k in NESTED else v for k, v in row_of(item).items()} for item in items
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), buffer, compression="zstd")
    try:
        write_bytes(path, buffer.getbuffer())
    except OSError as error:
        size = buffer.getbuffer().nbytes
        raise BessemerError(f"writing {size} bytes failed ({error.strerror})", where=str(path), fix=FULL_DISK) from None


def read_part(path: Path) -> Iterator[Item]:
    """Raises BessemerError when the bytes are no part."""
    columns = {kind: Columns(kind, {}, canonical=True) for kind in KINDS}
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                yield columns[_kind(row)].item(row, row["id"])[0]
    except (pa.ArrowException, KeyError, Unusable) as error:
        raise BessemerError(f"no part of a data set ({error})", where=str(path)) from None


def _kind(row: dict[str, Any]) -> str:
    if row["text"]:
        return "documents"
    return "preference" if row["chosen"] else "prompts" if row["reference"] else "chat"


def read_ids(path: Path) -> list[str]:
    return pq.read_table(path, columns=["id"])["id"].to_pylist()


@contextlib.contextmanager
def whole_folder(final: Path) -> Generator[Path]:
    """A folder that appears whole under its final name; several processes may try, equal work has equal results."""
    tmp = final.with_name(f".tmp-{uuid.uuid4().hex}-{final.name}")
    try:
        tmp.mkdir(parents=True)
        yield tmp
        finish_folder(tmp, final)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return  # another process was first
        raise BessemerError(f"writing failed ({error.strerror})", where=str(final), fix=FULL_DISK) from None
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
