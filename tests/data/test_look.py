from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bessemer.data.items import Item
from bessemer.data.look import mixture_course, show_items, show_rows, statistics
from bessemer.data.render import Example, Renderer
from bessemer.plan.resolve import Prepared, prepare
from bessemer.recipe.load import load_recipe
from tests.story import write_story


@pytest.fixture
def prepared(tmp_path: Path, tiny_model: Path) -> Prepared:
    return prepare(load_recipe(write_story(tmp_path / "story", tiny_model)))


def test_rows_are_shown_as_they_are_trained(prepared: Prepared) -> None:
    data = prepared.stages[1]
    shown = show_rows(data, prepared.renderer.decode_all, 4, 4)
    trained = [i for step in (2, 3) for i in data.batch(step).ids]
    assert [s.id for s in shown] == trained and {s.row for s in shown} == {4, 5, 6, 7}
    chat = next(s for s in shown if s.source == "rules")
    learnt = [text for text, supervised in chat.runs if supervised]
    assert learnt in (["yes<|im_end|>"], ["no<|im_end|>"])
    assert chat.supervised == 2 and "<|im_start|>assistant" in chat.runs[0][0]


def test_the_course_of_a_mixture_adds_up(prepared: Prepared) -> None:
    data = prepared.stages[0]
    course = mixture_course(data)
    total = sum((Counter(part.tokens) for part in course), Counter[str]())
    planned = prepared.plan["stages"][0]["sources"]
    assert course[-1].at == 1 and total.keys() == planned.keys()
    assert all(abs(total[name] - planned[name]["tokens"]) <= len(course) for name in total)


def test_statistics_of_a_source(tiny_model: Path) -> None:
    items = [Item("a", "one two three", meta={"licence": "MIT"}), Item("b", "One, two: THREE!"), Item("c", "x" * 900)]
    mail = "Please write to somebody@example.org about the weather of the coming week."
    german = "Bitte schreiben Sie uns, wenn das Wetter in der kommenden Woche besser wird."
    told = statistics([Item("m", mail), Item("g", german)])
    assert told.personal == {"email": 1} and told.languages == {"en": 1, "de": 1}
    plain = statistics(items)
    assert (plain.items, plain.duplicates, plain.groups, plain.tokens) == (3, 1, 3, None)
    assert plain.columns == {"licence": 1}
    assert [n for _, _, n in plain.histogram if n] == [1, 1, 1] and sum(n for *_, n in plain.histogram) == 3
    renderer = Renderer(tiny_model)
    counted = statistics(items, renderer)
    assert counted.tokens == sum(len(e.ids_L) for e in renderer.render(items)) == counted.supervised
    assert show_items(items, renderer, "s")[0].runs == (("one two three<|im_end|>", True),)


def test_a_conversation_that_is_rendered_twice_is_one_item() -> None:
    class Twice:
        def render(self, items: list[Item]) -> list[Example]:
            one = Example("x", "", np.zeros(4, np.int32), np.ones(4, np.bool_))
            return [one, one] * len(items)

    found = statistics([Item("a", "one"), Item("b", "two")], Twice())
    assert found.items == 2 and found.tokens == 16
