"""A planted leak is found, the form of a task is not taken for one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.evaluate.overlap import LONG, Field, Overlap, Search

WORDS = [f"w{i}" for i in range(3000)]


def text(rng: random.Random, n: int) -> str:
    return " ".join(rng.choices(WORDS, k=n))


def search(texts: list[str], documents: list[str]) -> list[Overlap]:
    looked = Search([Field(i, "question", t, f"g{i}") for i, t in enumerate(texts)])
    assert looked.look((f"d{k}", d) for k, d in enumerate(documents)) == len(documents)
    return looked.found


@given(st.integers(5, 60), st.integers(0, 30), st.integers(0, 999))
def test_the_longest_run_is_exact(n_shared: int, before: int, seed: int) -> None:
    rng = random.Random(seed)
    shared = text(rng, n_shared)
    item = f"{text(rng, before)} {shared} {text(rng, 7)}"
    (found,) = search([item], [text(rng, 50), f"{text(rng, 9)} x {shared} y {text(rng, 20)}"])
    assert found.longest == n_shared
    assert found.document == "d1"
    own = len(item.split()) - 8 + 1
    assert found.coverage == pytest.approx(max(0, n_shared - 8 + 1) / own, abs=1e-4)


def test_a_leak_of_one_item_in_many_documents(tmp_path: Path) -> None:
    rng = random.Random(1)
    items = [text(rng, 25) for _ in range(200)]
    documents = [text(rng, 40) for _ in range(50_000)]
    documents[32_101] = f"{text(rng, 20)} {items[77].upper().replace(' ', ',  ')}! {text(rng, 20)}"
    found = search(items, documents)
    assert [o.item for o in found if o.contaminated] == [77]
    assert found[77].document == "d32101"
    assert found[77].longest == 25
    assert found[77].coverage == 1


def test_what_all_items_share_is_no_leak() -> None:
    rng = random.Random(2)
    form = "does the comment break the rule rule do not talk about films in this place comment"
    items = [f"{form} {text(rng, 9)}" for _ in range(6)]
    (clean, *_, leaked) = search(items, [f"{form} {text(rng, 12)}", f"{form} {items[5].split('comment ')[-1]}"])
    assert not clean.contaminated
    assert clean.longest < LONG
    assert leaked.contaminated


def test_short_items_count_when_all_of_their_words_are_there() -> None:
    items = ["a film with heart", "no", "one two three four five six"]
    found = search(items, ["What a film, with heart and soul", "no no no", "one two three four five"])
    assert [o.contaminated for o in found] == [True, False, False]
    assert [o.can_tell for o in found] == [True, False, True]
    assert found[2].longest == 5


def test_twins_share_their_comment_and_are_both_found() -> None:
    comment = "the battery of this phone lasts for about two hours and then it dies again"
    fields = [Field(0, "question", f"rule one {comment}", "g"), Field(1, "question", f"rule two {comment}", "g")]
    looked = Search(fields)
    looked.look([("d", comment)])
    assert all(o.contaminated for o in looked.found)
