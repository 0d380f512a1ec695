"""`/v1/moderations` in OpenAI's schema, with what a policy adds; appeals; why a comment breaks a rule."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from pydantic import Field, StrictBool
from starlette.responses import JSONResponse, Response

from bessemer.data.items import Message
from bessemer.data.moderation import YES, Comment, ask, clean
from bessemer.errors import BessemerError
from bessemer.infer.generate import generate
from bessemer.moderate.decide import Decision
from bessemer.moderate.decisions import Ruling, appeal
from bessemer.moderate.policy import CATEGORIES, Policy
from bessemer.serve.desk import Desk, Verdict, stored_for_good
from bessemer.serve.fleet import Backend
from bessemer.serve.leaving import CLIENT_LEFT, while_there
from bessemer.serve.problems import DIGEST_HEADER, RequestError
from bessemer.serve.schemas import Strict
from bessemer.serve.worker import QueueFullError, Worker

MAX_INPUTS = 256
MAX_REASONS = 8
REASONS_S = 20.0  # decisions do not wait longer for them
REASON_TOKENS = 40
REASON_CHARACTERS = 2000  # of the comment that is explained
WHY = "Why? Answer in one short sentence."
FIELDS = ("text", "title", "parent", "community")
Json = dict[str, Any]
log = logging.getLogger(__name__)


class ModerationRequest(Strict):
    """OpenAI's, and: `policy` (a stored name, or a whole policy), `reason`, comments as objects."""

    input: Any
    model: str = ""
    policy: str | dict[str, Any] | None = None
    reason: StrictBool = False


class AppealRequest(Strict):
    decision: Annotated[str, Field(max_length=200)]
    outcome: Ruling
    rules: list[str] = Field(default_factory=list[str], max_length=200)
    text: str = ""
    title: str = ""
    parent: str = ""
    note: str = ""


def add_moderation(app: FastAPI, desk: Desk, worker: Worker) -> None:
    @app.post("/v1/moderations")
    async def moderations(body: ModerationRequest, request: Request) -> Response:
        policy = await asyncio.to_thread(desk.policy, body.policy)
        comments = read_inputs(body.input)
        first = next((c.text for c in comments if isinstance(c, Comment)), "")
        backend = desk.fleet.pick(body.model, first)
        verdicts = await while_there(request, desk.judge(backend, policy, comments))
        if verdicts is None:
            return Response(status_code=CLIENT_LEFT)
        if len(verdicts) == 1 and (error := verdicts[0].error):
            raise error
        reasons: dict[int, dict[Literal["reason"], str]] = {}
        if body.reason:
            await while_there(request, _reasons(backend, policy, verdicts, worker, reasons))
        answer = {
            "id": f"modr-{secrets.token_hex(12)}",
            "model": backend.release.reference,
            "results": [{**_result(policy, v), **reasons.get(i, {})} for i, v in enumerate(verdicts)],
            "release_digest": backend.digest,
            "policy": policy.reference,
            "policy_hash": policy.digest,
            "calibration": verdicts[0].calibration,
        }
        return JSONResponse(answer, headers={DIGEST_HEADER: backend.digest})

    @app.post("/v1/appeals")
    def take_appeal(body: AppealRequest) -> Json:
        with stored_for_good("the appeal"):
            appeals, key = desk.appeals, desk.key
            try:
                entry = appeal(
                    appeals, desk.decisions_folder, body.decision, body.outcome,
                    rules=body.rules, text=body.text, title=body.title, parent=body.parent, note=body.note, key=key,
                )  # fmt: skip
            except BessemerError as error:
                raise RequestError(400, f"{error.what}; {error.fix}", code="invalid_appeal", param="decision") from None
        return {"id": entry["id"], "object": "appeal", "decision": body.decision, "teaches": entry["teaches"]}


def read_inputs(given: Any) -> list[Comment | RequestError]:
    """One text; a list of texts or comments; or OpenAI's list of parts, which are one input.

    Raises RequestError when it is none of these; an item that is wrong is an error of its own.
    """
    if isinstance(given, list) and 1 <= len(given) <= MAX_INPUTS:
        if all(isinstance(part, dict) and "type" in part for part in given):
            return [_parts(given)]
        return [_comment(item, place) for place, item in enumerate(given)]
    if isinstance(given, str | dict):
        return [_comment(given, 0)]
    raise RequestError(
        400,
        f"input: give a text, a comment, or a list of 1 to {MAX_INPUTS} of them",
        code="invalid_value",
        param="input",
    )


def _parts(parts: Sequence[Any]) -> Comment | RequestError:
    if any(p["type"] != "text" for p in parts):
        return RequestError(400, "input: only text is judged", code="invalid_value", param="input")
    if not all(p.keys() == {"type", "text"} and isinstance(p["text"], str) for p in parts):
        return RequestError(
            400, "input: a part has `type` and `text` and nothing else", code="invalid_value", param="input"
        )
    return Comment("\n".join(p["text"] for p in parts))


def _comment(item: Any, place: int) -> Comment | RequestError:
    if isinstance(item, str):
        return Comment(item)
    fields = {k: v for k, v in item.items() if v is not None} if isinstance(item, dict) else {}
    if "text" not in fields or not fields.keys() <= set(FIELDS) or not all(isinstance(v, str) for v in fields.values()):
        return RequestError(
            400, f"a comment is a text, or an object of texts with `text` and maybe {', '.join(FIELDS[1:])}",
            code="invalid_value", param=f"input.{place}",
        )  # fmt: skip
    return Comment(**fields)


def _result(policy: Policy, verdict: Verdict) -> Json:
    decision = verdict.decision
    rules = {f.rule: f for f in decision.findings} if decision else {}
    of = {name: [rules[r.id] for r in policy.rules if r.category == name and r.id in rules] for name in CATEGORIES}
    result: Json = {
        "flagged": decision is None or bool(decision.cited),  # what nobody could judge must be looked at
        "categories": {name: any(f.word == "broken" for f in own) for name, own in of.items()},
        "category_scores": {name: max((round(f.score, 6) for f in own), default=0.0) for name, own in of.items()},
        "category_applied_input_types": {name: ["text"] if own else [] for name, own in of.items()},
        "action": decision.outcome if decision else "queue",
        "cited_rules": decision.cited if decision else [],
        "rules": {f.rule: f.as_dict() for f in rules.values()},
        "decision_id": verdict.id,
    }
    return result | (verdict.error.body() if verdict.error else {})


# -- reasons ----------------------------------------------------------------------------------------------------


async def _reasons(
    backend: Backend,
    policy: Policy,
    verdicts: Sequence[Verdict],
    worker: Worker,
    found: dict[int, dict[Literal["reason"], str]],
) -> None:
    """For each comment that breaks a rule a sentence about the surest one, written by the model after its answer.

    It explains the answer as the model would; it is not what the decision was made of. The first MAX_REASONS comments
    get one; a reason that cannot be written, or not in time, is left out, because the decisions are taken and logged
    already. found: takes them.
    """
    cited = [(i, v.decision) for i, v in enumerate(verdicts) if v.decision and v.decision.cited]
    with suppress(TimeoutError):
        async with asyncio.timeout(REASONS_S):
            for i, decision in cited[:MAX_REASONS]:
                try:
                    found[i] = {"reason": await _reason(backend, policy, verdicts[i].comment, decision, worker)}
                except (BessemerError, QueueFullError, RequestError):
                    continue
                except Exception:  # whatever a model may fail with: the decision stands
                    log.exception("no reason could be written")


async def _reason(backend: Backend, policy: Policy, comment: Comment, decision: Decision, worker: Worker) -> str:
    rule = next(r for r in policy.rules if r.id == decision.cited[0])
    text = clean(comment.text)[:REASON_CHARACTERS]
    asked = ask(Comment(text, comment.title, comment.parent, comment.community or policy.community), rule.read)
    loaded = backend.loaded
    ids = loaded.renderer.chat_ids([*asked, Message("assistant", YES), Message("user", WHY)])
    ticket = worker.submit(
        lambda cancelled: generate(
            loaded, ids, max_tokens=REASON_TOKENS, temperature=0, stop=["\n"], cancelled=cancelled
        )
    )
    try:
        return "".join([token.text async for token in aiter(ticket) if not token.hidden]).strip()
    finally:
        ticket.close()
