"""A checkpoint in a folder that can be carried into a site without a network: `bessemer families export | import`.

FOLDER/model/ holds the files, FOLDER/model.optimizer/ the state of its optimizer where there is one, FOLDER/family.yaml
what the catalogue says, FOLDER/licence.txt the licence, and FOLDER/checkpoint.json, written last, the sha256 of every
file. Nothing is packed, so nothing needs to be unpacked.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.families import catalogue, package, terms
from bessemer.families.check import check_model
from bessemer.families.fetch import Checkpoint, resolve
from bessemer.families.imported import FORMAT, MANIFEST, Imported, place, read
from bessemer.files import (
    check_files,
    digest_files,
    digest_of_files,
    exclusive,
    fsync_folder,
    need_disk,
    need_writable,
    new_folder,
    read_record,
    write_record,
    write_text,
)

COPY_AGAIN = "copy it again from where it was exported"


def export(start: str, out: Path) -> Checkpoint:
    """Write a checkpoint's folder, fetched first when it is not here.

    Raises BessemerError when it cannot be resolved, the folder exists, or there is too little disk.
    """
    out = out.expanduser().absolute()
    if out.exists():
        raise BessemerError("it exists", where=str(out), fix="give a new folder: --out FOLDER")
    found = resolve(start)
    need_writable(out.parent)
    state = found.path.with_name(f"{found.path.name}.optimizer")
    papers = digest_files(state) if state.is_dir() else {}
    need_disk(out.parent, _bytes(found.files) + _bytes(papers), f"exporting {start}")
    facts = {key: getattr(found, key) for key in ("name", "digest", "origin", "licence", "end_of_text", "files")}
    with new_folder(out) as tmp:
        (tmp / "model").mkdir()
        for name in found.files:
            shutil.copyfile(found.path / name, tmp / "model" / name)
        check_files(tmp / "model", found.files, fix="it changed while it was copied; try again")
        if papers:
            shutil.copytree(state, tmp / "model.optimizer")
        write_text(tmp / "licence.txt", _licence(found))
        if found.entry:
            write_text(tmp / "family.yaml", catalogue.text_of(found.entry.size))
        write_record(tmp / MANIFEST, {"format": FORMAT, "start": start, **facts, "papers": _papers(tmp)})
    return found


def bring(folder: Path) -> Imported:
    """Check every byte of an exported folder and put a copy where `start:` finds it. An older copy stays until then.

    Raises BessemerError when a file is missing or differs, or the folder is no export.
    """
    if not (folder / MANIFEST).is_file():
        raise BessemerError(
            f"no exported checkpoint: {MANIFEST} is missing",
            where=str(folder),
            fix="give a folder that `bessemer families export NAME --out FOLDER` made",
        )
    given = read(folder)
    if given.digest != digest_of_files(given.files):
        raise BessemerError("its digest is not that of its files", where=str(folder / MANIFEST), fix=COPY_AGAIN)
    final = place(given.start)
    need_writable(final.parent)
    with exclusive(final.with_name(f"{final.name}.lock"), f"the import of {given.start}"):
        older = _aside(final)
        if older.exists() and not final.exists():
            older.rename(final)  # the process was killed between the two names
        papers = read_record(folder / MANIFEST).get("papers", {})
        need_disk(final.parent, _bytes(given.files) + _bytes(papers), f"importing {given.start}")
        check_files(folder, papers, fix=COPY_AGAIN)
        check_files(folder / "model", given.files, fix=COPY_AGAIN)
        check_model(folder / "model")
        family = _family(folder / "family.yaml", given.start)
        made = final.with_name(f".new-{final.name}")
        shutil.rmtree(made, ignore_errors=True)  # of a process that was killed
        with new_folder(made) as tmp:
            (tmp / "model").mkdir()
            for name in given.files:
                shutil.copyfile(folder / "model" / name, tmp / "model" / name)
            for name in (*papers, MANIFEST):
                (tmp / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(folder / name, tmp / name)
            check_files(tmp, papers, fix=COPY_AGAIN)
            check_files(tmp / "model", given.files, fix=COPY_AGAIN)
        _put(made, final)
        if family:
            catalogue.add(family, where=str(final / "family.yaml"), name=given.start.partition("@")[0])
    return read(final)


def _aside(final: Path) -> Path:
    """Where an older copy lies while a new one takes its name."""
    return final.with_name(f".old-{final.name}")


def _put(made: Path, final: Path) -> None:
    """Give a finished folder its name. At every moment the older copy or the new one is whole on the disk."""
    older = _aside(final)
    shutil.rmtree(older, ignore_errors=True)
    if final.exists():
        final.rename(older)
    try:
        made.rename(final)
    except BaseException:
        if older.exists():
            older.rename(final)
        shutil.rmtree(made, ignore_errors=True)
        raise
    fsync_folder(final.parent)
    shutil.rmtree(older, ignore_errors=True)


def _family(file: Path, start: str) -> str:
    """What a family file that came along says of this start's size, unless this machine's catalogue has it already.

    A family may come in parts: each import brings one size. Raises BessemerError for a file about other sizes.
    """
    size = start.partition("@")[0]
    known = {name for f in catalogue.families() for name in catalogue.sizes_of(f)}
    return catalogue.only(file.read_text(), size, where=str(file)) if file.exists() and size not in known else ""


def _papers(folder: Path) -> dict[str, Any]:
    """What lies beside the model."""
    return {name: facts for name, facts in digest_files(folder).items() if not name.startswith("model/")}


def _bytes(files: dict[str, dict[str, Any]]) -> int:
    return sum(facts["bytes"] for facts in files.values())


def _licence(found: Checkpoint) -> str:
    """The licence's text where it came with the weights; its name and where it stands otherwise."""
    head = f"{found.name}: {found.licence}\n"
    entry = found.entry
    if entry and entry.sources.get("licence"):
        head += f"as stated by {entry.sources['licence']}\n"
    names = (n for n in found.files if n.startswith("LICENSE") and not n.endswith(".pdf"))
    texts = [(found.path / name).read_text(errors="replace") for name in names]
    if entry and entry.terms:
        head += f"{entry.terms.name}: {entry.terms.url}\n"
        texts.append(terms.text_of(entry.terms))
    if entry and entry.package:
        texts += package.licences(entry.package)
    return "\n\n".join(filter(None, [head, *texts]))
