"""`bessemer data prepare` as a user gives it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Done, bessemer

RECIPE = """
name: tiny
sources: {{posts: {{from: {folder}/posts.jsonl}}}}
steps: {{pii: {{}}, duplicates: {{}}}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    texts = [
        "One thing that somebody said.",
        "Write to a@b.org or u/some_one [red]now[/red].",
        "one  thing THAT somebody said.",
    ]
    (tmp_path / "posts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    (tmp_path / "data.yaml").write_text(RECIPE.format(folder=tmp_path))
    return tmp_path / "data.yaml"


def test_the_table_and_the_examples(recipe: Path) -> None:
    done = bessemer("data", "prepare", recipe, "--workers", "1", COLUMNS="150")
    assert done.code == 0, done.err
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "read 3 3 28 28" in lines
    assert "pii 3 3 28 27 1 email replaced" in lines and "1 user replaced" in lines
    assert "duplicates 3 2 27 19 1 same text as an earlier item" in lines
    assert "| Write to [email] or [user] [red]now[/red]." in lines  # text of the data is no markup
    assert "a@b.org" not in done.out + done.err
    assert "tiny@1" in done.out and "dataset:tiny@1/train" in done.out


def test_json_and_nothing_to_do(recipe: Path, here: Callable[..., Done]) -> None:
    first, again = (here("data", "prepare", recipe, "--workers", "1", "--json") for _ in range(2))
    assert json.loads(first.out)["new"] is True and json.loads(again.out)["new"] is False
    assert json.loads(again.out)["splits"] == {"train": {"items": 2, "files": 1}}
    assert "nothing to do" in again.err


def test_mistakes_are_told_at_once(recipe: Path, here: Callable[..., Done]) -> None:
    done = here("data", "prepare", recipe, "--set", "steps.pi={}", "--set", "name=No Name")
    assert done.code == 4 and "2 mistakes" in done.err and "did you mean 'pii'" in done.err
