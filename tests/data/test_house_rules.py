"""House rules on synthetic comments: twins, balance, and what is kept for the test."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from bessemer.data.builtin import comments, house_rules
from bessemer.data.items import Item

WORDS = ["love", "movie", "money", "song", "camera", "you", "but", "funny", "plot", "@bob", "today", "kids", "why?",
         "http://x.y", "actor", "thanks", "job", "good", "42", "WOW"]  # fmt: skip


def synthetic(*, test: bool) -> list[tuple[str, str]]:
    rng = random.Random(int(test))
    filler = ["the", "a", "it", "was", "there", "and", "with", "some", "of", "that"]
    return [
        (f"{test}{i}", " ".join(rng.choices(filler, k=6) + rng.sample(WORDS, 2)))
        for i in range(6000)
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def _synthetic_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comments, "domain_comments", synthetic)
    house_rules.read.cache_clear()


def rule_of(item: Item) -> str:
    return item.messages[1].content.split("\n")[1].removeprefix("Rule: ")


@pytest.mark.parametrize("split", ["train", "trained", "new-wording", "new-rule"])
def test_every_comment_is_a_twin_with_true_opposite_answers(split: str) -> None:
    families = {f.name: f for f in (*house_rules.TRAINED, *house_rules.UNSEEN)}
    items = house_rules.read(split)
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
        comment = item.messages[1].content.split("\n")[0].removeprefix("Comment: ")
        broken = families[item.meta["rule"]].breaks(comment)
        assert item.messages[-1].content == ("yes" if broken else "no")
    assert all(sorted(i.messages[-1].content for i in g) == ["no", "yes"] for g in groups.values())
    assert len({i.id for i in items}) == len(items)


def test_neither_the_comment_nor_the_rule_alone_predicts_the_answer() -> None:
    items = house_rules.read("train")
    yes = Counter(i.meta["rule"] for i in items if i.messages[-1].content == "yes")
    no = Counter(i.meta["rule"] for i in items if i.messages[-1].content == "no")
    assert yes.keys() == {f.name for f in house_rules.TRAINED}
    assert all(abs(yes[name] - no[name]) <= 2 for name in yes)


def test_six_families_and_the_last_wordings_are_kept_for_the_test() -> None:
    assert len(house_rules.UNSEEN) == 6 and len(house_rules.TRAINED) == 14
    last = {f.wordings[-1] for f in house_rules.TRAINED}
    assert not {rule_of(i) for i in house_rules.read("train")} & last
    assert {rule_of(i) for i in house_rules.read("new-wording")} <= last
    assert not {i.meta["rule"] for i in house_rules.read("new-rule")} & {f.name for f in house_rules.TRAINED}
    for family in (*house_rules.TRAINED, *house_rules.UNSEEN):
        assert len(set(family.wordings)) == len(family.wordings) >= 4


def test_train_and_test_share_no_comment() -> None:
    sets = [{i.messages[1].content.split("\n")[0] for i in house_rules.read(s)} for s in ("train", "trained")]
    assert not sets[0] & sets[1]
