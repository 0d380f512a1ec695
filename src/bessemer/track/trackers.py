"""Send a run's metrics to TensorBoard, trackio, W&B (offline) or MLflow.

A tracker runs in a process of its own that follows metrics.jsonl, so nothing that it does, waits for or dies of can
reach the training; and whatever it missed can be sent again from the file: `bessemer runs export`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from bessemer.errors import BessemerError
from bessemer.files import home, read_json, write_json
from bessemer.signatures import child_env
from bessemer.track.metrics import Tail
from bessemer.track.runs import METRICS, PLAN

MODULES = {"tensorboard": "tensorboardX", "trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow"}
POLL_S = 0.5
PATIENCE_S = 20.0  # what a tracker gets after the run's end to send the rest
QUIET = {
    "WANDB_MODE": "offline",  # whoever wants it online says so in the environment
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
}
Scalars = dict[str, float]
Key = tuple[str, int, str]  # stage, step, kind of event


def check_trackers(names: Sequence[str]) -> None:
    """Raises BessemerError for a tracker that is not known or not installed."""
    for name in names:
        if name not in MODULES:
            known = ", ".join(MODULES)
            raise BessemerError(f"{name!r} is no tracker", where="--track", fix=f"known: {known}")
        if importlib.util.find_spec(MODULES[name]) is None:
            raise BessemerError(f"{name} is not installed", where="--track", fix="pip install 'bessemer[track]'")


@contextlib.contextmanager
def following(folder: Path, names: Sequence[str], say: Callable[[str], None]) -> Generator[None]:
    """While inside, trackers follow the run in processes of their own; one that failed is said at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    started = {name: _start(folder, name) for name in names}
    try:
        yield
    finally:
        for process in started.values():
            assert process.stdin is not None
            process.stdin.close()  # the run ended: send the rest
        until = time.monotonic() + PATIENCE_S
        for name, process in started.items():
            say_again = f"the metrics are in {METRICS}: bessemer runs export {folder.name} --track {name}"
            try:
                if process.wait(max(0.1, until - time.monotonic())) != 0:
                    say(f"tracker {name} failed, see {_log(folder, name)}; {say_again}")
            except subprocess.TimeoutExpired:
                process.kill()
                say(f"tracker {name} did not end within {PATIENCE_S:.0f} s and was stopped; {say_again}")


def _log(folder: Path, name: str) -> Path:
    return folder / "trackers" / f"{name}.log"


def _start(folder: Path, name: str) -> subprocess.Popen[bytes]:
    """Its standard input is open as long as we live, so it also ends after a kill."""
    _log(folder, name).parent.mkdir(exist_ok=True)
    with _log(folder, name).open("ab") as log:
        command = [sys.executable, "-m", "bessemer.track.trackers", name, str(folder)]
        env = QUIET | child_env()
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env, start_new_session=True)


# -- what is sent ----------------------------------------------------------------------------------------------------


def scalars(event: dict[str, Any]) -> Scalars:
    """The numbers of a step or a probe under names that begin with the stage; empty for other events."""
    stage = event.get("stage")
    if event["event"] == "step":
        n_tokens = sum(event["tokens"].values())
        found = {key: event[key] for key in ("loss", "lr", "grad_norm", "memory")}
        found["tokens_per_second"] = n_tokens / max(1e-9, event["seconds"])
        found |= {f"source/{source}/loss": loss for source, loss in event["source_loss"].items()}
    elif event["event"] == "probe":
        found = {
            f"probe/{event['probe']}/bits_per_byte": event["bits_per_byte"],
            f"probe/{event['probe']}/change": event["bits_per_byte"] / event["start"] - 1,
        }
    else:
        return {}
    return {f"{stage}/{name}": float(value) for name, value in found.items()}


class Tracker(Protocol):
    """known: its run as an earlier process of the same run wrote it down; "" at first."""

    known: str

    def log(self, step: int, values: Scalars) -> None: ...

    def close(self) -> None: ...


def _library(name: str) -> Any:
    """The tracker's module, which may not be installed and has no types worth the name."""
    return importlib.import_module(MODULES[name])


class TensorBoard:
    """Event files in RUN/trackers/tensorboard."""

    known = ""

    def __init__(self, folder: Path, config: dict[str, Any], known: str) -> None:
        self._writer = _library("tensorboard").SummaryWriter(str(folder / "trackers" / "tensorboard"))

    def log(self, step: int, values: Scalars) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Trackio:
    """A local project `bessemer` in BESSEMER_HOME/trackers/trackio, unless TRACKIO_DIR says where."""

    known = ""

    def __init__(self, folder: Path, config: dict[str, Any], known: str) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(home() / "trackers" / "trackio"))
        self._run = _library("trackio").init(
            project="bessemer", name=folder.name, config=config, resume="allow", embed=False
        )

    def log(self, step: int, values: Scalars) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class Wandb:
    """Offline files in RUN/trackers/wandb; `wandb sync` sends them, if anybody wants that."""

    known = ""

    def __init__(self, folder: Path, config: dict[str, Any], known: str) -> None:
        wandb, where = _library("wandb"), folder / "trackers"
        settings = wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off")
        self._run = wandb.init(
            project="bessemer", name=folder.name, id=folder.name, dir=str(where), config=config, settings=settings
        )

    def log(self, step: int, values: Scalars) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """A run in the experiment `bessemer` of MLFLOW_TRACKING_URI, else of BESSEMER_HOME/trackers/mlflow."""

    def __init__(self, folder: Path, config: dict[str, Any], known: str) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (home() / "trackers" / "mlflow").as_uri()
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client = _library("mlflow").MlflowClient(uri)
        there = self._client.get_experiment_by_name("bessemer")
        experiment = there.experiment_id if there else self._client.create_experiment("bessemer")
        self.known = known or self._client.create_run(experiment, run_name=folder.name).info.run_id
        for key, value in config.items() if not known else ():
            self._client.log_param(self.known, key, value)

    def log(self, step: int, values: Scalars) -> None:
        make, now = _library("mlflow").entities.Metric, int(time.time() * 1000)
        self._client.log_batch(self.known, metrics=[make(name, value, now, step) for name, value in values.items()])

    def close(self) -> None:
        self._client.set_terminated(self.known)


KINDS: dict[str, Callable[[Path, dict[str, Any], str], Tracker]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": Wandb,
    "mlflow": Mlflow,
}


# -- the process of a tracker ----------------------------------------------------------------------------------------


def send(folder: Path, name: str, going_on: Callable[[], bool] = lambda: False, *, again: bool = False) -> int:
    """Send a run's metrics, and what is added as long as it is going on; returns how many events.

    What an earlier process sent to its end, of a run that was stopped and goes on, is not sent again, unless `again`
    asks for it.
    """
    check_trackers([name])
    plan = folder / PLAN
    config = {"run": folder.name}
    if plan.exists():
        found = json.loads(plan.read_text())
        config |= {"base": found["base"]["name"], "plan": found["identity"], "start": found["recipe"]["start"]}
    kept = folder / "trackers" / f"{name}.json"
    told: dict[str, Any] = read_json(kept) if kept.exists() and not again else {"run": "", "sent": []}
    sent: set[Key] = {(stage, step, what) for stage, step, what in told["sent"]}
    tracker, n = KINDS[name](folder, config, told["run"]), 0
    for step, event in _events(folder / METRICS, going_on, sent):
        if values := scalars(event):
            tracker.log(step, values)
            n += 1
    tracker.close()
    write_json(kept, {"run": tracker.known, "sent": sorted(sent)})
    return n


def _events(path: Path, going_on: Callable[[], bool], sent: set[Key]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(steps of the whole run so far, event), but what is in `sent`, where they are added.

    Steps that a resumed run does again are the same: they are left out.
    """
    before: dict[str, int] = {}  # stage -> steps of those before it
    seen: dict[str, int] = {}
    lines, last = Tail(path), False
    while not last:
        last = not going_on()
        if last:
            lines = Tail(path)  # once more from the beginning: a resumed run may have cut the file
        for event in lines.new():
            stage, step = event.get("stage", ""), event.get("step", 0)
            key = (stage, step, event["event"] + event.get("probe", ""))
            before.setdefault(stage, sum(n for other, n in seen.items() if other != stage))
            seen[stage] = max(seen.get(stage, 0), step)
            if key not in sent:
                sent.add(key)
                yield before[stage] + step, event


def _parent_lives() -> bool:
    """Waits a moment; False once standard input is closed."""
    ready, _, _ = select.select([sys.stdin], [], [], POLL_S)
    return not ready


def main() -> None:
    """`python -m bessemer.track.trackers TRACKER RUN_FOLDER`: follow until standard input is closed."""
    send(Path(sys.argv[2]), sys.argv[1], _parent_lives)


if __name__ == "__main__":
    main()
