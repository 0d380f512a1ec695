"""The application: OpenAI's API, and Perspective's, for pinned releases. `guard`: what a request must pass first."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from bessemer.infer.model import Loaded
from bessemer.moderate.policy import Policy
from bessemer.registry.store import StoredRelease
from bessemer.serve.answers import Answer
from bessemer.serve.batches import MAX_WAITING as MAX_COMMENTS
from bessemer.serve.desk import Desk
from bessemer.serve.fleet import Backend, Fleet, Open
from bessemer.serve.guard import OPEN_PATH, Guard
from bessemer.serve.jobs import Job, Piece, chat_job, completion_job
from bessemer.serve.leaving import CLIENT_LEFT, while_there
from bessemer.serve.moderation import add_moderation
from bessemer.serve.perspective import add_perspective
from bessemer.serve.problems import DIGEST_HEADER, RequestError, from_validation, internal_error
from bessemer.serve.schemas import ChatRequest, CompletionRequest
from bessemer.serve.worker import QueueFullError, Ticket, Worker

MAX_WAITING = 64
NO_TELEMETRY: Any = dict.fromkeys(("auto_configure", "tracing", "metrics", "logs", "operation_spans"), False)
RequestT = TypeVar("RequestT", ChatRequest, CompletionRequest)
log = logging.getLogger(__name__)


def create_app(
    loaded: Loaded,
    release: StoredRelease,
    *,
    token: str,
    hosts: Collection[str] = (),
    any_address: bool = False,
    max_waiting: int = MAX_WAITING,
    max_comments: int = MAX_COMMENTS,
    others: Sequence[tuple[Loaded, StoredRelease]] = (),
    stays: Collection[str] = (),
    open_release: Open | None = None,
    policy: Policy | None = None,
    keep_text: bool = False,
) -> FastAPI:
    """An application that answers with this model, and with `others` when they are asked for by version or digest.

    hosts, any_address: see `Guard`. max_waiting: requests that wait to be answered; max_comments: comments that wait
    to be judged. stays, open_release: see `Fleet`. policy: of moderation requests that name none. keep_text: the
    decision log holds texts.
    """
    backends = [Backend(of, which, max_comments) for of, which in ((loaded, release), *others)]
    fleet = Fleet(backends, stays=stays, open_release=open_release)
    served = Served(fleet, Worker(max_waiting), Desk(fleet, policy, keep_text=keep_text))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        served.close()

    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        telemetry=NO_TELEMETRY,
    )
    app.state.served = served
    app.add_middleware(Guard, token=token, digest=lambda: fleet.main.digest, hosts=hosts, any_address=any_address)
    _add_errors(app, fleet)
    _add_routes(app, served)
    add_moderation(app, served.desk, served.worker)
    add_perspective(app, served.desk)
    return app


@dataclass(frozen=True)
class Served:
    """The models, the thread that writes answers, and the desk that judges comments."""

    fleet: Fleet
    worker: Worker
    desk: Desk

    def stop(self) -> None:
        """Whoever still waits for an answer is told that none will come."""
        self.worker.close()
        self.fleet.close()

    def close(self) -> None:
        self.stop()
        self.desk.close()

    def card(self, backend: Backend) -> dict[str, Any]:
        """A model as /v1/models shows it."""
        manifest = backend.release.manifest
        created = manifest.get("created")
        return {
            "id": backend.release.reference,
            "object": "model",
            "created": int(datetime.fromisoformat(created).timestamp()) if created else 0,
            "owned_by": "bessemer",
            "digest": backend.digest,
            "verdict": manifest.get("verdict"),
            "base": (manifest.get("base") or {}).get("name"),
        }

    async def prepare(
        self, backend: Backend, make: Callable[[Loaded, RequestT], Job], body: RequestT
    ) -> tuple[Job, Ticket[Piece]]:
        """Tokenise beside the event loop, then get in line."""
        loaded = backend.loaded
        job = await asyncio.to_thread(make, loaded, body)
        try:
            return job, self.worker.submit(lambda cancelled: job.run(loaded, cancelled))
        except QueueFullError:
            raise RequestError(
                503, f"{self.worker.max_waiting} requests wait already; try again later",
                code="server_busy", kind="server_error", headers={"Retry-After": "5"},
            ) from None  # fmt: skip

    async def respond(
        self, request: Request, body: ChatRequest | CompletionRequest, answer: Answer, ticket: Ticket[Piece]
    ) -> Response:
        """The answer whole or as a stream. A client that leaves stops the work."""
        if body.stream:
            events = answer.stream(aiter(ticket), body.stream_options.include_usage)
            return _Events(_guarded(events), ticket, answer.loaded.digest)
        try:
            whole = await while_there(request, answer.whole(aiter(ticket)))
            headers = {DIGEST_HEADER: answer.loaded.digest}
            return JSONResponse(whole, headers=headers) if whole else Response(status_code=CLIENT_LEFT)
        except RequestError:
            raise
        except Exception:
            log.exception("a request failed")
            raise internal_error() from None
        finally:
            ticket.close()


def _add_routes(app: FastAPI, served: Served) -> None:
    fleet = served.fleet

    @app.api_route(OPEN_PATH, methods=["GET", "HEAD"])
    async def health() -> dict[str, Any]:
        return {"status": "ok", "release": fleet.main.release.reference, "digest": fleet.main.digest}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [served.card(backend) for backend in fleet.backends]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return served.card(fleet.pick(name, ""))

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        backend = fleet.pick(body.model, body.messages[-1].content)
        policy = None if body.policy is None else await asyncio.to_thread(served.desk.policy, body.policy)
        job, ticket = await served.prepare(backend, partial(chat_job, policy=policy), body)
        answer = Answer(backend.loaded, backend.release.reference, "chat", job, body.logprobs)
        return await served.respond(request, body, answer, ticket)

    @app.post("/v1/completions")
    async def complete(body: CompletionRequest, request: Request) -> Response:
        backend = fleet.pick(body.model, str(body.prompt))
        job, ticket = await served.prepare(backend, completion_job, body)
        answer = Answer(backend.loaded, backend.release.reference, "text", job, body.logprobs is not None)
        return await served.respond(request, body, answer, ticket)


def _add_errors(app: FastAPI, fleet: Fleet) -> None:
    def answer(error: RequestError, request: Request) -> Response:
        return error.response(fleet.main.digest, request.url.path)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        return answer(error, request)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(from_validation(error.errors()), request)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path}: {error.detail}"
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        return answer(RequestError(error.status_code, message, code=code, headers=error.headers), request)

    async def failed(request: Request, error: Exception) -> Response:
        return answer(internal_error(), request)

    app.add_exception_handler(RequestError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, failed)


class _Events(StreamingResponse):
    """Server-sent events of a ticket, which is closed however the response ends."""

    def __init__(self, events: AsyncIterator[str], ticket: Ticket[Piece], digest: str) -> None:
        headers = {"X-Accel-Buffering": "no", DIGEST_HEADER: digest}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._ticket = ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ticket.close()


async def _guarded(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """The headers are sent already, so a failure becomes the last event."""
    try:
        async for event in events:
            yield event
    except RequestError as error:
        yield f"data: {json.dumps(error.body())}\n\n"
    except Exception:
        log.exception("a stream failed")
        yield f"data: {json.dumps(internal_error().body())}\n\n"
