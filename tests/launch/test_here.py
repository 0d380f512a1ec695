"""A request to stop comes at any moment, also in the middle of printing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bessemer.launch.here import stop_requests
from bessemer.track.screen import Screen


def test_a_request_counts_even_where_it_cannot_be_said() -> None:
    def say(*_: str) -> None:
        raise RuntimeError("reentrant call inside a buffered writer")

    with stop_requests(say) as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    screen = Screen(quiet=True, log=tmp_path / "log.txt")
    screen.say("one")
    (tmp_path / "log.txt").unlink()
    (tmp_path / "log.txt").mkdir()
    screen.say("two")
