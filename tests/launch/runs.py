"""A long story on the tiny model, its commands as real processes, and waiting for what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "bessemer.cli.main"]
ONE_STAGE = {
    "checkpoint_every": 0.1,
    "stages": [
        {
            "objective": "cpt",
            "mixture": {"own": 0.75, "general": 0.25},
            "tokens": 45_000,
            "lr": 3e-3,
            "row_tokens": 128,
            "rows": 2,
        }
    ],
}


def environment(home: Path, **env: str) -> dict[str, str]:
    return os.environ | {"BESSEMER_HOME": str(home), "OMP_NUM_THREADS": "1"} | env


def bessemer(home: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, env=environment(home, **env)
    )


def begin(home: Path, *arguments: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(home, **env)
    )


def until(condition: Callable[[], Any], process: subprocess.Popen[str] | None = None, *, limit_s: float = 240) -> Any:
    """Wait for something true, and return it; a limit only against waiting for ever."""
    end = time.monotonic() + limit_s
    while not (found := condition()):
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
    return found


def steps(home: Path) -> list[int]:
    """The steps in the metrics of the run `story`."""
    path = home / "runs" / "story" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [e["step"] for e in map(json.loads, (x for x in lines if x.endswith("\n"))) if e["event"] == "step"]


def reached(home: Path, step: int) -> Callable[[], bool]:
    return lambda: step in steps(home)


def weights(home: Path) -> str:
    """sha256 of the finished stage's weights."""
    return json.loads((home / "runs/story/01-cpt/done.json").read_text())["weights_sha256"]


def log(home: Path) -> str:
    return (home / "runs/story/log.txt").read_text()


def worker_of(process: subprocess.Popen[str]) -> int | None:
    """Pid of the worker below a supervisor, once it trains."""
    found = subprocess.run(
        ["/usr/bin/pgrep", "-P", str(process.pid), "-f", "bessemer.launch.worker"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    return int(found[0]) if found else None


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Pids of the ranks that torchrun started below a supervisor."""
    found = subprocess.run(
        ["/usr/bin/pgrep", "-f", "^[^ ]*python[^ ]* -u -m bessemer.launch.worker"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    return sorted(pid for pid in map(int, found) if process.pid in _ancestors(pid))


def _ancestors(pid: int) -> list[int]:
    found: list[int] = []
    try:
        while pid > 1:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            found.append(pid)
    except FileNotFoundError:  # it has just ended
        return []
    return found
