"""Attention in which documents laid end to end never see each other, without work between them.

A batch is one row of N tokens. Documents of similar length are gathered into blocks [D, L]; each block is a small
causal attention by batched matrix products, which on a CPU beats the fused kernel for short documents.
Long documents take the fused kernel. It plugs in through transformers' own AttentionInterface; the layout travels
as an ordinary keyword argument of the model.

Legend: N tokens, D documents of a block, L places of a block, M keys that they see (L, and a prefix), H query heads,
K key-value heads, G = H / K, E head size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bessemer.errors import BessemerError

NAME = "bessemer_documents"
FUSED_FROM = 1024  # places from which the fused kernel is used
PAD_SHARE = 0.12  # a block may be padded by about this much


@dataclass(frozen=True)
class Block:
    gather_P: Tensor  # token of each of the D * L places; N (a zero row) where a document is shorter
    causal_LL: Tensor  # 0 where a query may look, -inf where not
    sees_prefix: bool = False


@dataclass(frozen=True)
class Layout:
    """Where the documents of a batch lie. `back_N`: place of each token in the blocks' concatenation.

    prefix: when not 0, the first document has so many tokens, is a block of its own (the first), and blocks with
    `sees_prefix` see it before themselves: what many documents begin with is computed once, gradients included.
    """

    blocks: tuple[Block, ...]
    back_N: Tensor
    prefix: int = 0


def make_layout(
    lengths: Sequence[int],
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    sees: Sequence[bool] = (),
) -> Layout:
    """Group documents by length, so that a block is padded by at most `PAD_SHARE` beyond its shortest document.

    sees: which documents continue the first one; empty when none does.
    """
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    n_tokens = starts[-1]
    prefix = any(sees)
    kinds = [(prefix and d > 0, not (prefix and sees[d])) for d in range(len(lengths))]
    order = sorted(range(len(lengths)), key=lambda d: (kinds[d], lengths[d], d))
    blocks: list[Block] = []
    back_N = torch.empty(n_tokens, dtype=torch.long)
    offset, first = 0, 0
    while first < len(order):
        last, most = first, lengths[order[first]] * (1 + PAD_SHARE) + 2
        while (
            last + 1 < len(order) and lengths[order[last + 1]] <= most and kinds[order[last + 1]] == kinds[order[first]]
        ):
            last += 1
        members = order[first : last + 1]
        places = lengths[members[-1]]
        gather_DL = torch.full((len(members), places), n_tokens, dtype=torch.long)
        for i, d in enumerate(members):
            span = torch.arange(lengths[d])
            gather_DL[i, : lengths[d]] = starts[d] + span
            back_N[starts[d] : starts[d + 1]] = offset + i * places + span
        causal = torch.full((places, places), -math.inf).triu(1)
        sees_prefix = prefix and bool(sees[members[0]])
        blocks.append(Block(gather_DL.flatten().to(device), causal.to(device=device, dtype=dtype), sees_prefix))
        offset += len(members) * places
        first += len(members)
    return Layout(tuple(blocks), back_N.to(device), lengths[0] if prefix else 0)


class _Gather(torch.autograd.Function):
    """x_NC -> blocks' places; the backward pass is a gather too, because every token has exactly one place."""

    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, places_P: Tensor, back_N: Tensor) -> Tensor:
        ctx.save_for_backward(back_N)
        zero_row = x_NC.new_zeros(1, x_NC.shape[1])
        return torch.cat([x_NC, zero_row]).index_select(0, places_P)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        (back_N,) = ctx.saved_tensors
        return grad_outputs[0].index_select(0, back_N), None, None


class _Return(torch.autograd.Function):
    """Blocks' places -> tokens; the backward pass gathers, with zeros for padding."""

    @staticmethod
    def forward(ctx: Any, x_PC: Tensor, places_P: Tensor, back_N: Tensor) -> Tensor:
        ctx.save_for_backward(places_P)
        return x_PC.index_select(0, back_N)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        (places_P,) = ctx.saved_tensors
        grad_NC = grad_outputs[0]
        zero_row = grad_NC.new_zeros(1, grad_NC.shape[1])
        return torch.cat([grad_NC, zero_row]).index_select(0, places_P), None, None


def _block_attention(
    q_DLHE: Tensor,
    k_DLKE: Tensor,
    v_DLKE: Tensor,
    causal_LL: Tensor,
    scale: float,
    before: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """before: keys and values [P, K, E] of a prefix that every document of the block sees."""
    D, L, H, E = q_DLHE.shape
    K = k_DLKE.shape[2]
    G = H // K
    if before is not None:
        k_DLKE, v_DLKE = (
            torch.cat([p_PKE.expand(D, *p_PKE.shape), own], dim=1)
            for p_PKE, own in zip(before, (k_DLKE, v_DLKE), strict=True)
        )
        causal_LL = F.pad(causal_LL, (before[0].shape[0], 0))
    M = k_DLKE.shape[1]
    if L >= FUSED_FROM and before is None:
        out = F.scaled_dot_product_attention(
            q_DLHE.transpose(1, 2),
            k_DLKE.transpose(1, 2),
            v_DLKE.transpose(1, 2),
            is_causal=True,
            scale=scale,
            enable_gqa=K != H,
        )
        return out.transpose(1, 2)
    # The G query heads of a key-value head become rows of one product: [D*K, G*L, E] x [D*K, E, M].
    q = q_DLHE.view(D, L, K, G, E).permute(0, 2, 3, 1, 4).reshape(D * K, G * L, E)
    k = k_DLKE.transpose(1, 2).reshape(D * K, M, E)
    v = v_DLKE.transpose(1, 2).reshape(D * K, M, E)
    scores = torch.bmm(q * scale, k.transpose(1, 2)).view(D * K, G, L, M) + causal_LL
    weights = torch.softmax(scores, dim=-1).view(D * K, G * L, M)
    return torch.bmm(weights, v).view(D, K, G, L, E).permute(0, 3, 1, 2, 4).reshape(D, L, H, E)


def document_attention(
    module: Any,
    query_1HNE: Tensor,
    key_1KNE: Tensor,
    value_1KNE: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    documents: Layout,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in every layer. Returns [1, N, H, E].

    Raises BessemerError for kinds of attention that would silently be computed wrongly here.
    """
    if softcap is not None or s_aux is not None:
        raise BessemerError("the model's attention has soft-capping or sinks, which is not supported yet")
    longest = documents.prefix + max(b.causal_LL.shape[0] for b in documents.blocks)
    if sliding_window is not None and longest > sliding_window:
        raise BessemerError(
            f"a document of {longest} tokens is longer than the model's sliding window of {sliding_window}",
            fix=f"set row_tokens to at most {sliding_window}",
        )
    H, K, N = query_1HNE.shape[1], key_1KNE.shape[1], query_1HNE.shape[2]
    E = query_1HNE.shape[3]
    packed = torch.cat([query_1HNE, key_1KNE, value_1KNE], dim=1)[0].transpose(0, 1).reshape(N, -1)
    places_P = torch.cat([b.gather_P for b in documents.blocks])
    at_places = _Gather.apply(packed, places_P, documents.back_N)
    assert isinstance(at_places, Tensor)
    outputs: list[Tensor] = []
    offset = 0
    prefix: tuple[Tensor, Tensor] | None = None
    for block in documents.blocks:
        L = block.causal_LL.shape[0]
        size = block.gather_P.shape[0]
        x = at_places[offset : offset + size].view(size // L, L, H + 2 * K, E)
        k_DLKE, v_DLKE = x[:, :, H : H + K], x[:, :, H + K :]
        out = _block_attention(
            x[:, :, :H], k_DLKE, v_DLKE, block.causal_LL, scaling, prefix if block.sees_prefix else None
        )
        if documents.prefix and prefix is None:
            prefix = k_DLKE[0], v_DLKE[0]
        outputs.append(out.reshape(size, H * E))
        offset += size
    result = _Return.apply(torch.cat(outputs), places_P, documents.back_N)
    assert isinstance(result, Tensor)
    return result.view(1, N, H, E), None


def register() -> None:
    """Make the attention known to transformers, with a mask function that builds no mask."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, document_attention)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)
