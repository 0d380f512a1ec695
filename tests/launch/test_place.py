"""`--on` and its options."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from bessemer.errors import BessemerError
from bessemer.launch.group import make_command
from bessemer.launch.place import Place, parse_place
from bessemer.launch.start import start
from bessemer.recipe.load import load_recipe
from bessemer.track.screen import Screen
from tests.story import write_story


@pytest.fixture
def everything_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


@pytest.mark.parametrize(
    ("text", "options", "place"),
    [
        ("local", {}, Place()),
        ("local:1", {}, Place(own=True)),
        ("local:2", {"workers": 2}, Place(workers=2, own=True)),
        ("local", {"workers": 3}, Place(workers=3, own=True)),
        ("slurm", {}, Place("slurm")),
        ("slurm:gpu-long", {"workers": 8, "gpus": True, "time": "4:00:00"},
         Place("slurm", "gpu-long", 8, True, 1, True, "4:00:00")),
        ("ray", {}, Place("ray", own=True)),
        ("ray://head:10001", {"workers": 2, "cpus": 4}, Place("ray", "ray://head:10001", 2, True, 4)),
    ],
)  # fmt: skip
def test_places(everything_installed: None, text: str, options: dict[str, object], place: Place) -> None:
    assert parse_place(text, **options) == place  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("slrum:gpu", {}, "did you mean slurm or slurm:PARTITION"),
        ("moon", {}, "'moon' is no place to run"),
        ("local:0", {}, "local or local:WORKERS"),
        ("local:two", {}, "local or local:WORKERS"),
        ("ray:head", {}, "ray or ray://HEAD:PORT"),
        ("slurm:a b", {}, "slurm or slurm:PARTITION"),
        ("local:2", {"workers": 3}, "disagree"),
        ("local", {"workers": 0}, "0 workers can do nothing"),
        ("local", {"gpus": True}, "when torch sees one"),
        ("local:2", {"cpus": 2}, "all cores are used"),
        ("slurm", {"cpus": 0}, "0 cores can do nothing"),
        ("ray", {"time": "1:00"}, "only Slurm"),
    ],
)
def test_mistakes(everything_installed: None, text: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(BessemerError, match=message):
        parse_place(text, **options)  # type: ignore[arg-type]


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BessemerError, match=r"pip install 'bessemer\[train,ray\]'"):
        parse_place("ray")
    with pytest.raises(BessemerError, match="sbatch is not here"):
        parse_place("slurm:gpu")


def test_muon_of_several_processes_is_refused_before_anything_is_done(tmp_path: Path, tiny_model: Path) -> None:
    recipe = load_recipe(write_story(tmp_path, tiny_model), ["stages[0].optimizer=muon"])
    with pytest.raises(BessemerError, match=r"stages.optimizer: muon needs whole matrices"):
        start(recipe, Place("local", workers=2), Screen(quiet=True), lambda: False)
    assert not (tmp_path / "home").exists()


def test_commands_of_a_group() -> None:
    assert make_command(Place(own=True), "a", 2)[1:] == ["-m", "bessemer.launch.worker", "a", "2"]
    two = make_command(Place(workers=2, own=True), "a", 1)
    assert two[1:3] == ["-m", "torch.distributed.run"] and two[-4:] == ["-m", "bessemer.launch.worker", "a", "1"]
    ray = make_command(Place("ray", "ray://h:1", 2, True, 4, True), "a", 1)
    assert ray[2:] == ["bessemer.launch.on_ray", "ray://h:1", "2", "4", "1", "a", "1"]
