"""Self-generated replay: a data set that a checkpoint wrote, with its provenance, made once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bessemer import replay
from bessemer.data.sources import read_items
from bessemer.errors import BessemerError
from bessemer.families.fetch import resolve
from bessemer.infer.model import load
from bessemer.replay import Asked, sample, user_turn
from bessemer.track.screen import Screen
from tests.cli.conftest import here  # noqa: F401 - a fixture

SMALL = Asked(tokens=3000, longest=64)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BESSEMER_DTYPE", "float32")
    return tmp_path / "home"


def files(home: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((home / "cache/samples").rglob("part-*"))}


def test_documents_become_a_data_set_that_says_who_wrote_them(home: Path, tiny_model: Path) -> None:
    made = sample(str(tiny_model), "own", SMALL, Screen(quiet=True))
    items = read_items(f"dataset:{made.reference}/train")
    base = resolve(str(tiny_model))
    assert len(items) > 20 and len({i.text for i in items}) == len(items)
    assert all(i.meta["model"] == base.digest and "written by" in str(i.meta["licence"]) for i in items)
    assert all(i.meta["temperature"] == 1.0 and i.text[0].isupper() for i in items)
    drawn = sum(int(p.read_text()) for p in (home / "cache/samples").rglob("*.drawn"))
    assert drawn >= SMALL.tokens


def test_a_kill_on_the_way_costs_one_batch_and_changes_nothing(
    home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample(str(tiny_model), "own", SMALL, Screen(quiet=True))
    whole = files(home)
    for path in sorted((home / "cache/samples").rglob("part-*"))[2:]:
        path.unlink()
    sample(str(tiny_model), "own", SMALL, Screen(quiet=True))
    assert files(home) == whole

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("everything was drawn already")

    monkeypatch.setattr("bessemer.replay.load", never)
    assert sample(str(tiny_model), "own", SMALL, Screen(quiet=True)).new is False


def test_loops_and_repeats_are_dropped(home: Path, tiny_model: Path) -> None:
    """A temperature near zero makes a small model say the same again and again."""
    asked = Asked(tokens=3000, longest=64, temperature=0.1, top_p=0.1)
    made = sample(str(tiny_model), "loops", asked, Screen(quiet=True))
    steps = {s["step"]: s for s in json.loads((made.folder / "report.json").read_text())["steps"]}
    dropped = sum(steps[s]["items_in"] - steps[s]["items_out"] for s in ("quality", "duplicates", "near_duplicates"))
    assert dropped > 0.5 * steps["read"]["items_in"], steps
    free = sample(str(tiny_model), "free", SMALL, Screen(quiet=True))
    kept = json.loads((free.folder / "report.json").read_text())["steps"][-1]
    assert kept["items_out"] > 0.9 * kept["items_in"]


def test_what_a_document_may_begin_with_is_looked_up_once(
    home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vocabulary is decoded for it, or a whole file read: seconds, for each of thousands of batches."""
    asked: list[int] = []
    real = replay.next_logits
    monkeypatch.setattr(replay, "next_logits", lambda loaded, ids: asked.append(1) or real(loaded, ids))
    sample(str(tiny_model), "twice", Asked(tokens=9000, longest=48), Screen(quiet=True))
    assert len(asked) == 1 and len(list((home / "cache/samples").glob("*/part-*.drawn"))) > 1


def test_openings_begin_the_documents(home: Path, tiny_model: Path, tmp_path: Path) -> None:
    words = "country problem hand part place case week company system program"
    (tmp_path / "first.jsonl").write_text(json.dumps({"text": words}) + "\n")
    asked = Asked(tokens=2000, longest=48, openings=str(tmp_path / "first.jsonl"))
    made = sample(str(tiny_model), "opened", asked, Screen(quiet=True))
    assert all(i.text.startswith("country problem") for i in read_items(f"dataset:{made.reference}/train"))
    (tmp_path / "short.jsonl").write_text(json.dumps({"text": "no"}) + "\n")
    with pytest.raises(BessemerError, match="no text has 8 tokens"):
        sample(str(tiny_model), "short", Asked(openings=str(tmp_path / "short.jsonl")), Screen(quiet=True))


def test_a_question_begins_where_a_user_speaks(tiny_model: Path) -> None:
    loaded = load(tiny_model, dtype=torch.float32)
    prompt, then = user_turn(loaded)
    assert loaded.renderer.decode_all(prompt).endswith("<|im_start|>user\n")
    assert loaded.renderer.decode_all(then) == "\n<|im_start|>assistant\n"


def test_commands(home: Path, tiny_model: Path, here: Callable[..., Any]) -> None:  # noqa: F811
    done = here("data", "sample", str(tiny_model), "--name", "own", "--tokens", "2k", "--longest", "48")
    assert done.code == 0 and "from: dataset:own@1/train, role: general" in done.out, done.err
    bad = here("data", "sample", str(tiny_model), "--name", "own", "--tokens", "many")
    assert bad.code == 4 and "is no count" in bad.err


def test_a_batch_in_which_nothing_ends_does_not_stop_the_next(
    home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = replay._lines
    monkeypatch.setattr(replay, "_lines", lambda *a: iter(()) if a[-1] == 0 else lines(*a))
    for new in (True, False):
        made = sample(str(tiny_model), "own", SMALL, Screen(quiet=True))
        assert made.new is new and len(read_items(f"dataset:{made.reference}/train")) > 10
    names = {p.name for p in (home / "cache/samples").glob("*/*")}
    assert "empty-00000" in names and "part-00000.jsonl" not in names and "part-00001.jsonl" in names
