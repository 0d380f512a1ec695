"""The door: what every request must pass before any route sees it.

Plain ASGI around the whole application: nothing behind it, known path or not, answers without a token.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Collection
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bessemer.serve.problems import DIGEST_HEADER, DISCOVERY, GOOGLE, RequestError

MAX_BODY_BYTES = 1024 * 1024
MAX_BATCH_BYTES = 8 * MAX_BODY_BYTES  # of a request with many comments, one of which may be far too long
MAX_HELD_BYTES = 64 * MAX_BODY_BYTES  # of all requests together
PIECE_S = 60.0  # until the next piece of a body must have come
OPEN_PATH = "/health"
BATCH_PATHS = frozenset({"/v1/moderations"})
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """Checks host, token and size, in this order, and writes the digest on every answer.

    hosts: names that a Host header may carry besides the loopback ones. any_address: also every bare IP
    address (for a server that listens on all of them); DNS rebinding needs a name, so addresses are safe. digest: of
    the model that answers when a route does not say another.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        digest: Callable[[], str],
        hosts: Collection[str] = (),
        any_address: bool = False,
    ) -> None:
        self._app, self._digest = app, digest
        self._secret = hashlib.sha256(token.encode()).digest()
        self._hosts = LOCAL_NAMES | {h.lower() for h in hosts}
        self._any_address = any_address
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served here")

        async def with_digest(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault(DIGEST_HEADER, self._digest())  # a route may have answered with another model
                headers["Cache-Control"] = "no-store"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        path = str(scope["path"])
        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            if not (path == OPEN_PATH and scope["method"] in {"GET", "HEAD"}):
                self._check_token(headers, scope)
            most = MAX_BATCH_BYTES if path in BATCH_PATHS else MAX_BODY_BYTES
            body = await self._read_body(headers, receive, most)
        except RequestError as error:
            await error.response(self._digest(), path)(scope, receive, with_digest)
            return
        if body is None:
            return
        try:
            await self._app(scope, _replay(body, receive), with_digest)
        finally:
            self._held -= len(body)

    def _check_host(self, headers: Headers) -> None:
        given = headers.getlist("host")
        name = _host_name(given[0]) if len(given) == 1 else ""
        if name in self._hosts or (self._any_address and _is_address(name)):
            return
        raise RequestError(400, "the Host header names no host of this server", code="invalid_host")

    def _check_token(self, headers: Headers, scope: Scope) -> None:
        given = headers.getlist("authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if not given and str(scope["path"]).startswith((GOOGLE, DISCOVERY)):
            # Google's clients send the key in a header of its own or in the query.
            query = parse_qs(scope["query_string"].decode("latin-1"))
            keys = [*headers.getlist("x-goog-api-key"), *query.get("key", [])]
            scheme, token = ("bearer", keys[0]) if len(keys) == 1 else ("", "")
        digest = hashlib.sha256(token.strip().encode("latin-1", errors="replace")).digest()
        if scheme.lower() == "bearer" and hmac.compare_digest(digest, self._secret):
            return
        raise RequestError(
            401,
            "a valid token is required: Authorization: Bearer TOKEN",
            code="invalid_api_key",
            kind="authentication_error",
            headers={"WWW-Authenticate": "Bearer"},
        )

    async def _read_body(self, headers: Headers, receive: Receive, most: int) -> bytes | None:
        """The whole body, counted in `_held` until it was answered; None when the client left.

        Raises RequestError as soon as it is too long, or all bodies together are.
        """
        too_long = RequestError(
            413, f"the request is longer than {most} bytes", code="request_too_large", headers={"Connection": "close"}
        )
        stated = headers.get("content-length", "0")
        if not stated.isdigit() or int(stated) > most:
            raise too_long
        body, whole = bytearray(), False
        try:
            while not whole:
                try:
                    message = await asyncio.wait_for(receive(), PIECE_S)
                except TimeoutError:  # whoever stops sending must not hold memory that others need
                    raise RequestError(
                        408, f"nothing came for {PIECE_S:g} s", code="request_timeout", headers={"Connection": "close"}
                    ) from None
                if message["type"] == "http.disconnect":
                    return None
                piece = message.get("body", b"")
                if len(body) + len(piece) > most:
                    raise too_long
                if self._held + len(piece) > MAX_HELD_BYTES:
                    raise RequestError(
                        429, "the server holds too many requests; try again later", code="rate_limit_exceeded",
                        kind="rate_limit_error", headers={"Retry-After": "1", "Connection": "close"},
                    )  # fmt: skip
                body += piece
                self._held += len(piece)
                whole = not message.get("more_body", False)
            return bytes(body)
        finally:
            if not whole:
                self._held -= len(body)


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


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that hands out the body once, then whatever happens on the connection."""
    waiting = [body]

    async def receive_again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return receive_again
