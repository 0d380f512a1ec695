"""Every field of a moderation recipe is flipped, and the data set that is made must change. See flips.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bessemer.errors import BessemerError
from bessemer.moderate.build import build
from bessemer.recipe.load import load
from bessemer.recipe.moderation_recipe import Comments, Computed, Log, ModerationRecipe, Parts
from bessemer.track.screen import Screen
from tests.moderate.logs import log_rows, write_recipe, write_rows
from tests.recipe.flips import fields

MODELS = {"": ModerationRecipe, "logs": Log, "comments": Comments, "computed": Computed, "split": Parts}
BY_TIME = ("split.by=time", "comments={}")
BARE = ("logs.log.from={folder}/bare.jsonl", "logs.log.columns={text: body}")  # says neither community nor rule
FLIPS: dict[str, tuple[Any, tuple[str, ...]]] = {
    # field: (a value that differs, what else must hold before and after)
    "name": ("other", ()),
    "policies": ("[]", ()),
    "others_kept": ("false", ()),
    "per_comment": ("1", ()),
    "mixed": ("1", ()),
    "seed": ("2", ()),
    "logs.from": ("{folder}/other.jsonl", ()),
    "logs.columns": ("{text: body, rule: reason, title: id}", ()),
    "logs.community": ("mill", BARE),
    "logs.rule": ("no-iron", BARE),
    "logs.removed": ("[approvecomment]", ()),
    "logs.ignored": ("[approvecomment]", ()),
    "logs.separator": ("'-'", ()),
    "comments.from": ("{folder}/both.jsonl", ()),
    "comments.columns": ("{text: body}", ("comments.more.from={folder}/both.jsonl",)),
    "computed.families": ("[questions, ellipsis, smileys, lower-start]", ()),
    "computed.unseen": ("[questions]", ()),
    "computed.validation": ("[questions]", ()),
    "computed.twins": ("40", ()),
    "computed.named": ("20", ("comments.more.from={folder}/rare.jsonl",)),
    "computed.held_out": ("10", ()),
    "computed.words": ("[9, 11]", ()),
    "split.validation": ("0.2", ()),
    "split.test": ("0.2", ("leak=0.7",)),  # so few twins under unseen rules that chance looks like a leak
    "split.by": ("time", ("comments={}",)),
    "split.validation_from": ("2026-03-01", BY_TIME),
    "split.test_from": ("2026-11-01", BY_TIME),
    "split.communities": ("[mill]", ()),
    "split.jaccard": ("0.4", ("comments.more.from={folder}/near.jsonl",)),
}  # fmt: skip
REFUSES = {"leak"}  # decides whether anything is written


def parts_of(path: Path, *overrides: str) -> dict[str, Any]:
    made = build(load(ModerationRecipe, path, overrides), Screen(quiet=True)).prepared
    return {**made.manifest["files"], "name": made.manifest["name"]}


def test_every_field_is_flipped() -> None:
    assert fields(MODELS) == FLIPS.keys() | REFUSES


@pytest.mark.parametrize("field", FLIPS)
def test_a_field_changes_the_data(tmp_path: Path, field: str) -> None:
    path = write_recipe(tmp_path, 300)
    write_rows(tmp_path / "other.jsonl", log_rows(300, seed=4))
    write_rows(
        tmp_path / "both.jsonl", [{"text": r["body"] + " one", "body": r["body"] + " two"} for r in log_rows(200, 3)]
    )
    near = [
        {"text": " ".join([*w[:6], str(i), *w[6:]])}
        for r in log_rows(90, 6)
        for w in [r["body"].split()]
        for i in (1, 2)
    ]
    write_rows(tmp_path / "near.jsonl", near)
    rare = [
        {"text": f"{r['body']} {a}{b}rd"} for r, a in zip(log_rows(90, 7), "bcdfgh" * 15, strict=True) for b in "aeiou"
    ]
    write_rows(tmp_path / "rare.jsonl", rare)
    bare = [{k: v for k, v in r.items() if k not in {"community", "reason"}} for r in log_rows(300)]
    write_rows(tmp_path / "bare.jsonl", bare)
    value, given = FLIPS[field]
    first, _, rest = field.partition(".")
    where = {"logs": f"logs.log.{rest}", "comments": f"comments.more.{rest}"}.get(first, field)
    before = [text.format(folder=tmp_path) if "{folder}" in text else text for text in given]
    changed = f"{where}={value.format(folder=tmp_path) if '{folder}' in value else value}"
    assert parts_of(path, *before) != parts_of(path, *before, changed)


def test_the_limit_of_a_leak_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the balance the rules of the log are only ever broken."""
    from bessemer.moderate import build as room

    path = write_recipe(tmp_path, 300)
    monkeypatch.setattr(room, "balance", lambda twins, _: [t for t in twins if not t[2][0]])
    with pytest.raises(BessemerError, match="the rule alone predicts the answer: AUROC 0"):
        build(load(ModerationRecipe, path), Screen(quiet=True))
    assert build(load(ModerationRecipe, path, ["leak=0.98"]), Screen(quiet=True)).prepared.new


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("computed.families=[magic]", "'magic' is no family"),
        ("computed.families=[long]", "stands under families too"),
        ("split.test_from=2026-01-01", "by: time"),
        ("split.test=0.85", "too little is left"),
        ("computed.words=[9, 3]", "fewest"),
        ("logs={}", "no twins"),
        ("logs.log.columns={txet: body}", "txet"),
        ("policies=[missing.yaml]", "missing.yaml"),
    ],
)
def test_what_is_refused(tmp_path: Path, override: str, what: str) -> None:
    path = write_recipe(tmp_path, 60)
    more = ["comments={}"] if override == "logs={}" else []
    if more:
        what = "neither logs nor comments"
    with pytest.raises(BessemerError, match=what):
        build(load(ModerationRecipe, path, [override, *more]), Screen(quiet=True))
