"""The texts inside an item, whatever its kind: steps see texts, and put them back where they were."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bessemer.data.items import Item, Message

TOKEN_RULE = "estimated: UTF-8 bytes / 4, rounded up for each item"  # noqa: S105 - no password


def texts_in(item: Item) -> list[str]:
    """Every text of the item, in order. Arguments of tool calls are data, not text, and are not among them."""
    turns = [text for m in (*item.messages, *item.chosen, *item.rejected) for text in (m.content, m.reasoning)]
    return [item.text, *turns, item.reference]


def with_texts(item: Item, texts: Sequence[str]) -> Item:
    """The item with these texts in the places of `texts_in`."""
    left = iter(texts)

    def turns(old: tuple[Message, ...]) -> tuple[Message, ...]:
        return tuple(dataclasses.replace(m, content=next(left), reasoning=next(left)) for m in old)

    return dataclasses.replace(
        item,
        text=next(left),
        messages=turns(item.messages),
        chosen=turns(item.chosen),
        rejected=turns(item.rejected),
        reference=next(left),
    )


def whole_text(item: Item) -> str:
    """All texts as one, a line break between two."""
    return item.text or "\n".join(filter(None, texts_in(item)))


def answer_of(item: Item) -> str:
    """What the item teaches to say; nothing for a document."""
    turns = [m.content for m in item.messages if m.role == "assistant"]
    return "\n".join([*turns, *(m.content for m in (*item.chosen, *item.rejected)), item.reference]).strip()


def n_tokens(item: Item) -> int:
    """About how many tokens, see TOKEN_RULE. No tokenizer is asked: a data set is made before one is chosen."""
    texts = (item.text,) if item.text else texts_in(item)
    return -(-sum(len(t) if t.isascii() else len(t.encode(errors="replace")) for t in texts) // 4)
