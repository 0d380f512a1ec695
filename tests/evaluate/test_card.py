"""What stands in an evaluation's scorecard, from results that are given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bessemer.evaluate.card import GAIN, KEEP, Block, _adjust, build_card, order_fault
from bessemer.evaluate.metrics import Columns
from bessemer.evaluate.result import Fed, TaskResult, judge_controls
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


def flips(n_right: int, n: int = 12) -> TaskResult:
    ids = tuple(map(str, range(n)))
    odds = np.where(np.arange(n) < n_right, 1.0, -1.0)
    values = {"label": np.zeros(n, np.int64), "logprob": np.stack([odds, np.zeros(n)], axis=1)}
    return replace(result("m", 10), controls=Columns("classify", ids, ids, ("",) * n, values))


def test_a_model_that_knows_the_coin_flips_has_seen_them() -> None:
    found = judge_controls(flips(12))
    assert found and found["seen"] and found["right"] == 12 and found["p"] == pytest.approx(0.5**12)
    by_luck = judge_controls(flips(7))
    assert by_luck and not by_luck["seen"] and judge_controls(result("m", 10)) is None


def test_tasks_that_decide_together_share_the_error() -> None:
    change = build_card([block("t", GAIN), block("u", GAIN)], facts("o"), {}, None)["tasks"]["t"]["change"]
    assert change["p_adjusted"] == pytest.approx(min(1, 2 * change["p"]), abs=1e-6)
    tasks: list[dict[str, Any]] = [{"change": {"p": p, "answer": "WIN"}, "spec": {"alpha": 0.05}} for p in (0.03, 0.04)]
    _adjust(tasks)
    assert [(t["change"]["p_adjusted"], t["change"]["answer"]) for t in tasks] == [(0.06, "INCONCLUSIVE")] * 2


SEALED = {"name": "s", "created": "2026-01-01", "commitment": "c"}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({}, "nobody knows"),
        ({"begun": "2025"}, "after m began"),
        ({"begun": "2027"}, "was not there"),
        ({"begun": "2027", "seals": {"s": "other"}}, "another seal"),
        ({"begun": "2027", "seals": {"s": "c"}}, ""),
    ],
)
def test_the_order_of_sealing_and_training(model: dict[str, Any], said: str) -> None:
    found = order_fault(SEALED, {"name": "m", **model})
    assert said in found and bool(found) == bool(said)


@pytest.mark.parametrize(("base", "said"), [("o", False), ("another", True)])
def test_what_was_kept_is_said_against_another_than_the_start(base: str, said: bool) -> None:
    card = build_card([block("t", GAIN), block("k", KEEP)], facts(base), {}, None)
    reasons = " ".join(card["verdict"]["reasons"])
    assert ("compared with other, not with what mine started from" in reasons) == said


@pytest.mark.parametrize(("n_gains", "alpha"), [(1, 0.0004), (3, 0.001), (21, 0.01)])
def test_a_sure_gain_is_a_win_however_strict_and_many_the_tasks(n_gains: int, alpha: float) -> None:
    """Of 1,999 permutations no p is smaller than .0005, and Holm's rule multiplies it by the number of tasks."""
    card = build_card([block(f"t{n}", GAIN, alpha=alpha) for n in range(n_gains)], facts("o"), {}, None)
    assert {t["change"]["answer"] for t in card["tasks"].values()} == {"WIN"}


def test_clocks_do_not_undo_an_order_that_the_run_wrote_down() -> None:
    late = {"created": "2026-11-20T10:05:00Z", "name": "s", "commitment": "d"}
    model = {"name": "m", "begun": "2026-11-20T10:01:00Z"}
    assert order_fault(late, {**model, "seals": {"s": "d"}}) == ""
    assert "after m began" in order_fault(late, {**model, "seals": {}})
    assert "after m began" in order_fault(late, {**model, "seals": {"s": "other"}})
