"""Folders that others check are numbered by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from bessemer.errors import BessemerError
from bessemer.registry.papers import find_papers, next_folder


@pytest.mark.parametrize("name", ["rules", "model[1]", "a*"])
def test_the_next_number_is_of_this_name_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / ".lock").touch()
    assert next_folder(tmp_path, name).name == f"{name}-1"
    for there in (f"{name}-1", f"{name}-9", f"{name}-eu-30", f"{name}-x", "rulesets-40"):
        (tmp_path / there).mkdir()
    assert next_folder(tmp_path, name).name == f"{name}-10"


def test_they_are_found_by_name_folder_or_card(tmp_path: Path) -> None:
    (tmp_path / "rules-1").mkdir()
    (tmp_path / "rules-1/card.json").touch()
    for name in ("rules-1", str(tmp_path / "rules-1"), str(tmp_path / "rules-1/card.json")):
        assert find_papers(name, tmp_path, "card.json", "contest") == tmp_path / "rules-1"
    with pytest.raises(BessemerError, match="there is no contest 'rules-2'") as refused:
        find_papers("rules-2", tmp_path, "card.json", "contest")
    assert refused.value.fix == "here: rules-1"
