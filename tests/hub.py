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
    """One repository with a branch `main` that can move; `commits` holds its files. kind: models or datasets."""

    repo: str
    kind: str = "models"
    url: str = ""
    main: str = OLD
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


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
            parts = unquote(self.path.partition("?")[0]).strip("/").split("/")
            if parts[:5] == ["api", found.kind, *repo, "tree"]:
                self.tree(parts[5])
            elif parts[:4] == ["api", found.kind, *repo]:
                self.info(parts[5] if "revision" in parts else "main")
            elif parts[: len(files_at) + 1] == [*files_at, "resolve"]:
                self.file(parts[len(files_at) + 1], "/".join(parts[len(files_at) + 2 :]))
            else:
                self.send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})

        def info(self, revision: str) -> None:
            commit = found.main if revision == "main" else revision
            if commit not in found.commits:
                self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return
            siblings = [{"rfilename": name} for name in found.commits[commit]]
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
