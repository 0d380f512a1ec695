from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bessemer.data.batches import NO_TARGET, build_batch, split_batch
from bessemer.data.pack import Segment
from bessemer.infer.model import Loaded, load
from bessemer.train import objectives
from bessemer.train.objectives import next_token_loss


@pytest.fixture
def loaded(tiny_model: Path) -> Loaded:
    loaded = load(tiny_model, dtype=torch.float32)
    loaded.model.requires_grad_(True)
    return loaded


def rows(seed: int = 0) -> list[tuple[int, tuple[Segment, ...]]]:
    rng = np.random.default_rng(seed)
    out: list[tuple[int, tuple[Segment, ...]]] = []
    for source, length in ((0, 30), (1, 21), (0, 9), (0, 2), (1, 40)):
        supervised = rng.random(length) < 0.5
        supervised[-1] = True
        out.append((source, (Segment(f"{source}", rng.integers(3, 500, length).astype(np.int32), supervised),)))
    return out


def gradients(loaded: Loaded) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in loaded.model.named_parameters() if p.grad is not None}
    loaded.model.zero_grad(set_to_none=True)
    return found


def test_fused_loss_equals_cross_entropy_with_its_gradients(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "CHUNK", 7)  # several chunks, the last one short
    batch = build_batch(rows(), ["a", "b"], {"b": 0.3})
    loss, losses_S = next_token_loss(loaded, batch)
    loss.backward()
    ours = gradients(loaded)
    tokens, positions = torch.from_numpy(batch.tokens_N), torch.from_numpy(batch.positions_N)
    logits = loaded.head(loaded.hidden(tokens, positions, loaded.layout(batch.lengths_D)))
    targets = torch.from_numpy(batch.targets_N)
    each = F.cross_entropy(logits, targets, ignore_index=NO_TARGET, reduction="none")
    expected = (each * torch.from_numpy(batch.weights_N)).sum()
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses_S, each.detach()[targets != NO_TARGET], rtol=1e-5, atol=1e-5)
    for name, grad in gradients(loaded).items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-3, atol=1e-5, msg=name)


def test_accumulation_does_not_change_loss_or_gradient(loaded: Loaded) -> None:
    batch = build_batch(rows(), ["a", "b"], {"b": 0.3})
    whole, _ = next_token_loss(loaded, batch)
    whole.backward()
    at_once = gradients(loaded)
    parts = split_batch(batch, 25)
    assert len(parts) >= 3
    total = 0.0
    for part in parts:
        loss, _ = next_token_loss(loaded, part)
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.item(), rel=1e-6)
    for name, grad in gradients(loaded).items():
        torch.testing.assert_close(at_once[name], grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_frozen_head_gets_no_gradient(loaded: Loaded) -> None:
    loaded.model.get_input_embeddings().requires_grad_(False)
    loss, _ = next_token_loss(loaded, build_batch(rows(), ["a", "b"], {}))
    loss.backward()
    assert loaded.head.weight.grad is None
    assert all(p.grad is not None for n, p in loaded.model.named_parameters() if "embed" not in n)
