"""Repositories of the Hugging Face hub, pinned to a commit the first time they are asked for."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any, Literal

from bessemer.errors import BessemerError
from bessemer.families import download
from bessemer.families.download import RemoteFile
from bessemer.files import exclusive, home, need_disk, need_writable, read_json, sha256_text, tell, write_json
from bessemer.units import show_bytes

Kind = Literal["model", "dataset"]


@dataclass(frozen=True)
class Repository:
    """A repository at one commit; `files` are the names of all that it holds there, `facts` what is known of each."""

    address: str
    id: str
    commit: str
    kind: Kind
    files: tuple[str, ...]
    facts: tuple[RemoteFile, ...] = ()

    def download(self, names: Sequence[str]) -> Path:
        """The folder in our cache that holds these files. Raises BessemerError when the hub cannot deliver."""
        from huggingface_hub import snapshot_download

        wanted = [glob.escape(n) for n in names]
        there = _cache() / f"{self.kind}s--{self.id.replace('/', '--')}" / "snapshots" / self.commit
        missing = sum(f.n_bytes for f in self.facts if f.name in names and not (there / f.name).exists())
        if missing:
            need_disk(_cache(), missing, f"fetching {self.address}")
            print(f"{self.address}: fetching {show_bytes(missing)}", file=sys.stderr)
        with _hub(self.address, self.id, self.commit, self.kind):
            folder = snapshot_download(
                self.id, repo_type=self.kind, revision=self.commit, cache_dir=_cache(), allow_patterns=wanted
            )
        return Path(folder)

    def model(self, check: Callable[[Path, bool], None]) -> Path:
        """The folder in our cache that holds the model, complete and compared with the hub's hashes.

        Not by snapshot_download: huggingface_hub 2 throws a half-fetched file away, a shard of 5 GB is worth keeping.
        Raises BessemerError when the hub cannot deliver it or `check` refuses it.
        """
        folder = self._folder()
        with exclusive(folder.with_name(f"{folder.name}.lock"), self.address, wait=tell):
            if not folder.is_dir():
                download.fetch(download.choose(self.facts), self._read, folder, address=self.address, check=check)
        return folder

    def papers(self) -> Path:
        """A folder in our cache with what a model is loaded from, but for its weights, which may lie there too.

        Raises BessemerError when the hub cannot deliver it.
        """
        small = [f.name for f in download.choose(self.facts) if not f.name.endswith(".safetensors")]
        return whole if (whole := self._folder()).is_dir() else self.download(small)

    def _folder(self) -> Path:
        return _cache() / "models" / self.id.replace("/", "--") / self.commit

    def _read(self, file: RemoteFile, out: IO[bytes], there: int) -> None:
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers, disable_progress_bars

        if not sys.stderr.isatty():
            disable_progress_bars()
        with _hub(self.address, self.id, self.commit, self.kind):
            if constants.HF_HUB_OFFLINE:  # http_get asks nobody
                raise FileNotFoundError("HF_HUB_OFFLINE is set and the file is not in the cache")
            url = hf_hub_url(self.id, file.name, revision=self.commit, repo_type=self.kind)
            http_get(url, out, resume_size=there, headers=build_hf_headers(), expected_size=file.n_bytes)  # type: ignore[arg-type]


def mirror(repository: str) -> Path | None:
    """The folder below BESSEMER_MIRROR that stands for a repository (owner/name); None without one."""
    root = os.environ.get("BESSEMER_MIRROR")
    folder = Path(root).expanduser() / repository if root else None
    return folder if folder and folder.is_dir() else None


def pin(address: str, repository: str, revision: str | None, kind: Kind) -> Repository:
    """The repository at the commit that `revision` named when `address` was first resolved here.

    The hub may move a branch; a run may not. Raises BessemerError when the hub cannot say.
    """
    from huggingface_hub import HfApi

    pinned = _cache() / f"{sha256_text(address)[:16]}.json"
    if not pinned.exists():
        with _hub(address, repository, revision or "", kind):
            if kind == "dataset":
                info: Any = HfApi().dataset_info(repository, revision=revision or None, files_metadata=True)
            else:
                info = HfApi().model_info(repository, revision=revision or None, files_metadata=True)
        siblings = sorted(info.siblings or [], key=lambda s: s.rfilename)
        if kind == "model" and any(s.size is None for s in siblings):
            raise BessemerError(
                "the hub does not say how large its files are",
                where=address,
                fix="unset HF_ENDPOINT, or name a mirror that answers `?blobs=true` as the hub does",
            )
        facts = {s.rfilename: _facts(s) for s in siblings if s.size is not None}
        write_json(
            pinned,
            {"address": address, "commit": info.sha, "files": [s.rfilename for s in siblings], "facts": facts},
        )
    found = read_json(pinned)
    facts = tuple(RemoteFile(name, *values) for name, values in found.get("facts", {}).items())
    return Repository(address, repository, found["commit"], kind, tuple(found["files"]), facts)


def _facts(sibling: Any) -> list[Any]:
    """[bytes, sha256 of a large file, git's hash of a small one]."""
    lfs = sibling.lfs
    return [sibling.size, lfs.sha256, ""] if lfs else [sibling.size, "", sibling.blob_id or ""]


def _cache() -> Path:
    cache = home() / "cache" / "hub"
    need_writable(cache)
    return cache


@contextmanager
def _hub(address: str, repository: str, revision: str, kind: Kind) -> Iterator[None]:
    """Errors of the hub and of the network become one BessemerError that says what to do. Tokens are never shown."""
    # Its HTTP library differs by version (httpx2, httpx); an unreachable host raises that library's error.
    from huggingface_hub import errors, get_token

    network = errors.HTTPError  # pyright: ignore[reportPrivateImportUsage]
    unreachable = (network, errors.HFValidationError, errors.OfflineModeIsEnabled, OSError)
    token = "a token is set" if get_token() else "no token is set"
    page = f"https://huggingface.co/{repository}"
    try:
        yield
    except errors.GatedRepoError:
        raise BessemerError(
            f"the hub wants its terms accepted first ({token})",
            where=address,
            fix=f"accept them at {page} and set HF_TOKEN to a token of that account "
            "(https://huggingface.co/settings/tokens)",
        ) from None
    except errors.RevisionNotFoundError:
        raise BessemerError(
            f"the hub could not deliver it: {repository} has no such revision",
            where=address,
            fix=_near(repository, revision, kind),
        ) from None
    except unreachable as error:
        if download.is_full(error):
            raise
        status = getattr(getattr(error, "response", None), "status_code", None)
        said = str(error).partition("\n")[0]  # empty for some time-outs
        fix = "check the network, the id and HF_ENDPOINT; what has arrived is kept. Or give a local folder"
        if isinstance(error, errors.RepositoryNotFoundError):
            fix = f"check the id; a private one needs HF_TOKEN ({token}, and may have expired)"
        elif status in {401, 403}:
            said = f"HTTP {status}, it refused the token"
            fix = "the token may have expired: set HF_TOKEN to a new one (https://huggingface.co/settings/tokens)"
            fix = fix if get_token() else "set HF_TOKEN (https://huggingface.co/settings/tokens)"
        raise BessemerError(
            f"the hub could not deliver it ({type(error).__name__}: {said})", where=address, fix=fix
        ) from None


def _near(repository: str, revision: str, kind: Kind) -> str:
    """The branches and tags that are most like the one that was asked for."""
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(repository, repo_type=kind)
    except Exception:  # the first error is the one to tell
        return "check the revision"
    names = [r.name for r in [*refs.branches, *refs.tags]]
    digits = re.findall(r"\d+", revision)
    if digits:  # of step-41000 the nearest is step-40000, however the rest is spelt
        close = sorted(
            (n for n in names if re.findall(r"\d+", n)),
            key=lambda n: min(abs(int(x) - int(digits[-1])) for x in re.findall(r"\d+", n)),
        )
    else:
        close = get_close_matches(revision, names, n=3, cutoff=0.3)
    return f"the nearest: {', '.join(close[:3])}" if close else f"it has {', '.join(names[:5])}"
