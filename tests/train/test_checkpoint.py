from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from bessemer.errors import BessemerError
from bessemer.families.fetch import resolve
from bessemer.recipe.schema import Stage
from bessemer.train import checkpoint
from bessemer.train.loop import make_optimizer
from bessemer.train.weights import Trainable, prepare

STAGE = Stage.model_validate({"objective": "cpt", "mixture": {"a": 1}})


@pytest.fixture
def trained(tiny_model: Path) -> tuple[Trainable, torch.optim.Optimizer]:
    trainable = prepare(resolve(str(tiny_model)), None, 0.0)
    optimizer = make_optimizer(trainable, STAGE)
    for master in trainable.masters.values():
        master.grad = torch.ones_like(master)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    return trainable, optimizer


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_keeps_two_and_restores_the_newest(
    trained: tuple[Trainable, torch.optim.Optimizer], tmp_path: Path, tiny_model: Path
) -> None:
    trainable, optimizer = trained
    for step in (3, 6, 9):
        checkpoint.save(tmp_path, step, trainable, optimizer, {"metrics_offset": step})
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-0000009", "step-0000006"]
    fresh = prepare(resolve(str(tiny_model)), None, 0.0)
    restored = make_optimizer(fresh, STAGE)
    path, refused = checkpoint.newest_good(tmp_path)
    assert path is not None and not refused
    assert checkpoint.restore(path, fresh, restored) == {"step": 9, "metrics_offset": 9}
    for name, master in trainable.masters.items():
        assert torch.equal(master, fresh.masters[name])
        old, new = optimizer.state[master], restored.state[fresh.masters[name]]
        assert all(torch.equal(old[k], new[k]) for k in old)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_one_changed_byte_is_found_and_the_previous_one_taken(
    trained: tuple[Trainable, torch.optim.Optimizer], tmp_path: Path, name: str
) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, *trained, {})
    flip(tmp_path / "step-0000002" / name)
    path, refused = checkpoint.newest_good(tmp_path)
    assert path is not None and path.name == "step-0000001"
    assert name in refused[0] and "changed" in refused[0]


def test_half_written_ones_are_invisible(trained: tuple[Trainable, torch.optim.Optimizer], tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, *trained, {})
    shutil.copytree(tmp_path / "step-0000001", tmp_path / ".tmp-step-0000005")
    shutil.copytree(tmp_path / "step-0000001", tmp_path / "step-0000004")
    (tmp_path / "step-0000004" / "manifest.json").unlink()
    path, refused = checkpoint.newest_good(tmp_path)
    assert path is not None and path.name == "step-0000001" and not refused
    (path / "weights.safetensors").unlink()
    assert checkpoint.newest_good(tmp_path)[0] is None


def test_a_checkpoint_of_other_parameters_is_refused(
    trained: tuple[Trainable, torch.optim.Optimizer], tmp_path: Path, tiny_model: Path
) -> None:
    path = checkpoint.save(tmp_path, 1, *trained, {})
    frozen = prepare(resolve(str(tiny_model)), None, 0.5)
    with pytest.raises(BessemerError, match="other parameters"):
        checkpoint.restore(path, frozen, make_optimizer(frozen, STAGE))
