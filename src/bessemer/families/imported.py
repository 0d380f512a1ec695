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
    """The licence that came with an imported checkpoint of a size; "" when there is none.

    Raises BessemerError when that import is damaged. Damaged ones of other sizes are passed over.
    """
    for manifest in sorted((home() / "imported").glob(f"[!.]*/{MANIFEST}")):
        text = manifest.with_name("licence.txt")
        try:
            start = read(manifest.parent).start
        except BessemerError:
            if manifest.parent.name.startswith(f"{size}@"):
                raise
            continue
        if start.partition("@")[0] == size and text.exists():
            return text.read_text()
    return ""


def place(start: str) -> Path:
    plain = "".join(c if c.isalnum() or c in "@.-" else "-" for c in start).strip(".")
    return home() / "imported" / f"{plain[-80:]}-{sha256_text(start)[:8]}"


def read(folder: Path) -> Imported:
    """Raises BessemerError when the manifest was changed, or names files elsewhere or papers below `model/`."""
    refusal = BessemerError(
        "no exported checkpoint of this version",
        where=str(folder / MANIFEST),
        fix="export it again where it came from, with this version of Bessemer",
    )
    try:
        record = read_record(folder / MANIFEST, fix="import it again; if it was changed before that, export it again")
        files, papers = record["files"], [name.split("/") for name in record.get("papers", {})]
        found = Imported(folder=folder, **{key: record[key] for key in FIELDS})
    except (AttributeError, KeyError, TypeError):  # JSON of another shape
        raise refusal from None
    parts = [*files, *(part for paper in papers for part in paper)]
    elsewhere = any(not n or "/" in n or "\\" in n or n.startswith(".") for n in parts)
    if record.get("format") != FORMAT or elsewhere or any(paper[0] == "model" for paper in papers):
        raise refusal
    return found
