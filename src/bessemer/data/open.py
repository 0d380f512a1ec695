"""An address -> its files, in a stable order, and the bytes of each.

An address is a file, a folder or a glob; any URL that fsspec opens; `hf:owner/name` or a local clone of such a
repository (data/hub.py); or `dataset:NAME@VERSION[/SPLIT]`, a data set that was prepared here.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from bessemer.data import hub
from bessemer.data.formats import BINARY, FORMATS, PACKED, is_data, split_name
from bessemer.errors import BessemerError
from bessemer.families.store import DRIVERS, storage_options
from bessemer.files import canonical_json, check_files, home, read_json, sha256_text

SEALED_ROOMS = ("seals", "keys")  # of BESSEMER_HOME: what no source may read
ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
UNREAD = (*ARCHIVES, ".bz2", ".xz", ".lz4")  # a folder that holds one of these is refused, not read without it
READ = f"{', '.join(FORMATS)}, plain or {' or '.join(PACKED)}"


@dataclass(frozen=True)
class File:
    """One file of a source. `name` is relative to the address, so ids made of it survive a move.

    sha256 is set when a manifest says what the bytes must be; `tag` is the remote's own checksum, if it has one.
    """

    name: str
    path: str
    n_bytes: int
    tag: str = ""
    sha256: str = ""

    @property
    def is_remote(self) -> bool:
        return "://" in self.path

    @property
    def format(self) -> str:
        return split_name(self.name)[0]

    @property
    def packing(self) -> str:
        return split_name(self.name)[1]

    def checksum(self) -> str:
        """What the bytes are: their sha256, or the remote's tag where reading everything would be a download."""
        if self.sha256 or self.tag:
            return self.sha256 or self.tag
        with reading(self), _open_raw(self) as stream:
            return hashlib.file_digest(cast(Any, stream), "sha256").hexdigest()


def list_files(address: str, where: str = "") -> list[File]:
    """Every data file behind an address, sorted by name.

    Raises BessemerError when there is none, one cannot be read, one is of a kind that is never read, or one belongs to
    a sealed task.
    """
    if address.startswith("dataset:"):
        return _prepared(address, where)
    if address.startswith("hf:"):
        folder, names = hub.fetch(address, where)
        return _local([folder / n for n in names], folder)
    if "://" in address:
        return _remote(address, where)
    path = Path(address).expanduser()
    need_unsealed([path], where)
    return _on_disk(path, address, where)


def open_file(file: File) -> BinaryIO:
    """The file's bytes, decompressed. Text formats are read forward only; Parquet and Arrow need to seek."""
    raw = _open_raw(file)
    if file.packing == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if file.packing == ".zst":
        need("pyarrow", file.path, ".zst files")
        import pyarrow as pa

        # Not the zstandard package: its stream ends a truncated file early without an error.
        stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
        return io.BufferedReader(cast(io.RawIOBase, stream), 1 << 20)
    return raw


@contextmanager
def reading(file: File) -> Iterator[None]:
    """Errors of the disk or the network, which are no fault of a row, become one BessemerError.

    An OSError without a number comes from a decompressor or a parser and is left to the caller.
    """
    try:
        yield
    except _transport_errors() as error:
        if type(error) in (OSError, gzip.BadGzipFile) and cast(OSError, error).errno is None:
            raise
        raise _unreadable(file.path, error) from None
    except ValueError as error:
        if "range requests" not in str(error):  # fsspec's words
            raise
        what = f"the server gives no parts of files, and {file.format} files are not read from their beginning"
        raise BessemerError(what, where=file.path, fix="download it, and give its path") from None


def need(package: str, where: str, what: str, extra: str = "data") -> None:
    """Raises BessemerError with the extra to install when `package` cannot be imported."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise BessemerError(
            f"{what} need the package {package}, which is not installed",
            where=where,
            fix=f"pip install 'bessemer[{extra}]'",
        )


def need_unsealed(paths: Iterable[Path], where: str = "") -> None:
    """Raises BessemerError for a path that leads into a sealed task or to keys: nothing trains on what is measured.

    Links are followed. A copy of a seal's folder elsewhere is known by what lies in it.
    """
    rooms = [Path(os.path.realpath(home() / room)) for room in SEALED_ROOMS]
    copies: dict[Path, bool] = {}
    for path in paths:
        if "\0" in str(path):  # no file has such a name
            continue
        real = Path(os.path.realpath(path))
        for folder in (real, real.parent):
            if folder not in copies:
                copies[folder] = all(os.access(folder / n, os.F_OK) for n in ("commitment.json", "sealed.bin"))
        if any(real.is_relative_to(room) for room in rooms) or copies[real] or copies[real.parent]:
            raise BessemerError(
                f"{path} belongs to a sealed task or is a key, and no source may read those",
                where=where or str(path),
                fix="take it out of the sources; what a task measures is never trained on, its public part included",
            )


# -- local ------------------------------------------------------------------------------------------------------


def _on_disk(path: Path, address: str, where: str) -> list[File]:
    try:
        return _found_on_disk(path, address, where)
    except OSError as error:  # a folder above that this user may not enter, a name that is too long
        raise _unreadable(str(path), error) from None


def _found_on_disk(path: Path, address: str, where: str) -> list[File]:
    if path.is_dir():
        if hub.has_configuration(path.parent, path.name):  # its splits are told by the card, not by the folder
            names = hub.names_in_clone(path.parent, path.name, where)
            return _local([path.parent / n for n in names], path.parent)
        names = hub.names_in_clone(path, "", where)
        return _local([path / n for n in names] if names else _walk(path, where), path)
    if path.exists() or path.is_symlink():
        return _local([path], path.parent)
    matches = [Path(m) for m in glob.glob(str(path), recursive=True) if not Path(m).is_dir()]  # noqa: PTH207
    if matches:
        return _local(matches, _fixed_part(path))
    for parent in list(path.parents)[:2]:  # CLONE/SPLIT and CLONE/CONFIG/SPLIT
        if parent.is_dir() and (names := hub.names_in_clone(parent, path.relative_to(parent).as_posix(), where)):
            return _local([parent / n for n in names], parent)
    return _nothing(address, where)


def _walk(folder: Path, where: str) -> list[Path]:
    """Data files below a folder. Names that begin with a dot are none; what cannot be listed is an error."""

    def fail(error: OSError) -> None:
        raise _unreadable(str(error.filename), error)

    found: list[Path] = []
    seen: set[str] = set()
    for at, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(at)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        found += [Path(at, n) for n in names if not n.startswith(".") and (is_data(n) or split_name(n)[0] in UNREAD)]
    return sorted(found) or _nothing(str(folder), where)


def _local(paths: Iterable[Path], base: Path) -> list[File]:
    found: list[File] = []
    paths = sorted(paths)
    need_unsealed(paths)
    for path in paths:
        _need_readable_kind(path.name, str(path))
        try:
            info = path.stat()
        except OSError as error:
            what = "a link to a file that does not exist" if path.is_symlink() else f"cannot be read ({error.strerror})"
            raise BessemerError(what, where=str(path), fix="repair it or take it out") from None
        if not stat.S_ISREG(info.st_mode):
            raise BessemerError("no plain file (a pipe, socket or device)", where=str(path), fix="take it out")
        if not os.access(path, os.R_OK):
            raise BessemerError(
                "the file cannot be read (Permission denied)", where=str(path), fix="give it to this user"
            )
        found.append(File(path.relative_to(base).as_posix(), str(path), info.st_size))
    return found


def _fixed_part(pattern: Path) -> Path:
    """The folder above the first wildcard, which names are relative to."""
    fixed = [p for p in [pattern, *pattern.parents] if not glob.has_magic(str(p))]
    return fixed[0] if fixed else Path()


# -- prepared here ----------------------------------------------------------------------------------------------


def _prepared(address: str, where: str) -> list[File]:
    """The Parquet parts of dataset:NAME@VERSION[/SPLIT], with the digests that its manifest promises."""
    name, _, rest = address.removeprefix("dataset:").partition("@")
    version, _, split = rest.partition("/")
    root = home() / "datasets"
    folder = root / name / version
    parts = (name, version, *([split] if split else []))
    if not all(parts) or any(set(p) <= {"."} or "/" in p or "\\" in p for p in parts) or not folder.is_dir():
        known = sorted(f"dataset:{p.parent.parent.name}@{p.parent.name}" for p in root.glob("*/*/manifest.json"))
        raise BessemerError(
            f"{address!r} is no prepared data set", where=where, fix=f"known: {', '.join(known) or 'none yet'}"
        )
    manifest = cast(dict[str, Any], read_json(folder / "manifest.json"))
    files = cast(dict[str, dict[str, Any]], manifest["files"])
    wanted = {n: f for n, f in files.items() if n.endswith(".parquet")}
    splits = sorted({n.partition("/")[0] for n in wanted if "/" in n})
    if not split and len(splits) > 1:
        raise BessemerError(
            f"{address!r} has the splits {', '.join(splits)}", where=where, fix=f"say which one: {address}/{splits[0]}"
        )
    if split and split not in splits:
        raise BessemerError(f"{address!r}: no split {split!r}", where=where, fix=f"it has {', '.join(splits)}")
    chosen = {n: f for n, f in sorted(wanted.items()) if not split or n.startswith(f"{split}/")}
    return [File(n, str(folder / n), f["bytes"], sha256=f["sha256"]) for n, f in chosen.items()] or _nothing(
        address, where
    )


def check_bytes(file: File) -> None:
    """Raises BessemerError when a manifest says that the bytes must be others."""
    if file.sha256:
        wanted = {Path(file.path).name: {"sha256": file.sha256, "bytes": file.n_bytes}}
        check_files(Path(file.path).parent, wanted, fix="prepare the data set again, as a new version")


# -- remote -----------------------------------------------------------------------------------------------------


def _remote(address: str, where: str) -> list[File]:
    protocol = address.partition("://")[0]
    if "::" in address or protocol in {"zip", "tar", "libarchive"}:
        raise BessemerError("archives are not read", where=where or address, fix="unpack it, and give the files")
    need("fsspec", where or address, f"{protocol}:// addresses")
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(address, **storage_options(address))
    except ImportError:
        driver = DRIVERS.get(protocol)
        raise BessemerError(
            f"{protocol}:// addresses need a driver that is not installed",
            where=where or address,
            fix=f"pip install '{driver}'" if driver else f"install the fsspec driver for {protocol}",
        ) from None
    except ValueError as error:
        raise BessemerError(
            f"no address ({error})", where=where or address, fix="check what stands before ://"
        ) from None
    except Exception as error:  # some connect at once
        raise _unreadable(address, error) from None
    try:
        found, base = _find(fs, path)
    except Exception as error:  # each driver raises its own library's errors
        raise _unreadable(address, error) from None
    _need_unsealed_remote(fs, found, where)
    return [_remote_file(fs, name, info, base) for name, info in sorted(found.items())] or _nothing(address, where)


def _need_unsealed_remote(fs: Any, paths: Iterable[str], where: str = "") -> None:
    """fsspec reads this machine's disk too: file:// and local://."""
    from fsspec.implementations.local import LocalFileSystem

    if isinstance(fs, LocalFileSystem):
        need_unsealed(map(Path, paths), where)


def _find(fs: Any, path: str) -> tuple[dict[str, dict[str, Any]], str]:
    """({path: facts}, what names are relative to): the one file, what a pattern finds, or data files of a folder."""
    if glob.has_magic(path):
        found = {n: info for n, info in fs.glob(path, detail=True).items() if info["type"] != "directory"}
        return found, _fixed_part(Path(path)).as_posix()
    info = fs.info(path)
    if info["type"] != "directory":
        return {path: info}, path
    below = {n: (n[len(path) :].strip("/"), info) for n, info in fs.find(path, detail=True).items()}
    shown = {n: i for n, (inner, i) in below.items() if not any(p.startswith(".") for p in inner.split("/"))}
    return {n: i for n, i in shown.items() if is_data(n) or split_name(n)[0] in UNREAD}, path


def _remote_file(fs: Any, path: str, info: Mapping[str, Any], base: str) -> File:
    url = path if "://" in path else fs.unstrip_protocol(path)
    plain = urlsplit(url).path if url.startswith("http") else path
    name = path[len(base) :].strip("/") if path != base and path.startswith(base) else plain.rpartition("/")[2]
    _need_readable_kind(name, url)
    tag = next((str(info[k]) for k in ("ETag", "etag", "sha256", "md5Hash", "Content-MD5") if info.get(k)), "")
    return File(name, url, int(info.get("size") or 0), tag=tag)


def _open_raw(file: File) -> BinaryIO:
    if not file.is_remote:
        need_unsealed([Path(file.path)])  # a link may lead elsewhere than when it was listed
        return Path(file.path).open("rb")
    from fsspec.core import url_to_fs

    fs, path = url_to_fs(file.path, **storage_options(file.path))
    _need_unsealed_remote(fs, [path])
    # Many web servers give no parts of files, and answer for a second one with the whole: so it is read through.
    through = path.startswith("http") and file.format not in BINARY
    return io.BufferedReader(fs.open(path, "rb", **({"block_size": 0} if through else {})), 1 << 20)


def _transport_errors() -> tuple[type[BaseException], ...]:
    """What a failing disk, network or remote raises; drivers that are not loaded cannot raise."""
    named = (
        ("aiohttp", "ClientError"),
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
        ("ftplib", "Error"),
    )
    found = [getattr(sys.modules[module], name) for module, name in named if module in sys.modules]
    return (OSError, TimeoutError, *found)


# -- all --------------------------------------------------------------------------------------------------------


def digest_of(files: Iterable[File], settings: Mapping[str, Any]) -> str:
    """sha256 over the files' names and bytes and how they are read."""
    return sha256_text(canonical_json([[[f.name, f.checksum()] for f in files], settings]))


def _need_readable_kind(name: str, where: str) -> None:
    """Raises BessemerError unless the name ends in a format that is read."""
    file = File(name, where, 0)
    if file.format in ARCHIVES:
        raise BessemerError("archives are not read", where=where, fix="unpack it, and give the files")
    if file.format in BINARY and file.packing:
        raise BessemerError(f"{file.format} is not read inside {file.packing}", where=where, fix="unpack it")
    if file.format not in FORMATS:
        raise BessemerError(f"{file.format or name!r} files are not read", where=where, fix=f"use {READ}")


def _unreadable(where: str, error: BaseException) -> BessemerError:
    cause = error.__cause__  # fsspec says "not found" whatever goes wrong with a web server
    if cause and type(cause).__module__.startswith("aiohttp") and getattr(cause, "status", 0) not in {404, 410}:
        error = cause
    said = getattr(error, "strerror", None) or str(error).partition("\n")[0] or "no details"
    missing = isinstance(error, FileNotFoundError)
    return BessemerError(
        "it does not exist" if missing else f"cannot be read ({type(error).__name__}: {said})",
        where=where,
        fix="check the address" if missing else "check the permissions, the network and the credentials",
    )


def _nothing(address: str, where: str) -> Any:
    raise BessemerError(
        f"{address!r} does not exist or holds no files that are read ({READ})",
        where=where,
        fix="paths are relative to the folder in which the command runs",
    )
