"""Objectives: batch -> loss. `cpt` and `sft` both predict the next token; the batch says which ones count.

Legend: N tokens, S supervised positions, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bessemer.data.batch import NO_TARGET, Batch
from bessemer.train.weights import Trainable

CHUNK = 512  # positions that go through the head at once; the logits of a whole batch never exist


class _HeadLoss(torch.autograd.Function):
    """Head, softmax and weighted loss in one, chunk by chunk, gradients made on the way.

    Cross-entropy against a token, or KL(start || model) against the start checkpoint's distribution (learning
    without forgetting: Li & Hoiem, arXiv 1606.09282). The gradient of the logits is (softmax - target) * weight,
    known as soon as the logits are; so no chunk is computed twice and none is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_SC: Tensor, head_VC: Tensor, targets_S: Tensor, weights_S: Tensor, anchor: Anchor | None
    ) -> Any:
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        losses_S = torch.empty(len(targets_S), dtype=torch.float32, device=hidden_SC.device)
        grad_hidden_SC = torch.empty_like(hidden_SC) if needs_hidden else None
        grad_head_VC = torch.zeros_like(head_VC, dtype=torch.float32) if needs_head else None
        for start in range(0, len(targets_S), CHUNK):
            part = slice(start, start + CHUNK)
            logprobs_cV = torch.log_softmax((hidden_SC[part] @ head_VC.T).float(), dim=-1)
            losses_S[part] = -logprobs_cV.gather(1, targets_S[part, None])[:, 0]
            anchored_c = anchor.rows_S[part] if anchor else None
            old_aV = anchor.logprobs(part) if anchor and anchored_c is not None and anchored_c.any() else None
            if old_aV is not None:
                losses_S[part][anchored_c] = (old_aV.exp() * (old_aV - logprobs_cV[anchored_c])).sum(-1)
            if not (needs_hidden or needs_head):
                continue
            grad_cV = logprobs_cV.exp_()
            hard_c = torch.ones(len(grad_cV), device=grad_cV.device)
            if old_aV is not None:
                grad_cV[anchored_c] -= old_aV.exp()
                hard_c[anchored_c] = 0
            grad_cV.scatter_add_(1, targets_S[part, None], -hard_c[:, None])
            grad_cV = grad_cV.mul_(weights_S[part, None]).to(hidden_SC.dtype)
            if grad_hidden_SC is not None:
                grad_hidden_SC[part] = grad_cV @ head_VC
            if grad_head_VC is not None:
                grad_head_VC += grad_cV.T @ hidden_SC[part]
        ctx.save_for_backward(grad_hidden_SC, grad_head_VC)
        ctx.head_dtype = head_VC.dtype
        ctx.mark_non_differentiable(losses_S)
        return (losses_S * weights_S).sum(), losses_S

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grad_hidden_SC, grad_head_VC = ctx.saved_tensors
        scale = grad_outputs[0]
        return (
            None if grad_hidden_SC is None else grad_hidden_SC * scale,
            None if grad_head_VC is None else (grad_head_VC * scale).to(ctx.head_dtype),
            None,
            None,
            None,
        )


@dataclass(frozen=True)
class Anchor:
    """What the start checkpoint thinks at the anchored positions. rows_S marks them among all targets."""

    rows_S: Tensor
    hidden_AC: Tensor
    head_VC: Tensor

    def logprobs(self, part: slice) -> Tensor:
        """Log-probabilities of the anchored rows within a part of the targets. [rows, V]"""
        before, inside = int(self.rows_S[: part.start].sum()), int(self.rows_S[part].sum())
        return torch.log_softmax((self.hidden_AC[before : before + inside] @ self.head_VC.T).float(), dim=-1)


def next_token_loss(trainable: Trainable, batch: Batch) -> tuple[Tensor, Tensor]:
    """(weighted loss, with gradients; loss in nats of each target [S], in the batch's order)."""
    loaded = trainable.loaded
    device = loaded.machine.device
    tokens_N, positions_N, targets_N, weights_N = (
        torch.from_numpy(x).to(device) for x in (batch.tokens_N, batch.positions_N, batch.targets_N, batch.weights_N)
    )
    hidden_NC = loaded.hidden(tokens_N, positions_N, loaded.layout(batch.lengths_D, batch.sees_D))
    wanted_N = targets_N != NO_TARGET
    anchor = _anchor(trainable, batch, tokens_N, positions_N, wanted_N) if any(batch.anchored_D) else None
    return _HeadLoss.apply(hidden_NC[wanted_N], loaded.head.weight, targets_N[wanted_N], weights_N[wanted_N], anchor)  # type: ignore[return-value]


def _anchor(trainable: Trainable, batch: Batch, tokens_N: Tensor, positions_N: Tensor, wanted_N: Tensor) -> Anchor:
    """Run the start checkpoint on the anchored documents only."""
    lengths = torch.tensor(batch.lengths_D)
    anchored_N = torch.tensor(batch.anchored_D).repeat_interleave(lengths).to(tokens_N.device)
    own = [length for length, anchored in zip(batch.lengths_D, batch.anchored_D, strict=True) if anchored]
    layout = trainable.loaded.layout(own)
    hidden_AC = trainable.start_hidden(tokens_N[anchored_N], positions_N[anchored_N], layout)
    return Anchor(anchored_N[wanted_N], hidden_AC[wanted_N[anchored_N]], trainable.start_head)


Objective = Callable[[Trainable, Batch], tuple[Tensor, Tensor]]
OBJECTIVES: dict[str, Objective] = {"cpt": next_token_loss, "sft": next_token_loss}
