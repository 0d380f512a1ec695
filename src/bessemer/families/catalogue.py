"""Families as reviewed data files: which checkpoints are known by name, and how each is fetched."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from bessemer.errors import BessemerError


@dataclass(frozen=True)
class Entry:
    """A checkpoint of the catalogue: `family-size@stage`, its package and the sha256 of its bytes."""

    name: str
    family: str
    stage: str
    licence: str
    end_of_text: str
    parameters: int
    note: str
    package: str
    archive_sha256: str
    file: str
    file_sha256: str


@cache
def entries() -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for path in sorted(files("bessemer.families").iterdir(), key=lambda p: p.name):
        if not path.name.endswith(".yaml"):
            continue
        family: dict[str, Any] = yaml.safe_load(path.read_text())
        for name, values in family["checkpoints"].items():
            found[name] = Entry(
                name=name,
                family=family["family"],
                stage=name.split("@")[1],
                licence=family["licence"],
                end_of_text=family["end_of_text"],
                **values,
            )
    return found


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
