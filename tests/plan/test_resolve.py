"""What would fail later, or train something else than was meant, is refused before anything is spent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from bessemer.data.items import Item, Message
from bessemer.errors import BessemerError
from bessemer.families.fetch import resolve
from bessemer.plan.estimate import context_of, size_of
from bessemer.plan.resolve import held_out_tokens, prepare
from bessemer.recipe.load import load_recipe
from tests.story import write_story

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
FACTORS = {"long_factor": [2.0] * 12, "short_factor": [1.0] * 12}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 512, **FACTORS}


def test_documents_and_conversations_are_measured(tmp_path: Path, tiny_model: Path) -> None:
    recipe = load_recipe(write_story(tmp_path, tiny_model))
    probes = sum(p.tokens for p in recipe.probes.values())
    chat = Item("2", messages=(Message("user", "y" * 30), Message("assistant", "z" * 60)))
    for name, item, n_tokens in (
        ("own-texts", Item("1", text="x" * 300), 100),
        ("own-texts", Item("1", text="x" * 300_000), 16_384),  # some windows of it
        ("rules", chat, 30),
        ("rules", Item("2", messages=(Message("user", "y" * 300_000),)), 100_000),  # every item
    ):
        assert held_out_tokens(recipe, {name: [item]}) == probes + n_tokens


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({}, 2048),
        ({"rope_parameters": LONGROPE}, 512),
        ({"rope_parameters": DYNAMIC, "original_max_position_embeddings": 1024}, 1024),
        ({"model_type": "mistral", "sliding_window": 300}, 300),
        ({"model_type": "mistral", "sliding_window": 4096}, 2048),
        ({"model_type": "qwen2", "sliding_window": 300, "use_sliding_window": False}, 2048),
    ],
)
def test_how_far_a_start_reads(rope: dict[str, object], context: int, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((tiny_model / "config.json").read_text()) | rope
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert context_of(resolve(str(tmp_path / "model"))) == context


@pytest.mark.usefixtures("bessemer_home")
def test_a_document_longer_than_the_start_reads_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    path = write_story(tmp_path / "story", tiny_model)
    rows = ({"text": "furnace steel iron mill " * 900 + str(i)} for i in range(12))
    (path.parent / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = yaml.safe_load(path.read_text())
    recipe["stages"][0] |= {"row_tokens": 3000, "tokens": 20_000}
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(BessemerError, match="a document of own has 3000 tokens in a row; .* reads 2048") as found:
        prepare(load_recipe(path))
    assert "row_tokens: 2048" in str(found.value)


@pytest.mark.usefixtures("bessemer_home")
def test_an_item_of_a_task_longer_than_the_start_reads_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """It would be scored at positions that the start never learnt, and decide whether the model ships."""
    path = write_story(tmp_path / "story", tiny_model)
    tests = path.parent / "rules-test.jsonl"
    rows = [json.loads(line) for line in tests.read_text().splitlines()]
    rows[3]["prompt"] = "furnace steel iron mill " * 900
    tests.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BessemerError, match=r"item \S+ has [3-9],\d+ tokens; .* reads 2,048") as found:
        prepare(load_recipe(path))
    assert found.value.where == "tasks.rules.from"


def test_a_half_copied_file_of_weights_is_named(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(BessemerError, match="only a part of it was copied") as found:
        size_of(resolve(str(folder)))
    assert found.value.where.endswith("model.safetensors")
