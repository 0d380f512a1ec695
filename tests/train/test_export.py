from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bessemer.families.fetch import resolve
from bessemer.train.export import export_model


@pytest.mark.parametrize(("share", "expected"), [(1.0, 2.0), (0.5, 1.5), (0.25, 1.25)])
def test_exported_weights_lie_between_start_and_trained(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, expected: float
) -> None:
    """Trained weights are twice the start's; the rest of the model is the start's own."""
    monkeypatch.setenv("BESSEMER_DTYPE", "float32")
    start = resolve(str(tiny_model))
    old = load_file(tiny_model / "model.safetensors")
    name = "model.layers.3.mlp.up_proj.weight"
    save_file({name: old[name] * 2}, tmp_path / "trained.safetensors")
    export_model(start, tmp_path / "trained.safetensors", tmp_path / "model", share)
    new = load_file(tmp_path / "model" / "model.safetensors")
    torch.testing.assert_close(new[name], old[name] * expected)
    assert all(torch.equal(new[n], old[n]) for n in old if n != name)
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == (tiny_model / "tokenizer.json").read_bytes()
