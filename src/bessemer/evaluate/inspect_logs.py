"""Logs of Inspect -> columns, so that models that were measured there are compared with the same statistics.

A log is JSON, or (`.eval`) a zip of JSON, both documented (inspect.aisi.org.uk/eval-logs.html); read here without
Inspect, so that a log of any version can be read beside any other package. Nothing is unpacked to the disk.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bessemer.data.open import need
from bessemer.errors import BessemerError
from bessemer.evaluate.metrics import Columns

WORDS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
MAX_BYTES = 1 << 30  # of JSON
ZSTD = 93  # method of zip members that Python 3.14 knows; APPNOTE.TXT 6.3.8
LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # of a zip member, before its name
Key = tuple[str, int]  # id and epoch of a sample


@dataclass(frozen=True)
class InspectLog:
    """One scorer's results of one model on one task, as Inspect names them."""

    model: str
    task: str
    scorer: str
    columns: Columns


def read_inspect_log(path: str | Path, scorer: str | None = None) -> Columns:
    """The columns of `open_inspect_log`."""
    return open_inspect_log(path, scorer).columns


def open_inspect_log(path: str | Path, scorer: str | None = None) -> InspectLog:
    """Read a finished log: kind generate, one row a sample id, one column an epoch. scorer: which one, if several.

    Raises BessemerError for a log that is broken or did not finish, for samples without a score or with one that is no
    number from 0 to 1, and when epochs are missing.
    """
    path = Path(path)
    try:
        header, samples = _read_zip(path) if path.suffix == ".eval" else _read_json(path)
        status, said = header["status"], header["eval"]
        if status != "success":
            raise BessemerError(
                f"the evaluation ended with {status!r}", where=str(path), fix="finish it with `inspect eval-retry`"
            )
        scores = {(str(s["id"]), int(s["epoch"])): s for s in samples}  # a sample that was run again: the last one
        name = _scorer(scores, scorer, path)
        right = {key: _value(sample, name, key, path) for key, sample in scores.items()}
        return InspectLog(str(said["model"]), str(said["task"]), name, _columns(right, path))
    except OSError as error:
        raise BessemerError(f"cannot be read ({error.strerror or error})", where=str(path)) from None
    except BessemerError:
        raise
    except Exception as error:  # damaged, encrypted, of another shape
        raise BessemerError(
            f"no log of Inspect ({type(error).__name__}: {error})", where=str(path), fix="give a .eval or .json log"
        ) from None


def _read_json(path: Path) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    if path.stat().st_size > MAX_BYTES:
        raise BessemerError(f"larger than {MAX_BYTES} bytes", where=str(path), fix="write logs as .eval")
    log = json.loads(path.read_bytes())
    return log, log["samples"]


def _read_zip(path: Path) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """Header and the summaries of all samples, which hold whole scores."""
    with path.open("rb") as file, zipfile.ZipFile(file) as log:
        if "header.json" not in log.namelist():
            raise BessemerError(
                "the evaluation did not finish", where=str(path), fix="finish it with `inspect eval-retry`"
            )
        return json.loads(_member(log, file, "header.json")), json.loads(_member(log, file, "summaries.json"))


def _member(log: zipfile.ZipFile, file: io.BufferedReader, name: str) -> bytes:
    """One member's bytes. Newer versions of Inspect compress with zstandard, which zipfile does not know yet."""
    info = log.getinfo(name)
    if info.file_size > MAX_BYTES:
        raise BessemerError(f"{name} has {info.file_size} bytes", where=str(log.filename or name))
    if info.compress_type != ZSTD:
        return log.read(name)
    need("pyarrow", name, "logs that are compressed with zstandard")
    import pyarrow as pa

    file.seek(info.header_offset)
    fields = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    file.seek(fields[-2] + fields[-1], io.SEEK_CUR)  # its name and more
    packed = file.read(info.compress_size)
    content = pa.CompressedInputStream(pa.BufferReader(packed), "zstd").read(info.file_size + 1)
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise BessemerError(f"{name} is damaged", where=str(log.filename or name), fix="copy the log again")
    return content


def _scorer(scores: Mapping[Key, Mapping[str, Any]], wanted: str | None, path: Path) -> str:
    known = sorted({name for sample in scores.values() for name in sample.get("scores") or {}})
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted is not None and wanted in known:
        return wanted
    what = f"no scorer {wanted!r}" if wanted else f"{len(known)} scorers" if known else "no sample has a score"
    raise BessemerError(
        what, where=str(path), fix=f"say which one, as LOG#{', LOG#'.join(known)}" if known else "score the log"
    )


def _value(sample: Mapping[str, Any], scorer: str, key: Key, path: Path) -> float:
    """0..1, as Inspect's value_to_float reads letters and words."""
    where = f"{path}, sample {key[0]}, epoch {key[1]}"
    score = (sample.get("scores") or {}).get(scorer)
    if score is None:
        why = "an error" if sample.get("error") else f"no score by {scorer}"
        raise BessemerError(f"the sample has {why}", where=where, fix="finish it with `inspect eval-retry`")
    value = score["value"]
    if isinstance(value, str):
        value = WORDS.get(value, WORDS.get(value.lower() if len(value) > 1 else value, value))
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise BessemerError(
            f"the score {score['value']!r} is no number from 0 to 1", where=where, fix="take a scorer of single values"
        )
    return number


def _columns(right: Mapping[Key, float], path: Path) -> Columns:
    ids = sorted({name for name, _ in right})  # not as they finished, which is another order in every log
    epochs = sorted({epoch for _, epoch in right})
    for name in ids:
        for epoch in epochs:
            if (name, epoch) not in right:
                raise BessemerError(
                    f"{len(epochs)} epochs, but number {epoch} of it is missing", where=f"{path}, sample {name}"
                )
    values = np.array([[right[name, epoch] for epoch in epochs] for name in ids]).reshape(len(ids), len(epochs))
    return Columns("generate", tuple(ids), tuple(ids), ("",) * len(ids), {"right": values})
