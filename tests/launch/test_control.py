"""Runs that are seen from another process."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from bessemer.files import exclusive, write_json
from bessemer.launch import control
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
