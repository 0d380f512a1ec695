"""A stage trained by a group of worker processes: started, watched, started again as a whole when it fails.

The parts of a group cannot live without each other, and torchrun's own restarts lose jobs after a `kill -9`. So
whatever fails, all of it is killed and a new group continues from the newest checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError, StoppedByUserError
from bessemer.files import read_json
from bessemer.launch.place import Place
from bessemer.launch.processes import dump_stacks, kill_tree
from bessemer.signatures import child_env
from bessemer.track.metrics import Tail
from bessemer.track.runs import (
    DONE,
    ERROR,
    METRICS,
    PLAN,
    SAID,
    STOP,
    STOPPED,
    WORKERS_LOG,
    forget_ending,
    newest_step,
    runs_folder,
)
from bessemer.track.screen import Screen, See
from bessemer.units import show_seconds


def _least_silence_s() -> float:
    said = os.environ.get("BESSEMER_HUNG_AFTER") or "600"
    try:
        return float(said)
    except ValueError:
        raise BessemerError(f"{said!r} is no number of seconds", where="BESSEMER_HUNG_AFTER") from None


@dataclass(frozen=True)
class Patience:
    """When a group hangs, and when to give up."""

    least_silence_s: float = field(default_factory=_least_silence_s)  # it may load a model, compile, save
    slowest: float = 10.0  # and a multiple of the longest silence between two of its signs of life
    failures: int = 3  # at the same checkpoint
    poll_s: float = 0.2


def make_command(place: Place, name: str, number: int) -> list[str]:
    """The command of one group that trains stage `number` (from 1) of a run."""
    job = [name, str(number)]
    if place.kind == "ray":
        options = [place.target, str(place.workers), str(place.cpus), str(int(place.gpus))]
        return [sys.executable, "-m", "bessemer.launch.on_ray", *options, *job]
    worker = ["-m", "bessemer.launch.worker", *job]
    if place.workers == 1:
        return [sys.executable, *worker]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(place.workers)]
    return [sys.executable, *torchrun, *worker]


class Group:
    """Trains the stages of one run elsewhere; `train` is what `run_recipe` wants."""

    def __init__(
        self,
        name: str,
        command: Callable[[int], list[str]],
        screen: Screen,
        stop_asked: Callable[[], bool],
        *,
        threads: int | None = None,
        queues: bool = False,
        patience: Patience | None = None,
    ) -> None:
        """command: of the stage with this number (from 1). threads: of each worker, unless the user says it.

        queues: the place may let a group wait for machines, so nothing counts as hanging before its first sign of life.
        """
        self.folder, self.command = runs_folder() / name, command
        self.screen, self.stop_asked, self.patience = screen, stop_asked, patience or Patience()
        self.queues = queues
        self.env = ({"OMP_NUM_THREADS": str(threads)} if threads else {}) | child_env()

    def train(self, n: int, see: See) -> None:
        """Train stage n (from 0) to its end. see: told of every event of its metrics.

        Raises StoppedByUserError after a checkpoint, BessemerError for an error of ours or when the same step fails
        again and again.
        """
        stage: dict[str, Any] = read_json(self.folder / PLAN)["stages"][n]
        folder = self.folder / stage["name"]
        folder.mkdir(parents=True, exist_ok=True)
        watch = _Watch(folder, self.folder / METRICS, self.screen, see)
        failures, point = 0, -1
        while True:
            what = self._run_once(n + 1, folder, watch)
            if (folder / DONE).exists():
                return
            if (folder / STOPPED).exists() and not (folder / ERROR).exists():
                told = read_json(folder / STOPPED)
                raise StoppedByUserError(told["what"], where=told["where"], fix=told["fix"])
            if (folder / ERROR).exists():
                told = read_json(folder / ERROR)
                if not told["retry"]:
                    raise BessemerError(told["what"], where=told["where"], fix=told["fix"])
                what = told["what"]
            step = newest_step(folder)
            failures, point = (failures + 1 if step == point else 1), step
            again = f"the same command continues after step {step}"
            if self.stop_asked() or (self.folder / STOP).exists():
                raise StoppedByUserError(f"stopped, but the workers wrote no checkpoint: {what}", fix=again)
            if failures == self.patience.failures:
                what = f"the workers failed {failures} times after step {step} of {stage['steps']}, last: {what}"
                raise BessemerError(what, where=str(folder / WORKERS_LOG), fix=f"see there; {again}")
            self.screen.say(f"  the workers failed ({what}): all are started again after step {step}", "yellow")

    def _run_once(self, number: int, folder: Path, watch: _Watch) -> str:
        """Start the group and wait for its end; returns what a failure looks like from outside."""
        forget_ending(folder)
        watch.look()  # what is there already is no sign of life
        command = [sys.executable, "-m", "bessemer.launch.bind", str(os.getpid()), *self.command(number)]
        with (folder / WORKERS_LOG).open("ab") as log:
            log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command[4:])}\n".encode())
            log.flush()
            # A session of its own: Ctrl-C is ours to hear, and workers are asked by the file.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, start_new_session=True
            )
        try:
            return self._wait(process, watch)
        finally:
            kill_tree(process)
            watch.look()

    def _wait(self, process: subprocess.Popen[bytes], watch: _Watch) -> str:
        last_sign, longest, started = time.monotonic(), 0.0, False
        while process.poll() is None:
            time.sleep(self.patience.poll_s)
            if self.stop_asked():
                (self.folder / STOP).touch()
            now = time.monotonic()
            if watch.look():
                longest, started = (max(longest, now - last_sign) if started else 0.0), True
                last_sign = now
            elif (started or not self.queues) and now - last_sign > max(
                self.patience.least_silence_s, self.patience.slowest * longest
            ):
                dump_stacks(process.pid)
                return f"no sign of life for {show_seconds(now - last_sign)}, stacks in {WORKERS_LOG}"
        code = process.returncode
        return f"killed by signal {-code}" if code < 0 else f"exit status {code}"


class _Watch:
    """What a group leaves while it works: lines to say, steps, signs of life."""

    def __init__(self, folder: Path, metrics: Path, screen: Screen, see: See) -> None:
        self.folder, self.screen, self.see = folder, screen, see
        self.said, self.metrics = Tail(folder / SAID, skip=True), Tail(metrics, skip=True)
        self.signs: set[tuple[str, int, int]] = set()

    def look(self) -> bool:
        """Pass on what is new; True when anything in the stage's folder or the metrics moved."""
        moved = False
        for line in self.said.new():
            self.screen.say(line)
        for event in self.metrics.new():
            moved = True
            self.see(event)
        signs = set(_signs(self.folder))
        moved, self.signs = moved or signs != self.signs, signs
        return moved


def _signs(folder: Path) -> Iterator[tuple[str, int, int]]:
    for path in folder.iterdir():
        if path.name == WORKERS_LOG:
            continue  # Ray and torchrun talk there, also about workers that hang
        with contextlib.suppress(FileNotFoundError):  # a temporary file
            found = path.stat()
            yield path.name, found.st_size, found.st_mtime_ns
