"""A family from scratch: three checkpoints, the same bytes twice, and starts like any other."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bessemer.errors import BessemerError
from bessemer.families import catalogue
from bessemer.families.fetch import Checkpoint, resolve
from bessemer.growing import grow, read_recipe
from bessemer.plan.defaults import Chosen, choose, end_of_start
from bessemer.recipe.schema import Stage
from bessemer.track.screen import Screen
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
    with pytest.raises(BessemerError, match=r"did you mean 'nano-1m@(pre|post)'"):
        resolve("nano-1m@pro")


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
    with pytest.raises(BessemerError, match="does not say at which rate"):
        chosen("nano-1m@mid", lr="inherit")  # it ended at 0


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


def test_what_is_no_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BessemerError, match="has no shape"):
        grow("nano-9b", Screen(quiet=True))
    path = corpora(tmp_path)
    values = yaml.safe_load(path.read_text())
    values["stages"].pop(1)
    values["sources"].pop("good")
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(BessemerError, match="a family has the stages pre"):
        grow("nano-1m", Screen(quiet=True), recipe=path)


def test_the_recipe_of_nano_is_sound_for_every_size(tmp_path: Path) -> None:
    for name in ("nano-1m", "nano-6m", "nano-30m"):
        made = read_recipe(name, tmp_path / "start", None, [])
        assert [s.schedule for s in made.stages] == ["constant", "linear", "linear"]
        assert made.stages[0].tokens > made.stages[1].tokens > made.stages[2].tokens  # type: ignore[operator]
