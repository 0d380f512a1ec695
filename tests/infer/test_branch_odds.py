"""The log-odds of a shared pass are those of separate passes, against plain transformers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from bessemer.infer.model import Loaded, load
from bessemer.infer.score import MAX_BRANCHES, branch_odds
from tests.tiny import SPECIAL


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Loaded:
    return load(tiny_model, digest="d", end_of_text=SPECIAL[0], dtype=torch.float32)


def separate(folder: Path, prompts: list[list[int]], yes: int, no: int) -> list[float]:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        logits = [model(input_ids=torch.tensor([p])).logits[0, -1] for p in prompts]
    return [float(v[yes] - v[no]) for v in logits]


def test_it_equals_one_pass_for_each_prompt(loaded: Loaded, tiny_model: Path) -> None:
    rng = random.Random(3)

    def some(n: int) -> list[int]:
        return [rng.randrange(5, 400) for _ in range(n)]

    system = some(12)
    questions = []
    for n_rules in (10, 1, 3, 2):
        comment = some(rng.randrange(1, 60))
        questions.append([[*system, *comment, 7, *some(rng.randrange(1, 30))] for _ in range(n_rules)])
    questions.append([[*system, 9, *some(MAX_BRANCHES // 3)] for _ in range(7)])  # branches are read in groups
    found = branch_odds(loaded, questions, (30, 31))
    assert [len(f) for f in found] == [len(q) for q in questions]
    for question, odds in zip(questions, found, strict=True):
        assert odds == pytest.approx(separate(tiny_model, question, 30, 31), abs=1e-4)


def test_equal_prompts_and_one_inside_another(loaded: Loaded, tiny_model: Path) -> None:
    long = list(range(10, 40))
    found = branch_odds(loaded, [[long, long, long[:20]]], (30, 31))[0]
    assert found == pytest.approx(separate(tiny_model, [long, long, long[:20]], 30, 31), abs=1e-4)
