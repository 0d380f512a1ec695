"""One model, many clients: a line, a limit to it, and nobody works for a client who left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest

from bessemer.infer.generate import Token
from bessemer.infer.model import Loaded
from bessemer.registry.store import StoredRelease
from bessemer.serve import jobs
from bessemer.serve import worker as worker_module
from bessemer.serve.app import create_app
from bessemer.serve.problems import RequestError
from bessemer.serve.worker import QueueFullError, Worker
from tests.serve.conftest import DIGEST, MODEL, TOKEN, Running, eventually, running

BODY: dict[str, Any] = {"model": MODEL, "prompt": "hi", "max_tokens": 3}


class Tap:
    """Stands in for `generate`: tokens come when the test lets them."""

    def __init__(self) -> None:
        self.running, self.ended = 0, 0
        self.open = threading.Event()

    def __call__(self, loaded: Loaded, ids: Any, *, cancelled: Any, **_: Any) -> Iterator[Token]:
        self.running += 1
        try:
            yield Token(5, "first ", -1.0)
            while not self.open.wait(0.005):
                if cancelled():
                    return
            yield Token(6, "last", -1.0, finish_reason="stop")
        finally:
            self.ended += 1


@pytest.fixture
def tap(monkeypatch: pytest.MonkeyPatch) -> Tap:
    found = Tap()
    monkeypatch.setattr(jobs, "generate", found)
    return found


@pytest.fixture
def small(loaded: Loaded, release: StoredRelease, tap: Tap) -> Iterator[Running]:
    """A server that keeps two requests waiting."""
    with running(create_app(loaded, release, token=TOKEN, max_waiting=2)) as found:
        yield found
        tap.open.set()


def _waiting(server: Running) -> int:
    return server.app.state.served.worker.n_waiting


def test_the_line_is_bounded_and_health_answers_meanwhile(small: Running, tap: Tap) -> None:
    with small.http() as http, ThreadPoolExecutor(3) as pool:
        first = pool.submit(http.post, "/v1/completions", json=BODY)
        eventually(lambda: tap.running == 1)
        others = [pool.submit(http.post, "/v1/completions", json=BODY) for _ in range(2)]
        eventually(lambda: _waiting(small) == 2)
        assert http.get("/health").json()["status"] == "ok"
        full = http.post("/v1/completions", json=BODY)
        assert full.status_code == 503
        assert full.headers["retry-after"]
        assert full.headers["x-bessemer-digest"] == DIGEST
        assert full.json()["error"]["code"] == "server_busy"
        tap.open.set()
        for answer in (first, *others):
            assert answer.result(30).json()["choices"][0]["text"] == "first last"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_work(small: Running, tap: Tap, stream: bool) -> None:
    with small.http() as http:
        if stream:
            with http.stream("POST", "/v1/completions", json={**BODY, "stream": True}) as answer:
                assert "first" in next(answer.iter_lines())
        else:
            with pytest.raises(httpx2.ReadTimeout):
                http.post("/v1/completions", json=BODY, timeout=httpx2.Timeout(30, read=0.3))
            eventually(lambda: tap.running == 1)
    eventually(lambda: tap.ended == 1)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_the_line_is_forgotten(small: Running, tap: Tap, stream: bool) -> None:
    with small.http() as http, ThreadPoolExecutor(1) as pool:
        first = pool.submit(http.post, "/v1/completions", json=BODY)
        eventually(lambda: tap.running == 1)
        with pytest.raises(httpx2.ReadTimeout), small.http() as leaving:
            body, patience = {**BODY, "stream": stream}, httpx2.Timeout(30, read=0.3)
            leaving.post("/v1/completions", json=body, timeout=patience)
        eventually(lambda: _waiting(small) == 0)
        tap.open.set()
        assert first.result(30).status_code == 200
    assert tap.running == 1


def test_failures_are_told(small: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Iterator[Token]:
        yield Token(5, "first ", -1.0)
        raise FloatingPointError("the model's logits are not finite")

    monkeypatch.setattr(jobs, "generate", broken)
    with small.client() as client:
        with pytest.raises(openai.InternalServerError) as failed:
            client.completions.create(**BODY)
        assert failed.value.response.headers["x-bessemer-digest"] == DIGEST
        assert failed.value.code == "internal_error"
        with pytest.raises(openai.APIError, match="the server failed"):
            list(client.completions.create(**BODY, stream=True))


def test_who_waits_for_what_is_computed_is_told_of_a_stop_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prompt is one step, which nothing can interrupt."""

    async def scenario() -> None:
        monkeypatch.setattr(worker_module, "JOIN_S", 0.01)
        worker, begun, gate = Worker(3), threading.Event(), threading.Event()

        def work(cancelled: Any) -> Iterator[int]:
            begun.set()
            gate.wait()
            yield 1

        ticket = worker.submit(work)
        await asyncio.to_thread(begun.wait)
        await asyncio.to_thread(worker.close)
        try:
            async with asyncio.timeout(20):
                with pytest.raises(RequestError, match="is being stopped"):
                    _ = [n async for n in ticket]
        finally:
            gate.set()

    asyncio.run(scenario())


def test_workers_keep_the_order_and_close() -> None:
    async def scenario() -> None:
        worker, gate, order = Worker(3), threading.Event(), list[int]()

        def work(n: int) -> Any:
            def run(cancelled: Any) -> Iterator[int]:
                gate.wait()
                order.append(n)
                yield n
                if n == 1:
                    raise KeyError(n)

            return run

        first = worker.submit(work(0))
        while worker.n_waiting:
            await asyncio.sleep(0.001)
        tickets = [worker.submit(work(n)) for n in (1, 2, 3)]
        with pytest.raises(QueueFullError):
            worker.submit(work(4))
        tickets[1].close()
        gate.set()
        assert [n async for n in first] == [0]
        with pytest.raises(KeyError):
            _ = [n async for n in tickets[0]]
        assert [n async for n in tickets[2]] == [3]
        assert order == [0, 1, 3]
        worker.close()
        with pytest.raises(QueueFullError):
            worker.submit(work(5))

    asyncio.run(scenario())


def test_many_clients_at_once_get_their_own_answers(server: Running) -> None:
    with server.client() as client:
        asked: dict[str, Any] = {"model": MODEL, "max_tokens": 5, "temperature": 0}
        prompts = [f"house {n}" for n in range(8)]
        alone = [client.completions.create(prompt=p, **asked).choices[0].text for p in prompts]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda p: client.completions.create(prompt=p, **asked).choices[0].text, prompts))
    assert together == alone
