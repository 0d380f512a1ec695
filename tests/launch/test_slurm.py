# ruff: noqa: S607 - the cluster's own commands
"""A run as a job of a real Slurm: preempted, put back into the queue, finished; stopped and resumed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from bessemer.errors import BessemerError
from bessemer.launch import slurm as slurm_module
from bessemer.launch.place import Place
from bessemer.recipe.load import load_recipe
from bessemer.track.runs import IDLE, STOP
from bessemer.track.screen import Screen
from tests.clusters import slurm  # noqa: F401
from tests.launch.runs import begin, bessemer, log, reached, until, weights
from tests.story import write_story

full = pytest.mark.full


ODD = "it's a 100%j place"


def job_of(home: Path) -> str:
    return json.loads((home / "runs/story/job.json").read_text())["job"]


def state_of(home: Path) -> str:
    return json.loads(bessemer(home, "runs", "show", "story", "--json").stdout)["state"]


@full
def test_a_preempted_job_goes_on_to_the_same_weights(
    slurm: None,  # noqa: F811
    tmp_path: Path,
    recipe: Path,
    undisturbed: Path,
) -> None:
    tmp_path = tmp_path / ODD
    submitted = begin(tmp_path, "run", str(recipe), "--on", "slurm:small", "--workers", "1", "--wait")
    until(reached(tmp_path, 20), submitted)
    again = bessemer(tmp_path, "run", str(recipe), "--on", "slurm")
    assert again.returncode == 4 and "in use by another process" in again.stderr
    subprocess.run(["scancel", "--batch", "--signal=TERM", job_of(tmp_path)], check=True)
    _, said = submitted.communicate()
    assert submitted.returncode == 0, said + (tmp_path / "runs/story/slurm.log").read_text()
    assert "continues after step" in log(tmp_path) and "verdict SHIP" in said
    assert weights(tmp_path) == weights(undisturbed)


@full
def test_stop_and_resume(slurm: None, tmp_path: Path, recipe: Path, undisturbed: Path) -> None:  # noqa: F811
    tmp_path = tmp_path / ODD
    submitted = bessemer(tmp_path, "run", str(recipe), "--on", "slurm:small", "--time", "30")
    assert submitted.returncode == 0 and f"job {job_of(tmp_path)} submitted" in submitted.stderr
    until(reached(tmp_path, 20))
    stopped = bessemer(tmp_path, "runs", "stop", "story")
    assert stopped.returncode == 0 and "stopped at step" in stopped.stdout, stopped.stderr
    until(lambda: state_of(tmp_path) == "stopped")  # the job is gone, too
    resumed = bessemer(tmp_path, "runs", "resume", "story")
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "runs/story/slurm.log").exists()
    assert weights(tmp_path) == weights(undisturbed)


@full
def test_a_waiting_job_is_cancelled_and_a_cancelled_one_stays_so(
    slurm: None,  # noqa: F811
    tmp_path: Path,
    recipe: Path,
) -> None:
    subprocess.run(["scontrol", "update", "PartitionName=small", "State=DOWN"], check=True)
    held = bessemer(tmp_path, "run", str(recipe), "--on", "slurm:small")
    assert held.returncode == 0 and state_of(tmp_path) == "queued", held.stderr
    twice = bessemer(tmp_path, "run", str(recipe), "--on", "slurm:small")
    assert twice.returncode == 4 and "in Slurm's queue already" in twice.stderr
    assert bessemer(tmp_path, "runs", "stop", "story").returncode == 0
    until(lambda: state_of(tmp_path) == "planned")
    subprocess.run(["scontrol", "update", "PartitionName=small", "State=UP"], check=True)
    bessemer(tmp_path, "run", str(recipe), "--on", "slurm:small")
    until(reached(tmp_path, 10))
    subprocess.run(["scancel", job_of(tmp_path)], check=True)
    until(lambda: state_of(tmp_path) in {"stopped", "interrupted"})


@full
def test_slurm_refuses(slurm: None, tmp_path: Path, recipe: Path) -> None:  # noqa: F811
    refused = bessemer(tmp_path, "run", str(recipe), "--on", "slurm:nowhere")
    assert refused.returncode == 4 and "Slurm refused the job" in refused.stderr


def test_a_slurm_that_does_not_answer_has_not_forgotten_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm_module.time, "sleep", lambda _: None)
    with pytest.raises(BessemerError, match="Slurm does not say what became of job 7"):
        slurm_module.job_state("7")
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2\nexit 1\n")
    assert slurm_module.job_state("7") == ""


def test_a_job_that_finishes_nothing_does_not_go_back_into_the_queue_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script as bash runs it, with a command that is told to stop each time before it finished anything."""
    home, calls = tmp_path / ODD, tmp_path / "calls"
    monkeypatch.setenv("BESSEMER_HOME", str(home))
    folder = home / "runs" / "story"
    folder.mkdir(parents=True)
    calls.touch()
    for name, does in (("squeue", "echo RUNNING"), ("scontrol", f"echo requeued >> {calls}")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "command").write_text('kill -TERM $PPID; sleep 0.3; sh -c "$1"; exit 130\n')
    script = slurm_module.make_script("story", Place("slurm", "small", 1)).splitlines()
    (at,) = (n for n, line in enumerate(script) if line.endswith(" &"))

    def job(does: str = "true") -> str:
        script[at] = f"bash {shlex.quote(str(tmp_path / 'command'))} {shlex.quote(does)} &"
        done = subprocess.run(["bash", "-c", "\n".join(script)], capture_output=True, text=True, check=False)
        assert done.returncode == 130
        return done.stderr

    step = folder / "01-cpt" / "step-000010"
    finishes = f"mkdir -p {shlex.quote(str(step))}; touch {shlex.quote(str(step / 'manifest.json'))}"
    said = [job(does) for does in ("true", "true", finishes, "true", "true", "true")]
    assert len(calls.read_text().splitlines()) == 5
    assert ["3 times in a row" in text for text in said] == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("squeue", "scontrol", "requeued", "said"),
    [
        ('[ -e "$0.asked" ] || { touch "$0.asked"; exit 1; }; echo RUNNING', "echo requeued >> $CALLS", 1, ""),
        ("echo RUNNING", "echo tried >> $CALLS; exit 1", 2, "Slurm took the job back into no queue"),
        ("echo CANCELLED", "echo requeued >> $CALLS", 0, ""),
    ],
)
def test_a_busy_slurm_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squeue: str, scontrol: str, requeued: int, said: str
) -> None:
    """And a request to stop that a beginning run takes away is made again."""
    home, calls = tmp_path / ODD, tmp_path / "calls"
    monkeypatch.setenv("BESSEMER_HOME", str(home))
    monkeypatch.setenv("CALLS", str(calls))
    folder = home / "runs" / "story"
    folder.mkdir(parents=True)
    calls.touch()
    for name, does in (("squeue", squeue), ("scontrol", scontrol)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    stop = shlex.quote(str(folder / STOP))
    waits = f"for i in $(seq 100); do [ -e {stop} ] && exit 130; sleep 0.1; done"
    command = f"kill -TERM $PPID; sleep 0.5; rm -f {stop}; {waits}"
    script = slurm_module.make_script("story", Place("slurm", "small", 1)).splitlines()
    (at,) = (n for n, line in enumerate(script) if line.endswith(" &"))
    script[at] = f"bash -c {shlex.quote(command)} &"
    done = subprocess.run(["bash", "-c", "\n".join(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 130, done
    assert len(calls.read_text().splitlines()) == requeued and said in done.stderr


def test_who_submits_again_has_looked_at_what_ended_it(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 7\n")
    (tmp_path / "sbatch").chmod(0o755)
    recipe = load_recipe(write_story(tmp_path / "story", tiny_model))
    idle = tmp_path / "home" / "runs" / "story" / IDLE
    for _ in range(2):
        assert slurm_module.submit(recipe, Place("slurm", "small", 1), Screen(quiet=True)) == "7"
        assert not idle.exists()
        idle.write_text("3")


def test_the_script_survives_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the trap does is run by bash: the file that asks for a stop is made."""
    home = tmp_path / ODD
    monkeypatch.setenv("BESSEMER_HOME", str(home))
    (home / "runs" / "story").mkdir(parents=True)
    lines = slurm_module.make_script("story", Place("slurm", "small", 1)).splitlines()
    (stop,), (trap,) = ([x for x in lines if x.startswith(word)] for word in ("stop=", "trap "))
    subprocess.run(["bash", "-c", f"{stop}\n{trap}\nkill -TERM $$\nwait"], check=True)
    assert (home / "runs" / "story" / "stop").exists()
    assert subprocess.run(["bash", "-n"], input="\n".join(lines), text=True, check=False).returncode == 0
