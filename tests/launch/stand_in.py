"""A worker of a few lines: `stand_in.py FOLDER STAGE_FOLDER PLAY...`. It leaves what a real one leaves.

PLAY says what each start of it does, one letter a start: d done, c checkpoint then crash, x crash, o an error of ours,
r an error that may go away, h hang, s wait until asked to stop, w wait for ever, b stopped says one process of a group
and an error of ours another one.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from pathlib import Path

from bessemer.launch.bind import die_with_parent


def hang_here() -> None:
    while True:
        time.sleep(1000)


def _asked(run: Path) -> bool:
    while not (run / "stop").exists():
        time.sleep(0.02)
    return True


def _wait_for_the_others(stage: Path, n: int) -> None:
    """One that crashes before another one has come up would leave no trace of the other's start."""
    last = time.monotonic() + 60
    for rank in range(int(os.environ.get("WORLD_SIZE", "1"))):
        path = stage / f"starts-{rank}"
        while not path.exists() or len(path.read_text().split()) < n:
            assert time.monotonic() < last, f"process {rank} has not come up {n} times"
            time.sleep(0.01)


def main(run: Path, stage: Path, play: str) -> None:
    die_with_parent(os.getppid())
    rank = os.environ.get("RANK", "0")
    faulthandler.register(signal.SIGUSR1, (stage / "workers.log").open("a"), all_threads=True)
    starts = stage / f"starts-{rank}"
    starts.write_text((starts.read_text() if starts.exists() else "") + f"{os.getpid()}\n")
    n = len(starts.read_text().split())
    _wait_for_the_others(stage, n)
    act = play[min(n, len(play)) - 1]
    if rank == "0":
        with (stage / "said.jsonl").open("a") as said, (run / "metrics.jsonl").open("a") as metrics:
            said.write(json.dumps(f"start {n}") + "\n")
            metrics.write(json.dumps({"event": "step", "stage": stage.name, "step": n, "loss": 1.5}) + "\n")
        if act == "d":
            (stage / "done.json").write_text("{}")
        if act == "c":
            (stage / f"step-{n:07d}").mkdir()
            (stage / f"step-{n:07d}" / "manifest.json").write_text("{}")
    if act in "cx":
        if rank == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        hang_here()  # until the group is killed because of the first one
    if act in "sb" and (act == "b" or _asked(run)):
        told = {"step": n, "what": f"stopped at step {n}", "where": stage.name, "fix": "again"}
        (stage / "stopped.json").write_text(json.dumps(told))
    if act in "orb":
        told = {"what": "no bread", "where": "bakery", "fix": "bake", "problems": [], "retry": act == "r"}
        (stage / "error.json").write_text(json.dumps(told))
        sys.exit(1)
    if act in "hw":
        hang_here()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
