"""Two ways to give a command: in a process of its own (what a user does), or here (when it needs torch)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).parent / "bessemer"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def bessemer(*args: str | Path, cwd: Path | None = None, **env: str) -> Done:
    """The installed command, in a process of its own."""
    done = subprocess.run(
        [COMMAND, *map(str, args)], capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, **env}
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The same entry point in this process, so that torch is loaded once for all tests."""
    from bessemer.cli.main import main

    def give(*args: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["bessemer", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Done(caught.value.code, out, err)

    return give
