"""A checkpoint in a folder that can be carried into a site without a network: `bessemer families export | import`.

FOLDER/model/ holds the files, FOLDER/family.yaml what the catalogue says, FOLDER/licence.txt the licence, and
FOLDER/checkpoint.json, written last, the sha256 of every file. Nothing is packed, so nothing needs to be unpacked.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.files import (
    check_files,
    digest_files,
    exclusive,
    home,
    need_disk,
    need_writable,
    new_folder,
    read_record,
    sha256_text,
    write_record,
    write_text,
)

FORMAT = "bessemer.checkpoint/1"
MANIFEST = "checkpoint.json"


@dataclass(frozen=True)
class Carried:
    """An imported checkpoint. start: as a recipe names it."""

    start: str
    name: str
    folder: Path
    digest: str
    origin: str
    licence: str
    end_of_text: str
    files: dict[str, dict[str, Any]]


def find(start: str) -> Carried | None:
    """The imported checkpoint of this name; None when there is none."""
    folder = _place(start)
    return _read(folder) if (folder / MANIFEST).exists() else None


def pack(facts: dict[str, Any], model: Path, family: str, licence: str, out: Path) -> Path:
    """Write a checkpoint's folder. facts: the fields of `Carried`; family, licence: texts.

    Raises BessemerError when the folder exists or there is too little disk.
    """
    if out.exists():
        raise BessemerError("the folder exists", where=str(out), fix="give a new one")
    need_writable(out.absolute().parent)
    need_disk(out.absolute().parent, sum(f["bytes"] for f in facts["files"].values()), f"exporting {facts['name']}")
    with new_folder(out.absolute()) as tmp:
        (tmp / "model").mkdir()
        for name in facts["files"]:
            shutil.copyfile(model / name, tmp / "model" / name)
        write_text(tmp / "licence.txt", licence)
        if family:
            write_text(tmp / "family.yaml", family)
        check_files(tmp / "model", facts["files"], fix="the checkpoint changed while it was copied; try again")
        write_record(tmp / MANIFEST, {"format": FORMAT, **facts, "papers": _papers(tmp)})
    return out


def unpack(folder: Path) -> Carried:
    """Check every byte of an exported folder and put a copy where `start:` finds it.

    Raises BessemerError when a file is missing or differs, or the folder is no export.
    """
    if not (folder / MANIFEST).is_file():
        raise BessemerError(
            f"no exported checkpoint: {MANIFEST} is missing",
            where=str(folder),
            fix="give a folder that `bessemer families export NAME --out FOLDER` made",
        )
    given = _read(folder)
    place = _place(given.start)
    need_writable(place.parent)
    fix = "copy it again from where it was exported"
    with exclusive(place.with_name(f"{place.name}.lock"), f"the import of {given.start}"):
        need_disk(place.parent, sum(f["bytes"] for f in given.files.values()), f"importing {given.start}")
        check_files(folder / "model", given.files, fix=fix)
        check_files(folder, read_record(folder / MANIFEST)["papers"], fix=fix)
        shutil.rmtree(place, ignore_errors=True)
        with new_folder(place) as tmp:
            (tmp / "model").mkdir()
            for name in given.files:
                shutil.copyfile(folder / "model" / name, tmp / "model" / name)
            for name in (*_papers(folder), MANIFEST):
                shutil.copyfile(folder / name, tmp / name)
            check_files(tmp / "model", given.files, fix=fix)
    return _read(place)


def _papers(folder: Path) -> dict[str, Any]:
    return {name: f for name, f in digest_files(folder).items() if name in {"licence.txt", "family.yaml"}}


def _place(start: str) -> Path:
    plain = "".join(c if c.isalnum() or c in "@.-" else "-" for c in start).strip(".")
    return home() / "imported" / f"{plain[-80:]}-{sha256_text(start)[:8]}"


def _read(folder: Path) -> Carried:
    record = read_record(folder / MANIFEST)
    if record.get("format") != FORMAT or any("/" in n or "\\" in n or n.startswith(".") for n in record["files"]):
        raise BessemerError("no exported checkpoint of this version", where=str(folder / MANIFEST))
    fields = ("start", "name", "digest", "origin", "licence", "end_of_text", "files")
    return Carried(folder=folder, **{key: record[key] for key in fields})
