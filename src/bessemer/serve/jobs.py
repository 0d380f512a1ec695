"""Requests -> work for the model's thread. What can be refused is refused here, before anything is queued."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jinja2

from bessemer.data.items import Message
from bessemer.errors import BessemerError
from bessemer.infer.generate import Token, generate, prompt_logprobs
from bessemer.infer.model import Loaded, max_positions, need_scoring_room
from bessemer.infer.text import TextStream, vocabulary
from bessemer.moderate.policy import Policy
from bessemer.serve.problems import RequestError
from bessemer.serve.schemas import ChatRequest, CompletionRequest, Sampling
from bessemer.serve.worker import Cancelled

MAX_TOKENS = 1_000_000  # of a request's prompts and answers: with them it holds the model's thread long enough
MAX_TOLD = 2_000_000  # numbers of an answer, logprobs included: it stands in memory whole


@dataclass(frozen=True)
class Piece:
    """A token of the answer to prompt number `index`; `given`: it belongs to the prompt (echo)."""

    index: int
    token: Token
    given: bool = False


@dataclass(frozen=True)
class Job:
    """Prompts that are ready to be answered in turn."""

    prompts: tuple[tuple[int, ...], ...]
    max_tokens: tuple[int, ...]  # one per prompt
    sampling: Sampling
    top_logprobs: int
    echo: bool = False
    score_prompt: bool = False

    @property
    def n_prompt_tokens(self) -> int:
        return sum(len(p) for p in self.prompts)

    def run(self, loaded: Loaded, cancelled: Cancelled) -> Iterator[Piece]:
        """All answers, one prompt after the other."""
        for index, (ids, max_tokens) in enumerate(zip(self.prompts, self.max_tokens, strict=True)):
            if self.echo and not cancelled():
                yield from (Piece(index, token, given=True) for token in self._prompt(loaded, ids))
            tokens = generate(
                loaded,
                ids,
                max_tokens=max_tokens,
                temperature=self.sampling.temperature,
                top_p=self.sampling.top_p,
                seed=self.sampling.seed,
                stop=self.sampling.stop,
                top_logprobs=self.top_logprobs,
                cancelled=cancelled,
            )
            yield from (Piece(index, token) for token in tokens)

    def _prompt(self, loaded: Loaded, ids: tuple[int, ...]) -> list[Token]:
        if self.score_prompt:
            return prompt_logprobs(loaded, ids, self.top_logprobs)
        words, stream = vocabulary(loaded.renderer), TextStream()
        texts = [stream.add(words.content(i)) for i in ids]
        texts[-1] += stream.finish()
        return [Token(i, text, 0.0) for i, text in zip(ids, texts, strict=True)]


def chat_job(loaded: Loaded, body: ChatRequest, policy: Policy | None = None) -> Job:
    """policy: its rules stand at the beginning of the system message.

    Raises RequestError when the template refuses the conversation or it is too long.
    """
    messages = [m.message() for m in body.messages]
    if policy is not None:
        own = messages.pop(0).content if messages[0].role == "system" else ""
        messages.insert(0, Message("system", "\n\n".join(filter(None, [policy.as_text(), own]))))
    try:
        ids = loaded.renderer.chat_ids(messages)
    except (BessemerError, jinja2.TemplateError) as error:
        raise RequestError(400, str(error), code="invalid_conversation", param="messages") from None
    _need_room(loaded, len(ids), body.limit or 1, "messages")
    limit = body.limit or max_positions(loaded) - len(ids)
    return Job((tuple(ids),), (limit,), body, body.top_logprobs or 0)


def completion_job(loaded: Loaded, body: CompletionRequest) -> Job:
    """Raises RequestError when a prompt is empty, too long, or has token ids that do not exist."""
    prompts: list[tuple[int, ...]] = []
    for prompt in body.prompts():
        if isinstance(prompt, str):
            ids = [*loaded.renderer.opening, *loaded.renderer.encode_texts([prompt])[0]] if prompt else []
        else:
            ids = _known(loaded, prompt)
        _need_room(loaded, len(ids), body.max_tokens, "prompt", scored=body.echo and body.logprobs is not None)
        prompts.append(tuple(ids))
    n_tokens = sum(len(p) + body.max_tokens for p in prompts)
    n_told = n_tokens * (1 + (body.logprobs or 0))
    if n_tokens > MAX_TOKENS or n_told > MAX_TOLD:
        raise RequestError(
            400, f"the request asks for up to {n_tokens:,} tokens, {n_told:,} numbers with their logprobs; at most "
            f"{MAX_TOKENS:,} and {MAX_TOLD:,} are answered at once", code="request_too_large", param="prompt",
        )  # fmt: skip
    return Job(
        tuple(prompts),
        (body.max_tokens,) * len(prompts),
        body,
        body.logprobs or 0,
        echo=body.echo,
        score_prompt=body.logprobs is not None,
    )


def _known(loaded: Loaded, ids: list[int]) -> list[int]:
    config: Any = loaded.model.config.get_text_config(decoder=True)
    wrong = [i for i in ids if not 0 <= i < config.vocab_size]
    if wrong:
        raise RequestError(
            400, f"there is no token {wrong[0]}; ids go from 0 to {config.vocab_size - 1}",
            code="invalid_value", param="prompt",
        )  # fmt: skip
    return ids


def _need_room(loaded: Loaded, n_prompt: int, n_new: int, param: str, *, scored: bool = False) -> None:
    """scored: log-probabilities of the prompt itself are wanted."""
    limit = max_positions(loaded)
    if n_prompt == 0:
        raise RequestError(400, "the prompt is empty", code="empty_prompt", param=param)
    if n_prompt + n_new > limit:
        message = (
            f"this model's maximum context length is {limit} tokens; the prompt has {n_prompt} and "
            f"{n_new} new ones were asked for; shorten the prompt or max_tokens"
        )
        raise RequestError(400, message, code="context_length_exceeded", param=param)
    if scored:
        try:
            need_scoring_room(loaded, n_prompt)
        except BessemerError as error:
            message = f"the prompt has {error.what}; shorten it, or ask without echo or logprobs"
            raise RequestError(400, message, code="context_length_exceeded", param=param) from None
