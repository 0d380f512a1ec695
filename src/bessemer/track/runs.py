"""Where runs live and what stands in their folders; light, so that listing them loads no torch."""

from __future__ import annotations

import contextlib
import errno
import json
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError, StoppedByUserError
from bessemer.files import exclusive, home, lock_holder, write_json
from bessemer.track.metrics import last_step

PLAN = "plan.lock.json"
METRICS = "metrics.jsonl"
LOG = "log.txt"  # what was said
STOP = "stop"  # while it is there, whoever trains checkpoints and stops; on a shared disk it reaches every machine
IDLE = "idle"  # how often Slurm's time limit came before anything was finished
JOB = "job.json"  # the cluster's job that tells the story
BEGUN = "begun.json"  # when the run began, and which seals stood there
DONE = "done.json"  # in a stage's folder: finished
STOPPED = "stopped.json"  # in a run's or a stage's folder: ended by a request, at a checkpoint
ERROR = "error.json"  # there too: ended by an error
SAID = "said.jsonl"  # in a stage's folder: lines that a worker wants said
LEFTOVER_S = 60.0  # until workers that outlived their supervisor have noticed it
WORKERS_LOG = "workers.log"  # there too: what the workers' processes wrote
PAPERS = {
    PLAN,
    LOG,
    STOP,
    IDLE,
    JOB,
    STOPPED,
    ERROR,
    "job.sbatch",
    "slurm.log",
    "trackers",
}  # a run with these alone has not begun


def runs_folder() -> Path:
    return home() / "runs"


def lock_path(name: str) -> Path:
    """Held by the process that tells the run's story, for as long as it lives."""
    return runs_folder() / f".{name}.lock"


def run_folder(name: str) -> Path:
    """The folder of a run that has a plan. Raises BessemerError when there is none."""
    folder = runs_folder() / name
    if not (folder / PLAN).exists():
        raise BessemerError(f"there is no run {name!r}", fix=f"runs: {', '.join(run_names()) or 'none'}")
    return folder


def newest_step(folder: Path) -> int:
    """Step of the newest complete checkpoint (its manifest is written last) of a stage, or of a run's stage that is not
    finished; 0: there is none."""
    found = [p.parent for p in folder.rglob("step-*/manifest.json") if not (p.parents[1] / DONE).exists()]
    return max((int(p.name.partition("-")[2]) for p in found), default=0)


def is_begun(folder: Path) -> bool:
    """Whether a run has more than its plan; a file that was being written when its process was killed is nothing."""
    return any(p.name not in PAPERS and not p.name.startswith(".tmp-") for p in folder.iterdir())


@contextlib.contextmanager
def ending(folder: Path) -> Generator[None]:
    """While work goes on in a folder: when it ends early, stopped.json or error.json say why, for other processes."""
    forget_ending(folder)
    try:
        yield
    except BaseException as error:
        tell_ending(folder, error)
        raise


def alone(stage_folder: Path) -> contextlib.AbstractContextManager[None]:
    """Only one process, or group of processes, at a time writes into a stage. One that outlived its supervisor ends by
    itself, and is waited for."""
    stage_folder.mkdir(parents=True, exist_ok=True)
    lock, until = stage_folder / ".lock", time.monotonic() + LEFTOVER_S
    while lock_holder(lock) and time.monotonic() < until:
        time.sleep(0.1)
    return exclusive(lock, f"stage {stage_folder.name}")


def forget_ending(folder: Path) -> None:
    for name in (STOPPED, ERROR):
        (folder / name).unlink(missing_ok=True)


def tell_ending(folder: Path, error: BaseException) -> None:
    """Write stopped.json or error.json. `retry`: whether the same command may do better when tried again."""
    with contextlib.suppress(OSError):  # the disk may be full, which is perhaps the error
        _tell_ending(folder, error)


def _tell_ending(folder: Path, error: BaseException) -> None:
    if isinstance(error, (StoppedByUserError, KeyboardInterrupt)):
        told = error if isinstance(error, BessemerError) else BessemerError("stopped at once")
        write_json(folder / STOPPED, {"step": newest_step(folder), **told.fields()})
    elif isinstance(error, BessemerError):
        write_json(folder / ERROR, {**error.fields(), "retry": False})
    elif isinstance(error, Exception) and not (folder / ERROR).exists():  # the first of several workers knows best
        fields = BessemerError(f"{type(error).__name__}: {error}").fields()
        write_json(folder / ERROR, {**fields, "retry": True})


def describe_run(folder: Path) -> dict[str, Any]:
    """Name, state, last step, verdict, release, holder, job and last words of a run.

    state: planned, running, stopped, failed, interrupted (killed: the same command continues) or finished.
    """
    step = last_step(folder / METRICS)
    papers = {name: _read_if_there(folder / name) for name in ("result.json", STOPPED, ERROR, JOB)}
    told = {name: paper for name, paper in papers.items() if paper is not None}
    result = told.get("result.json", {})
    holder = lock_holder(lock_path(folder.name))
    begun = is_begun(folder)
    states = {
        "running": holder is not None,
        "finished": bool(result),
        "stopped": STOPPED in told,
        "failed": ERROR in told,
        "interrupted": begun,
        "planned": True,
    }
    state = next(name for name, holds in states.items() if holds)
    why = told.get({"stopped": STOPPED, "failed": ERROR}.get(state, ""), {})
    return {
        "name": folder.name,
        "state": state,
        "last": f"{step['stage']} step {step['step']}" if step else "",
        "verdict": result.get("verdict", ""),
        "release": result.get("release") or "",
        "folder": str(folder),
        "holder": holder or "",
        "job": told.get(JOB, {}).get("job", ""),
        "why": why,
    }


def run_names() -> list[str]:
    """Of every run that has a plan, sorted."""
    names = (path.parent.name for path in runs_folder().glob(f"*/{PLAN}"))
    return sorted(name for name in names if not name.startswith("."))  # such as what a restart takes away


def _read_if_there(path: Path) -> Any:
    """None where it is not, or no longer: another machine's disk may still list what was removed.

    Raises BessemerError for what is no JSON.
    """
    try:
        return json.loads(path.read_text())
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ESTALE}:
            raise
        return None
    except ValueError as error:
        raise BessemerError(f"no valid JSON ({error})", where=str(path)) from None
