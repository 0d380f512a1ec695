"""What stands in an evaluation's scorecard, from results that are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bessemer.evaluate.card import GAIN, KEEP, Block, build_card
from bessemer.evaluate.metrics import Columns
from bessemer.evaluate.result import Fed, TaskResult
from bessemer.evaluate.tasks import Task


def result(model: str, n_right: int) -> TaskResult:
    right, ids = (np.arange(40) < n_right).astype(float), tuple(map(str, range(40)))
    columns = Columns("generate", ids, ids, ("",) * 40, {"right": right[:, None]})
    return TaskResult(model, columns, None, Fed(True, 9), {i: {"question": told(i)} for i in ids})


def told(item: str) -> dict[str, Any]:
    return {"longest": 0, "coverage": 0.0, "document": "", "can_tell": True, "contaminated": False}


def block(name: str, role: str, **spec: Any) -> Block:
    task = Task.model_validate({"name": name, "kind": "generate", "items": "x", **spec})
    return Block(
        name, role, task.model_dump(mode="json", exclude={"items"}), [result("before", 10)], [result("after", 30)]
    )


def facts(base: str) -> dict[str, Any]:
    return {
        "created": "", "by": "", "code": {}, "models": [{"name": "mine", "base_digest": base}],
        "against": {"name": "other", "digest": "o"},
    }  # fmt: skip


def test_the_metric_that_decides_is_among_them_whatever_the_items_are_like() -> None:
    """pass@1 of one sample is the share of right answers; a sealed part was opened for it and then never scored."""
    card = build_card([block("t", GAIN, metric="pass_at_k")], facts("o"), {}, None)
    found = card["tasks"]["t"]
    assert found["metrics"]["pass_at_k"]["after"]["result"]["value"] == found["change"]["after"]["value"] == 0.75


@pytest.mark.parametrize(("base", "said"), [("o", False), ("another", True)])
def test_what_was_kept_is_said_against_another_than_the_start(base: str, said: bool) -> None:
    card = build_card([block("t", GAIN), block("k", KEEP)], facts(base), {}, None)
    reasons = " ".join(card["verdict"]["reasons"])
    assert ("compared with other, not with what mine started from" in reasons) == said
