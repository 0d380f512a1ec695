from __future__ import annotations

import json
from pathlib import Path

import pytest

from bessemer.data.sources import read_items
from bessemer.errors import BessemerError
from bessemer.recipe.init import write_recipe
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
            train = read_items(source.from_, kind=source.kind, text=source.text)
            raw = Path(recipe.tasks[name].from_).read_text().splitlines()
            assert len(train) + len(raw) == 60 and len(raw) >= 1


def test_init_never_overwrites(tmp_path: Path) -> None:
    out = tmp_path / "recipe.yaml"
    out.write_text("mine")
    with pytest.raises(BessemerError, match="exists"):
        write_recipe([tmp_path / "x.jsonl"], out, name="a", start="b")
    assert out.read_text() == "mine"


def test_init_leaves_nothing_behind_for_unusable_files(tmp_path: Path) -> None:
    few = tmp_path / "few.txt"
    few.write_text("one short text that is long enough to count as a paragraph\n")
    with pytest.raises(BessemerError, match="too few"):
        write_recipe([few], tmp_path / "recipe.yaml", name="a", start="b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["few.txt"]
