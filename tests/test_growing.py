"""A family from scratch: three checkpoints, the same bytes twice, and starts like any other."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from bessemer.data.stage import build_stage, tokenise
from bessemer.errors import BessemerError
from bessemer.families import catalogue
from bessemer.families.fetch import Checkpoint, resolve
from bessemer.families.schema import Schedule
from bessemer.files import read_json
from bessemer.growing import SHAPES, SPECIAL, _schedule, grow, make_start, read_recipe
from bessemer.plan.defaults import Chosen, choose, end_of_start, optimizer_state_of
from bessemer.plan.resolve import prepare as make_plans
from bessemer.recipe.load import parse_recipe
from bessemer.recipe.schema import Recipe, Stage
from bessemer.run import run_recipe
from bessemer.track.runs import runs_folder
from bessemer.track.screen import Screen
from bessemer.train.checkpoint import masters_of, restore_moments
from bessemer.train.loop import train_step
from bessemer.train.optimizers import make_optimizer
from bessemer.train.weights import prepare
from tests.cli.conftest import here  # noqa: F401 - a fixture
from tests.story import NOUNS, OTHERS, sentence, write_jsonl


def corpora(folder: Path) -> Path:
    """A recipe of a company that grows its own family, on synthetic text."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(3)
    texts = {
        "own": [{"text": sentence(rng, NOUNS)} for _ in range(300)],
        "good": [{"text": sentence(rng, OTHERS)} for _ in range(200)],
        "chats": [{"prompt": f"{rng.choice(NOUNS)}?", "completion": rng.choice(OTHERS)} for _ in range(120)],
        "probe": [{"text": sentence(rng, OTHERS)} for _ in range(60)],
        "task": [{"text": sentence(rng, NOUNS)} for _ in range(60)],
    }
    at = {name: str(write_jsonl(folder / f"{name}.jsonl", rows)) for name, rows in texts.items()}
    small = {"row_tokens": 128, "rows": 4}
    recipe = {
        "name": "filled-in",
        "start": "filled-in",
        "retain": 0.51,
        "keep_checkpoints": "all",
        "sources": {
            "own": {"from": at["own"], "max_epochs": 30},
            "good": {"from": at["good"], "max_epochs": 30},
            "chats": {"from": at["chats"], "kind": "chat", "max_epochs": 30},
        },
        "stages": [
            {
                "objective": "cpt",
                "mixture": {"own": 1.0},
                "tokens": 10_240,
                "lr": 3e-3,
                "schedule": "constant",
                **small,
            },
            {"objective": "cpt", "mixture": {"good": 1.0}, "tokens": 5120, "lr": "inherit", "final_lr": 0.0, **small},
            {"objective": "sft", "mixture": {"chats": 1.0}, "tokens": 2560, "lr": 1e-3, **small},
        ],
        "probes": {"probe": {"from": at["probe"], "tokens": 1000}},
        "tasks": {"task": {"from": at["task"], "metric": "bits_per_byte"}},
    }
    path = folder / "family.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def grown(folder: Path, patch: pytest.MonkeyPatch, home: Path) -> list[Checkpoint]:
    patch.setenv("BESSEMER_HOME", str(home))
    return grow("nano-1m", Screen(quiet=True), recipe=corpora(folder))


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Checkpoint], list[Checkpoint]]:
    folder, homes = tmp_path_factory.mktemp("corpora"), [tmp_path_factory.mktemp("home") for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        first, second = (grown(folder, patch, home) for home in homes)
    return homes[0], first, second


def test_the_same_command_gives_the_same_bytes(twice: tuple[Path, list[Checkpoint], list[Checkpoint]]) -> None:
    _, first, second = twice
    assert [c.name for c in first] == ["nano-1m@pre", "nano-1m@mid", "nano-1m@post"]
    assert [c.digest for c in first] == [c.digest for c in second]
    assert len({c.digest for c in first}) == 3


def test_a_checkpoint_is_a_start_and_says_what_it_saw(
    twice: tuple[Path, list[Checkpoint], list[Checkpoint]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BESSEMER_HOME", str(twice[0]))
    pre, mid = catalogue.find("nano-1m@pre"), catalogue.find("nano-1m@mid")
    assert pre.stage == "pre" and pre.lr == 3e-3 and pre.schedule == "constant" and mid.lr == 0.0
    assert pre.tokens_seen is not None and mid.tokens_seen is not None and 10_000 < pre.tokens_seen < mid.tokens_seen
    assert resolve("nano-1m@pre").stage == "pre" and resolve("nano-1m@pre").digest == pre.digest
    assert pre.optimizer == "included" and pre.data is not None and pre.data.parts[0].name == "own"
    with pytest.raises(BessemerError, match=r"did you mean 'nano-1m@(pre|post)'"):
        resolve("nano-1m@pro")


def test_checkpoints_on_the_way_are_starts_too(
    twice: tuple[Path, list[Checkpoint], list[Checkpoint]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BESSEMER_HOME", str(twice[0]))
    half, whole = catalogue.find("nano-1m@pre:10"), catalogue.find("nano-1m@pre:20")
    assert half.tokens_seen is not None and whole.tokens_seen is not None and half.tokens_seen < whole.tokens_seen
    last = catalogue.find("nano-1m@pre").step
    assert resolve(f"nano-1m@pre:{last}").digest == resolve("nano-1m@pre").digest != resolve("nano-1m@pre:10").digest
    with pytest.raises(BessemerError, match="nano-1m@pre:10"):
        resolve("nano-1m@pre:11")


def test_training_goes_on_from_a_checkpoint_bit_by_bit(
    twice: tuple[Path, list[Checkpoint], list[Checkpoint]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 10, with the optimizer's state and the same batches: the weights of step 20 that the growing left."""
    monkeypatch.setenv("BESSEMER_HOME", str(twice[0]))
    plan = read_json(runs_folder() / "grow-nano-1m" / "plan.lock.json")
    recipe = Recipe.model_validate(plan["recipe"])
    start = resolve("nano-1m@pre:10")
    state = optimizer_state_of(start)
    assert state is not None
    trainable = prepare(start, None)
    data = build_stage(recipe, 0, tokenise(recipe, trainable.loaded.renderer))

    def steps(state: Path | None) -> dict[str, Tensor]:
        trainable = prepare(start, None)
        optimizer = make_optimizer(trainable, recipe.stages[0])
        if state is not None:
            restore_moments(state, trainable, optimizer)
        for step in range(10, 20):
            train_step(trainable, optimizer, data.batch(step), "cpt", 3e-3, 1.0)
        return {name: m.detach() for name, m in trainable.masters.items()}

    wanted = masters_of(runs_folder() / "grow-nano-1m" / "01-cpt" / "step-0000020")
    again, anew = steps(state), steps(None)
    assert all(torch.equal(again[name], wanted[name]) for name in wanted)
    assert not all(torch.equal(anew[name], wanted[name]) for name in wanted)


def test_tokens_of_a_chat_stay_out_of_the_stages_before_post(
    twice: tuple[Path, list[Checkpoint], list[Checkpoint]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BESSEMER_HOME", str(twice[0]))
    recipe = Recipe.model_validate(read_json(runs_folder() / "grow-nano-1m" / "plan.lock.json")["recipe"])
    prepared = make_plans(recipe)
    renderer = prepared.renderer
    end, begin, close = (renderer.chat.convert_tokens_to_ids(t) for t in SPECIAL)
    seen = [{int(t) for s in range(data.n_steps) for t in data.batch(s).tokens_N} for data in prepared.stages]
    assert all(end in ids and not {begin, close} & ids for ids in seen[:2])
    assert {end, begin, close} & seen[2] == {begin, close}


def test_the_plan_says_whether_the_optimizer_goes_on(
    twice: tuple[Path, list[Checkpoint], list[Checkpoint]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BESSEMER_HOME", str(twice[0]))
    recipe = yaml.safe_load((twice[0].parent / "corpora0" / "family.yaml").read_text())
    stage = {k: v for k, v in recipe["stages"][0].items() if k not in {"lr", "schedule"}}
    values = recipe | {"name": "goes-on", "start": "nano-1m@pre", "stages": [stage]}
    values["sources"] = {"own": recipe["sources"]["own"]}
    made = parse_recipe(yaml.safe_dump(values), where="test")
    run_recipe(made, Screen(quiet=True))
    planned = read_json(runs_folder() / "goes-on" / "plan.lock.json")["stages"][0]
    assert "goes on with the state" in planned["why"]["optimizer"] and len(planned["optimizer_state"]) == 64
    assert (planned["lr"], planned["warmup"], planned["final_lr"]) == (3e-3, 0.0, 0.0)
    done = read_json(runs_folder() / "goes-on" / "01-cpt" / "done.json")["weights_sha256"]
    folder = optimizer_state_of(resolve("nano-1m@pre"))
    assert folder is not None
    hidden = folder.rename(folder.with_name("hidden"))
    try:
        anew = made.model_copy(update={"name": "begins-anew"})
        run_recipe(anew, Screen(quiet=True))
    finally:
        hidden.rename(folder)
    planned = read_json(runs_folder() / "begins-anew" / "plan.lock.json")["stages"][0]
    assert "not at hand" in planned["why"]["optimizer"] and "optimizer_state" not in planned
    assert done != read_json(runs_folder() / "begins-anew" / "01-cpt" / "done.json")["weights_sha256"]


def test_training_goes_on_at_the_rate_of_a_constant_start(
    twice: tuple[Path, list[Checkpoint], list[Checkpoint]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BESSEMER_HOME", str(twice[0]))
    stage = {"objective": "cpt", "mixture": {"a": 1}}

    def chosen(start: str, **more: Any) -> Chosen:
        found = resolve(start)
        return choose(Stage.model_validate(stage | more), found.stage, 128, end_of_start(found))

    pre = chosen("nano-1m@pre")
    assert (pre.lr, pre.warmup) == (3e-3, 0.0) and "nano-1m@pre" in pre.why["lr"]
    assert chosen("nano-1m@pre", objective="sft").lr != 3e-3
    assert chosen("nano-1m@mid").lr != 3e-3 and chosen("nano-1m@mid").warmup > 0
    assert chosen("nano-1m@pre", lr="inherit").lr == 3e-3
    with pytest.raises(BessemerError, match="ended at a rate of 0"):
        chosen("nano-1m@mid", lr="inherit")


def test_a_changed_byte_is_refused(
    twice: tuple[Path, list[Checkpoint], list[Checkpoint]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BESSEMER_HOME", str(twice[0]))
    path = Path(catalogue.find("nano-1m@mid").folder) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(BessemerError, match="its bytes changed"):
        resolve("nano-1m@mid")
    content[-9] ^= 1
    path.write_bytes(bytes(content))
    assert resolve("nano-1m@mid").stage == "mid"


def test_commands(
    twice: tuple[Path, list[Checkpoint], list[Checkpoint]],
    monkeypatch: pytest.MonkeyPatch,
    here: Callable[..., Any],  # noqa: F811
) -> None:
    monkeypatch.setenv("BESSEMER_HOME", str(twice[0]))
    listed = here("families", "list")
    assert listed.code == 0 and "nano-1m@pre" in listed.out and "smollm2-135m@post" in listed.out
    shown = here("families", "show", "nano-1m@pre")
    assert "tokens_seen" in shown.out and "not known" in shown.out
    assert json.loads(here("families", "show", "nano-1m@pre", "--json").out)["schedule"] == "constant"


@pytest.mark.parametrize(
    ("fields", "planned"),
    [
        ({"schedule": "wsd", "decay": 0.05}, {"warmup": 0.06, "final_lr": 0.0}),  # shorter than a step
        ({"schedule": "linear"}, {"warmup": 0.99, "final_lr": 1.0}),
    ],
)
def test_any_schedule_of_a_recipe_is_one_of_the_catalogue(fields: dict[str, Any], planned: dict[str, float]) -> None:
    """A family that was trained for hours must not fail when it is written down."""
    stage = Stage.model_validate({"objective": "cpt", "mixture": {"a": 1}} | fields)
    for steps in (1, 8, 100):
        made = Schedule.model_validate(_schedule(stage, {"steps": steps, **planned}))
        assert made.share(steps) == planned["final_lr"]


def test_what_is_no_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BessemerError, match="has no shape"):
        grow("nano-9b", Screen(quiet=True))
    with pytest.raises(BessemerError, match="smollm2-135m: the catalogue that comes with Bessemer has these names"):
        grow("smollm2-135m", Screen(quiet=True), shape="nano-1m", recipe=corpora(tmp_path / "other"))
    assert not (runs_folder() / "grow-smollm2-135m").exists()
    path = corpora(tmp_path)
    values = yaml.safe_load(path.read_text())
    values["stages"].pop(1)
    values["sources"].pop("good")
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(BessemerError, match="a family has the stages pre"):
        grow("nano-1m", Screen(quiet=True), recipe=path)


def test_the_tokenizer_is_made_of_the_columns_that_are_trained(tmp_path: Path) -> None:
    path = corpora(tmp_path / "corpora")
    recipe = yaml.safe_load(path.read_text())
    rows = [{"text": "zzqx " * 8, "body": f"furnace and steel {i}"} for i in range(300)]
    write_jsonl(Path(recipe["sources"]["own"]["from"]), rows)
    recipe["sources"]["own"]["columns"] = {"text": "body"}
    make_start(SHAPES["nano-1m"], parse_recipe(yaml.safe_dump(recipe), where="own"), tmp_path / "start")
    words = json.loads((tmp_path / "start" / "tokenizer.json").read_text())["model"]["vocab"]
    assert any("urnace" in word for word in words) and not any("zzqx" in word for word in words)


def test_the_recipe_of_nano_is_sound_for_every_size(tmp_path: Path) -> None:
    for name in ("nano-1m", "nano-6m", "nano-30m"):
        made = read_recipe(name, SHAPES[name], tmp_path / "start", None, [])
        assert [s.schedule for s in made.stages] == ["constant", "linear", "linear"]
        assert made.stages[0].tokens > made.stages[1].tokens > made.stages[2].tokens  # type: ignore[operator]


@pytest.mark.parametrize(("text", "what"), [(None, "cannot be read"), ("a: [", "no valid YAML"), ("- 1", "no mapping")])
def test_a_recipe_that_cannot_be_read_is_refused(text: str | None, what: str, tmp_path: Path) -> None:
    path = tmp_path / "family.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BessemerError, match=what):
        read_recipe("nano-1m", SHAPES["nano-1m"], tmp_path / "start", path, [])


def test_a_family_is_not_mixed_from_two_beginnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of the start belong to one shape, seed and text; a family has a name of one's own."""
    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path))
    path = corpora(tmp_path / "corpora")
    made = grow("acme-1m", Screen(quiet=True), shape="nano-1m", recipe=path)
    assert [c.name for c in made] == ["acme-1m@pre", "acme-1m@mid", "acme-1m@post"]
    changed = ["stages.2.lr=5e-4"]
    with pytest.raises(BessemerError, match="something changed since this run's plan was made"):
        grow("acme-1m", Screen(quiet=True), shape="nano-1m", recipe=path, sets=changed)
    other = grow("acme-1m", Screen(quiet=True), shape="nano-1m", recipe=path, sets=changed, restart=True)
    assert [c.digest for c in other][:2] == [c.digest for c in made][:2] and other[2].digest != made[2].digest
    assert resolve("acme-1m@post").digest == other[2].digest
    shutil.rmtree(runs_folder() / "grow-acme-1m")
    with pytest.raises(BessemerError, match="begun with another shape, seed or first sources"):
        grow("acme-1m", Screen(quiet=True), shape="nano-1m", recipe=path, sets=["seed=9"])
    with pytest.raises(BessemerError, match="is no family-size"):
        grow("acme", Screen(quiet=True), shape="nano-1m", recipe=path)
