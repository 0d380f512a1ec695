"""`start:` -> a checkpoint on the disk whose every byte is known."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.families import catalogue, hub, package
from bessemer.families.schema import Packages
from bessemer.files import (
    check_files,
    digest_files,
    exclusive,
    home,
    need_disk,
    need_writable,
    new_folder,
    read_json,
    sha256_file,
    sha256_folder,
    write_json,
)

HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$")
WANTED = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "LICENSE*",
)


@dataclass(frozen=True)
class Checkpoint:
    """Weights at one stage, pinned: `digest` covers every file the model is loaded from."""

    name: str
    stage: str  # pre, mid, post; "unknown" for a hub id or a folder
    path: Path
    digest: str
    files: dict[str, dict[str, Any]] = field(repr=False)
    licence: str
    end_of_text: str  # "" = the tokenizer's own end-of-sequence token
    origin: str
    lr: float | None = None  # the rate there, of a start whose rate has not begun to fall and that the catalogue knows
    entry: catalogue.Entry | None = field(default=None, compare=False, repr=False)  # what else the catalogue knows

    @property
    def n_bytes(self) -> int:
        return sum(f["bytes"] for name, f in self.files.items() if name.endswith(".safetensors"))


def resolve(start: str) -> Checkpoint:
    """A checkpoint from the catalogue (`family@stage`), a local folder, or the Hugging Face hub.

    Raises BessemerError when it is unknown, cannot be fetched, has no safetensors weights, or its bytes differ
    from what was pinned.
    """
    folder = Path(start).expanduser()
    if folder.is_dir():
        return _pinned(folder.absolute(), name=folder.name, origin=f"folder {folder.absolute()}")
    if "@" in start and "/" not in start:
        return _from_catalogue(catalogue.find(start))
    if start.startswith((".", "/", "~")) or not HUB_ID.match(start):
        raise BessemerError(
            f"{start!r} is no folder, no hub id (owner/name) and no checkpoint of the catalogue",
            where="start",
            fix=f"known checkpoints: {', '.join(catalogue.entries())}",
        )
    return _from_hub(start)


def _pinned(folder: Path, *, name: str, origin: str) -> Checkpoint:
    """Digest a model folder. The manifest of a folder in our cache is kept beside it."""
    _need_model_files(folder)
    files = digest_files(folder, skip=frozenset({".gitattributes"}))
    files = {k: v for k, v in files.items() if any(Path(k).match(pattern) for pattern in WANTED)}
    digest = sha256_folder({k: v["sha256"] for k, v in files.items()})
    return Checkpoint(name, "unknown", folder, digest, files, "unknown", "", origin)


def _need_model_files(folder: Path) -> None:
    names = [p.name for p in folder.iterdir()]
    if not any(n.endswith(".safetensors") for n in names):
        pickles = [n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        raise BessemerError(
            f"no safetensors weights{f', only {pickles[0]} (a pickle, which can run code)' if pickles else ''}",
            where=str(folder),
            fix="convert them with the family's own tools and give that folder",
        )
    for needed in ("config.json", "tokenizer.json"):
        if needed not in names:
            raise BessemerError(f"{needed} is missing", where=str(folder), fix="give a complete model folder")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise BessemerError("no JSON object", where=str(folder / "config.json"), fix="give a complete model folder")
    if "auto_map" in config:
        raise BessemerError(
            "the model needs code of its own (auto_map), which Bessemer never runs",
            where=str(folder / "config.json"),
            fix="use a family whose architecture transformers has",
        )


def _from_catalogue(entry: catalogue.Entry) -> Checkpoint:
    if entry.folder:
        found = _from_folder(entry)
    elif entry.package:
        found = _from_package(entry, entry.package)
    else:
        found = _from_hub(f"{entry.hub}@{entry.revision}" if entry.revision else entry.hub)
    return replace(
        found,
        name=entry.name,
        stage=entry.stage,
        licence=entry.licence,
        end_of_text=entry.end_of_text,
        lr=entry.lr if entry.constant else None,
        entry=entry,
    )


def _from_folder(entry: catalogue.Entry) -> Checkpoint:
    """A checkpoint of a family of this machine, which must be what the catalogue says."""
    folder = Path(entry.folder)
    if not folder.is_dir():
        raise BessemerError("the checkpoint's folder is gone", where=entry.folder, fix="restore it, or grow it again")
    found = _pinned(folder, name=entry.name, origin=f"family {entry.family} of this machine")
    if found.digest != entry.digest:
        raise BessemerError(
            f"its bytes changed: digest {found.digest[:12]}..., the catalogue says {entry.digest[:12]}...",
            where=entry.folder,
            fix="restore it from a copy, or grow it again",
        )
    return found


def _from_package(entry: catalogue.Entry, given: Packages) -> Checkpoint:
    folder = home() / "cache" / "models" / f"{entry.size}@{entry.stage}-{given.sha256[:12]}"
    manifest = folder.with_name(f"{folder.name}.json")  # not with_suffix: a name such as tiny-0.5b has a dot
    need_writable(folder.parent)
    with exclusive(folder.with_name(f"{folder.name}.lock"), f"the checkpoint {entry.name}"):
        if not (folder.is_dir() and manifest.is_file()):
            need_disk(folder.parent, entry.parameters * 4 + 400_000_000, f"fetching {entry.name}")
            _dequantise(given, folder)
            write_json(manifest, digest_files(folder))
    check_files(folder, read_json(manifest), fix=f"remove {folder} and {manifest.name}; it is fetched again")
    names = ", ".join(part.name for part in given.parts)
    return _pinned(
        folder, name=entry.name, origin=f"package {names}, {given.parts[0].file} (sha256 {given.sha256[:12]})"
    )


def _dequantise(given: Packages, folder: Path) -> None:
    from bessemer.families import gguf

    shutil.rmtree(folder, ignore_errors=True)
    raw = folder.with_name(f"{folder.name}.gguf")
    try:
        with raw.open("wb") as file:
            for part in given.parts:
                file.write(package.read_member(package.fetch(part.name, part.sha256), part.file))
        if (got := sha256_file(raw)) != given.sha256:
            raise BessemerError(
                f"the base's bytes do not match: sha256 {got[:12]}..., expected {given.sha256[:12]}...",
                where=given.parts[0].file,
                fix="do not use this copy; check the package index or mirror that pip is set up with",
            )
        with new_folder(folder) as tmp:
            gguf.convert(raw, tmp)
    finally:
        raw.unlink(missing_ok=True)


def _from_hub(start: str) -> Checkpoint:
    """Fetch from the hub into our cache, pinned to the commit that the revision names today."""
    repository, _, revision = start.partition("@")
    found = hub.pin(start, repository, revision, "model")
    folder = found.download(WANTED, patterns=True)
    return _pinned(folder, name=repository, origin=f"hub {repository} at commit {found.commit}")
