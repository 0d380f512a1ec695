"""Logs become twins: who is under which rule, what is held out, what is refused."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from bessemer.data.curate.near import near_duplicates
from bessemer.data.items import Item
from bessemer.data.moderation import Comment, RuleText
from bessemer.data.rule_families import families
from bessemer.data.sources import read_items
from bessemer.errors import BessemerError
from bessemer.moderate.blind import Blind, blind_baselines
from bessemer.moderate.build import (
    TOGETHER,
    Built,
    Key,
    _all_twins,
    _alternating,
    _computed,
    _ingredients,
    _items,
    _logged,
    _named,
    _refuse_leaks,
    build,
)
from bessemer.moderate.logs import Case, _cases, final, read_cases
from bessemer.moderate.policy import policy_of
from bessemer.moderate.pool import Pooled, _complete, pool
from bessemer.recipe.load import load
from bessemer.recipe.moderation_recipe import Log, ModerationRecipe
from bessemer.rewards.rules import rule_reward
from bessemer.track.screen import Screen
from tests.moderate.logs import RULES, log_rows, write_recipe, write_rows
from tests.tiny import WORDS

SPLITS = ("train", "validation", "test", "new-wordings", "new-rules", "validation-rules")


def made(path: Path, *overrides: str) -> tuple[Built, dict[str, list[Item]]]:
    built = build(load(ModerationRecipe, path, overrides), Screen(quiet=True))
    parts = dict.fromkeys(built.report["splits"], "chat") | {"texts": "documents"}
    address = f"dataset:{built.prepared.reference}/"
    return built, {name: read_items(address + name, kind=kind, where=name) for name, kind in parts.items()}


def recipe_of(**split: Any) -> ModerationRecipe:
    return ModerationRecipe.model_validate({"name": "town", "logs": {"town": {"from": "x.jsonl"}}, "split": split})


def comment_of(item: Item) -> str:
    lines = item.messages[1].content.split("\n")
    return next(line.removeprefix("Comment: ") for line in lines if line.startswith("Comment: "))


def rule_of(item: Item) -> str:
    lines = item.messages[1].content.split("\n")
    return next(line.removeprefix("Rule: ") for line in lines if line.startswith("Rule: "))


def test_every_comment_has_both_answers_and_every_rule_too(tmp_path: Path) -> None:
    built, parts = made(write_recipe(tmp_path))
    for name in SPLITS:
        groups: dict[str, list[Item]] = defaultdict(list)
        for item in parts[name]:
            groups[item.id.rpartition(":")[0]].append(item)
        for twins in groups.values():
            assert sorted(i.messages[-1].content for i in twins) == ["no", "yes"]
            assert len({comment_of(i) for i in twins}) == 1 and len({rule_of(i) for i in twins}) == 2
        rules: dict[Any, Counter[str]] = defaultdict(Counter)
        for i in parts[name]:
            of = i.meta["community"] if i.meta["truth"] == "log" else ""
            rules[of, i.meta["rule"]][i.messages[-1].content] += 1
        assert all(abs(n["yes"] - n["no"]) <= max(1, 0.04 * n.total()) for n in rules.values())
        blind = built.report["splits"][name]["blind"]
        assert blind["comment_only"]["value"] == pytest.approx(0.5) and blind["rule_only"]["low"] < 0.55
    assert {i.meta["truth"] for i in parts["train"]} == {"log", "code"}
    assert set(RULES.values()) <= {i.meta["rule"] for i in parts["train"]}


def test_in_training_twins_of_one_comment_share_a_row_elsewhere_each_is_measured_alone(tmp_path: Path) -> None:
    _, parts = made(write_recipe(tmp_path), "per_comment=5")
    for name in SPLITS:
        groups: dict[str, list[Item]] = defaultdict(list)
        for item in parts[name]:
            groups[item.group].append(item)
        assert {len({i.meta["comment"] for i in own}) for own in groups.values()} == {1}
        assert {len(own) for own in groups.values()} == ({2, 2 * TOGETHER} if name == "train" else {2})
        assert len(set(groups)) * 2 == len(parts[name]) or name == "train"


def comments_under(rule: Key) -> list[Pooled]:
    """20 that break it and 180 that keep it, and no other rule."""

    def comment(i: int) -> Pooled:
        text = f"{'slag' if i < 20 else 'wool'} and nothing else, number {i}{'!?'[i % 2]}"
        mine: dict[str, set[Key]] = {"broken": {rule}} if i < 20 else {"kept": {rule}}
        return Pooled(
            str(i),
            Comment(text, community="mill"),
            text,
            "train",
            True,
            mine.get("broken", set()),
            mine.get("kept", set()),
        )

    return [comment(i) for i in range(200)]


def test_what_is_held_out_does_not_depend_on_how_often_a_removal_is_taught() -> None:
    comments = comments_under(("mill", "no-slag"))

    def twins(per_comment: int, *, taught: bool) -> list[Any]:
        values = {"name": "mill", "logs": {"mill": {"from": "log.jsonl"}}, "per_comment": per_comment}
        recipe = ModerationRecipe.model_validate(values)
        return _all_twins(comments, ["exclamation", "questions"], recipe, 20, random.Random(1), taught=taught)

    assert twins(1, taught=False) == twins(9, taught=False)
    assert 0 < len(twins(1, taught=True)) < len(twins(9, taught=True))


def test_a_community_with_one_rule_gets_as_many_kept_cases_as_broken_ones() -> None:
    """Only approved comments keep such a rule, so they are not limited to their share beside removed ones."""
    rule: Key = ("mill", "no-slag")
    comments = comments_under(rule)
    yes, no = Counter[Key](), Counter[Key]()
    twins = list(_logged(comments, ["exclamation", "questions"], 3, random.Random(1), yes, no))
    assert yes[rule] == no[rule] == 60
    assert Counter(key for _, key, _ in twins) == yes and Counter(key for _, _, key in twins) == no
    approved = [c.id for c, _, kept in twins if kept == rule]
    assert len(set(approved)) == 60  # each once


@pytest.mark.parametrize("column", ["appeal", "rule", "time"])
def test_a_column_that_no_row_has_is_an_error(tmp_path: Path, column: str) -> None:
    with pytest.raises(
        BessemerError, match="logs.log.columns: no row has a column 'slip'\n  fix: they have id, community"
    ):
        made(write_recipe(tmp_path), f"logs.log.columns.{column}=slip")


def test_another_name_of_a_policy_makes_another_data_set(tmp_path: Path) -> None:
    """Where a policy names no community, its name says whose rules it words."""
    recipe = load(ModerationRecipe, write_recipe(tmp_path))
    rules = [{"id": "a", "text": "Be kind."}]
    one, other = (_ingredients(recipe, [], [policy_of({"name": n, "rules": rules})]) for n in ("board", "forum"))
    assert one != other


def test_answers_are_true(tmp_path: Path) -> None:
    _, parts = made(write_recipe(tmp_path))
    words = {rule: word for word, rule in RULES.items()}
    n_log = 0
    for item in (i for name in SPLITS for i in parts[name]):
        answer = item.messages[-1].content
        if item.meta["truth"] == "code":
            assert rule_reward(item, answer) == 1.0
        else:
            n_log += 1
            assert (words[item.meta["rule"]] in re.findall("[a-z]+", comment_of(item).lower())) == (answer == "yes"), (
                item
            )
    assert n_log > 200


def test_named_words_are_trained_only(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    rng, rare = random.Random(1), [f"{a}{b}rd" for a in "bcdfghjklmnp" for b in "aeiou"]
    texts = [{"text": " ".join([*rng.sample(WORDS, 5), *rng.sample(rare, 2)])} for _ in range(300)]
    write_rows(tmp_path / "comments.jsonl", texts)
    built, parts = made(path, "computed.named=80")
    named = {
        name: [i for i in items if str(i.meta.get("rule", "")).startswith("word:")] for name, items in parts.items()
    }
    assert {name for name, items in named.items() if items} == {"train"} and len(named["train"]) > 100
    for item in named["train"]:
        assert rule_reward(item, item.messages[-1].content) == 1.0
    assert 0.2 < sum("+" in str(i.meta["rule"]) for i in named["train"]) / len(named["train"]) < 0.6
    yes, no = built.report["splits"]["train"]["rules"]["a named word"]
    assert yes == no == len(named["train"]) // 2


def test_hard_and_usual_cases_in_turn() -> None:
    hard, usual = (
        [Pooled(f"{kind}{i}", Comment("x"), "x", "train", True) for i in range(n)] for kind, n in (("h", 2), ("u", 4))
    )
    assert [c.id for c in _alternating(hard, usual)] == ["h0", "u0", "h1", "u1", "u2", "u3"]


def case(comment: str, rule: str, *, broken: bool, **log: Any) -> Any:
    values = {"id": "1", "text": comment, "rule": rule, "action": "removed" if broken else "approved", **log}
    about = Log.model_validate({"from": "x", "rule": "spam"})
    (found,) = _cases("c", {k: v for k, v in values.items() if v}, comment, about, "town", "x:1", False)
    return found


def test_an_approval_in_a_log_about_one_rule_is_no_report_that_was_turned_down() -> None:
    assert not case("hello", "", broken=False).hard and case("hello", "spam", broken=False).hard
    assert case("hello", "", broken=True, decision="approved").hard


def test_a_granted_appeal_keeps_the_rule_whether_or_not_the_decision_knows_of_it() -> None:
    for decision in ("", "removed", "approved"):
        assert not case("hello", "spam", broken=True, decision=decision, appeal="overturned").broken
    assert case("hello", "spam", broken=True, appeal="upheld").broken


def read(path: Path, *rows: dict[str, Any], **log: Any) -> tuple[list[Case], Counter[str]]:
    write_rows(path, [{"id": i, "text": f"see there {i}", **row} for i, row in enumerate(rows)])
    skipped = Counter[str]()
    return list(read_cases("log", Log.model_validate({"from": str(path), **log}), skipped)), skipped


def test_a_row_may_name_several_rules(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    cases, _ = read(path, {"rule": ["spam", "insult", "spam"], "action": "removed"}, {"rule": [], "action": "removed"})
    assert [(c.id, c.rule, c.broken) for c in cases] == [
        ("log:0", "spam", True), ("log:0", "insult", True), ("log:1", "", True)
    ]  # fmt: skip
    row = {"rule": "spam; insult;", "action": "removed"}
    assert [c.rule for c in read(path, row)[0]] == ["spam; insult;"]
    assert [c.rule for c in read(path, row, separator=";")[0]] == ["spam", "insult"]
    for wrong in ({"id": "spam"}, [["spam"]]):
        with pytest.raises(BessemerError, match="log.jsonl:1.*the rule is no text and no list of texts"):
            read(path, {"rule": wrong, "action": "removed"})
    pooled = pool(cases, recipe_of().split, others_kept=True, seed=1, left_out=Counter())
    (comment,) = [c for c in pooled if c.text == "see there 0"]
    assert {rule for _, rule in comment.broken} == {"spam", "insult"} and not comment.kept


def test_actions_that_say_nothing_of_a_comment_are_left_out(tmp_path: Path) -> None:
    rows = ({"rule": "spam", "action": action} for action in ("removecomment", "lock", "Distinguish", "approvecomment"))
    cases, skipped = read(tmp_path / "log.jsonl", *rows, removed=["removecomment"], ignored=["lock", "distinguish"])
    assert [(c.id, c.broken) for c in cases] == [("log:0", True), ("log:3", False)] and list(skipped.values()) == [2]
    for appeal in ("pending", "N/A", "open", "false"):
        (found,), _ = read(tmp_path / "log.jsonl", {"rule": "spam", "action": "removed", "appeal": appeal})
        assert found.broken and not found.appealed
    (found,), _ = read(tmp_path / "log.jsonl", {"rule": "spam", "decision": "approved"})
    assert (found.broken, found.hard) == (False, True)
    with pytest.raises(BessemerError, match="the row has no action"):
        read(tmp_path / "log.jsonl", {"rule": "spam"})


def test_a_column_of_another_meaning_is_not_read(tmp_path: Path) -> None:
    row = {"rule": "spam", "action": "removed", "group": "premium", "time": "27/11/2026 17:23"}
    with pytest.raises(BessemerError, match="log.jsonl:1"):
        read(tmp_path / "log.jsonl", row)
    (found,), _ = read(tmp_path / "log.jsonl", row, columns={"group": None, "time": None})
    assert (found.group, found.time) == ("", None)
    row = {"rule": "spam", "action": "removed", "policy": "strict"}  # a level, not whose rules they are
    for columns, named in (({}, "strict"), ({"policy": None}, "log")):
        assert read(tmp_path / "log.jsonl", row, columns=columns)[0][0].comment.community == named


def test_a_rule_has_one_name_whether_a_log_names_or_quotes_it(tmp_path: Path) -> None:
    """Else a comment would break a rule under one name and keep it under the other."""
    path = write_recipe(tmp_path, 300)
    rows = log_rows(300)
    for i, row in enumerate(rows):  # half of the rows quote the rule, some in other letters
        if row["reason"] and i % 2:
            word = next(w for w, rule in RULES.items() if rule == row["reason"])
            row["reason"] = f"Nothing about {word}." if i % 4 == 1 else f"NOTHING  about {word}."
    write_rows(tmp_path / "log.jsonl", rows)
    built, parts = made(path)
    own = {i.meta["rule"] for i in parts["train"] if i.meta["truth"] == "log" and i.meta["community"] == "forge"}
    assert own == {*RULES.values()}
    mill = [r for r in built.report["unworded"] if r.startswith("mill: ")]
    assert built.report["unworded"] == mill and len(mill) == 8  # no policy words the mill's: by id, and as quoted
    first = next(r["reason"] for r in rows if r["community"] == "mill" and "about slag" in r["reason"])
    assert f"mill: {' '.join(first.split())}" in mill  # as it was written first


def test_a_community_that_rows_name_is_named_whatever_its_policy_is_called(tmp_path: Path) -> None:
    """Clients of that community name it, too; of an appeal to a policy without a community nobody does."""
    path = write_recipe(tmp_path, 300)
    (tmp_path / "policy.yaml").write_text((tmp_path / "policy.yaml").read_text().replace("community: forge\n", ""))
    for community, named in (("forge", True), ("", False)):
        rows = log_rows(300)
        write_rows(tmp_path / "log.jsonl", [{**r, "community": community, "policy": "forge"} for r in rows])
        built, parts = made(path)
        asked = [i.messages[1].content for i in parts["train"] if i.meta["truth"] == "log"]
        assert asked and all(("Community: forge" in text) == named for text in asked)
        assert not built.report["unworded"] and all("Nothing about" in text for text in asked)


def test_an_approval_that_names_a_rule_tells_nothing_of_the_others() -> None:
    rules = {"town": {("town", "ads"), ("town", "insults")}}
    kept = {}
    for name, broken, known in (("named", set(), {("town", "ads")}), ("plain", set(), {("town", "")}),
                                ("removed", {("town", "ads")}, set())):  # fmt: skip
        comment = Pooled(name, Comment("x", community="town"), "x", "train", True, broken, known)
        _complete(comment, rules, True)
        kept[name] = {rule for _, rule in comment.kept}
    assert kept == {"named": {"ads"}, "plain": {"ads", "insults"}, "removed": {"insults"}}


def test_a_rule_about_which_rows_disagree_is_neither_broken_nor_kept() -> None:
    said = [("ads", True), ("ads", False), ("insults", True)]
    rows = [Case(str(i), Comment("x", community="town"), "x", rule, broken) for i, (rule, broken) in enumerate(said)]
    (comment,) = pool(rows, recipe_of().split, others_kept=True, seed=1, left_out=Counter())
    other = Pooled("y", Comment("y", community="town"), "y", "train", True, {("town", "ads")})
    _complete(comment, {"town": {("town", "ads"), ("town", "insults"), *other.broken}}, True)
    assert comment.broken == {("town", "insults")} and comment.kept == set()


def test_comments_alike_of_two_communities_keep_each_its_own_rules() -> None:
    """Removed in one, approved without a rule in the other: what is not said of a rule must not become a rule."""
    rows = [
        Case("a", Comment("buy my hat", community="town"), "buy my hat", "ads", True),
        Case("b", Comment("buy my hat", community="mall"), "buy my hat", "", False),
        Case("c", Comment("you fool", community="mall"), "you fool", "insults", True),
    ]
    left_out: Counter[str] = Counter()
    (both, _) = pool(rows, recipe_of().split, others_kept=True, seed=1, left_out=left_out)
    assert both.broken == {("town", "ads")} and both.kept == {("mall", "insults")}
    twins = [(both, ("town", "ads"), ("mall", "insults"))]
    items = _items("train", twins, lambda key, _: RuleText(key[1]), random.Random(1), ())
    assert ["Community: town" in i.messages[1].content for i in items] == [True, False]
    assert [i.meta["community"] for i in items] == ["town", "mall"]


@pytest.mark.parametrize("appeal", ["", "none"])
def test_no_appeal_is_no_ruling(appeal: str) -> None:
    """A column that says so must not outweigh an appeal that was granted."""
    first, granted = (case("hello", "spam", broken=True, appeal=a) for a in (appeal, "granted"))
    assert [c.broken for c in final([first, granted])] == [False]


@pytest.mark.parametrize(
    ("split", "counts"),
    [
        ({"test_from": "2026-01-01T00:08:20Z"}, [40, 10, 50]),  # half of them; a tenth of all before it is validation
        ({"validation": 0.2, "test": 0.1}, [70, 20, 10]),
        ({"validation_from": "2026-01-01T00:05:00Z", "test_from": "2026-01-01T00:08:20Z"}, [30, 20, 50]),
    ],
)
def test_the_test_is_the_latest(split: dict[str, Any], counts: list[int]) -> None:
    rows = [Case(str(i), Comment("x"), f"w{i} v{i}", time=1767225600.0 + 10 * i) for i in range(100)]
    found = pool(rows, recipe_of(by="time", **split).split, others_kept=True, seed=1, left_out=Counter())
    sides = [c.side for c in sorted(found, key=lambda c: int(c.id))]
    assert [sides.count(s) for s in ("train", "validation", "test")] == counts
    assert sides == sorted(sides, key=("train", "validation", "test").index)


def test_validation_does_not_begin_with_the_test() -> None:
    rows = [Case(str(i), Comment("x"), f"w{i} v{i}", time=1767225600.0 + 10 * i) for i in range(100)]
    split = recipe_of(by="time", validation_from="2026-01-01T00:16:00Z").split
    with pytest.raises(BessemerError, match="validation begins at 2026-01-01T00:16:00.*, the test at 2026-01-01T00:14"):
        pool(rows, split, others_kept=True, seed=1, left_out=Counter())


def test_wordings_and_families_that_are_held_out(tmp_path: Path) -> None:
    _, parts = made(write_recipe(tmp_path))
    last = {f.wordings[-1] for f in families().values()}
    code = {name: [i for i in parts[name] if i.meta["truth"] == "code"] for name in SPLITS}
    assert not {rule_of(i) for i in code["train"]} & last
    assert {rule_of(i) for i in parts["new-wordings"]} <= last
    trained, unseen = ({i.meta["rule"] for i in code[name]} for name in ("train", "new-rules"))
    assert not trained & unseen and len(trained) > 15
    chosen_on = {i.meta["rule"] for i in code["validation-rules"]}
    assert chosen_on and not chosen_on & (trained | unseen | {i.meta["rule"] for i in code["validation"]})
    of = {name: {i.meta["comment"] for i in parts[name]} for name in SPLITS}
    assert not of["validation-rules"] & (of["train"] | of["test"] | of["new-rules"])
    assert {i.meta["rule"] for i in parts["new-wordings"]} <= trained
    policy_texts = {f"Nothing about {word}." for word in RULES}
    logged = {rule_of(i) for i in parts["train"] if i.meta["truth"] == "log"}
    assert logged & policy_texts == policy_texts and logged - policy_texts == set(
        RULES.values()
    )  # of the other community


@pytest.mark.parametrize(("taught", "share"), [(False, 0.5), (True, 0.75)])
def test_rules_about_shape_are_taught_more_often(taught: bool, share: float) -> None:
    texts = [f"I love number {i}, really" for i in range(200)]
    comments = [Pooled(t, Comment(t), t, "train", False, set(), set()) for t in texts]
    recipe = ModerationRecipe.model_validate({"name": "x", "comments": {"a": {"from": "a.jsonl"}}})
    twins = _computed(comments, ["love", "commas", "films"], recipe, 120, random.Random(1), taught=taught)
    assert len(twins) == 120
    assert sum(broken[1] == "commas" for _, broken, _ in twins) / 120 == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(("taught", "fewest", "most"), [(True, 0.8, 1), (False, 0, 0.6)])
def test_too_few_is_taught_beside_too_many(taught: bool, fewest: float, most: float) -> None:
    texts = [f"{'so ' * (i % 21)}number {i}" for i in range(300)]
    comments = [Pooled(t, Comment(t), t, "train", False, set(), set()) for t in texts]
    recipe = ModerationRecipe.model_validate({"name": "x", "comments": {"a": {"from": "a.jsonl"}}})
    words = [name for name, f in families().items() if f.about_words][:40]
    rules = ["characters-least-40", "characters-most-40", "numbers", *words]
    twins = _computed(comments, rules, recipe, 200, random.Random(1), taught=taught)
    counted = [(b[1], k[1]) for _, b, k in twins if b[1].startswith("characters")]
    beside = sum(kept.startswith("characters") for _, kept in counted)
    assert len(counted) > 10 and fewest <= beside / len(counted) <= most


def test_nothing_like_a_held_out_comment_is_trained_on(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    rows = log_rows(500)
    copies = [{**r, "id": f"c{i}", "body": r["body"] + " indeed", "group": ""} for i, r in enumerate(rows[:200])]
    write_rows(tmp_path / "log.jsonl", rows + copies)
    _, parts = made(path)
    train = {comment_of(i) for i in parts["train"]} | {i.text for i in parts["texts"]}
    held = {comment_of(i) for name in SPLITS[1:] for i in parts[name]}
    texts = [*train, *held]
    labels = near_duplicates(texts, jaccard=0.8, words=2)
    assert not set(labels[: len(train)].tolist()) & set(labels[len(train) :].tolist())


def test_by_time_the_latest_comments_are_held_out(tmp_path: Path) -> None:
    built, parts = made(write_recipe(tmp_path), "split.by=time", "split.test_from=2026-10-01", "comments={}")
    month = {f"log:{r['id']}": int(r["time"][5:7]) for r in log_rows(500)}
    months = {name: {month[i.meta["comment"]] for i in parts[name]} for name in ("train", "validation", "test")}
    assert max(months["train"]) <= min(months["validation"]) <= max(months["validation"]) < 10 <= min(months["test"])
    with pytest.raises(BessemerError, match="no time"):
        made(write_recipe(tmp_path), "split.by=time", "logs.log.columns.time=when")
    assert built.prepared.new
    with pytest.raises(BessemerError, match="split.by: no row has a time"):
        made(write_recipe(tmp_path), "split.by=time", "logs={}")


def test_a_community_that_is_held_out(tmp_path: Path) -> None:
    _, parts = made(write_recipe(tmp_path, 700), "split.communities=[mill]")
    assert {i.meta["community"] for i in parts["new-communities"]} == {"mill"}
    assert all(i.meta.get("community", "forge") == "forge" for name in SPLITS for i in parts[name])
    with pytest.raises(BessemerError, match="'mil'"):
        made(write_recipe(tmp_path), "split.communities=[mil]")


def test_an_appeal_that_was_granted_is_a_kept_rule(tmp_path: Path) -> None:
    _, parts = made(write_recipe(tmp_path))
    granted = {f"log:{r['id']}": r["reason"] for r in log_rows(500) if r.get("appeal")}
    found = [i for i in parts["train"] if i.meta["comment"] in granted and i.meta["truth"] == "log"]
    assert len(found) > 20 and {i.messages[-1].content for i in found} == {"no"}


@pytest.mark.parametrize(
    ("rows", "broken"),
    [
        ([(True, False, 1.0), (False, False, 2.0)], {False}),  # the latest word
        ([(True, False, 3.0), (False, True, 2.0)], {False}),  # an appeal is the last instance
        ([(False, True, 1.0), (True, True, 2.0)], {True}),  # its second ruling
        ([(True, False, None), (False, False, 2.0)], {True, False}),  # nobody knows which came first
        ([(True, False, 1.0), (True, True, 2.0)], {True}),
    ],
)
def test_where_rows_disagree_the_final_word_counts(
    rows: list[tuple[bool, bool, float | None]], broken: set[bool]
) -> None:
    cases = [Case(str(i), Comment("x"), "x", "kind", b, appealed=a, time=t) for i, (b, a, t) in enumerate(rows)]
    assert {case.broken for case in final(cases)} == broken


def test_a_log_s_own_name_is_no_community_that_anyone_names(tmp_path: Path) -> None:
    """It says whose policy is meant; where comments are judged, nobody writes it."""
    rows = [{k: v for k, v in row.items() if k != "community"} for row in log_rows(300)]
    for community, named in (("", False), ("community: forge\n", True)):
        folder = tmp_path / str(named).lower()
        folder.mkdir()
        write_rows(folder / "log.jsonl", rows)
        rules = "".join(f"  - {{id: {rule}, text: Nothing about {word}.}}\n" for word, rule in RULES.items())
        (folder / "forge.yaml").write_text(f"name: forge\n{community}rules:\n{rules}")
        (folder / "data.yaml").write_text(
            f"name: {folder.name}-set\npolicies: ['{folder}/forge.yaml']\ncomputed: {{twins: 300, held_out: 40}}\n"
            f"logs: {{forge: {{from: '{folder}/log.jsonl', columns: {{text: body, rule: reason}}}}}}\n"
        )
        _, parts = made(folder / "data.yaml")
        shown = {"Community: forge" in i.messages[1].content for i in parts["train"]}
        assert shown == {named} and {i.meta["community"] for i in parts["train"]} == {"forge"}


def test_rows_that_disagree_and_removals_without_a_reason(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    torn = [{"id": f"x{i}", "body": "the same words here again and again?", "reason": "no-iron", "community": "forge",
             "action": a} for i, a in enumerate(["remove", "approve"])]  # fmt: skip
    unnamed = [
        {"id": f"u{i}", "body": f"{row['body']} unnamed {i}", "community": "forge", "action": "remove"}
        for i, row in enumerate(log_rows(60, seed=9))
    ]
    gone = [{"id": "g", "body": "[removed]", "reason": "no-iron", "action": "remove", "community": "forge"}]
    write_rows(tmp_path / "log.jsonl", log_rows(500) + torn + unnamed + gone)
    built, parts = made(path)
    assert built.report["left_out"]["rows disagree about a rule"] == 1
    assert built.report["left_out"]["no text (deleted, or nothing to see)"] == 1
    logged = {i.meta["comment"] for name in SPLITS for i in parts[name] if i.meta["truth"] == "log"}
    assert not logged & {f"log:u{i}" for i in range(60)}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"body": "x y", "action": "ponder"}, "'ponder' is no action"),
        ({"body": "x y"}, "no action"),
        ({"body": "x y", "action": "remove", "appeal": "perhaps"}, "no outcome of an appeal"),
        ({"body": "x y", "action": "remove", "time": "soon"}, "no time"),
    ],
)
def test_rows_that_say_nothing_clear_are_refused_with_their_line(
    tmp_path: Path, row: dict[str, Any], what: str
) -> None:
    path = write_recipe(tmp_path)
    write_rows(tmp_path / "log.jsonl", [*log_rows(20), row])
    with pytest.raises(BessemerError, match=what) as caught:
        made(path)
    assert "log.jsonl:21" in str(caught.value)


def test_the_same_command_makes_nothing_new_and_a_change_makes_a_version(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    first, _ = made(path)
    again, _ = made(path)
    other, _ = made(path, "seed=2")
    assert (first.prepared.new, again.prepared.new, other.prepared.new) == (True, False, True)
    assert (again.prepared.reference, other.prepared.reference) == ("forge-rules@1", "forge-rules@2")
    assert again.report == first.report


def test_baselines_find_what_can_be_guessed() -> None:
    rng = random.Random(1)
    groups = [f"g{i // 2}" for i in range(400)]
    broken = [i % 2 == 0 for i in range(400)]
    comments = [f"comment {rng.random()}" for _ in range(200) for _ in range(2)]
    rules = [rng.choice(["no iron", "no steel", "no coal"]) for _ in range(400)]
    fair = blind_baselines(comments, rules, broken, groups)
    assert fair.leaks(0.55) == [] and fair.comment_only and fair.comment_only.value == pytest.approx(0.5, abs=0.05)
    telling = [f"{r} {'always' if b else 'never'}" for r, b in zip(rules, broken, strict=True)]
    by_rule = blind_baselines(comments, telling, broken, groups)
    assert by_rule.rule_only and by_rule.rule_only.value > 0.95
    assert [leak.split(":")[0] for leak in by_rule.leaks(0.55)] == ["the rule alone predicts the answer"]
    labels = [rng.random() < 0.5 for _ in range(200)]
    by_comment = blind_baselines(
        [f"{'vile' if b else 'kind'} words {rng.random()}" for b in labels],
        ["no iron"] * 200, labels, [str(i) for i in range(200)],
    )  # fmt: skip
    assert by_comment.comment_only and by_comment.comment_only.low > 0.9
    assert blind_baselines(comments[:20], rules[:20], broken[:20], groups[:20]) == Blind(None, None)


def test_a_leak_is_an_error_with_numbers(tmp_path: Path) -> None:
    recipe = load(ModerationRecipe, write_recipe(tmp_path))
    texts, labels = ["vile words" if i % 2 else "kind words" for i in range(60)], [bool(i % 2) for i in range(60)]
    blind = blind_baselines(texts, texts, labels, [str(i) for i in range(60)])
    with pytest.raises(BessemerError, match=r"train: the comment alone predicts the answer: AUROC 1\.000 \["):
        _refuse_leaks(recipe, {"train": blind})


def test_rules_of_no_training_keep_their_words_not_their_shapes_from_being_named() -> None:
    """A word with a double letter may be named; who knows it does not know the rule about double letters."""
    words = ["steel", "given", "alone", "horrible"]
    texts = [f"{words[i % 4]} {i} is a no" if i < 60 else f"{i} is a no" for i in range(1000)]  # each in few
    comments = [Pooled(t, Comment(t), t, "train", False) for t in texts]
    values = {"name": "x", "comments": {"a": {"from": "a.jsonl"}}, "computed": {"named": 200}}
    recipe = ModerationRecipe.model_validate(values)
    apart = [*recipe.computed.unseen, *recipe.computed.validation]
    twins = _named(comments, apart, recipe, random.Random(1))
    named = {word for _, *keys in twins for _, rule in keys for word in rule.removeprefix("word:").split("+")}
    assert named == {"steel", "alone"}
