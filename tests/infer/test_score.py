"""Continuations scored together, with what they share computed once, must score as each does alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.infer import score
from bessemer.infer.model import Loaded, load
from bessemer.infer.score import branch_logprobs


@pytest.fixture(scope="module")
def models(tiny_model: Path) -> tuple[Loaded, Any]:
    from transformers import AutoModelForCausalLM

    plain: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, attn_implementation="sdpa")
    return load(tiny_model, dtype=torch.float32), plain.eval()


def alone(plain: Any, prompt: list[int], branch: list[int]) -> float:
    with torch.inference_mode():
        logprobs = plain(torch.tensor([prompt + branch])).logits[0].double().log_softmax(-1)
    return sum(float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(branch))


tokens = st.integers(0, 200)
questions = st.tuples(
    st.lists(tokens, min_size=1, max_size=12),
    st.lists(st.lists(tokens, min_size=1, max_size=6), min_size=1, max_size=4),
)


@settings(max_examples=25)
@given(shared=st.lists(tokens, max_size=9), asked=st.lists(questions, min_size=1, max_size=6))
def test_branches_score_as_they_do_alone(
    models: tuple[Loaded, Any], shared: list[int], asked: list[tuple[list[int], list[list[int]]]]
) -> None:
    loaded, plain = models
    prompts = [shared + prompt for prompt, _ in asked]
    found = branch_logprobs(loaded, prompts, [branches for _, branches in asked])
    for prompt, (_, branches), values in zip(prompts, asked, found, strict=True):
        assert values == pytest.approx([alone(plain, prompt, b) for b in branches], abs=2e-4)


def test_many_long_questions_in_small_batches(models: tuple[Loaded, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of queries, several batches and several slices of the head, one after the other."""
    loaded, plain = models
    monkeypatch.setattr(score, "HEAD_ROWS", 7)
    monkeypatch.setattr(score, "BATCH_TOKENS", 700)
    generator = torch.Generator().manual_seed(3)

    def draw(n: int) -> list[int]:
        return torch.randint(0, 200, (n,), generator=generator).tolist()

    shared = draw(20)
    prompts = [shared + draw(n) for n in (5, 290, 300, 40)]
    branches = [[draw(3), draw(30)], [draw(40), draw(1), draw(20)], [draw(33)], [draw(2), draw(2)]]
    seen: dict[int, list[float]] = {}
    shares: list[float] = []
    found = branch_logprobs(
        loaded, prompts, branches, shares.append, lambda which, values: seen.update(zip(which, values, strict=True))
    )
    for prompt, own, values in zip(prompts, branches, found, strict=True):
        assert values == pytest.approx([alone(plain, prompt, b) for b in own], abs=5e-4)
    assert [seen[i] for i in range(4)] == found
    assert sum(shares) == pytest.approx(1)


@settings(max_examples=25)
@given(
    beginnings=st.lists(st.lists(tokens, min_size=6, max_size=14), min_size=1, max_size=3),
    asked=st.lists(
        st.tuples(
            st.integers(0, 2), st.lists(tokens, max_size=6), st.lists(tokens, min_size=1, max_size=3, unique=True)
        ),
        min_size=1,
        max_size=9,
    ),
    stem=st.lists(tokens, max_size=9),
)
def test_prompts_that_begin_alike_score_as_they_do_alone(
    models: tuple[Loaded, Any],
    beginnings: list[list[int]],
    asked: list[tuple[int, list[int], list[int]]],
    stem: list[int],
) -> None:
    """A comment under several rules: also where one prompt is the beginning of another, or the same."""
    loaded, plain = models
    prompts = [beginnings[b % len(beginnings)] + end for b, end, _ in asked]
    branches = [[[*stem, answer] for answer in answers] for *_, answers in asked]
    found = branch_logprobs(loaded, prompts, branches)
    for prompt, own, values in zip(prompts, branches, found, strict=True):
        assert values == pytest.approx([alone(plain, prompt, b) for b in own], abs=5e-4)


def test_what_several_prompts_begin_with_is_read_once(
    models: tuple[Loaded, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, _ = models
    lengths: list[int] = []
    hidden = Loaded.hidden

    def counting(self: Loaded, tokens_N: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        lengths.append(len(tokens_N))
        return hidden(self, tokens_N, *rest, **more)

    monkeypatch.setattr(Loaded, "hidden", counting)
    comments = [[c] * 30 for c in range(4)]
    prompts = [[*comment, 100 + rule, 99] for rule in range(3) for comment in comments]
    branch_logprobs(loaded, prompts, [[[7], [8]]] * 12)
    assert sum(lengths) == 4 * (30 + 3 * 2)


def test_no_token_is_likelier_than_one(tiny_model: Path) -> None:
    """A chosen token in full precision over a sum in bf16, whose numbers near 40 lie a quarter apart, would be."""
    half = load(tiny_model, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    hidden_NC = torch.randn(64, half.head.weight.shape[1], generator=generator).bfloat16()
    with torch.no_grad():
        half.head.weight.mul_(40 / half.head(hidden_NC).float().amax(-1).median())
        exact_NV = torch.log_softmax(hidden_NC.float() @ half.head.weight.float().T, dim=-1)
        best_N = exact_NV.argmax(-1)
        targets = [*best_N.tolist(), *exact_NV.topk(5).indices[:, 4].tolist()]
        found = torch.tensor(score._chosen_logprobs(half, hidden_NC, [*range(64)] * 2, targets))
    assert found.max() <= 1e-6 and exact_NV[range(64), best_N].max() > -0.01  # some are nearly sure
    wanted = exact_NV[[*range(64)] * 2, targets].double()
    assert (found - wanted).abs().max() < 2e-3


def test_a_long_shared_beginning_is_repeated_for_few_at_once() -> None:
    assert score._batch_tokens([]) == score.BATCH_TOKENS
    assert score._batch_tokens([1] * 100) == score.BATCH_TOKENS and score._batch_tokens([1] * 1000) == 4000
    assert score._batch_tokens([1] * 10_000) == score.CELLS // 10_000 and score._batch_tokens([1] * 10**6) == 256


@pytest.mark.parametrize(("n_shared", "length", "shares"), [(3, 9, 0), (4, 9, 4), (40, 1200, 0), (75, 1200, 75)])
def test_long_prompts_share_only_what_is_worth_it(n_shared: int, length: int, shares: int) -> None:
    """With something before them they are read without the fused kernel."""
    prompts = [[7] * n_shared + [n] * (length - n_shared) for n in (1, 2)]
    assert len(score._common_prefix(prompts)) == shares
