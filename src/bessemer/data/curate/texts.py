"""The texts inside an item, whatever its kind: steps see texts, and put them back where they were."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from bessemer.data.items import Item, Message
from bessemer.files import canonical_json

TOKEN_RULE = "estimated: UTF-8 bytes / 4, rounded up for each item"  # noqa: S105 - no password


def texts_in(item: Item) -> list[str]:
    """Every text of the item, in order: also the strings in arguments of tool calls, but not their names."""
    turns = [text for m in (*item.messages, *item.chosen, *item.rejected) for text in _texts_of(m)]
    return [item.text, *turns, item.reference]


def _texts_of(message: Message) -> Iterator[str]:
    yield message.content
    yield message.reasoning
    for call in message.tool_calls:
        yield from _strings(call.arguments)


def _strings(value: Any) -> Iterator[str]:
    """The strings among JSON-like values, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        inner = cast(Mapping[str, Any], value).values() if isinstance(value, Mapping) else cast(list[Any], value)
        for part in inner:
            yield from _strings(part)


def with_texts(item: Item, texts: Sequence[str]) -> Item:
    """The item with these texts in the places of `texts_in`."""
    left = iter(texts)

    def turns(old: tuple[Message, ...]) -> tuple[Message, ...]:
        return tuple(
            dataclasses.replace(
                m,
                content=next(left),
                reasoning=next(left),
                tool_calls=tuple(dataclasses.replace(c, arguments=_refilled(c.arguments, left)) for c in m.tool_calls),
            )
            for m in old
        )

    return dataclasses.replace(
        item,
        text=next(left),
        messages=turns(item.messages),
        chosen=turns(item.chosen),
        rejected=turns(item.rejected),
        reference=next(left),
    )


def _refilled(value: Any, texts: Iterator[str]) -> Any:
    """The value with the next texts in the places of `_strings`."""
    if isinstance(value, str):
        return next(texts)
    if isinstance(value, Mapping):
        return {name: _refilled(part, texts) for name, part in cast(Mapping[str, Any], value).items()}
    return [_refilled(part, texts) for part in cast(list[Any], value)] if isinstance(value, list) else value


def whole_text(item: Item) -> str:
    """All texts as one, a line break between two."""
    return item.text or "\n".join(filter(None, texts_in(item)))


def own_text(item: Item) -> str:
    """Without system messages: an instruction that all conversations begin with would make them all alike."""
    turns = tuple(m for m in item.messages if m.role != "system")
    return whole_text(dataclasses.replace(item, messages=turns)) or whole_text(item)


def answer_of(item: Item) -> str:
    """What the item teaches to say or to call; nothing for a document."""
    turns = [m for m in item.messages if m.role == "assistant"]
    return "\n".join([*map(_said, [*turns, *item.chosen, *item.rejected]), item.reference]).strip()


def question_of(item: Item) -> str:
    """What the last answer answers; nothing for a document."""
    turns = item.messages[:-1] if item.messages and item.messages[-1].role == "assistant" else item.messages
    return "\n".join(f"{m.role}: {_said(m)}" for m in turns)


def _said(message: Message) -> str:
    return "\n".join([message.content, *calls_in(message)])


def calls_in(message: Message) -> list[str]:
    """The names and arguments of the calls, without their ids."""
    return [canonical_json([call.name, call.arguments]) for call in message.tool_calls]


def n_tokens(item: Item) -> int:
    """About how many tokens, see TOKEN_RULE. No tokenizer is asked: a data set is made before one is chosen."""
    texts = (item.text,) if item.text else texts_in(item)
    return -(-sum(len(t) if t.isascii() else len(t.encode(errors="replace")) for t in texts) // 4)
