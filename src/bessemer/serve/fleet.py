"""The models of a server: one that answers to the name, others that stay for who pinned them, a canary.

A server of `name@version` has what it was given. A server of `name` follows `bessemer route`: versions that the route
names are loaded beside the running ones and take over when they are ready; who pinned the version before goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from bessemer.files import sha256_text
from bessemer.infer.model import Loaded
from bessemer.moderate.judge import Judge
from bessemer.plan.estimate import available_memory
from bessemer.registry.routes import Route, path_of, read_route
from bessemer.registry.store import StoredRelease
from bessemer.serve.batches import MAX_WAITING, Batcher
from bessemer.serve.problems import RequestError

LOOK_S = 1.0  # how often the route is looked at
RETRY_S = 60.0  # until a route that could not be followed is tried again; then twice as long, and so on
LONGEST_RETRY_S = 3600.0
SPARE = 3  # models that must find room where one comes back that nobody has asked for yet
KEPT = 4  # models in memory, beside those that the server was started with for who pins them
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

    def stop(self) -> None:
        with self._lock:
            if self._batcher is not None:
                self._batcher.stop()


@dataclass(frozen=True)
class _State:
    """What is replaced in one go. ready: by reference; main: answers to the name alone, a canary to a share of it."""

    ready: Mapping[str, Backend]
    main: Backend
    canary: Backend | None = None
    share: float = 0.0


class Fleet:
    """The backends of a server."""

    def __init__(
        self, backends: Sequence[Backend], *, stays: Collection[str] = (), open_release: Open | None = None
    ) -> None:
        """The first backend answers to the name; the others stay as long as the server, as does the first when `stays`
        names it.

        open_release: follow the route of the first backend's name, and load what it names.
        """
        self.name = backends[0].release.name
        self._stays = {*stays, *(b.release.reference for b in backends[1:])}
        self._state = _State({b.release.reference: b for b in backends}, backends[0])
        self._open = open_release
        self._seen: Any = None
        self._retry_at, self._failures = 0.0, 0
        self._closed = threading.Event()
        if open_release is not None:
            self.look()
            threading.Thread(target=self._follow, name="bessemer-route", daemon=True).start()

    @property
    def main(self) -> Backend:
        return self._state.main

    @property
    def canary(self) -> Backend | None:
        return self._state.canary

    @property
    def backends(self) -> list[Backend]:
        return list(self._state.ready.values())

    def pick(self, model: str, key: str) -> Backend:
        """`name` (by the route), `name@version` or a digest. key: what decides who goes to the canary, such as a text:
        the same one always goes the same way. Raises RequestError for any other model."""
        state = self._state
        if model in {"", self.name}:
            drawn = int(sha256_text(key.encode(errors="replace").decode())[:8], 16)
            return state.canary if state.canary and drawn < state.share * 2**32 else state.main
        wanted = model.removeprefix("sha256:")
        if found := state.ready.get(model) or next((b for b in state.ready.values() if b.digest == wanted), None):
            return found
        raise RequestError(
            404, f"the model {model[:80]!r} does not exist; this server has {', '.join(map(repr, state.ready))}",
            code="model_not_found", param="model",
        )  # fmt: skip

    def close(self) -> None:
        self._closed.set()
        for backend in self.backends:
            backend.stop()

    # -- following the route ------------------------------------------------------------------------------------

    def look(self) -> None:
        """Read the route when its file changed; load what is missing, then switch.

        What fails, such as a model that finds no memory, leaves all as it was and is tried again later.
        """
        path = path_of(self.name)
        try:
            stat = path.stat() if path.exists() else None
            now = stat and (stat.st_mtime_ns, stat.st_ino)
            if now is None or (now == self._seen and not 0 < self._retry_at <= time.monotonic()):
                return
            self._failures = self._failures if now == self._seen else 0
            self._seen, self._retry_at = now, 0.0
            self._switch(read_route(self.name))
        except Exception:  # whatever a model may fail with: this thread must see the next change
            log.exception("the route was not followed; it is tried again in %.0f s", self._try_again())

    def _switch(self, route: Route | None) -> None:
        if route is None or self._open is None:
            return
        stable, canary = (f"{route.name}@{v}" for v in (route.stable, route.canary))
        wanted = [f"{route.name}@{v}" for v in route.versions]
        for reference in sorted(wanted, key=lambda r: r != stable):  # clients wait for this one alone
            if reference not in self._state.ready and (reference in {stable, canary} or self._has_room()):
                try:
                    backend = Backend(*self._open(reference), self.main.max_waiting)
                    self._state = replace(self._state, ready={**self._state.ready, reference: backend})
                except Exception:
                    if reference == stable:
                        raise
                    log.exception("%s is not ready; it is tried again in %.0f s", reference, self._try_again())
                if read_route(self.name) != route:  # loading takes minutes: somebody may have gone back meanwhile
                    self._seen = None
                    return
            if reference in {stable, wanted[-1]}:
                self._publish(route, wanted)

    def _publish(self, route: Route, wanted: Sequence[str]) -> None:
        """Answer by the route; what nobody asks for any more goes."""
        ready, stable = dict(self._state.ready), f"{route.name}@{route.stable}"
        others = [r for r in reversed(ready) if r not in wanted and r not in self._stays]  # the newest first
        gone = [ready.pop(reference) for reference in others[max(0, KEPT - len(wanted)) :]]
        canary = ready.get(f"{route.name}@{route.canary}")
        self._state = _State(ready, ready[stable], canary, route.share if canary else 0.0)
        for backend in gone:
            backend.close()
        log.warning("stable %s, canary %s", stable, canary and canary.release.reference)

    def _has_room(self) -> bool:
        """For one more model, where no client needs it now."""
        return available_memory() >= SPARE * sum(p.nbytes for p in self.main.loaded.model.parameters())

    def _try_again(self) -> float:
        """In how many seconds: longer each time, until the route is changed."""
        wait = min(RETRY_S * 2**self._failures, LONGEST_RETRY_S)
        self._failures += 1
        self._retry_at = time.monotonic() + wait
        return wait

    def _bring_back(self, earlier: list[str]) -> None:
        """Stable versions of before a restart stay for those who pinned them, as far as there is room: the next one."""
        if not earlier or self._open is None:
            return
        reference, state = earlier.pop(0), self._state
        if len(state.ready.keys() - self._stays) >= KEPT or not self._has_room():
            earlier.clear()
            return
        if reference in state.ready:
            return
        try:
            loaded, release = self._open(reference)
            backend = Backend(loaded, release, self.main.max_waiting)
            self._state = replace(state, ready={reference: backend, **state.ready})  # the oldest first
        except Exception:  # nobody waits for it: who asks for the version is told that it is not there
            log.exception("%s is not ready", reference)

    def _follow(self) -> None:
        earlier = list[str]()
        with suppress(Exception):  # `look` says what is wrong with the route
            route = read_route(self.name)
            earlier += [f"{self.name}@{version}" for version in (route.before if route else ())]
        while not self._closed.wait(LOOK_S):
            self.look()
            self._bring_back(earlier)
