"""Python as the command line: the tiny story, and the examples of the module's docstring as they stand."""

from __future__ import annotations

import doctest
import math
from pathlib import Path

import pytest

import bessemer
from bessemer import api
from bessemer.data.items import Message
from bessemer.errors import BessemerError, RecipeError
from bessemer.infer.score import option_logprobs
from bessemer.registry.store import StoredRelease
from tests.story import write_story
from tests.tiny import make_tiny_release


@pytest.fixture
def story(tmp_path: Path, tiny_model: Path) -> Path:
    return write_story(tmp_path / "story", tiny_model)


@pytest.fixture
def release(tiny_model: Path, bessemer_home: Path) -> bessemer.Release:
    make_tiny_release(tiny_model, bessemer_home)
    return bessemer.Release("tiny@1")


def test_the_docstring_s_examples_work(story: Path) -> None:
    """Every example is executed, with the story in place of the demo; the expected output is compared."""
    examples = doctest.DocTestParser().get_examples(api.__doc__ or "")
    assert len(examples) == 6
    names: dict[str, object] = {}
    for example in examples:
        source = example.source.partition("# doctest:")[0].strip()
        source = source.replace("recipes/demo.yaml", str(story)).replace("house-rules", "story")
        if source.startswith("bessemer.Release("):
            assert isinstance(eval(source, names), str)  # noqa: S307
        elif example.want:
            assert repr(eval(source, names)) == example.want.strip()  # noqa: S307
        else:
            exec(source, names)  # noqa: S102
    plan, result = names["plan"], names["result"]
    assert isinstance(plan, api.LoadedPlan) and plan.values["recipe"]["seed"] == 2
    found = getattr(result, "release")  # noqa: B009 - typed as object here
    assert isinstance(found, StoredRelease) and found.manifest["plan_identity"] == plan.values["identity"]
    opened = bessemer.Release("story@1")
    assert (opened.reference, opened.digest, opened.path) == (found.reference, found.digest, found.path)


def test_a_plan_can_be_measured(story: Path) -> None:
    values = bessemer.load_recipe(story, quiet=True).plan(measure=True).values
    assert len(values["estimate"]["step_seconds"]) == 2 and values["estimate"]["minutes"] >= 0


def test_mistakes_are_exceptions(story: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        bessemer.load_recipe(story, ["retain=2", "nmae=x"])
    assert {p.where for p in caught.value.problems} == {"retain", "nmae"}
    with pytest.raises(BessemerError, match="there is no release"):
        bessemer.Release("none@1")


def test_generate_and_score(release: bessemer.Release) -> None:
    conversation = [{"role": "system", "content": "Answer yes or no."}, {"role": "user", "content": "Is it steel?"}]
    text = release.generate(conversation, max_tokens=8)
    assert text == release.generate(conversation, max_tokens=8)  # greedy
    drawn = {release.generate("Is it?", max_tokens=12, temperature=5.0, seed=n) for n in range(4)}
    assert len(drawn) > 1
    assert release.generate("Is it?", max_tokens=12, temperature=5.0, seed=1) in drawn

    scores = release.score(conversation, ["yes", "no"])
    assert list(scores) == ["yes", "no"] and 0 < sum(map(math.exp, scores.values())) < 1
    asked = [Message(m["role"], m["content"]) for m in conversation]
    yes, no = option_logprobs(release.loaded, [asked], ["yes", "no"])[0].tolist()
    assert scores == {"yes": yes, "no": no} and yes != no


def test_a_changed_byte_is_found_before_anything_is_loaded(tiny_model: Path, bessemer_home: Path) -> None:
    weights = make_tiny_release(tiny_model, bessemer_home) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BessemerError, match="its bytes changed"):
        bessemer.Release("tiny@1")


def test_unknown_names_of_the_package() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        _ = bessemer.trane  # pyright: ignore[reportAttributeAccessIssue]
