"""Errors as clients expect them: {"error": {"message", "type", "param", "code"}}; Google's shape on its paths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

DIGEST_HEADER = "X-Bessemer-Digest"
GOOGLE = "/v1alpha1/"  # paths of Perspective's API
DISCOVERY = "/$discovery/rest"  # where Google's clients ask what there is
_STATUS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND", 405: "UNIMPLEMENTED",
           429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE"}  # fmt: skip


class RequestError(Exception):
    """A request that is answered with an error; nothing was generated for it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.kind, self.param, self.headers = kind, param, dict(headers or {})

    def body(self, path: str = "") -> dict[str, Any]:
        """path: whose clients asked."""
        if path.startswith((GOOGLE, DISCOVERY)):
            kind = "type.googleapis.com/google.commentanalyzer.v1alpha1.Error"
            details = [{"@type": kind, "errorType": self.code.upper()}]
            status = _STATUS.get(self.status, "INVALID_ARGUMENT")
            return {"error": {"code": self.status, "message": self.message, "status": status, "details": details}}
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self, digest: str, path: str = "") -> Response:
        """ASCII only: a message may quote text of the client that is no valid Unicode."""
        headers = {DIGEST_HEADER: digest, **self.headers}
        return Response(json.dumps(self.body(path)), self.status, headers=headers, media_type="application/json")


def internal_error() -> RequestError:
    return RequestError(
        500, "the server failed; its log says why", code="internal_error", kind="server_error",
        headers={"Connection": "close"},
    )  # fmt: skip


def stopping() -> RequestError:
    return RequestError(
        503, "the server is being stopped; ask again later", code="server_stopping", kind="server_error",
        headers={"Connection": "close", "Retry-After": "5"},
    )  # fmt: skip


def from_validation(errors: Sequence[Mapping[str, Any]]) -> RequestError:
    """The first mistake of a request that pydantic refused."""
    first = errors[0]
    path = [str(p) for p in first["loc"] if p != "body"]
    if first["type"] == "json_invalid":
        return RequestError(400, "the body is no valid JSON", code="invalid_json")
    if first["type"] == "extra_forbidden":
        message = f"the parameter {'.'.join(path)!r} is unknown or not supported here, so it is refused"
        return RequestError(400, message, code="unsupported_parameter", param=".".join(path))
    if not path and first["type"] in {"model_attributes_type", "dict_type"}:
        message = "the body is no JSON object, or its Content-Type is not application/json"
        return RequestError(400, message, code="invalid_json")
    param = _param(path) if path else None
    message = f"{param}: {first['msg']}" if param else str(first["msg"]).removeprefix("Value error, ")
    code = "missing_parameter" if first["type"] == "missing" else "invalid_value"
    return RequestError(400, message, code=code, param=param)


def _param(path: list[str]) -> str:
    """`messages.0.role`; without the branches of a union that pydantic adds behind the field."""
    return ".".join(p for p in path if (p.isidentifier() and p not in {"str", "int"}) or p.isdigit())
