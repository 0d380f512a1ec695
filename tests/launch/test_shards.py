"""A stage whose weights two real processes share: one killed, one hung, both stopped, their supervisor killed.

What is left always continues to the weights of two undisturbed processes.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.launch.runs import begin, bessemer, log, ranks_of, reached, until, weights

pytestmark = pytest.mark.full
ON = ("--on", "local:2")


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> str:
    """sha256 of the weights that two processes arrive at in one go."""
    home = tmp_path_factory.mktemp("by-two")
    done = bessemer(home, "run", str(recipe), *ON)
    assert done.returncode == 0, done.stderr
    return weights(home)


@pytest.mark.parametrize("rank", [0, 1])
def test_kill_minus_nine_of_one_process_ends_and_restarts_both(
    tmp_path: Path, recipe: Path, by_two: str, rank: int
) -> None:
    run = begin(tmp_path, "run", str(recipe), *ON)
    until(reached(tmp_path, 20), run)
    os.kill(ranks_of(run)[rank], signal.SIGKILL)
    _, said = run.communicate()
    assert run.returncode == 0 and "all are started again after step" in said, said
    assert weights(tmp_path) == by_two


def test_one_process_that_hangs_is_found_out(tmp_path: Path, recipe: Path, by_two: str) -> None:
    run = begin(tmp_path, "run", str(recipe), *ON, BESSEMER_HUNG_AFTER="20")
    until(reached(tmp_path, 20), run)
    os.kill(ranks_of(run)[1], signal.SIGSTOP)
    _, said = run.communicate()
    assert run.returncode == 0 and "no sign of life for" in said, said
    assert weights(tmp_path) == by_two


def test_a_signal_stops_both_after_a_checkpoint(tmp_path: Path, recipe: Path, by_two: str) -> None:
    run = begin(tmp_path, "run", str(recipe), *ON)
    until(reached(tmp_path, 15), run)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate()
    assert run.returncode == 130 and "01-cpt: stopped at step" in said and "Traceback" not in said, said
    (newest, *_) = sorted((tmp_path / "runs/story/01-cpt").glob("step-*/manifest.json"), reverse=True)
    assert len(list(newest.parent.glob("part-*-of-00002.safetensors"))) == 2
    done = bessemer(tmp_path, "run", str(recipe), *ON)
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path) == by_two


def test_their_supervisor_is_killed(tmp_path: Path, recipe: Path, by_two: str) -> None:
    run = begin(tmp_path, "run", str(recipe), *ON)
    until(reached(tmp_path, 20), run)
    ranks = ranks_of(run)
    assert len(ranks) == 2
    run.kill()
    run.wait()
    until(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks))
    done = bessemer(tmp_path, "run", str(recipe), *ON)
    assert done.returncode == 0, done.stderr
    assert "continues after step" in log(tmp_path)
    assert weights(tmp_path) == by_two


def test_one_process_goes_on_where_two_stopped(tmp_path: Path, recipe: Path) -> None:
    """The same documents, another order of adding up; finished and judged."""
    run = begin(tmp_path, "run", str(recipe), *ON)
    until(reached(tmp_path, 15), run)
    run.send_signal(signal.SIGTERM)
    run.communicate()
    done = bessemer(tmp_path, "run", str(recipe))
    assert done.returncode == 0, done.stderr
    assert "continues after step" in log(tmp_path)
