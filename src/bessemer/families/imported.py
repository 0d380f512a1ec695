"""Checkpoints that were carried into this machine (`BESSEMER_HOME/imported/`); airgap.py brings them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.files import home, read_record, sha256_text

FORMAT = "bessemer.checkpoint/1"
MANIFEST = "checkpoint.json"
FIELDS = ("start", "name", "digest", "origin", "licence", "end_of_text", "files")


@dataclass(frozen=True)
class Imported:
    """start: as a recipe names it. folder: holds `model/`."""

    start: str
    name: str
    folder: Path
    digest: str
    origin: str
    licence: str
    end_of_text: str
    files: dict[str, dict[str, Any]]


def find(start: str) -> Imported | None:
    """The imported checkpoint of this name; None when there is none."""
    folder = place(start)
    return read(folder) if (folder / MANIFEST).exists() else None


def licence_of(size: str) -> str:
    """The licence that came with an imported checkpoint of a size; "" when there is none."""
    for manifest in sorted((home() / "imported").glob(f"*/{MANIFEST}")):
        text, start = manifest.with_name("licence.txt"), read(manifest.parent).start
        if start.partition("@")[0] == size and text.exists():
            return text.read_text()
    return ""


def place(start: str) -> Path:
    plain = "".join(c if c.isalnum() or c in "@.-" else "-" for c in start).strip(".")
    return home() / "imported" / f"{plain[-80:]}-{sha256_text(start)[:8]}"


def read(folder: Path) -> Imported:
    """Raises BessemerError when the manifest was changed or names files elsewhere."""
    record = read_record(folder / MANIFEST)
    names = [*record.get("files", {}), *(part for name in record.get("papers", {}) for part in name.split("/"))]
    if record.get("format") != FORMAT or any(not n or "/" in n or "\\" in n or n.startswith(".") for n in names):
        raise BessemerError("no exported checkpoint of this version", where=str(folder / MANIFEST))
    return Imported(folder=folder, **{key: record[key] for key in FIELDS})
