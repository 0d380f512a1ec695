"""A real server on a real socket, asked by the real OpenAI client."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch
import uvicorn

from bessemer.infer.model import Loaded, load
from bessemer.registry.store import StoredRelease
from bessemer.serve.app import create_app
from bessemer.serve.server import listen
from tests.tiny import SPECIAL

TOKEN = "test-token-0123456789"
DIGEST = "d" * 64
MODEL = "tiny@1"


@dataclass(frozen=True)
class Running:
    url: str
    app: Any

    def client(self, token: str = TOKEN) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=token, max_retries=0, timeout=60)

    def http(self, token: str | None = TOKEN) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60)


@contextlib.contextmanager
def running(app: Any) -> Iterator[Running]:
    taken = listen("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="error", server_header=False, ws="none", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=lambda: server.run(sockets=[taken]), daemon=True)
    thread.start()
    try:
        yield Running(f"http://127.0.0.1:{taken.getsockname()[1]}", app)
    finally:
        server.should_exit = True
        thread.join(30)
        taken.close()


def eventually(true: Callable[[], bool]) -> None:
    """Wait until something that must happen has happened."""
    for _ in range(3000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it never happened")


@pytest.fixture(scope="session")
def loaded(tiny_model: Path) -> Loaded:
    return load(tiny_model, digest=DIGEST, end_of_text=SPECIAL[0], dtype=torch.float32)


@pytest.fixture(scope="session")
def release(tiny_model: Path) -> StoredRelease:
    manifest = {"created": "2026-01-01T00:00:00Z", "verdict": "SHIP", "base": {"name": "tiny@post"}}
    return StoredRelease("tiny", 1, tiny_model, DIGEST, manifest)


@pytest.fixture(scope="session")
def server(loaded: Loaded, release: StoredRelease) -> Iterator[Running]:
    with running(create_app(loaded, release, token=TOKEN)) as found:
        yield found


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with server.client() as found:
        yield found


@pytest.fixture
def http(server: Running) -> Iterator[httpx2.Client]:
    with server.http() as found:
        yield found
