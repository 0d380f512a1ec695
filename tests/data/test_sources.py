from __future__ import annotations

from pathlib import Path

import pytest

from bessemer.data.sources import read_items
from bessemer.errors import BessemerError


def test_every_kind_of_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "1", "text": "one", "licence": "MIT"}\n\n{"text": "two"}\n')
    (tmp_path / "b.csv").write_text('text,year\n"three, with comma",1856\n')
    (tmp_path / "c.md").write_text("# four")
    (tmp_path / "ignored.bin").write_bytes(b"\x00")
    items = read_items(str(tmp_path), kind="documents")
    assert [i.text for i in items] == ["one", "two", "three, with comma", "# four"]
    assert items[0].id == "1" and items[0].meta == {"licence": "MIT"}
    assert items[1].id == "a.jsonl:3"
    assert read_items(str(tmp_path / "*.csv"), kind="documents")[0].meta == {"year": "1856"}


def test_chat_rows(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text(
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "group": "g"}\n'
        '{"prompt": "p", "completion": "c"}\n'
    )
    first, second = read_items(str(path), kind="chat")
    assert first.cluster == "g" and [m.content for m in second.messages] == ["p", "c"]


@pytest.mark.parametrize(
    ("name", "content", "kind", "match"),
    [
        ("none.jsonl", None, "documents", "does not exist"),
        ("empty.jsonl", "\n", "documents", "no usable rows"),
        ("bad.jsonl", '{"text": "fine"}\n{"text": \n', "documents", r"bad.jsonl:2: no valid JSON"),
        ("column.jsonl", '{"body": "x"}\n', "documents", "no text in column 'text'"),
        ("list.jsonl", "[1]\n", "documents", "must be a JSON object"),
        ("chat.jsonl", '{"messages": [{"role": "user", "content": "q"}]}\n', "chat", "last message"),
        ("role.jsonl", '{"messages": [{"role": "boss", "content": "q"}]}\n', "chat", "message 0"),
        ("x.parquet", "x", "documents", "not read"),
        ("x.txt", "text", "chat", "documents, not conversations"),
    ],
)
def test_unusable_input_is_refused_with_its_place(
    tmp_path: Path, name: str, content: str | None, kind: str, match: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(BessemerError, match=match):
        read_items(str(tmp_path / name), kind=kind, where="sources.x.from")


def test_wrong_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"caf\xe9")
    with pytest.raises(BessemerError, match="no UTF-8"):
        read_items(str(tmp_path / "x.txt"), kind="documents")


def test_unknown_collection() -> None:
    with pytest.raises(BessemerError, match="is no collection"):
        read_items("bessemer:nope", kind="documents")
    with pytest.raises(BessemerError, match="holds documents, not chat"):
        read_items("bessemer:python/topics", kind="chat")


def test_python_text_comes_with_python() -> None:
    topics = read_items("bessemer:python/topics", kind="documents")
    assert len(topics) > 50 and sum(len(i.text) for i in topics) > 200_000
    docs = read_items("bessemer:python/docstrings", kind="documents")
    questions = read_items("bessemer:python/questions", kind="chat")
    assert len(docs) > 1000 and len(questions) > 1000
    assert len({i.id for i in docs}) == len(docs)
