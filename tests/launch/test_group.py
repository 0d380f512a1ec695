"""The supervisor with stand-ins for workers: real processes, real signals, no training."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bessemer.errors import BessemerError, StoppedByUserError
from bessemer.files import write_json
from bessemer.launch.group import Group, Patience, _Watch
from bessemer.track.runs import PLAN, runs_folder
from bessemer.track.screen import Screen
from tests.launch.runs import until

STAND_IN = str(Path(__file__).parent / "stand_in.py")
PATIENT = Patience(least_silence_s=120, poll_s=0.02)


class Played:
    """A group that plays a given play, and what its user saw."""

    def __init__(self, play: str, *, workers: int = 1, patience: Patience = PATIENT) -> None:
        self.run = runs_folder() / "play"
        self.stage = self.run / "01-cpt"
        write_json(self.run / PLAN, {"stages": [{"name": "01-cpt", "steps": 4}]})
        self.screen = Screen(quiet=True, log=self.run / "log.txt")
        self.asked, self.events = False, list[dict[str, Any]]()
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
        command = [sys.executable, *(torchrun if workers > 1 else []), STAND_IN, str(self.run), str(self.stage), play]
        self.group = Group("play", lambda number: command, self.screen, lambda: self.asked, patience=patience)

    def train(self) -> None:
        self.group.train(0, self.events.append)

    def pids(self, rank: int = 0) -> list[int]:
        path = self.stage / f"starts-{rank}"
        return [int(x) for x in path.read_text().split()] if path.exists() else []

    @property
    def log(self) -> str:
        return (self.run / "log.txt").read_text()


def test_a_stop_whose_checkpoint_failed_is_a_failure() -> None:
    """One process says that it stopped, another one that its part could not be written."""
    with pytest.raises(BessemerError, match="no bread"):
        Played("b").train()


def alive(pid: int) -> bool:
    """Running, not a zombie that nobody has waited for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_workers_say_and_how_far_they_are_is_shown() -> None:
    played = Played("d")
    played.train()
    assert "start 1" in played.log and [(e["step"], e["loss"]) for e in played.events] == [(1, 1.5)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_takes_the_group_with_it_and_all_start_again(workers: int) -> None:
    played = Played("xcxd", workers=workers)
    played.train()
    assert [len(played.pids(rank)) for rank in range(workers)] == [4] * workers
    assert "all are started again after step 0" in played.log and "started again after step 2" in played.log
    assert [e["step"] for e in played.events] == [1, 2, 3, 4]


def test_three_failures_without_a_checkpoint_between_are_the_end() -> None:
    played = Played("cxxxd")
    with pytest.raises(BessemerError, match="failed 3 times after step 1 of 4, last: killed by signal 9") as caught:
        played.train()
    assert len(played.pids()) == 3 and caught.value.where.endswith("workers.log")  # the first crash counts, too


def test_an_error_that_may_go_away_is_tried_again_and_ours_is_not() -> None:
    played = Played("rod")
    with pytest.raises(BessemerError, match="bakery: no bread\n  fix: bake"):
        played.train()
    assert len(played.pids()) == 2 and "the workers failed (no bread)" in played.log


def test_a_hung_group_leaves_its_stacks_and_is_started_again() -> None:
    played = Played("hd", patience=Patience(least_silence_s=1.5, slowest=2, poll_s=0.02))
    played.train()
    assert "no sign of life for" in played.log and not alive(played.pids()[0])
    assert "hang_here" in (played.stage / "workers.log").read_text()


def test_a_slow_group_is_given_a_multiple_of_its_longest_silence() -> None:
    """Silent for .6 s once, it may be silent for six; the least is one second."""
    played = Played("d", patience=Patience(least_silence_s=1.0, slowest=10, poll_s=0.02))
    played.stage.mkdir(parents=True)
    watch = _Watch(played.stage, played.run / "metrics.jsonl", played.screen, played.events.append)
    program = (
        "import pathlib, sys, time\n"
        "for n, s in enumerate((0, .6, 2)):\n"
        "    time.sleep(s); (pathlib.Path(sys.argv[1]) / str(n)).touch()"
    )
    process = subprocess.Popen([sys.executable, "-S", "-c", program, str(played.stage)])
    assert played.group._wait(process, watch) == "exit status 0"


@pytest.mark.full
def test_a_stopped_process_among_two_is_found_out() -> None:
    """kill -STOP: it writes its stacks when it is woken, and then it is killed."""
    played = Played("wd", workers=2, patience=Patience(least_silence_s=6, poll_s=0.02))
    helper = (
        "import os,sys,time,signal,pathlib\n"
        "while not pathlib.Path(sys.argv[1]).exists(): time.sleep(.05)\n"
        "os.kill(int(open(sys.argv[1]).read().split()[0]), signal.SIGSTOP)"
    )
    with subprocess.Popen([sys.executable, "-c", helper, str(played.stage / "starts-1")]):
        played.train()
    assert "no sign of life for" in played.log
    assert (played.stage / "workers.log").read_text().count("hang_here") == 2


def test_a_request_to_stop_reaches_the_workers() -> None:
    played = Played("s")
    played.asked = True
    with pytest.raises(StoppedByUserError, match="01-cpt: stopped at step 1"):
        played.train()


def test_a_second_request_ends_everything_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played("w")
    calls = iter(range(10**6))

    def asked() -> bool:
        if next(calls) > 20 and played.pids():
            raise KeyboardInterrupt  # what the signal's handler does the second time
        return True

    played.group.stop_asked = asked
    with pytest.raises(KeyboardInterrupt):
        played.train()
    assert not alive(played.pids()[0])


def test_workers_that_die_while_stopping_are_not_started_again() -> None:
    played = Played("x")
    played.asked = True
    with pytest.raises(StoppedByUserError, match="wrote no checkpoint: killed by signal 9"):
        played.train()
    assert len(played.pids()) == 1


SUPERVISOR = """
import sys
from tests.launch.test_group import Played
played = Played("w", workers=int(sys.argv[1]))
played.train()
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_die_with_their_supervisor(workers: int, bessemer_home: Path) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(workers)], cwd=Path(__file__).parents[2])
    stage = bessemer_home / "runs/play/01-cpt"
    files = [stage / f"starts-{rank}" for rank in range(workers)]
    until(lambda: all(f.exists() and f.read_text() for f in files), limit_s=60)
    time.sleep(0.5)
    pids = [int(f.read_text()) for f in files]
    assert all(alive(pid) for pid in pids)
    supervisor.kill()
    supervisor.wait()
    until(lambda: not any(alive(pid) for pid in pids), limit_s=60)


def test_a_command_whose_parent_is_gone_does_not_start(tmp_path: Path) -> None:
    made = tmp_path / "made"
    bind = [sys.executable, "-m", "bessemer.launch.bind"]
    ours = subprocess.run([*bind, str(os.getpid()), "touch", str(made)], check=False)
    assert ours.returncode == 0 and made.exists()
    made.unlink()
    other = subprocess.run([*bind, "1", "touch", str(made)], capture_output=True, text=True, check=False)
    assert other.returncode == 1 and "is gone" in other.stderr and not made.exists()


def test_a_setting_that_is_no_number_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BESSEMER_HUNG_AFTER", "10m")
    with pytest.raises(BessemerError, match="'10m' is no number of seconds"):
        Patience()
