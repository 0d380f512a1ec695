"""Questions for people, least sure first, and their answers in three formats; the curriculum."""

from __future__ import annotations

import codecs
import csv
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bessemer.data.items import Item
from bessemer.data.moderation import Comment, example
from bessemer.data.sources import read_items
from bessemer.errors import BessemerError
from bessemer.infer.score import branch_odds
from bessemer.moderate.calibrate import need_labels
from bessemer.moderate.curriculum import make_curriculum, margins_of, order_parts
from bessemer.moderate.decide import Known, decide
from bessemer.moderate.judge import Judge
from bessemer.moderate.labelled import Row, read_rows
from bessemer.moderate.logs import read_cases
from bessemer.moderate.policy import Example, Policy, Rule
from bessemer.moderate.review import questions, read_answers, write_questions
from bessemer.recipe.load import load_recipe
from bessemer.recipe.moderation_recipe import Log
from tests.moderate.logs import sentence

TEXTS = ['=HYPERLINK("x")', "'quoted", "-minus", '@bob, "hi"\r\nthere', "ä 😀", "plain, text", "\ud800 half"]


def asked(policy: Policy, n: int = 100, **how: Any) -> list[dict[str, Any]]:
    rng = random.Random(1)
    rows = [Row(str(i), Comment(text)) for i, text in enumerate(TEXTS)]
    odds = [[rng.gauss(0, 3), rng.gauss(0, 3)] for _ in rows]
    return questions(policy, rows, [decide(policy, o, Known()) for o in odds], n, **how)


def test_the_least_sure_come_first(policy: Policy) -> None:
    found = asked(policy)
    assert len(found) == 14 and len(asked(policy, 5)) == 5
    unsure = [abs(q["score"] - 0.5) for q in found]
    assert unsure == sorted(unsure)
    assert all(q["suggestion"] == ("broken" if q["score"] >= 0.5 else "kept") for q in found)
    drawn = asked(policy, 6, at_random=True)
    ids = [q["comment_id"] for q in drawn]
    assert ids[::2] == ids[1::2] and {q["rule"] for q in drawn} == {"no-links", "kind"}
    twice = [asked(policy, 14, at_random=True, seed=seed) for seed in (1, 1, 2)]
    order = [[q["comment_id"] for q in found] for found in twice]
    assert order[0] == order[1] != order[2] and sorted(order[0]) == sorted(order[2])
    assert [len(asked(policy, n, at_random=True)) for n in (1, 2, 5, 100)] == [2, 2, 4, 14]  # whole comments


def test_copies_are_asked_once(policy: Policy) -> None:
    rows = [Row(str(i), Comment(text)) for i, text in enumerate(["Buy it", "buy  it", "other", "buy it"])]
    decisions = [decide(policy, [0.1, 0.2], Known()) for _ in rows]
    found = questions(policy, rows, decisions, 100)
    assert [(q["comment_id"], q["rule"]) for q in found] == [
        ("0", "no-links"), ("2", "no-links"), ("0", "kind"), ("2", "kind")
    ]  # fmt: skip
    drawn = questions(policy, rows, decisions, 100, at_random=True)  # as they come
    assert Counter(q["comment_id"] for q in drawn) == dict.fromkeys("0123", 2)


def test_people_read_what_the_model_reads(tmp_path: Path) -> None:
    rule = Rule(id="a", text="No links.", excludes=["the wiki"], examples=[Example(text="see x.y", broken=True)])
    policy = Policy(name="p", community="Steel", rules=[rule])
    found = questions(policy, [Row("1", Comment("hi", title="News"))], [decide(policy, [0.1], Known())], 1)
    assert found[0]["rule_text"] == "No links.\nNot covered: the wiki\nBreaks it: see x.y"
    _, config = write_questions(tmp_path / "q.json", found, "d" * 64)
    (task,) = json.loads((tmp_path / "q.json").read_text())
    shown = set(re.findall(r"\$(\w+)", config.read_text()))
    assert shown == {"rule_text", "community", "title", "parent", "text"} and shown <= task["data"].keys()


def answered(path: Path, truth: dict[tuple[str, str], bool], form: str, delimiter: str = ",") -> None:
    """What a person, or Label Studio's export, makes of the file."""
    words = {True: "broken", False: "kept"}
    if form == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().split("\n") if line]
        path.write_text(
            "".join(
                json.dumps({**r, "label": words[truth[r["comment_id"], r["rule"]]]}, ensure_ascii=False) + "\n"
                for r in rows
            )
        )
    elif form == ".csv":
        assert path.read_bytes().startswith(codecs.BOM_UTF8)  # else Excel shows other letters
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
            writer.writeheader()
            writer.writerows([{**r, "label": words[truth[r["comment_id"], r["rule"]]]} for r in rows])
    else:
        tasks = json.loads(path.read_text())
        for task in tasks:
            answer = words[truth[task["data"]["comment_id"], task["data"]["rule"]]]
            result = {"type": "choices", "from_name": "label", "to_name": "text", "value": {"choices": [answer]}}
            other = {**result, "value": {"choices": ["kept" if answer == "broken" else "broken"]}}
            task["annotations"] = [{"result": [result]}, {"result": [other], "was_cancelled": True}]
        path.write_text(json.dumps(tasks))


@pytest.mark.parametrize(
    ("form", "delimiter"), [(".jsonl", ""), (".csv", ","), (".csv", ";"), (".csv", "\t"), (".json", "")]
)
def test_there_and_back(policy: Policy, tmp_path: Path, form: str, delimiter: str) -> None:
    path = tmp_path / f"questions{form}"
    found = asked(policy)
    files = write_questions(path, found, "d" * 64)
    assert [f.suffix for f in files] == ([".json", ".xml"] if form == ".json" else [form])
    truth = {(q["comment_id"], q["rule"]): random.Random(q["comment_id"] + q["rule"]).random() < 0.5 for q in found}
    assert read_answers(path) == ([], Counter({"not answered": 14}))
    answered(path, truth, form, delimiter)
    rows, left_out = read_answers(path)
    assert not left_out and {(r["id"], r["rule"]): r["label"] for r in rows} == truth
    texts = {r["id"]: r["text"] for r in rows}
    assert [texts[str(i)] for i in range(6)] == TEXTS[:6] and texts["6"] == "? half"
    out = tmp_path / "rows.jsonl"
    out.write_text("".join(json.dumps(r) + "\n" for r in rows))
    labelled = read_rows(str(out), policy, labels=True)  # what a calibration reads
    assert [r.id for r in labelled] == list(dict.fromkeys(r["id"] for r in rows))  # one a comment
    assert {(r.id, rule): mark for r in labelled for rule, mark in r.labels.items()} == truth
    cases = read_cases("people", Log.model_validate({"from": str(out)}), Counter())  # what data moderation reads
    assert [c.broken for c in cases] == [r["label"] for r in rows]


def test_separators_of_lines_inside_a_text(policy: Policy, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    text = "one\u2028two\u2029three\u0085four"
    write_questions(
        path, questions(policy, [Row("1", Comment(text))], [decide(policy, [0.1, 9.0], Known())], 1), "d" * 64
    )
    answered(path, {("1", "no-links"): True}, ".jsonl")
    rows, _ = read_answers(path)
    assert [r["label"] for r in rows] == [True]


def test_answers_to_what_the_model_was_unsure_of_calibrate_nothing(policy: Policy, tmp_path: Path) -> None:
    for how, drawn in (({}, "unsure"), ({"at_random": True}, "random")):
        found = asked(policy, 6, **how)
        path = tmp_path / f"{drawn}.jsonl"
        write_questions(path, [q | {"label": "kept"} for q in found], "d" * 64)
        rows, _ = read_answers(path)
        assert {row["drawn"] for row in rows} == {drawn}
        out = tmp_path / "out.jsonl"
        out.write_text("".join(json.dumps(r) + "\n" for r in rows))
        labelled = read_rows(str(out), policy, labels=True)
        with pytest.raises(BessemerError, match="unsure of them" if drawn == "unsure" else "too few"):
            need_labels(policy, labelled)


def test_label_studios_short_form_has_ids_of_its_own(policy: Policy, tmp_path: Path) -> None:
    """Its `id` is the task's, so each question about a comment has another one."""
    found = questions(policy, [Row("c7", Comment("hi"))], [decide(policy, [0.1, 0.2], Known())], 2)
    short = [{**q, "label": "kept", "id": 40 + i, "annotator": 1} for i, q in enumerate(found)]
    (tmp_path / "a.json").write_text(json.dumps(short))
    rows, _ = read_answers(tmp_path / "a.json")
    assert [r["id"] for r in rows] == ["c7", "c7"] and {r["rule"] for r in rows} == {"no-links", "kind"}


def test_an_edited_comment_has_answers_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"id": "1", "text": text, "rule": "kind", "label": label} for text, label in (("a", ""), ("b", "broken"))]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    found, left_out = read_answers(path)
    assert [(r["text"], r["label"]) for r in found] == [("b", True)] and left_out == {"not answered": 1}


@pytest.mark.parametrize(
    ("row", "broken"),
    [
        ({"action": "removed"}, True),
        ({"action": "removed", "appeal": "overturned"}, False),
        ({"action": "removed", "appeal": "upheld"}, True),
        ({"action": "removed", "decision": "approved"}, False),
        ({"action": "approved", "decision": "removed"}, True),
        ({"action": "approved", "label": True}, True),
    ],
)
def test_a_label_is_what_came_of_it(policy: Policy, tmp_path: Path, row: dict[str, Any], broken: bool) -> None:
    """As data sets read it: a removal that was overturned is no hit of a calibration."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "see there", "rule": "kind", **row}) + "\n")
    (found,) = read_rows(str(path), policy, labels=True)
    assert found.labels == {"kind": broken}
    if "label" not in row:
        (case,) = read_cases("x", Log.model_validate({"from": str(path)}), Counter())
        assert case.broken == broken and found.removed == broken


def test_a_comment_with_two_answers_for_one_rule_is_refused(policy: Policy, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"id": "1", "text": "a b", "rule": "kind"}
    path.write_text("".join(json.dumps({**row, "label": label}) + "\n" for label in (True, False)))
    with pytest.raises(BessemerError, match="both breaks and keeps 'kind'"):
        read_rows(str(path), policy, labels=True)


def test_a_column_that_no_comment_has_is_an_error(policy: Policy, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"body": "a b", "id": "1"}\n{"body": "c", "reply": "x"}\n')
    assert [r.comment.parent for r in read_rows(str(path), policy, {"text": "body", "parent": "reply"})] == ["", "x"]
    with pytest.raises(BessemerError, match="no row has a column 'replies'\n  fix: they have body, id, reply"):
        read_rows(str(path), policy, {"text": "body", "parent": "replies"})


def test_a_spreadsheet_computes_nothing(policy: Policy, tmp_path: Path) -> None:
    write_questions(tmp_path / "q.csv", asked(policy), "d")
    with (tmp_path / "q.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [c for c in cells if c.startswith(("=", "+", "-", "@"))]


def test_several_people(tmp_path: Path) -> None:
    def task(number: str, *labels: str) -> dict[str, Any]:
        said = [{"result": [{"type": "choices", "value": {"choices": [label]}}]} for label in labels]
        return {"data": {"id": number, "text": "x", "rule": "kind"}, "annotations": said}

    tasks = [task("a", "broken", "broken", "kept"), task("b", "kept", "broken"), task("c")]
    (tmp_path / "a.json").write_text(json.dumps([*tasks, {"id": 4, "text": "y", "rule": "kind", "label": "kept"}]))
    rows, left_out = read_answers(tmp_path / "a.json")
    assert [(r["id"], r["label"], r["people"]) for r in rows] == [("a", True, 3), ("4", False, 1)]
    assert left_out == {"people disagree": 1, "not answered": 1}


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.jsonl", '{"text": "x", "rule": "r", "label": "perhaps"}', "'perhaps' is no answer"),
        ("a.jsonl", "[1]", "no JSON object"),
        ("a.jsonl", '{"text": "x"}', "lacks its text or rule"),
        ("a.json", "{}", "no list of tasks"),
        ("a.json", "[1]", "no object"),
        ("a.json", "{", "no valid JSON"),
        ("a.json", '[{"data": "words"}]', "another shape than Label Studio's"),
        ("a.json", '[{"data": {"text": "x", "rule": "r"}, "annotations": [null]}]', "another shape"),
        ("a.csv", "text,label\nx,kept\n", "lacks its text or rule"),
        ("a.txt", "", "says no format"),
    ],
)
def test_bad_answers(tmp_path: Path, name: str, content: str, what: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BessemerError, match=what):
        read_answers(tmp_path / name)


def test_a_quote_that_nothing_closes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,rule,label\nx,"' + "r" * 140_000)
    usual = csv.field_size_limit(131_072)
    try:
        with pytest.raises(BessemerError, match="field larger than field limit"):
            read_answers(tmp_path / "a.csv")
    finally:
        csv.field_size_limit(usual)


# -- curriculum -------------------------------------------------------------------------------------------------


def twins(n: int) -> list[Item]:
    rng = random.Random(2)
    return [
        Item(f"{i}:{answer}", messages=example(text, rule, answer == "yes"), group=str(i))
        for i in range(n)
        for text in [sentence(rng)]
        for rule, answer in (("No steel.", "yes"), ("No iron.", "no"))
    ]


def test_easy_to_hard_and_twins_stay_together(judge: Judge) -> None:
    items = twins(20)
    parts = order_parts(judge, items, 3)
    assert [len(p.margins) for p in parts] == [7, 7, 6]
    flat = [m for p in parts for m in p.margins]
    assert flat == sorted(flat, reverse=True)
    groups = [{i.group for i in p.items} for p in parts]
    assert sum(map(len, groups)) == 20 and all(len(p.items) == 2 * len(p.margins) for p in parts)
    flipped = [
        Item(i.id, messages=(*i.messages[:-1], type(i.messages[-1])("assistant", "no")), group=i.id) for i in items
    ]
    one, other = margins_of(judge, [[flipped[0]]]), margins_of(judge, [[items[0]]])
    assert one[0] == pytest.approx(-other[0])


def test_margins_are_read_where_answers_are(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some templates begin every answer with words of their own, as Qwen 3's does."""
    items, plain = twins(1), list[float]()
    plain += margins_of(judge, [items])
    monkeypatch.setitem(vars(judge.loaded.renderer), "answer_stem", [11, 12])  # a cached property
    asked = [i.messages[:-1] for i in items]
    ids = [(*judge.loaded.renderer.chat_ids(own), 11, 12) for own in asked]
    assert [judge.prompt(own) for own in asked] == ids
    odds = branch_odds(judge.loaded, [ids], judge.options)[0]
    assert margins_of(judge, [items]) == [pytest.approx((odds[0] - odds[1]) / 2)] != [pytest.approx(plain[0])]


def test_it_is_a_data_set_made_once(judge: Judge) -> None:
    items = twins(12)
    first, again = (make_curriculum(judge, "parts", items, 2) for _ in range(2))
    assert (first.reference, first.new, again.new) == ("parts@1", True, False)
    assert make_curriculum(judge, "parts", items, 3).reference == "parts@2"
    back = [i for k in (1, 2) for i in read_items(f"dataset:parts@1/part-{k}", kind="chat", where="x")]
    assert {i.id for i in back} == {i.id for i in items}
    for n in (1, 13):
        with pytest.raises(BessemerError, match="parts"):
            make_curriculum(judge, "other", items, n)


def test_the_recipe_is_sound() -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "community-expert.yaml")
    assert [s.objective for s in recipe.stages] == ["cpt", "sft", "sft"]
