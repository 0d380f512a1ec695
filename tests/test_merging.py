"""Models between the start and the trained weights of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bessemer.errors import BessemerError, StoppedByUserError
from bessemer.examine import find_subject
from bessemer.files import exclusive, read_json, read_record
from bessemer.merging import Point, choose, merge
from bessemer.recipe.load import load_recipe
from bessemer.registry import lineage
from bessemer.registry.lineage import trainings
from bessemer.registry.store import open_release
from bessemer.run import run_recipe
from bessemer.track.runs import STOP, lock_path
from bessemer.track.screen import Screen
from tests.cli.conftest import here  # noqa: F401 - a fixture
from tests.story import write_story
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BESSEMER_HOME", str(home))
        patch.setenv("BESSEMER_DTYPE", "float32")
        run_recipe(load_recipe(write_story(home / "story", tiny_model)), Screen(quiet=True))
    return home


@pytest.fixture
def told(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BESSEMER_HOME", str(home))
    monkeypatch.setenv("BESSEMER_DTYPE", "float32")
    return home / "runs/story"


def test_the_end_is_the_run_and_the_middle_is_the_mean(told: Path, tiny_model: Path) -> None:
    found = merge("story", [1.0, 0.5], Screen(quiet=True))
    assert [p["share"] for p in found["points"]] == [0.5, 1.0]
    whole, after = (read_record(p) for p in (told / "merge/1.000/measured.json", told / "measured/after.json"))
    assert whole["tasks"] == after["tasks"] and whole["probes"] == after["probes"]
    start, trained, middle = (
        load_file(p / "model.safetensors") for p in (tiny_model, told / "model", told / "merge/0.500/model")
    )
    assert all(torch.allclose(middle[n], (start[n] + trained[n]) / 2, atol=1e-6) for n in start)
    bits = [read_json(told / "merge/result.json")["points"][n]["value"] for n in (0, 1)]
    assert bits[1] > bits[0]  # of the story more training is better


def test_again_measures_nothing(told: Path) -> None:
    merge("story", [1.0], Screen(quiet=True))
    stamp = (told / "merge/1.000/measured.json").stat().st_mtime_ns
    merge("story", [1.0], Screen(quiet=True))
    assert (told / "merge/1.000/measured.json").stat().st_mtime_ns == stamp


def point(share: float, value: float, worst: float, kept: bool) -> Point:
    return Point(share, value, worst, kept, {"verdict": {"word": "SHIP"}})


def test_the_best_inside_the_budget_is_chosen_else_the_one_that_forgot_least() -> None:
    inside = [point(0.25, 0.7, 0.001, True), point(0.5, 0.8, 0.009, True), point(1.0, 0.9, 0.05, False)]
    assert choose(inside).share == 0.5
    assert choose([p for p in inside if not p.kept] + [point(0.75, 0.85, 0.02, False)]).share == 0.75


def test_a_difference_is_added_one_tensor_at_a_time(told: Path, tiny_model: Path, tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path / "other", seed=5)
    found = merge("story", [0.5, 1.0], Screen(quiet=True), add=(str(other), str(tiny_model)))
    folder = next((told / "merge").glob("add-*"))
    trained, plus, minus = (load_file(p / "model.safetensors") for p in (told / "model", other, tiny_model))
    for share in (0.5, 1.0):
        model = load_file(folder / f"{share:.3f}/model/model.safetensors")
        assert all(torch.allclose(model[n], trained[n] + share * (plus[n] - minus[n]), atol=1e-5) for n in model)
    assert [p["share"] for p in found["points"]] == [0.5, 1.0] and "other" in found["added"]["plus"]


@pytest.fixture(scope="module")
def others(home: Path, tiny_model: Path) -> Path:
    """A second seed of the run, and a run of another start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BESSEMER_HOME", str(home))
        patch.setenv("BESSEMER_DTYPE", "float32")
        story = load_recipe(write_story(home / "story", tiny_model))
        run_recipe(story.model_copy(update={"name": "story-2", "seed": 2}), Screen(quiet=True))
        make_tiny_model(home / "elsewhere", seed=9)
        far = {"name": "far", "start": str(home / "elsewhere")}
        run_recipe(story.model_copy(update=far), Screen(quiet=True))
    return home


def test_runs_of_one_start_are_averaged(told: Path, others: Path, tiny_model: Path, here: Callable[..., Any]) -> None:  # noqa: F811
    made = json.loads(here("merge", "story", "--with", "story-2", "--at", "1", "--release", "--json").out)
    release = open_release(made["release"])
    start, mean = (load_file(p / "model.safetensors") for p in (tiny_model, release.path))
    first, second = (load_file(others / "runs" / n / "02-sft" / "weights.safetensors") for n in ("story", "story-2"))
    name = next(n for n in first if not torch.equal(first[n], start[n]))
    assert torch.allclose(mean[name], (first[name] + second[name]) / 2, atol=1e-6)
    assert not torch.allclose(mean[name], first[name], atol=1e-4)
    (other,) = release.manifest["averaged"]
    assert "weights of the run story-2" in (release.path / "README.md").read_text()
    assert other["run"] == "story-2" and other["tokens"].keys() == {"01-cpt", "02-sft"}
    # What it was fed is what both were fed, and it began when the first of them did.
    assert {t.folder.name for t in trainings(made["release"])} == {release.path.name, "story-2"}
    subject = find_subject(made["release"])
    assert subject.lineage and subject.begun == read_json(told / "begun.json")["at"]
    point = told / "merge" / next(p.name for p in (told / "merge").glob("with-*")) / "1.000" / "model"
    assert made["model"] == str(point)
    later = {"base": {"origin": f"folder {point}"}}  # of a run that starts from the point itself
    assert {t.folder.name for t in lineage._of_start(later)} == {"story", "story-2"}
    with exclusive(lock_path("story-2"), "the run story-2"), pytest.raises(BessemerError, match="story-2 is in use"):
        merge("story", [1.0], Screen(quiet=True), others=["story-2"])
    (others / "runs/story-2").rename(others / "runs/gone")
    with pytest.raises(BessemerError, match="averaged with the run story-2, which is no longer there"):
        trainings(made["release"])
    lost = find_subject(made["release"])
    assert (lost.lineage, lost.begun) == ("", "")
    (others / "runs/gone").rename(others / "runs/story-2")


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["story"], "a run stands twice"),
        (["story-2", "story-2"], "a run stands twice"),
        (["far"], "it began with elsewhere, story with model"),
        (["nobody"], "there is no run 'nobody'"),
    ],
)
def test_runs_that_cannot_be_averaged(told: Path, others: Path, names: list[str], what: str) -> None:
    with pytest.raises(BessemerError, match=what):
        merge("story", [1.0], Screen(quiet=True), others=names)


def test_checkpoints_of_another_kind_are_not_added(told: Path, tiny_model: Path, tmp_path: Path) -> None:
    narrow = make_tiny_model(tmp_path / "narrow")
    weights = load_file(narrow / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(weights | {name: weights[name][:-1].contiguous()}, narrow / "model.safetensors", {"format": "pt"})
    with pytest.raises(BessemerError, match=r"another architecture: model.layers.0.mlp.up_proj.weight has shape"):
        merge("story", [1.0], Screen(quiet=True), add=(str(narrow), str(tiny_model)))
    headed = make_tiny_model(tmp_path / "headed")
    weights = load_file(headed / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    save_file(weights | {"lm_head.weight": embedding + 1}, headed / "model.safetensors", {"format": "pt"})
    with pytest.raises(BessemerError, match="has a lm_head.weight of its own, which is model.embed_tokens.weight here"):
        merge("story", [1.0], Screen(quiet=True), add=(str(headed), str(tiny_model)))
    words = make_tiny_model(tmp_path / "words")
    text = (words / "tokenizer.json").read_text()
    (words / "tokenizer.json").write_text(text.replace("<|im_start|>", "<|im_begin|>"))
    with pytest.raises(BessemerError, match="another vocabulary"):
        merge("story", [1.0], Screen(quiet=True), add=(str(words), str(tiny_model)))
    assert not list((told / "merge").glob("add-*/1.000/model/.tmp*"))


def test_commands(told: Path, here: Callable[..., Any]) -> None:  # noqa: F811
    done = here("merge", "story", "--at", "0.5,1")
    assert done.code == 0 and "<- best" in done.out and "nothing was released" in done.out, done.err
    made = json.loads(here("merge", "story", "--at", "0.8", "--release", "--json").out)
    assert made["best"] == 0.8 and made["points"][0]["verdict"] == "SHIP" and made["release"]
    release = open_release(made["release"])
    assert release.manifest["merge"] == 0.8 and "merge: 0.8" in (release.path / "recipe.yaml").read_text()
    half = here("merge", "story", "--add", "somewhere")
    assert half.code == 4 and "one of the two is missing" in half.err
    bad = here("merge", "story", "--at", "much")
    assert bad.code == 4 and "no list of numbers" in bad.err


def test_a_point_that_changed_after_it_was_measured_is_refused(told: Path) -> None:
    merge("story", [0.9], Screen(quiet=True))
    weights = told / "merge/0.900/model/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BessemerError, match="changed since it was measured"):
        merge("story", [0.9], Screen(quiet=True))
    shutil.rmtree(told / "merge/0.900")


def test_bad_input(told: Path) -> None:
    with pytest.raises(BessemerError, match="no share of the way"):
        merge("story", [1.5], Screen(quiet=True))
    with pytest.raises(BessemerError, match="there is no run"):
        merge("nobody", [1.0], Screen(quiet=True))


def test_a_run_that_was_only_planned_stays_so(
    tiny_model: Path,
    bessemer_home: Path,
    tmp_path: Path,
    here: Callable[..., Any],  # noqa: F811
) -> None:
    story = write_story(tmp_path / "story", tiny_model, name="planned")
    assert here("plan", str(story), "--no-measure").code == 0
    before = sorted((bessemer_home / "runs/planned").rglob("*"))
    with pytest.raises(BessemerError, match="is not trained yet"):
        merge("planned", [0.5], Screen(quiet=True))
    assert sorted((bessemer_home / "runs/planned").rglob("*")) == before


def test_shares_that_would_share_a_folder_are_refused(told: Path) -> None:
    with pytest.raises(BessemerError, match="0.3334 is finer than a thousandth"):
        merge("story", [0.333, 0.3334], Screen(quiet=True))


def test_measuring_stops_when_it_is_asked_to(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (told / STOP).touch()  # of before: it asks nobody

    class Asking(Screen):
        def step(self, title: str) -> Any:
            if title.startswith("measure"):
                (told / STOP).touch()
            return super().step(title)

    with pytest.raises(StoppedByUserError, match="stopped while measuring"):
        merge("story", [0.25], Asking(quiet=True))
    assert not (told / STOP).exists() and not (told / "merge/0.250/measured.json").exists()
    assert merge("story", [0.25], Screen(quiet=True))["best"] == 0.25
