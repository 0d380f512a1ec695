from __future__ import annotations

import pytest

from bessemer.errors import RecipeError
from bessemer.recipe.data_recipe import DataRecipe
from bessemer.recipe.load import parse

GOOD = """
name: comments
sources:
  reddit: {from: reddit.jsonl}
  chat: {from: chat.jsonl, kind: chat}
steps:
  quality: {}
  near_duplicates: {jaccard: 0.9}
  decontaminate: {against: {test: {from: test.jsonl}}}
split: {shares: {train: 0.9, test: 0.1}}
"""


def problems(text: str, *overrides: str) -> dict[str, str]:
    with pytest.raises(RecipeError) as caught:
        parse(DataRecipe, text, where="data.yaml", overrides=overrides)
    return {p.where: f"{p.what} {p.fix}" for p in caught.value.problems}


def test_a_step_is_done_when_it_is_named_with_its_published_thresholds() -> None:
    recipe = parse(DataRecipe, GOOD, where="")
    assert recipe.steps.quality and recipe.steps.pii is None
    quality = recipe.steps.quality
    assert (quality.url_share, quality.alphanumeric_share, quality.word_repetition, quality.character_repetition) == (
        0.2,
        0.25,
        0.5,
        0.5,
    )
    assert (quality.ngram, quality.characters, quality.mean_line) == (10, 50, 10)
    assert recipe.steps.near_duplicates and recipe.steps.near_duplicates.jaccard == 0.9


def test_all_mistakes_come_at_once_with_suggestions() -> None:
    text = (
        GOOD.replace("name: comments", "name: My Comments")
        .replace("kind: chat", "knid: chat")
        .replace("quality: {}", "quality: {url_shares: 0.1}\n  pi: {}")
        .replace("jaccard: 0.9", "jaccard: 90")
        .replace("train: 0.9", "train: 0.8")
        .replace("{from: test.jsonl}", "{form: test.jsonl}")
    )
    found = problems(text)
    assert {"name", "sources.chat.knid", "steps.quality.url_shares", "steps.pi", "steps.near_duplicates.jaccard",
            "split.shares", "steps.decontaminate.against.test.form"} <= set(found)  # fmt: skip
    assert "did you mean 'kind'" in found["sources.chat.knid"]
    assert "did you mean 'url_share'" in found["steps.quality.url_shares"]
    assert "did you mean 'pii'" in found["steps.pi"]
    assert "did you mean 'from'" in found["steps.decontaminate.against.test.form"]
    assert "add up to 0.9, not 1" in found["split.shares"]


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("split={by: time}", "split.column"),
        ("split={by: time, column: t}", "split.cuts"),
        ("split={by: time, column: t, cuts: {train: 2025-01-01}}", "split.cuts.train"),
        ("split={by: time, column: t, cuts: {test: June}}", "split.cuts.test"),
        ("split={by: time, column: t, cuts: {test: 2025}}", "split.cuts.test"),
        ("split.cuts={test: 2025-01-01}", "split.cuts"),
        ("split.column=thread", "split.column"),
        ("split.by=chance", "split.by"),
        ("steps.decontaminate.against.test.from=reddit.jsonl", "steps.decontaminate.against.test.from"),
        ("steps.pii={email: shred}", "steps.pii.email"),
        ("steps.language={keep: []}", "steps.language.keep"),
        ("sources={}", "sources"),
    ],
)
def test_mistakes_across_fields(override: str, where: str) -> None:
    assert where in problems(GOOD, override)


def test_a_date_in_yaml_is_a_cut() -> None:
    recipe = parse(DataRecipe, GOOD, where="", overrides=["split={by: time, column: t, cuts: {test: 2025-01-01}}"])
    assert recipe.split and str(recipe.split.cuts["test"]).startswith("2025-01-01")
