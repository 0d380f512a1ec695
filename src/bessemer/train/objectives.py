"""Objectives: batch -> loss. `cpt` and `sft` both predict the next token; the batch says which ones count.

Legend: N tokens, S supervised positions, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bessemer.data.batches import NO_TARGET, Batch
from bessemer.infer.model import Loaded

CHUNK = 512  # positions that go through the head at once; the logits of a whole batch never exist


class _LinearCrossEntropy(torch.autograd.Function):
    """Head, softmax and weighted cross-entropy in one, chunk by chunk, gradients made on the way.

    The gradient of the logits is (softmax - one_hot) * weight, known as soon as the logits are; so no chunk is
    computed twice and none is kept.
    """

    @staticmethod
    def forward(ctx: Any, hidden_SC: Tensor, head_VC: Tensor, targets_S: Tensor, weights_S: Tensor) -> Any:
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        losses_S = torch.empty(len(targets_S), dtype=torch.float32, device=hidden_SC.device)
        grad_hidden_SC = torch.empty_like(hidden_SC) if needs_hidden else None
        grad_head_VC = torch.zeros_like(head_VC, dtype=torch.float32) if needs_head else None
        for start in range(0, len(targets_S), CHUNK):
            part = slice(start, start + CHUNK)
            logits_cV = (hidden_SC[part] @ head_VC.T).float()
            row = torch.arange(len(logits_cV), device=logits_cV.device)
            log_total_c = torch.logsumexp(logits_cV, dim=-1)
            losses_S[part] = log_total_c - logits_cV[row, targets_S[part]]
            if not (needs_hidden or needs_head):
                continue
            grad_cV = logits_cV.sub_(log_total_c[:, None]).exp_()
            grad_cV[row, targets_S[part]] -= 1
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
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_hidden_SC, grad_head_VC = ctx.saved_tensors
        scale = grad_outputs[0]
        return (
            None if grad_hidden_SC is None else grad_hidden_SC * scale,
            None if grad_head_VC is None else (grad_head_VC * scale).to(ctx.head_dtype),
            None,
            None,
        )


def next_token_loss(loaded: Loaded, batch: Batch) -> tuple[Tensor, Tensor]:
    """(weighted loss, with gradients; loss in nats of each target [S], in the batch's order)."""
    device = loaded.machine.device
    tokens_N, positions_N, targets_N, weights_N = (
        torch.from_numpy(x).to(device)
        for x in (batch.tokens_N, batch.positions_N, batch.targets_N, batch.weights_N)
    )
    hidden_NC = loaded.hidden(tokens_N, positions_N, loaded.layout(batch.lengths_D))
    wanted_N = targets_N != NO_TARGET
    return _LinearCrossEntropy.apply(
        hidden_NC[wanted_N], loaded.head.weight, targets_N[wanted_N], weights_N[wanted_N]
    )  # type: ignore[return-value]


Objective = Callable[[Loaded, Batch], tuple[Tensor, Tensor]]
OBJECTIVES: dict[str, Objective] = {"cpt": next_token_loss, "sft": next_token_loss}
