"""Start the server: a socket of its own, then the model, then requests."""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bessemer.errors import BessemerError

if TYPE_CHECKING:
    from bessemer.infer.model import Loaded
    from bessemer.registry.store import StoredRelease
    from bessemer.serve.keys import Key

NEEDED = ("torch", "transformers", "fastapi", "uvicorn")
GRACE_S = 5  # answers under way get this long when the server is stopped
LATE_S = 15  # and this long to be told that there will be none


def need_extras() -> None:
    """Raises BessemerError when a package that serving needs is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise BessemerError(f"serving needs {', '.join(missing)}", fix="pip install 'bessemer[serve]'")


def listen(host: str, port: int) -> socket.socket:
    """Take the address now, before a model is loaded; port 0 takes a free one.

    Raises BessemerError when another process has it or this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio switches Nagle's delay off, which would cost 40 ms an event.
    taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
        taken.listen(128)
    except OSError as error:
        taken.close()
        what, fix = f"cannot listen there ({error})", "check --host and --port"
        if error.errno == errno.EADDRINUSE:
            what, fix = (
                f"port {port} is in use",
                "stop the other server, or choose another port; --port 0 takes a free one",
            )
        raise BessemerError(what, where=f"{host}:{port}", fix=fix) from None
    return taken


def run(
    loaded: Loaded, release: StoredRelease, taken: socket.socket, token: str, hosts: Collection[str] = (), **more: Any
) -> None:
    """Serve until SIGTERM or Ctrl-C, then return. hosts: further names by which clients may call it; more: see
    `create_app`."""
    import uvicorn

    from bessemer.serve.app import create_app

    bound = str(taken.getsockname()[0])
    everywhere = bound in {"0.0.0.0", "::"}  # noqa: S104 (compared, not bound)
    names = {bound, *hosts} | ({socket.gethostname(), socket.getfqdn()} if everywhere else set())
    app = create_app(loaded, release, token=token, hosts=names, any_address=everywhere, **more)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=GRACE_S + LATE_S,
    )

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """What is not answered after GRACE_S is refused; left alone, it would be cut off without a word."""
            late = asyncio.create_task(_later(GRACE_S, app.state.served.stop))
            await super().shutdown(sockets)
            late.cancel()

    with _quiet_signals():
        Server(config).run(sockets=[taken])
    _end_what_computes()


def _end_what_computes() -> None:
    """A comment that is being judged cannot be interrupted, and native code must not outlive the interpreter."""
    computing = any(t.name in {"bessemer-model", "bessemer-judge"} for t in threading.enumerate())
    if computing and threading.current_thread() is threading.main_thread():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


async def _later(seconds: float, what: Callable[[], None]) -> None:
    await asyncio.sleep(seconds)
    await asyncio.to_thread(what)


def open_model(reference: str, trusted: Path | None = None) -> tuple[Loaded, StoredRelease]:
    """A release after every byte of it was checked (and its signature: see `open_release`), and its model."""
    from bessemer.infer.model import load
    from bessemer.registry.store import open_release

    release = open_release(reference, trusted)
    return load(release.path, digest=release.digest, end_of_text=release.manifest["end_of_text"]), release


def describe(release: StoredRelease, taken: socket.socket, key: Key, trusted: Path | None = None) -> str:
    """Where it listens and how to ask; the token itself is not shown. trusted: whose signature was checked."""
    host, port = taken.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    question = f'{{"model": "{release.reference}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    return "\n".join(
        [
            f"serving {release.reference} (verdict {release.manifest.get('verdict')}) on {url}",
            f"digest {release.digest}, {f'signed by {trusted}' if trusted else 'no signature asked for (--trust)'}",
            f"token: {key.origin}",
            "",
            f"export OPENAI_BASE_URL={url}",
            f"export OPENAI_API_KEY={key.shell}",
            f'curl {url}/chat/completions -H "Authorization: Bearer $OPENAI_API_KEY" \\',
            f"  -H 'Content-Type: application/json' -d '{question}'",
        ]
    )


@contextmanager
def _quiet_signals() -> Iterator[None]:
    """uvicorn sends itself the signal again after a clean end, which would turn it into a failure."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
