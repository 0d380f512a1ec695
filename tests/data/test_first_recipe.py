from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from bessemer.data.first_recipe import write_recipe
from bessemer.data.sources import read_items
from bessemer.errors import BessemerError
from bessemer.recipe.load import load_recipe


def test_init_splits_the_rows_and_writes_a_valid_recipe(tmp_path: Path) -> None:
    documents = tmp_path / "posts.csv"
    documents.write_text("id,body\n" + "".join(f'{i},"post number {i} about steel"\n' for i in range(60)))
    chats = tmp_path / "chats.jsonl"
    rows = [{"prompt": f"is {i} even?", "completion": "no" if i % 2 else "yes"} for i in range(60)]
    chats.write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = tmp_path / "recipe.yaml"
    write_recipe([documents, chats], out, name="mine", start="smollm2-135m@post")
    recipe = load_recipe(out)
    assert [s.objective for s in recipe.stages] == ["cpt", "sft"]
    for name, source in recipe.sources.items():
        if source.role == "domain":
            train = read_items(source.from_, kind=source.kind)
            raw = Path(recipe.tasks[name].from_).read_text().splitlines()
            assert len(train) + len(raw) == 60 and len(raw) >= 1


def test_init_never_overwrites(tmp_path: Path) -> None:
    out = tmp_path / "recipe.yaml"
    out.write_text("mine")
    with pytest.raises(BessemerError, match="exists"):
        write_recipe([tmp_path / "x.jsonl"], out, name="a", start="b")
    assert out.read_text() == "mine"


@pytest.mark.parametrize("stem", ["2024", "2024-06-01", "2024-02-30", "on", "null"])
def test_names_that_yaml_reads_as_something_else(tmp_path: Path, stem: str) -> None:
    path, out = tmp_path / f"{stem}.jsonl", tmp_path / "recipe.yaml"
    path.write_text("".join(json.dumps({"text": f"post number {i} about steel"}) + "\n" for i in range(60)))
    write_recipe([path], out, name="2026", start="smollm2-135m@post")
    recipe = load_recipe(out)
    assert recipe.name == "2026" and f"data-{stem}" in recipe.sources
    with pytest.raises(BessemerError, match="train.jsonl: the file exists"):  # the data of recipe.yaml
        write_recipe([path], tmp_path / "recipe.yml", name="other", start="smollm2-135m@post")


def test_init_leaves_nothing_behind_for_unusable_files(tmp_path: Path) -> None:
    few = tmp_path / "few.txt"
    few.write_text("one short text that is long enough to count as a paragraph\n")
    with pytest.raises(BessemerError, match="too few"):
        write_recipe([few], tmp_path / "recipe.yaml", name="a", start="b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["few.txt"]


@pytest.mark.parametrize(
    ("name", "content", "where", "what"),
    [
        ("a.txt", b"\xff\xfe\x00", "a.txt:1:1", "no UTF-8 text"),
        ("a.csv", b"\xff\xfe\x00", "a.csv:1:1", "no UTF-8 text"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "a.jsonl:2:10", "no valid JSON"),
        ("a.jsonl", b'{"text": "x"}\n\n[1]\n', "a.jsonl:3", "must be a JSON object"),
        ("a.jsonl", b'{"text": "x"}\n{"text": " "}\n', "a.jsonl:2", "no text in column 'text'"),
        ("a.jsonl", b'{"messages": [{"content": "x"}]}\n', "a.jsonl:1", "a message has no known role"),
        ("a.jsonl", b'{"prompt": "x", "completion": "y"}\n{"prompt": "x"}\n', "a.jsonl:2", "no `messages`"),
        ("a.jsonl", b'{"title": "x"}\n', "a.jsonl:1", "no text column"),
        ("a.csv", b"", "a.csv", "the file has no rows"),
        ("a.pdf", b"%PDF", "a.pdf", "'.pdf' files are not read"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path: Path, name: str, content: bytes, where: str, what: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BessemerError, match=what) as caught:
        write_recipe([tmp_path / name], tmp_path / "recipe.yaml", name="a", start="b")
    assert caught.value.where == str(tmp_path / where)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_twins_and_repeats_stay_on_one_side(tmp_path: Path) -> None:
    path = tmp_path / "Beiträge.jsonl"
    twins = [{"prompt": f"{w}? {i}", "completion": a, "group": f"g{i}"} for i in range(60) for w, a in ("ay", "bn")]
    repeats = [{"prompt": "Again and\u2028again", "completion": "y", "id": n} for n in range(30)]
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in twins + repeats))
    write_recipe([path], tmp_path / "recipe.yaml", name="mine", start="smollm2-135m@post")
    (source,) = {f.stem.split(".")[0] for f in (tmp_path / "recipe-data").iterdir()}
    sides = [
        {r.get("group") or r["messages"][0]["content"] for r in map(json.loads, f.read_text().strip("\n").split("\n"))}
        for f in sorted((tmp_path / "recipe-data").iterdir())
    ]
    assert source.isascii() and len(sides) == 2 and not sides[0] & sides[1] and len(sides[0] | sides[1]) == 61


@pytest.mark.parametrize("name", ["notes.txt.gz", "NOTES.TXT", "dos.txt"])
def test_paragraphs_of_a_text_are_rows_whatever_its_name(tmp_path: Path, name: str) -> None:
    text = "\n\n".join(f"Paragraph {i} says something about the weather of the week." for i in range(60)).encode()
    text = text.replace(b"\n", b"\r\n") if name == "dos.txt" else text
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    said = write_recipe([tmp_path / name], tmp_path / "r.yaml", name="mine", start="smollm2-135m@post")
    assert "held out" in said[0]


def test_a_start_with_odd_characters_is_written_as_it_is(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": f"Sentence number {i} about the weather."}) + "\n" for i in range(60))
    (tmp_path / "a.jsonl").write_text(rows)
    write_recipe([tmp_path / "a.jsonl"], tmp_path / "r.yaml", name="mine", start="./base #2")
    assert load_recipe(tmp_path / "r.yaml").start == "./base #2"
