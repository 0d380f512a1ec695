"""Files that are either whole or not there: digests, atomic writes, locks, and where things live."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import mmap
import os
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from bessemer.errors import BessemerError
from bessemer.units import show_bytes

DIRECT_BYTES = 1 << 24  # written at once


def home() -> Path:
    """Where caches, runs and releases live: `BESSEMER_HOME`, by default `~/.bessemer`."""
    return Path(os.environ.get("BESSEMER_HOME") or Path.home() / ".bessemer").expanduser().absolute()


def canonical_json(value: Any) -> str:
    """One spelling per value (sorted keys, no spaces), so that equal values have equal digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_folder(files: dict[str, str]) -> str:
    """One digest for a folder, from {relative name: sha256 of its bytes}."""
    return sha256_text(canonical_json(files))


def digest_of_files(files: Mapping[str, Mapping[str, Any]]) -> str:
    """The same from what `digest_files` gives."""
    return sha256_folder({name: facts["sha256"] for name, facts in files.items()})


def read_json(path: Path) -> Any:
    """Raises BessemerError when the file is missing or no JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise BessemerError("the file does not exist", where=str(path)) from None
    except ValueError as error:
        raise BessemerError(f"no valid JSON ({error})", where=str(path)) from None


def fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some file systems know it of files only
            raise
    finally:
        os.close(handle)


def fsync_file(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def finish_folder(tmp: Path, final: Path) -> None:
    """Put everything in `tmp` safely on the disk, then give it its final name."""
    for path in sorted(tmp.rglob("*")):
        (fsync_folder if path.is_dir() else fsync_file)(path)
    fsync_folder(tmp)
    tmp.rename(final)
    fsync_folder(final.parent)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write through a temporary file, fsync and rename: readers see the old content or the new, never half.

    Into what is no file, such as /dev/stdout, it is written as it comes: a rename would put a file in its place.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Nobody else's, also where machines share the folder; and no name that a search for files of this kind finds.
    tmp = path.with_name(f".tmp-{sha256_text(socket.gethostname())[:8]}-{os.getpid()}-{path.name}~")
    try:
        with tmp.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        tmp.replace(path)
    except OSError:
        tmp.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def make_secret(path: Path, text: str) -> None:
    """A file for this user alone, unless it is there already. It appears whole: several processes may begin at once."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    try:
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
        fsync_folder(path.parent)  # what it hashes or signs may be on the disk a moment later
    finally:
        made.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_record(path: Path, value: dict[str, Any]) -> None:
    """A JSON object with the sha256 of the rest of it: for results that a verdict hangs on."""
    write_json(path, {"sha256": record_digest(value), **value})


def record_digest(value: Mapping[str, Any]) -> str:
    """What a record says of itself."""
    return sha256_text(canonical_json(value))


def keep_record(path: Path, value: dict[str, Any]) -> None:
    """`write_record`; under its digest, which others name, it stays when a newer one replaces it."""
    for where in (path.with_stem(f"{path.stem}-{record_digest(value)[:16]}"), path):
        write_record(where, value)


def read_record(path: Path, fix: str = "--restart measures again") -> dict[str, Any]:
    """What `write_record` wrote. Raises BessemerError when a byte of it changed."""
    value: dict[str, Any] = read_json(path)
    if value.pop("sha256", None) != record_digest(value):
        raise BessemerError("its content changed since it was written", where=str(path), fix=fix)
    return value


def need_new(path: Path) -> None:
    """Raises BessemerError for a file that is there: what somebody wrote into it would be gone."""
    if path.is_file():
        raise BessemerError("the file exists", where=str(path), fix="choose another name, or remove it")


@contextlib.contextmanager
def new_folder(final: Path) -> Generator[Path]:
    """A folder that appears whole under its final name or not at all.

    Yields a temporary folder beside it; on success its files are fsynced and it is renamed; on an error it
    is removed. Leftovers of a killed process are cleared first.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    tmp = final.with_name(f".tmp-{final.name}")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir()
    try:
        yield tmp
        finish_folder(tmp, final)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise


@contextlib.contextmanager
def saving_weights(where: Path) -> Generator[None]:
    """safetensors tells of a full disk by an error of its own, which would look like a defect."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if "os error" not in str(error):
            raise
        full = f"os error {errno.ENOSPC}" in str(error) or f"os error {errno.EDQUOT}" in str(error)
        raise BessemerError(
            "the disk is full" if full else f"the weights cannot be written ({error})", where=str(where),
            fix="make room; the same command goes on from what is finished",
        ) from None  # fmt: skip


@contextlib.contextmanager
def saving_arrays(where: Path) -> Generator[None]:
    """numpy tells of a full disk without the number of the error, which would look like a defect."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {error}", str(where)) from None


def link_file(source: str | Path, target: str | Path) -> None:
    """The same bytes under a second name where the disk can do it, else a copy. A link is followed first."""
    source = Path(source).resolve()
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def digest_files(folder: Path, skip: frozenset[str] = frozenset()) -> dict[str, dict[str, Any]]:
    """{relative name: {"sha256", "bytes"}} of every file below the folder, by name."""
    names = (p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file())
    return {
        name: {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
        for name in names
        if name not in skip
    }


def write_hashed(path: Path, pieces: Iterable[memoryview]) -> dict[str, Any]:
    """Write the pieces one after the other, safely on the disk; {"sha256", "bytes"} of what was written.

    Past the page cache where the file system allows it: large files are written in a third of the time and without
    pushing out what the machine is working with. Hashed on the way, so nothing is read back.
    """
    digest, size, used = hashlib.sha256(), 0, 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        _set_direct(fd, True)
        # Aligned to pages, as direct writing demands. Not closed here: an error's traceback still holds parts of it.
        view = memoryview(mmap.mmap(-1, DIRECT_BYTES))
        for piece in pieces:
            whole = piece.cast("B")
            digest.update(whole)
            size += len(whole)
            while len(whole):
                n = min(DIRECT_BYTES - used, len(whole))
                view[used : used + n] = whole[:n]
                used, whole = used + n, whole[n:]
                if used == DIRECT_BYTES:
                    _write_all(fd, view)
                    used = 0
        _set_direct(fd, False)  # the rest is no whole number of blocks
        _write_all(fd, view[:used])
        os.fsync(fd)
    finally:
        os.close(fd)
    return {"sha256": digest.hexdigest(), "bytes": size}


def _set_direct(fd: int, on: bool) -> None:
    direct, flags = getattr(os, "O_DIRECT", 0), fcntl.fcntl(fd, fcntl.F_GETFL)
    with contextlib.suppress(OSError):  # e.g. a file system in memory
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | direct if on else flags & ~direct)


def _write_all(fd: int, view: memoryview) -> None:
    while len(view):
        try:
            view = view[os.write(fd, view) :]
        except OSError as error:
            if error.errno != errno.EINVAL or not fcntl.fcntl(fd, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0):
                raise
            _set_direct(fd, False)  # this file system wants other alignment


def check_files(folder: Path, expected: dict[str, dict[str, Any]], *, fix: str) -> None:
    """Every expected file is there, is a plain file, and has its bytes.

    Raises BessemerError naming the first file that differs.
    """
    for name, want in expected.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise BessemerError("the file is missing or no plain file", where=str(path), fix=fix)
        if path.stat().st_size != want["bytes"]:
            raise BessemerError(
                f"{path.stat().st_size} bytes, but the manifest says {want['bytes']}", where=str(path), fix=fix
            )
        got = sha256_file(path)
        if got != want["sha256"]:
            raise BessemerError(
                f"its bytes changed: sha256 {got[:12]}..., but the manifest says {want['sha256'][:12]}...",
                where=str(path),
                fix=fix,
            )


def need_writable(folder: Path) -> None:
    """Raises BessemerError when files cannot be created in `folder` (made when missing)."""
    probe = folder / f".write-test-{os.getpid()}-{threading.get_ident()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BessemerError(
            f"the folder cannot be written ({error.strerror})",
            where=str(folder),
            fix="give the folder to this user, or set BESSEMER_HOME to another folder",
        ) from None


def need_private(path: Path, what: str) -> None:
    """Raises BessemerError when a file that holds a secret is missing, or when other users may read it."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise BessemerError(f"{what} cannot be read ({error.strerror})", where=str(path)) from None
    if mode & 0o077:
        raise BessemerError(
            f"other users may read {what} (mode {mode & 0o777:o})", where=str(path), fix=f"chmod 600 '{path}'"
        )


def need_disk(folder: Path, n_bytes: int, what: str) -> None:
    """Raises BessemerError when the disk under `folder` has fewer than `n_bytes` free."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise BessemerError(
            f"{what} needs {show_bytes(n_bytes)} of disk, {show_bytes(free)} are free",
            where=str(folder),
            fix=f"free {show_bytes(n_bytes - free)}, or set BESSEMER_HOME to a larger disk",
        )


def tell(text: str) -> None:
    """For `exclusive(wait=)`, where nobody else can say that one waits."""
    print(text, file=sys.stderr)


def lock_holder(path: Path) -> str | None:
    """Who holds the lock of `exclusive` ("pid 7 on host"); None when nobody does."""
    if not path.exists():
        return None
    with path.open() as file:
        return None if _lock(file, fcntl.LOCK_SH) else file.read().strip() or "unknown"


def _lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}:
            raise
        fix = "mount it with flock (Lustre: -o flock), or set BESSEMER_HOME to another disk"
        raise BessemerError("this file system has no locks", where=file.name, fix=fix) from None
    return True


@contextlib.contextmanager
def exclusive(path: Path, what: str, *, wait: Callable[[str], None] | None = None) -> Generator[None]:
    """Hold a lock for as long as this process lives; a killed holder releases it by dying.

    wait: be told who holds it and wait, as one does who would make the same thing. Raises BessemerError when another
    process holds it and nobody waits, or its folder cannot be written.
    """
    need_writable(path.parent)
    with path.open("a+") as file:
        if wait and not _lock(file, fcntl.LOCK_EX):
            file.seek(0)
            wait(f"{what} is being made by {file.read().strip() or 'another process'}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        for wait_s in (0.05, 0.0):  # `lock_holder` takes it for a moment
            if _lock(file, fcntl.LOCK_EX):
                break
            time.sleep(wait_s)
        else:
            file.seek(0)
            raise BessemerError(
                f"{what} is in use by another process ({file.read().strip() or 'unknown'})",
                where=str(path),
                fix="wait for it, stop it, or give this one another name (--set name=...)",
            )
        file.seek(0)
        file.truncate()
        file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
