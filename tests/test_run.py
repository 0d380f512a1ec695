"""The whole story on the tiny model: released, resumed after kills to the same bytes, refused when it must be."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from bessemer.errors import BessemerError, StoppedByUserError
from bessemer.files import exclusive, read_json, write_json, write_record
from bessemer.merging import merge
from bessemer.recipe.load import load_recipe
from bessemer.registry import store
from bessemer.registry.lineage import trace_document
from bessemer.run import _Story, make_plan, need_signer, plan_run, run_recipe
from bessemer.signatures import SIGNING_KEY, signer_of
from bessemer.track import runs
from bessemer.track.runs import lock_path
from bessemer.track.screen import Screen
from tests.story import write_story
from tests.test_signatures import write_keys

COMMAND = [sys.executable, "-m", "bessemer.cli.main"]


def bessemer(home: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, env=environment(home, **env), timeout=300
    )


def environment(home: Path, **env: str) -> dict[str, str]:
    return os.environ | {"BESSEMER_HOME": str(home), "OMP_NUM_THREADS": "1"} | env


def weights_digest(home: Path, name: str = "story", version: int = 1) -> str:
    manifest = json.loads((home / "releases" / name / str(version) / "manifest.json").read_text())
    return manifest["files"]["model.safetensors"]["sha256"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return write_story(tmp_path_factory.mktemp("story"), tiny_model)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> tuple[Path, dict[str, Any]]:
    """A home with the story told once, without interruption."""
    home = tmp_path_factory.mktemp("finished")
    done = bessemer(home, "run", str(recipe), "--json")
    assert done.returncode == 0, done.stderr
    return home, json.loads(done.stdout)


def test_what_a_stopped_attempt_took_is_counted(tmp_path: Path, tiny_model: Path, bessemer_home: Path) -> None:
    asked = count()
    with pytest.raises(StoppedByUserError):
        run_recipe(load_recipe(write_story(tmp_path, tiny_model)), Screen(quiet=True), lambda: next(asked) > 8)
    seconds = read_json(bessemer_home / "runs" / "story" / "seconds.json")
    assert list(seconds)[-1].startswith("train ") and seconds[list(seconds)[-1]] > 0


def test_a_stage_that_another_process_still_writes_into_is_not_trained(
    tmp_path: Path, tiny_model: Path, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, asked = load_recipe(write_story(tmp_path, tiny_model)), count()
    with pytest.raises(StoppedByUserError):
        run_recipe(recipe, Screen(quiet=True), lambda: next(asked) > 8)
    monkeypatch.setattr(runs, "LEFTOVER_S", 0.2)
    with (
        runs.alone(bessemer_home / "runs" / "story" / "01-cpt"),
        pytest.raises(BessemerError, match="stage 01-cpt is in use"),
    ):
        run_recipe(recipe, Screen(quiet=True))


def test_the_release_holds_everything_and_says_where_it_came_from(
    finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, result = finished
    monkeypatch.setenv("BESSEMER_HOME", str(home))
    release = store.open_release(result["release"])
    assert result["release"] == "story@1" and release.digest == result["digest"]
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "recipe.yaml", "plan.lock.json",
            "metrics.jsonl", "scorecard.json", "report.html"} <= set(release.manifest["files"])  # fmt: skip
    steps = [json.loads(x) for x in (release.path / "metrics.jsonl").read_text().splitlines()]
    fed: dict[str, int] = {}
    for event in steps:
        if event["event"] == "step":
            for source, n in event["tokens"].items():
                fed[source] = fed.get(source, 0) + n
    told = release.manifest["tokens"]
    assert fed == {s: sum(stage.get(s, 0) for stage in told.values()) for s in fed}
    assert release.manifest["verdict"] == "SHIP" == result["scorecard"]["verdict"]["word"]
    assert result["scorecard"]["tasks"]["own-texts"]["change"]["bits_per_byte"]["high"] < 0


def test_the_mixture_is_what_the_recipe_says(finished: tuple[Path, dict[str, Any]]) -> None:
    home, _ = finished
    manifest = json.loads((home / "releases/story/1/manifest.json").read_text())
    for stage, domain in (("01-cpt", "own"), ("02-sft", "rules")):
        tokens = manifest["tokens"][stage]
        total = sum(tokens.values())
        assert abs(tokens[domain] - 0.75 * total) <= 1.5 * 128  # one row, and rows that are not quite full


def test_nobody_plans_a_run_that_is_going_on(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers read the plan from the disk."""
    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path))
    made = load_recipe(recipe)
    with (
        exclusive(lock_path("story"), "the run story"),
        pytest.raises(BessemerError, match="the run story"),
    ):
        plan_run(made, Screen(quiet=True), measured=False)
    assert not (tmp_path / "runs" / "story").exists()


def test_an_end_that_was_measured_in_other_numbers_is_not_compared(
    finished: tuple[Path, dict[str, Any]], recipe: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(finished[0], tmp_path / "home")
    run = home / "runs" / "story"
    measured = read_json(run / "measured" / "after.json")
    measured.pop("sha256")
    write_record(run / "measured" / "after.json", measured | {"precision": "cuda bfloat16"})
    for name in ("scorecard.json", "result.json"):
        (run / name).unlink()
    again = bessemer(home, "run", str(recipe))
    assert again.returncode == 4 and "the trained model on cuda bfloat16" in again.stderr, again.stderr
    assert not (run / "scorecard.json").exists()


def test_a_document_is_traced_into_the_run_and_its_release(
    finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BESSEMER_HOME", str(finished[0]))
    assert {s.what for s in trace_document("own.jsonl:1")[0]} >= {"run story", "release story@1"}


def test_plain_transformers_loads_it_and_agrees_with_our_scores(finished: tuple[Path, dict[str, Any]]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    home, _ = finished
    path = home / "releases" / "story" / "1"
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    measured = json.loads((home / "runs/story/measured/after.json").read_text())["tasks"]["rules"]
    rows = [
        json.loads(x)
        for x in Path(json.loads((path / "plan.lock.json").read_text())["recipe"]["tasks"]["rules"]["from"])
        .read_text()
        .splitlines()
    ]
    options = [tokenizer(o, add_special_tokens=False).input_ids[0] for o in measured["options"]]
    for row, score in list(zip(rows, measured["scores"], strict=True))[:10]:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}], tokenize=False, add_generation_prompt=True
        )
        ids = torch.tensor([tokenizer(text, add_special_tokens=False).input_ids])
        with torch.inference_mode():
            logprobs = model(ids).logits[0, -1].log_softmax(-1)
        assert (logprobs[options[0]] - logprobs[options[1]]).item() == pytest.approx(score, abs=0.15)


def test_again_changes_nothing_and_restart_makes_the_next_version_with_the_same_weights(
    finished: tuple[Path, dict[str, Any]], recipe: Path
) -> None:
    home, first = finished
    again = bessemer(home, "run", str(recipe), "--json")
    assert again.returncode == 0 and json.loads(again.stdout) == first
    assert "is done already" in again.stderr
    restarted = bessemer(home, "run", str(recipe), "--restart", "--json")
    assert restarted.returncode == 0, restarted.stderr
    assert json.loads(restarted.stdout)["release"] == "story@2"
    assert weights_digest(home, version=1) == weights_digest(home, version=2)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.full) for seed in (0, 2))])
def test_kill_minus_nine_at_any_moment_continues_to_the_same_bytes(
    seed: int, tmp_path: Path, recipe: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    """Kill when a randomly chosen line of the story (or event of the metrics) has appeared."""
    rng = random.Random(seed)
    metrics, killed = tmp_path / "runs" / "story" / "metrics.jsonl", 0
    for _ in range(3):
        wanted = rng.randint(1, 60)
        process = subprocess.Popen(
            [*COMMAND, "run", str(recipe)],
            env=environment(tmp_path),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        while process.poll() is None:
            if metrics.exists() and len(metrics.read_bytes().splitlines()) >= wanted:
                time.sleep(rng.random() * 0.3)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        killed += process.wait() == -signal.SIGKILL
    assert killed
    done = bessemer(tmp_path, "run", str(recipe))
    assert done.returncode == 0, done.stderr
    assert weights_digest(tmp_path) == weights_digest(finished[0])
    tokens = [json.loads((h / "releases/story/1/manifest.json").read_text())["tokens"] for h in (tmp_path, finished[0])]
    assert tokens[0] == tokens[1]
    assert not list((tmp_path / "releases").rglob(".tmp-*"))


def test_ctrl_c_once_writes_a_checkpoint_and_stops(
    tmp_path: Path, recipe: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    metrics = tmp_path / "runs" / "story" / "metrics.jsonl"
    process = subprocess.Popen(
        [*COMMAND, "run", str(recipe)], env=environment(tmp_path), stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not (metrics.exists() and b'"step": 3' in metrics.read_bytes()):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "run the same command again" in err and "Traceback" not in err
    assert list((tmp_path / "runs" / "story").glob("0*/step-*/manifest.json")) or "between two steps" in err
    done = bessemer(tmp_path, "run", str(recipe))
    assert done.returncode == 0 and weights_digest(tmp_path) == weights_digest(finished[0])


def test_a_second_run_of_the_same_name_at_the_same_time_is_refused(tmp_path: Path, recipe: Path) -> None:
    first = subprocess.Popen([*COMMAND, "run", str(recipe)], env=environment(tmp_path), stderr=subprocess.DEVNULL)
    lock = tmp_path / "runs" / ".story.lock"
    while first.poll() is None and not (lock.exists() and lock.read_text()):
        time.sleep(0.02)
    second = bessemer(tmp_path, "run", str(recipe))
    first.kill()
    first.wait()
    assert second.returncode == 4 and f"pid {first.pid}" in second.stderr


def test_parts_of_a_run_without_its_plan_are_refused(
    finished: tuple[Path, dict[str, Any]], recipe: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished[0] / "runs", tmp_path / "runs")
    (tmp_path / "runs/story/plan.lock.json").unlink()
    again = bessemer(tmp_path, "run", str(recipe))
    assert again.returncode == 4 and "without its plan.lock.json" in again.stderr and "--restart" in again.stderr


def test_a_model_that_changed_after_it_was_measured_is_not_released(
    finished: tuple[Path, dict[str, Any]], recipe: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(finished[0], home)
    shutil.rmtree(home / "releases")
    run = home / "runs/story"
    (run / "result.json").unlink()
    weights = run / "model/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    again = bessemer(home, "run", str(recipe))
    assert again.returncode == 4 and "the model changed since it was measured" in again.stderr
    assert not (home / "releases/story").exists()


def test_a_lost_measurement_is_made_again_and_changes_no_weight(
    finished: tuple[Path, dict[str, Any]], recipe: Path, tmp_path: Path
) -> None:
    """It loads the weights of the first stage, frozen as that one was; the next stage must not train those."""
    home = tmp_path / "home"
    shutil.copytree(finished[0], home)
    shutil.rmtree(home / "releases")
    run = home / "runs/story"
    for name in ("02-sft", "model", "measured"):
        shutil.rmtree(run / name)
    for name in ("result.json", "scorecard.json"):
        (run / name).unlink()
    again = bessemer(home, "run", str(recipe))
    assert again.returncode == 0, again.stderr
    assert weights_digest(home) == weights_digest(finished[0])


def test_a_release_of_other_weights_is_not_taken_for_the_run_s_own(
    finished: tuple[Path, dict[str, Any]], recipe: Path, tmp_path: Path
) -> None:
    """Between the measurement and result.json somebody released a point of `bessemer merge`."""
    home = tmp_path / "home"
    shutil.copytree(finished[0], home)
    manifest = home / "releases/story/1/manifest.json"
    write_json(manifest, read_json(manifest) | {"merge": 0.8})
    (home / "runs/story/result.json").unlink()
    again = bessemer(home, "run", str(recipe), "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["release"] == "story@2", again.stderr


def test_what_could_not_be_judged_is_refused_each_time(
    finished: tuple[Path, dict[str, Any]], recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only where the start is measured: the same command again must not train for hours towards the same error."""
    home = tmp_path / "home"
    shutil.copytree(finished[0], home)
    for name in ("result.json", "scorecard.json", "02-sft/done.json"):
        (home / "runs/story" / name).unlink()

    def none(*_: Any) -> None:
        raise BessemerError("no interval")

    monkeypatch.setenv("BESSEMER_HOME", str(home))
    monkeypatch.setattr("bessemer.run.need_intervals", none)
    with pytest.raises(BessemerError, match="no interval"):
        run_recipe(load_recipe(recipe), Screen(quiet=True))


def test_a_first_batch_that_the_start_teaches_is_no_broken_graph(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There it is right in everything, so every gradient is zero; planning with a measured step, and training."""
    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path))
    stage = "{objective: cpt, mixture: {general: 1.0}, general: start, tokens: 1280, rows: 1, row_tokens: 64, lr: 1e-3}"
    unused = ["sources.rules=", "sources.own="]
    taught = load_recipe(recipe, [f"stages=[{stage}]", "name=taught", *unused])
    plan = make_plan(taught, Screen(quiet=True), measured=True)
    story = _Story(plan, tmp_path / "runs" / "taught", Screen(quiet=True), lambda: False)
    story.before()
    story.train(0)
    assert (tmp_path / "runs/taught/01-cpt/done.json").exists()


def test_a_release_that_is_to_be_signed_is_not_made_unsigned(
    tmp_path: Path, recipe: Path, finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = write_keys(tmp_path)
    bad = bessemer(tmp_path / "none", "run", str(recipe), BESSEMER_SIGNING_KEY=str(public))
    assert bad.returncode == 4 and "other users may read" in bad.stderr and not (tmp_path / "none").exists()
    home = tmp_path / "home"
    shutil.copytree(finished[0], home)
    monkeypatch.setenv("BESSEMER_HOME", str(home))
    run, releases = home / "runs" / "story", home / "releases" / "story"

    def unfinish() -> None:
        shutil.rmtree(releases)
        (run / "result.json").unlink()

    unfinish()
    done = bessemer(home, "run", str(recipe), BESSEMER_SIGNING_KEY=str(private))
    assert done.returncode == 0 and "signed by the key" in done.stdout + done.stderr
    assert store.open_release("story@1", public)
    begun = json.loads((run / "begun.json").read_text())
    assert "signer" not in begun  # it had begun without
    signer_of_key = signer_of(releases / "1")
    (run / "begun.json").write_text(json.dumps(begun | {"signer": signer_of_key}))
    unfinish()
    done = bessemer(home, "run", str(recipe))
    assert done.returncode == 4 and "is to be signed with the key" in done.stderr and not releases.exists()
    other, _ = write_keys(tmp_path, "other")
    monkeypatch.setenv(SIGNING_KEY, str(other))
    with pytest.raises(BessemerError, match="is to be signed with the key"):
        merge("story", [0.5], Screen(quiet=True), release=True)
    monkeypatch.setenv(SIGNING_KEY, str(private))
    assert need_signer(run) == signer_of_key


def test_changes_since_the_plan_are_refused_readably(
    finished: tuple[Path, dict[str, Any]], recipe: Path, tmp_path: Path
) -> None:
    home, _ = finished
    other = bessemer(home, "run", str(recipe), "--set", "seed=2")
    assert other.returncode == 4 and re.search(r"recipe.seed: 1 -> 2", other.stderr)
    assert "--restart" in other.stderr
    own = tmp_path / "own.jsonl"  # where data lies is no change, what it says is one
    own.write_text((recipe.parent / "own.jsonl").read_text() + '{"text": "one more row"}\n')
    changed = bessemer(home, "run", str(recipe), "--set", f"sources.own.from={own}")
    assert changed.returncode == 4 and "sources.own.items: 200 -> 201" in changed.stderr


def test_a_release_name_that_exists_is_refused(
    finished: tuple[Path, dict[str, Any]], recipe: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(finished[0] / "releases", home / "releases")
    done = bessemer(home, "run", str(recipe))
    assert done.returncode == 4 and "a release of this name exists: story@" in done.stderr
    assert not (home / "runs" / "story").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tasks.rules.from", "also in the training data"),
        ("sources.own.from", "does not exist"),
        ("start", "is no folder, no GGUF file, no hub id"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, recipe: Path, change: str, message: str
) -> None:
    leaked = tmp_path / "leak.jsonl"
    leaked.write_text((recipe.parent / "rules.jsonl").read_text())
    value = {"tasks.rules.from": str(leaked), "sources.own.from": str(tmp_path / "none.jsonl"), "start": "./nowhere"}
    done = bessemer(tmp_path / "home", "run", str(recipe), "--set", f"{change}={value[change]}")
    assert done.returncode == 4 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "home" / "runs" / "story").exists()


def test_a_broken_budget_is_rejected_and_not_released(tmp_path: Path, recipe: Path, tiny_model: Path) -> None:
    """A probe of the domain's opposite: training on one kind of text alone makes the other worse."""
    probe = tmp_path / "probe.jsonl"
    rng = random.Random(3)
    probe.write_text(
        "".join(json.dumps({"text": "".join(chr(rng.randint(97, 122)) for _ in range(200))}) + "\n" for _ in range(20))
    )
    done = bessemer(tmp_path / "home", "run", str(recipe), "--set", f"probes.elsewhere.from={probe}", "--json")
    card = json.loads(done.stdout)
    word = card["scorecard"]["verdict"]["word"]
    assert (done.returncode, word) == (3, "REJECT"), card["scorecard"]["probes"]
    assert card["release"] is None and not (tmp_path / "home" / "releases" / "story").exists()
