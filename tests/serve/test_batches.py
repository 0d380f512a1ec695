"""Comments of many requests in one batch: whose answer is whose, a limit to the line, one bad one among good ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, cast

import pytest

from bessemer.moderate.judge import Judge, Question
from bessemer.serve import batches
from bessemer.serve.batches import BATCH, Batcher
from bessemer.serve.worker import QueueFullError
from tests.serve.conftest import eventually


class Slow:
    """Stands in for a judge: answers with the question's own number, when the test lets it."""

    def __init__(self) -> None:
        self.open, self.batches = threading.Event(), list[int]()

    def odds(self, questions: Sequence[Question]) -> list[list[float]]:
        self.batches.append(len(questions))
        assert self.open.wait(30)
        numbers = [q.pieces[0][0][0] for q in questions]
        if 13 in numbers:
            raise RuntimeError("unlucky")
        return [[float(n)] for n in numbers]


def question(number: int, n_tokens: int = 1) -> Question:
    return Question((((number,) * n_tokens,),))


@pytest.fixture
def slow() -> Slow:
    return Slow()


def batcher(slow: Slow, most: int = 100) -> Batcher:
    return Batcher(cast(Judge, slow), most)


def test_what_waits_is_judged_together_and_everybody_gets_their_own(slow: Slow) -> None:
    async def run() -> list[Any]:
        line = batcher(slow)
        first = asyncio.ensure_future(line.odds([question(0)]))
        await asyncio.to_thread(eventually, lambda: slow.batches == [1])
        rest = [asyncio.ensure_future(line.odds([question(10 * n), question(10 * n + 1)])) for n in range(1, 31)]
        await asyncio.to_thread(eventually, lambda: line.n_waiting == 60)
        slow.open.set()
        return await asyncio.gather(first, *rest)

    found = asyncio.run(run())
    assert found == [[[0.0]], *([[10.0 * n], [10.0 * n + 1]] for n in range(1, 31))]
    assert slow.batches == [1, BATCH, 60 - BATCH]


def test_one_that_fails_fails_alone(slow: Slow) -> None:
    slow.open.set()

    async def run() -> list[Any]:
        return await batcher(slow).odds([question(n) for n in range(10, 17)])

    found = asyncio.run(run())
    assert isinstance(found[3], RuntimeError)
    assert [f for i, f in enumerate(found) if i != 3] == [[10.0], [11.0], [12.0], [14.0], [15.0], [16.0]]


def test_long_comments_make_small_batches_and_a_short_line(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_TOKENS", 10)
    monkeypatch.setattr(batches, "MAX_WAITING_TOKENS", 30)

    async def run() -> list[Any]:
        line = batcher(slow)
        first = asyncio.ensure_future(line.odds([question(0, 50)]))  # longer than everything: alone, when nobody waits
        await asyncio.to_thread(eventually, lambda: slow.batches == [1])
        rest = asyncio.ensure_future(line.odds([question(n, 4) for n in range(1, 6)]))
        await asyncio.to_thread(eventually, lambda: line.n_waiting == 5)
        with pytest.raises(QueueFullError):
            await line.odds([question(9, 11)])
        assert line.has_room(1, 10) and not line.has_room(1, 11)
        slow.open.set()
        return await asyncio.gather(first, rest)

    assert asyncio.run(run()) == [[[0.0]], [[1.0], [2.0], [3.0], [4.0], [5.0]]]
    assert slow.batches == [1, 2, 2, 1]


def test_the_line_has_a_limit_and_recovers(slow: Slow) -> None:
    async def run() -> None:
        line = batcher(slow, 5)
        first = asyncio.ensure_future(line.odds([question(1)]))
        await asyncio.to_thread(eventually, lambda: slow.batches == [1])
        second = asyncio.ensure_future(line.odds([question(2)] * 4))
        await asyncio.to_thread(eventually, lambda: line.n_waiting == 4)
        with pytest.raises(QueueFullError):
            await line.odds([question(3)] * 2)
        assert line.retry_after_s >= 1
        slow.open.set()
        assert await first == [[1.0]] and await second == [[2.0]] * 4
        assert await line.odds([question(3)] * 5) == [[3.0]] * 5

    asyncio.run(run())


def test_who_gives_up_leaves_the_line(slow: Slow) -> None:
    async def run() -> None:
        line = batcher(slow)
        first = asyncio.ensure_future(line.odds([question(1)]))
        await asyncio.to_thread(eventually, lambda: slow.batches == [1])
        gone = asyncio.ensure_future(line.odds([question(2)] * 3))
        await asyncio.to_thread(eventually, lambda: line.n_waiting == 3)
        gone.cancel()
        await asyncio.to_thread(eventually, lambda: line.n_waiting == 0)
        slow.open.set()
        assert await first == [[1.0]]

    asyncio.run(run())


def test_closing_answers_what_waits(slow: Slow) -> None:
    async def run() -> None:
        line = batcher(slow)
        first = asyncio.ensure_future(line.odds([question(1), question(2)]))
        await asyncio.to_thread(eventually, lambda: len(slow.batches) == 1)
        line.close()
        with pytest.raises(QueueFullError):
            await line.odds([question(3)])
        slow.open.set()
        assert await first == [[1.0], [2.0]]

    asyncio.run(run())
