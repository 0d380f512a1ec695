"""The door: what every request must pass before any route sees it.

Plain ASGI around the whole application: nothing behind it, known path or not, answers without a token.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bessemer.serve.problems import DIGEST_HEADER, RequestError

MAX_BODY_BYTES = 1024 * 1024
OPEN_PATH = "/health"
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """Checks host, token and size, in this order, and writes the digest on every answer.

    hosts: names that a Host header may carry besides the loopback ones. any_address: also every bare IP
    address (for a server that listens on all of them); DNS rebinding needs a name, so addresses are safe.
    """

    def __init__(
        self, app: ASGIApp, *, token: str, digest: str, hosts: Collection[str] = (), any_address: bool = False
    ) -> None:
        self._app, self._digest = app, digest
        self._secret = hashlib.sha256(token.encode()).digest()
        self._hosts = LOCAL_NAMES | {h.lower() for h in hosts}
        self._any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served here")

        async def with_digest(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[DIGEST_HEADER] = self._digest
                headers["Cache-Control"] = "no-store"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            if not (scope["path"] == OPEN_PATH and scope["method"] in {"GET", "HEAD"}):
                self._check_token(headers)
            body = await _read_body(headers, receive)
        except RequestError as error:
            await error.response(self._digest)(scope, receive, with_digest)
            return
        if body is not None:
            await self._app(scope, _replay(body, receive), with_digest)

    def _check_host(self, headers: Headers) -> None:
        given = headers.getlist("host")
        name = _host_name(given[0]) if len(given) == 1 else ""
        if name in self._hosts or (self._any_address and _is_address(name)):
            return
        raise RequestError(400, "the Host header names no host of this server", code="invalid_host")

    def _check_token(self, headers: Headers) -> None:
        given = headers.getlist("authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        digest = hashlib.sha256(token.strip().encode("latin-1")).digest()
        if scheme.lower() == "bearer" and hmac.compare_digest(digest, self._secret):
            return
        raise RequestError(
            401,
            "a valid token is required: Authorization: Bearer TOKEN",
            code="invalid_api_key",
            kind="authentication_error",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _host_name(header: str) -> str:
    """`[::1]:8000` -> `::1`, `localhost:8000` -> `localhost`."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _read_body(headers: Headers, receive: Receive) -> bytes | None:
    """The whole body; None when the client left. Raises RequestError as soon as it is too long."""
    too_long = RequestError(
        413, f"the request is longer than {MAX_BODY_BYTES} bytes", code="request_too_large",
        headers={"Connection": "close"},
    )  # fmt: skip
    stated = headers.get("content-length", "0")
    if not stated.isdigit() or int(stated) > MAX_BODY_BYTES:
        raise too_long
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise too_long
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that hands out the body once, then whatever happens on the connection."""
    waiting = [body]

    async def receive_again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return receive_again
