from __future__ import annotations

from typing import Any

import pytest

from bessemer.errors import BessemerError
from bessemer.evaluate import scorecard
from bessemer.evaluate.measure import need_one_precision
from bessemer.evaluate.verdict import decide, judge_evaluation


def test_only_like_is_compared_with_like() -> None:
    cpu, gpu = {"precision": "cpu float32"}, {"precision": "cuda bfloat16"}
    need_one_precision(cpu, cpu, "x")
    with pytest.raises(BessemerError, match="measured on cpu float32, the trained model on cuda bfloat16"):
        need_one_precision(cpu, gpu, "x")
    with pytest.raises(BessemerError, match="held-out items changed"):
        scorecard._same_items("t", {"ids": ["a"]}, {"ids": ["b"]})


def iv(value: float, half: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def task(change: float, after: float = 0.8, at_least: float | None = None, role: str = "decides") -> dict[str, Any]:
    return {
        "metric": "auroc", "role": role, "at_least": at_least,
        "before": {"auroc": iv(after - change)}, "after": {"auroc": iv(after)}, "change": {"auroc": iv(change)},
    }  # fmt: skip


def probe(change: float) -> dict[str, Any]:
    return {"change": iv(change, 0.002), "limit": 0.0101}


@pytest.mark.parametrize(
    ("tasks", "probes", "word"),
    [
        ({"t": task(0.3)}, {"p": probe(0.0)}, "SHIP"),
        ({"t": task(0.3)}, {"p": probe(-0.02)}, "SHIP"),
        ({"t": task(0.3)}, {"p": probe(0.0095)}, "HOLD"),
        ({"t": task(0.3)}, {"p": probe(0.05)}, "REJECT"),
        ({"t": task(0.3)}, {"p": probe(0.0), "q": probe(0.05)}, "REJECT"),
        ({"t": task(0.005)}, {"p": probe(0.0)}, "HOLD"),
        ({"t": task(-0.1)}, {"p": probe(0.0)}, "REJECT"),
        ({"t": task(0.3, at_least=0.795)}, {"p": probe(0.0)}, "HOLD"),
        ({"t": task(0.3, at_least=0.7)}, {"p": probe(0.0)}, "SHIP"),
        ({"t": task(0.3, at_least=0.9)}, {"p": probe(0.0)}, "REJECT"),
        ({"t": task(0.3), "u": task(-0.1, role="reported")}, {"p": probe(0.0)}, "SHIP"),
    ],
)
def test_the_gate(tasks: dict[str, Any], probes: dict[str, Any], word: str) -> None:
    verdict = decide(tasks, probes)
    assert verdict.word == word and verdict.reasons
    assert verdict.exit_code == {"SHIP": 0, "HOLD": 2, "REJECT": 3}[word]


def test_for_bits_per_byte_less_is_better() -> None:
    lower = {
        "metric": "bits_per_byte", "role": "decides", "at_least": None, "before": {"bits_per_byte": iv(2.0)},
        "after": {"bits_per_byte": iv(1.8)}, "change": {"bits_per_byte": iv(-0.1)},
    }  # fmt: skip
    assert decide({"t": lower}, {"p": probe(0.0)}).word == "SHIP"
    assert decide({"t": lower | {"change": {"bits_per_byte": iv(0.1)}}}, {"p": probe(0.0)}).word == "REJECT"


# -- an evaluation's -----------------------------------------------------------------------------------------------

SEALED = {"out_of_order": "", "submissions": [{"model": "m" * 20, "state": "scored", "result": "a", "why": ""}]}
CLEAN = {"known": True, "n_contaminated": 0, "share": 0.0, "leaked_canaries": 0, "n_untold": 0}
SEEN = {"n": 10, "right": 10, "chance": 0.5, "p": 0.00098, "seen": True}


def measured(
    role: str = "gain", low: float = 0.01, high: float = 0.05, *, answer: str = "WIN", better: bool = True, **more: Any
) -> dict[str, Any]:
    sides = {"before": {"value": 0.7}, "after": {"value": 0.73}}
    change = {"value": (low + high) / 2, "low": low, "high": high}
    return {
        "role": role, "primary": "auroc", "margin": 0.02, "n_items": 100, "spec": {"overlap_limit": 0.05},
        "seal": SEALED if role == "gain" else {}, "results": {"before": ["b"], "after": ["a"]}, "controls": [None],
        "overlap": CLEAN,
        "change": {"answer": answer, "change": change, "higher_is_better": better, "relative": False, **sides},
    } | more  # fmt: skip


KEPT = measured("keep", -0.01, 0.01)
WITHDRAWN = {**SEALED, "submissions": [{"model": "m" * 20, "state": "withdrawn", "result": "a", "why": "a mistake"}]}


@pytest.mark.parametrize(
    ("tasks", "probes", "other", "word", "why"),
    [
        ({"t": measured(), "k": KEPT}, {}, "", "SHIP", "kept k"),
        ({"t": measured()}, {"p": probe(0.0)}, "", "SHIP", "kept p"),
        ({"t": measured()}, {"p": probe(0.05)}, "", "REJECT", "forgot p"),
        ({"t": measured()}, {}, "", "HOLD", "nothing general was measured"),
        ({"t": measured(answer="LOSS"), "k": KEPT}, {}, "", "REJECT", "worse than before on t"),
        ({"t": measured(answer="EQUIVALENT"), "k": KEPT}, {}, "", "REJECT", "nothing gained that matters on t"),
        ({"t": measured(answer="INCONCLUSIVE"), "k": KEPT}, {}, "", "HOLD", "no change shown on t"),
        ({"t": measured(), "k": measured("keep", -0.05, -0.03)}, {}, "", "REJECT", "forgot k"),
        ({"t": measured(), "k": measured("keep", -0.03, 0.01)}, {}, "", "HOLD", "cannot tell whether it was kept, k"),
        ({"t": measured(), "k": measured("keep", -0.01, 0.03, better=False)}, {}, "", "HOLD", "cannot tell whether"),
        ({"t": measured(), "k": measured("keep", 0.03, 0.05, better=False)}, {}, "", "REJECT", "forgot k"),
        ({"t": measured(), "k": measured("keep", -0.05, 0.01, better=False)}, {}, "", "SHIP", "kept k"),
        ({"k": KEPT}, {}, "", "HOLD", "no task is there that has to gain"),
        ({"t": measured(seal={}), "k": KEPT}, {}, "", "HOLD", "no task is sealed"),
        ({"t": measured(seal={**SEALED, "out_of_order": "later"}), "k": KEPT}, {}, "", "HOLD", "t: later"),
        ({"t": measured(seal=WITHDRAWN), "k": KEPT}, {}, "", "HOLD", "was withdrawn: a mistake"),
        (
            {"t": measured(), "k": {**KEPT, "seal": WITHDRAWN}},
            {},
            "",
            "HOLD",
            "k: the score of mmmmmmmmmmmm was withdrawn",
        ),
        ({"t": measured(overlap={"known": False}), "k": KEPT}, {}, "", "HOLD", "nothing is known of what"),
        ({"t": measured(overlap=CLEAN | {"share": 0.06}), "k": KEPT}, {}, "", "HOLD", "were fed to the model"),
        ({"t": measured(overlap=CLEAN | {"share": 0.04}), "k": KEPT}, {}, "", "SHIP", "learnt t"),
        ({"t": measured(), "k": KEPT | {"overlap": CLEAN | {"share": 0.06}}}, {}, "", "HOLD", "k: 0 of 100 items were"),
        ({"t": measured(overlap=CLEAN | {"n_untold": 51}), "k": KEPT}, {}, "", "HOLD", "51 of 100 items are too short"),
        ({"t": measured(overlap=CLEAN | {"leaked_canaries": 1}), "k": KEPT}, {}, "", "HOLD", "the file leaked"),
        ({"t": measured(controls=[SEEN]), "k": KEPT}, {}, "", "HOLD", "has seen the answers"),
        ({"t": measured(), "k": KEPT}, {}, "compared with x", "HOLD", "compared with x"),
        ({"t": measured(), "k": KEPT}, {"p": probe(0.0)}, "compared with x", "SHIP", "compared with x"),
        (
            {"t": {k: v for k, v in measured().items() if k != "change"}, "k": KEPT},
            {},
            "",
            "HOLD",
            "nothing to compare",
        ),
    ],
)
def test_the_gate_of_an_evaluation(
    tasks: dict[str, Any], probes: dict[str, Any], other: str, word: str, why: str
) -> None:
    found = judge_evaluation(tasks, probes, other)
    assert found.word == word and any(why in reason for reason in found.reasons), found
