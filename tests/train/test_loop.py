from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from bessemer.data.batch import StageData
from bessemer.data.stage import build_stage, tokenise
from bessemer.errors import BessemerError, StoppedByUserError
from bessemer.families.fetch import Checkpoint, resolve
from bessemer.recipe.load import load_recipe
from bessemer.recipe.schema import Recipe
from bessemer.track.metrics import MetricsFile, read_metrics
from bessemer.train.loop import Hooks, StageRun, train_stage, train_step
from bessemer.train.optimizers import make_optimizer
from bessemer.train.schedule import learning_rate
from bessemer.train.weights import Trainable, Trained, prepare
from tests.story import write_story


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Recipe:
    return load_recipe(write_story(tmp_path / "story", tiny_model))


@pytest.fixture
def start(tiny_model: Path) -> Checkpoint:
    return resolve(str(tiny_model))


def data_of(recipe: Recipe, start: Checkpoint, n: int) -> tuple[StageData, Trainable]:
    trainable = prepare(start, None, Trained(recipe.stages[n].freeze))
    return build_stage(recipe, recipe.stages[n], tokenise(recipe, trainable.loaded.renderer)), trainable


def stage_run(recipe: Recipe, data: StageData, folder: Path, n: int = 0) -> StageRun:
    return StageRun("01-cpt", recipe.stages[n], 3e-3, 0.1, data, folder, probe_every=1000, checkpoint_every=4)


def hooks(folder: Path, stop_after: int = 10**9) -> Hooks:
    seen: list[int] = []
    return Hooks(
        metrics=MetricsFile(folder / "metrics.jsonl"),
        on_step=lambda step, _n, _loss: seen.append(step),
        on_probe=lambda _step: None,
        say=lambda _text: None,
        stop_asked=lambda: len(seen) >= stop_after,
    )


def weights(trainable: Trainable) -> dict[str, torch.Tensor]:
    return {n: m.detach().clone() for n, m in trainable.masters.items()}


def test_learning_rate_rises_then_falls_to_its_end() -> None:
    rates = [learning_rate(s, 100, 1.0, 0.1, 0.05) for s in range(100)]
    assert max(rates) == pytest.approx(1.0) and rates.index(max(rates)) == 9
    assert rates[-1] == pytest.approx(0.05) and rates[0] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(rates[9:]))
    assert learning_rate(0, 10, 1.0, 0.0, 0.0) == pytest.approx(0.9)


def test_it_overfits_a_few_documents(recipe: Recipe, start: Checkpoint) -> None:
    data, trainable = data_of(recipe, start, 0)
    optimizer = make_optimizer(trainable, recipe.stages[0])
    losses = [train_step(trainable, optimizer, data.batch(0), "cpt", 3e-3, 1.0).loss for _ in range(60)]
    assert losses[0] > 4 and losses[-1] < 0.5


def test_frozen_layers_and_embedding_do_not_move(recipe: Recipe, start: Checkpoint) -> None:
    data, trainable = data_of(recipe, start, 1)
    before = {n: p.detach().clone() for n, p in trainable.loaded.model.named_parameters()}
    optimizer = make_optimizer(trainable, recipe.stages[1])
    train_step(trainable, optimizer, data.batch(0), "sft", 1e-2, 1.0)
    moved = {n for n, p in trainable.loaded.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(trainable.masters)
    assert all(f"layers.{i}." not in n for n in moved for i in (0, 1)) and any("layers.2." in n for n in moved)


def test_masters_keep_updates_that_the_rounded_weights_cannot(
    recipe: Recipe, start: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BESSEMER_DTYPE", "bfloat16")
    data, trainable = data_of(recipe, start, 0)
    optimizer = make_optimizer(trainable, recipe.stages[0])
    first = weights(trainable)
    for step in range(3):
        train_step(trainable, optimizer, data.batch(step), "cpt", 1e-6, 1.0)
    name = "model.layers.3.mlp.up_proj.weight"
    assert trainable.params[name].dtype == torch.bfloat16 and trainable.masters[name].dtype == torch.float32
    assert not torch.equal(trainable.masters[name], first[name])
    assert torch.equal(trainable.params[name], trainable.masters[name].bfloat16())


def test_loss_that_is_not_finite_stops_with_the_items_named(recipe: Recipe, start: Checkpoint) -> None:
    data, trainable = data_of(recipe, start, 0)
    with torch.no_grad():
        next(iter(trainable.params.values())).fill_(float("nan"))
    with pytest.raises(BessemerError, match="batch with own.jsonl|batch with general.jsonl"):
        train_step(trainable, make_optimizer(trainable, recipe.stages[0]), data.batch(0), "cpt", 1e-3, 1.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stopped_stage_continues_bit_by_bit(
    recipe: Recipe, start: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setenv("BESSEMER_DTYPE", dtype)
    data, straight = data_of(recipe, start, 0)
    train_stage(stage_run(recipe, data, tmp_path / "a"), straight, hooks(tmp_path / "a"))
    data, stopped = data_of(recipe, start, 0)
    run = stage_run(recipe, data, tmp_path / "b")
    with pytest.raises(StoppedByUserError, match="step 7 of"):
        train_stage(run, stopped, hooks(tmp_path / "b", stop_after=7))
    data, resumed = data_of(recipe, start, 0)
    train_stage(replace(run, data=data), resumed, hooks(tmp_path / "b"))
    a, b = weights(straight), weights(resumed)
    assert all(torch.equal(a[n], b[n]) for n in a)
    steps = [[(e["step"], e["loss"], e["lr"]) for e in read_metrics(tmp_path / x / "metrics.jsonl")] for x in "ab"]
    assert steps[0] == steps[1] and len(steps[0]) == data.n_steps
