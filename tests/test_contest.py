"""A contest between two recipes with trials and seeds, and a model behind a real server."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bessemer.contest import Contest, _changed, _enter, named, run_contest
from bessemer.errors import BessemerError
from bessemer.evaluate import seal
from bessemer.evaluate.openings import submissions
from bessemer.evaluate.tasks import load_task
from bessemer.files import read_json, write_json
from bessemer.infer.model import load
from bessemer.launch.place import Place
from bessemer.recipe.load import load_recipe
from bessemer.registry.contest import verify_contest
from bessemer.registry.store import StoredRelease
from bessemer.serve.app import create_app
from bessemer.track.runs import runs_folder
from bessemer.track.screen import Screen
from tests.cli.conftest import here  # noqa: F401 - a fixture
from tests.serve.conftest import DIGEST, TOKEN, running
from tests.story import twins, write_story
from tests.test_examine import write_keep, write_task
from tests.tiny import SPECIAL, make_tiny_model


@dataclass(frozen=True)
class Arena:
    home: Path
    folder: Path
    file: Path
    contest: dict[str, Any]

    @property
    def start(self) -> str:
        return yaml.safe_load((self.folder / "story/recipe.yaml").read_text())["start"]


def held(folder: Path, model: Path) -> dict[str, Any]:
    """A contest's file beside a seal that was made before it."""
    loaded = load_task(write_task(folder / "task", twins(random.Random(5), 40)))
    seal.create("words", loaded.rows(), loaded.spec(), share=0.5, seed=0, by="Ada", control=10)
    recipe = write_story(folder / "story", model)
    written = yaml.safe_load(recipe.read_text())
    short = [s | {"tokens": 2560} for s in written["stages"]]
    recipe.write_text(yaml.safe_dump(written | {"stages": short}))
    names = written["sources"]
    return {
        "name": "duel",
        "tasks": ["seal:words"],
        "keep": [str(write_keep(folder / "keep"))],
        "data": {name: source["from"] for name, source in names.items()},
        "budget": {"tokens": "40k", "flops": 1e12},
        "seeds": [1, 2],
        "contestants": {
            "plain": {"recipe": "story/recipe.yaml"},
            "tried": {
                "recipe": "story/recipe.yaml",
                "trials": [["stages[1].lr=1e-5"], ["stages[1].lr=2e-3"]],
            },
        },
    }


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Arena:
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("arena")
    release = StoredRelease("tiny", 1, tiny_model, DIGEST, {"created": "", "verdict": "SHIP", "base": {"name": "t"}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BESSEMER_HOME", str(home))
        patch.setenv("CONTEST_KEY", TOKEN)
        contest = held(folder, tiny_model)
        app = create_app(load(tiny_model, digest=DIGEST, end_of_text=SPECIAL[0]), release, token=TOKEN)
        with running(app) as server:
            where = {"url": f"{server.url}/v1", "model": "tiny@1", "key_env": "CONTEST_KEY"}
            contest["contestants"]["served"] = {"endpoint": where, "send_sealed": True}
            file = folder / "contest.yaml"
            file.write_text(yaml.safe_dump(contest))
            run_contest(file, Place(), Screen(quiet=True), lambda: False, by="Ada")
    return Arena(home, folder, file, contest)


@pytest.fixture
def held_here(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> Arena:
    monkeypatch.setenv("BESSEMER_HOME", str(arena.home))
    monkeypatch.setenv("CONTEST_KEY", TOKEN)
    return arena


def test_everyone_is_ranked_and_every_run_is_counted(held_here: Arena) -> None:
    card = verify_contest(held_here.home / "contests" / "duel-1")
    task = card["tasks"]["words"]
    assert {s["name"] for s in task["standings"]} == {"plain", "tried", "served"}
    assert all(1 <= s["best"] <= s["worst"] <= 3 for s in task["standings"])
    rows = {e["name"]: e for e in card["entrants"]}
    plans = {p.parent.name: read_json(p) for p in runs_folder().glob("*/plan.lock.json")}
    assert set(plans) == {"duel-plain", "duel-plain-s2", "duel-tried-t1", "duel-tried-t2"} | {
        f"duel-tried-t{n}-s2" for n in (1, 2) if (runs_folder() / f"duel-tried-t{n}-s2").exists()
    }
    tokens = {name: sum(s["tokens"] for s in plan["stages"]) for name, plan in plans.items()}
    assert rows["plain"]["tokens"] == tokens["duel-plain"] + tokens["duel-plain-s2"]
    assert rows["tried"]["tokens"] == sum(n for name, n in tokens.items() if name.startswith("duel-tried"))
    assert rows["tried"]["flops"] > rows["plain"]["flops"] > 0
    assert len(rows["tried"]["trials"]) == 2 and len({t["public"] for t in rows["tried"]["trials"]}) == 2
    assert rows["served"]["division"] == "open data" and rows["served"]["gain"] is None
    assert rows["plain"]["models"][0]["digest"] in {s.model for s in submissions("words")}
    assert len(rows["plain"]["results"]["after"]["words"]) == 2 and card["front"]
    assert not rows["plain"]["faults"], rows["plain"]["faults"]
    page = (held_here.home / "contests/duel-1/page.html").read_text()
    assert "Every submission" in page and "<script" not in page and rows["plain"]["models"][0]["digest"] in page


def test_the_trial_was_chosen_on_the_public_part(held_here: Arena) -> None:
    card = read_json(held_here.home / "contests/duel-1/contest.json")
    tried = next(e for e in card["entrants"] if e["name"] == "tried")
    best = max(tried["trials"], key=lambda t: t["public"])["run"]
    assert tried["models"][0]["name"] == best and tried["models"][1]["name"] == f"{best}-s2"
    opened = {s.model for s in submissions("words")}
    other = next(t["run"] for t in tried["trials"] if t["run"] != best)
    from bessemer.examine import find_subject

    assert find_subject(other).digest not in opened  # a trial that was not chosen never saw the sealed part


def test_again_it_trains_and_opens_nothing(held_here: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    contest = {k: v for k, v in held_here.contest.items() if k != "contestants"}
    contest["contestants"] = {k: v for k, v in held_here.contest["contestants"].items() if k != "served"}
    file = held_here.folder / "again.yaml"
    file.write_text(yaml.safe_dump(contest))
    entries = len(seal.load("words").entries)
    weights = {p: p.stat().st_mtime_ns for p in runs_folder().glob("*/model/*.safetensors")}
    folder = run_contest(file, Place(), Screen(quiet=True), lambda: False, by="Ada")
    assert folder.name == "duel-2" and len(seal.load("words").entries) == entries
    assert weights == {p: p.stat().st_mtime_ns for p in runs_folder().glob("*/model/*.safetensors")}


def test_an_edited_card_is_found(held_here: Arena, tmp_path: Path) -> None:
    from bessemer.files import digest_files

    copy = tmp_path / "copy"
    shutil.copytree(held_here.home / "contests/duel-1", copy)
    card = read_json(copy / "contest.json")
    first, last = card["tasks"]["words"]["standings"][0], card["tasks"]["words"]["standings"][-1]
    first["name"], last["name"] = last["name"], first["name"]
    write_json(copy / "contest.json", card)
    with pytest.raises(BessemerError, match="its bytes changed|bytes, but the manifest"):
        verify_contest(copy)
    (copy / "manifest.json").unlink()
    write_json(copy / "manifest.json", digest_files(copy))
    with pytest.raises(BessemerError, match="but the results give"):
        verify_contest(copy)
    for role in ("keep", "gain"):  # what no code of ours writes: nothing to gain, an error rate of 0
        for task in card["tasks"].values():
            task["role"] = role
            if role == "gain" and not task["seal"]:
                task["spec"]["alpha"] = 0
        write_json(copy / "contest.json", card)
        (copy / "manifest.json").unlink()
        write_json(copy / "manifest.json", digest_files(copy))
        with pytest.raises(BessemerError):
            verify_contest(copy)


def test_unfair_contestants_are_refused_together(held_here: Arena, tmp_path: Path) -> None:
    contest = held_here.contest | {
        "name": "unfair",
        "data": {k: v for k, v in held_here.contest["data"].items() if k != "own"},
        "budget": {"tokens": 5000, "flops": 1.0},
        "contestants": {k: v for k, v in held_here.contest["contestants"].items() if k != "served"},
    }
    file = held_here.folder / "unfair.yaml"
    file.write_text(yaml.safe_dump(contest))
    with pytest.raises(BessemerError) as caught:
        run_contest(file, Place(), Screen(quiet=True), lambda: False, by="Ada")
    said = str(caught.value)
    assert "plain: source own reads" in said and "tried: source own reads" in said
    assert said.count("operations, the budget is 1") == 2
    assert "the budget is 5.0k" in said and not any((runs_folder() / "unfair-plain").glob("0*"))


def test_an_address_holds_the_same_for_everyone() -> None:
    def plan_of(digest: str) -> dict[str, Any]:
        return {
            "sources": {"s": {"digest": digest}},
            "recipe": {"sources": {"s": {"from": "a.jsonl", "kind": "documents"}}},
        }

    digests: dict[str, tuple[str, str]] = {}
    assert not [*_changed("one", plan_of("a" * 64), digests), *_changed("two", plan_of("a" * 64), digests)]
    (said,) = _changed("three", plan_of("b" * 64), digests)
    assert "three: a.jsonl holds something else than for one" in said


def test_a_seal_with_too_few_openings_left_is_refused_before_anything_is_trained(
    held_here: Arena, tmp_path: Path
) -> None:
    loaded = load_task(held_here.folder / "task" / "task.yaml")
    if "few" not in seal.names():
        seal.create("few", loaded.rows(), loaded.spec(), share=0.5, seed=0, by="Ada", limit=4)
    entrants = {k: v for k, v in held_here.contest["contestants"].items() if k != "served"}
    file = held_here.folder / "few.yaml"
    file.write_text(yaml.safe_dump(held_here.contest | {"name": "few", "tasks": ["seal:few"], "contestants": entrants}))
    before = sorted(p.name for p in runs_folder().glob("*/model"))
    with pytest.raises(BessemerError, match=r"lets 4 models be scored; 0 were, and 5 more are asked for .*4 runs"):
        run_contest(file, Place(), Screen(quiet=True), lambda: False, by="Ada")
    assert sorted(p.name for p in runs_folder().glob("*/model")) == before and not submissions("few")


def test_as_many_seeds_are_trained_as_the_contest_has_where_seeds_are_what_is_tried(held_here: Arena) -> None:
    entry = held_here.contest["contestants"]["plain"] | {"trials": [["seed=1"], ["seed=2"]]}
    contest = Contest.model_validate(held_here.contest | {"contestants": {"a": entry, "b": entry}, "seeds": [1, 2, 3]})
    one = _enter(contest, "a", contest.contestants["a"], held_here.folder)
    for one.chosen in (0, 1):
        assert sorted(recipe.seed for recipe in one.final(contest)) == [1, 2, 3]


def test_another_start_must_be_declared(held_here: Arena, tmp_path: Path) -> None:
    """A start may bring data and tokens that no budget counts."""
    make_tiny_model(tmp_path / "elsewhere", seed=9)
    two = {
        "plain": {"recipe": "story/recipe.yaml"},
        "other": {"recipe": "story/recipe.yaml", "set": [f"start={tmp_path / 'elsewhere'}"]},
    }
    contest = held_here.contest | {"name": "starts", "contestants": two, "budget": {"tokens": 10}}
    file = held_here.folder / "starts.yaml"
    file.write_text(yaml.safe_dump(contest))
    with pytest.raises(BessemerError, match=r"other: starts from .*elsewhere; 2 different starts"):
        run_contest(file, Place(), Screen(quiet=True), lambda: False, by="Ada")
    starts = [held_here.start, str(tmp_path / "elsewhere")]
    file.write_text(yaml.safe_dump(contest | {"starts": starts}))
    with pytest.raises(BessemerError) as caught:  # of the budget alone
        run_contest(file, Place(), Screen(quiet=True), lambda: False, by="Ada")
    assert "the budget is 10" in str(caught.value) and "different starts" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"tasks": ["task.yaml"]}, "is not sealed"),
        ({"contestants": {"a": {"recipe": "r.yaml"}}}, "at least 2"),
        ({"contestants": {"a": {}, "b": {"recipe": "r"}}}, "either a recipe or an endpoint"),
        ({"contestants": {"a": {"endpoint": {"url": "http://x", "model": "m"}}, "b": {"recipe": "r"}}}, "send_sealed"),
        ({"budgets": {}}, "unknown key"),
    ],
)
def test_bad_contests(held_here: Arena, tmp_path: Path, change: dict[str, Any], what: str) -> None:
    file = tmp_path / "contest.yaml"
    file.write_text(yaml.safe_dump(held_here.contest | change))
    with pytest.raises(BessemerError, match=what):
        run_contest(file, Place(), Screen(quiet=True), lambda: False, by="Ada")


def test_commands(held_here: Arena, here: Callable[..., Any]) -> None:  # noqa: F811
    listed = here("contest", "list")
    assert listed.code == 0 and "duel-1" in listed.out
    shown = here("contest", "show", "duel-1")
    assert shown.code == 0 and "rank" in shown.out and "open data" in shown.out
    checked = here("verify", "duel-1")
    assert checked.code == 0 and "sound" in checked.out
    assert json.loads(here("verify", "duel-1", "--json").out)["ok"]


def test_a_run_s_name_that_is_too_long_is_refused_before_anything_is_trained() -> None:
    recipe = load_recipe("recipes/demo.yaml")
    assert named(recipe, "n" * 64, 2).seed == 2
    with pytest.raises(BessemerError, match="65 characters; at most 64"):
        named(recipe, "n" * 65, 2)
