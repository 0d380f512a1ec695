"""A row -> an item: which column is what, said by the recipe or seen when only one reading is possible.

`columns` maps our names to the file's: {"text": "body", "id": "post_id"}. Without it the usual names count (below).
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time, timedelta
from typing import Any, cast

from bessemer.data.formats import MAX_ROW_BYTES
from bessemer.data.items import Item, Message, ToolCall
from bessemer.files import canonical_json
from bessemer.units import show_bytes

Values = Mapping[str, Any]

TEXTS = ("text", "content", "body", "comment", "document")  # `text` wins; of the others only one may be there
DIALOGUES = ("messages", "conversations", "conversation", "dialogue")
PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
)
PROMPTS = ("prompt", "messages", "question", "problem", "instruction")
REFERENCES = ("reference", "reference_answer", "answer", "solution", "ground_truth")
ALWAYS = ("id", "group")
NESTED = ("messages", "prompt", "chosen", "rejected", "tools", "meta")
TARGETS = {
    "documents": ("text", *ALWAYS),
    "chat": ("messages", "prompt", "completion", "instruction", "input", "output", "system", "tools", *ALWAYS),
    "preference": ("prompt", "chosen", "rejected", "system", "tools", *ALWAYS),
    "prompts": ("prompt", "messages", "reference", "system", "tools", *ALWAYS),
}
IS_TRAINED = ("weight", "train", "training")  # of a message: 0 or 1, OpenAI's word first
UNCLEAR = ("loss", "mask", "masked", "loss_mask", "train_on_turn")
MAX_DEPTH = 100  # levels in a value; whatever goes through values later has room on the stack
SAME_ROLE = {
    **{r: r for r in ("system", "user", "assistant", "tool")},
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "function_call": "assistant",
}


class Unusable(ValueError):
    """Why a row is no item. `reason` is the same words for the same mistake, so that it can be counted."""

    def __init__(self, reason: str, detail: str = "", fix: str = "") -> None:
        self.reason, self.detail, self.fix = reason, detail, fix
        super().__init__(f"{reason} ({detail})" if detail else reason)


class Columns:
    """How the rows of one file become items of one kind. The text column is settled by the file's first row.

    canonical: the rows are those of `row_of`, whose lists and `meta` may have been stored as JSON text.
    """

    def __init__(self, kind: str, mapping: Mapping[str, str], *, canonical: bool = False) -> None:
        self.kind, self.mapping, self.canonical = kind, mapping, canonical
        self._text = mapping.get("text", "")

    def item(self, row: Values, default_id: str) -> tuple[Item, bool]:
        """(item, whether the row brought its id). Raises Unusable."""
        if self.canonical:
            row = {k: _parsed(v) if k in NESTED else v for k, v in row.items()}
        used: list[str] = []
        take = _Taker(row, self.mapping, used)
        read = {"documents": self._document, "chat": _chat, "preference": _preference, "prompts": _prompt}[self.kind]
        parts = read(take)
        own_id, group = _label(take("id"), "id"), _label(take("group"), "group")
        room = MAX_DEPTH + self.canonical  # `meta` of a stored item holds what were columns
        meta = {k: plain(v, room) for k, v in row.items() if k not in used}
        if self.canonical:
            meta = {k: v for k, v in meta.items() if v is not None and k not in NESTED} | (meta.get("meta") or {})
        item = Item(id=own_id or default_id, group=group, meta=meta, **parts)
        _check(item)
        return item, bool(own_id)

    def _document(self, take: _Taker) -> dict[str, Any]:
        if not self._text:
            self._text = _text_column(take.row)
        take.used.append(self._text)
        value = take.row.get(self._text)
        if self._text not in take.row:
            raise Unusable(f"no column {self._text!r}", f"it has {_names(take.row)}", "set `columns: {text: ...}`")
        if not isinstance(value, str):
            raise Unusable(f"no text in column {self._text!r}", f"it is {_type(value)}", _text_fix(take.row))
        if not value.strip():
            raise Unusable(f"no text in column {self._text!r}", "it is empty")
        return {"text": value}


def guess_kind(row: Values) -> str:
    """What a row looks like: `chat` or `preference` by its columns, else `documents`."""
    names = {k for k, v in row.items() if v is not None}
    if {"chosen", "rejected"} <= names:
        return "preference"
    return "chat" if names & set(DIALOGUES) or any(set(p) <= names for p in PAIRS) else "documents"


class _Taker:
    """Values of a row by our names; what was taken is not provenance."""

    def __init__(self, row: Values, mapping: Mapping[str, str], used: list[str]) -> None:
        self.row, self.mapping, self.used = row, mapping, used

    def __call__(self, name: str) -> Any:
        column = self.mapping.get(name, name)
        if name in self.mapping and column not in self.row:
            raise Unusable(f"no column {column!r}", f"it has {_names(self.row)}", f"correct `columns: {{{name}: ...}}`")
        self.used.append(column)
        return self.row.get(column)

    def has(self, name: str) -> bool:
        """Whether the recipe maps the name or the row has a value under it."""
        return name in self.mapping or self.row.get(name) is not None


def _text_column(row: Values) -> str:
    """Raises Unusable when no column, or more than one, could be the text."""
    found = [c for c in TEXTS if isinstance(row.get(c), str)]
    if "text" in row or len(found) == 1:
        return "text" if "text" in row else found[0]
    if found:
        raise Unusable("several columns could be the text", ", ".join(found), f"set `columns: {{text: {found[0]}}}`")
    raise Unusable("no text column", f"it has {_names(row)}", _text_fix(row))


def _text_fix(row: Values) -> str:
    kind = guess_kind(row)
    return "set `columns: {text: ...}`" if kind == "documents" else f"kind: {kind}"


# -- conversations ----------------------------------------------------------------------------------------------


def _chat(take: _Taker) -> dict[str, Any]:
    messages = _conversation(take)
    if messages[-1].role != "assistant" or not (messages[-1].content.strip() or messages[-1].tool_calls):
        raise Unusable("the last message must be an answer of the assistant", f"it is of role {messages[-1].role!r}")
    if messages[0].role == "assistant":
        raise Unusable("a conversation must begin with a question", "its first message is of role 'assistant'")
    answers = [m for m in messages if m.role == "assistant"]
    if not all(m.content or m.tool_calls for m in answers):
        raise Unusable("an answer is empty")
    if not any(m.trained for m in answers):
        raise Unusable("no answer is trained", "every one has weight 0")
    return {"messages": messages, "tools": _tools(take)}


def _conversation(take: _Taker) -> tuple[Message, ...]:
    """The one shape that the row has: a list of messages, or a question with its answer."""
    shapes = [(d,) for d in DIALOGUES if take.has(d)] + [p for p in PAIRS if all(take.has(c) for c in p)]
    most = max((sum(c in take.mapping for c in s) for s in shapes), default=0)
    shapes = [s for s in shapes if sum(c in take.mapping for c in s) == most]  # what the recipe maps goes first
    if len(shapes) != 1:
        known = " or ".join("+".join(s) for s in shapes)
        if shapes:
            raise Unusable(
                "several columns could be the conversation", known, f"set `columns: {{{shapes[0][0]}: ...}}`"
            )
        raise Unusable(
            "no conversation: no `messages`, nor `prompt` and `completion`",
            f"it has {_names(take.row)}",
            "set `columns: {prompt: ..., completion: ...}`, or another kind",
        )
    shape = shapes[0]
    if len(shape) == 1:
        return (*_system(take), *_messages(take(shape[0]), shape[0]))
    question, answer = take(shape[0]), take(shape[1])
    if more := _about(shape, take):
        question = _joined(question, take(more), more)
    return (*_system(take), *_side(question, "user", shape[0]), *_side(answer, "assistant", shape[1]))


def _about(shape: tuple[str, ...], take: _Taker) -> str:
    """The column of what a question is about: Alpaca's `input`, Dolly's `context`; of other pairs a mapped `input`."""
    if shape[0] != "instruction":
        return "input" if "input" in take.mapping else ""
    return "context" if take.has("context") and not take.has("input") else "input"


def _joined(instruction: Any, more: Any, name: str) -> Any:
    """What the instruction is about stands behind it; it may be empty."""
    if more is not None and not isinstance(more, str):
        raise Unusable(f"column {name!r} must be a text", f"it is {_type(more)}")
    return (
        f"{instruction}\n\n{more}"
        if isinstance(instruction, str) and isinstance(more, str) and more.strip()
        else instruction
    )


def _system(take: _Taker) -> tuple[Message, ...]:
    value = take("system")
    if value is not None and not isinstance(value, str):
        raise Unusable("column 'system' must be a text", f"it is {_type(value)}")
    return (Message("system", value),) if value else ()


def _side(value: Any, role: str, column: str) -> tuple[Message, ...]:
    """One side of an exchange: a text, or a list of messages."""
    if isinstance(value, str) and value.strip():
        return (Message(role, value),)
    if isinstance(value, list) and value:
        return _messages(cast(list[Any], value), column)
    raise Unusable(f"column {column!r} must be a text or a list of messages", f"it is {_type(value) or 'empty'}")


def _preference(take: _Taker) -> dict[str, Any]:
    chosen, rejected = (_side(take(c), "assistant", c) for c in ("chosen", "rejected"))
    prompt = (*_system(take), *_side(take("prompt"), "user", "prompt")) if take.has("prompt") else ()
    shared = _shared(chosen, rejected)
    if shared:  # both hold the whole conversation
        if prompt and [m.content for m in prompt] != [m.content for m in shared[-len(prompt) :]]:
            raise Unusable("`prompt` differs from what `chosen` and `rejected` begin with")
        prompt, chosen, rejected = shared, chosen[len(shared) :], rejected[len(shared) :]
    if not prompt:
        raise Unusable("no prompt", "neither a column `prompt` nor messages with which both answers begin")
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if not side or side[0].role != "assistant" or side[-1].role != "assistant":
            raise Unusable(f"{name!r} must be an answer of the assistant")
    if chosen == rejected:
        raise Unusable("`chosen` and `rejected` are the same")
    return {"messages": prompt, "chosen": chosen, "rejected": rejected, "tools": _tools(take)}


def _shared(a: Sequence[Message], b: Sequence[Message]) -> tuple[Message, ...]:
    """The messages that both begin with, up to the last that the assistant did not write."""
    n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    while n and a[n - 1].role == "assistant":
        n -= 1
    return tuple(a[:n])


def _prompt(take: _Taker) -> dict[str, Any]:
    question = _only_one(take, PROMPTS, "prompt")
    messages = (*_system(take), *_side(take(question), "user", question))
    if messages[-1].role == "assistant":
        raise Unusable("the prompt ends with an answer of the assistant")
    name = _only_one(take, tuple(r for r in REFERENCES if r != question), "reference")
    value = take(name)
    if isinstance(value, float) and not math.isfinite(value):
        value = None
    if value is None or value == "":
        raise Unusable(f"no reference answer in column {name!r}")
    reference = value if isinstance(value, str) else canonical_json(plain(value))
    return {"messages": messages, "reference": reference, "tools": _tools(take)}


def _only_one(take: _Taker, names: tuple[str, ...], what: str) -> str:
    found = [n for n in names if n in take.mapping] or [n for n in names if take.has(n)]
    if len(found) == 1:
        return found[0]
    if found:
        raise Unusable(
            f"several columns could be the {what}", ", ".join(found), f"set `columns: {{{what}: {found[0]}}}`"
        )
    raise Unusable(f"no {what}", f"it has {_names(take.row)}", f"set `columns: {{{what}: ...}}`")


# -- messages ---------------------------------------------------------------------------------------------------


def _messages(raw: Any, column: str) -> tuple[Message, ...]:
    raw = _parsed(raw)
    if not isinstance(raw, list) or not raw:
        raise Unusable(f"column {column!r} must be a list of messages", f"it is {_type(raw) or 'empty'}")
    return tuple(_message(m, f"message {i} of {column!r}") for i, m in enumerate(cast(list[Any], raw)))


def _message(raw: Any, where: str) -> Message:
    if not isinstance(raw, Mapping):
        raise Unusable("a message must be an object", f"{where} is {_type(raw)}")
    turn = cast(Mapping[str, Any], raw)
    role, content = (turn.get("role"), turn.get("content")) if "role" in turn else (turn.get("from"), turn.get("value"))
    if not isinstance(role, str) or role.lower() not in SAME_ROLE:
        known = ", ".join(dict.fromkeys(SAME_ROLE.values()))
        raise Unusable("a message has no known role", f"{where} has {role!r}; known: {known}")
    calls = _calls(content if role == "function_call" else turn.get("tool_calls"), where)
    text = "" if role == "function_call" or (content is None and calls) else _content(content, where)
    reasoning = next(
        (v for k in ("reasoning_content", "reasoning", "thinking") if isinstance(v := turn.get(k), str)), ""
    )
    name, call_id = _label(turn.get("name"), "name"), _label(turn.get("tool_call_id"), "tool_call_id")
    return Message(SAME_ROLE[role.lower()], text, calls, reasoning, name, call_id, _is_trained(turn, where))


def _is_trained(turn: Mapping[str, Any], where: str) -> bool:
    """What the row says of a message under one of the usual words; nothing said means yes."""
    if unclear := [k for k in UNCLEAR if turn.get(k) is not None]:
        fix = f"call it {IS_TRAINED[0]} (0: read only, 1: trained), or drop it"
        raise Unusable(f"a message has {unclear[0]!r}, which is not read", where, fix)
    said = [turn[k] for k in IS_TRAINED if turn.get(k) is not None]
    if any(v not in (0, 1) for v in said) or len(set(map(bool, said))) > 1:
        raise Unusable("whether a message is trained must be 0 or 1", f"{where} has {said}")
    return all(said)


def _content(value: Any, where: str) -> str:
    """A text, or OpenAI's list of text parts."""
    if isinstance(value, str):
        return value
    parts = cast(list[Any], value) if isinstance(value, list) else []
    texts = [
        p["text"]
        for p in parts
        if isinstance(p, Mapping) and p.get("type") == "text" and isinstance(p.get("text"), str)
    ]
    if parts and len(texts) == len(parts):
        return "".join(texts)
    raise Unusable("a message has no text", f"{where} has {_type(value)}" + (", not only text parts" if parts else ""))


def _calls(raw: Any, where: str) -> tuple[ToolCall, ...]:
    raw = _parsed(raw)
    if raw is None or raw == []:
        return ()
    found: list[ToolCall] = []
    for call in cast(list[Any], raw if isinstance(raw, list) else [raw]):
        body = call.get("function", call) if isinstance(call, Mapping) else {}
        name, arguments = (
            (body.get("name"), _parsed(body.get("arguments"))) if isinstance(body, Mapping) else (None, None)
        )
        if not isinstance(name, str) or not name or not isinstance(arguments, Mapping):
            raise Unusable("a tool call needs a name and a JSON object of arguments", where)
        kept = {str(k): v for k, v in cast(Mapping[Any, Any], plain(arguments)).items()}
        found.append(ToolCall(name, kept, _label(cast(Mapping[str, Any], call).get("id"), "id")))
    return tuple(found)


def _tools(take: _Taker) -> tuple[Mapping[str, Any], ...]:
    raw = _parsed(take("tools"))
    if raw is None or raw == []:
        return ()
    if not isinstance(raw, list) or not all(isinstance(t, Mapping) for t in cast(list[Any], raw)):
        raise Unusable("`tools` must be a list of function schemas", f"it is {_type(raw)}")
    return tuple(cast(Iterable[Mapping[str, Any]], plain(raw)))


def _parsed(value: Any) -> Any:
    """Lists and objects may come as JSON text, as OpenAI writes arguments and CSV writes everything."""
    if isinstance(value, str) and value.lstrip()[:1] in {"[", "{"}:
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


# -- back to rows -----------------------------------------------------------------------------------------------


def row_of(item: Item) -> dict[str, Any]:
    """An item as a JSON-able row that reads back as the same item; what it does not have is left out."""
    prompt = "prompt" if item.chosen or item.reference else "messages"
    row: dict[str, Any] = {
        "id": item.id,
        "group": item.group,
        "text": item.text,
        prompt: [_turn(m) for m in item.messages],
        "chosen": [_turn(m) for m in item.chosen],
        "rejected": [_turn(m) for m in item.rejected],
        "reference": item.reference,
        "tools": [dict(t) for t in item.tools],
        "meta": dict(item.meta),
    }
    return {k: v for k, v in row.items() if v}


def _turn(message: Message) -> dict[str, Any]:
    calls = [
        {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": dict(c.arguments)}}
        for c in message.tool_calls
    ]
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    extra: dict[str, Any] = {
        "tool_calls": calls,
        "reasoning_content": message.reasoning,
        "name": message.name,
        "tool_call_id": message.call_id,
    }
    return turn | {k: v for k, v in extra.items() if v} | ({} if message.trained else {"weight": 0})


# -- values -----------------------------------------------------------------------------------------------------


def _label(value: Any, name: str) -> str:
    """An id or a group as text; 0 is one, nothing is none."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise Unusable(f"{name!r} must be a text or a whole number", f"it is {_type(value)}")
    return str(value)


def _check(item: Item) -> None:
    """Raises Unusable for text that could not be stored, or that no tokenizer should see."""
    turns = (*item.messages, *item.chosen, *item.rejected)
    texts = [item.id, item.group, item.text, item.reference, *(t for m in turns for t in (m.content, m.reasoning))]
    size = 0
    for text in texts:
        if "\0" in text:
            raise Unusable("a text holds a NUL character", f"character {text.index(chr(0)) + 1} of {len(text)}")
        size += len(text)
    if size > MAX_ROW_BYTES:
        raise Unusable("a row is too long", f"{size} characters, at most {show_bytes(MAX_ROW_BYTES)}")
    try:
        for text in texts:
            text.encode()
        canonical_json([item.meta, item.tools, [[c.arguments for c in m.tool_calls] for m in turns]]).encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(error.object[error.start]):04X}"
        raise Unusable("a text holds half of a surrogate pair", f"{half}, which is no character") from None


def plain(value: Any, room: int = MAX_DEPTH) -> Any:
    """A value of any format as JSON has it: dates as ISO text, bytes as base64, NaN as null.

    Raises Unusable when it is nested deeper than `room`.
    """
    if not room:
        raise Unusable("a value is nested too deeply", f"more than {MAX_DEPTH} levels")
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): plain(v, room - 1) for k, v in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, room - 1) for v in cast(Sequence[Any], value)]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else _iso(value)


def _iso(value: Any) -> Any:
    """Dates and times as ISO text, spans in seconds; whatever else there is (decimals) as its own text."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value.isoformat() if isinstance(value, (date, time)) else str(value)


def _type(value: Any) -> str:
    names = {str: "a text", list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    if value in ("", []):
        return ""
    return names.get(type(value), f"{value!r}"[:40])


def _names(row: Values) -> str:
    return ", ".join(map(repr, row)) or "nothing"
