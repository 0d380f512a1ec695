from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bessemer.errors import BessemerError
from bessemer.families import catalogue
from bessemer.families.fetch import Checkpoint
from bessemer.plan.defaults import (
    Chosen,
    Ended,
    choose,
    end_of_checkpoint,
    end_of_stage,
    end_of_start,
    optimizer_choice,
    optimizer_digest,
)
from bessemer.recipe.schema import Stage


def stage(**fields: Any) -> Stage:
    return Stage.model_validate({"objective": "cpt", "mixture": {"a": 1.0}} | fields)


def test_adapters_take_ten_times_the_rate_of_full_rank() -> None:
    full, lora = choose(stage(), "post", 576), choose(stage(method="lora"), "post", 576)
    assert lora.lr == pytest.approx(10 * full.lr, rel=0.05)
    assert full.warmup == 0.06 and choose(stage(), "pre", 576).warmup == 0.06


def test_the_stage_of_the_start_decides_rate_warm_up_and_end() -> None:
    constant = choose(stage(), "pre", 576, Ended(3e-3, "x@pre", of_start=True), 3e-3)
    assert (constant.lr, constant.warmup, constant.final_lr) == (3e-3, 0.0, 0.0)
    tuned_from_it = choose(stage(objective="sft"), "pre", 576, Ended(3e-3, "x@pre", of_start=True), 3e-3)
    assert tuned_from_it.lr < 3e-4 and tuned_from_it.final_lr == 0.05
    decayed = choose(stage(), "mid", 576, None, 3e-4)
    assert decayed.lr == pytest.approx(9e-5) and decayed.warmup == 0.06 and "annealed" in decayed.why["lr"]
    lora = choose(stage(method="lora"), "pre", 576, Ended(3e-3, "x@pre", of_start=True), 3e-3)
    assert lora.lr == choose(stage(method="lora"), "pre", 576).lr and "annealed" not in lora.why["lr"]
    finished = choose(stage(), "post", 576, None, 3e-4)
    assert finished.lr == pytest.approx(3e-5) and "finished" in finished.why["lr"]
    assert choose(stage(), "post", 576, None, 3e-2).lr == choose(stage(), "post", 576).lr  # never above the fit
    assert choose(stage(final_lr=0.3), "post", 576).final_lr == 0.3


def test_the_optimizer_goes_on_only_where_its_state_fits(tmp_path: Path) -> None:
    start = Checkpoint("x@pre", "pre", tmp_path / "pre", "d", {}, "", "", "")
    assert optimizer_choice(stage(), start) == (None, "begins anew: the start's optimizer state is not at hand")
    state = tmp_path / "pre.optimizer"
    state.mkdir()
    (state / "state.json").write_text(json.dumps({"optimizer": "muon"}))
    (state / "manifest.json").write_text("{}")
    assert optimizer_choice(stage(optimizer="muon"), start)[0] == optimizer_digest(state)
    assert optimizer_choice(stage(), start) == (None, "begins anew: the start was trained with muon")
    for other in ({"freeze": 0.5}, {"method": "lora"}, {"objective": "sft"}):
        assert optimizer_choice(stage(optimizer="muon", **other), start)[0] is None
    (state / "state.json").write_text(json.dumps({"optimizer": "muon", "all_weights": False}))
    assert "only some of its weights" in optimizer_choice(stage(optimizer="muon"), start)[1]


def test_an_inherited_rate_is_where_the_stage_before_ended() -> None:
    before = end_of_stage(stage(), Chosen(2e-4, 0.0, 0.1, {}), "01-cpt")
    chosen = choose(stage(lr="inherit"), "post", 576, before)
    assert chosen.lr == pytest.approx(2e-5) and chosen.warmup == 0
    assert "01-cpt ended there" in chosen.why["lr"]
    assert choose(stage(lr="inherit", warmup=0.3), "post", 576, before).warmup == 0.3
    assert end_of_stage(stage(schedule="constant"), Chosen(2e-4, 0.0, 0.1, {}), "a") == Ended(2e-4, "a")


def test_nobody_knows_the_rate_of_bare_weights(tmp_path: Path) -> None:
    assert end_of_checkpoint(tmp_path) is None
    with pytest.raises(BessemerError, match="does not say at which rate"):
        choose(stage(lr="inherit"), "post", 576, None)


def test_a_checkpoint_says_its_rate_in_its_plan_or_its_trainers_state(tmp_path: Path) -> None:
    state = {"log_history": [{"learning_rate": 3e-4}, {"eval_loss": 1.0}, {"learning_rate": 7e-5}]}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    assert end_of_checkpoint(tmp_path) == Ended(7e-5, "the start's trainer_state.json")
    for unusual in ("{}", '{"log_history": [{"learning_rate": null}]}'):
        (tmp_path / "trainer_state.json").write_text(unusual)
        assert end_of_checkpoint(tmp_path) is None
    last = stage(final_lr=0.5).model_dump(by_alias=True)
    plan = {"recipe": {"stages": [last]}, "stages": [{"name": "01-cpt", "lr": 1e-4}]}
    (tmp_path / "plan.lock.json").write_text(json.dumps(plan))
    assert end_of_checkpoint(tmp_path) == Ended(pytest.approx(5e-5), "the start's 01-cpt")
    plan["recipe"]["stages"][0]["of_a_later_version"] = 1
    (tmp_path / "plan.lock.json").write_text(json.dumps(plan))
    assert end_of_checkpoint(tmp_path) == Ended(pytest.approx(5e-5), "the start's 01-cpt")


def test_a_plan_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "plan.lock.json").write_text('{"recipe": {"sta')
    with pytest.raises(BessemerError, match="plan.lock.json"):
        end_of_checkpoint(tmp_path)
    for other in ("{}", '{"recipe": {"stages": []}, "stages": []}', "[]"):
        (tmp_path / "plan.lock.json").write_text(other)
        assert end_of_checkpoint(tmp_path) is None


def test_the_catalogue_knows_where_a_decayed_start_ended() -> None:
    entry = catalogue.find("olmo2-1b@pre")
    start = Checkpoint(entry.name, "pre", Path("/nowhere"), "d", {}, "", "", "", entry=entry)
    chosen = choose(stage(lr="inherit"), "pre", 2048, end_of_start(start))
    assert chosen.lr == entry.lr == pytest.approx(7.449e-05) and "the catalogue" in chosen.why["lr"]


def test_a_rate_of_zero_is_not_inherited() -> None:
    with pytest.raises(BessemerError, match="01-cpt ended at a rate of 0, with which nothing is learnt"):
        choose(stage(lr="inherit"), "pre", 576, Ended(0.0, "01-cpt"))
