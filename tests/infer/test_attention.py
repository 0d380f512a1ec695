"""Documents laid end to end must give exactly what each gives alone: values and gradients, in fp32."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import varlen

from bessemer.errors import BessemerError
from bessemer.infer import attention
from bessemer.infer.attention import make_layout
from bessemer.infer.model import Loaded, load


@pytest.fixture(scope="module")
def models(tiny_model: Path) -> tuple[Loaded, Any]:
    from transformers import AutoModelForCausalLM

    plain: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, attn_implementation="sdpa")
    return load(tiny_model, dtype=torch.float32), plain.eval()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=9), st.integers(0, 99))
def test_packed_documents_equal_separate_ones(models: tuple[Loaded, Any], lengths: list[int], seed: int) -> None:
    loaded, plain = models
    tokens = torch.randint(
        0, loaded.model.config.vocab_size, (sum(lengths),), generator=torch.Generator().manual_seed(seed)
    )
    positions = torch.cat([torch.arange(n) for n in lengths])
    with torch.inference_mode():
        packed = loaded.head(loaded.hidden(tokens, positions, loaded.layout(lengths)))
        alone = torch.cat([plain(t[None]).logits[0] for t in tokens.split(lengths)])
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


def test_gradients_equal_those_of_separate_documents(models: tuple[Loaded, Any]) -> None:
    loaded, plain = models
    lengths = [5, 17, 17, 40, 2]
    tokens = torch.randint(
        0, loaded.model.config.vocab_size, (sum(lengths),), generator=torch.Generator().manual_seed(1)
    )
    positions = torch.cat([torch.arange(n) for n in lengths])
    for model in (loaded.model, plain):
        model.requires_grad_(True).zero_grad(set_to_none=True)
    loaded.hidden(tokens, positions, loaded.layout(lengths)).square().sum().backward()
    for t in tokens.split(lengths):
        plain.model(t[None]).last_hidden_state.square().sum().backward()
    for (name, a), b in zip(loaded.model.named_parameters(), plain.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None, name
        torch.testing.assert_close(a.grad, b.grad, rtol=2e-3, atol=2e-3, msg=name)
    loaded.model.requires_grad_(False)


def test_a_later_document_cannot_see_an_earlier_one(models: tuple[Loaded, Any]) -> None:
    loaded, _ = models
    lengths = [20, 20]
    tokens = torch.arange(40)
    positions = torch.arange(20).repeat(2)
    changed = tokens.clone()
    changed[:20] += 100
    with torch.inference_mode():
        a, b = (loaded.hidden(t, positions, loaded.layout(lengths)) for t in (tokens, changed))
    assert torch.equal(a[20:], b[20:]) and not torch.equal(a[:20], b[:20])


def test_long_documents_take_the_fused_kernel_and_agree(
    models: tuple[Loaded, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, _ = models
    tokens, positions = torch.arange(60), torch.arange(30).repeat(2)
    with torch.inference_mode():
        small = loaded.hidden(tokens, positions, loaded.layout([30, 30]))
        calls: list[int] = []
        kernel = F.scaled_dot_product_attention
        monkeypatch.setattr(
            F, "scaled_dot_product_attention", lambda q, *a, **k: calls.append(q.shape[2]) or kernel(q, *a, **k)
        )
        loaded.hidden(tokens, positions, loaded.layout([30, 30]))
        assert not calls
        monkeypatch.setattr(attention, "FUSED_FROM", 30)
        fused = loaded.hidden(tokens, positions, loaded.layout([30, 30]))
        assert calls == [30] * loaded.model.config.num_hidden_layers
    torch.testing.assert_close(small, fused, rtol=1e-4, atol=1e-5)


def test_a_mask_is_no_larger_than_a_tile() -> None:
    """That of 131,072 places would take 69 GB."""
    made = attention.make_layout([5, 131_072, 300], dtype=torch.float32)
    assert [(b.places, *b.causal_TT.shape) for b in made.blocks] == [(5, 5, 5), (300, 256, 256), (131_072, 256, 256)]
    (branching,) = attention.make_layout([32_768], dtype=torch.float32, branches=[[20, 30]]).blocks
    assert branching.causal_TT.shape == (256, 256)
    assert branching.tail_DSS is not None and branching.tail_DSS.shape == (1, 50, 50)


def dense(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Attention under a mask of everything, as slow and as plain as can be."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("qhe,khe->hqk", q, k).masked_fill(~seen, -torch.inf)
    return torch.einsum("hqk,khe->qhe", scores.softmax(-1), v)


def seen_by(stem: int, branches: list[int]) -> Tensor:
    """Which tokens see which, in one document that ends in branches."""
    owner = torch.tensor([-1] * stem + [b for b, n in enumerate(branches) for _ in range(n)])
    shared = (owner[None] == -1) | (owner[None] == owner[:, None])
    return shared & torch.ones(len(owner), len(owner), dtype=torch.bool).tril()


@settings(max_examples=40)
@given(
    documents=st.lists(st.tuples(st.integers(1, 24), st.lists(st.integers(0, 7), max_size=4)), min_size=1, max_size=5),
    shared=st.integers(0, 6),
    tile=st.sampled_from([3, 8, 256]),
)
def test_branches_give_the_values_and_gradients_of_a_whole_mask(
    documents: list[tuple[int, list[int]]], shared: int, tile: int
) -> None:
    """Documents of different lengths in one block, branches on both sides of a tile's end, a prefix before all."""
    parts = [(shared, []), *documents] if shared else documents
    lengths = [stem + sum(branches) for stem, branches in parts]
    sees = [n > 0 for n in range(len(parts))] if shared else ()
    seen = torch.block_diag(*(seen_by(*part) for part in parts)).bool()
    seen[:, :shared] |= torch.ones(len(seen), 1, dtype=torch.bool)
    seen[:shared, :shared] = seen_by(shared, [])
    draw = torch.Generator().manual_seed(sum(lengths))
    q, k, v, weight = (
        torch.randn(sum(lengths), n, 4, dtype=torch.float64, generator=draw).requires_grad_() for n in (4, 2, 2, 4)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "TILE", tile)
        layout = make_layout(lengths, dtype=torch.float64, sees=sees, branches=[own for _, own in parts])
        found = attention._by_blocks(q, k, v, 1.0, layout)
    wanted = dense(q, k, v, seen)
    torch.testing.assert_close(found, wanted)
    for a, b in zip(*(torch.autograd.grad((x * weight).sum(), (q, k, v)) for x in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b)


def test_documents_of_several_tiles_agree_with_one(models: tuple[Loaded, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, _ = models
    tokens, positions = torch.arange(60), torch.arange(30).repeat(2)
    with torch.inference_mode():
        whole = loaded.hidden(tokens, positions, loaded.layout([30, 30]))
        monkeypatch.setattr(attention, "TILE", 8)
        tiles = loaded.hidden(tokens, positions, loaded.layout([30, 30]))
    torch.testing.assert_close(whole, tiles, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grouped", [True, False])
def test_the_kernel_for_documents_gets_as_many_keys_as_it_takes(monkeypatch: pytest.MonkeyPatch, grouped: bool) -> None:
    """That of torch 2.11 has no word for fewer keys than queries."""

    def attend(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, scale: float) -> Tensor:
        parts = (
            [x[a:b].transpose(0, 1)[None] for x in (q, k, v)] for a, b in pairwise(starts.tolist())
        )  # every document alone
        done = [F.scaled_dot_product_attention(*p, is_causal=True, scale=scale, enable_gqa=True) for p in parts]
        return torch.cat([x[0].transpose(0, 1) for x in done])

    def today(q: Any, k: Any, v: Any, starts: Any, *_: Any, scale: float, window_size: Any, enable_gqa: bool) -> Tensor:
        assert enable_gqa and (q.shape[1], k.shape[1], window_size) == (6, 2, (-1, 0))
        return attend(q, k, v, starts, scale)

    def before(q: Any, k: Any, v: Any, starts: Any, *_: Any, scale: float, window_size: Any) -> Tensor:
        assert (q.shape[1], k.shape[1], window_size) == (6, 6, (-1, 0))
        return attend(q, k, v, starts, scale)

    monkeypatch.setattr(varlen, "varlen_attn", today if grouped else before)
    torch.manual_seed(0)
    q, k, v = (torch.randn(37, n, 8) for n in (6, 2, 2))
    documents = attention.make_layout([5, 31, 1], dtype=torch.float32)
    documents = dataclasses.replace(documents, bounds=torch.tensor([0, 5, 36, 37]))
    found, wanted = (f(q, k, v, 0.3, documents) for f in (attention._varlen, attention._by_blocks))
    torch.testing.assert_close(found, wanted)


def test_what_is_seen_decides_about_a_window_and_branches_do_not_see_each_other() -> None:
    branched = make_layout([775, 90], dtype=torch.float32, branches=[[75] * 10, []])
    assert branched.reach == 100  # 25 that all begin with, and 75
    assert make_layout([20, 30, 8], dtype=torch.float32, sees=[False, True, False]).reach == 50
    assert make_layout([5, 30, 8], dtype=torch.float32).reach == 30


def test_attention_that_would_be_computed_wrongly_is_refused() -> None:
    layout = make_layout([8], dtype=torch.float32)
    x = torch.zeros(1, 2, 8, 4)
    with pytest.raises(BessemerError, match="sliding window of 4"):
        attention.document_attention(None, x, x, x, None, scaling=1.0, documents=layout, sliding_window=4)
    with pytest.raises(BessemerError, match="soft-capping"):
        attention.document_attention(None, x, x, x, None, scaling=1.0, documents=layout, softcap=30.0)
    with pytest.raises(BessemerError, match="sinks"):
        attention.document_attention(None, x, x, x, None, scaling=1.0, documents=layout, s_aux=torch.zeros(2))
    with pytest.raises(BessemerError, match="queries of 4 numbers and values of 3"):
        attention.document_attention(None, x, x, x[..., :3], None, scaling=1.0, documents=layout)
    out, _ = attention.document_attention(None, x, x, x, None, scaling=1.0, documents=layout, sliding_window=8)
    assert out.shape == (1, 8, 2, 4)


def test_a_shared_prefix_changes_no_value_and_no_gradient(models: tuple[Loaded, Any]) -> None:
    loaded, _ = models
    draw = torch.Generator().manual_seed(3)
    prefix, own = 11, [5, 17, 17, 40]
    begin, *rest = torch.randint(0, 500, (prefix + sum(own) + 23,), generator=draw).split([prefix, *own, 23])
    *own_tokens, stranger = rest  # a document that does not begin like the others
    whole = [torch.cat([begin, t]) for t in own_tokens] + [stranger]
    parts = [begin, *own_tokens, stranger]
    begins = [0, *(prefix for _ in own), 0]
    positions = torch.cat([torch.arange(b, b + len(t)) for b, t in zip(begins, parts, strict=True)])
    layout = loaded.layout([len(t) for t in parts], [False, True, True, True, True, False])
    gradients: list[list[torch.Tensor | None]] = []
    loaded.model.requires_grad_(True)
    for shared in (False, True):
        loaded.model.zero_grad(set_to_none=True)
        if shared:
            hidden = loaded.hidden(torch.cat(parts), positions, layout)[prefix:]
        else:
            alone = loaded.hidden(
                torch.cat(whole),
                torch.cat([torch.arange(len(t)) for t in whole]),
                loaded.layout([len(t) for t in whole]),
            ).split([len(t) for t in whole])
            hidden = torch.cat([*(h[prefix:] for h in alone[:-1]), alone[-1]])
        hidden.square().sum().backward()
        gradients.append([p.grad for p in loaded.model.parameters()] + [hidden.detach()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)
    loaded.model.requires_grad_(False)
