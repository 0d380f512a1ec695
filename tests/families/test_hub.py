"""A small server that speaks enough of the hub's protocol, and the real huggingface_hub in a process of its own."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPO = "tests/tiny"
OLD, NEW = "a" * 40, "b" * 40
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


@dataclass
class Hub:
    """One repository with a branch `main` that can move; `commits` holds its files."""

    url: str = ""
    main: str = OLD
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def hub(tiny_model: Path) -> Iterator[Hub]:
    files = {p.name: p.read_bytes() for p in tiny_model.iterdir()}
    found = Hub(commits={OLD: {**files, "evil.py": b"raise SystemExit"}, NEW: {**files, "LICENSE": b"Apache-2.0"}})

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            found.asked.append(self.path)
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:5] == ["api", "models", *REPO.split("/"), "tree"]:
                self.tree(parts[5])
            elif parts[:4] == ["api", "models", *REPO.split("/")]:
                self.info(parts[5] if "revision" in parts else "main")
            elif parts[:3] == [*REPO.split("/"), "resolve"]:
                self.file(parts[3], "/".join(parts[4:]))
            else:
                self.send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})

        def info(self, revision: str) -> None:
            commit = found.main if revision == "main" else revision
            if commit not in found.commits:
                self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return
            siblings = [{"rfilename": name} for name in found.commits[commit]]
            body = {"id": REPO, "modelId": REPO, "sha": commit, "private": False, "tags": [], "siblings": siblings}
            self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

        def tree(self, commit: str) -> None:
            files = found.commits[commit]
            body = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}  # noqa: S324
                for name, data in files.items()
            ]
            self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

        def file(self, commit: str, name: str) -> None:
            data = found.commits.get(commit, {}).get(name)
            if data is None:
                self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            etag = hashlib.sha256(data).hexdigest()
            self.send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"})

        def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()


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
    assert found.returncode == 2, found.stderr
    assert found.stdout.startswith(f"{start}: the hub could not deliver it") and "fix: " in found.stdout
    assert not list((bessemer_home / "cache" / "hub").glob("*.json"))  # nothing was pinned


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_that_cannot_be_reached_is_one_clear_error(offline: bool) -> None:
    found = resolve("http://127.0.0.1:9", REPO, offline=offline)
    assert found.returncode == 2, found.stderr
    assert found.stdout.startswith(f"{REPO}: the hub could not deliver it")
