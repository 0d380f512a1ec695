"""Runs that are seen from another process."""

from __future__ import annotations

import shutil
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from bessemer.errors import BessemerError
from bessemer.files import exclusive, write_json
from bessemer.launch import control, worker
from bessemer.track import runs
from bessemer.track.runs import PLAN, STOP, lock_path


def test_a_request_that_a_beginning_run_takes_away_is_made_again(bessemer_home: Path) -> None:
    """A run takes older requests away when it begins; `--restart` its whole folder."""
    folder, began, reached = bessemer_home / "runs" / "x", threading.Event(), threading.Event()
    write_json(folder / PLAN, {"stages": []})

    def asked() -> bool:
        for _ in range(1000):
            if (folder / STOP).exists():
                return True
            time.sleep(0.01)
        return False

    def run() -> None:
        with exclusive(lock_path("x"), "the run x"):
            began.set()
            assert asked()
            (folder / STOP).unlink()
            if asked():
                reached.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert began.wait(10)
    assert control.stop("x")["state"] == "planned" and reached.is_set()
    thread.join()


def test_slurm_is_asked_rarely_while_a_job_waits(bessemer_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(bessemer_home / "runs" / "x" / PLAN, {"stages": []})
    states, clock = iter(["queued"] * 3 + ["running"] * 2 + ["finished"]), [100.0]
    asked: list[float] = []

    def look(_: str) -> dict[str, str]:
        asked.append(clock[0])
        return {"state": next(states)}

    monkeypatch.setattr(control, "glance", look)
    monkeypatch.setattr(control.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(control.time, "sleep", lambda s: clock.__setitem__(0, clock[0] + s))
    assert list(control.logs("x", follow=True)) == []
    assert [round(b - a) for a, b in pairwise(asked)] == [15, 15, 15, 0, 0]


def test_who_follows_outlasts_what_does_not_answer(bessemer_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's controller changes, another machine's disk still lists a file that is gone."""
    write_json(bessemer_home / "runs" / "x" / PLAN, {"stages": []})
    states = iter(["queued", BessemerError("Slurm does not say", where="squeue"), OSError("stale"), "finished"])

    def look(_: str) -> dict[str, str]:
        if isinstance(state := next(states), Exception):
            raise state
        return {"state": state}

    monkeypatch.setattr(control, "glance", look)
    monkeypatch.setattr(control.time, "sleep", lambda _: None)
    monkeypatch.setattr(control, "QUEUE_S", 0.0)
    assert list(control.logs("x", follow=True)) == []
    assert next(states, None) is None

    def gone(_: str) -> dict[str, str]:
        shutil.rmtree(bessemer_home / "runs" / "x", ignore_errors=True)
        raise BessemerError("there is no run 'x'")

    monkeypatch.setattr(control, "glance", gone)
    with pytest.raises(BessemerError, match="there is no run"):
        list(control.logs("x", follow=True))


def test_a_paper_that_goes_while_it_is_read_is_none(bessemer_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bessemer_home / "runs" / "x"
    write_json(folder / PLAN, {"stages": []})
    write_json(folder / "stopped.json", {"what": "stopped"})
    assert control.glance("x")["state"] == "stopped"
    monkeypatch.setattr(Path, "exists", lambda _: True)  # as a disk says that is shared
    (folder / "stopped.json").unlink()
    assert runs._read_if_there(folder / "stopped.json") is None


def test_what_a_restart_takes_away_is_no_run(bessemer_home: Path) -> None:
    for name in ("x", ".restarted-x-7"):
        write_json(bessemer_home / "runs" / name / PLAN, {"stages": []})
    assert runs.run_names() == ["x"]


def test_one_stage_has_one_writer(bessemer_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that outlived their supervisor may still write when the run goes on elsewhere."""
    stage = bessemer_home / "runs" / "x" / "01-cpt"
    monkeypatch.setattr(runs, "LEFTOVER_S", 0.3)
    with runs.alone(stage), pytest.raises(BessemerError, match="stage 01-cpt is in use"), runs.alone(stage):
        pass
    with runs.alone(stage):
        pass


def test_what_a_worker_of_before_tells_late_is_forgotten(bessemer_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bessemer_home / "runs" / "x"
    write_json(folder / PLAN, {"stages": [{"name": "01-cpt"}]})
    write_json(folder / "01-cpt" / "error.json", {"what": "Connection closed", "retry": False})
    seen: list[bool] = []
    monkeypatch.setattr(worker, "_train", lambda *_: seen.append((folder / "01-cpt" / "error.json").exists()))
    worker.work("x", 1, lambda: False)
    assert seen == [True]  # nobody wrote when it began: another worker of its own group may have told it
    held = threading.Event()

    def before() -> None:
        with exclusive(folder / "01-cpt" / ".lock", "stage 01-cpt"):
            held.set()
            time.sleep(0.4)

    thread = threading.Thread(target=before)
    thread.start()
    assert held.wait(10)
    worker.work("x", 1, lambda: False)
    thread.join()
    assert seen == [True, False]
