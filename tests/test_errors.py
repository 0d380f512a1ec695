from __future__ import annotations

import pytest

from bessemer.errors import EXIT_CODES, BessemerError, Problem, RecipeError, StoppedByUserError
from bessemer.evaluate.verdict import Verdict


def test_an_error_says_where_what_and_the_fix() -> None:
    assert str(BessemerError("3 of 5 are bad", where="a.jsonl:7", fix="repair 3")) == (
        "a.jsonl:7: 3 of 5 are bad\n  fix: repair 3"
    )
    assert str(BessemerError("bad")) == "bad"
    assert str(BessemerError("bad", fix="do it")) == "bad\n  fix: do it"
    assert isinstance(BessemerError("bad"), ValueError)


def test_a_recipe_error_lists_every_mistake() -> None:
    problems = [Problem("stages[0].lr", "too high", "use 1e-4"), Problem("", "no mapping")]
    error = RecipeError("r.yaml", problems)
    assert str(error).splitlines() == [
        "r.yaml: 2 mistakes in the recipe",
        "  stages[0].lr: too high  -> use 1e-4",
        "  (top): no mapping",
    ]
    assert error.problems == problems
    assert "1 mistake in the recipe" in str(RecipeError("r.yaml", problems[:1]))


@pytest.mark.parametrize(
    ("error", "code"), [(BessemerError("x"), 4), (RecipeError("x", []), 4), (StoppedByUserError("x"), 130)]
)
def test_exit_codes_of_errors(error: BessemerError, code: int) -> None:
    assert error.exit_code == code


@pytest.mark.parametrize(("word", "code"), [("SHIP", 0), ("HOLD", 2), ("REJECT", 3)])
def test_exit_codes_of_verdicts(word: str, code: int) -> None:
    assert Verdict(word, []).exit_code == code


def test_exit_codes_differ() -> None:
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
