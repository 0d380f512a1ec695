"""What every test shares: a home of its own, no network hub, and one tiny model a session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("bessemer", deadline=None)  # no test asserts wall-clock time
settings.load_profile("bessemer")
os.environ["HF_HUB_OFFLINE"] = "1"  # before any test imports transformers
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests compare with references on the CPU, in fp32, bit by bit
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads only wait for each other


@pytest.fixture(autouse=True)
def bessemer_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh BESSEMER_HOME for each test."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("BESSEMER_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("BESSEMER_TOKEN", "BESSEMER_DEVICE", "BESSEMER_DTYPE"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model. Shared by the session: copy it before changing a byte."""
    from tests.tiny import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
