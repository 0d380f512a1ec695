"""`bessemer moderate` and `bessemer policy` as a user runs them, on the tiny model."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bessemer.errors import EXIT_CODES
from bessemer.moderate.decide import Scale
from tests.cli.conftest import Done
from tests.moderate.conftest import MARKDOWN, YAML
from tests.moderate.logs import sentence, write_recipe
from tests.tiny import make_tiny_release

Here = Callable[..., Done]


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path, bessemer_home: Path) -> Path:
    make_tiny_release(tiny_model, bessemer_home)
    (tmp_path / "policy.yaml").write_text(YAML)
    (tmp_path / "policy.md").write_text(MARKDOWN)
    return tmp_path


def comments(path: Path, n: int, seed: int = 0, **more: Any) -> Path:
    rng = random.Random(seed)
    rows = [
        {"id": i, "text": sentence(rng), "labels": {"kind": rng.random() < 0.3, "no-links": rng.random() < 0.3}, **more}
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_whole_way(place: Path, here: Here) -> None:
    def moderate(*arguments: str, code: int = 0) -> Any:
        done = here("moderate", "--policy", f"{place}/policy.yaml", "--model", "tiny@1", *arguments)
        assert done.code == code, done.out + done.err
        return json.loads(done.out) if "--json" in arguments else done.out

    past = comments(place / "past.jsonl", 30, action="approved")
    with past.open("a") as file:
        file.write(
            json.dumps({"id": "bad", "text": "\u200b"}) + "\n" + json.dumps({"id": "long", "text": "x" * 50_000}) + "\n"
        )
    before = moderate("--dry-run", str(past), "--json")
    assert before["n_comments"] == 32 and [r["id"] for r in before["refused"]] == ["bad", "long"]
    assert before["volumes"]["remove"]["n"] == 0  # nothing is measured yet
    assert sum(v["n"] for v in before["volumes"].values()) == 32 and before["volumes"]["queue"]["n"] >= 2
    assert "not calibrated" in moderate("--dry-run", str(past))

    facts = moderate("--calibrate", str(comments(place / "labelled.jsonl", 120)), "--json")
    assert facts["n_comments"] == 120 and set(facts["rules"]) == {"no-links", "kind"} and Path(facts["file"]).exists()
    after = moderate("--dry-run", str(past), "--json")
    assert all(rule["calibrated"] for rule in after["rules"].values())
    for rule in after["rules"].values():
        assert rule["approved_by_moderators"] == rule["words"]["broken"]["n"]
        assert len(rule["likely_false_positives"]) == min(10, rule["words"]["broken"]["n"])

    digest = json.loads(Path(facts["file"]).read_text())["sha256"]
    assert before["calibration"] is None and after["calibration"] == digest
    lines = [json.loads(line) for line in moderate(str(past)).splitlines()]
    assert {line["calibration"] for line in lines} == {digest}
    assert len(lines) == 32 and {line["action"] for line in lines[-2:]} == {"queue"} and "error" in lines[-1]
    pinned = {"release_digest", "policy", "policy_hash", "calibration"}
    assert lines[0].keys() == {"id", "action", "cited_rules", "rules", *pinned}

    same = moderate("--drift", str(comments(place / "same.jsonl", 120, seed=5)), "--json")
    assert not any(m["moved"] for m in same["moves"])
    other = place / "other.jsonl"
    other.write_text("".join(json.dumps({"text": "completely other text " * 9}) + "\n" for _ in range(120)))
    moved = moderate("--drift", str(other), "--json", code=EXIT_CODES["hold"])
    assert {m["what"] for m in moved["moves"] if m["moved"]} >= {"length of the texts", "share of new words"}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"text": "x"}, "no labels"),
        ({"text": "x", "labels": {"other": True}}, "'other' is no rule"),
        ({"text": "x", "labels": {"kind": "perhaps"}}, "neither true nor false"),
        ({"body": "x"}, "--column text=NAME"),
    ],
)
def test_labels_that_say_nothing(place: Path, here: Here, row: dict[str, Any], what: str) -> None:
    (place / "l.jsonl").write_text(json.dumps(row) + "\n")
    ask = ["moderate", "--policy", f"{place}/policy.yaml", "--model", "tiny@1", "--calibrate", f"{place}/l.jsonl"]
    done = here(*ask)
    assert done.code == EXIT_CODES["user"] and what in done.err and "l.jsonl:1" in done.err


def test_nothing_is_judged_for_what_could_have_been_known_before(
    place: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bessemer.moderate.judge.Judge.odds", None)
    asked = ("moderate", "--policy", f"{place}/policy.yaml", "--model", "tiny@1")
    few = here(*asked, "--calibrate", str(comments(place / "few.jsonl", 3)))
    assert few.code == 4 and "3 independent comments are too few" in few.err
    drift = here(*asked, "--drift", str(comments(place / "same.jsonl", 120)))
    assert drift.code == 4 and "was not calibrated for this model" in drift.err


def test_one_thing_at_a_time(place: Path, here: Here) -> None:
    ask = ["moderate", "--policy", f"{place}/policy.yaml", "--model", "tiny@1"]
    done = here(*ask)
    assert done.code == EXIT_CODES["user"] and "0 things" in done.err
    done = here(*ask, "--drift", "x", "--dry-run", "y")
    assert done.code == EXIT_CODES["user"] and "2 things" in done.err
    past = comments(place / "p.jsonl", 60)
    for column, what in (("titel=headline", "'titel' is no column that is read"), ("text", "'text' maps no column")):
        done = here(*ask, "--dry-run", str(past), "--column", column)
        assert done.code == EXIT_CODES["user"] and what in done.err
    done = here(*ask, "--drift", str(past))
    assert done.code == EXIT_CODES["user"] and "not calibrated" in done.err


def test_a_scale_for_rules_without_labels(place: Path, here: Here) -> None:
    write_recipe(place, n=1500)
    assert here("data", "moderation", f"{place}/recipe.yaml").code == 0
    ask = ("moderate", "--model", "tiny@1", "--scale", "forge-rules@1")
    done = here(*ask, "--json")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert facts["n_twins"] > 10 and len(facts["rules"]) >= 5 and Path(facts["file"]).exists()
    assert "both right" in here(*ask).out
    past = comments(place / "past.jsonl", 3)
    done = here("moderate", "--policy", f"{place}/policy.md", "--model", "tiny@1", str(past))
    assert done.code == 0, done.err
    told = [json.loads(line)["rules"]["kind"]["score"] for line in done.out.splitlines()]
    Path(facts["file"]).unlink()
    bare = here("moderate", "--policy", f"{place}/policy.md", "--model", "tiny@1", str(past))
    scores = [json.loads(line)["rules"]["kind"]["score"] for line in bare.out.splitlines()]
    scale = Scale(facts["temperature"], facts["bias"])
    assert told == pytest.approx([scale.score(math.log(s / (1 - s))) for s in scores], abs=1e-4) and told != scores


def test_a_scale_has_no_policy_and_all_else_has_one(place: Path, here: Here) -> None:
    done = here("moderate", "--policy", f"{place}/policy.yaml", "--model", "tiny@1", "--scale", "x@1")
    assert done.code == EXIT_CODES["user"] and "whatever their policy" in done.err
    done = here("moderate", "--model", "tiny@1", "--dry-run", "x")
    assert done.code == EXIT_CODES["user"] and "no policy is given" in done.err
    done = here("moderate", "--model", "tiny@1", "--scale", "x@1", "--column", "text=body")
    assert done.code == EXIT_CODES["user"] and "no columns to map" in done.err
    done = here("moderate", "--model", "tiny@1", "--scale", "nothing@1")
    assert done.code == EXIT_CODES["user"] and "nothing" in done.err


def test_a_scale_of_few_rules_is_refused_before_anything_is_judged(
    place: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(place, n=600)
    recipe = place / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("computed: {", "computed: {validation: [questions, ellipsis], "))
    assert here("data", "moderation", str(recipe)).code == 0
    monkeypatch.setattr("bessemer.moderate.judge.Judge.twins", None)
    done = here("moderate", "--model", "tiny@1", "--scale", "forge-rules@1")
    assert done.code == EXIT_CODES["user"] and "2 rules are too few" in done.err


def test_policies(place: Path, here: Here) -> None:
    checked = [json.loads(here("policy", "check", f"{place}/policy.{s}", "--json").out) for s in ("yaml", "md")]
    assert checked[0] == checked[1] and checked[0]["reference"] == "steel-talk@2"
    assert here("policy", "add", f"{place}/policy.md").code == 0
    listed = json.loads(here("policy", "list", "--json").out)
    facts = {"reference": "steel-talk@2", "digest": checked[0]["digest"], "rules": ["no-links", "kind"]}
    assert listed == [{**facts, "community": checked[0]["community"], "fault": None}]
    assert "Covered: shortened links" in here("policy", "check", "steel-talk").out


def test_review_as_a_user_does_it(place: Path, here: Here) -> None:
    past = comments(place / "past.jsonl", 20)
    ask = ["review", "export", str(past), "--policy", f"{place}/policy.yaml", "--model", "tiny@1"]
    done = here(*ask, "--out", f"{place}/q.csv", "--n", "7")
    assert done.code == 0 and "7 questions" in done.out, done.err
    (place / "q.csv").write_text(
        (place / "q.csv").read_text().replace(",\n", ",broken\n").replace(",\r\n", ",broken\r\n")
    )
    done = here("review", "import", f"{place}/q.csv", "--out", f"{place}/rows.jsonl")
    assert "7 answers" in done.out
    assert {json.loads(line)["label"] for line in (place / "rows.jsonl").read_text().splitlines()} == {True}
    assert here(*ask, "--out", f"{place}/q.xlsx").code == EXIT_CODES["user"]


def test_an_appeal_from_the_command_line(place: Path, here: Here) -> None:
    assert here("review", "appeal", "decision-1", "perhaps").code == EXIT_CODES["user"]
    assert "no entry" in here("review", "appeal", "decision-1", "upheld").err
    done = here("review", "appeal", "decision-1", "upheld", "--text", f"{place}/none.txt")
    assert done.code == EXIT_CODES["user"] and "the comment cannot be read" in done.err
    assert here("review", "appeals").out == ""
