"""The model card: front matter that parses, honest limits, and text that cannot break out."""

from __future__ import annotations

import ast
import copy
import re
from typing import Any

import pytest
import yaml

from bessemer.registry.card import build_card, fenced, plain
from tests.registry import example
from tests.registry.test_report import HOSTILE, leaves, poison


def parts() -> list[Any]:
    return [example.make_lineage(), example.make_scorecard(), example.make_plan()]


def split(card: str) -> tuple[dict[str, Any], str]:
    """(front matter, Markdown)."""
    _, front, body = re.split(r"^---\n", card, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(front), body


def test_front_matter_is_what_the_hub_reads() -> None:
    front, body = split(build_card(*parts()))
    assert front["license"] == "apache-2.0" and front["library_name"] == "transformers"
    assert front["pipeline_tag"] == "text-generation" and "bessemer" in front["tags"]
    assert "base_model" not in front  # the base came from a package: no hub id is claimed
    assert body.lstrip().startswith("# house-rules@3")


def test_base_model_only_for_a_base_from_the_hub() -> None:
    manifest, card, plan = parts()
    manifest["base"] |= {"name": "org/small-1B", "origin": "hub org/small-1B at commit 0123abcd", "licence": "unknown"}
    front, _ = split(build_card(manifest, card, plan))
    assert front["base_model"] == "org/small-1B"
    assert front["license"] == "other" and front["license_name"] == "unknown"
    manifest["base"]["origin"] = "folder /models/small"
    assert "base_model" not in split(build_card(manifest, card, plan))[0]


def test_card_says_what_was_not_learnt() -> None:
    _, body = split(build_card(*parts()))
    limits = body.split("## Results")[0]
    assert "new-rule: not shown to be better than chance: 0.55" in limits
    assert "capitals" in limits and "did not pass" not in limits


@pytest.mark.parametrize("word", ["HOLD", "REJECT"])
def test_card_of_a_failed_run_warns(word: str) -> None:
    manifest, card, plan = parts()
    card["verdict"] = {"word": word, "reasons": ["forgot topics"]}
    card["probes"]["topics"]["change"] = example.ends(0.03, 0.001)
    _, body = split(build_card(manifest, card, plan))
    assert f"**Verdict: {word}**" in body and "did not pass its own gates" in body
    assert "topics: retention over the budget (change in bits per byte +3.00 % (+2.90 to +3.10))" in body


def test_numbers_digests_and_commands_are_there() -> None:
    _, body = split(build_card(*parts()))
    results = ("0.91 (0.89 to 0.94)", "+0.33 % (+0.14 to +0.52)", "228,600", "325,120 in all")
    rest = ("bessemer serve house-rules@3", "No phones, cameras or players.")
    for words in (*results, *rest, example.digest("rules"), example.digest("base")):
        assert words in body
    (code,) = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    ast.parse(code)


def test_card_is_deterministic_and_changes_with_its_numbers() -> None:
    manifest, card, plan = parts()
    before = build_card(manifest, card, plan)
    assert before == build_card(*parts())
    for path in leaves({k: card["tasks"]["trained-rules"][k] for k in ("before", "after", "change")}):
        changed = copy.deepcopy(card)
        holder = changed["tasks"]["trained-rules"]
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] += 0.02
        assert build_card(manifest, changed, plan) != before, path


def test_hostile_text_breaks_neither_yaml_nor_tables_nor_fences() -> None:
    bad = HOSTILE + "\n---\n# Heading\n| cell | ``` ````"
    manifest, card, plan = (poison(p) for p in parts())
    card["samples"][0]["messages"] = [{"role": bad, "content": bad}]
    card["verdict"]["reasons"] = [bad]
    manifest["name"] = bad
    text = build_card(manifest, card, plan)
    text.encode("utf-8")
    front, body = split(text)
    assert front["license"] == "other"
    outside = re.sub(r"^(`{3,})[^\n]*\n.*?^\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside and "https://" not in outside
    assert "\n# Heading" not in outside
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} <= {4, 7}


def test_fences_are_longer_than_the_text_and_plain_is_one_line() -> None:
    assert fenced("a ```` b").startswith("`````\n")
    assert "\n" not in plain("a\nb\r\nc") and plain("*x*|<b>") == r"\*x\*\|&lt;b&gt;"


def test_missing_parts_do_not_crash() -> None:
    front, body = split(build_card({}, {}, {}))
    assert front["license"] == "other"
    for words in ("No task was measured", "Nothing was measured", "No source is recorded", "No sample was recorded"):
        assert words in body
    whole = parts()
    for i, part in enumerate(whole):
        for key in part:
            less = copy.deepcopy(whole)
            del less[i][key]
            split(build_card(*less))
            less[i][key] = None
            split(build_card(*less))
