"""The texts inside an item, whatever its kind: steps see texts, and put them back where they were."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bessemer.data.items import Item

TOKEN_RULE = "estimated: UTF-8 bytes / 4, rounded up for each item"


def texts_in(item: Item) -> list[str]:
    """Every text of the item that a person wrote, in order."""
    return [item.text] if item.text else [m.content for m in item.messages]


def with_texts(item: Item, texts: Sequence[str]) -> Item:
    """The item with these texts in the places of `texts_in`."""
    if item.text:
        return dataclasses.replace(item, text=texts[0])
    messages = tuple(dataclasses.replace(m, content=t) for m, t in zip(item.messages, texts, strict=True))
    return dataclasses.replace(item, messages=messages)


def whole_text(item: Item) -> str:
    """All texts as one, a line break between two."""
    return item.text or "\n".join(m.content for m in item.messages)


def answer_of(item: Item) -> str:
    """What the item teaches to say: the assistant's words; nothing for a document."""
    return "\n".join(m.content for m in item.messages if m.role == "assistant")


def n_tokens(item: Item) -> int:
    """About how many tokens, see TOKEN_RULE. No tokenizer is asked: a data set is made before one is chosen."""
    return -(-sum(len(t.encode(errors="replace")) for t in texts_in(item)) // 4)
