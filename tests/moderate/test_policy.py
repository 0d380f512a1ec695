from __future__ import annotations

import os
from pathlib import Path

import pytest

from bessemer.errors import BessemerError
from bessemer.moderate.policy import Policy, load_policy, parse_policy, policy_of, references, store, stored
from tests.moderate.conftest import MARKDOWN, YAML


def test_yaml_and_markdown_are_one_policy(policy: Policy) -> None:
    assert parse_policy(MARKDOWN, where="p.md", markdown=True) == policy
    assert policy.reference == "steel-talk@2" and [r.id for r in policy.rules] == ["no-links", "kind"]
    assert policy.rules[0].read.breaks == ["see https://x.y"]


def test_the_digest_is_of_the_content(policy: Policy) -> None:
    def changed(old: str, new: str) -> str:
        assert old in YAML
        return parse_policy(YAML.replace(old, new), where="p").digest

    same = [("Be kind.", "'  Be\u200b   kind. '"), ("version: 2", "version: 3"), ("name: steel-talk", "name: other")]
    assert {changed(*pair) for pair in same} == {policy.digest}
    reordered = policy.model_copy(update={"rules": policy.rules[::-1]})
    assert Policy.model_validate(reordered.model_dump()).digest == policy.digest
    other = [("Be kind.", "Be nice."), ("0.95", "0.9"), ("[shortened links]", "[]"), ("broken: false", "broken: true"),
             ("action: remove", "action: flag"), ("SteelTalk", "IronTalk"), ("TOXICITY", "INSULT")]  # fmt: skip
    assert len({policy.digest, *(changed(*pair) for pair in other)}) == len(other) + 1


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("name: x\nrules: []", "rules"),
        ("name: x", "rules"),
        ("- a", "mapping"),
        ("name: [", "no valid YAML"),
        ("name: x\nrules: [{id: a, text: ' \u200b '}]", "no text"),
        ("name: x\nrules: [{id: a, text: b}, {id: a, text: c}]", "'a' is the id of rules[0] too"),
        ("name: x\nrules: [{id: 'A b', text: b}]", "rules[0].id"),
        ("name: x\nrules: [{id: a, text: b, precison: 0.9}]", "precision"),
        ("name: x\nrules: [{id: a, text: b, action: ban}]", "remove"),
        ("name: x\nrules: [{id: a, text: b, category: rude}]", "rude"),
        ("name: x\nrules: [{id: a, text: b, precision: 1}]", "precision"),
        ("name: ../x\nrules: [{id: a, text: b}]", "name"),
    ],
)
def test_bad_policies(text: str, what: str) -> None:
    with pytest.raises(BessemerError) as caught:
        parse_policy(text, where="p.yaml")
    assert what in str(caught.value) and "p.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("# Only a title", "no rules"),
        ("## a: b\n- Colour: red", "'- Colour: red' would be read"),
        ("## a: b\n| Excludes | Action |\n|---|---|\n| wiki | remove |", r"'\| Excludes \| Action \|' would be read"),
        ("## a: b\nAction: remove", "'Action: remove' would be read.*\n.*`- Action: remove`"),
        ("## a: b\n- Action: remove\n\nmore text", "'more text' would be read"),
        ("## a: b\n> quoted", "'> quoted' would be read"),
        ("## a: b\n<!-- later -->", "'<!-- later -->' would be read"),
        ("## a: b\n##c: d", "'##c: d' would be read"),
        ("## a: b\n- Precision: much", "precision"),
        ("## a: b\n# Content\n## c: d", "'# Content' would be read as words of the rule 'a'"),
        ("## a: b\n### More\nwords", "'### More' would be read"),
        ("## a: b\n\n---\n", "'---' would be read"),
    ],
)
def test_bad_markdown(text: str, what: str) -> None:
    with pytest.raises(BessemerError, match=what):
        parse_policy("---\nname: x\n---\n" + text, where="p.md", markdown=True)


def test_fields_of_markdown_go_on_in_the_next_line() -> None:
    text = """---
name: x
---
## no-links: Do not
post links.

- Excludes: links to the wiki and
  links to the FAQ; the rules
+ **Action:** remove
* __Breaks__: see
there

## kind: Be kind.
"""
    rules = parse_policy(text, where="p.md", markdown=True).rules
    assert (rules[0].text, rules[0].excludes) == (
        "Do not post links.",
        ["links to the wiki and links to the FAQ", "the rules"],
    )
    assert rules[0].action == "remove" and [e.text for e in rules[0].examples] == ["see there"]
    assert (rules[1].id, rules[1].text, rules[1].excludes) == ("kind", "Be kind.", [])


def test_a_version_that_yaml_reads_as_a_number_is_refused() -> None:
    text = "name: x\nversion: {}\nrules: [{{id: a, text: b}}]\n"
    assert parse_policy(text.format(10), where="p").version == "10"
    assert parse_policy(text.format("2026-11-27"), where="p").version == "2026-11-27"  # a date of YAML
    assert parse_policy(text.format('"1.10"'), where="p").version == "1.10"
    with pytest.raises(BessemerError, match="version.*1.1 is read as a number; put the version in quotes"):
        parse_policy(text.format("1.10"), where="p")


def test_stored_versions_never_change(policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(BessemerError, match="no policy 'steel-talk'"):
        stored("steel-talk")
    store(policy)
    store(parse_policy(MARKDOWN, where="p.md", markdown=True))  # the same content
    with pytest.raises(BessemerError, match="other content"):
        store(parse_policy(YAML.replace("kind.", "nice."), where="p"))
    store(parse_policy(YAML.replace("kind.", "nice.").replace("version: 2", "version: 10"), where="p"))
    assert stored("steel-talk").version == "10" and stored("steel-talk@2") == policy
    assert references() == ["steel-talk@2", "steel-talk@10"]
    for name in ("steel-talk@3", "other", "../steel-talk", "*", "steel-talk@../2"):
        with pytest.raises(BessemerError, match="there is no policy"):
            stored(name)
    assert load_policy("steel-talk@2") == policy
    (tmp_path / "p.md").write_text(MARKDOWN)
    assert load_policy(tmp_path / "p.md") == policy
    store(parse_policy(YAML.replace("version: 2", "version: '10.1'"), where="p"))
    assert load_policy("steel-talk@10.1").version == "10.1"
    with pytest.raises(BessemerError, match="cannot be read"):
        load_policy("absent.yaml")


def test_a_stored_file_that_was_changed_is_refused(policy: Policy) -> None:
    path = store(policy)
    path.write_text(path.read_text().replace("Be kind.", "Be rude."))
    with pytest.raises(BessemerError, match="changed since it was stored"):
        stored("steel-talk")
    store(Policy(name="other", rules=policy.rules))
    assert stored("other").name == "other"  # whose own file is sound
    with pytest.raises(BessemerError, match="other@1, steel-talk@2"):
        stored("another")


def test_the_newest_version_is_the_one_stored_last_whatever_clocks_and_copies_say(policy: Policy) -> None:
    first = store(policy.model_copy(update={"version": "9"}))
    last = store(policy.model_copy(update={"version": "10"}))
    os.utime(last, (1e9, 1e9))  # a clock that went back
    assert stored("steel-talk").version == "10" and references() == ["steel-talk@9", "steel-talk@10"]
    (first.parent.parent / "order.json").unlink()  # as before it was kept: by time
    assert stored("steel-talk").version == "9"


@pytest.mark.parametrize(
    "value", [None, [], "x", {}, {"name": "x", "rules": [{"id": "a"}]}, {"name": "x", "rules": "y"}]
)
def test_json_of_a_request(value: object) -> None:
    with pytest.raises(BessemerError):
        policy_of(value)
