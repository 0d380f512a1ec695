"""Tokens -> OpenAI's JSON: whole answers and the chunks of a stream, from the same pieces."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from bessemer.infer.generate import Token
from bessemer.infer.model import Loaded
from bessemer.infer.text import token_name, vocabulary
from bessemer.serve.jobs import Job, Piece

Json = dict[str, Any]


@dataclass
class Answer:
    """One request's answer in the making. kind: `chat` or `text`."""

    loaded: Loaded
    model: str
    kind: str
    job: Job
    wants_logprobs: bool
    n_generated: int = 0
    _offsets: dict[int, int] = field(default_factory=dict[int, int])  # characters so far, by prompt
    _head: Json = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        self._head = {
            "id": f"{'chatcmpl' if self.kind == 'chat' else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": self.loaded.digest,
        }

    def usage(self) -> Json:
        """Counts of tokens: the end-of-turn token and dropped stop strings were generated, so they count."""
        n_prompt = self.job.n_prompt_tokens
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": self.n_generated,
            "total_tokens": n_prompt + self.n_generated,
        }

    async def whole(self, pieces: AsyncIterator[Piece]) -> Json:
        """The answer in one object."""
        texts = [""] * len(self.job.prompts)
        reasons = ["length"] * len(texts)
        logprobs: list[Json | None] = [self._logprobs([]) if self.wants_logprobs else None for _ in texts]
        async for piece in pieces:
            found = self._take(piece)
            texts[piece.index] += piece.token.text
            reasons[piece.index] = piece.token.finish_reason or reasons[piece.index]
            for key, values in (found or {}).items():
                total = logprobs[piece.index]
                if total is not None and values:
                    total[key] += values
        choices = [
            {"index": i, "logprobs": logprobs[i], "finish_reason": reasons[i], **self._content(texts[i])}
            for i in range(len(texts))
        ]
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        return {**self._head, "object": name, "choices": choices, "usage": self.usage()}

    async def stream(self, pieces: AsyncIterator[Piece], include_usage: bool) -> AsyncIterator[str]:
        """The answer as server-sent events; the last one is [DONE]."""
        more: Json = {"usage": None} if include_usage else {}
        if self.kind == "chat":
            yield self._chunk([self._choice(0, {"role": "assistant", "content": "", "refusal": None})], more)
        finished: set[int] = set()
        async for piece in pieces:
            logprobs, reason = self._take(piece), piece.token.finish_reason
            if piece.token.text or logprobs:
                delta = {"content": piece.token.text} if self.kind == "chat" else piece.token.text
                yield self._chunk([self._choice(piece.index, delta, logprobs)], more)
            if reason:
                finished.add(piece.index)
                yield self._chunk([self._last_choice(piece.index, reason)], more)
        for index in range(len(self.job.prompts)):
            if index not in finished:  # nothing was to be generated
                yield self._chunk([self._last_choice(index, "length")], more)
        if include_usage:
            yield self._chunk([], {"usage": self.usage()})
        yield "data: [DONE]\n\n"

    def _take(self, piece: Piece) -> Json | None:
        """Count the piece; its log-probabilities, where they are wanted and it is part of the answer."""
        offset = self._offsets.get(piece.index, 0)
        self._offsets[piece.index] = offset + len(piece.token.text)
        self.n_generated += not piece.given
        if not self.wants_logprobs or piece.token.hidden:
            return None
        return self._logprobs([piece.token], offset)

    def _content(self, text: str) -> Json:
        if self.kind == "text":
            return {"text": text}
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _choice(self, index: int, delta: Json | str, logprobs: Json | None = None) -> Json:
        key = "delta" if self.kind == "chat" else "text"
        return {"index": index, key: delta, "logprobs": logprobs, "finish_reason": None}

    def _last_choice(self, index: int, reason: str) -> Json:
        return {**self._choice(index, {} if self.kind == "chat" else ""), "finish_reason": reason}

    def _chunk(self, choices: list[Json], more: Json) -> str:
        name = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        return f"data: {json.dumps({**self._head, 'object': name, 'choices': choices, **more})}\n\n"

    def _logprobs(self, tokens: list[Token], offset: int = 0) -> Json:
        if self.kind == "chat":
            return {"content": [self._chat_logprob(t) for t in tokens], "refusal": None}
        return {
            "tokens": [self._name(t.id) for t in tokens],
            "token_logprobs": [_number(t.logprob) for t in tokens],
            "top_logprobs": [self._tops(t) for t in tokens],
            "text_offset": [offset for _ in tokens],
        }

    def _chat_logprob(self, token: Token) -> Json:
        top = [self._entry(i, logprob) for i, logprob in token.top]
        return {**self._entry(token.id, token.logprob), "top_logprobs": top}

    def _entry(self, token: int, logprob: float) -> Json:
        raw = vocabulary(self.loaded.renderer).raw(token)
        return {"token": raw.decode(errors="replace"), "bytes": list(raw), "logprob": logprob}

    def _tops(self, token: Token) -> Json | None:
        """{token: logprob}; the likelier one where two tokens have the same name."""
        if math.isnan(token.logprob):
            return None
        tops: Json = {}
        for i, logprob in token.top:
            tops.setdefault(self._name(i), logprob)
        return tops

    def _name(self, token: int) -> str:
        return token_name(vocabulary(self.loaded.renderer).raw(token))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
