"""Writing items as a data set `name@version`: made once for the same ingredients, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from bessemer.data.curate.parts import write_part
from bessemer.data.curate.prepare import FORMAT, MANIFEST, Prepared, datasets_folder, versions
from bessemer.data.items import Item
from bessemer.files import canonical_json, digest_files, exclusive, new_folder, sha256_text, write_json
from bessemer.recipe.schema import need_name


def held(name: str) -> AbstractContextManager[None]:
    """Hold the name while a version is made. Raises BessemerError when it is no name of a data set."""
    need_name(name)
    return exclusive(datasets_folder() / name / ".lock", f"data set {name}")


def find_version(name: str, ingredients: Mapping[str, Any]) -> Prepared | None:
    """The version that is made of exactly this."""
    fingerprint = sha256_text(canonical_json(ingredients))
    made = versions(datasets_folder() / name)
    return next((old for old in made if old.manifest["fingerprint"] == fingerprint), None)


def add_version(
    name: str,
    parts: Mapping[str, Sequence[Item]],
    *,
    ingredients: Mapping[str, Any],
    recipe: Mapping[str, Any],
    report: Mapping[str, Any],
) -> Prepared:
    """The next version of `name`; every part becomes a split. Raises BessemerError when the disk is full."""
    shelf = datasets_folder() / name
    number = max((int(old.manifest["version"]) for old in versions(shelf)), default=0) + 1
    with new_folder(shelf / str(number)) as tmp:
        for part, items in parts.items():
            write_part(tmp / part / "part-00000.parquet", items)
        write_json(tmp / "report.json", report)
        manifest = {
            "format": FORMAT,
            "name": name,
            "version": str(number),
            "fingerprint": sha256_text(canonical_json(ingredients)),
            "ingredients": ingredients,
            "recipe": recipe,
            "moderation": report,
            "splits": {part: {"items": len(items), "files": 1} for part, items in parts.items()},
            "files": digest_files(tmp, frozenset({MANIFEST})),
        }
        write_json(tmp / MANIFEST, manifest)
    return Prepared(shelf / str(number), manifest, new=True)
