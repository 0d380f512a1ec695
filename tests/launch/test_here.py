"""A request to stop comes at any moment, also in the middle of printing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bessemer.launch import here
from bessemer.launch.here import stop_requests
from bessemer.launch.worker import _sayer
from bessemer.track.screen import Screen


def test_a_request_counts_even_where_it_cannot_be_said() -> None:
    def say(*_: str) -> None:
        raise RuntimeError("reentrant call inside a buffered writer")

    with stop_requests(say) as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_terminal_that_goes_asks_for_a_stop_unless_nobody_minds() -> None:
    with stop_requests(lambda *_: None) as asked:
        for _ in range(2):  # bash tells its jobs, then the kernel tells them
            os.kill(os.getpid(), signal.SIGHUP)
        assert asked()
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with stop_requests(lambda *_: None) as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked()
    finally:
        signal.signal(signal.SIGHUP, old)


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    screen = Screen(quiet=True, log=tmp_path / "log.txt")
    screen.say("one")
    (tmp_path / "log.txt").unlink()
    (tmp_path / "log.txt").mkdir()
    screen.say("two")


def test_a_worker_that_cannot_say_anything_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stage").write_text("no folder")
    _sayer(tmp_path / "stage")("the disk is full")
    assert "the disk is full" in capsys.readouterr().err


def test_what_was_stopped_took_its_time_too() -> None:
    screen = Screen(quiet=True)
    with pytest.raises(KeyboardInterrupt), screen.step("train"):
        raise KeyboardInterrupt
    assert list(screen.seconds) == ["train"]


def test_machines_of_other_processors_share_no_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    for flags in ("avx2 avx512f", "avx2", "avx2"):
        monkeypatch.setattr(
            Path, "read_text", lambda _, f=flags: f"processor : 0\nflags : {f}\nprocessor : 1\nflags : {f}\n"
        )
        names.append(here._processor())
    assert names[0] != names[1] == names[2]
