"""What the folder of a run tells about it."""

from __future__ import annotations

from pathlib import Path

from bessemer.track.runs import DONE, PLAN, is_begun, newest_step


def checkpoint(stage: Path, step: int) -> None:
    folder = stage / f"step-{step:07d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").touch()


def test_the_newest_step_is_one_of_the_stage_that_is_going_on(tmp_path: Path) -> None:
    assert newest_step(tmp_path) == 0
    for step in (4000, 5000):
        checkpoint(tmp_path / "01-cpt", step)
    (tmp_path / "01-cpt" / "step-0006000").mkdir()  # half-written
    assert newest_step(tmp_path) == newest_step(tmp_path / "01-cpt") == 5000
    (tmp_path / "01-cpt" / DONE).touch()  # whose checkpoints are kept
    checkpoint(tmp_path / "02-sft", 100)
    assert newest_step(tmp_path) == newest_step(tmp_path / "02-sft") == 100


def test_a_plan_that_was_being_written_begins_nothing(tmp_path: Path) -> None:
    (tmp_path / f".tmp-1-{PLAN}~").touch()
    assert not is_begun(tmp_path)
    (tmp_path / PLAN).touch()
    assert not is_begun(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    assert is_begun(tmp_path)
