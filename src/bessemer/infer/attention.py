"""Attention in which documents laid end to end never see each other, without work between them.

A batch is one row of N tokens. Documents of similar length are gathered into blocks [D, L]; each block is a small
causal attention by batched matrix products, which on a CPU beats the fused kernel for short documents.
Long documents take the fused kernel. It plugs in through transformers' own AttentionInterface; the layout travels
as an ordinary keyword argument of the model.

Legend: N tokens, D documents of a block, L places of a block, S of them at the end where documents branch, M keys that
they see (L, and a prefix), H query heads, K key-value heads, G = H / K, E head size, T queries of a tile.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bessemer.errors import BessemerError

NAME = "bessemer_documents"
FUSED_FROM = 1024  # places from which the fused kernel is used
TILE = 256  # queries of long documents go in tiles, each looking at the keys up to its own end
PAD_SHARE = 0.12  # a block may be padded by about this much


@dataclass(frozen=True)
class Block:
    """Documents of about one length."""

    n_documents: int
    places: int  # L
    causal_TT: Tensor  # 0 where a query may look, -inf where not; of one tile
    sees_prefix: bool = False
    tail_DSS: Tensor | None = None  # the same of the last S places, where documents branch; all see what stands before


@dataclass  # not frozen: the compiler of torch 2.11 would compile anew for every number of blocks
class Layout:
    """Where the documents of a batch lie. Never changed.

    places_P: token of each of the blocks' places, one block after the other; some token where a document is shorter
    than its block (those places are `pads_Q`; causality keeps them out of sight). back_N: place of each token.
    in_order: the places are the tokens.

    prefix: when not 0, the first document has so many tokens, is a block of its own (the first), and blocks with
    `sees_prefix` see it before themselves: what many documents begin with is computed once, gradients included.

    reach: how many tokens the one that sees most of them sees, itself included; branches do not see each other.

    bounds: where each document begins, and the end; on a GPU, where a kernel takes documents of any lengths.
    """

    blocks: tuple[Block, ...]
    places_P: Tensor
    pads_Q: Tensor
    back_N: Tensor
    in_order: bool
    reach: int
    prefix: int = 0
    bounds: Tensor | None = None


def make_layout(
    lengths: Sequence[int],
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    sees: Sequence[bool] = (),
    branches: Sequence[Sequence[int]] = (),
) -> Layout:
    """Group documents by length, so that a block is padded by at most `PAD_SHARE` beyond its shortest document.

    sees: which documents continue the first one; empty when none does. branches: lengths of the pieces at the end of
    each document that see what stands before all of them, and themselves, but not each other (several answers to one
    question).
    """
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    n_tokens = starts[-1]
    prefix = any(sees)
    kinds = [(prefix and d > 0, not (prefix and sees[d])) for d in range(len(lengths))]
    order = sorted(range(len(lengths)), key=lambda d: (kinds[d], lengths[d], d))
    blocks: list[Block] = []
    places: list[Tensor] = []
    pad = -1
    first = 0
    while first < len(order):
        last, most = first, lengths[order[first]] * (1 + PAD_SHARE) + 2
        while (
            last + 1 < len(order) and lengths[order[last + 1]] <= most and kinds[order[last + 1]] == kinds[order[first]]
        ):
            last += 1
        members = order[first : last + 1]
        length = lengths[members[-1]]
        places_DL = torch.full((len(members), length), pad, dtype=torch.long)
        for i, d in enumerate(members):
            places_DL[i, : lengths[d]] = torch.arange(starts[d], starts[d + 1])
        places.append(places_DL.flatten())
        tail_DSS = None
        if branches and any(branches[d] for d in members):
            # Short documents stay one tile: two small products cost more than the few places that one leaves out.
            stem = 0 if length <= TILE else min(lengths[d] - sum(branches[d]) for d in members)
            tails = [_apart(length - stem, lengths[d] - stem, branches[d]) for d in members]
            tail_DSS = torch.stack(tails).to(device=device, dtype=dtype)
        side = min(length, TILE)  # a mask of all places would be as large as their square
        causal_TT = _causal(side).to(device=device, dtype=dtype)
        blocks.append(Block(len(members), length, causal_TT, prefix and bool(sees[members[0]]), tail_DSS))
        first += len(members)
    places_P = torch.cat(places)
    real_P = places_P != pad
    back_N = torch.empty(n_tokens, dtype=torch.long)
    back_N[places_P[real_P]] = real_P.nonzero()[:, 0]

    def seen(d: int) -> int:
        own = branches[d] if branches else ()
        return (lengths[0] if prefix and sees[d] else 0) + lengths[d] - sum(own) + max(own, default=0)

    return Layout(
        tuple(blocks),
        places_P.clamp(min=0).to(device),
        (~real_P).nonzero()[:, 0].to(device),
        back_N.to(device),
        in_order=bool(real_P.all()) and torch.equal(places_P, torch.arange(n_tokens)),
        reach=max(map(seen, range(len(lengths)))),
        prefix=lengths[0] if prefix else 0,
        bounds=torch.tensor(starts, dtype=torch.int32, device=device)
        if torch.device(device).type == "cuda" and not prefix and not branches
        else None,
    )


def _causal(side: int) -> Tensor:
    return torch.full((side, side), -math.inf).triu(1)


def _apart(side: int, length: int, branches: Sequence[int]) -> Tensor:
    """[S, S]: the causal mask of `side` places; those up to `length` end in pieces that do not see each other."""
    mask_SS = _causal(side)
    start = first = length - sum(branches)
    for n in branches:
        mask_SS[start : start + n, first:start] = -math.inf
        start += n
    return mask_SS


class _Gather(torch.autograd.Function):
    """x_NC -> blocks' places; the backward pass is a gather too, because every token has exactly one place."""

    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, documents: Layout) -> Tensor:
        ctx.documents = documents
        return x_NC.index_select(0, documents.places_P)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        return grad_outputs[0].index_select(0, ctx.documents.back_N), None


class _Return(torch.autograd.Function):
    """Blocks' places -> tokens; the backward pass gathers, with zeros for padding."""

    @staticmethod
    def forward(ctx: Any, x_PC: Tensor, documents: Layout) -> Tensor:
        ctx.documents = documents
        return x_PC.index_select(0, documents.back_N)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        grad_PC = grad_outputs[0].index_select(0, ctx.documents.places_P)
        return grad_PC.index_fill_(0, ctx.documents.pads_Q, 0.0), None


class _CausalSoftmax(torch.autograd.Function):
    """softmax over keys; the last S of them under a mask [T, S]. The scores are overwritten: nobody else needs them."""

    @staticmethod
    def forward(ctx: Any, scores_XGTM: Tensor, mask_TS: Tensor) -> Tensor:
        scores_XGTM[..., -mask_TS.shape[-1] :].add_(mask_TS)
        weights_XGTM = torch.softmax(scores_XGTM, dim=-1)
        ctx.save_for_backward(weights_XGTM)
        return weights_XGTM

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        (weights_XGTM,) = ctx.saved_tensors
        return torch.ops.aten._softmax_backward_data(grad_outputs[0], weights_XGTM, -1, weights_XGTM.dtype), None


def _block_attention(
    q_DLHE: Tensor,
    k_DLKE: Tensor,
    v_DLKE: Tensor,
    block: Block,
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
    M = k_DLKE.shape[1]
    if L >= FUSED_FROM and before is None and block.tail_DSS is None:
        out = F.scaled_dot_product_attention(
            q_DLHE.transpose(1, 2),
            k_DLKE.transpose(1, 2),
            v_DLKE.transpose(1, 2),
            is_causal=True,
            scale=scale,
            enable_gqa=K != H,
        )
        return out.transpose(1, 2)
    # The G query heads of a key-value head become rows of one product: [D*K, G*T, E] x [D*K, E, keys].
    q = (q_DLHE * scale).view(D, L, K, G, E).permute(0, 2, 3, 1, 4).reshape(D * K, G, L, E)
    k = k_DLKE.transpose(1, 2).reshape(D * K, M, E)
    v = v_DLKE.transpose(1, 2).reshape(D * K, M, E)
    outputs: list[Tensor] = []
    for begin, end in _tiles(L, 0 if block.tail_DSS is None else block.tail_DSS.shape[-1]):
        T, seen = end - begin, M - L + end  # later keys are not looked at
        scores = torch.bmm(q[:, :, begin:end].reshape(D * K, G * T, E), k[:, :seen].transpose(1, 2))
        mask = block.causal_TT[:T, :T]  # of the earlier keys all are seen
        if block.tail_DSS is not None and begin >= (stem := L - block.tail_DSS.shape[-1]):
            mask_DTS = block.tail_DSS[:, begin - stem : end - stem, : end - stem]
            mask = mask_DTS.repeat_interleave(K, 0)[:, None]
        weights = _CausalSoftmax.apply(scores.view(D * K, G, T, seen), mask)
        assert isinstance(weights, Tensor)
        outputs.append(torch.bmm(weights.view(D * K, G * T, seen), v[:, :seen]).view(D, K, G, T, E))
    out = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=3)
    return out.permute(0, 3, 1, 2, 4).reshape(D, L, H, E)


def _tiles(n: int, n_tail: int) -> list[tuple[int, int]]:
    """(begin, end) of tiles of `n` places; the last `n_tail` places begin a tile of their own."""
    parts = ((0, n - n_tail), (n - n_tail, n))
    return [(begin, min(begin + TILE, last)) for first, last in parts for begin in range(first, last, TILE)]


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
    if sliding_window is not None and documents.reach > sliding_window:
        raise BessemerError(
            f"a document of {documents.reach} tokens is longer than the model's sliding window of {sliding_window}",
            fix=f"shorten it to {sliding_window}",
        )
    if query_1HNE.shape[-1] != value_1KNE.shape[-1]:
        raise BessemerError(
            f"the model's heads have queries of {query_1HNE.shape[-1]} numbers and values of {value_1KNE.shape[-1]}, "
            "which is not supported yet",
            fix="take a model of another architecture",
        )
    q_NHE, k_NKE, v_NKE = (x[0].transpose(0, 1) for x in (query_1HNE, key_1KNE, value_1KNE))
    if documents.bounds is not None and _varlen_is_right(q_NHE.dtype, *q_NHE.shape[1:], k_NKE.shape[1]):
        return _varlen(q_NHE, k_NKE, v_NKE, scaling, documents)[None], None
    return _by_blocks(q_NHE, k_NKE, v_NKE, scaling, documents)[None], None


def _by_blocks(q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, scale: float, documents: Layout) -> Tensor:
    N, H, E = q_NHE.shape
    K = k_NKE.shape[1]
    packed = torch.cat([q_NHE, k_NKE, v_NKE], dim=1).reshape(N, -1)
    at_places = packed if documents.in_order else _Gather.apply(packed, documents)
    assert isinstance(at_places, Tensor)
    outputs: list[Tensor] = []
    prefix: tuple[Tensor, Tensor] | None = None
    sizes = [b.n_documents * b.places for b in documents.blocks]
    # split, not slices: the gradient of a slice is as large as what it was cut from
    for block, x_PC in zip(documents.blocks, at_places.split(sizes), strict=True):
        q_DLHE, k_DLKE, v_DLKE = x_PC.view(-1, block.places, H + 2 * K, E).split([H, K, K], dim=2)
        out = _block_attention(q_DLHE, k_DLKE, v_DLKE, block, scale, prefix if block.sees_prefix else None)
        if documents.prefix and prefix is None:
            prefix = k_DLKE[0], v_DLKE[0]
        outputs.append(out.reshape(-1, H * E))
    result = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    if not documents.in_order:
        result = _Return.apply(result, documents)
        assert isinstance(result, Tensor)
    return result.view(N, H, E)


def _varlen(q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, scale: float, documents: Layout) -> Tensor:
    """All documents in one kernel of the GPU."""
    from torch.nn.attention.varlen import varlen_attn

    assert documents.bounds is not None
    grouped: dict[str, Any] = {"enable_gqa": True} if _shares_keys(varlen_attn) else {}
    if not grouped:
        k_NKE, v_NKE = (x.repeat_interleave(q_NHE.shape[1] // x.shape[1], dim=1) for x in (k_NKE, v_NKE))
    out = varlen_attn(
        q_NHE.contiguous(), k_NKE.contiguous(), v_NKE.contiguous(), documents.bounds, documents.bounds,
        documents.reach, documents.reach, scale=scale, window_size=(-1, 0), **grouped,
    )  # type: ignore[arg-type]  # fmt: skip
    assert isinstance(out, Tensor)
    return out


@cache
def _shares_keys(kernel: Callable[..., Any]) -> bool:
    """Whether it takes fewer key-value heads than query heads; that of torch 2.11 does not say so."""
    return "enable_gqa" in inspect.signature(kernel).parameters


@cache
def _varlen_is_right(dtype: torch.dtype, H: int, E: int, K: int) -> bool:
    """Whether this machine's kernel exists and agrees with the blocks on a few documents, gradients included."""
    if dtype not in {torch.bfloat16, torch.float16}:
        return False
    documents = make_layout([5, 130, 1, 64], dtype=dtype, device="cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (torch.randn(200, n, E, device="cuda", generator=generator).to(dtype) for n in (H, K, K))
    try:
        with torch.enable_grad():
            found, wanted = (_with_gradients(f, q, k, v, documents) for f in (_varlen, _by_blocks))
    except (RuntimeError, ImportError, TypeError):  # an older torch, a GPU that the kernel does not know
        return False
    return all(bool((a - b).float().norm() <= 0.02 * b.float().norm()) for a, b in zip(found, wanted, strict=True))


def _with_gradients(attend: Any, q: Tensor, k: Tensor, v: Tensor, documents: Layout) -> list[Tensor]:
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    out = attend(*inputs, q.shape[-1] ** -0.5, documents)
    return [out, *torch.autograd.grad(out.float().square().mean(), inputs)]


def register() -> None:
    """Make the attention known to transformers, with a mask function that builds no mask."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, document_attention)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)
