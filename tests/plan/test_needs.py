"""What a run needs of disk and memory is said before, and asked of the right place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from bessemer.errors import BessemerError
from bessemer.families.fetch import resolve
from bessemer.files import write_json
from bessemer.plan import estimate
from bessemer.plan.estimate import Size, disk_bytes, fit, free_of_group
from bessemer.recipe.load import load_recipe
from bessemer.run import make_plan, run_recipe
from bessemer.track.screen import Screen
from bessemer.train.checkpoint import KEEP, MANIFEST, complete, purge
from tests.story import write_story

SIZE = Size(parameters=1_000_000, embedding=1000, hidden=64, layers=2, intermediate=128, vocabulary=512)
LARGE = Size(7_000_000_000, 500_000_000, 4096, 32, 11008, 128_000)


def test_keeping_every_checkpoint_needs_room_for_every_one() -> None:
    demo = load_recipe("recipes/demo.yaml")
    every = demo.model_copy(update={"keep_checkpoints": "all", "checkpoint_every": 0.1})
    trained = 12 * max(1_000_000 if s.freeze == 0 else round(0.5 * 999_000) for s in demo.stages)
    more = disk_bytes(SIZE, every, half=True) - disk_bytes(SIZE, demo, half=True)
    assert more == (2 * 11 - 5) * trained


def test_so_many_checkpoints_may_lie_there_at_once(tmp_path: Path) -> None:
    """The best one early, then one to go back to, then those of two stops, and one being written."""
    most = 0
    for step, (forgotten, due) in enumerate([(0.1, True), (0.5, True), (0.4, True), (0.6, False), (0.7, False)]):
        folder = tmp_path / f"step-{step:06d}"
        folder.mkdir()
        write_json(folder / "state.json", {"forgotten": forgotten, "due": due})
        most = max(most, len(complete(tmp_path)) + 1)
        write_json(folder / MANIFEST, {})
        purge(tmp_path)
    assert KEEP == 2 and len(complete(tmp_path)) == 4 and most <= 5
    demo = load_recipe("recipes/demo.yaml")
    a_checkpoint = 12 * max(estimate.trained_parameters(SIZE, s) for s in demo.stages)
    assert disk_bytes(SIZE, demo, half=True) > 5 * a_checkpoint


def test_processes_that_share_the_weights_need_less_each() -> None:
    demo = load_recipe("recipes/demo.yaml", ["stages.1.freeze=0.0"])
    alone, shared = (fit(LARGE, demo, 80 << 30, half=True, most=4096, workers=n)[1] for n in (1, 8))
    assert alone > 180e9 and shared < 80e9


def test_a_head_of_its_own_is_trained_whole(tiny_model: Path, tmp_path: Path) -> None:
    stage = load_recipe("recipes/demo.yaml", ["stages.1.freeze=0.5"]).stages[1]
    untied = Size(**{**vars(LARGE), "head": LARGE.embedding})
    layers = LARGE.parameters - 2 * LARGE.embedding
    assert estimate.trained_parameters(untied, stage) == layers // 2 + LARGE.embedding
    assert estimate.size_of(resolve(str(tiny_model))).head == 0
    model = LlamaForCausalLM.from_pretrained(tiny_model)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    shutil.copytree(tiny_model, tmp_path / "untied")
    model.save_pretrained(tmp_path / "untied")
    found = estimate.size_of(resolve(str(tmp_path / "untied")))
    assert found.head == found.embedding


def test_each_process_has_a_whole_start_model_where_the_start_teaches() -> None:
    stage = load_recipe("recipes/demo.yaml", ["stages.1.freeze=0.0"]).stages[1]
    assert stage.general == "start"
    of = {n: estimate.stage_memory(LARGE, stage, 4096, half=True, workers=n) for n in (8, 16)}
    state = LARGE.parameters * (2 + 28)
    assert of[8] - of[16] == state // 16  # all else stays, however many share
    assert of[16] > state // 16 + 2 * LARGE.parameters


@pytest.fixture
def story(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path / "home"))
    return load_recipe(write_story(tmp_path, tiny_model))


def test_a_run_is_not_asked_again_for_what_it_has(story: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = Screen(quiet=True)
    planned = make_plan(story, quiet, measured=False).plan["estimate"]
    with monkeypatch.context() as patch:
        patch.setattr(estimate.shutil, "disk_usage", lambda _: type("", (), {"free": planned["disk_bytes"] - 1000}))
        with pytest.raises(BessemerError, match="of disk"):
            make_plan(story.model_copy(update={"name": "other"}), quiet, measured=False)
    run_recipe(story, quiet)
    monkeypatch.setenv("BESSEMER_MEMORY_LIMIT", "1000000")
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda _: type("", (), {"free": planned["disk_bytes"] - 1000}))
    assert run_recipe(story, quiet).verdict == "SHIP"
    with pytest.raises(BessemerError, match="of memory"):
        make_plan(story, quiet, measured=False, restart=True)


def test_memory_is_asked_of_the_machine_that_trains(story: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = Screen(quiet=True)
    needed = make_plan(story, quiet, measured=False).plan["estimate"]["memory_bytes"]
    monkeypatch.setenv("BESSEMER_MEMORY_LIMIT", str(round(1.5 * needed)))
    make_plan(story, quiet, measured=False)
    with pytest.raises(BessemerError, match="of memory"):
        make_plan(story, quiet, measured=False, workers=2)
    monkeypatch.setenv("BESSEMER_MEMORY_LIMIT", "1000000")
    make_plan(story, quiet, measured=False, workers=0)
    with pytest.raises(BessemerError, match="of memory"):
        make_plan(story, quiet, measured=False)


GIB = 1 << 30


@pytest.mark.parametrize(
    ("cgroup", "files", "left"),
    [
        ("0::/job\n", {"job": ("memory.max", 4 * GIB, "memory.current", 3 * GIB, "inactive_file", GIB)}, 2 * GIB),
        ("0::/job/step\n", {"job": ("memory.max", 4 * GIB, "memory.current", GIB, "inactive_file", 0)}, 3 * GIB),
        ("0::/job\n", {"job": ("memory.max", "max", "memory.current", GIB, "inactive_file", 0)}, None),
        ("0::/of/the/host\n", {".": ("memory.max", GIB, "memory.current", 0, "inactive_file", 0)}, GIB),
        (
            "3:cpu:/x\n2:memory:/job\n",
            {"memory/job": ("memory.limit_in_bytes", GIB, "memory.usage_in_bytes", 10, "total_inactive_file", 0)},
            GIB - 10,
        ),
        (
            "2:memory:/\n",
            {
                "memory": (
                    "memory.limit_in_bytes",
                    (1 << 63) - 4096,
                    "memory.usage_in_bytes",
                    1,
                    "total_inactive_file",
                    0,
                )
            },
            None,
        ),
        ("", {}, None),
    ],
)
def test_the_limit_of_a_container_or_a_job_counts(
    tmp_path: Path, cgroup: str, files: dict[str, tuple[Any, ...]], left: int | None
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for folder, (limit, most, used, now, name, kept) in files.items():
        at = tmp_path / "sys/fs/cgroup" / folder
        at.mkdir(parents=True)
        (at / limit).write_text(f"{most}\n")
        (at / used).write_text(f"{now}\n")
        (at / "memory.stat").write_text(f"anon 5\n{name} {kept}\n")
    assert free_of_group(tmp_path) == left
