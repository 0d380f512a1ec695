"""`start:` -> a checkpoint on the disk whose every byte is known."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.families import catalogue, hub, imported, package, store, terms
from bessemer.families.check import check_against_catalogue, check_model, no_weights, refuse_release
from bessemer.families.download import INDEX, WHOLE, RemoteFile, choose
from bessemer.families.schema import Packages
from bessemer.files import (
    digest_files,
    digest_of_files,
    exclusive,
    home,
    need_disk,
    need_writable,
    read_json,
    sha256_file,
    sha256_text,
    tell,
    write_json,
)
from bessemer.signatures import MANIFEST, need_signed, trusted_key
from bessemer.units import show_bytes

HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$")
Files = dict[str, dict[str, Any]]  # name -> {"sha256", "bytes"}


@dataclass(frozen=True)
class Checkpoint:
    """Weights at one stage, pinned: `digest` covers every file the model is loaded from."""

    name: str
    stage: str  # pre, mid, post; "unknown" for a hub id or a folder
    path: Path
    digest: str
    files: Files = field(repr=False)
    licence: str
    end_of_text: str  # "" = the tokenizer's own end-of-sequence token
    origin: str
    chat_template: str = ""  # where it comes from; "" = the start's own, if it has one
    original: Path | None = None  # where its training left it, when `path` holds it with another chat template
    lr: float | None = None  # the rate there, of a start whose rate has not begun to fall and that the catalogue knows
    entry: catalogue.Entry | None = field(default=None, compare=False, repr=False)  # what else the catalogue knows

    @property
    def n_bytes(self) -> int:
        return sum(f["bytes"] for name, f in self.files.items() if name.endswith(".safetensors"))


def resolve(start: str) -> Checkpoint:
    """A checkpoint of the catalogue (`family-size@stage[:step]`), a local folder or GGUF file, a model of the Hugging
    Face hub, or a folder behind a URL (s3://...), fetched when it is not here yet.

    Raises BessemerError when it is unknown, cannot be fetched, has no safetensors weights, needs code of its own, its
    terms are not accepted, its bytes or tokenizer differ from what was pinned, or it is a release of which the trusted
    key's signature is missing or cannot be checked.
    """
    need_known(start)
    path = Path(start).expanduser()
    if path.is_dir():
        need_signed(path.absolute())
        return _pinned(path.absolute(), name=path.name, origin=f"folder {path.absolute()}")
    if path.suffix == ".gguf" and path.is_file():
        return _from_gguf(path.absolute())
    carried = imported.find(start)
    if "@" in start and "/" not in start:
        entry = catalogue.find(start)
        terms.need_accepted(entry)
        found = _from_import(carried) if carried else _from_catalogue(entry)
        return _known(_need_digest(found, entry, found.origin) if entry.digest else found, entry)
    if carried:
        return _from_import(carried)
    return _first_pin(start, _from_url(start)) if "://" in start else _from_hub(start)


def need_known(start: str) -> None:
    """Raises BessemerError for a start that neither lies here nor names something to fetch. Fetches nothing."""
    path = Path(start).expanduser()
    if path.is_dir() or (path.suffix == ".gguf" and path.is_file()) or "://" in start:
        return
    if "@" in start and "/" not in start:
        catalogue.find(start)
    elif not imported.find(start) and (start.startswith((".", "/", "~")) or not HUB_ID.match(start)):
        raise BessemerError(
            f"{start!r} is no folder, no GGUF file, no hub id (owner/name) and no checkpoint of the catalogue",
            where="start",
            fix=f"families: {', '.join(dict.fromkeys(f.family for f in catalogue.families()))} "
            "(`bessemer families list`)",
        )


def _from_catalogue(entry: catalogue.Entry) -> Checkpoint:
    if entry.folder:
        return _from_folder(entry)
    if entry.package:
        return _from_package(entry, entry.package)
    if entry.url:
        found = _from_url(entry.url, entry)
        return found if entry.digest else _first_pin(entry.url, found)
    return _from_hub(_hub_address(entry), entry)


def _hub_address(entry: catalogue.Entry) -> str:
    return f"{entry.hub}@{entry.revision}" if entry.revision else entry.hub


def tuned_papers(entry: catalogue.Entry) -> tuple[catalogue.Entry, Path]:
    """The tuned checkpoint of the same family and size, and a folder with its small files; from the hub without its
    weights.

    Raises BessemerError when the family has no `post` stage, and as `resolve` does.
    """
    name = f"{entry.size}@post"
    if name not in catalogue.entries():
        raise BessemerError(
            f"{entry.size} has no stage post in the catalogue, so its chat template is not known",
            where="chat_template: family",
            fix="give the path of a Jinja file",
        )
    tuned = catalogue.find(name)
    if not tuned.hub or imported.find(name):
        return tuned, resolve(name).path
    terms.need_accepted(tuned)
    folder = hub.pin(_hub_address(tuned), tuned.hub, tuned.revision, "model").papers()
    _checker(tuned)(folder, False)
    return tuned, folder


def _known(found: Checkpoint, entry: catalogue.Entry) -> Checkpoint:
    """With what the catalogue knows of it."""
    if entry.tokenizer:
        check_against_catalogue(found.path, entry.tokenizer, entry.name)
    return replace(
        found,
        name=entry.name,
        stage=entry.stage,
        licence=entry.licence,
        end_of_text=entry.end_of_text,
        lr=entry.lr if entry.constant else None,
        entry=entry,
    )


def _pinned(folder: Path, *, name: str, origin: str, expected: Files | None = None, fix: str = "") -> Checkpoint:
    """Digest a model folder. expected: what a manifest says of its files; a difference is refused with `fix`."""
    check_model(folder, known=expected is not None)
    # Nothing from subfolders: a trainer leaves other steps of the training there.
    there = [RemoteFile(p.name, p.stat().st_size) for p in sorted(folder.iterdir()) if p.is_file()]
    files: Files = {f.name: {"sha256": sha256_file(folder / f.name), "bytes": f.n_bytes} for f in choose(there)}
    for file, want in (expected or {}).items():
        if files.get(file) != want:
            raise BessemerError("its bytes changed since it was fetched", where=str(folder / file), fix=fix)
    if expected is not None and (added := sorted(files.keys() - expected.keys())):
        raise BessemerError("it was not there when the others were fetched", where=str(folder / added[0]), fix=fix)
    digest = digest_of_files(files)
    return Checkpoint(name, "unknown", folder, digest, files, "unknown", "", origin)


def _need_digest(found: Checkpoint, entry: catalogue.Entry, where: str) -> Checkpoint:
    if found.digest != entry.digest:
        raise BessemerError(
            f"its bytes changed: digest {found.digest[:12]}..., the catalogue says {entry.digest[:12]}...",
            where=where,
            fix="restore it from a copy, or grow or add it again",
        )
    return found


def _first_pin(address: str, found: Checkpoint) -> Checkpoint:
    """What an address without a digest held when it was first used here, it must hold ever after."""
    pin = home() / "cache" / "pins" / f"{sha256_text(address)[:16]}.json"
    if not pin.exists():
        write_json(pin, {"address": address, "digest": found.digest})
    if (known := read_json(pin)["digest"]) != found.digest:
        raise BessemerError(
            f"its bytes changed since it was first used here: digest {found.digest[:12]}..., then {known[:12]}...",
            where=address,
            fix=f"restore it; or, when the change is meant, remove {pin}",
        )
    return found


def _from_folder(entry: catalogue.Entry) -> Checkpoint:
    """A checkpoint of a family of this machine, which must be what the catalogue says."""
    folder = Path(entry.folder).expanduser()
    if not folder.is_dir():
        raise BessemerError("the checkpoint's folder is gone", where=entry.folder, fix="restore it, or grow it again")
    found = _pinned(folder, name=entry.name, origin=f"family {entry.family} of this machine")
    return found if entry.digest else _first_pin(entry.folder, found)


def _from_import(found: imported.Imported) -> Checkpoint:
    fix = f"import it again: remove {found.folder}, then `bessemer families import`"
    pinned = _pinned(found.folder / "model", name=found.name, origin=found.origin, expected=found.files, fix=fix)
    return replace(pinned, licence=found.licence, end_of_text=found.end_of_text)


def _from_hub(start: str, entry: catalogue.Entry | None = None) -> Checkpoint:
    """Fetch from the hub into our cache, pinned to the commit that the revision names today."""
    repository, _, revision = start.partition("@")
    found = hub.pin(start, repository, revision, "model")
    if not {WHOLE, INDEX} & set(found.files):
        raise no_weights(set(found.files), start)
    if trusted_key() and MANIFEST in found.files:
        refuse_release(read_json(found.download([MANIFEST]) / MANIFEST), start)
    folder = found.model(_checker(entry))
    return _kept(folder, repository, f"hub {repository} at commit {found.commit}")


def _from_url(url: str, entry: catalogue.Entry | None = None) -> Checkpoint:
    folder = store.fetch(url, _checker(entry))
    return _kept(folder, url.rstrip("/").rpartition("/")[2], f"store {url}")


def _checker(entry: catalogue.Entry | None) -> Callable[[Path, bool], None]:
    """What is looked at before the weights are fetched, and once more when everything is there."""

    def check(folder: Path, complete: bool) -> None:
        check_model(folder, complete=complete)
        if entry is not None and entry.tokenizer:
            check_against_catalogue(folder, entry.tokenizer, entry.name)

    return check


def _kept(folder: Path, name: str, origin: str) -> Checkpoint:
    """A folder of our cache, whose manifest lies beside it."""
    manifest = folder.with_name(f"{folder.name}.json")  # not with_suffix: a name such as tiny-0.5b has a dot
    if not manifest.exists():
        write_json(manifest, digest_files(folder))
    fix = f"remove {folder} and {manifest.name}; it is fetched again"
    return _pinned(folder, name=name, origin=origin, expected=read_json(manifest), fix=fix)


def _from_package(entry: catalogue.Entry, given: Packages) -> Checkpoint:
    from bessemer.families import gguf

    folder = home() / "cache" / "models" / f"{entry.size}@{entry.stage}-{given.sha256[:12]}"
    need_writable(folder.parent)
    with exclusive(folder.with_name(f"{folder.name}.lock"), f"the checkpoint {entry.name}", wait=tell):
        if not _is_kept(folder):
            need = entry.parameters * 5 + 400_000_000  # fp32 weights, the file they come from, and the packages
            need_disk(folder.parent, need, f"fetching {entry.name}")
            print(f"{entry.name}: fetching {given.parts[0].name}, about {show_bytes(need)} of disk", file=sys.stderr)
            raw = folder.with_name(f"{folder.name}.gguf")
            try:
                package.join(given, raw)
                gguf.convert_into(raw, folder)
            finally:
                raw.unlink(missing_ok=True)
        names = ", ".join(part.name for part in given.parts)  # its manifest is written before the next one looks
        return _kept(folder, entry.name, f"package {names}, {given.parts[0].file} (sha256 {given.sha256[:12]})")


def _from_gguf(path: Path) -> Checkpoint:
    """A GGUF file, dequantised once into our cache; its sha256 is the key, as nothing but its bytes is read."""
    from bessemer.families import gguf

    sha256 = sha256_file(path)
    folder = home() / "cache" / "models" / f"gguf-alone-{sha256[:16]}"
    need_writable(folder.parent)
    with exclusive(folder.with_name(f"{folder.name}.lock"), str(path), wait=tell):
        if not _is_kept(folder):
            need_disk(folder.parent, gguf.weights_bytes(path), f"dequantising {path.name}")
            gguf.convert_into(path, folder)
        return _kept(folder, path.stem, f"GGUF file {path} (sha256 {sha256[:12]}), dequantised")


def _is_kept(folder: Path) -> bool:
    return folder.is_dir() and folder.with_name(f"{folder.name}.json").is_file()
