"""`comments:analyze` and `comments:suggestscore` in the shape of Perspective's API. See docs/perspective.md.

An attribute is a rule whose `attribute` has its name, or whose id is the name in lower case with `-`. The policy is the
server's default, or `?policy=name@version`; the model `?model=`.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import Field, StrictBool, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bessemer.data.moderation import MAX_CHARACTERS, Comment, clean
from bessemer.moderate.decide import Finding
from bessemer.moderate.decisions import suggestion
from bessemer.moderate.policy import Policy, Rule
from bessemer.serve.desk import Desk, stored_for_good
from bessemer.serve.leaving import CLIENT_LEFT, while_there
from bessemer.serve.problems import DIGEST_HEADER, DISCOVERY, GOOGLE, RequestError
from bessemer.serve.schemas import Strict, Text

Json = dict[str, Any]
VERSION = GOOGLE.strip("/")
QUERY = {"policy", "model", "key", "alt", "prettyPrint", "quotaUser"}  # from key on: of all Google's APIs
ScoreType = Literal["PROBABILITY", "SCORE_TYPE_UNSPECIFIED"]


class TextEntry(Strict):
    text: str = ""
    type: Literal["PLAIN_TEXT", "TEXT_TYPE_UNSPECIFIED"] = "PLAIN_TEXT"


class ArticleAndParent(Strict):
    article: TextEntry = TextEntry()
    parentComment: TextEntry = TextEntry()


class Context(Strict):
    entries: Annotated[list[TextEntry], Field(fail_fast=True)] = Field(default_factory=list[TextEntry], max_length=1000)
    articleAndParentComment: ArticleAndParent = ArticleAndParent()


class Wanted(Strict):
    scoreType: ScoreType = "PROBABILITY"
    scoreThreshold: Annotated[float, Field(ge=0, le=1)] = 0.0


class Both(Strict):
    """What both requests share. Languages are taken as they are said: no rule depends on them."""

    comment: TextEntry
    context: Context = Context()
    languages: Annotated[list[Text], Field(fail_fast=True)] = Field(default_factory=list[Text], max_length=100)
    clientToken: Text = ""
    sessionId: str = ""
    communityId: Text = ""

    def read(self) -> Comment:
        """The article's beginning stands for a title, the last thing said before for what the comment answers."""
        before = [entry.text for entry in self.context.entries[-1:]]
        about = self.context.articleAndParentComment
        return Comment(
            self.comment.text, about.article.text, about.parentComment.text or "".join(before), self.communityId
        )


class AnalyzeRequest(Both):
    requestedAttributes: Annotated[dict[str, Wanted], Field(min_length=1, max_length=200)]
    spanAnnotations: StrictBool = False
    doNotStore: StrictBool = False


class Value(Strict):
    value: Annotated[float, Field(ge=0, le=1)]
    type: ScoreType = "PROBABILITY"


class Span(Strict):
    begin: Annotated[int, Field(ge=0)] = 0
    end: Annotated[int, Field(ge=0)] = 0
    score: Value


class Scores(Strict):
    """As an answer of `analyze` has them; without a summary the highest span is meant."""

    summaryScore: Value | None = None
    spanScores: Annotated[list[Span], Field(fail_fast=True)] = Field(default_factory=list[Span], max_length=1000)

    @model_validator(mode="after")
    def _some(self) -> Scores:
        if self.summaryScore is None and not self.spanScores:
            raise ValueError("give summaryScore or spanScores")
        return self

    @property
    def broken(self) -> bool:
        given = [self.summaryScore] if self.summaryScore else [span.score for span in self.spanScores]
        return max(score.value for score in given) >= 0.5


class SuggestRequest(Both):
    attributeScores: Annotated[dict[str, Scores], Field(min_length=1, max_length=200)]


def _need_known(request: Request) -> None:
    """A mistyped `policy` would be answered by another one."""
    if unknown := sorted(request.query_params.keys() - QUERY):
        raise RequestError(
            400, f"the query parameter {unknown[0]!r} is unknown or not supported here, so it is refused",
            code="unsupported_parameter", param=unknown[0],
        )  # fmt: skip
    if (form := request.query_params.get("alt", "json")) != "json":
        raise RequestError(400, f"answers are JSON, not {form[:80]!r}", code="unsupported_parameter", param="alt")


def discovery(base: str) -> Json:
    """What Google's own clients read before they call anything. base: the server's address, as the client called it."""
    query = {name: {"type": "string", "location": "query"} for name in sorted(QUERY)}
    methods = {
        name: {
            "id": f"commentanalyzer.comments.{name}", "path": f"{GOOGLE[1:]}comments:{name}", "httpMethod": "POST",
            "parameters": {n: query[n] for n in ("policy", "model")},
            "request": {"$ref": asked}, "response": {"$ref": "Answer"},
        }
        for name, asked in (("analyze", "AnalyzeRequest"), ("suggestscore", "SuggestRequest"))
    }  # fmt: skip
    anything = {"type": "object", "additionalProperties": {"type": "any"}}
    return {
        "kind": "discovery#restDescription", "protocol": "rest", "name": "commentanalyzer",
        "version": VERSION, "id": f"commentanalyzer:{VERSION}", "rootUrl": base, "servicePath": "", "baseUrl": base,
        "parameters": {n: query[n] for n in sorted(QUERY - {"policy", "model"})},
        "schemas": {n: {"id": n, **anything} for n in ("AnalyzeRequest", "SuggestRequest", "Answer")},
        "resources": {"comments": {"methods": methods}},
    }  # fmt: skip


def add_perspective(app: FastAPI, desk: Desk) -> None:
    @app.get(DISCOVERY)
    async def describe(request: Request) -> Json:
        if (version := request.query_params.get("version", "")) != VERSION:
            raise RequestError(
                404, f"the version {version[:80]!r} is none of this API; it has {VERSION}",
                code="version_not_found", param="version",
            )  # fmt: skip
        return discovery(str(request.base_url))

    @app.post(f"{GOOGLE}comments:analyze")
    async def analyze(body: AnalyzeRequest, request: Request) -> Response:
        _need_known(request)
        policy = await asyncio.to_thread(desk.policy, request.query_params.get("policy"))
        rules = {name: _rule(policy, name) for name in body.requestedAttributes}
        comment = body.read()
        backend = desk.fleet.pick(request.query_params.get("model", ""), comment.text)
        verdicts = await while_there(request, desk.judge(backend, policy, [comment], private=body.doNotStore))
        if verdicts is None:
            return Response(status_code=CLIENT_LEFT)
        (verdict,) = verdicts
        if verdict.decision is None:
            raise verdict.error or RequestError(500, "no decision", code="internal_error")
        findings = {f.rule: f for f in verdict.decision.findings}
        answer: Json = {
            "attributeScores": {
                name: _scores(findings[rules[name].id], len(comment.text))
                for name, wanted in body.requestedAttributes.items()
                if findings[rules[name].id].score >= wanted.scoreThreshold
            },
            "languages": body.languages or ["und"],
            "detectedLanguages": body.languages or ["und"],
            **({"clientToken": body.clientToken} if body.clientToken else {}),
            "releaseDigest": backend.digest,
            "policy": policy.reference,
            "policyHash": policy.digest,
            "calibration": verdict.calibration,
            "decisionId": verdict.id,
        }
        return JSONResponse(answer, headers={DIGEST_HEADER: backend.digest})

    @app.post(f"{GOOGLE}comments:suggestscore")
    def suggestscore(body: SuggestRequest, request: Request) -> Json:
        _need_known(request)
        policy = desk.policy(request.query_params.get("policy"))
        labels = {_rule(policy, name).id: scores.broken for name, scores in body.attributeScores.items()}
        backend = desk.fleet.pick(request.query_params.get("model", ""), body.comment.text)
        comment = body.read()
        if len(comment.text) > MAX_CHARACTERS:
            raise RequestError(
                400,
                f"the comment has more than {MAX_CHARACTERS:,} characters",
                code="comment_too_long",
                param="comment",
            )
        if not clean(comment.text):
            raise RequestError(
                400, "the comment has no text that anyone can see", code="comment_empty", param="comment"
            )
        with stored_for_good("the suggestion"):
            appeals, key = desk.appeals, desk.key
            suggestion(appeals, comment, policy, labels, digest=backend.digest, key=key)
        return {
            "detectedLanguages": body.languages or ["und"],
            "requestedLanguages": body.languages,
            **({"clientToken": body.clientToken} if body.clientToken else {}),
        }


def _rule(policy: Policy, attribute: str) -> Rule:
    named = [r for r in policy.rules if r.attribute == attribute]
    named += [r for r in policy.rules if r.id.upper().replace("-", "_") == attribute]
    if named:
        return named[0]
    known = sorted({r.attribute or r.id.upper().replace("-", "_") for r in policy.rules})
    raise RequestError(
        400, f"the attribute {attribute[:80]!r} is no rule of {policy.reference}; it has {', '.join(known)}",
        code="attribute_not_found", param="requestedAttributes",
    )  # fmt: skip


def _scores(finding: Finding, n_characters: int) -> Json:
    """A rule is judged on the whole comment, so that the only span is all of it; many clients read no other score."""
    value = {"value": round(finding.score, 6), "type": "PROBABILITY"}
    return {"summaryScore": value, "spanScores": [{"begin": 0, "end": n_characters, "score": value}]}
