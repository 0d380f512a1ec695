"""The head and its loss, without the logits of a whole batch ever existing.

Legend: S supervised positions, c those of a chunk, a anchored ones among them, A all anchored positions, C channels,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

CHUNK = 512  # positions that go through the head at once
FUSED_CHUNK = 2048  # where nothing of a chunk but its logits and their gradient ever exists
SLICES = 4  # of the vocabulary


@dataclass(frozen=True)
class Anchor:
    """What the start checkpoint thinks at the anchored positions. rows_S marks them among all targets."""

    rows_S: Tensor
    hidden_AC: Tensor
    head_VC: Tensor


def head_loss(
    hidden_SC: Tensor,
    head_VC: Tensor,
    targets_S: Tensor,
    weights_S: Tensor,
    anchor: Anchor | None,
    z_loss: float,
    *,
    fused: bool = False,
) -> tuple[Tensor, Tensor]:
    """(weighted sum of the losses, with gradients; each position's own loss in nats [S], without).

    Cross-entropy against a token, or KL(start || model) against the start checkpoint's distribution where anchored
    (learning without forgetting: Li & Hoiem, arXiv 1606.09282). z_loss: adds that many times the squared log of the
    softmax' normaliser where a token is the target (PaLM, arXiv 2204.02311); not part of the losses that are returned.
    fused: by a compiled kernel.
    """
    inputs = (hidden_SC, head_VC, targets_S, weights_S, anchor, z_loss, fused)
    loss, losses_S = _HeadLoss.apply(*inputs)  # type: ignore[misc]
    return loss, losses_S


def _token_gradient(
    logits_cV: Tensor, targets_c: Tensor, weights_c: Tensor, z_loss: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(losses [c], weighted z-losses [c], gradient of the weighted sum of both [c, V]) of tokens as targets."""
    whole_cV = logits_cV.float()
    logprobs_cV = torch.log_softmax(whole_cV, dim=-1)
    losses_c = -logprobs_cV.gather(1, targets_c[:, None])[:, 0]
    if z_loss:
        lse_c = whole_cV.logsumexp(-1)
        grad_cV = logprobs_cV.exp_().mul_(1 + 2 * z_loss * lse_c[:, None])
        extra_c = z_loss * weights_c * lse_c**2
    else:
        grad_cV, extra_c = logprobs_cV.exp_(), torch.zeros_like(losses_c)
    if torch.compiler.is_compiling():  # compared on the way; a scatter would be a pass of its own
        places_V = torch.arange(logits_cV.shape[1], device=logits_cV.device)
        grad_cV = torch.where(places_V[None] == targets_c[:, None], grad_cV - 1, grad_cV)
    else:
        grad_cV.scatter_add_(1, targets_c[:, None], torch.full_like(losses_c, -1)[:, None])
    return losses_c, extra_c, grad_cV.mul_(weights_c[:, None]).to(logits_cV.dtype)


def _anchor_gradient(logits_cV: Tensor, start_cV: Tensor, weights_c: Tensor) -> tuple[Tensor, Tensor]:
    """(KL(start || model) [c], gradient of their weighted sum [c, V]) against the start checkpoint's logits."""
    new_cV, old_cV = (torch.log_softmax(x.float(), dim=-1) for x in (logits_cV, start_cV))
    chance_cV = old_cV.exp()
    losses_c = (chance_cV * (old_cV - new_cV)).sum(-1)
    grad_cV = new_cV.exp_().sub_(chance_cV).mul_(weights_c[:, None])
    return losses_c, grad_cV.to(logits_cV.dtype)


@cache
def _fused(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel compiled for all sizes; torch's compiler is imported only here."""
    return torch.compile(kernel, dynamic=True)


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
        fused: bool,
    ) -> Any:
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        losses_S = torch.empty(len(targets_S), dtype=torch.float32, device=hidden_SC.device)
        grad_hidden_SC = torch.empty_like(hidden_SC) if needs_hidden else None
        grad_head_VC: Tensor | None = None
        extra = torch.zeros((), dtype=torch.float32, device=hidden_SC.device)
        of_tokens = _fused(_token_gradient) if fused else _token_gradient
        of_anchors = _fused(_anchor_gradient) if fused else _anchor_gradient
        size = FUSED_CHUNK if fused else CHUNK
        for rows_c, anchored_c in _chunks(len(targets_S), anchor, size):
            hidden_cC, weights_c = hidden_SC[rows_c], weights_S[rows_c]
            logits_cV = hidden_cC @ head_VC.T
            if anchor is None or anchored_c is None:
                losses_S[rows_c], extra_c, grad_cV = of_tokens(logits_cV, targets_S[rows_c], weights_c, z_loss)
                extra += extra_c.sum()
            else:
                start_cV = anchor.hidden_AC[anchored_c] @ anchor.head_VC.T
                losses_S[rows_c], grad_cV = of_anchors(logits_cV, start_cV, weights_c)
            if grad_hidden_SC is not None:
                grad_hidden_SC[rows_c] = _over_vocabulary(grad_cV, head_VC)
            if needs_head:
                more_VC = grad_cV.T @ hidden_cC
                grad_head_VC = more_VC.float() if grad_head_VC is None else grad_head_VC.add_(more_VC)
        if needs_head and grad_head_VC is None:
            grad_head_VC = torch.zeros_like(head_VC, dtype=torch.float32)
        ctx.save_for_backward(grad_hidden_SC, grad_head_VC)
        ctx.head_dtype = head_VC.dtype
        ctx.mark_non_differentiable(losses_S)
        return (losses_S * weights_S).sum() + extra, losses_S

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        grad_hidden_SC, grad_head_VC = ctx.saved_tensors
        scale = grad_outputs[0]
        return (
            None if grad_hidden_SC is None else grad_hidden_SC * scale,
            None if grad_head_VC is None else grad_head_VC.to(ctx.head_dtype).mul_(scale),
            *[None] * 5,
        )


def _over_vocabulary(grad_cV: Tensor, head_VC: Tensor) -> Tensor:
    """grad_cV @ head_VC. Its inner dimension is so long that a CPU does it a third faster in slices. [c, C]"""
    V, C = head_VC.shape
    if grad_cV.device.type != "cpu" or V % SLICES:
        return grad_cV @ head_VC
    slices = grad_cV.view(-1, SLICES, V // SLICES).transpose(0, 1)
    return torch.bmm(slices, head_VC.view(SLICES, V // SLICES, C)).sum(0, dtype=torch.float32).to(grad_cV.dtype)


def _chunks(n: int, anchor: Anchor | None, size: int) -> Iterator[tuple[Any, Tensor | None]]:
    """(rows of a chunk, None), then of anchored positions (rows, their numbers among the anchored)."""
    if anchor is None:
        yield from ((slice(start, min(n, start + size)), None) for start in range(0, n, size))
        return
    tokens, anchored = ((anchor.rows_S == kind).nonzero()[:, 0] for kind in (False, True))
    yield from ((rows, None) for rows in tokens.split(size) if len(rows))
    numbers = torch.arange(len(anchored), device=anchored.device)
    yield from ((r, n) for r, n in zip(anchored.split(size), numbers.split(size), strict=True) if len(r))
