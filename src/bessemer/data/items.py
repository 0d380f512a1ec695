"""What a source yields: documents, conversations, preference pairs and prompts, each with a stable id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from bessemer.files import canonical_json, sha256_text

Kind = Literal["documents", "chat", "preference", "prompts"]
KINDS: tuple[str, ...] = get_args(Kind)
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class ToolCall:
    """A call that the assistant makes; its answer is a message of role `tool` with the same id."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""


@dataclass(frozen=True)
class Message:
    """One turn. name and call_id belong to role `tool`: which tool answers, and which call. An answer that is not
    `trained` is read only."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    name: str = ""
    call_id: str = ""
    trained: bool = True


@dataclass(frozen=True)
class Item:
    """A document (`text`), a conversation (`messages`), a preference pair (`messages` = prompt, `chosen`, `rejected`)
    or a prompt (`messages`) with its `reference` answer. `tools` are JSON schemas of functions.

    Items of one `group` stay together: in one packed row, in one batch, on one side of a split, and as one
    cluster of the bootstrap. `meta` is provenance and is never trained on.
    """

    id: str
    text: str = ""
    messages: tuple[Message, ...] = ()
    group: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    reference: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def cluster(self) -> str:
        return self.group or self.id


def digest_items(items: Sequence[Item]) -> str:
    """sha256 over everything that can reach the model, in order."""
    return sha256_text(canonical_json([_fed(i) for i in items]))


def _fed(item: Item) -> list[Any]:
    """An item as nested lists. What an item does not have is left out, so that new fields change no old digest."""
    extra: dict[str, Any] = {
        "chosen": [_turn(m) for m in item.chosen],
        "rejected": [_turn(m) for m in item.rejected],
        "reference": item.reference,
        "tools": [dict(t) for t in item.tools],
    }
    used = {k: v for k, v in extra.items() if v}
    return [item.id, item.text, [_turn(m) for m in item.messages], item.group, *([used] if used else [])]


def _turn(message: Message) -> list[Any]:
    extra: dict[str, Any] = {
        "tool_calls": [[c.name, dict(c.arguments), c.id] for c in message.tool_calls],
        "reasoning": message.reasoning,
        "name": message.name,
        "call_id": message.call_id,
        "untrained": not message.trained,
    }
    used = {k: v for k, v in extra.items() if v}
    return [message.role, message.content, *([used] if used else [])]
