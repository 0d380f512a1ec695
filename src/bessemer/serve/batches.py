"""Comments of concurrent requests, judged together: whatever waits while one batch computes becomes the next one.

No request waits for a batch to fill up. The line has a limit; beyond it a request is told when to come again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from bessemer.moderate.judge import Judge, Question
from bessemer.serve.problems import stopping
from bessemer.serve.worker import JOIN_S, QueueFullError

MAX_WAITING = 512  # comments
MAX_WAITING_TOKENS = 8_000_000  # of their prompts, which are held in memory
BATCH = 32  # comments that are judged together; with the next, it bounds what a small request waits for
BATCH_TOKENS = 100_000  # of their prompts, what they share counted each time; a longer comment goes alone
SLOWEST_RETRY_S = 60
log = logging.getLogger(__name__)


@dataclass
class _Entry:
    question: Question
    future: asyncio.Future[list[float]]
    loop: asyncio.AbstractEventLoop

    def answer(self, odds: list[float] | None, error: BaseException | None = None) -> None:
        def put() -> None:
            if self.future.done():
                return
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(odds or [])

        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self.loop.call_soon_threadsafe(put)


class Batcher:
    """One model's line of comments, and the thread that judges them."""

    def __init__(self, judge: Judge, max_waiting: int = MAX_WAITING) -> None:
        self.max_waiting = max_waiting
        self._judge = judge
        self._waiting: deque[_Entry] = deque()
        self._batch: Sequence[_Entry] = ()  # is being judged
        self._tokens = 0  # that wait
        self._change = threading.Condition()
        self._closed = self._stopped = False
        self._comment_s = 0.05  # what a comment took lately
        self._thread = threading.Thread(target=self._run, name="bessemer-judge", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def retry_after_s(self) -> int:
        """When the line should have room again."""
        return max(1, min(SLOWEST_RETRY_S, math.ceil(self.n_waiting * self._comment_s)))

    def has_room(self, n_comments: int, n_tokens: int = 0) -> bool:
        """Whether so much may join the line. What is longer than the line may join an empty one."""
        fits = self._tokens + n_tokens <= MAX_WAITING_TOKENS or not self._waiting
        return not self._closed and len(self._waiting) + n_comments <= self.max_waiting and fits

    async def odds(self, questions: Sequence[Question]) -> list[list[float] | BaseException]:
        """For each comment its log-odds by rule, or what went wrong with it alone.

        Raises QueueFullError when the line has no room for all of them.
        """
        loop = asyncio.get_running_loop()
        entries = [_Entry(q, loop.create_future(), loop) for q in questions]
        with self._change:
            if not self.has_room(len(entries), sum(q.n_tokens for q in questions)):
                raise QueueFullError
            self._set_waiting([*self._waiting, *entries])
            self._change.notify()
        try:
            return await asyncio.gather(*(e.future for e in entries), return_exceptions=True)
        finally:  # a request that is given up leaves the line
            left = {id(e) for e in entries if not e.future.done() or e.future.cancelled()}
            if left:
                with self._change:
                    self._set_waiting([e for e in self._waiting if id(e) not in left])

    def close(self) -> None:
        """Judge what waits, then let the thread end."""
        with self._change:
            self._closed = True
            self._change.notify()

    def stop(self) -> None:
        """Tell those that wait, or are being judged, that there will be no answer, and let the thread end."""
        with self._change:
            if self._stopped:
                return
            self._stopped = self._closed = True
            for entry in (*self._waiting, *self._batch):
                entry.answer(None, stopping())
            self._set_waiting([])
            self._change.notify()
        self._thread.join(JOIN_S)

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._waiting and not self._closed:
                    self._change.wait()
                if not self._waiting:
                    return
                batch = self._batch = self._next_batch()
            begun = time.monotonic()
            self._answer(batch)
            self._comment_s += 0.2 * ((time.monotonic() - begun) / len(batch) - self._comment_s)

    def _set_waiting(self, entries: Sequence[_Entry]) -> None:
        self._waiting = deque(entries)
        self._tokens = sum(e.question.n_tokens for e in entries)

    def _next_batch(self) -> list[_Entry]:
        batch: list[_Entry] = []
        n_tokens = 0
        while self._waiting and len(batch) < BATCH:
            n_tokens += self._waiting[0].question.n_tokens
            if batch and n_tokens > BATCH_TOKENS:
                break
            batch.append(self._waiting.popleft())
            self._tokens -= batch[-1].question.n_tokens
        return batch

    def _answer(self, batch: list[_Entry]) -> None:
        try:
            found = self._judge.odds([e.question for e in batch])
        except BaseException as error:
            if len(batch) > 1:  # whichever it was, the others get their answer
                for entry in batch:
                    self._answer([entry])
            else:
                log.exception("a comment could not be judged")
                batch[0].answer(None, error)
            return
        for entry, odds in zip(batch, found, strict=True):
            entry.answer(odds)
