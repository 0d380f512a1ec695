"""The tiny story and its start, for tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from bessemer.families.fetch import Checkpoint, resolve
from bessemer.recipe.load import load_recipe
from bessemer.recipe.schema import Recipe
from tests.story import write_story


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Recipe:
    return load_recipe(write_story(tmp_path / "story", tiny_model))


@pytest.fixture
def start(tiny_model: Path) -> Checkpoint:
    return resolve(str(tiny_model))
