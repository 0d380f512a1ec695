"""Repositories of the Hugging Face hub, pinned to a commit the first time they are asked for."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bessemer.errors import BessemerError
from bessemer.files import home, need_writable, read_json, sha256_text, write_json


@dataclass(frozen=True)
class Repository:
    """A repository at one commit; `files` are the names of all that it holds there."""

    address: str
    id: str
    commit: str
    kind: Literal["model", "dataset"]
    files: tuple[str, ...]

    def download(self, names: Sequence[str], *, patterns: bool = False) -> Path:
        """The folder in our cache that holds these files. Raises BessemerError when the hub cannot deliver."""
        from huggingface_hub import snapshot_download

        wanted = list(names) if patterns else [glob.escape(n) for n in names]
        with _hub(self.address):
            folder = snapshot_download(
                self.id, repo_type=self.kind, revision=self.commit, cache_dir=_cache(), allow_patterns=wanted
            )
        return Path(folder)


def pin(address: str, repository: str, revision: str | None, kind: Literal["model", "dataset"]) -> Repository:
    """The repository at the commit that `revision` named when `address` was first resolved here.

    The hub may move a branch; a run may not. Raises BessemerError when the hub cannot say.
    """
    from huggingface_hub import HfApi

    pinned = _cache() / f"{sha256_text(address)[:16]}.json"
    if not pinned.exists():
        with _hub(address):
            ask = HfApi().dataset_info if kind == "dataset" else HfApi().model_info
            info = ask(repository, revision=revision or None)
        files = sorted(s.rfilename for s in info.siblings or [])
        write_json(pinned, {"address": address, "commit": info.sha, "files": files})
    found = read_json(pinned)
    return Repository(address, repository, found["commit"], kind, tuple(found["files"]))


def _cache() -> Path:
    cache = home() / "cache" / "hub"
    need_writable(cache)
    return cache


@contextmanager
def _hub(address: str) -> Iterator[None]:
    # Its HTTP library differs by version (httpx2, httpx); an unreachable host raises that library's error.
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        yield
    except (HTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        said = str(error).partition("\n")[0]  # empty for some time-outs
        raise BessemerError(
            f"the hub could not deliver it ({type(error).__name__}: {said})",
            where=address,
            fix="check the network, the id and HF_ENDPOINT; or give a local folder instead",
        ) from None
