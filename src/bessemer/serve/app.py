"""The application: an OpenAI-compatible API for one release. `guard` says what a request must pass first."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from bessemer.infer.model import Loaded
from bessemer.registry.store import StoredRelease
from bessemer.serve.answers import Answer
from bessemer.serve.guard import OPEN_PATH, Guard
from bessemer.serve.jobs import Job, Piece, chat_job, completion_job
from bessemer.serve.problems import RequestError, from_validation, internal_error
from bessemer.serve.schemas import ChatRequest, CompletionRequest
from bessemer.serve.worker import QueueFullError, Ticket, Worker

MAX_WAITING = 64
CLIENT_LEFT = 499  # nginx's word for it; nobody reads the answer
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
) -> FastAPI:
    """An application that answers with this model only. hosts, any_address: see `Guard`."""
    served = Served(loaded, release, Worker(max_waiting))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        served.worker.close()

    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        telemetry=NO_TELEMETRY,
    )
    app.state.served = served
    app.add_middleware(Guard, token=token, digest=loaded.digest, hosts=hosts, any_address=any_address)
    _add_errors(app, loaded.digest)
    _add_routes(app, served)
    return app


@dataclass(frozen=True)
class Served:
    """The model, what it is called, and its thread."""

    loaded: Loaded
    release: StoredRelease
    worker: Worker

    def need_name(self, name: str) -> None:
        """`name@version`, or `name` alone. Raises RequestError for any other."""
        if name not in {self.release.reference, self.release.name}:
            raise RequestError(
                404, f"the model {name!r} does not exist; this server has {self.release.reference!r}",
                code="model_not_found", param="model",
            )  # fmt: skip

    def card(self) -> dict[str, Any]:
        """The model as /v1/models shows it."""
        manifest = self.release.manifest
        created = manifest.get("created")
        return {
            "id": self.release.reference,
            "object": "model",
            "created": int(datetime.fromisoformat(created).timestamp()) if created else 0,
            "owned_by": "bessemer",
            "digest": self.loaded.digest,
            "verdict": manifest.get("verdict"),
            "base": (manifest.get("base") or {}).get("name"),
        }

    async def prepare(self, make: Callable[[Loaded, RequestT], Job], body: RequestT) -> tuple[Job, Ticket[Piece]]:
        """Tokenise beside the event loop, then get in line."""
        self.need_name(body.model)
        job = await asyncio.to_thread(make, self.loaded, body)
        try:
            return job, self.worker.submit(lambda cancelled: job.run(self.loaded, cancelled))
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
            return _Events(_guarded(answer.stream(aiter(ticket), body.stream_options.include_usage)), ticket)
        whole = asyncio.ensure_future(answer.whole(aiter(ticket)))
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({whole, gone}, return_when=asyncio.FIRST_COMPLETED)
            return JSONResponse(whole.result()) if whole.done() else Response(status_code=CLIENT_LEFT)
        except Exception:
            log.exception("a request failed")
            raise internal_error() from None
        finally:
            ticket.close()
            whole.cancel()
            gone.cancel()


def _add_routes(app: FastAPI, served: Served) -> None:
    reference, digest = served.release.reference, served.loaded.digest

    @app.get(OPEN_PATH)
    async def health() -> dict[str, Any]:
        return {"status": "ok", "release": reference, "digest": digest}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [served.card()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        served.need_name(name)
        return served.card()

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        job, ticket = await served.prepare(chat_job, body)
        return await served.respond(request, body, Answer(served.loaded, reference, "chat", job, body.logprobs), ticket)

    @app.post("/v1/completions")
    async def complete(body: CompletionRequest, request: Request) -> Response:
        job, ticket = await served.prepare(completion_job, body)
        return await served.respond(
            request, body, Answer(served.loaded, reference, "text", job, body.logprobs is not None), ticket
        )


def _add_errors(app: FastAPI, digest: str) -> None:
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        return error.response(digest)

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return from_validation(error.errors()).response(digest)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path}: {error.detail}"
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        return RequestError(error.status_code, message, code=code, headers=error.headers).response(digest)

    async def failed(_: Request, error: Exception) -> Response:
        return internal_error().response(digest)

    app.add_exception_handler(RequestError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, failed)


class _Events(StreamingResponse):
    """Server-sent events of a ticket, which is closed however the response ends."""

    def __init__(self, events: AsyncIterator[str], ticket: Ticket[Piece]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
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
    except Exception:
        log.exception("a stream failed")
        yield f"data: {json.dumps(internal_error().body())}\n\n"


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
