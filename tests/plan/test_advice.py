"""Advice follows from stage, amount of data and mixture, and from nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bessemer.families import catalogue
from bessemer.families.fetch import Checkpoint
from bessemer.plan.advice import advise
from bessemer.recipe.load import parse_recipe
from tests.families.test_own_data import FAMILY


def lines(start: str, tokens: int, *, general: float = 0.0, epochs: float = 1.0, **stage: Any) -> list[str]:
    mixture = {"mine": 1 - general, **({"old": general} if general else {})}
    sources: dict[str, Any] = {"mine": {"from": "mine.jsonl", "kind": "chat" if stage else "documents"}}
    if general:
        sources["old"] = {"from": "old.jsonl", "role": "general"}
    values = {
        "name": "r",
        "start": start,
        "sources": sources,
        "stages": [{"objective": "cpt", "mixture": mixture, "tokens": 1000} | stage],
        "probes": {"p": {"from": "p.jsonl"}},
        "tasks": {"t": {"from": "t.jsonl", "metric": "bits_per_byte"}},
    }
    recipe = parse_recipe(yaml.safe_dump(values), where="test")
    planned = {n: {"tokens": tokens if n == "mine" else 9, "epochs": epochs} for n in sources}
    entry = catalogue.find(start)
    found = Checkpoint(start, entry.stage, Path(), "d", {}, "", "", "", entry=entry)
    return advise(recipe, [{"name": "01", "sources": planned}], found)


def has(found: list[str], words: str) -> bool:
    return any(words in line for line in found)


@pytest.fixture(autouse=True)
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path))
    catalogue.add(yaml.safe_dump(FAMILY), where="test")


def test_every_piece_of_advice_has_its_condition_and_its_source() -> None:
    small, large = lines("own-1b@post", 100_000), lines("own-1b@post", 5_000_000)
    assert has(small, "method: lora") and not has(large, "method: lora")
    assert has(large, "known here: own-1b@pre, own-1b@mid") and not has(small, "known here")
    assert has(lines("own-1b@mid", 5_000_000), "known here: own-1b@pre")
    assert not has(lines("own-1b@pre", 5_000_000), "known here")
    assert has(small, "no general data") and not has(lines("own-1b@post", 100_000, general=0.1), "no general data")
    assert has(small, "bessemer merge --add") and not has(lines("own-1b@pre", 100_000), "bessemer merge --add")
    assert has(lines("own-1b@pre", 1, epochs=7.0), "mine is read 7.0 times") and not has(small, "is read")
    assert all("arXiv" in line for line in [*small, *large])


def test_good_choices_need_no_advice() -> None:
    assert lines("own-1b@pre", 5_000_000, general=0.25) == []
    assert lines("own-1b@post", 5_000_000, general=0.25, objective="sft") == []
