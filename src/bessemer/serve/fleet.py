"""The models of a server: one that answers to the name, others that stay for who pinned them, a canary.

A server of `name@version` has what it was given. A server of `name` follows `bessemer route`: versions that the route
names are loaded beside the running ones and take over when they are ready; who pinned the version before goes on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bessemer.errors import BessemerError
from bessemer.files import sha256_text
from bessemer.infer.model import Loaded
from bessemer.moderate.judge import Judge
from bessemer.registry.routes import Route, path_of, read_route
from bessemer.registry.store import StoredRelease
from bessemer.serve.batches import MAX_WAITING, Batcher
from bessemer.serve.problems import RequestError

LOOK_S = 1.0  # how often the route is looked at
KEPT = 4  # models in memory
Open = Callable[[str], "tuple[Loaded, StoredRelease]"]
log = logging.getLogger(__name__)


@dataclass
class Backend:
    """A release that is ready to answer."""

    loaded: Loaded
    release: StoredRelease
    max_waiting: int = MAX_WAITING
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _batcher: Batcher | None = None

    @property
    def digest(self) -> str:
        return self.loaded.digest

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.loaded)

    @property
    def batcher(self) -> Batcher:
        """Its thread begins with the first comment."""
        with self._lock:
            if self._batcher is None:
                self._batcher = Batcher(self.judge, self.max_waiting)
            return self._batcher

    def close(self) -> None:
        with self._lock:
            if self._batcher is not None:
                self._batcher.close()


class Fleet:
    """Backends by reference. `main` answers to the name alone, a canary to a share of it."""

    def __init__(self, backends: Sequence[Backend], *, open_release: Open | None = None) -> None:
        """open_release: follow the route of the first backend's name, and load what it names."""
        self._ready: Mapping[str, Backend] = {b.release.reference: b for b in backends}
        self._main = backends[0].release.reference
        self._route: Route | None = None
        self._open = open_release
        self._seen: Any = None
        self._closed = threading.Event()
        if open_release is not None:
            self.look()
            threading.Thread(target=self._follow, name="bessemer-route", daemon=True).start()

    @property
    def name(self) -> str:
        return self.main.release.name

    @property
    def main(self) -> Backend:
        return self._ready[self._main]

    @property
    def backends(self) -> list[Backend]:
        return list(self._ready.values())

    @property
    def canary(self) -> Backend | None:
        route = self._route
        return self._ready.get(f"{route.name}@{route.canary}") if route and route.canary else None

    def pick(self, model: str, key: str) -> Backend:
        """`name` (by the route), `name@version` or a digest. key: what decides who goes to the canary, such as a text:
        the same one always goes the same way. Raises RequestError for any other model."""
        if model in {"", self.name}:
            canary, route = self.canary, self._route
            if canary and route and int(sha256_text(key)[:8], 16) < route.share * 2**32:
                return canary
            return self.main
        ready = self._ready
        wanted = model.removeprefix("sha256:")
        if found := ready.get(model) or next((b for b in ready.values() if b.digest == wanted), None):
            return found
        raise RequestError(
            404, f"the model {model[:80]!r} does not exist; this server has {', '.join(map(repr, ready))}",
            code="model_not_found", param="model",
        )  # fmt: skip

    def close(self) -> None:
        self._closed.set()
        for backend in self.backends:
            backend.close()

    # -- following the route ------------------------------------------------------------------------------------

    def look(self) -> None:
        """Read the route when its file changed; load what is missing, then switch. What fails leaves all as it was."""
        name = self._main.partition("@")[0]
        try:
            stat = path_of(name).stat()
        except FileNotFoundError:
            return
        if (stat.st_mtime_ns, stat.st_ino) == self._seen:
            return
        self._seen = (stat.st_mtime_ns, stat.st_ino)
        try:
            self._switch(read_route(name))
        except (BessemerError, OSError):
            log.exception("the route was not followed")

    def _switch(self, route: Route | None) -> None:
        assert self._open is not None
        if route is None:
            return
        ready = dict(self._ready)
        for version in route.versions:
            reference = f"{route.name}@{version}"
            if reference not in ready:
                loaded, release = self._open(reference)
                ready[reference] = Backend(loaded, release, self.main.max_waiting)
        wanted = [f"{route.name}@{v}" for v in route.versions]
        others = [r for r in reversed(ready) if r not in wanted]
        gone = others[max(0, KEPT - len(wanted)) :]
        self._ready = {r: b for r, b in ready.items() if r not in gone}
        self._route, self._main = route, wanted[0]
        for reference in gone:
            ready[reference].close()
        log.warning("stable %s, canary %s", wanted[0], route.canary)

    def _follow(self) -> None:
        while not self._closed.wait(LOOK_S):
            self.look()
