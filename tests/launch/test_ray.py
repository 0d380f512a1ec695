"""A run whose stage is trained on a real Ray, started for it on this machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.launch.runs import begin, reached, until, weights

pytestmark = pytest.mark.full


def test_a_worker_on_ray_is_killed_and_the_run_goes_on(
    tmp_path: Path, recipe: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run = begin(tmp_path, "run", str(recipe), "--on", "ray")
    until(reached(tmp_path, 20), run)
    holder = (tmp_path / "runs/story/01-cpt/.lock").read_text()
    os.kill(int(holder.split()[1]), signal.SIGKILL)
    _, said = run.communicate()
    assert run.returncode == 0, said
    assert "all are started again after step" in said and "continues after step" in said
    assert weights(tmp_path) == weights(undisturbed)
