"""One model, one thread: requests wait in line, and nothing they do stops the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

from bessemer.serve.problems import stopping

JOIN_S = 2.0  # how long a stop waits for what a thread is computing
T = TypeVar("T")
Cancelled = Callable[[], bool]
Work = Callable[[Cancelled], Iterator[T]]


class QueueFullError(Exception):
    """More requests wait than the server keeps."""


class Worker:
    """Runs iterators of work one after the other in a thread of its own, in the order they came."""

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._waiting: deque[_Job[Any]] = deque()
        self._running: _Job[Any] | None = None
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="bessemer-model", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    def submit(self, work: Work[T]) -> Ticket[T]:
        """Put work in line. Call it from a running event loop.

        Raises QueueFullError when `max_waiting` requests wait already.
        """
        job = _Job(work, asyncio.get_running_loop())
        with self._change:
            if len(self._waiting) >= self.max_waiting or self._closed:
                raise QueueFullError
            self._waiting.append(job)
            self._change.notify()
        return Ticket(self, job)

    def forget(self, job: _Job[T]) -> None:
        """Cancel a job; one that still waits leaves the line at once."""
        job.cancelled.set()
        with self._change, suppress(ValueError):
            self._waiting.remove(job)

    def close(self) -> None:
        """Cancel everything, tell all, and let the thread end: native code must not outlive Python."""
        with self._change:
            if self._closed:
                return
            self._closed = True
            for job in filter(None, (*self._waiting, self._running)):
                job.refuse()  # the running one may compute for long before it looks
            self._waiting.clear()
            self._change.notify()
        self._thread.join(JOIN_S)

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._waiting and not self._closed:
                    self._change.wait()
                if self._closed:
                    return
                job = self._running = self._waiting.popleft()
            job.run(lambda: self._closed)
            with self._change:
                self._running = None


class Ticket(Generic[T]):
    """A place in line. Iterate over it once, and close it in any case: that stops the work."""

    def __init__(self, worker: Worker, job: _Job[T]) -> None:
        self._worker, self._job = worker, job

    async def __aiter__(self) -> AsyncIterator[T]:
        """Items as they come. Raises what the work raised."""
        while (event := await self._job.events.get()) is not None:
            if isinstance(event, _Failed):
                raise event.error
            yield event.item

    def close(self) -> None:
        self._worker.forget(self._job)


class _Item(Generic[T]):
    def __init__(self, item: T) -> None:
        self.item = item


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Job(Generic[T]):
    """Work, its way back into the event loop, and whether anyone still wants it."""

    def __init__(self, work: Work[T], loop: asyncio.AbstractEventLoop) -> None:
        self.cancelled = threading.Event()
        self.events: asyncio.Queue[_Item[T] | _Failed | None] = asyncio.Queue()
        self._work, self._loop = work, loop

    def run(self, closed: Cancelled) -> None:
        def cancelled() -> bool:
            return self.cancelled.is_set() or closed()

        try:
            for item in self._work(cancelled):
                if cancelled():
                    break
                self._send(_Item(item))
            if closed():
                self.refuse()
        except BaseException as error:  # whatever it is, the request that waits must hear of it
            self._send(_Failed(error))
        self._send(None)

    def refuse(self) -> None:
        self._send(_Failed(stopping()))

    def _send(self, event: _Item[T] | _Failed | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)
