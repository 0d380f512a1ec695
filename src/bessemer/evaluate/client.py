"""Ask a model behind an OpenAI-compatible endpoint. What it calls itself is recorded, and must not change."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from bessemer.errors import BessemerError


@dataclass(frozen=True)
class Reply:
    """text, and {token: log-probability} of the likeliest first tokens, where the endpoint names them."""

    text: str
    top: dict[str, float]


class ChatClient:
    """Asks one endpoint. `identity` is what it calls itself."""

    def __init__(self, url: str, model: str, key_env: str | None, timeout_s: float, where: str) -> None:
        self.url, self.model, self.timeout_s = url, model, timeout_s
        self.identity: str | None = None
        headers: dict[str, str] = {}
        if key_env:
            if not (key := os.environ.get(key_env)):
                raise BessemerError(f"the variable {key_env} is not set", where=f"{where}.key_env")
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx2.Client(base_url=url, headers=headers, timeout=timeout_s)

    def identify(self) -> str:
        """What it calls itself, asked once. Raises BessemerError as `ask` does."""
        if self.identity is None:
            self.ask([{"role": "user", "content": "Reply with one word: yes"}], "none, to learn its name", max_tokens=4)
        assert self.identity is not None
        return self.identity

    def ask(self, messages: Sequence[dict[str, str]], item: str, **more: Any) -> Reply:
        """One answer. Raises BessemerError naming the item when there is none, or another model answers."""
        where = f"{self.url}, item {item}"
        body = {"model": self.model, "messages": list(messages), "temperature": 0, **more}
        try:
            reply = self._client.post("/chat/completions", json=body)
            reply.raise_for_status()
            found: dict[str, Any] = reply.json()
            choice = found["choices"][0]
            said, top = choice["message"]["content"], _top(choice)
        except httpx2.TimeoutException:
            raise BessemerError(
                f"no answer within {self.timeout_s:g} s", where=where, fix="raise timeout_s; the same command continues"
            ) from None
        except (httpx2.HTTPError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BessemerError(
                f"the endpoint gave no answer ({reason})", where=where, fix="check the endpoint; the command continues"
            ) from None
        identity = f"{found.get('model') or self.model}/{found.get('system_fingerprint') or ''}"
        if self.identity is None:
            self.identity = identity
        if identity != self.identity:
            raise BessemerError(
                f"the model changed from {self.identity} to {identity} in the middle",
                where=where,
                fix="pin it; answers of two models cannot be compared",
            )
        return Reply(str(said or ""), top)


def _top(choice: dict[str, Any]) -> dict[str, float]:
    content = (choice.get("logprobs") or {}).get("content") or []
    if not content:
        return {}
    named = [*(content[0].get("top_logprobs") or []), content[0]]
    return {str(t["token"]): float(t["logprob"]) for t in named}
