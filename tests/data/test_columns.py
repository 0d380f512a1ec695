"""Rows of the usual shapes -> items, by detection and by mapping; ambiguous or broken rows are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.data.columns import MAX_DEPTH, Columns, Unusable, guess_kind, row_of
from bessemer.data.curate.texts import texts_in, with_texts
from bessemer.data.items import Item, Message, ToolCall, digest_items

Q, A = Message("user", "q"), Message("assistant", "a")
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def read(kind: str, row: dict[str, Any], **columns: str) -> Item:
    return Columns(kind, columns).item(row, "file:1")[0]


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"messages": TURNS}, {}),
        ({"conversations": SHAREGPT}, {}),
        ({"conversations": TURNS}, {}),
        ({"messages": json.dumps(TURNS)}, {}),  # CSV
        ({"prompt": "q", "completion": "a"}, {}),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, {}),
        ({"question": "q", "answer": "a"}, {}),
        ({"instruction": "q", "input": "", "output": "a"}, {}),
        ({"messages": TURNS, "prompt": "q"}, {}),  # half a shape is none
        ({"messages": None, "prompt": "q", "completion": "a"}, {}),
        ({"ask": "q", "reply": "a"}, {"prompt": "ask", "completion": "reply"}),
        ({"q": "q", "response": "a"}, {"prompt": "q"}),
        ({"thread": TURNS, "messages": SHAREGPT[:1]}, {"messages": "thread"}),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, TURNS[1]]}, {}),
    ],
)
def test_every_shape_of_conversation(row: dict[str, Any], columns: dict[str, str]) -> None:
    assert read("chat", row, **columns).messages == (Q, A)


def test_instructions_have_their_input_below_and_their_system_before() -> None:
    row = {"system": "be brief", "instruction": "count", "input": "a b", "output": "2"}
    assert [m.content for m in read("chat", row).messages] == ["be brief", "count\n\na b", "2"]


def test_what_a_question_is_about_is_read() -> None:
    """Answers without their passage would be learnt by heart."""
    row = {"question": "Who?", "context": "Ada wrote it.", "answer": "Ada"}
    names = {"prompt": "question", "completion": "answer", "input": "context"}
    assert read("chat", row, **names).messages[0].content == "Who?\n\nAda wrote it."
    dolly = {"instruction": "Who?", "context": "Ada wrote it.", "response": "Ada"}
    assert read("chat", dolly).messages[0].content == "Who?\n\nAda wrote it."
    assert read("chat", dolly | {"context": ""}).messages[0].content == "Who?"
    with pytest.raises(Unusable, match="no column 'passage'"):
        read("chat", row, **(names | {"input": "passage"}))


@pytest.mark.parametrize("arguments", ['{"a": 1, "b": 2}', {"a": 1, "b": 2}])
def test_tool_calls_of_openai(arguments: Any) -> None:
    call = CALL | {"function": {"name": "add", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "1+2?"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add"},
        {"role": "assistant", "content": "3", "tool_calls": None},
    ]
    item = read("chat", {"messages": messages, "tools": [TOOL]})
    assert item.messages[1] == Message("assistant", "", (ToolCall("add", {"a": 1, "b": 2}, "c1"),), "hm")
    assert item.messages[2] == Message("tool", "3", name="add", call_id="c1")
    assert item.tools == (TOOL,) and item.meta == {}


def test_tool_calls_of_sharegpt() -> None:
    rows = [
        {"from": "human", "value": "1+2?"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
        {"from": "observation", "value": "3"},
        {"from": "gpt", "value": "3"},
    ]
    item = read("chat", {"conversations": rows, "tools": json.dumps([TOOL])})
    assert item.messages[1].tool_calls == (ToolCall("add", {"a": 1}),)
    assert [m.role for m in item.messages] == ["user", "assistant", "tool", "assistant"] and item.tools == (TOOL,)


B = {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": [B]},
        {"chosen": TURNS, "rejected": [TURNS[0], B]},
        {"prompt": "q", "chosen": TURNS, "rejected": [TURNS[0], B], "messages": TURNS},
        {"prompt": "q", "chosen": SHAREGPT, "rejected": [SHAREGPT[0], {"from": "gpt", "value": "b"}]},
    ],
)
def test_every_shape_of_preference(row: dict[str, Any]) -> None:
    item = read("preference", row)
    assert (item.messages, item.chosen, item.rejected) == ((Q,), (A,), (Message("assistant", "b"),))


def test_shared_earlier_answers_belong_to_the_prompt() -> None:
    more = [*TURNS, {"role": "user", "content": "q2"}]
    item = read("preference", {"chosen": [*more, TURNS[1]], "rejected": [*more, B]})
    assert [m.content for m in item.messages] == ["q", "a", "q2"]


@pytest.mark.parametrize("name", ["reference", "reference_answer", "answer", "solution"])
def test_prompts_with_their_reference(name: str) -> None:
    item = read("prompts", {"prompt": "q", name: 42, "level": 3})
    assert (item.messages, item.reference, item.meta) == ((Q,), "42", {"level": 3})
    assert read("prompts", {"messages": TURNS[:1], name: "x"}).reference == "x"


def test_ids_groups_and_provenance() -> None:
    row = {"post_id": 0, "thread": 7, "body": "text", "licence": "MIT", "id": "other"}
    item, brought = Columns("documents", {"text": "body", "id": "post_id", "group": "thread"}).item(row, "f:1")
    assert (item.id, item.group, item.meta, brought) == ("0", "7", {"licence": "MIT", "id": "other"}, True)
    item, brought = Columns("documents", {}).item({"text": "x", "id": None}, "f:9")
    assert (item.id, brought) == ("f:9", False)


@pytest.mark.parametrize("column", ["content", "body", "comment", "document"])
def test_a_text_column_is_found_when_there_is_one(column: str) -> None:
    assert read("documents", {column: "x", "title": "t"}).text == "x"
    assert read("documents", {column: "y", "text": "x"}).text == "x"


def test_the_text_column_does_not_change_within_a_file() -> None:
    columns = Columns("documents", {})
    columns.item({"body": "x"}, "f:1")
    with pytest.raises(Unusable, match="no column 'body'"):
        columns.item({"content": "x"}, "f:2")


REFUSED: list[tuple[str, dict[str, Any], dict[str, str], str]] = [
    ("documents", {"body": "x", "content": "y"}, {}, r"several columns could be the text \(content, body"),
    ("chat", {"instruction": "Add", "input": [1, 2], "output": "3"}, {}, "column 'input' must be a text"),
    ("documents", {"title": "x"}, {}, r"no text column \(it has 'title'"),
    ("documents", {"text": " "}, {}, "it is empty"),
    ("documents", {"text": "x"}, {"id": "nr"}, r"no column 'nr' \(it has 'text'"),
    ("documents", {"text": "x", "id": 1.5}, {}, "'id' must be"),
    ("documents", {"text": "x", "group": True}, {}, "'group' must be"),
    ("chat", {"messages": TURNS, "conversations": TURNS}, {}, r"several .* \(messages or conversations"),
    ("chat", {"messages": TURNS, "prompt": "q", "completion": "a"}, {}, "messages or prompt"),
    ("chat", {"text": "x"}, {}, "no conversation"),
    ("chat", {"messages": []}, {}, "must be a list of messages"),
    ("chat", {"messages": 3}, {}, "must be a list of messages"),
    ("chat", {"messages": [None]}, {}, "a message must be an object"),
    ("chat", {"messages": TURNS[:1]}, {}, "last message"),
    ("chat", {"messages": [TURNS[0], {"role": "assistant", "content": ""}]}, {}, "last message"),
    ("chat", {"messages": [{"role": "boss", "content": "q"}]}, {}, "message 0 of 'messages' has 'boss'"),
    ("chat", {"messages": [{"role": "user", "content": None}]}, {}, "a message has no text"),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, {}, "not only text parts"),
    ("chat", {"messages": [TURNS[0], {"role": "assistant", "tool_calls": [{"name": "x"}]}]}, {}, "a tool call needs"),
    ("chat", {"messages": TURNS, "tools": {"a": 1}}, {}, "`tools` must be"),
    ("chat", {"prompt": "q", "completion": 3}, {}, "column 'completion' must be"),
    ("chat", {"messages": TURNS, "system": 3}, {}, "column 'system' must be"),
    ("preference", {"prompt": "q", "chosen": "a", "rejected": "a"}, {}, "are the same"),
    ("preference", {"prompt": "q", "chosen": "a"}, {}, "column 'rejected' must be"),
    ("preference", {"chosen": "a", "rejected": "b"}, {}, "no prompt"),
    ("preference", {"prompt": "other", "chosen": TURNS, "rejected": [TURNS[0], B]}, {}, "`prompt` differs"),
    ("prompts", {"prompt": "q"}, {}, "no reference"),
    ("prompts", {"prompt": "q", "answer": "a", "solution": "b"}, {}, r"several .* \(answer, solution"),
    ("prompts", {"prompt": "q", "answer": float("nan")}, {}, "no reference answer in column 'answer'"),
    ("prompts", {"messages": TURNS, "answer": "a"}, {}, "ends with an answer"),
]


@pytest.mark.parametrize(("kind", "row", "columns", "match"), REFUSED)
def test_what_is_no_item(kind: str, row: dict[str, Any], columns: dict[str, str], match: str) -> None:
    with pytest.raises(Unusable, match=match):
        read(kind, row, **columns)


def test_a_row_tells_its_kind() -> None:
    rows = [{"text": "x"}, {"messages": TURNS}, {"prompt": "q", "completion": "a"}, {"chosen": "a", "rejected": "b"}]
    assert [guess_kind(r) for r in rows] == ["documents", "chat", "chat", "preference"]


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=10)
SPOKEN = WORDS.filter(lambda t: t.strip())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS, lambda x: st.lists(x) | st.dictionaries(WORDS, x), max_leaves=4
)
CALLS = st.lists(st.builds(ToolCall, SPOKEN, st.dictionaries(WORDS, JSON, max_size=2), WORDS), max_size=2).map(tuple)
ANSWER = st.builds(Message, st.just("assistant"), SPOKEN, CALLS, WORDS | st.just(""))
READ_ONLY = ANSWER.map(lambda m: replace(m, trained=False))
ASKED = st.builds(Message, st.sampled_from(["system", "user", "tool"]), SPOKEN, name=WORDS | st.just(""), call_id=WORDS)
CHAT = st.tuples(ASKED, st.lists(ASKED | ANSWER | READ_ONLY, max_size=3), ANSWER).map(lambda c: (c[0], *c[1], c[2]))
TOOLS = st.lists(st.dictionaries(WORDS, JSON, min_size=1), max_size=2).map(tuple)
META = st.dictionaries(WORDS, JSON, max_size=3)
ITEMS = {
    "documents": st.builds(Item, WORDS, SPOKEN, group=WORDS | st.just(""), meta=META),
    "chat": st.builds(Item, WORDS, messages=CHAT, group=WORDS, meta=META, tools=TOOLS),
    "preference": st.builds(
        Item, WORDS, messages=ASKED.map(lambda m: (m,)), chosen=st.tuples(ANSWER), rejected=st.tuples(ANSWER), meta=META
    ).filter(lambda i: i.chosen != i.rejected),
    "prompts": st.builds(Item, WORDS, messages=ASKED.map(lambda m: (m,)), reference=SPOKEN, meta=META, tools=TOOLS),
}


@given(st.data(), st.sampled_from(sorted(ITEMS)), st.booleans())
def test_an_item_survives_being_a_row(data: st.DataObject, kind: str, as_text: bool) -> None:
    """Also when nested values are stored as JSON text, as in a Parquet column."""
    item = data.draw(ITEMS[kind])
    row = json.loads(json.dumps(row_of(item)))
    if as_text:
        row = {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
    back, brought = Columns(kind, {}, canonical=True).item(row, "f:1")
    assert back == item and brought and digest_items([back]) == digest_items([item])


def test_a_value_as_deep_as_may_be_survives_being_a_row() -> None:
    deep: Any = "x"
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    call = Message("assistant", "", (ToolCall("f", {"a": deep[0]}),))
    item, _ = Columns("chat", {}).item(row_of(Item("x", messages=(Q, call, A))) | {"by": deep}, "f:1")
    assert item.meta["by"] == deep and item.messages[1] == call
    assert Columns("chat", {}, canonical=True).item(row_of(item), "f:1")[0] == item
    assert with_texts(item, texts_in(item)) == item and "x" in texts_in(item)
    with pytest.raises(Unusable, match="nested too deeply"):
        Columns("chat", {}).item(row_of(item) | {"by": [deep]}, "f:1")


def test_the_digest_covers_all_that_reaches_the_model_and_nothing_else() -> None:
    plain = Item("x", messages=(Q, A))
    changed = [
        Item("x", messages=(Q, Message("assistant", "a", (ToolCall("f", {}),)))),
        Item("x", messages=(Q, Message("assistant", "a", (ToolCall("f", {"a": 1}),)))),
        Item("x", messages=(Q, Message("assistant", "a", reasoning="r"))),
        Item("x", messages=(Q, Message("assistant", "a", trained=False))),
        Item("x", messages=(Q, A), tools=({"name": "f"},)),
        Item("x", messages=(Q, A), chosen=(A,)),
        Item("x", messages=(Q, A), rejected=(A,)),
        Item("x", messages=(Q, A), reference="a"),
        Item("x", messages=(Q, A), group="g"),
        Item("y", messages=(Q, A)),
    ]
    digests = {digest_items([i]) for i in [plain, *changed]}
    assert len(digests) == len(changed) + 1
    assert digest_items([plain]) == digest_items([Item("x", messages=(Q, A), meta={"licence": "MIT"})])


@pytest.mark.parametrize(
    ("said", "trained"),
    [({"weight": 0}, False), ({"weight": 1}, True), ({"train": False}, False), ({"training": True}, True), ({}, True)],
)
def test_a_message_may_say_whether_it_is_trained(said: dict[str, Any], trained: bool) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"} | said]
    row = {"messages": [*turns, *turns[:1], {"role": "assistant", "content": "b"}]}
    item, _ = Columns("chat", {}).item(row, "f:1")
    assert [m.trained for m in item.messages] == [True, trained, True, True]


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ({"weight": 0}, "no answer is trained"),
        ({"weight": 0.5}, "must be 0 or 1"),
        ({"weight": "no"}, "must be 0 or 1"),
        ({"weight": 1, "train": False}, "must be 0 or 1"),
        ({"mask": True}, "'mask', which is not read"),
        ({"loss": False}, "'loss', which is not read"),
    ],
)
def test_what_a_message_says_of_training_is_understood_or_refused(answer: dict[str, Any], match: str) -> None:
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"} | answer]}
    with pytest.raises(Unusable, match=match):
        Columns("chat", {}).item(row, "f:1")


def test_conversations_that_no_template_renders_are_rows_that_can_be_skipped() -> None:
    user, answer, empty = ({"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "a"), ("assistant", "")))
    for turns, match in (([answer, user, answer], "begin with a question"), ([user, empty, user, answer], "empty")):
        with pytest.raises(Unusable, match=match):
            Columns("chat", {}).item({"messages": turns}, "f:1")
