"""From moderators' logs to a release that is asked: the parts fit together (the tiny model need not be any good)."""

from __future__ import annotations

import json
from pathlib import Path

from bessemer.data.sources import read_items
from bessemer.infer import model
from bessemer.moderate.build import build
from bessemer.moderate.calibrate import calibrate, load_calibration, save
from bessemer.moderate.curriculum import make_curriculum
from bessemer.moderate.decide import Known
from bessemer.moderate.dry_run import dry_run, judge_rows
from bessemer.moderate.judge import Judge
from bessemer.moderate.labelled import read_rows
from bessemer.moderate.policy import load_policy
from bessemer.recipe.load import load, load_recipe
from bessemer.recipe.moderation_recipe import ModerationRecipe
from bessemer.run import run_recipe
from bessemer.track.runs import runs_folder
from bessemer.track.screen import Screen
from tests.moderate.logs import log_rows, write_recipe, write_rows
from tests.story import write_story
from tests.tiny import SPECIAL


def test_logs_become_a_model_that_judges(tmp_path: Path, tiny_model: Path, judge: Judge) -> None:
    made = build(load(ModerationRecipe, write_recipe(tmp_path, 300)), Screen(quiet=True)).prepared
    twins = read_items(f"dataset:{made.reference}/train", kind="chat", where="train")
    parts = make_curriculum(judge, "parts", twins, 2)
    sft = {"objective": "sft", "tokens": 4096, "lr": 1e-3, "row_tokens": 256, "rows": 2}
    recipe = write_story(
        tmp_path / "run",
        tiny_model,
        sources={
            "texts": {"from": f"dataset:{made.reference}/texts"},
            "easy": {"from": f"dataset:{parts.reference}/part-1", "kind": "chat"},
            "hard": {"from": f"dataset:{parts.reference}/part-2", "kind": "chat"},
            "general": {"from": str(tmp_path / "run" / "general.jsonl"), "role": "general"},
        },
        stages=[
            {"objective": "cpt", "mixture": {"texts": 0.75, "general": 0.25}, "tokens": 2048, "lr": 1e-3,
             "row_tokens": 128, "rows": 2},
            {**sft, "mixture": {"easy": 0.8, "general": 0.2}},
            {**sft, "mixture": {"easy": 0.3, "hard": 0.5, "general": 0.2}},
        ],
        tasks={"rules": {"from": f"dataset:{made.reference}/test", "metric": "auroc"}},
    )  # fmt: skip
    result = run_recipe(load_recipe(recipe), Screen(quiet=True))
    assert result.scorecard["tasks"]["rules"]["metric"] == "auroc"

    tuned = Judge(model.load(runs_folder() / "story" / "model", digest="e" * 64, end_of_text=SPECIAL[0]))
    policy = load_policy(tmp_path / "policy.yaml")
    rows = [
        {"id": r["id"], "text": r["body"], "rule": r["reason"], "action": "approve" if r.get("appeal") else "remove"}
        for r in log_rows(300, seed=8)
        if r["reason"]
    ]
    labelled = read_rows(str(write_rows(tmp_path / "labelled.jsonl", rows)), policy, labels=True)
    judged = judge_rows(tuned, policy, labelled)
    save(policy, calibrate(policy, judged.rows, judged.odds, "e" * 64))
    known = load_calibration(policy, "e" * 64)
    assert known is not None
    found = dry_run(policy, judged, Known(known.measured))
    assert found["n_comments"] == len(rows) and json.dumps(found)
