from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bessemer.data.batch import NO_TARGET, build_batch, divide
from bessemer.data.shards import Segment
from bessemer.families.fetch import resolve
from bessemer.train import head
from bessemer.train.objectives import next_token_loss
from bessemer.train.weights import Trainable, prepare


@pytest.fixture
def trainable(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Trainable:
    monkeypatch.setenv("BESSEMER_DTYPE", "float32")
    return prepare(resolve(str(tiny_model)), None, keep_start=True)


def rows(seed: int = 0) -> list[tuple[int, tuple[Segment, ...]]]:
    rng = np.random.default_rng(seed)
    out: list[tuple[int, tuple[Segment, ...]]] = []
    for source, length in ((0, 30), (1, 21), (0, 9), (0, 2), (1, 40)):
        supervised = rng.random(length) < 0.5
        supervised[-1] = True
        out.append((source, (Segment(f"{source}", rng.integers(3, 500, length).astype(np.int32), supervised),)))
    return out


def gradients(trainable: Trainable) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in trainable.loaded.model.named_parameters() if p.grad is not None}
    trainable.loaded.model.zero_grad(set_to_none=True)
    return found


def test_fused_loss_equals_cross_entropy_with_its_gradients(
    trainable: Trainable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "CHUNK", 7)  # several chunks, the last one short
    batch = build_batch(rows(), ["a", "b"], {"b": 0.3})
    loss, losses_S = next_token_loss(trainable, batch)
    loss.backward()
    ours = gradients(trainable)
    tokens, positions = torch.from_numpy(batch.tokens_N), torch.from_numpy(batch.positions_N)
    logits = trainable.loaded.head(trainable.loaded.hidden(tokens, positions, trainable.loaded.layout(batch.lengths_D)))
    targets = torch.from_numpy(batch.targets_N)
    each = F.cross_entropy(logits, targets, ignore_index=NO_TARGET, reduction="none")
    expected = (each * torch.from_numpy(batch.weights_N)).sum()
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses_S, each.detach()[targets != NO_TARGET], rtol=1e-5, atol=1e-5)
    for name, grad in gradients(trainable).items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-3, atol=1e-5, msg=name)


def test_accumulation_does_not_change_loss_or_gradient(trainable: Trainable) -> None:
    batch = build_batch(rows(), ["a", "b"], {"b": 0.3})
    whole, _ = next_token_loss(trainable, batch)
    whole.backward()
    at_once = gradients(trainable)
    parts = divide(batch, 1, 25)[0]
    assert len(parts) >= 3
    total = 0.0
    for part in parts:
        loss, _ = next_token_loss(trainable, part)
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.item(), rel=1e-6)
    for name, grad in gradients(trainable).items():
        torch.testing.assert_close(at_once[name], grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_frozen_head_gets_no_gradient(trainable: Trainable) -> None:
    trainable.loaded.model.get_input_embeddings().requires_grad_(False)
    loss, _ = next_token_loss(trainable, build_batch(rows(), ["a", "b"], {}))
    loss.backward()
    assert trainable.loaded.head.weight.grad is None
    assert all(p.grad is not None for n, p in trainable.loaded.model.named_parameters() if "embed" not in n)


def test_an_anchored_source_has_no_loss_and_no_gradient_at_the_start(trainable: Trainable) -> None:
    batch = build_batch(rows(), ["a", "b"], {"b": 1.0, "a": 1.0}, frozenset({"a", "b"}))
    loss, losses_S = next_token_loss(trainable, batch)
    loss.backward()
    assert losses_S.abs().max().item() < 1e-4
    assert all(g.abs().max().item() < 1e-4 for g in gradients(trainable).values())


def test_an_anchored_source_gives_kl_to_the_start_with_its_gradients(trainable: Trainable) -> None:
    model = trainable.loaded.model
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    batch = build_batch(rows(), ["a", "b"], {"b": 0.5}, frozenset({"b"}))
    loss, _ = next_token_loss(trainable, batch)
    loss.backward()
    ours = gradients(trainable)
    tokens, positions = torch.from_numpy(batch.tokens_N), torch.from_numpy(batch.positions_N)
    layout = trainable.loaded.layout(batch.lengths_D)
    new = trainable.loaded.head(trainable.loaded.hidden(tokens, positions, layout)).log_softmax(-1)
    hidden, start_head = trainable.start_hidden(tokens, positions, layout)
    old = (hidden @ start_head.T).log_softmax(-1).detach()
    targets, weights = torch.from_numpy(batch.targets_N), torch.from_numpy(batch.weights_N)
    hard = F.nll_loss(new, targets, ignore_index=NO_TARGET, reduction="none")
    soft = F.kl_div(new, old, log_target=True, reduction="none").sum(-1)
    expected = (torch.where(torch.from_numpy(batch.sources_N) == 1, soft, hard) * weights).sum()
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-4, atol=1e-6)
    for name, grad in gradients(trainable).items():
        torch.testing.assert_close(ours[name], grad, rtol=2e-3, atol=2e-5, msg=name)


def test_z_loss_equals_its_definition_with_its_gradients(trainable: Trainable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK", 7)
    batch = build_batch(rows(), ["a", "b"], {"b": 0.3})
    loss, losses_S = next_token_loss(trainable, batch, z_loss=0.01)
    loss.backward()
    ours = gradients(trainable)
    tokens, positions = torch.from_numpy(batch.tokens_N), torch.from_numpy(batch.positions_N)
    hidden = trainable.loaded.hidden(tokens, positions, trainable.loaded.layout(batch.lengths_D))
    wanted = torch.from_numpy(batch.targets_N) != NO_TARGET
    logits, weights = trainable.loaded.head(hidden[wanted]), torch.from_numpy(batch.weights_N)[wanted]
    plain = F.cross_entropy(logits, torch.from_numpy(batch.targets_N)[wanted], reduction="none")
    expected = (weights * (plain + 0.01 * logits.logsumexp(-1) ** 2)).sum()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(losses_S, plain.detach(), atol=1e-5, rtol=1e-5)
    theirs = gradients(trainable)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-4)
