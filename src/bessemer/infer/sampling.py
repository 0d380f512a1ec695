"""Many samples at once, in step: all rows read one token a time, so nothing is padded.

For what a model writes on its own (self-generated replay). Answers to single requests are in `generate.py`. Legend: B
rows, P tokens of a prompt, V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bessemer.errors import BessemerError
from bessemer.infer.generate import Steps, need_room
from bessemer.infer.model import Loaded

LIKELIEST = 1024  # tokens among which one is drawn; their rest holds next to nothing of the probability


@dataclass
class Row:
    """One sample: what was drawn, cut at its turns. finished: it ended by itself, not by `max_tokens`."""

    turns: list[list[int]] = field(default_factory=lambda: [[]])
    finished: bool = False


@torch.inference_mode()
def sample_together(
    loaded: Loaded,
    prompts: Sequence[Sequence[int]],
    *,
    ends: frozenset[int],
    then: Sequence[int] = (),
    max_tokens: int,
    temperature: float = 1.0,
    top_p: float = 0.95,
    seed: int,
) -> list[Row]:
    """Continue prompts of one length, each until it draws one of `ends` (or `max_tokens` are drawn).

    then: given, a row has two turns; after the first one ends it reads these tokens and draws the second (a question
    and its answer). The same seed draws the same rows on the same machine.

    Raises BessemerError when prompts differ in length or leave no room.
    """
    if len({len(p) for p in prompts}) != 1:
        raise BessemerError("prompts that are sampled together need one length")
    n_steps = max_tokens + len(then) + bool(then)  # one for the end of a first turn, which is none of its tokens
    need_room(loaded, len(prompts[0]), n_steps)
    random = torch.Generator().manual_seed(seed)
    rows = [Row() for _ in prompts]
    given: list[list[int]] = [[] for _ in prompts]  # tokens that a row still has to read
    steps = Steps(loaded)
    alive, drawn = list(range(len(rows))), torch.tensor([list(p) for p in prompts])
    steps.read(drawn)
    for _ in range(n_steps):
        tokens_B = draw(steps.logits(), temperature, top_p, random).tolist()
        going: list[int] = []
        for place, r in enumerate(alive):
            if given[r]:
                tokens_B[place] = given[r].pop(0)
                going.append(place)
            elif tokens_B[place] not in ends:
                rows[r].turns[-1].append(tokens_B[place])
                if sum(map(len, rows[r].turns)) < max_tokens:
                    going.append(place)
            elif then and len(rows[r].turns) == 1:
                rows[r].turns.append([])
                given[r] = list(then)
                going.append(place)
            else:
                rows[r].finished = True
        if not going:
            break
        if len(going) < len(alive):
            steps.keep(going)
            alive = [alive[place] for place in going]
        steps.read(torch.tensor([[tokens_B[place]] for place in going]))
    return rows


@torch.inference_mode()
def next_logits(loaded: Loaded, ids: Sequence[int]) -> Tensor:
    """What may come after these tokens. [V], fp32, on the CPU."""
    steps = Steps(loaded)
    steps.read(torch.tensor([list(ids)]))
    return steps.logits()[0]


def draw(logits_BV: Tensor, temperature: float, top_p: float, random: torch.Generator) -> Tensor:
    """One token for each row, among the likeliest that together hold `top_p`. [B]"""
    if not torch.isfinite(logits_BV).all():
        raise BessemerError(
            "the model's logits are not finite",
            where="sampling",
            fix="its weights are damaged, or float16 is too narrow",
        )
    few = min(LIKELIEST, logits_BV.shape[1]) if temperature <= 1 else logits_BV.shape[1]  # hot, the rest counts
    best_BK, tokens_BK = logits_BV.topk(few, dim=-1)
    probs_BK = torch.softmax(best_BK.double() / temperature, dim=-1)
    before_BK = probs_BK.cumsum(-1) - probs_BK
    probs_BK = probs_BK.where(before_BK < top_p, 0.0)
    chosen_B1 = torch.multinomial(probs_BK, 1, generator=random)
    return tokens_BK.gather(1, chosen_B1)[:, 0]
