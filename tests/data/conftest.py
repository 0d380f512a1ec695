"""What tests of data share: small disks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import pytest


@pytest.fixture
def disk_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[str], Path]]:
    """Makes a real file system of a size such as 3m, as BESSEMER_HOME. Only root can."""
    disk = tmp_path / "disk"

    def make(size: str) -> Path:
        disk.mkdir()
        mount = ["/bin/mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("mounting a disk needs root")
        monkeypatch.setenv("BESSEMER_HOME", str(disk))
        return disk

    yield make
    if disk.is_mount():
        subprocess.run(["/bin/umount", disk], check=True)
