"""Nothing answers without a token, and every answer carries the digest."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import httpx2
import openai
import pytest

from bessemer.infer.model import Loaded
from bessemer.registry.store import StoredRelease
from bessemer.serve import guard
from bessemer.serve.app import create_app
from bessemer.serve.guard import MAX_BODY_BYTES
from tests.serve.conftest import DIGEST, MODEL, TOKEN, Running, running

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MORE_PATHS = (
    "/", "/docs", "/redoc", "/openapi.json", "/nothing", "/v1", "/v1/models/tiny@1", "/v1/embeddings",
    "/health/", "/HEALTH", "//health", "/health/../v1/models", "/v1/%2e%2e/health", "/metrics",
)  # fmt: skip


def _error(answer: httpx2.Response) -> dict[str, str]:
    assert answer.headers["x-bessemer-digest"] == DIGEST
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


def test_every_route_needs_a_token(server: Running) -> None:
    paths = [route.path.replace("{name:path}", MODEL) for route in server.app.routes]
    assert {"/health", "/v1/models", "/v1/chat/completions", "/v1/completions"} <= set(paths)
    with server.http(token=None) as anyone:
        for method, path in itertools.product(METHODS, [*paths, *MORE_PATHS]):
            answer = anyone.request(method, path)
            if (method, path) in {("GET", "/health"), ("HEAD", "/health")}:
                assert answer.status_code in {200, 405}
                continue
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["x-bessemer-digest"] == DIGEST


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer ü",
    ],
)
def test_wrong_tokens(server: Running, header: str) -> None:
    with server.http(token=None) as anyone:
        answer = anyone.get("/v1/models", headers={"Authorization": header.encode("latin-1")})
        assert answer.status_code == 401
        assert _error(answer)["code"] == "invalid_api_key"
        twice = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")]
        assert anyone.get("/v1/models", headers=twice).status_code == 401


def test_the_openai_client_sees_its_own_errors(server: Running) -> None:
    with server.client("wrong") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_no_pages_and_no_cross_origin_answers(http: httpx2.Client) -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/nothing"):
        answer = http.get(path)
        assert answer.status_code == 404
        assert _error(answer)["code"] == "not_found"
    answer = http.options(
        "/v1/models", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert not [name for name in answer.headers if name.startswith("access-control")]
    answer = http.get("/v1/chat/completions")
    assert answer.status_code == 405
    assert _error(answer)["code"] == "method_not_allowed"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "192.168.0.9"])
def test_a_foreign_host_header(http: httpx2.Client, host: str) -> None:
    for path in ("/health", "/v1/models"):
        answer = http.get(path, headers={"Host": host})
        assert answer.status_code == 400
        assert _error(answer)["code"] == "invalid_host"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1:1", "[::1]:8000"])
def test_this_machines_names(http: httpx2.Client, host: str) -> None:
    assert http.get("/v1/models", headers={"Host": host}).status_code == 200


def test_names_and_addresses_can_be_allowed(loaded: Loaded, release: StoredRelease) -> None:
    app = create_app(loaded, release, token=TOKEN, hosts=["Forge.example"], any_address=True)
    with running(app) as server, server.http() as http:
        assert http.get("/health", headers={"Host": "forge.example:8000"}).status_code == 200
        assert http.get("/health", headers={"Host": "192.168.0.9:8000"}).status_code == 200
        assert http.get("/health", headers={"Host": "evil.example"}).status_code == 400


def test_whoever_stops_sending_holds_nothing(http: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "PIECE_S", 0.2)

    def pieces() -> Iterator[bytes]:
        yield b" " * 1000
        time.sleep(2)
        yield b" "

    try:
        answer = http.post("/v1/completions", content=pieces(), headers={"Content-Type": "application/json"})
    except (httpx2.WriteError, httpx2.ReadError):
        pass  # the server closed the connection while we were still sending
    else:
        assert answer.status_code == 408 and _error(answer)["code"] == "request_timeout"
    assert http.get("/health").status_code == 200


def test_bodies_that_are_too_long(http: httpx2.Client) -> None:
    long = b" " * (MAX_BODY_BYTES + 1)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(long), 65536):
            yield long[start : start + 65536]

    for content in (long, pieces()):
        try:
            answer = http.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
        except httpx2.WriteError:
            continue  # the server closed the connection while we were still sending
        assert answer.status_code == 413
        assert _error(answer)["code"] == "request_too_large"
    assert http.get("/health").status_code == 200
