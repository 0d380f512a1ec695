"""Generate text with a loaded model, one token at a time.

Scoring lays documents end to end and keeps nothing; generation keeps keys and values. Both use the same
weights: the twin below is the model's module tree with the same parameter objects and transformers' fused
attention, so neither path switches anything under the other, also from several threads. Legend: T tokens of
a step, C channels, V vocabulary.
"""

from __future__ import annotations

import copy
import math
import secrets
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bessemer.errors import BessemerError
from bessemer.infer.model import Loaded, max_positions, need_scoring_room
from bessemer.infer.text import TextStream, vocabulary

LIKELY = 1024  # tokens that together are nearly always as likely as `top_p` asks
PREFILL_TOKENS = 512  # a prompt is read in pieces of this size; a stop request is heard between them
ATTENTION = "sdpa"


@dataclass(frozen=True)
class Token:
    """One generated (or given) token.

    text: the characters that it completed ("" while a character is open); the texts of all tokens join to
    the answer. logprob: natural logarithm, from the model's own distribution (temperature 1, nothing cut
    off); nan for the first token of a text. top: the likeliest tokens, best first. hidden: it ends the
    answer or belongs to a stop string. finish_reason: "stop" or "length", on the last only.
    """

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    hidden: bool = False
    finish_reason: str = ""


def need_room(loaded: Loaded, n_prompt: int, max_tokens: int, where: str = "") -> None:
    """Raises BessemerError when there is no prompt, or it leaves no room for `max_tokens`."""
    limit = max_positions(loaded)
    if n_prompt == 0:
        raise BessemerError("the prompt has no tokens", where=where, fix="send some text")
    if n_prompt + max_tokens > limit:
        raise BessemerError(
            f"{n_prompt} prompt tokens and {max_tokens} new tokens are {n_prompt + max_tokens}, "
            f"but the model reads at most {limit}",
            where=where,
            fix=f"shorten the prompt, or ask for at most {max(0, limit - n_prompt)} new tokens",
        )


def generate(
    loaded: Loaded,
    ids: Sequence[int],
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | None = None,
    stop: Sequence[str] = (),
    top_logprobs: int = 0,
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[Token]:
    """Continue `ids` until the model ends its turn, a stop string appears, or `max_tokens` were generated.

    temperature 0 takes the likeliest token. top_p: draw only from the likeliest tokens that together hold
    this probability. The same seed draws the same tokens. `cancelled` is asked before each step; when it
    says yes, the iterator ends without a last token. Every generated token is yielded, also hidden ones;
    with stop strings a token is held back while its text may be the beginning of one. Raises BessemerError
    when prompt and answer are longer than the model reads.
    """
    need_room(loaded, len(ids), max_tokens)
    draw = _Draw(temperature, top_p, secrets.randbits(63) if seed is None else seed)
    tokens = _tokens(
        loaded, list(ids), max_tokens=max_tokens, draw=draw, top_logprobs=top_logprobs, cancelled=cancelled
    )
    return _StopFilter(stop).run(tokens)


@torch.inference_mode()
def prompt_logprobs(loaded: Loaded, ids: Sequence[int], top_logprobs: int = 0) -> list[Token]:
    """What the model thinks of a given text, token by token, on the same path as `infer.score`.

    Nothing predicts the first token: its logprob is nan.
    Raises BessemerError when the text is empty or too long.
    """
    need_room(loaded, len(ids), 0)
    need_scoring_room(loaded, len(ids), "prompt")
    tokens_T = torch.tensor(list(ids), device=loaded.machine.device)
    positions_T = torch.arange(len(ids), device=loaded.machine.device)
    hidden_TC = loaded.hidden(tokens_T, positions_T, loaded.layout([len(ids)]))
    words, stream = vocabulary(loaded.renderer), TextStream()
    result = [Token(ids[0], stream.add(words.content(ids[0])), math.nan)]
    for piece_TC, next_T in zip(hidden_TC[:-1].split(256), tokens_T[1:].split(256), strict=True):
        logprobs_TV = torch.log_softmax(loaded.head(piece_TC).float(), dim=-1)
        chosen_T = logprobs_TV.gather(1, next_T[:, None])[:, 0].tolist()
        tops = logprobs_TV.topk(top_logprobs, dim=-1)
        for token, logprob, values, tokens in zip(
            next_T.tolist(), chosen_T, tops.values.tolist(), tops.indices.tolist(), strict=True
        ):
            text = stream.add(words.content(token))
            result.append(Token(token, text, logprob, tuple(zip(tokens, values, strict=True))))
    result[-1] = replace(result[-1], text=result[-1].text + stream.finish())
    return result


def _tokens(
    loaded: Loaded,
    ids: list[int],
    *,
    max_tokens: int,
    draw: _Draw,
    top_logprobs: int,
    cancelled: Callable[[], bool] | None,
) -> Iterator[Token]:
    """The plain loop, before stop strings."""
    steps = Steps(loaded)
    words, stream = vocabulary(loaded.renderer), TextStream()
    pieces = [ids[i : i + PREFILL_TOKENS] for i in range(0, len(ids), PREFILL_TOKENS)]
    for n in range(max_tokens):
        for piece in pieces:
            if cancelled is not None and cancelled():
                return
            steps.read(torch.tensor([piece]))
        logits_V = steps.logits()[0]
        logprobs_V = torch.log_softmax(logits_V, dim=-1)
        token = draw(logits_V)
        ended = token in loaded.eos
        reason = "stop" if ended else "length" if n + 1 == max_tokens else ""
        text = "" if ended else stream.add(words.content(token))
        if reason:
            text += stream.finish()
        top = logprobs_V.topk(top_logprobs)
        best = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        yield Token(token, text, float(logprobs_V[token]), best, hidden=ended, finish_reason=reason)
        if reason:
            return
        pieces = [[token]]


class Steps:
    """Keys and values of rows of one length so far, and their last hidden states."""

    def __init__(self, loaded: Loaded) -> None:
        from transformers import DynamicCache

        self._loaded, self._twin = loaded, twin_of(loaded.model)
        self._cache = DynamicCache(config=self._twin.config)
        self._n_read = 0
        self._last_BC: Tensor | None = None

    @torch.inference_mode()
    def read(self, tokens_BT: Tensor) -> None:
        device, n = self._loaded.machine.device, tokens_BT.shape[1]
        positions_1T = torch.arange(self._n_read, self._n_read + n, device=device)[None]
        out = self._twin.base_model(
            input_ids=tokens_BT.to(device),
            position_ids=positions_1T.expand(len(tokens_BT), n),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._n_read += n
        self._last_BC = out.last_hidden_state[:, -1]

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """What comes next in every row. [B, V], fp32, on the CPU, where the draw is the same on every machine."""
        assert self._last_BC is not None
        return self._loaded.head(self._last_BC).float().cpu()

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these rows only."""
        self._cache.batch_select_indices(torch.tensor(list(places), device=self._loaded.machine.device))


class _Draw:
    """Choose a token from logits_V."""

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        self._temperature, self._top_p = temperature, top_p
        self._random = torch.Generator().manual_seed(seed & (2**63 - 1))

    def __call__(self, logits_V: Tensor) -> int:
        if not torch.isfinite(logits_V.max()):
            raise BessemerError(
                "the model's logits are not finite",
                where="generation",
                fix="its weights are damaged, or float16 is too narrow",
            )
        if self._temperature <= 0 or self._top_p <= 0:
            return int(logits_V.argmax())
        # The likeliest is moved to 0 first: a tiny temperature then stays finite.
        probs_V = torch.softmax((logits_V.double() - logits_V.max()) / self._temperature, dim=-1)
        if self._top_p < 1:
            few = min(LIKELY, len(probs_V))
            while (best := probs_V.topk(few)).values.sum() < self._top_p and few < len(probs_V):
                few = min(4 * few, len(probs_V))
            few_K = (probs_V >= best.values[-1]).nonzero()[:, 0]  # equals in the order of their ids, on every machine
            sorted_K, order_K = probs_V[few_K].sort(descending=True, stable=True)
            before_K = sorted_K.cumsum(0) - sorted_K
            kept_K = sorted_K.where(before_K < self._top_p, 0.0)
            probs_V = torch.zeros_like(probs_V).scatter(0, few_K[order_K], kept_K)
        return int(torch.multinomial(probs_V, 1, generator=self._random))


class _StopFilter:
    """Hold tokens back while their text may be the beginning of a stop string; cut when one is complete."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [s for s in stop if s]
        self._text = ""  # held back
        self._held: list[tuple[Token, int]] = []  # with the place in `_text` where the token's text begins

    def run(self, tokens: Iterator[Token]) -> Iterator[Token]:
        if not self._stop:
            yield from tokens
            return
        for token in tokens:
            self._held.append((token, len(self._text)))
            self._text += token.text
            places = [p for s in self._stop if (p := self._text.find(s)) >= 0]
            if places:
                yield from self._cut(min(places))
                return
            if token.finish_reason:
                yield from (t for t, _ in self._held)
                return
            yield from self._release(len(self._text) - self._open())

    def _open(self) -> int:
        """Length of the longest end of the text that a stop string begins with."""
        longest = max(len(s) for s in self._stop) - 1
        for n in range(min(longest, len(self._text)), 0, -1):
            if any(s.startswith(self._text[-n:]) for s in self._stop):
                return n
        return 0

    def _release(self, safe: int) -> Iterator[Token]:
        """Yield the tokens whose text lies wholly before `safe`."""
        while self._held and self._held[0][1] + len(self._held[0][0].text) <= safe:
            yield self._held.pop(0)[0]
        start = self._held[0][1] if self._held else len(self._text)
        self._text = self._text[start:]
        self._held = [(token, place - start) for token, place in self._held]

    def _cut(self, end: int) -> Iterator[Token]:
        for i, (token, place) in enumerate(self._held):
            yield replace(
                token,
                text=token.text[: max(0, end - place)],
                hidden=token.hidden or place >= end,
                finish_reason="stop" if i + 1 == len(self._held) else "",
            )


_twins: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def twin_of(model: Any) -> Any:
    """The model's module tree with its own parameter objects, but its own config and the fused attention.

    Made again when a parameter object of the model was replaced since.
    """
    twin = _twins.get(model)
    own = list(model.parameters())
    if twin is None or any(a is not b for a, b in zip(twin.parameters(), own, strict=True)):
        shared = {id(t): t for t in (*own, *model.buffers())}
        twin = copy.deepcopy(model, shared)
        twin.set_attn_implementation(ATTENTION)
        _twins[model] = twin
    return twin
