"""A stage trained by a worker of its own: killed, hung, stopped, orphaned; the same weights each time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.runs import begin, bessemer, log, reached, until, weights, worker_of
from tests.story import write_story

ON = ("--on", "local:1")


def state(home: Path) -> dict[str, str]:
    return json.loads(bessemer(home, "runs", "show", "story", "--json").stdout)


def finish(home: Path, recipe: Path, undisturbed: Path, *options: str) -> None:
    done = bessemer(home, "run", str(recipe), *options)
    assert done.returncode == 0, done.stderr
    assert weights(home) == weights(undisturbed)


@pytest.mark.full
def test_kill_minus_nine_of_a_worker_is_repaired(tmp_path: Path, recipe: Path, undisturbed: Path) -> None:
    run = begin(tmp_path, "run", str(recipe), *ON)
    until(reached(tmp_path, 20), run)
    os.kill(until(lambda: worker_of(run), run), signal.SIGKILL)
    _, said = run.communicate()
    assert run.returncode == 0, said
    assert "the workers failed (killed by signal 9): all are started again after step" in said
    assert weights(tmp_path) == weights(undisturbed)


@pytest.mark.full
def test_a_worker_that_hangs_is_found_out(tmp_path: Path, recipe: Path, undisturbed: Path) -> None:
    run = begin(tmp_path, "run", str(recipe), *ON, BESSEMER_HUNG_AFTER="15")
    until(reached(tmp_path, 20), run)
    os.kill(until(lambda: worker_of(run), run), signal.SIGSTOP)
    _, said = run.communicate()
    assert run.returncode == 0 and "no sign of life for" in said, said
    assert "train_stage" in (tmp_path / "runs/story/01-cpt/workers.log").read_text()
    assert weights(tmp_path) == weights(undisturbed)


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_a_checkpoint(tmp_path: Path, recipe: Path, undisturbed: Path, number: int) -> None:
    run = begin(tmp_path, "run", str(recipe), *ON)
    until(reached(tmp_path, 15), run)
    run.send_signal(number)
    _, said = run.communicate()
    assert run.returncode == 130 and "01-cpt: stopped at step" in said and "Traceback" not in said, said
    assert list((tmp_path / "runs/story/01-cpt").glob("step-*/manifest.json"))
    assert state(tmp_path)["state"] == "stopped"
    finish(tmp_path, recipe, undisturbed, *ON)


@pytest.mark.full
def test_a_second_signal_stops_at_once(tmp_path: Path, recipe: Path, undisturbed: Path) -> None:
    run = begin(tmp_path, "run", str(recipe), *ON)
    worker = until(lambda: reached(tmp_path, 15)() and worker_of(run), run)
    os.kill(worker, signal.SIGSTOP)  # it cannot answer the first request
    run.send_signal(signal.SIGTERM)
    until(lambda: "stopping: a checkpoint" in log(tmp_path), run)
    run.send_signal(signal.SIGTERM)
    assert run.wait() == 130
    until(lambda: not Path(f"/proc/{worker}").exists())
    finish(tmp_path, recipe, undisturbed)  # in this process: where it was trained does not matter


@pytest.mark.full
def test_the_supervisor_is_killed(tmp_path: Path, recipe: Path, undisturbed: Path) -> None:
    run = begin(tmp_path, "run", str(recipe), *ON)
    worker = until(lambda: reached(tmp_path, 20)() and worker_of(run), run)
    run.kill()
    run.wait()
    until(lambda: not Path(f"/proc/{worker}").exists())
    assert state(tmp_path)["state"] == "interrupted"
    finish(tmp_path, recipe, undisturbed, *ON)
    assert "continues after step" in log(tmp_path)


@pytest.mark.full
def test_stop_and_resume_from_another_process(tmp_path: Path, recipe: Path, undisturbed: Path) -> None:
    run = begin(tmp_path, "run", str(recipe), *ON)
    worker = until(lambda: reached(tmp_path, 15)() and worker_of(run), run)
    os.kill(worker, signal.SIGSTOP)  # it shall not be done before it is asked to stop
    running = state(tmp_path)
    assert running["state"] == "running" and f"pid {run.pid} on" in running["holder"]
    second = bessemer(tmp_path, "run", str(recipe), *ON)
    assert second.returncode == 4 and f"pid {run.pid}" in second.stderr
    asking = begin(tmp_path, "runs", "stop", "story", "--json")
    until((tmp_path / "runs/story/stop").exists, asking)
    os.kill(worker, signal.SIGCONT)
    told = json.loads(asking.communicate()[0])
    assert told["state"] == "stopped" and f"step {told['why']['step']} of" in told["why"]["what"]
    assert run.wait() == 130
    again = bessemer(tmp_path, "runs", "stop", "story")
    assert again.returncode == 4 and "not going on: stopped" in again.stderr
    follower = begin(tmp_path, "runs", "logs", "story", "-f")
    resumed = bessemer(tmp_path, "runs", "resume", "story", "--on", "local:1", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["release"] == "story@1"
    follower.communicate()
    text = bessemer(tmp_path, "runs", "logs", "story").stdout
    assert "== log.txt" in text and "== 01-cpt/workers.log" in text and "probe at 01-cpt" in text
    listed = json.loads(bessemer(tmp_path, "runs", "--json").stdout)
    assert [(r["name"], r["state"], r["verdict"]) for r in listed] == [("story", "finished", "SHIP")]
    assert weights(tmp_path) == weights(undisturbed)


def test_a_worker_refuses_another_plan_and_the_run_tells_why(tmp_path: Path, tiny_model: Path) -> None:
    """Data that changes between the plan and the worker's start: no second try, the same words as anywhere."""
    own = write_story(tmp_path / "own", tiny_model, name="moving")
    home = tmp_path / "home"
    assert bessemer(home, "plan", str(own), "--no-measure").returncode == 0
    (home / "runs/moving/01-cpt").mkdir()
    data = own.parent / "own.jsonl"
    data.write_text(data.read_text() + '{"text": "one more row"}\n')
    worker = subprocess.run(
        [sys.executable, "-m", "bessemer.launch.worker", "moving", "1"],
        env=os.environ | {"BESSEMER_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads((home / "runs/moving/01-cpt/error.json").read_text())
    assert worker.returncode == 4 and "does not arrive at the run's plan" in told["what"] and not told["retry"]
    assert "sources.own.items: 200 -> 201" in told["what"]
