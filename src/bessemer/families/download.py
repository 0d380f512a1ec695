"""Remote files -> a folder that is whole or not there. A broken download goes on where it stopped.

Whatever arrives lies in `.fetching-NAME` beside the folder, `*.part` while it is not complete; the folder gets its name
when every file is there and checked. Small files come first and are looked at before any weights are fetched.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

from bessemer.errors import BessemerError
from bessemer.files import canonical_json, finish_folder, fsync_file, need_disk, sha256_file, write_text
from bessemer.units import show_bytes

SMALL = (
    "config.json",
    "generation_config.json",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "LICENSE*",
)
WEIGHTS = "*.safetensors"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LISTING = ".listing.json"


@dataclass(frozen=True)
class RemoteFile:
    """A file and what its store says of its bytes: a sha256, or git's hash of a small file, or neither.

    tag: changes when the file does (an ETag, a date); it is compared with nothing but itself.
    """

    name: str
    n_bytes: int
    sha256: str = ""
    git_sha1: str = ""
    tag: str = ""


Read = Callable[[RemoteFile, IO[bytes], int], None]  # (file, where to write, bytes that are there already)


def is_wanted(name: str) -> bool:
    """Whether a model is loaded from files of this name."""
    return any(fnmatch(name, pattern) for pattern in (*SMALL, WEIGHTS))


def choose(files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """Only what a model is loaded from: small files first, then weights. Nothing from subfolders.

    Weights as transformers chooses them: `model.safetensors`, else the shards of an index; without both it would go on
    to pickles, so there are none.
    """
    top = {f.name: f for f in files if "/" not in f.name and "\\" not in f.name}
    small = [f for name, f in top.items() if any(fnmatch(name, pattern) for pattern in SMALL)]
    weights: list[RemoteFile] = []
    if WHOLE in top:
        weights = [top[WHOLE]]
    elif INDEX in top:
        every = [f for name, f in top.items() if fnmatch(name, WEIGHTS)]
        weights = [f for f in every if fnmatch(f.name, "model*-of-*.safetensors")] or every
    return sorted(small, key=lambda f: f.name) + sorted(weights, key=lambda f: f.name)


def is_full(error: Exception) -> bool:
    """Whether this machine's disk is what failed, and not who delivers."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def fetch(
    files: Sequence[RemoteFile],
    read: Read,
    folder: Path,
    *,
    address: str,
    check: Callable[[Path, bool], None],
    again: Callable[[], Sequence[RemoteFile]] | None = None,
) -> None:
    """Make `folder` from remote files.

    check(path, complete) is called with the folder so far: once before weights are fetched, once at the end.
    again: lists the files anew, of a store that may change while it is read.
    Raises BessemerError for too little disk, for bytes that differ, for files of two versions, and whatever `check` and
    `read` raise.
    """
    staging = _staging(folder, files)
    total = sum(f.n_bytes for f in files)
    missing = total - sum(p.stat().st_size for p in staging.iterdir() if p.name != LISTING)
    need_disk(staging, missing, f"fetching {address}")
    of = "" if missing == total else f" of {show_bytes(total)}, the rest is there"
    print(f"{address}: fetching {show_bytes(missing)}{of}", file=sys.stderr)
    weights = [f for f in files if fnmatch(f.name, WEIGHTS)]
    for file in files:
        if weights and file is weights[0]:
            check(staging, False)
        got = staging / file.name
        if not got.exists() or got.stat().st_size != file.n_bytes:
            _fetch_one(file, read, staging, address)
    check(staging, True)
    if again is not None and (changed := sorted({f.name for f in {*files} ^ {*again()}})):
        raise BessemerError(
            f"{changed[0]} changed in the store while the files were fetched, so they are of two versions",
            where=address,
            fix="wait until nobody writes there, then run it again: all files are fetched anew",
        )
    (staging / LISTING).unlink()
    finish_folder(staging, folder)


def _staging(folder: Path, files: Sequence[RemoteFile]) -> Path:
    """Where files arrive. What an interrupted download left there counts only when the store still has the same."""
    staging = folder.with_name(f".fetching-{folder.name}")
    listing = canonical_json([astuple(f) for f in files])
    kept = staging / LISTING
    if not kept.is_file() or kept.read_text() != listing:
        shutil.rmtree(staging, ignore_errors=True)
        write_text(kept, listing)
    return staging


def _fetch_one(file: RemoteFile, read: Read, staging: Path, address: str) -> None:
    part = staging / f"{file.name}.part"
    if part.exists() and part.stat().st_size > file.n_bytes:
        part.unlink()  # of another version of the file
    part.touch()
    with part.open("r+b") as out:
        there = out.seek(0, 2)
        if there < file.n_bytes:
            read(file, out, there)
    wrong = _difference(file, part)
    if wrong:
        part.unlink()
        raise BessemerError(
            f"{file.name} came with other bytes: {wrong}",
            where=address,
            fix="run it again: only this file is fetched anew; if it happens twice, do not use this copy",
        )
    fsync_file(part)  # a name says that it was checked, so its bytes come before it
    part.rename(staging / file.name)


def _difference(file: RemoteFile, path: Path) -> str:
    size = path.stat().st_size
    if size != file.n_bytes:
        return f"{size:,} bytes instead of {file.n_bytes:,}"
    if file.sha256 and (got := sha256_file(path)) != file.sha256:
        return f"sha256 {got[:12]}..., the store says {file.sha256[:12]}..."
    if file.git_sha1 and not file.sha256:
        content = path.read_bytes()
        got = hashlib.sha1(b"blob %d\0" % size + content, usedforsecurity=False).hexdigest()
        if got != file.git_sha1:
            return f"git's hash {got[:12]}..., the store says {file.git_sha1[:12]}..."
    return ""
