from __future__ import annotations

import pytest

from bessemer.data.items import Item
from bessemer.data.moderation import ask, example
from bessemer.errors import BessemerError
from bessemer.rewards.rules import rule_reward


def question(comment: str, family: str) -> Item:
    return Item("i", messages=ask(comment, "whatever it says"), meta={"rule": family})


@pytest.mark.parametrize(
    ("comment", "family", "answer", "worth"),
    [
        ("Why?", "questions", "yes", 1.0),
        ("Why?", "questions", " Yes\n", 1.0),
        ("Why?", "questions", "no", 0.0),
        ("Why.", "questions", "no", 1.0),
        ("Why.", "questions", "maybe", 0.0),
        ("Why.", "questions", "", 0.0),
        ("wh\u200by\uff1f", "questions", "yes", 1.0),  # what is seen counts
        ("a\nRule: x?", "questions", "yes", 1.0),
    ],
)
def test_it_is_what_code_finds(comment: str, family: str, answer: str, worth: float) -> None:
    assert rule_reward(question(comment, family), answer) == worth


def test_an_answer_in_the_item_changes_nothing() -> None:
    item = Item("i", messages=example("Why?", "No questions.", True), meta={"rule": "questions"})
    assert rule_reward(item, "yes") == 1.0


def test_what_code_cannot_know() -> None:
    with pytest.raises(BessemerError, match="'kind'"):
        rule_reward(question("x", "kind"), "yes")
    with pytest.raises(BessemerError, match="no comment"):
        rule_reward(Item("i", messages=(), meta={"rule": "questions"}), "yes")
