"""Samples drawn together are the samples that one row alone would draw, and turns end where they end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bessemer.data.items import Message
from bessemer.errors import BessemerError
from bessemer.infer import sampling
from bessemer.infer.model import Loaded, load
from bessemer.infer.sampling import draw, next_logits, sample_together


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Loaded:
    return load(tiny_model, dtype=torch.float32)


def test_the_same_seed_draws_the_same_rows_and_another_seed_others(loaded: Loaded) -> None:
    prompts = [loaded.renderer.encode_texts(["time year people way"])[0][:3]] * 4

    def rows(seed: int) -> list[list[int]]:
        return [r.turns[0] for r in sample_together(loaded, prompts, ends=loaded.eos, max_tokens=12, seed=seed)]

    assert rows(1) == rows(1) != rows(2)
    assert len({tuple(r) for r in rows(1)}) > 1  # rows differ from each other
    assert all(len(r) <= 12 for r in rows(1))


def test_rows_that_go_on_do_not_feel_those_that_ended(loaded: Loaded) -> None:
    """At a temperature of almost zero every row takes the likeliest token, whatever ended beside it."""
    texts = ["time year people", "country problem hand", "office door health"]
    prompts = [ids[:2] for ids in loaded.renderer.encode_texts(texts)]
    settings = {"max_tokens": 10, "temperature": 1e-6, "seed": 1}
    alone = [sample_together(loaded, [p], ends=frozenset(), **settings)[0].turns[0] for p in prompts]
    ends = frozenset({alone[1][3]})  # somewhere a row ends earlier than the others
    together = sample_together(loaded, prompts, ends=ends, **settings)
    for own, row in zip(alone, together, strict=True):
        stop = next((i for i, t in enumerate(own) if t in ends), len(own))
        assert row.turns[0] == own[:stop] and row.finished == (stop < len(own))
    assert together[1].finished


def test_a_second_turn_reads_what_stands_between(loaded: Loaded) -> None:
    """The answer is what follows the whole conversation so far, also in the row's own cache."""
    prompt = loaded.renderer.chat_ids([Message("user", "a")])[:2]
    first = sample_together(loaded, [prompt], ends=frozenset(), max_tokens=6, temperature=1e-6, seed=0)[0].turns[0]
    between = loaded.renderer.encode_texts(["because therefore"])[0]
    end = first[2]
    row = sample_together(
        loaded, [prompt], ends=frozenset({end}), then=between, max_tokens=5, temperature=1e-6, seed=0
    )[0]
    cut = first.index(end)
    assert row.turns[0] == first[:cut] and len(row.turns) == 2
    so_far = [*prompt, *first[:cut], end, *between]
    wanted = int(next_logits(loaded, so_far).argmax())
    assert row.turns[1][0] == wanted if wanted != end else row.turns[1] == []


@pytest.mark.parametrize(
    ("most", "drawn", "turns", "finished"),
    [
        (5, [7, 8, 1, 0, 0, 0, 9, 9, 1], [[7, 8], [9, 9]], True),
        (4, [7, 8, 1, 0, 0, 0, 9, 9], [[7, 8], [9, 9]], False),
        (1, [1, 0, 0, 0, 9], [[], [9]], False),
    ],
)
def test_two_turns_end_within_their_limit(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, most: int, drawn: list[int], turns: list[list[int]], finished: bool
) -> None:
    """The end of the first turn, the tokens between (drawn in vain: 0) and the end of the second take a step each."""
    left = iter(drawn)
    read: list[list[int]] = []
    real = sampling.Steps.read
    monkeypatch.setattr(sampling, "draw", lambda *_: torch.tensor([next(left)]))
    monkeypatch.setattr(
        sampling.Steps, "read", lambda self, tokens_BT: read.append(tokens_BT[0].tolist()) or real(self, tokens_BT)
    )
    (row,) = sample_together(loaded, [[40, 41]], ends=frozenset({1}), then=[20, 21, 22], max_tokens=most, seed=0)
    assert (row.turns, row.finished) == (turns, finished)
    assert list(left) == []
    whole = [40, 41, *turns[0], 1, 20, 21, 22, *turns[1]]
    assert [i for piece in read for i in piece] == (whole if finished else whole[:-1])  # the last one is not read


def test_two_turns_have_room_for_both_ends(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(sampling, "need_room", lambda _, n_prompt, n_new: asked.append(n_prompt + n_new))
    for then in ([], [20, 21]):
        sample_together(loaded, [[40, 41]], ends=loaded.eos, then=then, max_tokens=3, seed=0)
    assert asked == [2 + 3, 2 + 3 + 2 + 1]


def test_only_the_likeliest_are_drawn() -> None:
    logits_BV = torch.log(torch.tensor([[0.6, 0.3, 0.06, 0.04]])).expand(400, 4)
    random = torch.Generator().manual_seed(0)
    assert set(draw(logits_BV, 1.0, 0.5, random).tolist()) == {0}
    assert set(draw(logits_BV, 1.0, 0.85, random).tolist()) == {0, 1}
    assert set(draw(logits_BV, 1.0, 1.0, random).tolist()) == {0, 1, 2, 3}
    share = draw(logits_BV, 1.0, 1.0, random).eq(0).float().mean().item()
    assert 0.5 < share < 0.7


def test_above_a_temperature_of_one_the_rest_counts() -> None:
    random = torch.Generator().manual_seed(1)
    flat = torch.zeros(4000, 3000)
    assert draw(flat, 2.0, 1.0, random).unique().numel() > 2000
    assert draw(flat, 1.0, 1.0, random).unique().numel() <= 1024


def test_prompts_of_different_lengths_and_no_room_are_refused(loaded: Loaded) -> None:
    with pytest.raises(BessemerError, match="one length"):
        sample_together(loaded, [[5], [5, 6]], ends=loaded.eos, max_tokens=3, seed=0)
    with pytest.raises(BessemerError, match="the model reads at most"):
        sample_together(loaded, [[5]], ends=loaded.eos, max_tokens=100_000, seed=0)
