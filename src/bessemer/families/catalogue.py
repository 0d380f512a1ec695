"""Families as reviewed data files: which checkpoints are known by name, and how each is fetched."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from bessemer.errors import BessemerError
from bessemer.files import home, write_text


@dataclass(frozen=True)
class Entry:
    """A checkpoint of the catalogue: `family-size@stage`, and where it is: in a package, with the sha256 of its bytes,
    or in a folder of this machine, with its digest. tokens_seen and lr: there; None where nobody knows."""

    name: str
    family: str
    stage: str
    licence: str
    end_of_text: str
    parameters: int
    note: str
    package: str = ""
    archive_sha256: str = ""
    file: str = ""
    file_sha256: str = ""
    folder: str = ""
    digest: str = ""
    tokens_seen: int | None = None
    lr: float | None = None
    schedule: str = ""


def private_folder() -> Path:
    """Families of this machine: grown here, or added by hand."""
    return home() / "families"


def entries() -> dict[str, Entry]:
    """Every checkpoint that is known by name: the reviewed ones, then those of this machine."""
    found = dict(_reviewed())
    for path in sorted(private_folder().glob("*.yaml")):
        found |= {name: entry for name, entry in _read(path.read_text()).items() if name not in found}
    return found


@cache
def _reviewed() -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for path in sorted(files("bessemer.families").iterdir(), key=lambda p: p.name):
        if path.name.endswith(".yaml"):
            found |= _read(path.read_text())
    return found


def _read(text: str) -> dict[str, Entry]:
    family: dict[str, Any] = yaml.safe_load(text)
    return {
        name: Entry(
            name=name,
            family=family["family"],
            stage=name.split("@")[1],
            licence=family["licence"],
            end_of_text=family["end_of_text"],
            **values,
        )
        for name, values in family["checkpoints"].items()
    }


def write_private(family: str, checkpoints: dict[str, dict[str, Any]], run: str) -> None:
    """Put a family into this machine's catalogue. run: that made it."""
    values = {
        "family": family,
        "licence": f"your own (run {run})",
        "end_of_text": "<|endoftext|>",
        "checkpoints": {
            n: {k: v for k, v in c.items() if k in Entry.__dataclass_fields__} | {"note": ""} for n, c in checkpoints.items()
        },
    }
    write_text(private_folder() / f"{family}.yaml", yaml.safe_dump(values, sort_keys=False))


def find(name: str) -> Entry:
    """Raises BessemerError with a suggestion when the catalogue has no such checkpoint."""
    known = entries()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        raise BessemerError(
            f"{name!r} is no checkpoint of the catalogue",
            where="start",
            fix=f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}; or a hub id, or a folder",
        )
    return known[name]
