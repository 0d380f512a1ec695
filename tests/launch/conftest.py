"""One recipe and one undisturbed run of it for all tests of launching."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.launch.runs import ONE_STAGE, bessemer
from tests.story import write_story


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    path = write_story(tmp_path_factory.mktemp("launch"), tiny_model, **ONE_STAGE)
    raw = yaml.safe_load(path.read_text())
    del raw["sources"]["rules"]
    for source in raw["sources"].values():
        source["max_epochs"] = 100
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Path:
    """A home with the run done in one process, in one go."""
    home = tmp_path_factory.mktemp("undisturbed")
    done = bessemer(home, "run", str(recipe))
    assert done.returncode == 0, done.stderr
    return home
