"""A start under a chat template that the recipe gives: what is made, what is refused, and a run from end to end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bessemer.data.items import Item, Message
from bessemer.data.render import Renderer
from bessemer.data.start import resolve_start
from bessemer.errors import BessemerError, RecipeError
from bessemer.examine import base_of, find_subject
from bessemer.families import catalogue
from bessemer.families.fetch import resolve
from bessemer.files import read_json
from bessemer.infer.model import load
from bessemer.merging import merge
from bessemer.plan.defaults import optimizer_state_of
from bessemer.plan.resolve import prepare
from bessemer.recipe.load import load_recipe
from bessemer.run import run_recipe
from bessemer.track.screen import Screen
from tests.families.test_hub import resolve as in_a_process
from tests.hub import OLD, Hub, serve
from tests.story import write_story
from tests.tiny import CHAT_TEMPLATE, SPECIAL, make_tiny_base

TALK = Item("talk", messages=(Message("user", "yes?"), Message("assistant", "no")))


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Path:
    return make_tiny_base(tiny_model, tmp_path / "base")


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "chatml.jinja"
    path.write_text(CHAT_TEMPLATE)
    return path


def family(pre: str, post: str, **more: Any) -> None:
    """own-1b, with the stages pre and post at these places (folders, or hub ids)."""

    def stage(place: str) -> dict[str, Any]:
        return {"source": "report", ("folder" if place.startswith("/") else "hub"): place}

    facts = {
        "family": "own",
        "by": "us",
        "reviewed": "2026-01-01",
        "sources": {"report": "https://example.org"},
        "licence": {"weights": {"is": "Apache-2.0", "source": "report"}},
        "end_of_text": {"is": SPECIAL[0], "source": "report"},
        "sizes": {
            "1b": {
                "parameters": {"is": 500_000, "source": "report"},
                "stages": {"pre": stage(pre)} | ({"post": stage(post)} if post else {}),
            }
        },
    }
    catalogue.add(yaml.safe_dump(facts | more), where="test")


def test_without_a_template_a_start_is_itself(base: Path) -> None:
    assert resolve_start(str(base), None) == resolve(str(base))


def test_a_file_is_laid_over_the_start(base: Path, template: Path, tiny_model: Path) -> None:
    start, found = resolve(str(base)), resolve_start(str(base), str(template))
    assert found.digest != start.digest and found.chat_template.startswith("chatml.jinja (sha256 ")
    assert (found.path / "model.safetensors").samefile(base / "model.safetensors")  # no second copy of the weights
    assert replace(found, path=base, digest=start.digest, files=start.files, chat_template="", original=None) == start
    (own,), (wanted,) = (Renderer(p, SPECIAL[0]).render([TALK]) for p in (found.path, tiny_model))
    assert own.ids_L.tolist() == wanted.ids_L.tolist() and own.supervised_L.tolist() == wanted.supervised_L.tolist()
    assert read_json(found.path / "generation_config.json")["eos_token_id"] == [0, 2]
    assert sorted(p.name for p in base.iterdir()) == sorted(start.files)  # the start was not touched
    assert resolve_start(str(base), str(template)) == found


def test_without_a_generation_config_the_start_s_own_ends_stay(base: Path, template: Path) -> None:
    (base / "generation_config.json").unlink()
    made = read_json(resolve_start(str(base), str(template)).path / "generation_config.json")
    assert made == {"bos_token_id": 0, "eos_token_id": [0, 2], "pad_token_id": 0}


def test_a_template_replaces_the_one_that_is_there(tiny_model: Path, tmp_path: Path) -> None:
    folder, path = tmp_path / "tuned", tmp_path / "other.jinja"
    shutil.copytree(tiny_model, folder)
    settings = read_json(folder / "tokenizer_config.json")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "{{ 'old' }}"}))
    path.write_text(CHAT_TEMPLATE.replace("\n", " "))
    found = resolve_start(str(folder), str(path))
    assert "chat_template" not in read_json(found.path / "tokenizer_config.json")
    text = Renderer(found.path).chat.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert text == "<|im_start|>user x<|im_end|> "


def test_links_of_a_cache_become_files(base: Path, template: Path, tmp_path: Path) -> None:
    """Snapshots of the hub's own cache hold relative links."""
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for path in base.iterdir():
        (linked / path.name).symlink_to(Path("..") / base.name / path.name)
    found = resolve_start(str(linked), str(template))
    assert not any(p.is_symlink() for p in found.path.iterdir())
    assert found.digest == resolve_start(str(base), str(template)).digest


def test_on_another_disk_the_files_are_copied(base: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    found = resolve_start(str(base), str(template))
    assert not (found.path / "model.safetensors").samefile(base / "model.safetensors")
    assert resolve_start(str(base), str(template)) == found


def test_the_optimizer_s_state_beside_the_start_is_still_found(base: Path, template: Path) -> None:
    state = base.with_name("base.optimizer")
    state.mkdir()
    (state / "manifest.json").write_text("{}")
    assert optimizer_state_of(resolve_start(str(base), str(template))) == state


def test_a_killed_making_leaves_nothing(
    base: Path, template: Path, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bessemer.data.start.generation_config", die)
        with pytest.raises(KeyboardInterrupt):
            resolve_start(str(base), str(template))
    assert not [p for p in (bessemer_home / "cache" / "models").iterdir() if p.suffix != ".lock"]
    assert resolve_start(str(base), str(template)).path.is_dir()


def test_bytes_that_changed_in_the_cache_are_refused(base: Path, template: Path) -> None:
    found = resolve_start(str(base), str(template))
    (found.path / "chat_template.jinja").write_text(CHAT_TEMPLATE + " ")
    with pytest.raises(BessemerError, match="its bytes changed since it was made"):
        resolve_start(str(base), str(template))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "cannot be read"),
        ("  \n", "is empty"),
        ("{% for %}", "refuses this conversation"),
        (CHAT_TEMPLATE.replace("<|im_end|>", "<|eot|>"), r"has no token <\|eot\|>\n"),
        (CHAT_TEMPLATE.replace("'<|im_end|>'", "'.'"), "closes it with no special token"),
        ("{% for m in messages %}{{ m['role'] }}<|im_end|>{% endfor %}", "shows the text"),
    ],
)
def test_unfit_templates_are_refused_and_leave_nothing(
    text: str | None, what: str, base: Path, tmp_path: Path, bessemer_home: Path
) -> None:
    path = tmp_path / "wrong.jinja"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BessemerError, match=what) as caught:
        resolve_start(str(base), str(path))
    assert caught.value.where.startswith("chat_template") and caught.value.fix
    assert not list((bessemer_home / "cache" / "models").glob("*.json"))
    assert not [p for p in bessemer_home.glob("cache/models/*") if p.is_dir()]


def test_a_start_without_one_names_the_remedy(base: Path, tmp_path: Path) -> None:
    with pytest.raises(BessemerError, match="has no chat template") as caught:
        prepare(load_recipe(write_story(tmp_path / "story", base)))
    assert "chat_template: family" in caught.value.fix


def test_a_template_that_nothing_reads_is_refused(tmp_path: Path, base: Path) -> None:
    path = write_story(tmp_path / "story", base, chat_template="family")
    raw = yaml.safe_load(path.read_text())
    del raw["stages"][1], raw["sources"]["rules"], raw["tasks"]["rules"]
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match="chat_template: there is neither an sft stage nor an auroc task"):
        load_recipe(path)


# -- the family's own ---------------------------------------------------------------------------------------------


def test_the_family_s_template_stops_where_its_tuned_checkpoint_does(base: Path, tiny_model: Path) -> None:
    family(str(base), str(tiny_model))
    found = resolve_start("own-1b@pre", "family")
    assert (found.name, found.stage, found.licence) == ("own-1b@pre", "pre", "Apache-2.0")
    assert found.chat_template == "that of own-1b@post" and found.original == base
    assert (found.path / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert read_json(found.path / "generation_config.json")["eos_token_id"] == [0, 2]


def test_a_family_that_cannot_give_one_is_refused(base: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(BessemerError, match="no checkpoint of the catalogue"):
        resolve_start(str(base), "family")
    family(str(base), "")
    with pytest.raises(BessemerError, match="own-1b has no stage post"):
        resolve_start("own-1b@pre", "family")
    family(str(base), str(base))
    with pytest.raises(BessemerError, match="own-1b@post has no chat template either"):
        resolve_start("own-1b@pre", "family")


def test_tokens_that_only_the_tuned_checkpoint_has_are_named(base: Path, tiny_model: Path) -> None:
    tokenizer = read_json(base / "tokenizer.json")
    ids = {"<|im_start|>": "<|spare_1|>", "<|im_end|>": "<|spare_2|>"}
    for token in tokenizer["added_tokens"]:
        token["content"] = ids.get(token["content"], token["content"])
    for old, new in ids.items():
        tokenizer["model"]["vocab"][new] = tokenizer["model"]["vocab"].pop(old)
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    family(str(base), str(tiny_model))
    with pytest.raises(BessemerError, match=r"own-1b@pre has no token <\|im_end\|>, <\|im_start\|>\n"):
        resolve_start("own-1b@pre", "family")


def test_a_template_that_means_another_end_with_this_tokenizer_is_refused(
    base: Path, tiny_model: Path, tmp_path: Path
) -> None:
    tuned = tmp_path / "tuned"
    shutil.copytree(tiny_model, tuned)
    (tuned / "chat_template.jinja").write_text(CHAT_TEMPLATE.replace("'<|im_end|>'", "eos_token"))
    family(str(base), str(tuned))
    with pytest.raises(BessemerError, match="it writes .*endoftext.*, with its own .*im_end"):
        resolve_start("own-1b@pre", "family")


PROGRAM = """
import sys
from bessemer.data.start import resolve_start
found = resolve_start(sys.argv[1], "family")
print(found.digest, found.chat_template, found.path, sep="\\n")
"""


PLAN = """
import sys
from bessemer.cli.main import app
sys.argv = ["bessemer", "plan", sys.argv[1], "--no-measure"]
app()
"""


@pytest.fixture
def hub(tiny_model: Path) -> Iterator[Hub]:
    commits = {OLD: {p.name: p.read_bytes() for p in tiny_model.iterdir()}}
    with serve(Hub("tests/tuned", commits=commits)) as found:
        yield found


def test_of_a_tuned_checkpoint_on_the_hub_no_weights_are_fetched(hub: Hub, base: Path) -> None:
    family(str(base), "tests/tuned")
    found = in_a_process(hub.url, "own-1b@pre", program=PROGRAM)
    assert found.returncode == 0, found.stdout + found.stderr
    digest, said, path = found.stdout.splitlines()
    assert said == "that of own-1b@post" and (Path(path) / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert "chat_template.jinja" in hub.sent and not any(n.endswith(".safetensors") for n in hub.sent)
    asked = len(hub.asked)
    again = in_a_process("http://127.0.0.1:9", "own-1b@pre", program=PROGRAM, offline=True)
    assert again.stdout.splitlines()[0] == digest and len(hub.asked) == asked


def test_it_works_from_the_command_line(hub: Hub, base: Path, tmp_path: Path) -> None:
    """The whole plan: the base says where its template comes from."""
    family(str(base), "tests/tuned")
    path = write_story(tmp_path / "story", base, start="own-1b@pre", chat_template="family")
    found = in_a_process(hub.url, str(path), program=PLAN)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "chat template: that of own-1b@post" in found.stdout


# -- from end to end ----------------------------------------------------------------------------------------------


def test_a_base_becomes_a_model_that_answers_and_stops(
    base: Path, template: Path, tmp_path: Path, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BESSEMER_DTYPE", "float32")
    path = write_story(tmp_path / "story", base, chat_template=str(template))
    run_recipe(load_recipe(path), Screen(quiet=True))
    folder = bessemer_home / "runs/story"
    plan, model = read_json(folder / "plan.lock.json"), load(folder / "model", end_of_text="")
    assert plan["base"]["chat_template"].startswith("chatml.jinja")
    assert (folder / "model/chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert model.eos == {0, 2} and read_json(folder / "model/generation_config.json")["eos_token_id"] == [0, 2]

    # Whoever starts from the plan's recipe finds the same base: merging and examining do.
    assert merge("story", [1.0], Screen(quiet=True))["best"] == 1.0
    by_place = find_subject(str(bessemer_home / "releases/story/1"))  # an absolute path is no run's name
    assert by_place.digest == find_subject("story").digest
    compared = base_of(find_subject("story"))
    assert compared is not None and compared.digest == plan["base"]["digest"]
    template.write_text(CHAT_TEMPLATE + "{{ '' }}")
    with pytest.raises(BessemerError, match="another base than the plan's"):
        base_of(find_subject("story"))
