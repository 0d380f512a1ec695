"""The head and its loss, without the logits of a whole batch ever existing.

Legend: S supervised positions, c those of a chunk, a anchored ones among them, A all anchored positions, C channels,
V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK = 512  # positions that go through the head at once


@dataclass(frozen=True)
class Anchor:
    """What the start checkpoint thinks at the anchored positions. rows_S marks them among all targets."""

    rows_S: Tensor
    hidden_AC: Tensor
    head_VC: Tensor

    def logprobs(self, part: slice) -> Tensor:
        """Log-probabilities of the anchored rows within a part of the targets. [a, V]"""
        before, inside = int(self.rows_S[: part.start].sum()), int(self.rows_S[part].sum())
        return torch.log_softmax((self.hidden_AC[before : before + inside] @ self.head_VC.T).float(), dim=-1)


def head_loss(
    hidden_SC: Tensor, head_VC: Tensor, targets_S: Tensor, weights_S: Tensor, anchor: Anchor | None, z_loss: float
) -> tuple[Tensor, Tensor]:
    """(weighted sum of the losses, with gradients; each position's own loss in nats [S], without).

    Cross-entropy against a token, or KL(start || model) against the start checkpoint's distribution where anchored
    (learning without forgetting: Li & Hoiem, arXiv 1606.09282). z_loss: adds that many times the squared log of the
    softmax' normaliser where a token is the target (PaLM, arXiv 2204.02311); not part of the losses that are returned.
    """
    loss, losses_S = _HeadLoss.apply(hidden_SC, head_VC, targets_S, weights_S, anchor, z_loss)  # type: ignore[misc]
    return loss, losses_S


class _HeadLoss(torch.autograd.Function):
    """Head, softmax and weighted loss in one, chunk by chunk, gradients made on the way.

    The gradient of the logits is (softmax - target) * weight, known as soon as the logits are; so no chunk is computed
    twice and none is kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SC: Tensor,
        head_VC: Tensor,
        targets_S: Tensor,
        weights_S: Tensor,
        anchor: Anchor | None,
        z_loss: float,
    ) -> Any:
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        losses_S = torch.empty(len(targets_S), dtype=torch.float32, device=hidden_SC.device)
        extra = torch.zeros((), dtype=torch.float32, device=hidden_SC.device)
        grad_hidden_SC = torch.empty_like(hidden_SC) if needs_hidden else None
        grad_head_VC = torch.zeros_like(head_VC, dtype=torch.float32) if needs_head else None
        for start in range(0, len(targets_S), CHUNK):
            part = slice(start, start + CHUNK)
            logits_cV = (hidden_SC[part] @ head_VC.T).float()
            logprobs_cV = torch.log_softmax(logits_cV, dim=-1)
            losses_S[part] = -logprobs_cV.gather(1, targets_S[part, None])[:, 0]
            hard_c = torch.ones(len(logits_cV), device=logits_cV.device)
            anchored_c = anchor.rows_S[part] if anchor else None
            old_aV = anchor.logprobs(part) if anchor and anchored_c is not None and anchored_c.any() else None
            if old_aV is not None:
                losses_S[part][anchored_c] = (old_aV.exp() * (old_aV - logprobs_cV[anchored_c])).sum(-1)
                hard_c[anchored_c] = 0
            z_c: Tensor | None = None
            if z_loss:
                lse_c = logits_cV.logsumexp(-1)
                z_c = z_loss * hard_c * lse_c
                extra += (weights_S[part] * z_c * lse_c).sum()
            if not (needs_hidden or needs_head):
                continue
            grad_cV = logprobs_cV.exp_()
            if z_c is not None:
                grad_cV.mul_(1 + 2 * z_c[:, None])
            if old_aV is not None:
                grad_cV[anchored_c] -= old_aV.exp()
            grad_cV.scatter_add_(1, targets_S[part, None], -hard_c[:, None])
            grad_cV = grad_cV.mul_(weights_S[part, None]).to(hidden_SC.dtype)
            if grad_hidden_SC is not None:
                grad_hidden_SC[part] = grad_cV @ head_VC
            if grad_head_VC is not None:
                grad_head_VC += grad_cV.T @ hidden_SC[part]
        ctx.save_for_backward(grad_hidden_SC, grad_head_VC)
        ctx.head_dtype = head_VC.dtype
        ctx.mark_non_differentiable(losses_S)
        return (losses_S * weights_S).sum() + extra, losses_S

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        grad_hidden_SC, grad_head_VC = ctx.saved_tensors
        scale = grad_outputs[0]
        return (
            None if grad_hidden_SC is None else grad_hidden_SC * scale,
            None if grad_head_VC is None else (grad_head_VC * scale).to(ctx.head_dtype),
            None,
            None,
            None,
            None,
        )
