"""The family's own data as sources: published weights, closed data, what the plan then shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bessemer.errors import BessemerError, RecipeError
from bessemer.families import catalogue
from bessemer.families.own_data import with_family_data
from bessemer.recipe.load import parse_recipe
from bessemer.recipe.schema import Recipe

FAMILY: dict[str, Any] = {
    "family": "own",
    "by": "us",
    "reviewed": "2026-11-25",
    "sources": {"paper": "https://example.org/paper"},
    "licence": {"weights": {"is": "Apache-2.0", "source": "paper"}},
    "end_of_text": {"is": "<|endoftext|>", "source": "paper"},
    "data": {
        "pre": {
            "status": "open",
            "source": "paper",
            "parts": [
                {"name": "web", "from": "hf:own/web", "share": 0.6},
                {"name": "code", "from": "code.jsonl", "share": 0.3},
                {"name": "maths", "from": "maths.jsonl"},
            ],
        },
        "mid": {"status": "none", "source": "paper"},
        "post": {
            "status": "open",
            "source": "paper",
            "parts": [{"name": "chats", "from": "chats.jsonl", "kind": "chat", "share": 1.0}],
        },
    },
    "sizes": {
        "1b": {
            "parameters": {"is": 1000, "source": "paper"},
            "stages": {s: {"source": "paper", "hub": f"own/{s}"} for s in ("pre", "mid", "post")},
        }
    },
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path))
    catalogue.add(yaml.safe_dump(FAMILY), where="test")
    return tmp_path


def recipe(start: str = "own-1b@pre", **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "r",
        "start": start,
        "sources": {"mine": {"from": "mine.jsonl"}, "replay": {"role": "general", "max_epochs": 2}},
        "stages": [{"objective": "cpt", "mixture": {"mine": 0.8, "replay": 0.2}, "tokens": "100k"}],
        "probes": {"p": {"from": "p.jsonl"}},
        "tasks": {"t": {"from": "t.jsonl", "metric": "bits_per_byte"}},
    }
    return parse_recipe(yaml.safe_dump(values | changes), where="test")


@pytest.mark.usefixtures("home")
def test_a_general_source_is_the_family_s_own_data_by_its_published_weights() -> None:
    found = with_family_data(recipe())
    assert list(found.sources) == ["mine", "replay-web", "replay-code", "replay-maths"]
    assert found.stages[0].mixture == pytest.approx(
        {"mine": 0.8, "replay-web": 0.12, "replay-code": 0.06, "replay-maths": 0.02}
    )
    web = found.sources["replay-web"]
    assert (web.role, web.max_epochs, web.category) == ("general", 2, "replay")
    assert web.from_ == "hf:own/web?bytes=72000"  # 100k tokens * 0.2 * 0.6 of it, six bytes each
    assert found.sources["replay-code"].from_ == "code.jsonl"


@pytest.mark.usefixtures("home")
def test_weights_changes_and_other_stages_are_written_out() -> None:
    sources = {
        "mine": {"from": "mine.jsonl", "kind": "chat"},
        "replay": {"role": "general"},
        "chats": {"from": "family:post", "role": "general"},
    }
    stage = {
        "objective": "sft",
        "mixture": {"mine": 0.5, "replay": 0.3, "chats": 0.2},
        "changes": [{"at": 0.5, "mixture": {"mine": 0.6, "replay": 0.4}}],
        "loss_weight": {"replay": 2.0},
        "tokens": "10k",
    }
    found = with_family_data(recipe(sources=sources, stages=[stage]))
    assert found.sources["chats-chats"].kind == "chat" and found.sources["replay-web"].from_ == "hf:own/web?bytes=14400"
    assert found.stages[0].changes[0].mixture["replay-web"] == pytest.approx(0.24)
    assert found.stages[0].loss_weight == pytest.approx({"replay-web": 1.2, "replay-code": 0.6, "replay-maths": 0.2})
    assert with_family_data(found) is found


@pytest.mark.usefixtures("home")
def test_what_cannot_be_had_is_refused_with_the_remedy() -> None:
    with pytest.raises(BessemerError, match="closed") as closed:
        with_family_data(recipe("own-1b@mid"))
    assert "bessemer data sample own-1b@mid" in closed.value.fix
    with pytest.raises(BessemerError, match="nobody knows what it was trained on"):
        with_family_data(recipe("owner/name"))
    chats = {"mine": {"from": "mine.jsonl"}, "replay": {"from": "family:post", "role": "general"}}
    unknown = {"mine": {"from": "mine.jsonl"}, "replay": {"from": "family:foo", "role": "general"}}
    with pytest.raises(BessemerError, match="no stage or mixture 'foo'") as missing:
        with_family_data(recipe(sources=unknown))
    assert missing.value.fix.startswith("known: ") and "post" in missing.value.fix
    with pytest.raises(RecipeError, match="conversations belong into an sft stage"):
        with_family_data(recipe(sources=chats))
    with pytest.raises(RecipeError, match="only a general source"):
        recipe(sources={"mine": {"from": "mine.jsonl"}, "replay": {"role": "domain"}})


@pytest.mark.usefixtures("home")
def test_a_blend_takes_only_as_many_files_as_it_can_use() -> None:
    stage = {"objective": "cpt", "blend": {"domain": 0.8}, "tokens": "100k"}
    assert with_family_data(recipe(stages=[stage])).sources["replay-web"].from_ == "hf:own/web?bytes=72000"


@pytest.mark.usefixtures("home")
def test_a_weight_in_a_blend_is_divided_like_a_share() -> None:
    sources = {
        "mine": {"from": "mine.jsonl"},
        "replay": {"role": "general", "category": "web", "weight": 0.5},
        "more": {"from": "more.jsonl", "role": "general", "category": "web", "weight": 0.5},
    }
    stage = {"objective": "cpt", "blend": {"domain": 0.8, "general": {"web": 1.0}}, "tokens": "100k"}
    found = with_family_data(recipe(sources=sources, stages=[stage])).sources
    weights = {name: s.weight for name, s in found.items() if s.role == "general"}
    assert weights == pytest.approx({"more": 0.5, "replay-web": 0.3, "replay-code": 0.15, "replay-maths": 0.05})


def test_a_whole_repository_is_never_fetched_by_accident(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = {"objective": "cpt", "mixture": {"mine": 0.8, "replay": 0.2}}
    with pytest.raises(BessemerError, match="it may hold terabytes") as found:
        with_family_data(recipe(stages=[stage]))
    assert "stages.tokens" in found.value.fix
    (home / "own" / "web").mkdir(parents=True)
    monkeypatch.setenv("BESSEMER_MIRROR", str(home))  # a copy of the user's own is there already
    assert with_family_data(recipe(stages=[stage])).sources["replay-web"].from_ == "hf:own/web"


@pytest.mark.usefixtures("home")
def test_a_source_of_the_user_is_never_replaced_by_a_part() -> None:
    sources = {"replay": {"role": "general"}, "replay-web": {"from": "mine.jsonl"}}
    stage = {"objective": "cpt", "mixture": {"replay-web": 0.8, "replay": 0.2}, "tokens": "100k"}
    with pytest.raises(BessemerError, match="there is already a source replay-web"):
        with_family_data(recipe(sources=sources, stages=[stage]))


def test_a_part_for_which_no_share_is_left_is_left_out(home: Path) -> None:
    parts = [{"name": "web", "from": "web.jsonl", "share": 1.0}, {"name": "rest", "from": "rest.jsonl"}]
    data = {"pre": {"status": "open", "source": "paper", "parts": parts}}
    catalogue.add(yaml.safe_dump(FAMILY | {"data": data}), where="test")
    assert list(with_family_data(recipe()).sources) == ["mine", "replay-web"]


def test_another_stage_of_a_size_has_the_mixture_of_that_size(home: Path) -> None:
    stages = {**FAMILY["sizes"]["1b"]["stages"], "pre": {"source": "paper", "hub": "own/pre", "data": "pre-1b"}}
    part = {"name": "books", "from": "books.jsonl"}
    data = {**FAMILY["data"], "pre-1b": {"status": "open", "source": "paper", "parts": [part]}}
    sizes = {"1b": {**FAMILY["sizes"]["1b"], "stages": stages}}
    catalogue.add(yaml.safe_dump(FAMILY | {"data": data, "sizes": sizes}), where="test")
    sources = {"mine": {"from": "mine.jsonl"}, "replay": {"from": "family:pre", "role": "general"}}
    assert list(with_family_data(recipe("own-1b@post", sources=sources)).sources) == ["mine", "replay-books"]
