"""The real huggingface_hub in a process of its own, against a small server that speaks the hub's protocol."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import NEW, OLD, Hub, serve

REPO = "tests/tiny"
PROGRAM = """
import sys
from bessemer.errors import BessemerError
from bessemer.families.fetch import resolve
try:
    found = resolve(sys.argv[1])
    print(found.digest, found.origin, found.name, found.path, sep="\\n")
except BessemerError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def hub(tiny_model: Path) -> Iterator[Hub]:
    files = {p.name: p.read_bytes() for p in tiny_model.iterdir()}
    commits = {OLD: {**files, "evil.py": b"raise SystemExit"}, NEW: {**files, "LICENSE": b"Apache-2.0"}}
    with serve(Hub(REPO, commits=commits)) as found:
        yield found


def resolve(hub_url: str, start: str, *, offline: bool = False) -> subprocess.CompletedProcess[str]:
    settings = {
        "HF_ENDPOINT": hub_url,
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-c", PROGRAM, start]
    return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False, timeout=120)


def test_a_hub_id_is_pinned_to_its_commit_and_works_offline(hub: Hub, bessemer_home: Path) -> None:
    first = resolve(hub.url, REPO)
    assert first.returncode == 0, first.stdout + first.stderr
    digest, origin, name, folder = first.stdout.splitlines()
    assert (origin, name) == (f"hub {REPO} at commit {OLD}", REPO)
    assert Path(folder).is_relative_to(bessemer_home) and not (Path(folder) / "evil.py").exists()
    assert not any("evil.py" in path for path in hub.asked)

    hub.main = NEW  # the branch moves; a start that was resolved once stays where it was
    assert resolve(hub.url, REPO).stdout.splitlines()[:2] == [digest, origin]
    assert resolve("http://127.0.0.1:9", REPO, offline=True).stdout.splitlines()[:2] == [digest, origin]
    assert resolve("http://127.0.0.1:9", REPO).stdout.splitlines()[:2] == [digest, origin]  # the hub is down


def test_a_commit_can_be_named(hub: Hub) -> None:
    found = resolve(hub.url, f"{REPO}@{NEW}")
    assert found.stdout.splitlines()[1] == f"hub {REPO} at commit {NEW}", found.stdout + found.stderr


@pytest.mark.parametrize("start", ["tests/none", f"{REPO}@{'c' * 40}", "bad--name/..x"])
def test_what_the_hub_does_not_have_is_one_clear_error(hub: Hub, start: str, bessemer_home: Path) -> None:
    found = resolve(hub.url, start)
    assert found.returncode == 4, found.stderr
    assert found.stdout.startswith(f"{start}: the hub could not deliver it") and "fix: " in found.stdout
    assert not list((bessemer_home / "cache" / "hub").glob("*.json"))  # nothing was pinned


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_that_cannot_be_reached_is_one_clear_error(offline: bool) -> None:
    found = resolve("http://127.0.0.1:9", REPO, offline=offline)
    assert found.returncode == 4, found.stderr
    assert found.stdout.startswith(f"{REPO}: the hub could not deliver it")
