"""Tiny packages for pip, made by hand, in a folder that pip takes for its index."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from bessemer.files import sha256_file

BACKEND = """\
import pathlib

pathlib.Path({marker!r}).write_text("code of the package ran")


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = pathlib.Path(metadata_directory) / "tinytext-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: tinytext\\nVersion: 1.0\\n")
    return folder.name
"""


def use_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip sees this folder and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")


def write_wheel(folder: Path, members: dict[str, bytes], name: str = "tinymodel") -> tuple[Path, str]:
    """(wheel, its sha256)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    papers = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for member, data in {**members, **papers}.items():
            wheel.writestr(member, data)
        wheel.writestr(f"{info}/RECORD", "".join(f"{m},,\n" for m in [*members, *papers]))
    return path, sha256_file(path)


def write_sdist(folder: Path, members: dict[str, bytes], marker: Path) -> tuple[Path, str]:
    """(source archive of tinytext 1.0, its sha256). Building its metadata creates `marker`; no network needed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tinytext-1.0.tar.gz"
    build = b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    papers = {
        "PKG-INFO": b"Metadata-Version: 2.1\nName: tinytext\nVersion: 1.0\n",
        "pyproject.toml": build,
        "backend.py": BACKEND.format(marker=str(marker)).encode(),
    }
    path.write_bytes(tar_of({f"tinytext-1.0/{k}": v for k, v in {**papers, **members}.items()}))
    return path, sha256_file(path)


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
