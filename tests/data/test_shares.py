"""What a recipe asks for -> exact shares, rows and refusals."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.data.shares import blend_shares, make_mixture, mean_shares, row_shares, token_shares
from bessemer.errors import BessemerError, RecipeError
from bessemer.recipe.schema import Blend, Recipe, Source
from tests.recipe.recipes import recipe_with


@dataclass(frozen=True)
class Rows:
    name: str
    n_rows: int
    n_tokens: int


def source(role: str = "general", category: str | None = None) -> Source:
    return Source.model_validate({"from": "x.jsonl", "role": role, "category": category})


SOURCES = {
    "own": source("domain"),
    "logs": source("domain"),
    "web": source(),
    "books": source(),
    "python": source(category="code"),
    "rust": source(category="code"),
    "refusals": source(category="safety"),
}
TOKENS = {"own": 300, "logs": 100, "web": 600, "books": 200, "python": 75, "rust": 25, "refusals": 100}


def shares(**blend: Any) -> dict[str, float]:
    return {n: float(s) for n, s in blend_shares(Blend(**blend), SOURCES, TOKENS).items()}


def test_unnamed_categories_keep_their_proportions() -> None:
    got = shares(domain=0.6, general={"code": 0.4})
    assert got["own"] == pytest.approx(0.45) and got["logs"] == pytest.approx(0.15)
    assert got["python"] == pytest.approx(0.4 * 0.4 * 0.75) and got["rust"] == pytest.approx(0.4 * 0.4 * 0.25)
    left = 0.4 * 0.6
    assert got["web"] == pytest.approx(left * 6 / 9) and got["refusals"] == pytest.approx(left / 9)
    assert sum(got.values()) == pytest.approx(1)


def test_all_and_nothing_are_legal() -> None:
    assert sum(s for n, s in shares(domain=1).items() if SOURCES[n].role == "domain") == 1
    assert sum(s for n, s in shares(domain=0).items() if SOURCES[n].role == "domain") == 0


def test_a_high_temperature_evens_out() -> None:
    flat, natural = shares(domain=0, temperature=1000), shares(domain=0)
    assert flat["web"] == pytest.approx(flat["refusals"], rel=0.01)
    assert natural["web"] / natural["refusals"] == pytest.approx(6)


@given(
    st.floats(0, 1),
    st.dictionaries(st.sampled_from(["web", "books", "code", "safety"]), st.floats(0, 0.2), max_size=3),
    st.floats(0.2, 20),
)
def test_any_blend_adds_up_and_keeps_its_domain_share(domain: float, general: Any, temperature: float) -> None:
    got = blend_shares(Blend(domain=domain, general=general, temperature=temperature), SOURCES, TOKENS)
    assert sum(got.values()) == 1 and all(s >= 0 for s in got.values())
    assert float(got["own"] + got["logs"]) == pytest.approx(domain)
    for category, share in general.items():
        mine = sum(s for n, s in got.items() if SOURCES[n].role == "general" and (SOURCES[n].category or n) == category)
        assert float(mine) == pytest.approx((1 - domain) * share)


def test_weights_decide_inside_a_category_and_change_no_other() -> None:
    """A family's published parts, of which as much was fetched as files happened to hold."""
    sources = {n: s.model_copy(update={"category": "replay"}) if s.role == "general" else s for n, s in SOURCES.items()}
    names = [n for n, s in sources.items() if s.role == "general"]
    weights = {n: 0.5**k for k, n in enumerate(names)}
    weighted = {n: s.model_copy(update={"weight": weights[n]}) if n in names else s for n, s in sources.items()}
    plain, got = (blend_shares(Blend(domain=0.8), some, TOKENS) for some in (sources, weighted))
    assert all(got[n] == plain[n] for n in SOURCES if n not in names) and sum(got.values()) == 1
    assert [float(got[n] / got[names[0]]) for n in names] == pytest.approx([weights[n] for n in names])


def test_every_stage_has_an_order_of_its_own() -> None:
    recipe: Recipe = recipe_with({"mixture": {"own": 0.9, "general": 0.1}, "tokens": 10_000, "rows": 4})
    packed = (Rows("own", 500, 50_000), Rows("general", 500, 50_000))

    def rows(number: int) -> list[int]:
        mixture = make_mixture(recipe, recipe.stages[0], packed, where="", number=number)[0]
        return [pick.row for pick in (mixture[k] for k in range(len(mixture))) if pick.source == "own"]

    first, second = rows(0), rows(1)
    assert first != second and len(set(first) & set(second)) < 0.5 * len(first)


def test_shares_in_tokens_hold_whatever_the_fill() -> None:
    packed = [Rows("a", 10, 1000), Rows("b", 10, 500)]
    rows = row_shares({"a": Fraction(1, 2), "b": Fraction(1, 2)}, packed)
    assert rows == {"a": Fraction(1, 3), "b": Fraction(2, 3)}


def mixed(stage: dict[str, Any], *packed: Rows, **sources: Any) -> Any:
    recipe: Recipe = recipe_with(stage, **sources)
    return make_mixture(recipe, recipe.stages[0], packed, where="stages[0]")[0]


def test_steps_and_ramps_feed_what_they_say() -> None:
    stage = {
        "mixture": {"own": 0.9, "general": 0.1},
        "tokens": 100_000,
        "rows": 4,
        "changes": [{"at": 0.8, "mixture": {"own": 0.5, "general": 0.5}, "ramp": 0.4}],
    }
    mixture = mixed(stage, Rows("own", 500, 50_000), Rows("general", 500, 50_000))
    n = len(mixture)
    assert n == 1000
    general = [mixture.taken(k)["general"] for k in (400, 800, 1000)]
    for got, wanted in zip(general, (40, 40 + 400 * 0.3, 40 + 120 + 100), strict=True):
        assert abs(got - wanted) <= 1
    recipe = recipe_with(stage)
    mean = mean_shares(token_shares(recipe, recipe.stages[0], {"own": 1, "general": 1}))
    assert float(mean["general"]) == pytest.approx(0.26)


def test_a_source_repeated_too_often_is_refused_with_remedies() -> None:
    packed = (Rows("own", 100, 10_000), Rows("general", 1000, 100_000))
    stage = {"mixture": {"own": 0.75, "general": 0.25}, "tokens": 80_000, "rows": 4}
    with pytest.raises(BessemerError) as caught:
        mixed(stage, *packed)
    said = str(caught.value)
    assert "80.0k tokens at a share of 0.75 would repeat source own (10.0k tokens) 6.0 times" in said
    assert "at most 4 times" in said and "reached at 53.3k tokens" in said
    for fix in ("tokens: 53332", "a share of 0.5 for own", "sources.own.max_epochs: 6"):
        assert fix in said
    # Every remedy works.
    mixed(stage | {"tokens": 53_332}, *packed)
    mixed(stage | {"mixture": {"own": 0.5, "general": 0.5}}, *packed)
    mixed(stage, *packed, own={"max_epochs": 6})


def test_the_filled_up_last_step_lets_no_small_source_repeat() -> None:
    """Only what the mixture puts into the last step's spare rows is forgiven, not a whole step of rows."""
    packed = (Rows("own", 61, 6100), Rows("general", 10_000, 1_000_000))
    stage = {"mixture": {"own": 0.1, "general": 0.9}, "tokens": 100_000, "rows": 64}
    with pytest.raises(BessemerError, match="would repeat source own"):
        mixed(stage, *packed, own={"max_epochs": 1})
    mixed(stage | {"tokens": 61_000}, *packed, own={"max_epochs": 1})


def problems(stage: dict[str, Any], **sources: Any) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        recipe_with(stage, **sources)
    return [f"{p.where}: {p.what} {p.fix}" for p in caught.value.problems]


def test_blends_that_are_refused() -> None:
    safety = {"safety": {"from": "s.jsonl", "role": "general"}}
    blend = {"domain": 0.5, "general": {"general": 1.0}}
    (said,) = problems({"blend": blend, "tokens": 1000}, **safety)
    assert said.startswith("stages[0].blend.drop: category safety falls to 0")
    recipe = recipe_with({"blend": blend | {"drop": ["safety"]}, "tokens": 1000}, **safety)
    assert recipe.used_by(recipe.stages[0]) == ["own", "general"]
    (said,) = problems({"blend": {"domain": 0.5, "general": {"generl": 0.5}}})
    assert "stages[0].blend.general.generl: no category" in said and "did you mean 'general'" in said
    (said,) = problems({"blend": {"domain": 0.5, "general": {"general": 0.7}}})
    assert "the shares add up to 0.7, not 1" in said
    (said,) = problems({"blend": {"domain": 0.5}, "mixture": {"own": 0.5, "general": 0.5}})
    assert "give either mixture or blend" in said
    (said,) = problems({"blend": {"domain": 0.5, "temprature": 2}})
    assert "stages[0].blend.temprature: unknown key" in said and "'temperature'" in said


def test_changes_that_are_refused() -> None:
    half = {"own": 0.5, "general": 0.5}
    stage = {"mixture": half, "changes": [{"at": 0.5, "mixture": half}, {"at": 0.7, "mixture": half, "ramp": 0.3}]}
    (said,) = problems(stage)
    assert said.startswith("stages[0].changes[1].at: begins at 0.4, before 0.5")
    (said,) = problems({"mixture": half, "changes": [{"at": 0.5, "mixture": {"own": 0.4, "general": 0.5}}]})
    assert "stages[0].changes[0].mixture: the shares add up to 0.9, not 1" in said


def test_a_ramp_that_begins_where_the_last_change_stands_holds_for_every_length() -> None:
    changes = [
        {"at": 0.4, "mixture": {"own": 0.7, "general": 0.3}},
        {"at": 0.6, "mixture": {"own": 0.5, "general": 0.5}, "ramp": 0.2},
    ]
    packed = [Rows("own", 500, 50_000), Rows("general", 500, 50_000)]
    for n_rows in range(20, 220, 2):
        stage = {"mixture": {"own": 0.9, "general": 0.1}, "tokens": 100 * n_rows, "rows": 2, "changes": changes}
        assert len(mixed(stage, *packed)) == n_rows
