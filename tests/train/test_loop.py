from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bessemer.data.batch import NO_TARGET, Batch, StageData, build_batch
from bessemer.data.shards import Segment
from bessemer.data.stage import build_stage, tokenise
from bessemer.errors import BessemerError, StoppedByUserError
from bessemer.families.fetch import Checkpoint
from bessemer.files import read_json
from bessemer.recipe.schema import Recipe, Schedule
from bessemer.track.metrics import MetricsFile, read_metrics
from bessemer.train import checkpoint, loop
from bessemer.train.loop import Hooks, StageRun, compute_gradient, train_stage, train_step
from bessemer.train.optimizers import _adamw, make_optimizer
from bessemer.train.preflight import check_first_step
from bessemer.train.schedule import learning_rate
from bessemer.train.weights import Trainable, Trained, merged, prepare
from bessemer.train.world import World


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BESSEMER_DTYPE", "float32")  # where bf16 is meant, a test says so


def data_of(recipe: Recipe, start: Checkpoint, n: int) -> tuple[StageData, Trainable]:
    trainable = prepare(start, None, Trained(recipe.stages[n].freeze))
    return build_stage(recipe, n, tokenise(recipe, trainable.loaded.renderer)), trainable


def stage_run(recipe: Recipe, data: StageData, folder: Path, n: int = 0) -> StageRun:
    return StageRun("01-cpt", recipe.stages[n], 3e-3, 0.1, data, folder, probe_every=1000, checkpoint_every=4)


def hooks(folder: Path, stop_after: int = 10**9) -> Hooks:
    seen: list[int] = []
    return Hooks(
        metrics=MetricsFile(
            folder / "metrics.jsonl", lambda e: seen.append(1) if e["event"] in {"step", "skip"} else None
        ),
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


@pytest.mark.parametrize("shape", ["linear", "cosine", "wsd", "constant"])
def test_every_schedule_warms_up_to_the_peak_and_ends_where_it_says(shape: Schedule) -> None:
    rates = [learning_rate(s, 200, 2.0, 0.1, 0.25, shape, 0.3) for s in range(200)]
    assert rates[19] == pytest.approx(2.0) == max(rates)
    assert rates[-1] == pytest.approx(2.0 if shape == "constant" else 0.5)
    assert all(a >= b for a, b in pairwise(rates[19:]))
    if shape == "wsd":
        assert rates[139] == pytest.approx(2.0) and rates[140] < 2.0
    if shape == "cosine":
        assert rates[109] == pytest.approx((2.0 + 0.5) / 2, abs=0.01)  # half way between peak and end


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
    first, saved = weights(trainable), load_file(start.path / "model.safetensors")
    assert first and all(torch.equal(first[n], saved[n]) for n in first)  # not the rounded ones
    assert any(not torch.equal(first[n], first[n].bfloat16().float()) for n in first)
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


# bfloat16 takes minutes on processors without instructions for it
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.full)])
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
    events = [read_metrics(tmp_path / x / "metrics.jsonl") for x in "ab"]
    steps = [[(e["step"], e["loss"], e["lr"]) for e in run if e["event"] == "step"] for run in events]
    assert steps[0] == steps[1] and len(steps[0]) == data.n_steps


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_adapters_train_alone_and_are_added_to_their_matrices(
    recipe: Recipe, start: Checkpoint, method: Literal["lora", "dora"]
) -> None:
    """What is merged for the export computes what the model with its adapters computes (peft is the reference)."""
    trained = Trained(freeze=0.5, method=method, rank=4)
    data, _ = data_of(recipe, start, 0)
    trainable = prepare(start, None, trained)
    first = {n: p.detach().clone() for n, p in trainable.loaded.model.named_parameters()}
    optimizer = make_optimizer(trainable, recipe.stages[0])
    losses = [train_step(trainable, optimizer, data.batch(0), "cpt", 1e-2, 1.0).loss for _ in range(30)]
    assert losses[-1] < losses[0] - 1
    moved = {n for n, p in trainable.loaded.model.named_parameters() if not torch.equal(p, first[n])}
    assert moved == set(trainable.masters) and all("lora" in n for n in moved)
    assert all(f"layers.{i}." not in n for n in moved for i in (0, 1))

    plain = prepare(start, None)
    changed = merged(start, None, trained, weights(trainable))
    assert changed.keys() <= plain.masters.keys() and len(changed) == 2 * 7
    with torch.no_grad():
        for name, value in changed.items():
            plain.params[name].copy_(value)
    batch = data.batch(1)
    args = [torch.from_numpy(x) for x in (batch.tokens_N, batch.positions_N)]
    layout = plain.loaded.layout(batch.lengths_D)
    with torch.no_grad():
        ours, reference = plain.loaded.hidden(*args, layout), trainable.loaded.hidden(*args, layout)
    torch.testing.assert_close(ours, reference, atol=2e-4, rtol=1e-3)


def test_adapters_begin_as_the_start_and_keep_its_predictions(recipe: Recipe, start: Checkpoint) -> None:
    data, _ = data_of(recipe, start, 0)
    trainable = prepare(start, None, Trained(method="dora"), keep_start=True)
    optimizer = make_optimizer(trainable, recipe.stages[0])
    batch = data.batch(0)
    args = [torch.from_numpy(x) for x in (batch.tokens_N, batch.positions_N)]
    layout = trainable.loaded.layout(batch.lengths_D)
    reference = prepare(start, None).loaded.hidden(*args, layout).detach()
    for _ in range(5):
        train_step(trainable, optimizer, batch, "cpt", 1e-2, 1.0)
    kept, _ = trainable.start_hidden(*args, layout)
    torch.testing.assert_close(kept, reference, atol=2e-4, rtol=1e-3)
    assert not torch.allclose(trainable.loaded.hidden(*args, layout), reference, atol=1e-2)


def test_what_adapters_cannot_do_is_refused(start: Checkpoint, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(BessemerError, match="leaves none of 4 layers"):
        prepare(start, None, Trained(freeze=0.9, method="lora"))
    changed = tmp_path / "weights.safetensors"
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({name: 2 * dict(prepare(start, None).loaded.model.named_parameters())[name].detach()}, changed)
    with pytest.raises(BessemerError, match="use lora"):
        prepare(start, changed, Trained(method="dora"), keep_start=True)


def test_muon_moves_matrices_and_adamw_the_rest(recipe: Recipe, start: Checkpoint) -> None:
    data, trainable = data_of(recipe, start, 0)
    stage = recipe.stages[0].model_copy(update={"optimizer": "muon"})
    optimizer = make_optimizer(trainable, stage)
    muon, adamw = optimizer.parts
    matrices = [p for g in muon.param_groups for p in g["params"]]
    assert sum(len(g["params"]) for o in (muon, adamw) for g in o.param_groups) == len(trainable.masters)
    embedding = trainable.masters["model.embed_tokens.weight"]
    assert any(p is embedding for g in adamw.param_groups for p in g["params"])
    was = [p.detach().clone() for p in matrices]
    losses = [train_step(trainable, optimizer, data.batch(0), "cpt", 3e-3, 1.0).loss]
    sizes = [float((p.detach() - old).square().mean().sqrt()) / 3e-3 for p, old in zip(matrices, was, strict=True)]
    assert all(0.1 < size < 0.3 for size in sizes), sizes  # as AdamW's steps are: .2 of the rate
    losses += [train_step(trainable, optimizer, data.batch(0), "cpt", 3e-3, 1.0).loss for _ in range(29)]
    assert losses[-1] < losses[0] - 2


# -- steps that must not count ------------------------------------------------------------------------------------


def spoil(monkeypatch: pytest.MonkeyPatch, data: StageData, steps: set[int]) -> None:
    """The loss of these steps (from 0) is not a number, as after an overflow."""
    real = loop.compute_gradient
    bad = {data.batch(step).ids for step in steps}

    def compute(trainable: Trainable, batch: Batch, *args: Any, **more: Any) -> loop.Gradient:
        gradient = real(trainable, batch, *args, **more)
        return replace(gradient, loss=float("nan")) if batch.ids in bad else gradient

    monkeypatch.setattr(loop, "compute_gradient", compute)


def test_a_bad_step_is_skipped_and_named(
    recipe: Recipe, start: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, trainable = data_of(recipe, start, 0)
    spoil(monkeypatch, data, {5})
    said: list[str] = []
    train_stage(stage_run(recipe, data, tmp_path), trainable, replace(hooks(tmp_path), say=said.append))
    events = read_metrics(tmp_path / "metrics.jsonl")
    (skip,) = [e for e in events if e["event"] == "skip"]
    assert skip["step"] == 6 and tuple(skip["ids"]) == data.batch(5).ids[:20] and "nan" in skip["why"]
    assert [e["step"] for e in events if e["event"] == "step"] == [s for s in range(1, data.n_steps + 1) if s != 6]
    assert any("step 6 skipped" in s for s in said)
    assert all(m.isfinite().all() for m in trainable.masters.values())


def test_three_bad_steps_lead_back_and_are_left_out(
    recipe: Recipe, start: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints every 4 steps; steps 6, 7 and 8 (from 0) are bad: back to 4, on with 9. Stopped or not: the same."""
    data, straight = data_of(recipe, start, 0)
    spoil(monkeypatch, data, {6, 7, 8})
    train_stage(stage_run(recipe, data, tmp_path / "a"), straight, hooks(tmp_path / "a"))
    events = read_metrics(tmp_path / "a" / "metrics.jsonl")
    steps = [e["step"] for e in events if e["event"] == "step"]
    assert steps == [1, 2, 3, 4, *range(10, data.n_steps + 1)]
    (back,) = [e for e in events if e["event"] == "roll back"]
    assert back["step"] == 9 and back["to"] == 4
    data, stopped = data_of(recipe, start, 0)
    with pytest.raises(StoppedByUserError):
        train_stage(stage_run(recipe, data, tmp_path / "b"), stopped, hooks(tmp_path / "b", stop_after=10))
    data, resumed = data_of(recipe, start, 0)
    train_stage(stage_run(recipe, data, tmp_path / "b"), resumed, hooks(tmp_path / "b"))
    a, b = weights(straight), weights(resumed)
    assert all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("stop_after", [6, 8])
def test_a_stop_before_or_among_bad_steps_changes_no_weight(
    recipe: Recipe, start: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    """Steps 6, 7 and 8 (from 0) are bad and lead back to step 4, also where a stop wrote a later checkpoint."""
    data, straight = data_of(recipe, start, 0)
    spoil(monkeypatch, data, {6, 7, 8})
    train_stage(stage_run(recipe, data, tmp_path / "a"), straight, hooks(tmp_path / "a"))
    data, stopped = data_of(recipe, start, 0)
    with pytest.raises(StoppedByUserError, match="a checkpoint was written"):
        train_stage(stage_run(recipe, data, tmp_path / "b"), stopped, hooks(tmp_path / "b", stop_after=stop_after))
    data, resumed = data_of(recipe, start, 0)
    train_stage(stage_run(recipe, data, tmp_path / "b"), resumed, hooks(tmp_path / "b"))
    a, b = weights(straight), weights(resumed)
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_a_damaged_newer_checkpoint_does_not_push_out_the_one_to_go_back_to(
    recipe: Recipe, start: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints at 4 and 8, the latter damaged; a stop at 7 writes another one; steps 8 to 10 are bad: back to 4."""
    data, straight = data_of(recipe, start, 0)
    with pytest.raises(StoppedByUserError):
        train_stage(stage_run(recipe, data, tmp_path), straight, hooks(tmp_path, stop_after=8))
    part = next((tmp_path / "step-0000008").glob("part-*"))
    part.write_bytes(part.read_bytes()[:-8])
    spoil(monkeypatch, data, {7, 8, 9})
    for stop_after in (3, 10**9):
        data, trainable = data_of(recipe, start, 0)
        if stop_after == 3:
            with pytest.raises(StoppedByUserError, match="stopped at step 7"):
                train_stage(stage_run(recipe, data, tmp_path), trainable, hooks(tmp_path, stop_after=3))
            assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-0000007", "step-0000004"]
        else:
            train_stage(stage_run(recipe, data, tmp_path), trainable, hooks(tmp_path))
    back = [(e["step"], e["to"]) for e in read_metrics(tmp_path / "metrics.jsonl") if e["event"] == "roll back"]
    assert back == [(10, 4)]


def test_less_memory_than_before_a_stop_counts(
    recipe: Recipe, start: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = loop.compute_gradient, []

    def compute(*args: Any, micro_tokens: int, **more: Any) -> loop.Gradient:
        asked.append(micro_tokens)
        return real(*args, micro_tokens=micro_tokens, **more)

    monkeypatch.setattr(loop, "compute_gradient", compute)
    for planned in (256, 64, 512):
        data, trainable = data_of(recipe, start, 0)
        run = replace(stage_run(recipe, data, tmp_path), micro_tokens=planned)
        with pytest.raises(StoppedByUserError):
            train_stage(run, trainable, hooks(tmp_path, stop_after=2))
    assert asked == [256, 256, 64, 64, 64, 64]  # more memory changes nothing: sums would be other ones


def test_checkpoints_of_steps_that_no_longer_count_go(
    recipe: Recipe, start: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop wrote one at 6; steps 7 to 9 are bad and lead back to 4."""
    for stop_after in (6, 4):
        data, trainable = data_of(recipe, start, 0)
        spoil(monkeypatch, data, {6, 7, 8})
        with pytest.raises(StoppedByUserError):
            train_stage(stage_run(recipe, data, tmp_path), trainable, hooks(tmp_path, stop_after=stop_after))
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-0000010", "step-0000004"]


def test_processes_that_see_different_checkpoints_do_not_go_on(
    recipe: Recipe, start: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, trainable = data_of(recipe, start, 0)
    with pytest.raises(StoppedByUserError):
        train_stage(stage_run(recipe, data, tmp_path), trainable, hooks(tmp_path, stop_after=5))
    monkeypatch.setattr(World, "total", lambda _, numbers: [numbers[0] + 1])  # as if another one saw step 6
    data, again = data_of(recipe, start, 0)
    with pytest.raises(BessemerError, match="process 0 finds step 5"):
        train_stage(stage_run(recipe, data, tmp_path), again, hooks(tmp_path))


def test_bad_steps_before_any_checkpoint_end_the_stage(
    recipe: Recipe, start: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, trainable = data_of(recipe, start, 0)
    spoil(monkeypatch, data, {1, 2, 3})
    with pytest.raises(BessemerError, match="(?s)step 4: loss nan.*lower lr"):
        train_stage(stage_run(recipe, data, tmp_path), trainable, hooks(tmp_path))


def test_a_third_way_back_ends_the_stage(
    recipe: Recipe, start: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, trainable = data_of(recipe, start, 0)
    spoil(monkeypatch, data, {5, 6, 7, 10, 11, 12, 15, 16, 17})
    with pytest.raises(BessemerError, match="step 18: loss nan"):
        train_stage(stage_run(recipe, data, tmp_path), trainable, hooks(tmp_path))
    back = [(e["step"], e["to"]) for e in read_metrics(tmp_path / "metrics.jsonl") if e["event"] == "roll back"]
    assert back == [(8, 4), (13, 8)]


def test_the_token_that_pads_elsewhere_learns(recipe: Recipe, start: Checkpoint, tmp_path: Path) -> None:
    """Rows hold no padding; in tuned models this token ends every turn, and torch would leave its row out."""
    batch = data_of(recipe, start, 0)[0].batch(0)
    token = int(batch.tokens_N[5])
    folder = shutil.copytree(start.path, tmp_path / "padding")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": token}))
    found: list[torch.Tensor] = []
    for path in (start.path, folder):
        trainable = prepare(replace(start, path=path), None)
        compute_gradient(trainable, batch, "cpt", 1e9)
        gradient = trainable.masters["model.embed_tokens.weight"].grad
        assert gradient is not None
        found.append(gradient[token].clone())
    assert torch.equal(*found)


def test_only_matrices_decay(recipe: Recipe) -> None:
    stage = recipe.stages[0].model_copy(update={"weight_decay": 0.5})
    matrix, vector = (torch.nn.Parameter(torch.ones(shape)) for shape in ((2, 2), (2,)))
    optimizer = _adamw([matrix, vector], stage)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    matrix.grad, vector.grad = torch.zeros(2, 2), torch.zeros(2)
    optimizer.step()
    assert torch.allclose(matrix, torch.full((2, 2), 0.95)) and torch.equal(vector, torch.ones(2))


def test_too_little_memory_halves_what_is_computed_at_once(
    recipe: Recipe, start: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, trainable = data_of(recipe, start, 0)
    real, asked = loop.compute_gradient, []

    def compute(*args: Any, micro_tokens: int, **more: Any) -> loop.Gradient:
        asked.append(micro_tokens)
        gradient = real(*args, micro_tokens=micro_tokens, **more)
        if micro_tokens > 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return gradient

    monkeypatch.setattr(loop, "compute_gradient", compute)
    run = replace(stage_run(recipe, data, tmp_path), micro_tokens=256)
    train_stage(run, trainable, hooks(tmp_path))
    assert asked[:4] == [256, 128, 64, 64] and set(asked[3:]) == {64}
    monkeypatch.setattr(loop, "compute_gradient", real)
    data, straight = data_of(recipe, start, 0)
    train_stage(replace(stage_run(recipe, data, tmp_path / "c"), micro_tokens=64), straight, hooks(tmp_path / "c"))
    a, b = weights(trainable), weights(straight)
    assert all(torch.equal(a[n], b[n]) for n in a)  # nothing of a failed attempt counts
    monkeypatch.setattr(loop, "compute_gradient", lambda *_, **__: (_ for _ in ()).throw(MemoryError("no")))
    with pytest.raises(BessemerError, match="(?s)do not fit into memory.*method: lora"):
        train_stage(stage_run(recipe, data, tmp_path / "b"), trainable, hooks(tmp_path / "b"))


# -- the first step -----------------------------------------------------------------------------------------------


def test_a_foreign_tokenizer_is_refused_at_the_first_step(recipe: Recipe, start: Checkpoint, tmp_path: Path) -> None:
    data, trainable = data_of(recipe, start, 0)
    with torch.no_grad():
        trainable.loaded.head.weight.mul_(40)  # sure of itself and wrong, as with shuffled tokens
    with pytest.raises(BessemerError, match="nats a token; guessing would be"):
        train_stage(stage_run(recipe, data, tmp_path), trainable, hooks(tmp_path))


@pytest.mark.parametrize(
    "said", ["no target in the batch", "a gradient of exactly zero", "a frozen weight has a gradient"]
)
def test_gradients_that_cannot_be_right(recipe: Recipe, start: Checkpoint, said: str) -> None:
    data, trainable = data_of(recipe, start, 1)
    batch = data.batch(0)
    found = compute_gradient(trainable, batch, "sft", 1.0)
    check_first_step("s", trainable, batch, found.loss, found.norm, found.per_source, untouched=True)
    if "target" in said:
        batch = replace(batch, targets_N=np.full_like(batch.targets_N, NO_TARGET))
    elif "zero" in said:
        gradient = next(iter(trainable.masters.values())).grad
        assert gradient is not None
        gradient.zero_()
    else:
        frozen = next(p for p in trainable.loaded.model.parameters() if not p.requires_grad)
        frozen.grad = torch.zeros_like(frozen)
    with pytest.raises(BessemerError, match=said):
        check_first_step("s", trainable, batch, found.loss, found.norm, found.per_source, untouched=True)


def test_replay_does_not_hide_a_foreign_tokenizer(start: Checkpoint) -> None:
    """Against its own predictions the start's loss is zero, whatever the tokens mean."""
    trainable = prepare(start, None, keep_start=True)
    with torch.no_grad():
        trainable.loaded.head.weight.mul_(3)
        for name, value in trainable.start.items():
            value.copy_(trainable.masters[name])
    numbers = np.random.default_rng(0)
    own, general = (Segment(name, numbers.integers(3, 300, n), np.ones(n, bool)) for name, n in (("a", 60), ("b", 240)))
    batch = build_batch([(0, (own,)), (1, (general,))], ["own", "general"], {}, frozenset({"general"}))
    gradient = compute_gradient(trainable, batch, "cpt", 1.0)
    with pytest.raises(BessemerError, match="nats a token; guessing would be"):
        check_first_step("a", trainable, batch, gradient.loss, gradient.norm, gradient.per_source, untouched=True)


def test_a_last_checkpoint_that_cannot_be_written_does_not_cost_the_stage(
    recipe: Recipe, start: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, trainable = data_of(recipe, start, 0)
    full, real, said = {(data.n_steps - 1) // 4 * 4}, checkpoint.write_hashed, list[str]()

    def write(path: Path, content: Any) -> Any:
        if int(path.parent.name[-7:]) in full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(checkpoint, "write_hashed", write)
    train_stage(stage_run(recipe, data, tmp_path), trainable, replace(hooks(tmp_path), say=said.append))
    assert any("No space left" in text and "all steps are done" in text for text in said)
    full.add(data.n_steps)
    with pytest.raises(BessemerError, match="No space left"):  # where checkpoints are what is wanted
        kept = replace(stage_run(recipe, data, tmp_path / "kept"), keep_all=True, checkpoint_every=100)
        train_stage(kept, data_of(recipe, start, 0)[1], hooks(tmp_path))


def test_a_weight_without_gradient_is_refused_at_the_first_step(
    recipe: Recipe, start: Checkpoint, tmp_path: Path
) -> None:
    data, trainable = data_of(recipe, start, 0)
    unused = torch.nn.Parameter(torch.ones(3))
    trainable.loaded.model.register_parameter("unused", unused)
    trainable.params["unused"] = trainable.masters["unused"] = unused
    with pytest.raises(BessemerError, match="get no gradient, first unused"):
        train_stage(stage_run(recipe, data, tmp_path), trainable, hooks(tmp_path))


@pytest.mark.parametrize("general", ["data", "start"])
def test_leaving_out_ends_and_sharing_beginnings_change_no_gradient(
    recipe: Recipe, start: Checkpoint, general: Literal["data", "start"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twins, other documents and anchored ones in one batch: fewer tokens are computed, the gradient is the same."""
    recipe.stages[1] = recipe.stages[1].model_copy(update={"general": general, "rows": 6})
    data, trainable = data_of(recipe, start, 1)
    with torch.no_grad():  # off the start, where nothing of an anchor would be learned
        for master in trainable.masters.values():
            master.add_(torch.randn_like(master) * 0.01)
    batch = data.batch(0)
    shorter = loop.without_ends(batch)
    shared = loop.share_beginnings(shorter)
    assert shared.sees_D and any(shared.branches_D)
    assert len(shared.tokens_N) < len(shorter.tokens_N) < len(batch.tokens_N)
    found: list[dict[str, torch.Tensor]] = []
    whole: Callable[[Batch], Batch] = lambda batch: batch  # noqa: E731
    for ends, beginnings, computed in ((loop.without_ends, loop.share_beginnings, shared), (whole, whole, batch)):
        monkeypatch.setattr(loop, "without_ends", ends)
        monkeypatch.setattr(loop, "share_beginnings", beginnings)
        trainable.clear_gradients()
        assert loop.compute_gradient(trainable, batch, "sft", 1e9).n_tokens == len(computed.tokens_N)
        found.append({n: m.grad.clone() for n, m in trainable.masters.items() if m.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient, atol=2e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_the_share_of_the_peak_counts_only_what_is_computed(recipe: Recipe, start: Checkpoint, tmp_path: Path) -> None:
    data, trainable = data_of(recipe, start, 1)
    train_stage(stage_run(recipe, data, tmp_path, 1), trainable, hooks(tmp_path))
    first = next(e for e in read_metrics(tmp_path / "metrics.jsonl") if e["event"] == "step")
    batch = data.batch(0)
    n_computed = len(loop.share_beginnings(loop.without_ends(batch)).tokens_N)
    n_targets = int((batch.targets_N != NO_TARGET).sum())
    assert n_computed < len(batch.tokens_N)
    per = [sum(p.numel() for p in layer.parameters() if p.ndim == 2) for layer in trainable.loaded.model.model.layers]
    layers = (2 * sum(per[:2]) + 6 * sum(per[2:])) * n_computed  # the lower half is frozen, and what is below it
    assert first["flops"] == layers + 4 * trainable.loaded.head.weight.numel() * n_targets  # the head is the embedding


def test_a_checkpoint_says_of_which_plan_it_is(recipe: Recipe, start: Checkpoint, tmp_path: Path) -> None:
    data, trainable = data_of(recipe, start, 0)
    run = replace(stage_run(recipe, data, tmp_path), plan="mine")
    with pytest.raises(StoppedByUserError):
        train_stage(run, trainable, hooks(tmp_path, stop_after=5))
    (newest, *_) = checkpoint.complete(tmp_path)
    assert read_json(newest / "state.json")["plan"] == "mine"
    data, trainable = data_of(recipe, start, 0)
    with pytest.raises(StoppedByUserError):  # another plan begins at the beginning
        train_stage(replace(run, plan="another"), trainable, hooks(tmp_path, stop_after=2))
    assert checkpoint.complete(tmp_path)[0].name == "step-0000002"
