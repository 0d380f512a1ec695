"""Model folders in object stores and behind any other URL that fsspec opens: s3://, gs://, https://, file://."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from bessemer.errors import BessemerError
from bessemer.families import download
from bessemer.families.check import refuse_release
from bessemer.families.download import RemoteFile, is_wanted
from bessemer.files import exclusive, home, need_writable, read_json, sha256_text, tell, write_json
from bessemer.signatures import MANIFEST, trusted_key

DRIVERS = {
    "s3": "bessemer[s3]",
    "s3a": "bessemer[s3]",
    "gs": "bessemer[gs]",
    "gcs": "bessemer[gs]",
    "http": "bessemer[data]",
    "https": "bessemer[data]",
}
BLOCK_BYTES = 1 << 24
MANIFEST_BYTES = 1 << 24  # more than any release's has
TAGS = ("ETag", "etag", "md5Hash", "mtime", "created", "Content-MD5", "Digest", "Last-Modified")


def fetch(url: str, check: Callable[[Path, bool], None]) -> Path:
    """The folder in our cache that holds the model files behind a URL. Nothing is asked once it is there, but, when a
    key is trusted for the first time, whether it is a release.

    Raises BessemerError when there is none, no driver, no access, when the store changes meanwhile, when `check`
    refuses what came, and for a release where a trusted key is set.
    """
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", url.partition("://")[2]).strip("-")[-60:]
    folder = home() / "cache" / "stores" / f"{plain}-{sha256_text(url)[:12]}"
    need_writable(folder.parent)
    with exclusive(folder.with_name(f"{folder.name}.lock"), url, wait=tell):
        about = folder.with_name(f"{folder.name}.about.json")
        if not folder.is_dir():
            about.unlink(missing_ok=True)
        if trusted_key():
            _need_no_release(url, about)
        if not folder.is_dir():
            fs, found = _list(url)

            def read(file: RemoteFile, out: IO[bytes], there: int) -> None:
                path = f"{_path(fs, url)}/{file.name}"
                try:
                    if url.startswith("http"):
                        _stream(fs, path, out, there)
                    else:
                        _copy(fs.open(path, "rb"), out, there)
                except Exception as error:
                    if download.is_full(error):
                        raise
                    raise _unreadable(url, error) from None

            def again() -> list[RemoteFile]:
                return download.choose(_wanted(*_list(url), url))

            files = download.choose(_wanted(fs, found, url))
            download.fetch(files, read, folder, address=url, check=check, again=again)
    return folder


def _need_no_release(url: str, about: Path) -> None:
    """Raises BessemerError for a release. about: where it is kept what the store's manifest says, to be asked once."""
    if not about.exists():
        fs, found = _list(url)
        there = next((f["name"] for f in found if _name(f) == MANIFEST), None)
        manifest: Any = None
        if there:
            try:
                with fs.open(there, "rb", **({"block_size": 0} if url.startswith("http") else {})) as file:
                    manifest = json.loads(file.read(MANIFEST_BYTES))
            except Exception as error:  # no JSON, too
                raise _unreadable(url, error) from None
        write_json(about, {"address": url, "format": manifest.get("format") if isinstance(manifest, dict) else None})
    refuse_release(read_json(about), url)


def _stream(fs: Any, path: str, out: IO[bytes], there: int) -> None:
    """From a web server. Not all of them give parts of a file: a broken download then begins again."""
    if there:
        try:
            return _copy(fs.open(path, "rb"), out, there)
        except ValueError:  # how fsspec says that the server gives no parts
            out.seek(0)
            out.truncate()
    _copy(fs.open(path, "rb", block_size=0), out, 0)


def _copy(opened: Any, out: IO[bytes], there: int) -> None:
    with opened as remote:
        if there:
            remote.seek(there)
        while block := remote.read(BLOCK_BYTES):
            out.write(block)


def storage_options(address: str) -> dict[str, Any]:
    """For fsspec. aiohttp ends every transfer after five minutes, however well it goes; here one that stands still."""
    if not address.startswith(("http://", "https://")):
        return {}
    import aiohttp

    return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)}}


def _list(url: str) -> tuple[Any, list[dict[str, Any]]]:
    """(file system, what it says of each file there), asked anew: drivers keep what they listed before."""
    protocol = url.partition("://")[0]
    try:
        from fsspec.core import url_to_fs

        fs, path = url_to_fs(url, **storage_options(url))
        fs.invalidate_cache()
        return fs, [f for f in fs.ls(path, detail=True) if f["type"] == "file"]
    except ImportError:
        raise BessemerError(
            f"{protocol}:// addresses need a driver that is not installed",
            where=url,
            fix=f"pip install '{DRIVERS.get(protocol, 'bessemer[data]')}'",
        ) from None
    except Exception as error:
        raise _unreadable(url, error) from None


def _wanted(fs: Any, found: list[dict[str, Any]], url: str) -> list[RemoteFile]:
    return [_remote(fs, f, url) for f in found if is_wanted(_name(f))]


def _name(facts: dict[str, Any]) -> str:
    return facts["name"].rpartition("/")[2]


def _remote(fs: Any, facts: dict[str, Any], url: str) -> RemoteFile:
    if facts.get("size") is None:  # as a web server's listing has it
        try:
            facts = facts | fs.info(facts["name"])
        except Exception as error:
            raise _unreadable(url, error) from None
    if facts.get("size") is None:
        raise BessemerError("the store does not say how large it is", where=facts["name"], fix="fetch it by hand")
    tag = next((str(facts[k]) for k in TAGS if facts.get(k)), "")
    return RemoteFile(_name(facts), int(facts["size"]), tag=tag)


def _path(fs: Any, url: str) -> str:
    return fs._strip_protocol(url).rstrip("/")


def _unreadable(url: str, error: Exception) -> BessemerError:
    # Drivers raise their own libraries' errors (botocore, aiohttp, google), so any error of theirs lands here.
    said = str(error).partition("\n")[0] or "no details"
    return BessemerError(
        f"the store could not deliver it ({type(error).__name__}: {said})",
        where=url,
        fix="check the address, the network and the credentials; what has arrived is kept, the same command goes on",
    )
