from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bessemer.errors import BessemerError
from bessemer.files import read_json, write_json
from bessemer.plan.resolve import prepare
from bessemer.recipe.load import load_recipe
from bessemer.recipe.schema import Recipe
from bessemer.registry.lineage import consumed, trace_document, trace_step, trainings
from bessemer.run import _Story, make_plan
from bessemer.track.metrics import read_metrics
from bessemer.track.runs import DONE, METRICS, PLAN
from bessemer.track.screen import Screen
from tests.story import write_story


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Recipe:
    return load_recipe(write_story(tmp_path / "story", tiny_model))


def train_one_stage(recipe: Recipe, home: Path) -> Path:
    folder = home / "runs" / recipe.name
    story = _Story(make_plan(recipe, Screen(quiet=True), measured=False), folder, Screen(quiet=True), lambda: False)
    story.before()
    story.train(0)
    return folder


def test_a_step_names_the_documents_that_were_fed(recipe: Recipe, bessemer_home: Path) -> None:
    train_one_stage(recipe, bessemer_home)
    data = prepare(recipe).stages[0]
    for step in (1, 7, data.n_steps):
        name, fed = trace_step("story", step, "01-cpt")
        assert name == "01-cpt"
        assert tuple(f.id for f in fed) == data.batch(step - 1).ids
        assert tuple(f.tokens for f in fed) == data.batch(step - 1).lengths_D
        assert all(f.excerpt for f in fed)


def test_a_document_names_the_steps_that_saw_it(recipe: Recipe, bessemer_home: Path) -> None:
    train_one_stage(recipe, bessemer_home)
    data = prepare(recipe).stages[0]
    by_hand: dict[str, set[int]] = {}
    for step in range(data.n_steps):
        for document in data.batch(step).ids:
            by_hand.setdefault(document, set()).add(step + 1)
    for line in range(1, 201, 7):
        document = f"own.jsonl:{line}"
        seen, gone = trace_document(document)
        (first,) = [s for s in seen if s.stage == "01-cpt"]
        assert set(first.steps) == by_hand.get(document, set()) and first.of == data.n_steps
        assert (first.what, first.source, gone) == ("run story", "own", [])
    # The second stage has not begun: its sources hold the document, no step fed it.
    seen, _ = trace_document("general.jsonl:3")
    assert [s.steps for s in seen if s.stage == "02-sft"] == [()]
    assert trace_document("nobody") == ([], [])


def test_what_cannot_be_traced_is_said(recipe: Recipe, bessemer_home: Path) -> None:
    folder = train_one_stage(recipe, bessemer_home)
    for run, step, stage, said in (
        ("nobody", 1, None, "no run 'nobody'"),
        ("story", 0, None, "no step 0"),
        ("story", 9999, None, "no step 9999"),
        ("story", 1, "09-cpt", "no stage '09-cpt'"),
    ):
        with pytest.raises(BessemerError, match=said):
            trace_step(run, step, stage)
    assert read_metrics(folder / "metrics.jsonl")
    shutil.rmtree(bessemer_home / "tokens" / "story.own")
    _, gone = trace_document("own.jsonl:1")
    assert len(gone) == 1 and "run story, 01-cpt" in gone[0]
    assert read_json(folder / "plan.lock.json")["token_sets"]["own"] == "story.own@1"


def test_damaged_runs_and_releases_of_others_are_said_and_hide_nothing(recipe: Recipe, bessemer_home: Path) -> None:
    make_plan(recipe, Screen(quiet=True), measured=False)
    plan = read_json(bessemer_home / "runs" / "story" / PLAN)
    for place, text in (
        ("runs/another", "{"),  # before and behind the one that is whole
        ("runs/older", json.dumps({**plan, "token_sets": None})),
        ("runs/shape", "[]"),
        ("runs/zeros", "\0"),
        ("runs/recipe", json.dumps({**plan, "recipe": {**plan["recipe"], "nonesuch": 1}})),
        ("releases/house/1", ""),
    ):
        (bessemer_home / place).mkdir(parents=True)
        (bessemer_home / place / PLAN).write_text(text)
    for version, manifest in (("1", "{"), ("2", "{}")):
        (bessemer_home / "releases" / "house" / version).mkdir(exist_ok=True)
        (bessemer_home / "releases" / "house" / version / "manifest.json").write_text(manifest)
    shutil.copytree(bessemer_home / "runs" / "story", bessemer_home / "runs" / "events")
    (bessemer_home / "runs" / "events" / METRICS).write_text("{\n")
    seen, gone = trace_document("own.jsonl:1")
    assert [s.what for s in seen] == ["run story"]
    about = {line.partition(":")[0].partition(",")[0]: line for line in gone}
    runs = {f"run {name}" for name in ("another", "older", "shape", "zeros", "recipe", "events")}
    assert set(about) == {*runs, "release house@1", "release house@2"}
    assert all(f"runs/{name}/{PLAN}" in about[f"run {name}"] for name in ("another", "older", "shape", "zeros"))
    assert "no token sets" in about["run older"] and "manifest.json" in about["release house@2"]


def test_a_start_that_was_trained_here_is_part_of_what_was_fed(recipe: Recipe, bessemer_home: Path) -> None:
    """Neither another run's model nor a lost list of events makes what was fed unknown or nothing."""
    folder = train_one_stage(recipe, bessemer_home)
    plan = read_json(folder / PLAN)
    fed = {(source, name) for source, name, _ in consumed(trainings("story"))}
    assert fed and all(trainings("story")[0].done.values())
    (folder / METRICS).unlink()
    assert trainings("story")[0].done == {"01-cpt": plan["stages"][0]["steps"]}
    later = bessemer_home / "runs" / "later"
    shutil.copytree(folder, later)
    (later / "01-cpt" / DONE).unlink()  # it has done nothing itself
    for start, n in (
        (folder / "model", 2),
        (folder / "merge" / "0.500" / "model", 2),
        (bessemer_home / "elsewhere", 1),
    ):
        write_json(later / PLAN, plan | {"base": plan["base"] | {"origin": f"folder {start}"}})
        found = trainings("later")
        assert len(found) == n and ({(s, i) for s, i, _ in consumed(found)} == fed) == (n == 2)


def test_two_runs_that_began_from_each_other_are_looked_at_once(recipe: Recipe, bessemer_home: Path) -> None:
    folder = train_one_stage(recipe, bessemer_home)
    plan = read_json(folder / PLAN)
    other = bessemer_home / "runs" / "other"
    shutil.copytree(folder, other)
    for mine, its in ((folder, other), (other, folder)):
        write_json(mine / PLAN, plan | {"base": plan["base"] | {"origin": f"folder {its / 'model'}"}})
    assert [t.folder for t in trainings("story")] == [folder, other]


def test_a_family_that_was_grown_here_brings_the_stages_up_to_its_own(recipe: Recipe, bessemer_home: Path) -> None:
    folder = train_one_stage(recipe, bessemer_home)
    plan = read_json(folder / PLAN)
    later, grown = bessemer_home / "runs" / "later", bessemer_home / "runs" / "grow-acme-1m"
    shutil.copytree(folder, later)
    shutil.copytree(folder, grown)
    for stage, done in (("pre", {"01-cpt"}), ("mid", {"01-cpt", "02-sft"})):
        (grown / "02-sft").mkdir(exist_ok=True)
        (grown / "02-sft" / DONE).touch()
        base = plan["base"] | {"origin": "family acme of this machine", "stage": stage}
        write_json(later / PLAN, plan | {"base": base, "recipe": plan["recipe"] | {"start": f"acme-1m@{stage}"}})
        assert [set(t.done) for t in trainings("later")] == [{"01-cpt"}, done]
