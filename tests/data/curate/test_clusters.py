"""The same recipe on a real Slurm and a real Ray of this machine makes the same bytes as here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bessemer.data.curate import executors
from bessemer.data.curate.prepare import prepare
from bessemer.errors import BessemerError
from bessemer.track.screen import Screen
from tests.clusters import slurm  # noqa: F401
from tests.data.curate.test_prepare import contents, data, make, recipe, small_tasks, write_rows  # noqa: F401

pytestmark = pytest.mark.full


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cluster's machines have anyway: the same package."""
    root = Path(__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", f"{root / 'src'}:{root}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_slurm(slurm: None, data: Path, importable: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    here = make(recipe(data))
    monkeypatch.setenv("BESSEMER_HOME", str(data / "home-slurm"))
    there = prepare(recipe(data), Screen(quiet=True), on="slurm:small", workers=2)
    assert contents(there) == contents(here)
    assert executors._default_partition() == "small"


def test_slurm_refuses(slurm: None, data: Path, importable: None) -> None:  # noqa: F811
    with pytest.raises(BessemerError, match="Slurm refused the job"):
        prepare(recipe(data), Screen(quiet=True), on="slurm:nowhere")


def test_a_mistake_on_slurm_is_told_as_it_is_here(slurm: None, data: Path, importable: None) -> None:  # noqa: F811
    write_rows(data / "posts" / "c.jsonl", [{"nothing": 1}])
    with pytest.raises(BessemerError, match=r"c\.jsonl:1: no text column"):
        prepare(recipe(data), Screen(quiet=True), on="slurm")


def test_ray(data: Path, importable: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "180")
    here = make(recipe(data))
    monkeypatch.setenv("BESSEMER_HOME", str(data / "home-ray"))
    there = prepare(recipe(data), Screen(quiet=True), on="ray", workers=2)
    assert contents(there) == contents(here)
    write_rows(data / "posts" / "c.jsonl", [{"nothing": 1}])
    with pytest.raises(BessemerError, match=r"c\.jsonl:1: no text column"):
        prepare(recipe(data), Screen(quiet=True), on="ray")


def test_no_slurm_here(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    with pytest.raises(BessemerError, match="Slurm cannot be asked"):
        prepare(recipe(data), Screen(quiet=True), on="slurm")
