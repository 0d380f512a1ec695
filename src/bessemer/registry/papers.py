"""What an evaluation and a contest have in common: results by digest, copies of seals, and a manifest of it all.

results/         one file for each model and task, by digest
seals/NAME/      the seal as it stood, without its key
manifest.json    sha256 of every file
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.evaluate import seal
from bessemer.evaluate.result import TaskResult, read_result
from bessemer.evaluate.submissions import submissions_of
from bessemer.files import check_files, digest_files, read_json, sha256_file, write_json, write_text

MANIFEST, RESULTS, SEALS = "manifest.json", "results", "seals"
RESTORE = "ask for it again, or restore the folder from a copy"


def next_folder(root: Path, name: str) -> Path:
    """root/NAME-N with the next number."""
    known = (p.name.removeprefix(f"{name}-") for p in root.iterdir() if p.name.startswith(f"{name}-"))
    return root / f"{name}-{max((int(n) for n in known if n.isdecimal()), default=0) + 1}"


def find_papers(name: str, root: Path, card: str, what: str) -> Path:
    """A folder: by its path, the path of its card, or its name below root. Raises BessemerError."""
    for path in (Path(name), root / name):
        folder = path.parent if path.name == card else path
        if (folder / card).is_file():
            return folder
    known = ", ".join(p.parent.name for p in sorted(root.glob(f"*/{card}"))) or "none yet"
    raise BessemerError(f"there is no {what} {name!r}", where=str(root), fix=f"here: {known}")


def write_papers(folder: Path, results: Iterable[TaskResult], heads: Mapping[str, str]) -> None:
    """Results and seals into a folder that is being made. heads: of each seal the last entry that the card knows; what
    others wrote into its ledger since then is left out."""
    for result in {r.digest: r for r in results}.values():
        write_json(folder / RESULTS / f"{result.digest}.json", result.as_json())
    for name, head in sorted(heads.items()):
        found, to = seal.load(name), folder / SEALS / name
        to.mkdir(parents=True)
        n = next(n for n, entry in enumerate(found.entries, 1) if entry["hash"] == head)
        revealed = [seal.REVEALED] if any(e["event"] == "revealed" for e in found.entries[:n]) else []
        for file in (seal.COMMITMENT, *found.commitment["files"], *revealed):
            shutil.copyfile(found.folder / file, to / file)
        lines = (found.folder / seal.LEDGER).read_bytes().split(b"\n")
        write_text(to / seal.LEDGER, (b"\n".join(lines[:n]) + b"\n").decode())


def finish_papers(folder: Path) -> None:
    """The manifest, last."""
    write_json(folder / MANIFEST, digest_files(folder))


def check_papers(folder: Path, card: str, head: str) -> None:
    """Every byte is that of the manifest. head: sha256 that the manifest must have; "" for any."""
    for name in (MANIFEST, card):
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise BessemerError(f"{name} is missing or no plain file", where=str(folder), fix=RESTORE)
    if head and (got := sha256_file(folder / MANIFEST)) != head:
        raise BessemerError(
            f"another manifest: sha256 {got[:12]}..., not {head[:12]}...", where=str(folder / MANIFEST), fix=RESTORE
        )
    files = read_json(folder / MANIFEST)
    check_files(folder, files, fix=RESTORE)
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
    if unknown := sorted(there - files.keys() - {MANIFEST}):
        raise BessemerError(f"{unknown[0]} is not in the manifest", where=str(folder), fix="remove it")


def read_results(folder: Path, digests: Sequence[str]) -> list[TaskResult]:
    return [read_result(folder / RESULTS / f"{d}.json", d) for d in digests]


def need_models(where: str, results: Sequence[TaskResult], digests: Sequence[str | None]) -> None:
    """Raises BessemerError when results are of other models than the card says."""
    if (found := [r.model for r in results]) != list(digests):
        raise BessemerError(
            f"the results are of {', '.join(m[:12] for m in found) or 'no model'}, not of "
            f"{', '.join(str(d)[:12] for d in digests) or 'none'}",
            where=where,
            fix=RESTORE,
        )


def check_seal(folder: Path, facts: Mapping[str, Any], spec: Mapping[str, Any], results: Sequence[TaskResult]) -> None:
    """The seal is sound, is the one that `facts` describe, holds this task, and its ledger these results."""
    where = folder / SEALS / facts["name"]
    found = seal.verify_seal(where, head=facts["head"], commitment=facts["commitment"])
    known = submissions_of(found.entries)
    if facts["submissions"] != [s.as_json() for s in known] or facts["head"] != found.head:
        raise BessemerError("other submissions are listed than the ledger has", where=str(where), fix=RESTORE)
    if any(facts[key] != found.commitment[key] for key in ("root", "created", "counts")):
        raise BessemerError("other things are said of the seal than it says", where=str(where), fix=RESTORE)
    if any(spec.get(k) != v for k, v in found.task.items() if k != "scorer_sha256"):
        raise BessemerError("the task is not the one that was sealed", where=str(where), fix=RESTORE)
    leaves = seal.leaves_of(found)
    for result in results:
        if not any(s.model == result.model and s.result == result.digest for s in known):
            raise BessemerError(
                f"the ledger holds no result {result.digest[:12]}... of model {result.model[:12]}",
                where=str(where),
                fix=RESTORE,
            )
        ids = {*result.columns.ids, *(result.controls.ids if result.controls else ())}
        if ids != leaves:
            raise BessemerError(
                f"the result is about {len(ids)} items, {len(ids & leaves)} of them of the {len(leaves)} sealed ones",
                where=str(where),
                fix=RESTORE,
            )


def compare(written: Mapping[str, Any], computed: Mapping[str, Any], where: Path) -> None:
    """Raises BessemerError when a card is not what its results give."""
    difference = next(_differences("", written, json.loads(json.dumps(computed))), None)
    if difference is None:
        return
    path, a, b = difference
    changed = sorted(k for k, v in seal.code_digests().items() if written["code"].get(k) != v)
    raise BessemerError(
        f"{path} is {a!r}, but the results give {b!r}",
        where=str(where),
        fix=f"it was computed by other code ({', '.join(changed)}): check it with that version"
        if changed
        else "it was edited; only what the results give counts",
    )


def _differences(path: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    """(path, one value, the other) wherever two JSON values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            yield from _differences(f"{path}.{key}" if path else key, a.get(key), b.get(key))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for n, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _differences(f"{path}[{n}]", x, y)
    elif isinstance(a, float) and isinstance(b, float):
        near = math.isfinite(a) and math.isfinite(b) and abs(a - b) <= 1e-5 * max(1.0, abs(a))
        if not near and a != b:  # another processor may round otherwise
            yield path, a, b
    elif a != b:
        yield path, a, b
