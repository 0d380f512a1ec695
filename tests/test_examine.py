"""An evaluation from the first command to the last: sealed, trained, opened once, verified by others, judged."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bessemer.errors import BessemerError
from bessemer.evaluate import seal
from bessemer.evaluate.metrics import Columns
from bessemer.evaluate.openings import submissions
from bessemer.evaluate.result import make_result
from bessemer.evaluate.tasks import load_task
from bessemer.examine import examine, find_subject
from bessemer.files import digest_files, read_json, write_json
from bessemer.recipe.load import load_recipe
from bessemer.registry.evaluation import find_evaluation, verify_evaluation
from bessemer.run import run_recipe
from bessemer.track.screen import Screen
from tests.cli.conftest import here  # noqa: F401 - a fixture
from tests.story import OTHERS, sentence, twins, write_jsonl, write_story
from tests.tiny import make_tiny_release

N_TWINS = 40


@dataclass(frozen=True)
class Story:
    home: Path
    folder: Path
    task: Path
    keep: Path


def write_task(folder: Path, rows: list[dict[str, Any]], **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    items = [
        {
            "id": f"{row['group']}-{row['completion']}",
            "group": row["group"],
            "slice": "word",
            "messages": [{"role": "user", "content": row["prompt"]}],
            "answer": row["completion"],
        }
        for row in rows
    ]
    write_jsonl(folder / "items.jsonl", items)
    task = {"name": "words", "kind": "classify", "items": "items.jsonl", "answers": ["yes", "no"], "metric": "auroc"}
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(task | changes))
    return path


def write_keep(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(11)
    write_jsonl(folder / "texts.jsonl", [{"id": f"t{n}", "text": sentence(rng, OTHERS)} for n in range(60)])
    path = folder / "keep.yaml"
    path.write_text("name: elsewhere\nkind: perplexity\nitems: texts.jsonl\nsmallest_effect: 0.5\n")
    return path


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Story:
    """A seal made before a run, and the finished run; the leaked one holds some sealed items among its data."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("story")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BESSEMER_HOME", str(home))
        task = write_task(folder / "task", twins(random.Random(5), N_TWINS))
        loaded = load_task(task)
        made = seal.create("words", loaded.rows(), loaded.spec(), share=0.5, seed=0, by="Ada", control=8, canary=2)
        public = {row["id"] for row in seal.public_rows("words")}
        recipe = load_recipe(write_story(folder / "clean", tiny_model, name="clean"))
        run_recipe(recipe, Screen(quiet=True))
        leaked = write_story(folder / "leaked", tiny_model, name="leaked")
        with (folder / "leaked" / "rules.jsonl").open("a") as file:
            for item in loaded.items:
                if item.id not in public and item.group in {"t1", "t2", "t3", "t4", "t5", "t6", "t7"}:
                    row = {"prompt": item.messages[0].content, "completion": item.answer, "group": f"leak-{item.group}"}
                    file.write(json.dumps(row) + "\n")
        run_recipe(load_recipe(leaked), Screen(quiet=True))
        assert made.commitment["counts"]["canary"] == 2
    return Story(home, folder, task, write_keep(folder / "keep"))


@pytest.fixture
def told(story: Story, monkeypatch: pytest.MonkeyPatch) -> Story:
    monkeypatch.setenv("BESSEMER_HOME", str(story.home))
    return story


def evaluate(story: Story, name: str, **options: Any) -> tuple[Path, dict[str, Any]]:
    folder = examine([name], ["seal:words"], [str(story.keep)], Screen(quiet=True), by="Ada", **options)
    return folder, read_json(folder / "scorecard.json")


@pytest.fixture
def evaluated(told: Story) -> tuple[Path, dict[str, Any]]:
    return evaluate(told, "clean")


def test_a_run_is_measured_on_what_was_sealed_before_it(told: Story, evaluated: tuple[Path, dict[str, Any]]) -> None:
    folder, card = evaluated
    task = card["tasks"]["words"]
    counts = seal.load("words").commitment["counts"]
    assert task["n_items"] == counts["sealed"] - counts["control"] - counts["canary"]
    assert task["seal"]["out_of_order"] == ""
    assert task["overlap"]["known"] and task["overlap"]["n_contaminated"] == 0 and task["overlap"]["n_documents"] > 100
    assert task["controls"][0]["n"] == 10 and not task["controls"][0]["seen"]
    assert {s.model for s in submissions("words")} >= {m["digest"] for m in card["models"]}
    assert card["against"]["digest"] == read_json(told.home / "runs/clean/plan.lock.json")["base"]["digest"]
    assert set(card["probes"]) == {"elsewhere"} and card["tasks"]["elsewhere"]["role"] == "keep"
    assert verify_evaluation(folder) == card
    page = (folder / "page.html").read_text()
    assert card["verdict"]["word"] in page and "<script" not in page and "What was kept" in page


def test_a_canary_that_was_fed_is_named(told: Story) -> None:
    loaded = load_task(told.task)
    ids = tuple(i.id for i in loaded.items)
    values = {"label": np.zeros(len(ids), np.int64), "logprob": np.zeros((len(ids), 2))}
    columns = Columns("classify", ids, ids, ("",) * len(ids), values)
    fed = [("d", loaded.items[0].messages[0].content)]
    own = make_result("m", loaded, columns, fed, controls=frozenset(ids[:1]), canaries=frozenset(ids))
    assert ids[0] in own.leaked and ids[-1] not in own.leaked
    assert make_result("m", loaded, columns, fed).leaked == ()


def test_nothing_of_a_sealed_item_stands_in_an_evaluation(told: Story, evaluated: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = evaluated
    public = {row["id"] for row in seal.public_rows("words")}
    hidden = [item for item in load_task(told.task).items if item.id not in public]
    everything = [p.read_bytes() for p in folder.rglob("*") if p.is_file()]
    everything += [p.read_bytes() for p in (told.home / "cache").rglob("*.jsonl")]
    for item in hidden:
        words = item.messages[0].content.encode()
        assert not any(words in content or f'"{item.id}"'.encode() in content for content in everything), item.id


def test_the_second_evaluation_opens_nothing(told: Story, evaluated: tuple[Path, dict[str, Any]]) -> None:
    entries = len(seal.load("words").entries)
    _, again = evaluate(told, "clean")
    assert len(seal.load("words").entries) == entries
    assert again["tasks"]["words"]["metrics"] == evaluated[1]["tasks"]["words"]["metrics"]


def test_items_that_were_fed_are_found_and_hold_the_verdict_up(told: Story) -> None:
    folder, card = evaluate(told, "leaked")
    overlap = card["tasks"]["words"]["overlap"]
    public = {row["id"] for row in seal.public_rows("words")}
    sealed = [i for i in load_task(told.task).items if i.id not in public and i.group in {f"t{n}" for n in range(1, 8)}]
    assert sealed and 0 < overlap["n_contaminated"] <= len(sealed)
    assert card["verdict"]["word"] != "SHIP" and any("were fed to the model" in r for r in card["verdict"]["reasons"])
    assert verify_evaluation(folder) == card


@pytest.mark.parametrize("name", ["scorecard.json", "manifest.json", "page.html", "results", "seals", "ledger"])
def test_one_flipped_bit_anywhere_is_found(
    told: Story, evaluated: tuple[Path, dict[str, Any]], tmp_path: Path, name: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(evaluated[0], copy)
    verify_evaluation(copy)
    places = {
        "results": next((copy / "results").iterdir()),
        "seals": copy / "seals/words/sealed.bin",
        "ledger": copy / "seals/words/ledger.jsonl",
    }
    path = places.get(name, copy / name)
    content = bytearray(path.read_bytes())
    for place in (0, len(content) // 3, len(content) // 2, len(content) - 2):
        content[place] ^= 1
        path.write_bytes(bytes(content))
        with pytest.raises(BessemerError):
            verify_evaluation(copy)
        content[place] ^= 1
    path.write_bytes(bytes(content))
    verify_evaluation(copy)


def test_a_scorecard_that_was_edited_with_its_manifest_is_found(
    told: Story, evaluated: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    from bessemer.files import digest_files

    copy = tmp_path / "copy"
    shutil.copytree(evaluated[0], copy)
    card = read_json(copy / "scorecard.json")
    card["tasks"]["words"]["change"]["change"]["value"] += 0.1
    write_json(copy / "scorecard.json", card)
    (copy / "manifest.json").unlink()
    write_json(copy / "manifest.json", digest_files(copy))
    with pytest.raises(BessemerError, match="but the results give"):
        verify_evaluation(copy)


@pytest.mark.parametrize("change", ["model", "nan"])
def test_a_card_of_another_model_or_without_numbers_is_found(
    told: Story, evaluated: tuple[Path, dict[str, Any]], tmp_path: Path, change: str
) -> None:
    from bessemer.files import digest_files

    copy = tmp_path / "copy"
    shutil.copytree(evaluated[0], copy)
    card = read_json(copy / "scorecard.json")
    if change == "model":
        card["models"][0] |= {"name": "another@1", "digest": "f" * 64}
    else:
        card["tasks"]["words"]["change"]["change"]["value"] = float("nan")
    (copy / "scorecard.json").write_text(json.dumps(card))
    (copy / "manifest.json").unlink()
    write_json(copy / "manifest.json", digest_files(copy))
    with pytest.raises(BessemerError, match="the results are of|but the results give"):
        verify_evaluation(copy)


def test_a_result_that_the_ledger_does_not_know_is_found(
    told: Story, evaluated: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    from bessemer.evaluate.card import build_card
    from bessemer.files import canonical_json, digest_files, sha256_text
    from bessemer.registry.evaluation import FACTS, _block

    copy = tmp_path / "copy"
    shutil.copytree(evaluated[0], copy)
    card = read_json(copy / "scorecard.json")
    (old,) = card["tasks"]["words"]["results"]["after"]
    result = read_json(copy / f"results/{old}.json")
    for row, label in zip(result["columns"]["values"]["logprob"], result["columns"]["values"]["label"], strict=True):
        row[label], row[1 - label] = -0.1, -5.0  # all right
    new = sha256_text(canonical_json(result))
    (copy / f"results/{old}.json").unlink()
    write_json(copy / f"results/{new}.json", result)
    card["tasks"]["words"]["results"]["after"] = [new]
    blocks = [_block(copy, name, task) for name, task in card["tasks"].items()]
    better = build_card(blocks, {k: card[k] for k in FACTS}, card["probes"], card["retain"])
    assert better["tasks"]["words"]["change"]["answer"] == "WIN"
    write_json(copy / "scorecard.json", better)
    (copy / "manifest.json").unlink()
    write_json(copy / "manifest.json", digest_files(copy))
    with pytest.raises(BessemerError, match="the ledger holds no result"):
        verify_evaluation(copy)


def test_a_model_sealed_after_its_training_cannot_ship(told: Story) -> None:
    loaded = load_task(told.task)
    late = "late"
    if late not in seal.names():
        seal.create(late, loaded.rows(), loaded.spec(), share=0.5, seed=1, by="Ada")
    folder = examine(["clean"], [f"seal:{late}"], [], Screen(quiet=True), by="Ada")
    card = read_json(folder / "scorecard.json")
    assert "after clean began" in card["tasks"][late]["seal"]["out_of_order"] or "was not there" in str(card)
    assert card["verdict"]["word"] != "SHIP"


def test_commands(told: Story, evaluated: tuple[Path, dict[str, Any]], here: Callable[..., Any]) -> None:  # noqa: F811
    folder, card = evaluated
    done = here("eval", "clean", "--tasks", "seal:words", "--keep", told.keep)
    assert done.code == 0 and "verdict " in done.out and "bessemer verify" in done.out, done.err
    code = {"SHIP": 0, "HOLD": 2, "REJECT": 3}[card["verdict"]["word"]]
    judged = here("verdict", folder / "scorecard.json")
    assert judged.code == code and card["verdict"]["reasons"][0] in judged.out
    assert json.loads(here("verdict", folder, "--json").out)["exit_code"] == code
    checked = here("verify", folder)
    assert checked.code == 0 and "sound" in checked.out
    power = here("eval", "power", told.task, "--effect", "0.1")
    assert power.code == 0 and "items that a change of 0.1 needs" in power.out
    measured = json.loads(here("eval", "power", "seal:words", "--before", folder, "--json").out)
    assert measured["n_items"] == card["tasks"]["words"]["n_items"] and measured["smallest_effect"] > 0
    missing = here("verdict", "nowhere")
    assert missing.code == 4 and "there is no evaluation 'nowhere'" in missing.err
    assert find_evaluation(folder.name) == folder


def test_what_cannot_be_measured_is_refused(told: Story, tmp_path: Path) -> None:
    with pytest.raises(BessemerError, match="nothing to measure"):
        examine(["clean"], [], [], Screen(quiet=True), by="Ada")
    with pytest.raises(BessemerError, match="there is no seal 'other'"):
        examine(["clean"], ["seal:other"], [], Screen(quiet=True), by="Ada")
    with pytest.raises(BessemerError, match="runs: clean"):
        find_subject("nobody")
    with pytest.raises(BessemerError, match="the same"):
        examine(["clean", "clean"], [str(told.task)], [], Screen(quiet=True), by="Ada")


def test_nothing_is_opened_for_what_could_have_been_known_before(told: Story, tmp_path: Path) -> None:
    loaded = load_task(told.task)
    if "scarce" not in seal.names():
        seal.create("scarce", loaded.rows(), loaded.spec(), share=0.5, seed=0, by="Ada", limit=1)
    quiet = Screen(quiet=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(BessemerError, match="lets 1 models be scored; 0 were, and 2 more are asked for"):
        examine(["clean"], ["seal:scarce"], [], quiet, by="Ada")
    with pytest.raises(BessemerError, match="two tasks have one name"):
        examine(["clean"], ["seal:scarce"], ["seal:scarce"], quiet, by="Ada")
    with pytest.raises(BessemerError, match="cannot be written"):
        examine(["clean"], ["seal:scarce/public", "seal:words"], [], quiet, by="Ada", out=tmp_path / "file" / "out")
    assert not submissions("scarce")


def test_a_release_that_another_checkpoint_was_added_to_is_not_fully_known(
    tiny_model: Path, bessemer_home: Path
) -> None:
    folder, base = make_tiny_release(tiny_model, bessemer_home), {"name": "b", "digest": "d"}
    write_json(folder / "plan.lock.json", {"token_sets": {}, "identity": "i", "stages": [], "base": base})
    manifest = read_json(folder / "manifest.json")
    for added in (None, {"plus": "x", "minus": "y"}):
        facts = manifest | {"begun": "2026-01-01T00:00:00Z", "seals": {"s": "d"}, "added": added}
        write_json(folder / "manifest.json", facts | {"files": digest_files(folder, skip=frozenset({"manifest.json"}))})
        found = find_subject("tiny@1")
        known = (found.lineage, found.begun, found.seals)
        assert known == (("", "", {}) if added else ("tiny@1", "2026-01-01T00:00:00Z", {"s": "d"}))


def test_logs_of_inspect_are_compared_with_the_same_statistics(tmp_path: Path) -> None:
    def log(name: str, right: str) -> str:
        samples = [
            {"id": n, "epoch": 1, "scores": {"match": {"value": "C" if n % 5 < int(right) else "I"}}}
            for n in range(200)
        ]
        said = {"task": "Arithmetic (hard)", "model": name}
        (tmp_path / f"{name}.json").write_text(json.dumps({"status": "success", "eval": said, "samples": samples}))
        return f"inspect:{tmp_path / name}.json"

    better, worse = log("better", "4"), log("worse", "2")
    folder = examine([better], [], [], Screen(quiet=True), against=worse, by="Ada", out=tmp_path / "out")
    card = verify_evaluation(folder)
    task = card["tasks"]["arithmetic-hard"]
    assert task["change"]["answer"] == "WIN" and task["change"]["change"]["value"] == pytest.approx(0.4)
    assert task["overlap"] == {"known": False} and card["verdict"]["word"] == "HOLD"
    other = tmp_path / "other.json"
    other.write_text((tmp_path / "worse.json").read_text().replace("Arithmetic (hard)", "Geography"))
    with pytest.raises(BessemerError, match="different tasks or scorers"):
        examine([better], [], [], Screen(quiet=True), against=f"inspect:{other}", by="Ada")
    with pytest.raises(BessemerError, match="logs are compared with logs only"):
        examine([better], [], [], Screen(quiet=True), against="clean", by="Ada")
    for name in ("better", "worse"):  # a second scorer, by which the worse one is the better one
        said = read_json(path := tmp_path / f"{name}.json")
        for sample in said["samples"]:
            right = sample["scores"]["match"]["value"] == "C"
            sample["scores"]["model_graded"] = {"value": "I" if right else "C"}
        path.write_text(json.dumps(said))
    with pytest.raises(BessemerError, match="2 scorers.*") as refused:
        examine([better], [], [], Screen(quiet=True), against=worse, by="Ada")
    assert "LOG#match, LOG#model_graded" in refused.value.fix
    sharp = tmp_path / "try#3.json"
    sharp.write_text((tmp_path / "other.json").read_text())
    with pytest.raises(BessemerError, match="different tasks or scorers"):  # it was found, and is of another task
        examine([f"{better}#match"], [], [], Screen(quiet=True), against=f"inspect:{sharp}", by="Ada")
    ours, theirs, out = f"{better}#model_graded", f"{worse}#model_graded", tmp_path / "named"
    named = examine([ours], [], [], Screen(quiet=True), against=theirs, by="Ada", out=out)
    assert verify_evaluation(named)["tasks"]["arithmetic-hard"]["change"]["answer"] == "LOSS"


def test_an_evaluation_that_was_killed_goes_on_with_the_same_opening(
    told: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bessemer.examine as module

    loaded = load_task(told.task)
    if "killed" not in seal.names():
        seal.create("killed", loaded.rows(), loaded.spec(), share=0.5, seed=2, by="Ada")

    class KilledError(Exception):
        pass

    real = module.answer_task

    def die(*args: Any, **more: Any) -> Any:
        real(*args, **more)
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(module, "answer_task", die)
        examine(["clean"], ["seal:killed"], [], Screen(quiet=True), by="Ada")
    assert [s.state for s in submissions("killed")] == ["opened"]
    folder = examine(["clean"], ["seal:killed"], [], Screen(quiet=True), by="Ada")
    verify_evaluation(folder)
    events = [e["event"] for e in seal.load("killed").entries]
    assert events == ["created", "opened", "scored", "opened", "scored"]  # base, then the run


def test_weights_that_the_run_did_not_measure_are_not_its_own(told: Story, tmp_path: Path) -> None:
    model, kept = told.home / "runs/clean/model", tmp_path / "kept"
    shutil.move(model, kept)
    try:
        shutil.copytree(told.home / "runs/leaked/model", model)
        with pytest.raises(BessemerError, match="the model changed since it was measured"):
            evaluate(told, "clean")
    finally:
        shutil.rmtree(model)
        shutil.move(kept, model)


def test_a_run_without_its_scorecard_has_no_verdict(told: Story, tmp_path: Path) -> None:
    card = told.home / "runs/clean/scorecard.json"
    content = card.read_text()
    card.unlink()
    try:
        with pytest.raises(BessemerError, match="clean has no scorecard: what it forgot is not known"):
            evaluate(told, "clean")
    finally:
        card.write_text(content)
