"""`python -m bessemer.launch.worker RUN STAGE`: train one stage (from 1) of a run that has a plan.

What lies in the stage's folder afterwards says how it ended, not the exit status (torchrun and Ray have their own):
done.json: finished. stopped.json: asked to stop, a checkpoint is written. error.json, or none of them: failed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from bessemer.errors import BessemerError, StoppedByUserError
from bessemer.files import lock_holder, read_json
from bessemer.launch.bind import die_with_parent
from bessemer.launch.here import quiet_libraries, stop_requests
from bessemer.track.runs import PLAN, SAID, STOP, WORKERS_LOG, alone, forget_ending, run_folder, tell_ending


def work(name: str, number: int, asked: Callable[[], bool] = lambda: False) -> None:
    """Train stage `number` (from 1) of run `name` from its newest checkpoint.

    asked: tells that this process was asked to stop; a request to the run as a whole (its file) is always heard.
    Raises BessemerError (also for a plan that this machine does not arrive at), StoppedByUserError after a checkpoint.
    """
    folder = run_folder(name)
    plan = read_json(folder / PLAN)
    stage_folder = folder / plan["stages"][number - 1]["name"]
    try:
        late = _is_first() and lock_holder(stage_folder / ".lock") is not None
        lock = alone(stage_folder) if _is_first() else contextlib.nullcontext()
        with (stage_folder / WORKERS_LOG).open("a") as log, lock:
            if late:  # the group before still wrote when ours began: how it ended is not how ours does
                forget_ending(stage_folder)
            faulthandler.register(signal.SIGUSR1, log, all_threads=True)  # sent by the supervisor when nothing moves
            _train(folder, plan, number - 1, _sayer(stage_folder), lambda: asked() or (folder / STOP).exists())
    except BaseException as error:
        tell_ending(stage_folder, error)
        raise


def _is_first() -> bool:
    """Of its group: the one that speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def _sayer(stage_folder: Path) -> Callable[[str], None]:
    """Says a line to whoever waits for this worker: from there it goes to the screen and the log."""

    def say(text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk ends no training
            print(text, file=sys.stderr, flush=True)
        if _is_first():
            with contextlib.suppress(OSError), (stage_folder / SAID).open("a") as file:
                file.write(json.dumps(text) + "\n")

    return say


def _train(
    folder: Path, plan: dict[str, Any], n: int, say: Callable[[str], None], stop_asked: Callable[[], bool]
) -> None:
    from bessemer.plan.resolve import drift, prepare
    from bessemer.recipe.schema import Recipe
    from bessemer.stage import Training
    from bessemer.train.world import close_world, open_world

    world = open_world()
    prepared = prepare(Recipe.model_validate(plan["recipe"]), say)
    if prepared.identity != plan["identity"]:
        lines = "\n".join(f"    {line}" for line in drift(plan, prepared.plan)[:12])
        raise BessemerError(
            f"this machine does not arrive at the run's plan:\n{lines}",
            where=str(folder / PLAN),
            fix="the same code and data on every machine",
        )
    prepared.plan["estimate"] = plan["estimate"]
    Training(prepared, folder, say, stop_asked, world).train(n)
    close_world()


def leave(code: int = 0) -> NoReturn:
    """End this process; of several that trained together at once, after what it printed.

    At a usual exit a native thread of gloo's may still run, and C++ then aborts a process whose work is done
    ("terminate called without an active exception", seen rarely). torchrun takes that for a failure and ends the
    others, which may still be writing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


def main() -> None:
    """Exit 0 when finished or stopped as asked; what failed is raised."""
    launcher = os.getppid()
    if launcher == 1 and "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun ended while this process was importing
        sys.exit("the process that started this one is gone")
    die_with_parent(launcher)
    quiet_libraries()
    code = 0
    try:
        with stop_requests(lambda text, style: print(text, file=sys.stderr)) as asked:
            work(sys.argv[1], int(sys.argv[2]), asked)
    except StoppedByUserError:
        pass
    except BessemerError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    leave(code)


if __name__ == "__main__":
    main()
