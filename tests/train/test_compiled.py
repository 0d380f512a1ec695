"""What is compiled computes what is written; a long stage alone is compiled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from bessemer.data.batch import StageData
from bessemer.data.stage import build_stage, tokenise
from bessemer.errors import BessemerError
from bessemer.families.fetch import Checkpoint
from bessemer.infer.score import Window, window_bits
from bessemer.recipe.schema import Recipe
from bessemer.train import compiled
from bessemer.train.compiled import compile_layers, has_compiler, is_worth
from bessemer.train.loop import compute_gradient
from bessemer.train.weights import Trainable, Trained, prepare

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BESSEMER_DTYPE", "float32")
    monkeypatch.delenv("BESSEMER_COMPILE", raising=False)


def gradients(trainable: Trainable, data: StageData, step: int, objective: str) -> dict[str, torch.Tensor]:
    trainable.clear_gradients()
    compute_gradient(trainable, data.batch(step), objective, 1e9, z_loss=1e-3)
    return {n: m.grad.clone() for n, m in trainable.masters.items() if m.grad is not None}


@needs_compiler
@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.full)])
def test_compiled_gradients_are_those_of_the_code_as_written(recipe: Recipe, start: Checkpoint, method: str) -> None:
    """Both objectives, anchored documents and prompts with a common beginning among them, lengths that differ."""
    trained = Trained(method=method, rank=4)  # type: ignore[arg-type]
    written, fused = (prepare(start, None, trained, keep_start=True) for _ in range(2))
    compile_layers(fused)
    anchored = recipe.stages[1].model_copy(update={"general": "start"})
    recipe = recipe.model_copy(update={"stages": [recipe.stages[0], anchored]})
    sets = tokenise(recipe, written.loaded.renderer)
    for number, stage in enumerate(recipe.stages):
        data = build_stage(recipe, number, sets)
        for step in range(2):
            with torch.no_grad():  # off the start, where nothing of an anchor would be learned
                for name, master in written.masters.items():
                    master.add_(torch.randn_like(master) * 0.01)
                    fused.masters[name].copy_(master)
            wanted = gradients(written, data, step, stage.objective)
            found = gradients(fused, data, step, stage.objective)
            assert found.keys() == wanted.keys()
            for name, grad in wanted.items():
                torch.testing.assert_close(found[name], grad, atol=2e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@needs_compiler
def test_measuring_is_not_compiled(recipe: Recipe, start: Checkpoint) -> None:
    """Bits during training are compared with bits before it, to the last digit."""
    trainable = prepare(start, None)
    windows = [Window("a", tuple(range(5, 45)), 40), Window("b", tuple(range(9, 33)), 24)]
    before = window_bits(trainable.loaded, windows)
    torch._dynamo.reset()
    counters.clear()
    compile_layers(trainable)
    data = build_stage(recipe, 0, tokenise(recipe, trainable.loaded.renderer))
    compute_gradient(trainable, data.batch(0), "cpt", 1.0)
    with trainable.as_written():
        assert (window_bits(trainable.loaded, windows) == before).all()
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    batches = [data.batch(step) for step in range(1, data.n_steps)]
    assert len({len(trainable.loaded.layout(b.lengths_D).blocks) for b in batches}) > 1
    for batch in batches:
        compute_gradient(trainable, batch, "cpt", 1.0)
    assert counters["stats"]["unique_graphs"] == graphs, "another division into blocks was compiled anew"


def test_only_long_stages_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "has_compiler", lambda: True)
    assert is_worth(compiled.WORTH_FLOPS) and not is_worth(compiled.WORTH_FLOPS / 2)
    monkeypatch.setenv("BESSEMER_COMPILE", "0")
    assert not is_worth(1e20)
    monkeypatch.setenv("BESSEMER_COMPILE", "1")
    assert is_worth(0)
    monkeypatch.setattr(compiled, "has_compiler", lambda: False)
    with pytest.raises(BessemerError, match="no C\\+\\+ compiler"):
        is_worth(0)
    monkeypatch.setenv("BESSEMER_COMPILE", "yes")
    with pytest.raises(BessemerError, match="neither 0 nor 1"):
        is_worth(0)
    monkeypatch.delenv("BESSEMER_COMPILE")
    assert not is_worth(1e20), "without a compiler nothing is compiled"
