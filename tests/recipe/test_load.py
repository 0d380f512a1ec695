from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from bessemer.errors import BessemerError, RecipeError
from bessemer.recipe.data_recipe import DataRecipe
from bessemer.recipe.load import apply_overrides, dump_recipe, load_recipe, parse, parse_recipe
from bessemer.recipe.schema import Source

GOOD = """
name: house
start: smollm2-135m@post
sources:
  own: {from: own.jsonl}
  chat: {from: chat.jsonl, kind: chat}
  general: {from: general.jsonl, role: general}
stages:
  - {objective: cpt, mixture: {own: 0.75, general: 0.25}, lr: 1e-4}
  - {objective: sft, mixture: {chat: 0.5, general: 0.5}}
probes: {p: {from: probe.jsonl}}
tasks: {t: {from: test.jsonl, metric: bits_per_byte}}
"""


def problems(text: str, *overrides: str) -> dict[str, str]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, overrides=overrides)
    return {p.where: f"{p.what} {p.fix}" for p in caught.value.problems}


def test_a_good_recipe_loads_and_numbers_are_numbers() -> None:
    recipe = parse_recipe(GOOD)
    assert recipe.stages[0].lr == 1e-4
    assert dump_recipe(recipe)["sources"]["own"]["from"] == "own.jsonl"


def test_the_demo_recipe_is_valid() -> None:
    assert load_recipe(Path(__file__).parents[2] / "recipes" / "demo.yaml").name == "house-rules"


def test_five_mistakes_are_reported_at_once() -> None:
    text = (
        GOOD.replace("name: house", "name: House Rules")
        .replace("start:", "strat:")
        .replace("objective: cpt", "objective: ctp")
        .replace("own: 0.75", "onw: 0.75")
        .replace("kind: chat", "knid: chat")
    )
    found = problems(text)
    assert {"name", "strat", "start", "stages[0].objective", "stages[0].mixture.onw", "sources.chat.knid"} <= set(found)
    assert "did you mean 'start'" in found["strat"]
    assert "did you mean 'cpt'" in found["stages[0].objective"]
    assert "did you mean 'own'" in found["stages[0].mixture.onw"]
    assert "did you mean 'kind'" in found["sources.chat.knid"]


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("own: 0.75", "own: 0.7", "stages[0].mixture"),
        ("own: 0.75, general: 0.25", "general: 1", "stages[0].tokens"),
        ("chat: 0.5, general: 0.5", "own: 0.5, general: 0.5", "stages[1].objective"),
        ("own: 0.75, general: 0.25", "chat: 0.75, general: 0.25", "stages[0].objective"),
        ("probe.jsonl", "own.jsonl", "probes.p.from"),
        ("test.jsonl", "own.jsonl", "tasks.t.from"),
        ("metric: bits_per_byte", "metric: bits_per_byte, at_least: 0.7", "tasks.t.at_least"),
        ("lr: 1e-4", "lr: -1", "stages[0].lr"),
        ("lr: 1e-4", "lr: inhert", "stages[0].lr"),
        ("lr: 1e-4", "tokens: lots", "stages[0].tokens"),
        ("lr: 1e-4", "loss_weight: {chat: 1}", "stages[0].loss_weight.chat"),
        ("own: {from: own.jsonl}", "own: {from: own.jsonl}\n  extra: {from: x.jsonl}", "sources.extra"),
    ],
)
def test_mistakes_across_fields(old: str, new: str, where: str) -> None:
    assert old in GOOD
    assert where in problems(GOOD.replace(old, new))


def test_no_number_is_infinite() -> None:
    with pytest.raises(ValidationError, match="finite number"):
        Source.model_validate({"from": "a.jsonl", "role": "general", "weight": float("inf")})


def test_overrides_are_typed_and_checked() -> None:
    recipe = parse_recipe(GOOD, overrides=["stages[0].tokens=20k", "retain=0.95", "stages[0].lr="])
    assert (recipe.stages[0].tokens, recipe.retain, recipe.stages[0].lr) == (20_000, 0.95, None)
    assert "stages[0].lrr" in problems(GOOD, "stages[0].lrr=1")
    assert "--set stages[9].lr=1" in problems(GOOD, "stages[9].lr=1")
    for wrong in ("nonsense", "stages[0]lr=1", "stages[0.lr=1", "[0].lr=1", "a..b=1", "=1"):
        assert f"--set {wrong}" in problems(GOOD, wrong)
    dotted = GOOD.replace("own:", "own-1.0:")
    recipe = parse_recipe(dotted, overrides=['sources["own-1.0"].max_epochs=2', "sources['own-1.0'].role=domain"])
    assert recipe.sources["own-1.0"].max_epochs == 2


def test_null_is_a_value_and_nothing_takes_a_key_out() -> None:
    raw = {"columns": {"rule": "reason", "text": "body"}}
    assert apply_overrides(raw, ["columns.rule=null", "columns.text="]) == []
    assert raw == {"columns": {"rule": None}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "no valid YAML"),
        ("name: a\nname: b", "stands twice"),
        ("a: &x 1\nb: *x", "aliases"),
        ("- just\n- a list", "no mapping"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("1: 2", "a key must be text"),
        ("rows: 010", "010 is no decimal number; as text it needs quotes"),
        ("rows: 1:30", "1:30 is no decimal number"),
        ("? [1]\n: 2", "a key must be text"),
    ],
)
def test_unsafe_or_broken_yaml_is_refused(text: str, said: str) -> None:
    with pytest.raises(BessemerError, match=said):
        parse_recipe(text)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BessemerError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")


def test_a_recipe_is_a_page_of_text() -> None:
    with pytest.raises(BessemerError, match="larger than 1000000 bytes"):
        parse_recipe("#" * 1_000_001)


@pytest.mark.parametrize("value", ["1.5", "[1]", "true", "-5", "0", "10q"])
def test_what_is_no_number_of_tokens_is_a_mistake_of_the_recipe(value: str) -> None:
    assert "stages[0].tokens" in problems(GOOD, f"stages[0].tokens={value}")


def test_a_number_or_a_word_is_said_once() -> None:
    assert problems(GOOD.replace("lr: 1e-4", "lr: inhert")) == {
        "stages[0].lr": "'inhert' is none of the choices did you mean 'inherit'?"
    }
    assert problems(GOOD.replace("lr: 1e-4", "lr: 3")) == {"stages[0].lr": "Input should be less than 1 (it is 3) "}
    assert parse_recipe(GOOD, overrides=["stages[0].lr=inherit"]).stages[0].lr == "inherit"


@pytest.mark.parametrize(
    "address",
    [
        "https://ana:planted-secret@example.org/a.jsonl",
        "https://example.org/a.jsonl?X-Amz-Signature=planted-secret",
        "https://example.org/a.jsonl?x=1&sig=planted-secret",
        "https://example.org/a.jsonl?access_token=planted-secret",
    ],
)
@pytest.mark.parametrize("place", ["sources.own.from", "probes.topics.from", "start"])
def test_secrets_in_addresses_are_refused_and_not_repeated(address: str, place: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(Path("recipes/demo.yaml").read_text(), overrides=[f"{place}={address}"])
    assert "holds a password or a signature" in str(caught.value) and "planted-secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["s3://bucket/key=1/a.jsonl", "https://h.org/a?revision=2&monkey=1", "data@home/x"])
def test_addresses_without_secrets_are_fine(address: str) -> None:
    parse_recipe(Path("recipes/demo.yaml").read_text(), overrides=[f"sources.rules.from={address}"])


def test_a_day_that_does_not_exist_is_no_valid_yaml() -> None:
    with pytest.raises(BessemerError, match="no valid YAML"):
        parse_recipe("name: 2025-02-30")


def test_yes_is_no_number() -> None:
    """YAML reads it as true, which is 1 to Python."""
    changes = ("seed=true", "sources.chat.max_epochs=yes", "stages[1].rows=yes")
    found = problems(GOOD, *changes)
    assert found.keys() == {"seed", "sources.chat.max_epochs", "stages[1].rows"}
    assert "is no number" in found["seed"]


def test_broken_yaml_in_an_override_says_so() -> None:
    (found,) = problems(GOOD, "name=[x").values()
    assert "YAML" in found


def test_mistakes_of_a_training_recipe_are_not_looked_for_in_others() -> None:
    text = "{name: x, sources: {a: {from: b.jsonl}}, stages: [{mixture: {a: much}}]}"
    with pytest.raises(RecipeError, match="stages: unknown key"):
        parse(DataRecipe, text, where="data.yaml")
