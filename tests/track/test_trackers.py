"""Trackers get every step once, in the real libraries' own files; whatever happens to them, training goes on."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bessemer.errors import BessemerError
from bessemer.track import trackers
from bessemer.track.metrics import MetricsFile
from bessemer.track.trackers import MODULES, check_trackers, following, scalars, send


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run with two stages of three steps, one probe each."""
    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path))
    for key, value in trackers.QUIET.items():
        monkeypatch.setenv(key, value)
    folder = tmp_path / "runs" / "story"
    folder.mkdir(parents=True)
    metrics = MetricsFile(folder / "metrics.jsonl")
    for stage in ("01-cpt", "02-sft"):
        for step in range(1, 4):
            log_step(metrics, stage, step)
        metrics.log("probe", stage=stage, step=3, probe="elsewhere", bits_per_byte=1.1, start=1.0)
    metrics.close()
    return folder


def log_step(metrics: MetricsFile, stage: str, step: int) -> None:
    metrics.log(
        "step", stage=stage, step=step, loss=4.0 - step, lr=1e-4, grad_norm=1.0, memory=5, tokens={"own": 100},
        seconds=0.5, source_loss={"own": 4.0 - step}, flops=1.0,
    )  # fmt: skip


def installed(name: str) -> Any:
    return pytest.importorskip(MODULES[name], reason=f"{name} is in the extra `track`")


def test_tensorboard_reads_every_step_of_both_stages(run: Path) -> None:
    installed("tensorboard")
    assert send(run, "tensorboard") == 8
    found = read_tensorboard(run)
    assert found["01-cpt/loss"] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert found["02-sft/source/own/loss"] == [(4, 3.0), (5, 2.0), (6, 1.0)]
    assert found["02-sft/tokens_per_second"][0] == (4, 200.0)
    assert found["01-cpt/probe/elsewhere/change"] == [(3, pytest.approx(0.1))]


def read_tensorboard(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The event files by tensorboardX's own protocol: length, checksum, event, checksum."""
    Event = pytest.importorskip("tensorboardX.proto.event_pb2").Event

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted((run / "trackers" / "tensorboard").glob("events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 12 + size + 4
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_run_that_goes_on_sends_what_is_new_to_where_the_rest_is(run: Path, name: str) -> None:
    library = installed(name)
    assert send(run, name) == 8
    metrics = MetricsFile(run / "metrics.jsonl")
    log_step(metrics, "02-sft", 4)
    metrics.close()
    assert send(run, name) == 1 and send(run, name) == 0
    if name == "tensorboard":
        assert read_tensorboard(run)["02-sft/loss"] == [(4, 3.0), (5, 2.0), (6, 1.0), (7, 0.0)]
        return
    client = library.MlflowClient((trackers.home() / "trackers" / "mlflow").as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("bessemer").experiment_id])
    assert [m.step for m in client.get_metric_history(found.info.run_id, "02-sft/loss")] == [4, 5, 6, 7]


def test_trackio_stores_it_locally(run: Path, tmp_path: Path) -> None:
    installed("trackio")
    # A process of its own, as in a run: trackio reads its folder when it is imported.
    subprocess.run(
        [sys.executable, "-m", "bessemer.track.trackers", "trackio", str(run)], stdin=subprocess.DEVNULL, check=True
    )
    (path,) = (tmp_path / "trackers" / "trackio").glob("bessemer*.db")
    with sqlite3.connect(path) as database:
        rows = database.execute("select step, metrics from metrics order by step").fetchall()
    named = [(step, json.loads(values)) for step, values in rows]
    losses = [(step, values["01-cpt/loss"]) for step, values in named if "01-cpt/loss" in values]
    assert losses == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_mlflow_stores_it_locally(run: Path) -> None:
    mlflow = installed("mlflow")
    send(run, "mlflow")
    client = mlflow.MlflowClient((trackers.home() / "trackers" / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("bessemer")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "story" and found.info.status == "FINISHED"
    history = client.get_metric_history(found.info.run_id, "02-sft/loss")
    assert [(m.step, m.value) for m in history] == [(4, 3.0), (5, 2.0), (6, 1.0)]


def test_wandb_writes_offline_files(run: Path) -> None:
    installed("wandb")
    send(run, "wandb")
    (path,) = (run / "trackers" / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"01-cpt/loss" in path.read_bytes()


def test_a_run_is_followed_while_it_goes_on_and_to_its_end(run: Path) -> None:
    installed("tensorboard")
    said: list[str] = []
    metrics = MetricsFile(run / "metrics.jsonl")
    with following(run, ["tensorboard"], said.append):
        wait_for(lambda: list((run / "trackers").glob("tensorboard/events.*")))
        log_step(metrics, "03-sft", 1)
        offset = metrics.offset()
        log_step(metrics, "03-sft", 2)
        time.sleep(1.5)
        metrics.rewind(offset)  # a resumed run does a step again
        log_step(metrics, "03-sft", 2)
        log_step(metrics, "03-sft", 3)
    assert said == []
    assert [step for step, _ in read_tensorboard(run)["03-sft/loss"]] == [7, 8, 9]


def wait_for(what: object, seconds: float = 30.0) -> None:
    assert callable(what)
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_tracker_that_dies_or_hangs_is_said_and_harms_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One killed, one stopped in its tracks: both are said with the command that sends the metrics again."""
    said: list[str] = []
    monkeypatch.setattr(trackers, "PATIENCE_S", 1.0)
    started: list[subprocess.Popen[bytes]] = []
    start = trackers._start  # pyright: ignore[reportPrivateUsage]

    def remember(folder: Path, name: str) -> subprocess.Popen[bytes]:
        started.append(start(folder, name))
        return started[-1]

    monkeypatch.setattr(trackers, "_start", remember)
    with following(run, ["tensorboard", "mlflow"], said.append):
        started[0].kill()
        started[1].send_signal(signal.SIGSTOP)
    assert "tracker tensorboard failed" in said[0] and "runs export story --track tensorboard" in said[0]
    assert "tracker mlflow did not end" in said[1]
    assert started[1].wait(10) == -signal.SIGKILL


def test_unknown_and_absent_trackers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BessemerError, match="no tracker"):
        check_trackers(["tensorbord"])
    monkeypatch.setitem(MODULES, "wandb", "no_such_module")
    with pytest.raises(BessemerError, match="pip install 'bessemer\\[track\\]'"):
        check_trackers(["wandb"])


def test_only_steps_and_probes_have_numbers() -> None:
    assert scalars({"event": "machine", "stage": "a", "peak_flops": 1.0}) == {}
