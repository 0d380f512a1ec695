from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bessemer.errors import BessemerError
from bessemer.families.fetch import resolve
from bessemer.recipe.schema import Stage
from bessemer.train import checkpoint
from bessemer.train.optimizers import Optimizers, make_optimizer
from bessemer.train.weights import Trainable, Trained, prepare
from bessemer.train.world import World

STAGE = Stage.model_validate({"objective": "cpt", "mixture": {"a": 1}})


@pytest.fixture
def trained(tiny_model: Path) -> tuple[Trainable, Optimizers]:
    trainable = prepare(resolve(str(tiny_model)), None)
    optimizer = make_optimizer(trainable, STAGE)
    for master in trainable.masters.values():
        master.grad = torch.ones_like(master)
    optimizer.step(0.1)
    return trainable, optimizer


def save(folder: Path, step: int, trainable: Trainable, optimizer: Optimizers, state: dict[str, Any]) -> Path:
    writer = checkpoint.Writer(folder, World())
    writer.save(step, trainable, optimizer, state)
    writer.wait()
    return checkpoint.complete(folder)[0]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_keeps_two_and_restores_the_newest(
    trained: tuple[Trainable, Optimizers], tmp_path: Path, tiny_model: Path
) -> None:
    trainable, optimizer = trained
    for step in (3, 6, 9):
        save(tmp_path, step, trainable, optimizer, {"metrics_offset": step})
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-0000009", "step-0000006"]
    fresh = prepare(resolve(str(tiny_model)), None)
    restored = make_optimizer(fresh, STAGE)
    path, refused = checkpoint.newest_good(tmp_path)
    assert path is not None and not refused
    assert checkpoint.restore(path, fresh, restored) == {"step": 9, "metrics_offset": 9}
    for name, master in trainable.masters.items():
        assert torch.equal(master, fresh.masters[name])
        old, new = optimizer.get_state(master), restored.get_state(fresh.masters[name])
        assert all(torch.equal(old[k], new[k]) for k in old)


@pytest.mark.parametrize("name", ["part-00000-of-00001.safetensors", "state.json"])
def test_one_changed_byte_is_found_and_the_previous_one_taken(
    trained: tuple[Trainable, Optimizers], tmp_path: Path, name: str
) -> None:
    for step in (1, 2):
        save(tmp_path, step, *trained, {})
    flip(tmp_path / "step-0000002" / name)
    path, refused = checkpoint.newest_good(tmp_path)
    assert path is not None and path.name == "step-0000001"
    assert name in refused[0] and "changed" in refused[0]


def test_half_written_ones_are_invisible(trained: tuple[Trainable, Optimizers], tmp_path: Path) -> None:
    save(tmp_path, 1, *trained, {})
    shutil.copytree(tmp_path / "step-0000001", tmp_path / ".tmp-step-0000005")
    shutil.copytree(tmp_path / "step-0000001", tmp_path / "step-0000004")
    (tmp_path / "step-0000004" / "manifest.json").unlink()
    path, refused = checkpoint.newest_good(tmp_path)
    assert path is not None and path.name == "step-0000001" and not refused
    (path / "part-00000-of-00001.safetensors").unlink()
    assert checkpoint.newest_good(tmp_path)[0] is None


def test_a_checkpoint_of_other_parameters_is_refused(
    trained: tuple[Trainable, Optimizers], tmp_path: Path, tiny_model: Path
) -> None:
    path = save(tmp_path, 1, *trained, {})
    frozen = prepare(resolve(str(tiny_model)), None, Trained(0.5))
    with pytest.raises(BessemerError, match="other parameters"):
        checkpoint.restore(path, frozen, make_optimizer(frozen, STAGE))
