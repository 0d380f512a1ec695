"""Several processes train as one does: gloo on the CPU, FSDP2, real torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from bessemer.track.metrics import read_metrics
from tests.story import write_story

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Training:
    """What a started stage left."""

    folder: Path
    steps: list[dict[str, Any]] = field(repr=False)

    @property
    def losses(self) -> list[float]:
        return [s["loss"] for s in self.steps]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return torch.load(self.folder / "weights.pt", weights_only=True)


def train(
    recipe: Path,
    folder: Path,
    world: int,
    *settings: str,
    stage: int = 0,
    stop_after: int = 10**9,
    checkpoint_every: int = 10**9,
    micro_tokens: int = 4096,
    dtype: str = "float32",
) -> Training:
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "recipe": str(recipe), "set": settings, "stage": stage, "folder": str(folder), "stop_after": stop_after,
        "checkpoint_every": checkpoint_every, "micro_tokens": micro_tokens,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    start = [sys.executable, "-m"]
    if world > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(world), "-m"]
    done = subprocess.run(
        [*start, "tests.train.sharded", str(folder / "config.json")],
        cwd=ROOT,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "BESSEMER_DTYPE": dtype, "BESSEMER_HOME": str(recipe.parent / "home")},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    (folder / "stderr.txt").write_text(done.stderr)
    assert done.returncode == 0, done.stderr[-2000:]
    return Training(folder, [e for e in read_metrics(folder / "metrics.jsonl") if e["event"] == "step"])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return write_story(tmp_path_factory.mktemp("sharded"), tiny_model)


def agree(a: Training, b: Training, tolerance: float = 1e-5) -> None:
    assert len(a.steps) == len(b.steps) > 5
    assert a.losses == pytest.approx(b.losses, abs=tolerance)
    assert [s["tokens"] for s in a.steps] == [s["tokens"] for s in b.steps]
    for mine, other in zip(a.steps, b.steps, strict=True):
        assert mine["source_loss"] == pytest.approx(other["source_loss"], abs=tolerance)
        # A factor on all gradients changes no step of AdamW, but this.
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=max(2e-3, 100 * tolerance))
    ours, theirs = a.weights, b.weights
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=50 * tolerance, rtol=0)


def test_two_processes_train_as_one(recipe: Path, tmp_path: Path) -> None:
    """Fifty steps of two rows of unequal documents; two micro-batches in each process."""
    settings = ("stages[0].tokens=12800",)
    one = train(recipe, tmp_path / "one", 1, *settings)
    two = train(recipe, tmp_path / "two", 2, *settings, micro_tokens=70)
    assert len(one.steps) >= 50
    agree(one, two)


@pytest.mark.full
@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        (1, ("stages[1].general=start",)),  # frozen layers, and the start checkpoint's predictions
        (0, ("stages[0].method=lora", "stages[0].freeze=0.5")),
        (0, ("stages[0].method=dora", "stages[0].rank=4")),
        (0, ("stages[0].schedule=wsd", "stages[0].z_loss=1e-3", "stages[0].weight_decay=0.1")),
    ],
    ids=["anchored", "lora", "dora", "wsd"],
)
@pytest.mark.parametrize("world", [2, 4])
def test_every_method_trains_the_same_in_any_world(
    recipe: Path, tmp_path: Path, stage: int, settings: tuple[str, ...], world: int
) -> None:
    one = train(recipe, tmp_path / "one", 1, *settings, stage=stage)
    agree(one, train(recipe, tmp_path / "many", world, *settings, stage=stage))


@pytest.mark.full
@pytest.mark.parametrize(("method", "dtype"), [("full", "float32"), ("full", "bfloat16"), ("lora", "float32")])
def test_two_processes_continue_bit_by_bit(recipe: Path, tmp_path: Path, method: str, dtype: str) -> None:
    settings = (f"stages[0].method={method}",)
    straight = train(recipe, tmp_path / "straight", 2, *settings, dtype=dtype)
    train(recipe, tmp_path / "stopped", 2, *settings, stop_after=7, dtype=dtype)
    resumed = train(recipe, tmp_path / "stopped", 2, *settings, dtype=dtype)
    assert resumed.losses == straight.losses
    a, b = straight.weights, resumed.weights
    assert all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.full
@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 4), (1, 2), (4, 2)])
def test_a_checkpoint_is_read_by_another_number_of_processes(
    recipe: Path, tmp_path: Path, before: int, after: int
) -> None:
    straight = train(recipe, tmp_path / "straight", 1)
    train(recipe, tmp_path / "moved", before, stop_after=7)
    moved = train(recipe, tmp_path / "moved", after)
    assert [s["step"] for s in moved.steps] == [s["step"] for s in straight.steps]
    assert [s["tokens"] for s in moved.steps] == [s["tokens"] for s in straight.steps]
    assert moved.losses[:9] == pytest.approx(straight.losses[:9], abs=1e-6)
    assert moved.losses == pytest.approx(straight.losses, abs=1e-5)
