"""A checkpoint is carried into a site without a network: the hub is gone, every byte is checked, nothing half-way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from bessemer.errors import BessemerError
from bessemer.families import airgap, catalogue
from bessemer.families.fetch import Checkpoint, resolve
from bessemer.families.imported import licence_of
from bessemer.files import digest_files, read_json, write_record
from tests.families.test_fetch import add_private
from tests.hub import OLD, Hub, serve

EXPORT = """
import sys
from pathlib import Path
from bessemer.families.airgap import export
print(export(sys.argv[1], Path(sys.argv[2])).digest)
"""
RESOLVE = """
import sys
from bessemer.families.fetch import resolve
found = resolve(sys.argv[1])
print(found.digest, found.origin, found.path, sep="\\n")
"""


def run(program: str, *arguments: str, home: Path, url: str, offline: bool) -> list[str]:
    settings = {"BESSEMER_HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_OFFLINE": str(int(offline)), "HF_TOKEN": ""}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def other_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "site"
    monkeypatch.setenv("BESSEMER_HOME", str(home))
    return home


@pytest.fixture
def exported(tiny_model: Path, tmp_path: Path) -> tuple[Path, Checkpoint]:
    """A private family's checkpoint in a folder, and what it is."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "LICENSE").write_text("You may use it.")
    add_private(model)
    return tmp_path / "out", airgap.export("mine-tiny@pre", tmp_path / "out")


def test_from_the_hub_into_a_site_where_there_is_none(
    tiny_model: Path, tmp_path: Path, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {p.name: p.read_bytes() for p in tiny_model.iterdir()}
    with serve(Hub("tests/tiny", commits={OLD: files})) as hub:
        url = hub.url
        (digest,) = run(EXPORT, "tests/tiny", str(tmp_path / "out"), home=bessemer_home, url=url, offline=False)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"checkpoint.json", "licence.txt", "model"}

    home = other_site(tmp_path, monkeypatch)
    assert airgap.bring(tmp_path / "out").digest == digest
    shutil.rmtree(tmp_path / "out")
    got, origin, path = run(RESOLVE, "tests/tiny", home=home, url=url, offline=True)
    assert got == digest and origin == f"hub tests/tiny at commit {OLD}" and Path(path).is_relative_to(home)


def test_a_family_that_the_site_does_not_know_comes_along(
    exported: tuple[Path, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, before = exported
    assert "You may use it." in (folder / "licence.txt").read_text()
    other_site(tmp_path, monkeypatch)
    with pytest.raises(BessemerError, match="no checkpoint of the catalogue"):
        resolve("mine-tiny@pre")
    shutil.rmtree(tmp_path / "model")  # it was where the family file says; there it is not
    airgap.bring(folder)
    after = resolve("mine-tiny@pre")
    assert after == before.__class__(**{**vars(before), "path": after.path})
    assert (after.stage, after.licence) == ("pre", "internal") and after.entry == catalogue.find("mine-tiny@pre")
    airgap.bring(folder)  # once more changes nothing
    assert resolve("mine-tiny@pre") == after


@pytest.mark.parametrize("name", ["model/model.safetensors", "model/config.json", "licence.txt", "family.yaml"])
def test_a_changed_byte_is_refused_and_nothing_becomes_visible(
    exported: tuple[Path, Checkpoint], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported[0] / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    home = other_site(tmp_path, monkeypatch)
    with pytest.raises(BessemerError, match="its bytes changed") as caught:
        airgap.bring(exported[0])
    assert caught.value.where == str(path) and "copy it again" in caught.value.fix
    assert [p for p in (home / "imported").iterdir() if p.suffix != ".lock"] == []
    assert not (home / "families").exists()


def test_a_missing_file_a_changed_manifest_and_no_export_are_refused(
    exported: tuple[Path, Checkpoint], tmp_path: Path
) -> None:
    folder = exported[0]
    with pytest.raises(BessemerError, match=r"no exported checkpoint: checkpoint\.json is missing"):
        airgap.bring(tmp_path)
    manifest = folder / "checkpoint.json"
    text = manifest.read_text()
    manifest.write_text(text.replace("internal", "public"))
    with pytest.raises(BessemerError, match="its content changed since it was written"):
        airgap.bring(folder)
    manifest.write_text(text)
    (folder / "model" / "tokenizer.json").unlink()
    with pytest.raises(BessemerError, match="the file is missing"):
        airgap.bring(folder)


@pytest.mark.parametrize("place", ["files", "papers"])
@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "a/../../escaped", "a\\\\b"])
def test_a_manifest_cannot_name_files_elsewhere(exported: tuple[Path, Checkpoint], place: str, name: str) -> None:
    manifest = exported[0] / "checkpoint.json"
    record = read_json(manifest)
    record.pop("sha256")
    record[place][name] = record["files"]["config.json"]
    write_record(manifest, record)
    with pytest.raises(BessemerError, match="no exported checkpoint of this version"):
        airgap.bring(exported[0])


def altered(folder: Path, **facts: object) -> None:
    """Another manifest with a right hash: anybody can write one."""
    record = read_json(folder / "checkpoint.json")
    record.pop("sha256")
    write_record(folder / "checkpoint.json", record | facts)


@pytest.mark.parametrize("start", ["../../escaped@pre", "/tmp/escaped@pre", "mine-other@pre"])
def test_a_family_file_is_about_the_start_and_lands_among_the_families(
    exported: tuple[Path, Checkpoint], start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered(exported[0], start=start)
    home = other_site(tmp_path, monkeypatch)
    with pytest.raises(BessemerError, match="it describes mine-tiny, not"):
        airgap.bring(exported[0])
    assert not (home / "families").exists() and [p for p in (home / "imported").iterdir() if p.is_dir()] == []
    assert not list(tmp_path.rglob("escaped*"))


def test_a_digest_is_that_of_the_files(exported: tuple[Path, Checkpoint]) -> None:
    altered(exported[0], digest="f" * 64)
    with pytest.raises(BessemerError, match="its digest is not that of its files"):
        airgap.bring(exported[0])


def test_of_a_family_file_only_the_size_that_was_carried_is_learnt(
    exported: tuple[Path, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter's catalogue may be newer: other sizes in it must not stand in the way."""
    folder, file = exported[0], exported[0] / "family.yaml"
    family = yaml.safe_load(file.read_text())
    family["sizes"]["other"] = deepcopy(family["sizes"]["tiny"])
    file.write_text(yaml.safe_dump(family))
    altered(folder, papers={n: f for n, f in digest_files(folder).items() if "/" not in n and n != "checkpoint.json"})
    other_site(tmp_path, monkeypatch)
    airgap.bring(folder)
    known = {size for f in catalogue.families() for size in catalogue.sizes_of(f)}
    assert "mine-tiny" in known and "mine-other" not in known


def test_a_file_that_was_added_later_is_refused(exported: tuple[Path, Checkpoint]) -> None:
    """Such as a chat template, which makes other prompts of the same weights."""
    (airgap.bring(exported[0]).folder / "model" / "tokenizer.model").write_text("other")
    with pytest.raises(BessemerError, match="was not there when the others were fetched"):
        resolve("mine-tiny@pre")


def test_terms_are_accepted_by_the_text_that_was_carried_in(
    exported: tuple[Path, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_site(tmp_path, monkeypatch)
    assert licence_of("mine-tiny") == ""
    airgap.bring(exported[0])
    assert "You may use it." in licence_of("mine-tiny") and licence_of("mine-small") == ""


def test_the_optimizer_s_state_comes_along(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, state = shutil.copytree(tiny_model, tmp_path / "model"), tmp_path / "model.optimizer"
    state.mkdir()
    (state / "manifest.json").write_text("{}")
    add_private(model)
    airgap.export("mine-tiny@pre", tmp_path / "out")
    other_site(tmp_path, monkeypatch)
    airgap.bring(tmp_path / "out")
    path = resolve("mine-tiny@pre").path
    assert (path.with_name(f"{path.name}.optimizer") / "manifest.json").read_text() == "{}"  # as plan/ looks for it
    (tmp_path / "out" / "model.optimizer" / "manifest.json").write_text("[]")
    with pytest.raises(BessemerError, match="its bytes changed"):
        airgap.bring(tmp_path / "out")


def test_what_was_imported_is_checked_whenever_it_is_used(exported: tuple[Path, Checkpoint]) -> None:
    weights = airgap.bring(exported[0]).folder / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(BessemerError, match="its bytes changed since it was fetched") as caught:
        resolve("mine-tiny@pre")
    assert "bessemer families import" in caught.value.fix


def test_an_export_never_overwrites_and_a_failure_leaves_nothing(
    exported: tuple[Path, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BessemerError, match="it exists"):
        airgap.export("mine-tiny@pre", exported[0])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 10))  # type: ignore[attr-defined]
    with pytest.raises(BessemerError, match="of disk"):
        airgap.export("mine-tiny@pre", tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_sizes_of_one_family_come_one_after_the_other(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in ("tiny", "small"):
        monkeypatch.setenv("BESSEMER_HOME", str(tmp_path / size))
        add_private(tiny_model, size=size)
        airgap.export(f"mine-{size}@pre", tmp_path / f"out-{size}")
    other_site(tmp_path, monkeypatch)
    for size in ("tiny", "small"):
        airgap.bring(tmp_path / f"out-{size}")
    for size in ("tiny", "small"):
        assert resolve(f"mine-{size}@pre").name == f"mine-{size}@pre"
