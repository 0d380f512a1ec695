"""`bessemer seal` as a user gives it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bessemer.evaluate.openings import begin_opening, finish_opening
from tests.cli.conftest import Done, bessemer

TASK = """
name: house-rules
kind: classify
items: items.jsonl
answers: ["yes", "no"]
metric: auroc
"""
Here = Callable[..., Done]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    rows = [
        {"id": f"i{n}", "prompt": f"alpha{n} beta{n} gamma{n} delta{n}", "answer": ("yes", "no")[n % 2]}
        for n in range(12)
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(TASK)
    return tmp_path / "task.yaml"


def score(model: str) -> None:
    with begin_opening("house-rules", model_digest=model, by="Ada") as opening:
        finish_opening(opening, result_digest="e" * 64, score={"auroc": 0.75})


def test_the_life_of_a_seal(task: Path, here: Here) -> None:
    empty = here("seal", "list")
    assert empty.code == 0 and "No seals yet: bessemer seal create TASK" in empty.out
    few = here("seal", "create", task, "--by", "Ada", "--share", "0.5", "--control", "2")
    assert few.code == 4 and "may be lucky" in few.err and "at least 10 in all" in few.err
    made = here("seal", "create", task, "--by", "Ada", "--share", "0.5")
    assert made.code == 0, made.err
    assert "house-rules: created 20" in made.out and "6 public, 6 sealed" in made.out
    assert "auroc, smallest effect 0.02, alpha 0.05" in made.out and "move them away before you train" in made.out
    score("1" * 64)
    shown = here("seal", "show", "house-rules")
    assert shown.code == 0 and "1111111111111111" in shown.out and "auroc 0.75" in shown.out
    gone = here("seal", "withdraw", "house-rules", "--model", "11111111", "--why", "the wrong tokenizer")
    assert gone.code == 0 and "stays in the list" in gone.out
    shown = here("seal", "show", "house-rules")
    assert "the wrong tokenizer" in shown.out and "auroc 0.75" in shown.out
    listed = here("seal", "list")
    assert "6 + 6" in listed.out and "1 withdrawn" in listed.out
    told = here("seal", "reveal", "house-rules")
    assert told.code == 0 and "bessemer seal verify" in told.out
    again = here("seal", "create", task)
    assert again.code == 4 and "there is a seal 'house-rules' already" in again.err


def test_json_everywhere(task: Path, here: Here) -> None:
    made = json.loads(here("seal", "create", task, "--name", "mine", "--json").out)
    assert made["name"] == "mine" and made["counts"]["sealed"] == 6 and made["key"].endswith("keys/seals/mine.key")
    (listed,) = json.loads(here("seal", "list", "--json").out)
    assert listed["head"] == made["head"] and listed["fault"] is None and listed["submissions"] == []
    assert json.loads(here("seal", "show", "mine", "--json").out)["root"] == made["root"]
    verified = here(
        "seal", "verify", made["folder"], "--head", made["head"], "--commitment", made["commitment"], "--json"
    )
    assert json.loads(verified.out)["ok"] is True
    assert json.loads(here("seal", "reveal", "mine", "--json").out)["revealed"].endswith("revealed.jsonl")
    wrong = here("seal", "withdraw", "mine", "--model", "1" * 64, "--why", "x", "--json")
    assert wrong.code == 4 and "0 submissions" in json.loads(wrong.out)["error"]["what"]


def test_verify_in_a_process_of_its_own_with_nothing_but_the_folder(task: Path, here: Here, tmp_path: Path) -> None:
    made = json.loads(here("seal", "create", task, "--json").out)
    home = str(tmp_path / "another home")
    done = bessemer("seal", "verify", made["folder"], "--head", made["head"], BESSEMER_HOME=home)
    assert done.code == 0 and "sound: files, root and 1 entries of the ledger; the items are still sealed" in done.out
    public = Path(made["folder"], "public.jsonl")
    public.write_text(public.read_text().replace("alpha", "alpla"))
    done = bessemer("seal", "verify", made["folder"], BESSEMER_HOME=home)
    assert done.code == 4 and "public.jsonl: its bytes changed" in done.err
    listed = here("seal", "list")
    assert listed.code == 0 and "DAMAGED" in listed.out


def test_a_sealed_task_is_no_source(task: Path, here: Here, tmp_path: Path) -> None:
    made = json.loads(here("seal", "create", task, "--json").out)
    (tmp_path / "mine.jsonl").symlink_to(Path(made["folder"], "public.jsonl"))
    for address in (made["folder"], f"{made['folder']}/public.jsonl", str(tmp_path / "mine.jsonl")):
        (tmp_path / "data.yaml").write_text(f"name: stolen\nsources: {{own: {{from: {address!r}}}}}\n")
        done = here("data", "prepare", tmp_path / "data.yaml", "--workers", "1")
        assert done.code == 4 and "no source may read those" in done.err, done.out
        (tmp_path / "again.yaml").write_text(TASK.replace("items.jsonl", address))
        assert here("seal", "create", tmp_path / "again.yaml", "--name", "again").code == 4
