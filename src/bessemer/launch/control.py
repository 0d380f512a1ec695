"""Runs that are going on, seen from another process: which, how far, stop, logs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.files import lock_holder, read_json
from bessemer.launch import slurm
from bessemer.track.metrics import read_metrics
from bessemer.track.runs import (
    DONE,
    LOG,
    METRICS,
    PLAN,
    STOP,
    WORKERS_LOG,
    describe_run,
    lock_path,
    run_folder,
)

POLL_S = 0.3
QUEUE_S = 15.0  # between questions to Slurm while a job waits


def glance(name: str) -> dict[str, Any]:
    """`describe_run`, with `queued` for a run whose job waits."""
    run = describe_run(run_folder(name))
    waits = run["job"] and run["state"] not in {"running", "finished"} and slurm.queued(Path(run["folder"]))
    return {**run, "state": "queued"} if waits else run


def look(name: str) -> dict[str, Any]:
    """`glance`, and the steps of each stage."""
    return {**glance(name), "stages": _stages(run_folder(name))}


def _stages(folder: Path) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {
        stage["name"]: {"name": stage["name"], "steps": stage["steps"], "step": 0, "loss": None, "done": False}
        for stage in read_json(folder / PLAN)["stages"]
    }
    for event in read_metrics(folder / METRICS):
        if event["event"] == "step":
            found[event["stage"]] |= {"step": event["step"], "loss": event["loss"]}
    return [stage | {"done": (folder / name / DONE).exists()} for name, stage in found.items()]


def stop(name: str) -> dict[str, Any]:
    """Ask a run to checkpoint and stop, wait for it, and return `look`. A job that still waits is cancelled.

    The request is a file in the run's folder, so it reaches a run on any machine that shares it.
    Raises BessemerError when the run is not going on.
    """
    folder, run = run_folder(name), look(name)
    if run["state"] == "queued":
        slurm.cancel(run["job"])
    elif run["state"] == "running":
        while lock_holder(lock_path(name)):
            with contextlib.suppress(FileNotFoundError):  # `--restart` begins with a new folder
                (folder / STOP).touch()  # again and again: one that begins takes the requests of before away
            time.sleep(POLL_S)
        if (run := glance(name))["state"] == "queued":  # it was being submitted
            slurm.cancel(run["job"])
    else:
        raise BessemerError(f"run {name!r} is not going on: {run['state']}", where=str(folder), fix="bessemer runs")
    return look(name)


def logs(name: str, *, follow: bool = False) -> Iterator[str]:
    """Lines of the run's log, of Slurm's and of every worker's; a heading where the file changes.

    follow: wait for more for as long as the run is going on or its job waits.
    """
    folder = run_folder(name)
    read: dict[Path, int] = {}
    last: Path | None = None
    ended, again, state = not follow, 0.0, "queued"
    while True:
        if follow and time.monotonic() >= again:
            state = _state_of(name, state)
            ended = state not in {"running", "queued"}
            again = time.monotonic() + (QUEUE_S if state == "queued" else POLL_S)  # Slurm is asked each time
        for path in (folder / LOG, folder / "slurm.log", *sorted(folder.glob(f"*/{WORKERS_LOG}"))):
            lines, read[path] = _lines_from(path, read.get(path, 0))
            if lines and path != last:
                last = path
                yield f"== {path.relative_to(folder)}"
            yield from lines
        if ended:
            return
        time.sleep(POLL_S)


def _state_of(name: str, before: str) -> str:
    """Where it cannot be learned (Slurm's controller changes, a shared disk hangs) it is what it was.

    Raises BessemerError for what no waiting mends: a run that was removed, a damaged file.
    """
    try:
        return str(glance(name)["state"])
    except (BessemerError, OSError) as error:
        if isinstance(error, BessemerError) and error.where != slurm.SILENT:
            raise
        return before


def _lines_from(path: Path, offset: int) -> tuple[list[str], int]:
    if not path.exists():
        return [], 0
    with path.open("rb") as file:
        file.seek(offset if offset <= path.stat().st_size else 0)
        new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        return whole.decode(errors="replace").splitlines(), file.tell() - len(new) + len(whole)
