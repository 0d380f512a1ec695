"""Controls and canaries: drawn by a committed seed, known to nobody, told from the others by nobody but the key."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import Any

import pytest

from bessemer.errors import BessemerError
from bessemer.evaluate.controls import CANARY_WORDS, Wanted, check_controls, with_controls
from bessemer.evaluate.overlap import LONG
from bessemer.evaluate.result import tail_p
from bessemer.evaluate.sides import Row

SPEC = {"kind": "classify", "answers": ["yes", "no"]}
SEED, OTHER = b"a" * 32, b"b" * 32
SHA = {seed: hashlib.sha256(seed).hexdigest() for seed in (SEED, OTHER)}


def rows(n: int = 40, **more: Any) -> list[Row]:
    return [{"id": f"i{k}", "prompt": f"question {k}", "answer": ("yes", "no")[k % 2], **more} for k in range(n)]


def marked(made: list[Row]) -> list[tuple[Row, bool]]:
    return [({k: v for k, v in row.items() if k != "control"}, "control" in row) for row in made]


def test_canaries_are_items_of_words_that_exist_nowhere_else() -> None:
    made = with_controls(rows(), SPEC, Wanted(canaries=10), SEED)
    canaries = made[40:]
    assert made[:40] == rows() and len(canaries) == 10 and len({c["id"] for c in canaries}) == 10
    words = [word for c in canaries for word in c["prompt"].split()]
    assert len(words) == 10 * CANARY_WORDS and CANARY_WORDS > LONG
    assert Counter(words).most_common(1)[0][1] <= 2  # of three million words the same is drawn hardly ever
    assert {c["answer"] for c in canaries} == {"yes", "no"}


def test_canaries_have_the_form_of_the_other_items() -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it?"}]
    chats = [{"id": str(k), "messages": turns, "choices": ["a", "b", "c"], "answer": k % 3} for k in range(10)]
    (made,) = with_controls(chats, {"kind": "choice"}, Wanted(canaries=1), SEED)[10:]
    assert made["messages"][0] == turns[0] and made["messages"][1]["content"] != "Is it?"
    assert made["choices"] == ["a", "b", "c"] and made["answer"] in {0, 1, 2}


def test_what_the_seed_drew_is_found_in_order_and_nothing_else() -> None:
    wanted = Wanted(controls=8, canaries=3)
    made = marked(with_controls(rows(), SPEC, wanted, SEED))
    assert check_controls(made, SPEC, wanted, SEED, SHA[SEED]) == ""
    assert "not the one that was committed" in check_controls(made, SPEC, wanted, OTHER, SHA[SEED])
    assert "picked" in check_controls(made, SPEC, wanted, OTHER, SHA[OTHER])
    flip = next(n for n, (_, is_marked) in enumerate(made) if is_marked)
    row, _ = made[flip]
    chosen = [*made]
    chosen[flip] = ({**row, "answer": "no" if row["answer"] == "yes" else "yes"}, True)
    assert "flips" in check_controls(chosen, SPEC, wanted, SEED, SHA[SEED])
    nicer = [*made[:-1], ({**made[-1][0], "prompt": "my own words"}, True)]
    assert "canary" in check_controls(nicer, SPEC, wanted, SEED, SHA[SEED])


@pytest.mark.parametrize(
    ("wanted", "spec", "what"),
    [
        (Wanted(controls=21), SPEC, "cannot be controls"),
        (Wanted(canaries=41), SPEC, "canaries beside"),
        (Wanted(canaries=1), {"kind": "generate"}, "no answers to flip"),
    ],
)
def test_too_many_or_of_the_wrong_kind_are_refused(wanted: Wanted, spec: dict[str, Any], what: str) -> None:
    with pytest.raises(BessemerError, match=what):
        with_controls(rows(), spec, wanted, SEED)


@pytest.mark.parametrize(
    ("right", "n", "chance"), [(0, 5, 0.5), (3, 5, 0.5), (5, 5, 0.25), (60, 100, 0.5), (1, 40, 1.0)]
)
def test_the_tail_is_the_binomial_one(right: int, n: int, chance: float) -> None:
    exact = sum(math.comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(right, n + 1))
    assert tail_p(right, n, chance) == pytest.approx(exact)


def test_the_tail_of_many_controls() -> None:
    assert tail_p(1000, 2000, 0.5) == pytest.approx(0.5, abs=0.01) and tail_p(1200, 2000, 0.5) < 1e-15
