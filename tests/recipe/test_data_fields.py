"""Every field of a data recipe is flipped, and the data set that is made must change. See flips.py.

All recipes are made in one home, so a field that the fingerprint leaves out fails too: its data set would be taken
for one that is there already.
"""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest

from bessemer.data.columns import row_of
from bessemer.data.curate.parts import read_part
from bessemer.data.curate.prepare import prepare
from bessemer.errors import BessemerError
from bessemer.files import home
from bessemer.recipe.data_recipe import (
    DataRecipe,
    Decontaminate,
    Language,
    NearDuplicates,
    Pii,
    Presidio,
    Quality,
    Split,
    Steps,
)
from bessemer.recipe.load import parse
from bessemer.recipe.schema import DataSource
from bessemer.track.screen import Screen
from tests.recipe.flips import Case, fields
from tests.tiny import WORDS, make_tiny_names

MODELS = {
    "": DataRecipe,
    "sources": DataSource,
    "steps": Steps,
    "language": Language,
    "quality": Quality,
    "decontaminate": Decontaminate,
    "against": DataSource,
    "pii": Pii,
    "presidio": Presidio,
    "near_duplicates": NearDuplicates,
    "split": Split,
}


# -- where a data recipe shows ----------------------------------------------------------------------------------


def in_items(recipe: DataRecipe) -> Any:
    """The items of each side, with what was noted about them."""
    folder = prepare(recipe, Screen(quiet=True), workers=1).folder
    sides = [p for p in sorted(folder.iterdir()) if p.is_dir()]
    return {s.name: [row_of(i) for part in sorted(s.glob("*.parquet")) for i in read_part(part)] for s in sides}


def in_refusal(recipe: DataRecipe) -> Any:
    try:
        prepare(recipe, Screen(quiet=True), workers=1)
    except BessemerError as error:
        return error.what
    return "made"


def in_shelf(recipe: DataRecipe) -> Any:
    return prepare(recipe, Screen(quiet=True), workers=1).folder.parent.name


def in_quarantine(recipe: DataRecipe) -> Any:
    prepare(recipe, Screen(quiet=True), workers=1)
    return sorted((p.name, p.read_text()) for p in (home() / "quarantine").glob("*.jsonl"))


# -- the cases --------------------------------------------------------------------------------------------------

AGAINST, PRESIDIO = "steps.decontaminate.against.test", "steps.pii.presidio"
NAMED = (f"{PRESIDIO}={{model: FOLDER/names, entities: {{PERSON: replace}}}}",)
NUMBERS = (f"{PRESIDIO}={{model: FOLDER/names, entities: {{PHONE_NUMBER: replace}}}}", "steps.pii.phone=keep")
BY_TIME = ("split={by: time, column: at, cuts: {late: 2024-05-01}}",)
CASES: dict[str, Case] = {
    "name": Case("name", "other", in_shelf),
    "sources.from": Case("sources.posts.from", "other.jsonl", in_items),
    "sources.kind": Case("sources.posts.kind", "chat", in_items),
    "sources.columns": Case("sources.posts.columns", {"text": "body"}, in_items),
    "sources.on_error": Case("sources.posts.on_error", "quarantine", in_quarantine),
    "steps.repair": Case("steps.repair", None, in_items),
    "steps.duplicates": Case("steps.duplicates", None, in_items, ("steps.near_duplicates=",)),
    "language.keep": Case("steps.language.keep", ["en", "de"], in_items),
    "language.confidence": Case("steps.language.confidence", 1, in_items),
    "language.unsure": Case("steps.language.unsure", "drop", in_items),
    "quality.url_share": Case("steps.quality.url_share", 0.9, in_items),
    "quality.alphanumeric_share": Case("steps.quality.alphanumeric_share", 0.01, in_items),
    "quality.word_repetition": Case("steps.quality.word_repetition", 1, in_items),
    "quality.character_repetition": Case("steps.quality.character_repetition", 1, in_items),
    "quality.ngram": Case("steps.quality.ngram", 2, in_items),
    "quality.characters": Case("steps.quality.characters", 10, in_items),
    "quality.mean_line": Case("steps.quality.mean_line", 1, in_items),
    "decontaminate.ngram": Case("steps.decontaminate.ngram", 20, in_items),
    "decontaminate.coverage_ngram": Case("steps.decontaminate.coverage_ngram", 2, in_items),
    "decontaminate.coverage": Case("steps.decontaminate.coverage", 0.1, in_items),
    "against.from": Case(f"{AGAINST}.from", "other.jsonl", in_items),
    "against.kind": Case(f"{AGAINST}.kind", "chat", in_items),
    "against.columns": Case(f"{AGAINST}.columns", {"text": "body"}, in_items),
    "against.on_error": Case(f"{AGAINST}.on_error", "quarantine", in_quarantine),
    **{f"pii.{kind}": Case(f"steps.pii.{kind}", "flag", in_items) for kind in Pii.model_fields if kind != "presidio"},
    "presidio.model": Case(f"{PRESIDIO}.model", "more-names", in_items, NAMED),
    "presidio.entities": Case(f"{PRESIDIO}.entities", {"PERSON": "replace", "LOCATION": "replace"}, in_items, NAMED),
    # The tiny model is sure of what it names; how sure is sure enough shows in Presidio's own rules.
    "presidio.score": Case(f"{PRESIDIO}.score", 0.3, in_items, NUMBERS),
    "near_duplicates.jaccard": Case("steps.near_duplicates.jaccard", 1, in_items),
    "near_duplicates.words": Case("steps.near_duplicates.words", 20, in_items),
    "near_duplicates.same_group": Case("steps.near_duplicates.same_group", "drop", in_items),
    "split.by": Case("split.by", "random", in_refusal),  # where it is not refused, the sides are those of cluster
    "split.shares": Case("split.shares", {"train": 0.5, "test": 0.5}, in_items),
    "split.column": Case("split.column", "changed", in_items, BY_TIME),
    "split.cuts": Case("split.cuts", {"late": "2024-09-01"}, in_items, BY_TIME),
    "split.seed": Case("split.seed", 2, in_items),
}
REFUSED = {"presidio.language": Case(f"{PRESIDIO}.language", "de", in_items, NAMED)}


# -- the data ---------------------------------------------------------------------------------------------------


def write(path: Path, rows: list[dict[str, Any]], end: str = "") -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + end)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Items each of which one field decides about, files whose rows can be read in two ways, and a home."""
    folder = tmp_path_factory.mktemp("data-fields")
    draw = random.Random(3)

    def prose(n: int) -> str:
        return "This is what the " + " ".join(draw.choices(WORDS, k=n)) + " of the house said."

    held_out = [prose(30), prose(30), prose(30)]
    words = [held_out[2].split()[at : at + 11] for at in (0, 12, 24)]
    about = prose(20)
    texts = {
        "broken": f"The cafÃ© was open, {prose(12)}",
        "german": "Das ist wirklich eine gute Frage, danke, und wir haben heute leider keine Antwort darauf.",
        "unsure": "Pizza, hotel, taxi, radio, internet, okay okay, Pizza hotel!",
        "urls": f"See https://example.com/{'a' * 60} and then {prose(8)}",
        "signs": f"{''.join(draw.choices('?!;:()/-', k=120))} so what is this, my good old friend?",
        "words": f"{about} {about}",
        "letters": "ha" * 60,
        "phrases": " ".join(draw.choices(["the", "dog", "saw", "us"], k=40)),
        "short": "It rained all day here.",
        "lines": "\n".join(f"{w}" for w in prose(24).split()),
        "run": f"They say: {' '.join(held_out[0].split()[5:20])}, {prose(10)}",
        "covered": ", right, ".join(" ".join(w) for w in words[:2]) + f" - {prose(8)}",
        "personal": "Mail jane@math.org or call +44 20 7946 0958 from 8.8.8.8, card 4111 1111 1111 1111, account "
        "GB82WEST12345698765432, key AKIAIOSFODNN7EXAMPLE, thanks u/some_name, says Ada Lovelace of London.",
        "grace": f"Grace Hopper came to London, {prose(10)}",
        "first": about.replace("what", "certainly what"),
        "again": about.replace("what", "certainly what").upper(),
        "near": about.replace("what", "certainly what").replace(about.split()[14], "indeed", 1),
    }
    rows = [{"id": name, "text": text, "group": f"g-{name}"} for name, text in texts.items()]
    rows += [{"id": f"p{i}", "text": prose(14), "group": f"g{i // 4}"} for i in range(40)]
    rows += [{"id": f"twin{i}", "text": f"{about} Not at all {'no' * i}", "group": "twins"} for i in range(2)]
    groups = list(dict.fromkeys(row["group"] for row in rows))  # none lies on two sides of a moment
    for row in rows:
        i = groups.index(row["group"])
        row |= {"body": row["text"].lower(), "prompt": f"Say: {row['text']}", "completion": "Yes, it is so."}
        row |= {"at": f"2024-{i % 12 + 1:02}-01", "changed": f"2024-{(i + 5) % 12 + 1:02}-02"}
    write(folder / "posts.jsonl", rows, "no JSON\n")
    write(folder / "other.jsonl", rows[-30:])
    held = [{"text": text, "body": prose(30), "prompt": prose(30), "completion": "no"} for text in held_out]
    write(folder / "test.jsonl", held, "no JSON\n")
    if importlib.util.find_spec("spacy"):
        make_tiny_names(folder / "names")
        make_tiny_names(folder / "more-names", names={"PERSON": ["Grace Hopper", "Ada Lovelace"]})
    return folder


@pytest.fixture(autouse=True)
def one_home(folder: Path, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BESSEMER_HOME", str(folder / "home"))


RECIPE = """
name: talk
sources:
  posts: {from: FOLDER/posts.jsonl, on_error: skip}
steps:
  repair: {}
  language: {keep: [en]}
  quality: {}
  decontaminate: {against: {test: {from: FOLDER/test.jsonl, on_error: skip}}}
  pii: {}
  duplicates: {}
  near_duplicates: {}
split: {shares: {train: 0.8, test: 0.2}}
"""


def recipe_of(folder: Path, case: Case, *, flipped: bool) -> DataRecipe:
    value = str(folder / case.value) if isinstance(case.value, str) and (folder / case.value).exists() else case.value
    overrides = [*case.given, *([f"{case.path}={json.dumps(value)}"] if flipped else [])]
    ours = [o.replace("FOLDER", str(folder)) for o in overrides]
    return parse(DataRecipe, RECIPE.replace("FOLDER", str(folder)), where="", overrides=ours)


def need_extra(field: str) -> None:
    if field.startswith("presidio."):
        pytest.importorskip("presidio_analyzer")


def test_every_field_has_a_case() -> None:
    assert fields(MODELS) == CASES.keys() | REFUSED.keys()


@pytest.mark.parametrize("field", CASES)
def test_a_flipped_field_changes_what_comes_out(folder: Path, field: str) -> None:
    need_extra(field)
    case = CASES[field]
    before = case.where(recipe_of(folder, case, flipped=False))
    assert case.where(recipe_of(folder, case, flipped=False)) == before  # or a change would prove nothing
    assert case.where(recipe_of(folder, case, flipped=True)) != before


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_that_contradicts_others_is_refused(folder: Path, field: str) -> None:
    need_extra(field)
    case = REFUSED[field]
    case.where(recipe_of(folder, case, flipped=False))
    with pytest.raises(BessemerError, match=case.path):
        case.where(recipe_of(folder, case, flipped=True))
