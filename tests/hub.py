"""A small server that speaks enough of the hub's protocol for models and data sets."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

OLD, NEW = "a" * 40, "b" * 40


@dataclass
class Hub:
    """One repository with a branch `main` that can move; `commits` holds its files. kind: models or datasets.

    branches: more of them. token: without it files are refused (gated); private: so is the rest. cut: bytes of an
    answer after which the connection breaks, as often as `cuts` says. down: it answers nobody. liar: a file whose
    bytes differ from its hash.
    """

    repo: str
    kind: str = "models"
    url: str = ""
    main: str = OLD
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)  # of file requests that went on somewhere
    sent: dict[str, int] = field(default_factory=dict)  # bytes of each file that left the server
    token: str = ""
    private: bool = False
    cut: int = 0
    cuts: int = 0
    down: bool = False
    liar: str = ""


def sibling(name: str, data: bytes) -> dict[str, Any]:
    """What `?blobs=true` says of a file: large ones lie in LFS."""
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - git's own
    facts: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git}
    if name.endswith(".safetensors"):
        facts["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return facts


@contextmanager
def serve(found: Hub) -> Iterator[Hub]:
    repo = found.repo.split("/")
    files_at = [*([] if found.kind == "models" else [found.kind]), *repo]

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            found.asked.append(self.path)
            if found.down:
                self.send(503, b"", {})
                return
            closed = found.token and (found.private or "/resolve/" in self.path)
            if closed and self.headers.get("Authorization") != f"Bearer {found.token}":
                self.refuse()
                return
            parts = unquote(self.path.partition("?")[0]).strip("/").split("/")
            if parts[:5] == ["api", found.kind, *repo, "tree"]:
                self.tree(parts[5])
            elif parts[:5] == ["api", found.kind, *repo, "refs"]:
                self.refs()
            elif parts[:4] == ["api", found.kind, *repo]:
                self.info("/".join(parts[5:]) if "revision" in parts else "main")
            elif parts[: len(files_at) + 1] == [*files_at, "resolve"]:
                self.file(parts[len(files_at) + 1], "/".join(parts[len(files_at) + 2 :]))
            else:
                self.send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})

        def refuse(self) -> None:
            if "Authorization" in self.headers:  # expired or wrong
                self.send(401, b'{"error": "Invalid credentials in Authorization header"}', {})
                return
            self.send(401, b'{"error": "Access is restricted"}', {"X-Error-Code": "GatedRepo"})

        def refs(self) -> None:
            refs = {"main": found.main, **found.branches}
            branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in refs.items()]
            body = {"branches": branches, "tags": [], "converts": []}
            self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

        def info(self, revision: str) -> None:
            commit = {"main": found.main, **found.branches}.get(revision, revision)
            if commit not in found.commits:
                self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return
            siblings = [sibling(name, data) for name, data in found.commits[commit].items()]
            body = {
                "id": found.repo,
                "modelId": found.repo,
                "sha": commit,
                "private": False,
                "tags": [],
                "siblings": siblings,
            }
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
            if name == found.liar:
                data = data[:-1] + bytes([data[-1] ^ 1])
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            asked = self.headers.get("Range", "")
            if asked and self.command == "GET":
                found.ranges.append(asked)
                first = int(asked.removeprefix("bytes=").partition("-")[0])
                headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
                self.send(206, data[first:], headers, name)
            else:
                self.send(200, data, headers, name)

        def send(self, status: int, body: bytes, headers: dict[str, str], name: str = "") -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "GET":
                return
            if name and found.cuts and len(body) > found.cut > 0:
                found.cuts -= 1
                body = body[: found.cut]
                self.close_connection = True
                found.down = not found.cuts
            found.sent[name] = found.sent.get(name, 0) + len(body)
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
