"""What no source may read: sealed tasks and keys, however the address is spelt. Formats and layouts: test_sources."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bessemer.data.open import list_files, open_file
from bessemer.data.sources import Source
from bessemer.errors import BessemerError

WHAT = "belongs to a sealed task or is a key, and no source may read those"
LINE = json.dumps({"text": "A sealed item."}) + "\n"


@pytest.fixture
def seal(bessemer_home: Path) -> Path:
    folder = bessemer_home / "seals" / "rules"
    folder.mkdir(parents=True)
    for name in ("public.jsonl", "revealed.jsonl"):
        (folder / name).write_text(LINE)
    for name in ("commitment.json", "leaves.json"):
        (folder / name).write_text("{}")
    (folder / "sealed.bin").write_bytes(b"x")
    (bessemer_home / "keys" / "seals").mkdir(parents=True)
    (bessemer_home / "keys" / "seals" / "rules.key").write_bytes(b"k")
    return folder


def linked_file(seal: Path, at: Path) -> str:
    (at / "data.jsonl").symlink_to(seal / "public.jsonl")
    return str(at / "data.jsonl")


def linked_folder(seal: Path, at: Path) -> str:
    (at / "data").symlink_to(seal.parent)
    return str(at / "data")


def linked_below(seal: Path, at: Path) -> str:
    (at / "folder").mkdir()
    (at / "folder" / "a.jsonl").write_text(LINE)
    (at / "folder" / "b").symlink_to(seal)
    return str(at / "folder")


def a_copy(seal: Path, at: Path) -> str:
    shutil.copytree(seal, at / "copy")
    return str(at / "copy" / "revealed.jsonl")


ADDRESSES: dict[str, Callable[[Path, Path], str]] = {
    "file": lambda seal, _: str(seal / "public.jsonl"),
    "revealed": lambda seal, _: str(seal / "revealed.jsonl"),
    "no data": lambda seal, _: str(seal / "sealed.bin"),
    "folder": lambda seal, _: str(seal),
    "room": lambda seal, _: str(seal.parent),
    "home": lambda seal, _: str(seal.parents[1]),
    "dots": lambda seal, _: str(seal.parents[1] / "datasets" / ".." / "seals" / "rules" / "public.jsonl"),
    "relative": lambda seal, _: os.path.relpath(seal / "public.jsonl"),
    "glob": lambda seal, _: str(seal.parents[1] / "*" / "*" / "*.jsonl"),
    "deep glob": lambda seal, _: str(seal.parents[1] / "**" / "public.jsonl"),
    "glob in": lambda seal, _: str(seal / "pub*.jsonl"),
    "not there": lambda seal, _: str(seal / "later.jsonl"),
    "key": lambda seal, _: str(seal.parents[1] / "keys" / "seals" / "rules.key"),
    "keys": lambda seal, _: str(seal.parents[1] / "keys"),
    "url": lambda seal, _: f"file://{seal}/public.jsonl",
    "url folder": lambda seal, _: f"file://{seal}",
    "url glob": lambda seal, _: f"local://{seal.parents[1]}/*/*/public.jsonl",
    "link": linked_file,
    "linked folder": linked_folder,
    "link below a folder": linked_below,
    "copy": a_copy,
    "copied folder": lambda seal, at: str(Path(a_copy(seal, at)).parent),
}


@pytest.mark.parametrize("spell", ADDRESSES.values(), ids=ADDRESSES.keys())
def test_no_address_leads_into_a_seal(spell: Callable[[Path, Path], str], seal: Path, tmp_path: Path) -> None:
    address = spell(seal, tmp_path)
    with pytest.raises(BessemerError, match=WHAT) as caught:
        list(Source(address, where="sources.own.from"))
    assert "take it out of the sources" in caught.value.fix


def test_a_home_spelt_through_a_link_hides_nothing(seal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").symlink_to(seal.parents[1])
    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path / "home"))
    with pytest.raises(BessemerError, match=WHAT):
        list_files(str(seal / "public.jsonl"))
    moved = tmp_path / "big disk"
    seal.parent.rename(moved)
    seal.parent.symlink_to(moved)  # the room itself lies elsewhere
    with pytest.raises(BessemerError, match=WHAT):
        list_files(str(moved / "rules" / "public.jsonl"))


def test_a_link_that_leads_elsewhere_since_it_was_listed(seal: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(LINE)
    (file,) = list_files(str(path))
    path.unlink()
    path.symlink_to(seal / "public.jsonl")
    with pytest.raises(BessemerError, match=WHAT):
        open_file(file)


def test_what_lies_beside_is_read_as_ever(seal: Path, tmp_path: Path) -> None:
    for folder in (seal.parents[1] / "sealsfoot", tmp_path / "seals", tmp_path / "keys"):
        folder.mkdir()
        (folder / "public.jsonl").write_text(LINE)
        assert [item.text for item in Source(str(folder))] == ["A sealed item."]


@pytest.mark.parametrize("address", ["a\0b.jsonl", "x" * 5000])
def test_what_can_be_no_name_is_still_one_clear_error(address: str) -> None:
    with pytest.raises(BessemerError, match="does not exist|cannot be read"):
        list_files(address)
