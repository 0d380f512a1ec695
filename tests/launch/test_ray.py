"""A run whose stage is trained on a real Ray, started for it on this machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bessemer.launch.on_ray import passed_on
from tests.launch.runs import begin, reached, until, weights

full = pytest.mark.full


@full
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


def test_no_secret_goes_to_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray shows a job's environment to whoever may see its dashboard."""
    for name in ("BESSEMER_TOKEN", "HF_TOKEN", "BESSEMER_SIGNING_KEY", "BESSEMER_SIGNING_PASSWORD", "OTHER"):
        monkeypatch.setenv(name, "planted-secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    found = passed_on()
    assert "planted-secret" not in found.values() and "BESSEMER_HOME" in found
    assert found["OMP_NUM_THREADS"] == "3" and found["TOKENIZERS_PARALLELISM"] == "true"
