"""Where a stage runs: datatrove's executors, here, on Slurm or on Ray. Tasks and results are the same everywhere.

A task that is done leaves a marker and is skipped the next time. On a cluster, BESSEMER_HOME must be a folder that all
machines share.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from datatrove.executor.base import PipelineExecutor
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from bessemer.data.curate.parts import FULL_DISK
from bessemer.errors import EXIT_CODES, BessemerError
from bessemer.files import write_json

logger.disable("datatrove")  # its story of every task; errors are raised, and counts are in the records

TASK_TIME = "04:00:00"  # Slurm's limit for one task
POLL_S = 1.0
FORGOTTEN_POLLS = 10  # so often a job may be gone from the queue while markers are still on their way to this machine


@dataclass(frozen=True)
class Place:
    """`local`, `slurm`, `slurm:PARTITION`, `ray` or `ray://HEAD`; workers: tasks at a time, None: as many as fit."""

    kind: str
    target: str
    workers: int | None

    @staticmethod
    def parse(text: str, workers: int | None) -> Place:
        kind, _, target = text.partition(":")
        if kind not in {"local", "slurm", "ray"} or (kind == "local" and target):
            raise BessemerError(
                f"{text!r} is no place to run", where="--on", fix="local, slurm[:PARTITION] or ray[://HEAD:PORT]"
            )
        if workers is not None and workers < 1:
            raise BessemerError(f"{workers} workers can do nothing", where="--workers", fix="1 or more")
        return Place(kind, target, workers)


class _Reporting(PipelineExecutor):
    """Leaves the user's mistake where the one who waits can read it: a cluster only tells that a task failed."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        try:
            return super()._run_for_rank(rank, local_rank, node_rank)
        except OSError as error:
            self._tell(rank, told := BessemerError(f"writing failed ({error.strerror})", fix=FULL_DISK))
            raise told from error
        except BessemerError as error:
            self._tell(rank, error)
            raise

    def _tell(self, rank: int, error: BessemerError) -> None:
        path = Path(str(self.logging_dir.resolve_paths("errors"))) / f"{rank:05d}.json"
        with contextlib.suppress(OSError):  # the disk may be full
            write_json(path, {"what": error.what, "where": error.where, "fix": error.fix})


class _Here(_Reporting, LocalPipelineExecutor):
    """Processes of this machine, one a task. Unlike in a pool, a killed one is an error instead of an endless wait."""

    advance: Callable[[float, str], None] | None = None

    def run(self) -> None:
        ranks = self.get_incomplete_ranks()
        advance, self.advance = self.advance or (lambda share, note: None), None  # not for other processes
        if self.workers == 1 or len(ranks) == 1:
            steps = self.pipeline
            for rank in ranks:
                self.pipeline = deepcopy(steps)
                self._run_for_rank(rank)
                advance(1 / len(ranks), "")
            return
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["bessemer.data.curate.prepare"])  # imported once, not once a task
        waiting, running = ranks[::-1], dict[int, BaseProcess]()
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    process = context.Process(target=_task, args=(self, waiting.pop()))
                    process.start()
                    running[process.sentinel] = process
                for sentinel in connection.wait(list(running)):
                    process = running.pop(int(sentinel))  # type: ignore[arg-type]
                    process.join()
                    if process.exitcode == EXIT_CODES["user"]:
                        return  # the mistake is written down
                    _check(process.exitcode)
                    advance(1 / len(ranks), "")
        finally:
            for process in running.values():
                process.terminate()
                process.join()


def _task(executor: _Here, rank: int) -> None:
    """What a process of this machine does. It ends with its parent, also when that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = os.getppid()  # the fork server, which ends with the command

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(EXIT_CODES["internal"])

    threading.Thread(target=watch, daemon=True).start()
    try:
        executor._run_for_rank(rank)  # pyright: ignore[reportPrivateUsage]
    except BessemerError:
        sys.exit(EXIT_CODES["user"])


def _check(exitcode: int | None) -> None:
    if exitcode and exitcode < 0:
        raise BessemerError(
            f"a worker was killed (signal {-exitcode}), most often for lack of memory",
            fix="run the same command again with fewer --workers; finished tasks are skipped",
        )
    if exitcode:
        raise RuntimeError("a task failed; its traceback stands above")


class _OnSlurm(_Reporting, SlurmPipelineExecutor):
    """A job array; waits until it is done."""

    def launch_merge_stats(self) -> None:
        """Nothing: the records of the tasks are merged by the one who waits."""

    def run(self) -> None:
        try:
            super().run()
        except (OSError, subprocess.CalledProcessError) as error:
            fix = "Slurm's own words stand above; --on slurm:PARTITION names another partition"
            raise BessemerError(f"Slurm refused the job ({error})", where="--on", fix=fix) from None
        if "SLURM_ARRAY_TASK_ID" in os.environ or self.job_id in {None, -1}:
            return
        gone = 0
        try:
            while self.get_incomplete_ranks() and gone < FORGOTTEN_POLLS:
                time.sleep(POLL_S)
                gone = 0 if self._in_queue() else gone + 1
        except BaseException:  # nobody waits any more: the next command would submit the same tasks again
            subprocess.run(["scancel", str(self.job_id)], check=False)  # noqa: S607 - the cluster's own command
            raise

    def _in_queue(self) -> bool:
        asked = subprocess.run(
            ["squeue", "--noheader", "--jobs", str(self.job_id)],  # noqa: S607 - the cluster's own command
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode and "Invalid job id" not in asked.stderr:
            return True  # a busy controller knows no better
        return bool(asked.stdout.strip())


class _OnRay(_Reporting, RayPipelineExecutor):
    pass


def run_stage(
    name: str,
    pipeline: Sequence[PipelineStep],
    n_tasks: int,
    logs: Path,
    place: Place,
    advance: Callable[[float, str], None] | None = None,
) -> None:
    """Run all unfinished tasks of a stage and wait. Raises BessemerError when one failed; the others stay finished."""
    folder = logs / name
    shutil.rmtree(folder / "errors", ignore_errors=True)
    executor = _executor(name, list(pipeline), n_tasks, str(folder), place)
    if isinstance(executor, _Here):
        executor.advance = advance
    _run(executor, place)
    if missing := executor.get_incomplete_ranks():
        told = sorted((folder / "errors").glob("*.json"))
        if told:
            raise BessemerError(**json.loads(told[0].read_text()))
        raise BessemerError(
            f"{len(missing)} of {n_tasks} tasks of stage {name!r} did not finish",
            where=str(folder),
            fix="see the logs there; the same command does only what is missing",
        )


def _executor(name: str, pipeline: list[Any], n_tasks: int, logs: str, place: Place) -> PipelineExecutor:
    if place.kind == "local":
        workers = place.workers or len(os.sched_getaffinity(0))
        return _Here(pipeline, tasks=n_tasks, workers=workers, logging_dir=logs)
    workers = place.workers or -1
    if place.kind == "ray":
        return _OnRay(pipeline, tasks=n_tasks, workers=workers, logging_dir=logs)
    path = f"export PATH={Path(sys.executable).parent}:$PATH"
    return _OnSlurm(
        pipeline,
        tasks=n_tasks,
        time=TASK_TIME,
        partition=place.target or _default_partition(),
        workers=workers,
        job_name=f"bessemer-{name}",
        qos="",
        env_command=path,
        logging_dir=logs,
    )


def _run(executor: PipelineExecutor, place: Place) -> None:
    if place.kind != "ray":
        executor.run()
        return
    import ray  # pyright: ignore[reportMissingImports]

    with contextlib.suppress(RuntimeError):  # already connected
        ray.init(
            address=f"ray:{place.target}" if place.target else None, log_to_driver=False, logging_level=logging.ERROR
        )
    try:
        executor.run()
    finally:
        ray.shutdown()


def _default_partition() -> str:
    """The cluster's default, marked by Slurm with a star."""
    try:
        asked = subprocess.run(
            ["sinfo", "--noheader", "--format=%P"],  # noqa: S607 - the cluster's own command
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise BessemerError(
            f"Slurm cannot be asked ({error})", where="--on", fix="run this on a machine of the cluster"
        ) from None
    names = asked.stdout.split()
    starred = [n.removesuffix("*") for n in names if n.endswith("*")]
    if not (starred or names):
        raise BessemerError("Slurm has no partition", where="--on", fix="--on slurm:PARTITION")
    return (starred or names)[0]
