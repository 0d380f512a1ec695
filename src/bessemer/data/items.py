"""What a source yields: documents and conversations, each with a stable id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bessemer.files import canonical_json, sha256_text

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True)
class Item:
    """A document (`text`) or a conversation (`messages`).

    Items of one `group` stay together: in one packed row, in one batch, on one side of a split, and as one
    cluster of the bootstrap. `meta` is provenance and is never trained on.
    """

    id: str
    text: str = ""
    messages: tuple[Message, ...] = ()
    group: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def cluster(self) -> str:
        return self.group or self.id


def digest_items(items: Sequence[Item]) -> str:
    """sha256 over everything that can reach the model, in order."""
    return sha256_text(
        canonical_json([[i.id, i.text, [[m.role, m.content] for m in i.messages], i.group] for i in items])
    )
