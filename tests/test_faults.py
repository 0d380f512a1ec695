"""Faults of the real world, done to the real command: kills at random moments, damage, a folder that shuts, clocks.

Finer cases stand beside the code they are about (tests/train, tests/launch, tests/data); these are about the whole.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.story import write_story
from tests.test_run import COMMAND, bessemer, environment, weights_digest

KILLS = 50
LONG = ("--set", "stages[0].tokens=40k", "--set", "sources.own.max_epochs=99", "--set", "sources.general.max_epochs=99")
OFTEN = ("--set", "checkpoint_every=0.01", "--set", "probe_every=0.05")


@pytest.mark.full
def test_fifty_kills_end_in_the_bytes_of_an_undisturbed_run(tmp_path: Path, tiny_model: Path) -> None:
    """kill -9 at random moments, a checkpoint every ten steps, so some kills fall into saves."""
    recipe = write_story(tmp_path / "story", tiny_model)
    command = ["run", str(recipe), *LONG, *OFTEN]
    assert bessemer(tmp_path / "straight", *command).returncode == 0
    rng, kills, home = random.Random(4), 0, 0
    while kills < KILLS:
        home += 1
        while not finished_in_time(tmp_path / f"home-{home}", command, rng):
            kills += 1
        assert weights_digest(tmp_path / f"home-{home}") == weights_digest(tmp_path / "straight")


def finished_in_time(home: Path, command: list[str], rng: random.Random) -> bool:
    """Start the command and kill it after some seconds (imports take the first ones); whether it had finished."""
    process = subprocess.Popen(
        [*COMMAND, *command], env=environment(home), stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        assert process.wait(timeout=rng.uniform(1, 4) if rng.random() < 0.2 else rng.uniform(5, 9)) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    return True


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[list[str], str]:
    """(a command, the digest of the weights that it makes when nothing happens)."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = ["run", str(write_story(folder / "story", tiny_model)), "--set", "checkpoint_every=0.01"]
    assert bessemer(folder / "home", *command).returncode == 0
    return command, weights_digest(folder / "home")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, undisturbed: tuple[list[str], str]) -> Path:
    """The home of a run that was killed in its second stage."""
    home = tmp_path_factory.mktemp("killed") / "home"
    process = subprocess.Popen([*COMMAND, *undisturbed[0]], env=environment(home), stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(home.glob("runs/story/02-sft/step-*/manifest.json")):
        time.sleep(0.005)
    process.kill()
    process.wait()
    return home


@pytest.mark.parametrize("kind", ["weights", "checkpoint", "measured", "plan", "metrics"])
def test_damage_to_a_killed_run_is_found_or_harmless(
    tmp_path: Path, undisturbed: tuple[list[str], str], killed: Path, kind: str
) -> None:
    """Never a wrong result: the run ends in the right bytes, or refuses and names the file."""
    (command, right), home = undisturbed, tmp_path / "home"
    shutil.copytree(killed, home, symlinks=True)
    run = home / "runs" / "story"
    if kind == "plan":
        text = (run / "plan.lock.json").read_text()
        (run / "plan.lock.json").write_text(text[: len(text) // 2])
    elif kind == "metrics":
        (run / "metrics.jsonl").open("a").write('{"event": "st')  # a line cut off by a kill
    else:
        pattern = {
            "weights": "01-cpt/weights.safetensors",
            "checkpoint": "02-sft/step-*/part-*",
            "measured": "measured/before.json",
        }
        found = sorted(run.glob(pattern[kind]))
        data = bytearray(found[-1].read_bytes())
        data[len(data) // 2] ^= 1
        found[-1].write_bytes(data)
    again = bessemer(home, *command)
    if again.returncode == 0:
        assert weights_digest(home) == right
    else:
        assert again.returncode == 4 and "Traceback" not in again.stderr
        assert str(run) in again.stderr
    if kind in {"metrics", "checkpoint"}:
        assert again.returncode == 0, again.stderr
    if kind in {"weights", "plan", "measured"}:
        assert again.returncode == 4, again.stderr


def test_a_clock_that_jumps_changes_no_duration(tmp_path: Path, tiny_model: Path) -> None:
    """Durations come from the monotonic clock: no source file of the loop asks the wall clock for one."""
    root = Path(__file__).parents[1] / "src" / "bessemer"
    launchers = ("launch/group.py", "launch/worker.py", "launch/slurm.py", "launch/processes.py")
    for name in ("train/loop.py", "train/checkpoint.py", "track/screen.py", "run.py", *launchers):
        assert not re.search(r"\btime\.time\b|from time import|datetime\.now", (root / name).read_text()), name


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_spent(tmp_path: Path, tiny_model: Path) -> None:
    recipe = write_story(tmp_path / "story", tiny_model)
    (tmp_path / "home").write_text("a file where a folder should be")
    done = bessemer(tmp_path / "home", "run", str(recipe), "--json")
    assert done.returncode == 4 and "cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert json.loads(done.stdout)["error"]["where"].startswith(str(tmp_path / "home"))
