"""The real Presidio with a small real spaCy model, made on the spot."""

from __future__ import annotations

import json
import pickle
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from bessemer.data.curate.pii import Find
from bessemer.data.curate.prepare import prepare
from bessemer.data.curate.steps import PiiStep
from bessemer.data.items import Item
from bessemer.errors import BessemerError
from bessemer.recipe.data_recipe import DataRecipe, Pii, Presidio
from bessemer.recipe.load import parse
from bessemer.track.screen import Screen
from tests.tiny import make_tiny_names

spacy = pytest.importorskip("spacy")
pytest.importorskip("presidio_analyzer")
from bessemer.data.curate import presidio  # noqa: E402 - what follows needs the extra


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_names(tmp_path_factory.mktemp("spacy") / "model")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"the network was asked for {args[:1]}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def settings(model: Path | str, **fields: Any) -> Presidio:
    return Presidio.model_validate({"model": str(model), "entities": {"PERSON": "replace"}} | fields)


def test_names_go_through_the_same_actions_and_counts_as_shapes(model: Path) -> None:
    entities = {"PERSON": "replace", "LOCATION": "flag", "ROBOT": "drop", "URL": "keep"}
    step = PiiStep(Pii(presidio=settings(model, entities=entities)))
    items = [
        Item("a", "Ada Lovelace <ada@math.org> of London called Charles Babbage at +44 20 7946 0958."),
        Item("b", "R2D2 of London"),
        Item("c", "See https://x.org"),
    ]
    out = list(step.run(items))
    assert [i.id for i in out] == ["a", "c"]
    assert out[0].text == "[person] <[email]> of London called [person] at [phone]."
    assert out[0].meta == {"pii": {"location": 1}}
    assert out[1] is items[2]
    assert step.counts.why == {"holds robot": 1}
    assert step.counts.examples["holds robot"] == ["[robot] of [location]"]  # no example names anybody
    assert step.counts.examples["location"] == ["[person] <[email]> of [location] called [person] at [phone]."]
    assert step.counts.did == {"person replaced": 2, "email replaced": 1, "location flagged": 1, "phone replaced": 1}


def test_a_name_over_a_shape_is_found_beside_it(tmp_path: Path) -> None:
    model = make_tiny_names(tmp_path / "m", names={"PERSON": ["Ada ada@math.org Lovelace"]})
    (out,) = PiiStep(Pii(presidio=settings(model))).run([Item("a", "By Ada ada@math.org Lovelace.")])
    assert out.text == "By [person][email][person]."


def test_long_texts_are_read_in_pieces(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presidio, "PIECE", 20)
    text = "x" * 50 + "\nAda Lovelace \n" + "y " * 20 + "\n\nAda Lovelace"
    found = presidio.Names(settings(model)).find(text)
    assert found == [Find(51, 63, "person"), Find(len(text) - 12, len(text), "person")]
    assert "".join(piece for _, piece in presidio._pieces(text)) == text


def test_a_weak_find_follows_the_score(model: Path) -> None:
    """A telephone number is only a .4 for Presidio."""
    text = "call 212-555-0187"
    entities = {"PHONE_NUMBER": "replace"}
    assert presidio.Names(settings(model, entities=entities)).find(text) == []
    assert presidio.Names(settings(model, entities=entities, score=0.3)).find(text) == [Find(5, 17, "phone_number")]


def test_it_travels_to_other_processes(model: Path) -> None:
    names = pickle.loads(pickle.dumps(presidio.Names(settings(model))))  # noqa: S301
    assert names.find("Ada Lovelace") == [Find(0, 12, "person")]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"model": "en_core_web_nowhere"}, "no spaCy model 'en_core_web_nowhere'.*python -m spacy download"),
        ({"model": "EMPTY"}, "no usable spaCy model"),
        ({"model": "NAMELESS"}, "names nothing"),
        ({"language": "de"}, "for 'en' .*the texts are in 'de'"),
        ({"entities": {"PERSONS": "drop"}}, "find no PERSONS.*did you mean PERSON"),
        ({"entities": {"ORGANIZATION": "drop"}}, "find no ORGANIZATION"),  # a usual one, but not of this model
        (
            {"entities": {"EMAIL_ADDRESS": "drop"}},
            "find no EMAIL_ADDRESS.*steps.pii.email",
        ),  # asks the network
    ],
)
def test_what_cannot_be_used_is_refused(model: Path, tmp_path: Path, fields: dict[str, Any], match: str) -> None:
    (tmp_path / "EMPTY").mkdir()
    spacy.blank("en").to_disk(tmp_path / "NAMELESS")
    if (tmp_path / str(fields.get("model"))).is_dir():
        fields = {"model": str(tmp_path / fields["model"])}
    with pytest.raises(BessemerError, match=f"(?s){match}"):
        presidio.ingredients(settings(fields.pop("model", model), **fields))


def test_a_model_for_any_language_needs_one_named(tmp_path: Path) -> None:
    model = make_tiny_names(tmp_path / "m", language="xx")
    with pytest.raises(BessemerError, match="no stated language"):
        presidio.ingredients(settings(model))
    assert presidio.ingredients(settings(model, language="de"))


def test_without_the_extra_the_command_to_install_it_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BessemerError, match=r"presidio_analyzer, which is not installed(.|\n)*'bessemer\[presidio\]'"):
        presidio.ingredients(settings(model))


def test_examples_of_earlier_steps_name_nobody(model: Path, tmp_path: Path) -> None:
    kept = "The furnace was lit before dawn, and the men brought coal, ore and lime from the yard behind the mill."
    rows = [{"text": "Ada Lovelace!"}, {"text": kept}]
    (tmp_path / "posts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = f"{{name: talk, sources: {{posts: {{from: {tmp_path}/posts.jsonl}}}}, steps: {{quality: "
    text += "{mean_line: null, characters: 20}, "
    text += f"pii: {{presidio: {{model: {model}, entities: {{PERSON: replace}}}}}}}}}}"
    made = prepare(parse(DataRecipe, text, where=""), Screen(quiet=True))
    report = (made.folder / "report.json").read_text()
    assert "[person]!" in report and "Lovelace" not in report


def test_another_model_makes_another_version(tmp_path: Path) -> None:
    (tmp_path / "posts.jsonl").write_text('{"text": "Ada Lovelace wrote to Grace Hopper, who lives in London."}\n')
    model = make_tiny_names(tmp_path / "model")
    text = f"{{name: talk, sources: {{posts: {{from: {tmp_path}/posts.jsonl}}}}, steps: {{pii: {{presidio: "
    text += f"{{model: {model}, entities: {{PERSON: replace}}}}}}}}}}"
    first = prepare(parse(DataRecipe, text, where=""), Screen(quiet=True))
    assert first.manifest["steps"][-1]["did"] == {"person replaced": 1}
    presidio._engine.cache_clear()
    make_tiny_names(model, names={"PERSON": ["Ada Lovelace", "Grace Hopper"]})
    second = prepare(parse(DataRecipe, text, where=""), Screen(quiet=True))
    assert second.reference == "talk@2" and second.manifest["steps"][-1]["did"] == {"person replaced": 2}
    assert not prepare(parse(DataRecipe, text, where=""), Screen(quiet=True)).new
