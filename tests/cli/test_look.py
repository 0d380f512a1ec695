"""Looking and tracing from the command line, on the tiny story."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Done
from tests.story import write_story

Here = Callable[..., Done]


@pytest.fixture
def story(tmp_path: Path, tiny_model: Path) -> Path:
    return write_story(tmp_path / "story", tiny_model)


def test_show_marks_what_is_learnt_without_colours(here: Here, story: Path) -> None:
    done = here("data", "show", story, "--stage", 2, "--mask", "--n", 4)
    assert done.code == 0
    assert "⟦yes<|im_end|>⟧" in done.out or "⟦no<|im_end|>⟧" in done.out
    assert "== row 3 · " in done.out and " tokens, 2 supervised" in done.out
    rows = json.loads(here("data", "show", story, "--stage", 2, "--n", 4, "--json").out)
    assert {r["row"] for r in rows} == {0, 1, 2, 3} and all(r["tokens"] for r in rows)


def test_show_reads_a_source_without_a_model_and_with_one(here: Here, story: Path, tiny_model: Path) -> None:
    rules = story.parent / "rules.jsonl"
    done = here("data", "show", rules, "--n", 1)
    assert done.code == 0 and "user: " in done.out and "assistant: yes" in done.out
    masked = here("data", "show", rules, "--n", 1, "--mask", "--start", tiny_model)
    assert masked.code == 0 and "⟦yes<|im_end|>⟧" in masked.out


def test_mix_says_what_was_asked_and_what_is_fed(here: Here, story: Path) -> None:
    done = here("data", "mix", story)
    assert done.code == 0 and "Stage 2" in done.out and "█" in done.out and "100%" in done.out
    stages = json.loads(here("data", "mix", story, "--json").out)
    for stage in stages:
        rows = stage["rows"]
        assert sum(r["share"] for r in rows) == pytest.approx(1)
        assert all(abs(r["share"] - r["asked"]) < 0.04 for r in rows)
        assert stage["course"][-1]["at"] == 1
    assert stages[1]["rows"][0]["supervised"] < stages[1]["rows"][0]["tokens"]


def test_stats_of_a_recipe_and_of_a_source(here: Here, story: Path) -> None:
    done = here("data", "stats", story)
    assert done.code == 0 and "duplicates: " in done.out and "tokens per item" in done.out
    plain = json.loads(here("data", "stats", story.parent / "own.jsonl", "--json").out)
    (found,) = plain.values()
    assert found["items"] == 200 and found["tokens"] is None and sum(n for *_, n in found["histogram"]) == 200


def test_trace_needs_a_question(here: Here, story: Path) -> None:
    for args in ([], ["story"], ["story", "--step", 1, "--document", "x"]):
        done = here("trace", *args)
        assert done.code == 4 and "nothing to trace" in done.err
    assert here("trace", "story", "--step", 1).code == 4
    assert here("plan", story).code == 0
    done = here("trace", "story", "--step", 1, "--stage", "01-cpt")
    assert done.code == 0 and "own.jsonl:" in done.out
    documents = json.loads(here("trace", "story", "--step", 1, "--stage", "01-cpt", "--json").out)["documents"]
    assert sum(d["tokens"] for d in documents) > 128
    done = here("trace", "--document", documents[0]["id"])
    assert done.code == 0 and "in no step that was done" in done.out
    assert "no run and no release has a source with this document" in here("trace", "--document", "nobody").out


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["show", "SOURCE", "--stage", 2], "--stage"),
        (["show", "SOURCE", "--set", "seed=2", "--first", 9], "--set, --first"),
        (["show", "SOURCE", "--start", "nope"], "--start says nothing about a source without --mask"),
        (["show", "RECIPE", "--kind", "chat"], "--kind"),
        (["show", "RECIPE", "--first", 99_999], "--first: the stage has"),
        (["stats", "SOURCE", "--set", "seed=2"], "--set"),
        (["stats", "RECIPE", "--kind", "chat"], "--kind"),
    ],
)
def test_options_that_nobody_would_read_are_refused(here: Here, story: Path, args: list[object], named: str) -> None:
    things = {"SOURCE": story.parent / "own.jsonl", "RECIPE": story}
    done = here("data", *(things.get(str(a), a) for a in args))
    assert done.code == 4 and named in done.err, done.err
