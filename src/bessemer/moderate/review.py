"""What people should look at first, and their answers: JSON lines, CSV, and the tasks of Label Studio.

A comment and a rule are one question. Questions go by how unsure the model is, so that a label teaches the most; for a
calibration they are drawn at random instead, because thresholds need comments as they come.
"""

from __future__ import annotations

import csv
import heapq
import io
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from bessemer.data.moderation import clean
from bessemer.errors import BessemerError
from bessemer.files import canonical_json, read_json, sha256_text, write_text
from bessemer.moderate.decide import Decision, Finding
from bessemer.moderate.labelled import Row
from bessemer.moderate.logs import APPROVED, REMOVED
from bessemer.moderate.policy import Policy

FORMATS = {".jsonl": "jsonl", ".csv": "csv", ".json": "label-studio"}
FIELDS: tuple[str, ...] = (
    "comment_id",  # Label Studio's short form writes a number of its own over `id`
    "text",
    "title",
    "parent",
    "community",
    "rule",
    "rule_text",
    "score",
    "suggestion",
    "drawn",
    "group",
    "label",
)
UNSURE, RANDOM = "unsure", "random"  # how questions were drawn
BROKEN, KEPT = "broken", "kept"
LABELS = """<View>
  <Text name="rule" value="$rule_text"/>
  <Header value="$community $title"/>
  <Text name="parent" value="$parent"/>
  <Text name="text" value="$text"/>
  <Choices name="label" toName="text" choice="single" required="true">
    <Choice value="broken"/>
    <Choice value="kept"/>
  </Choices>
</View>
"""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # a spreadsheet would compute what begins so
Question = dict[str, Any]


def questions(
    policy: Policy,
    rows: Sequence[Row],
    decisions: Sequence[Decision],
    n: int,
    *,
    at_random: bool = False,
    seed: int = 1,
) -> list[Question]:
    """The `n` questions to ask: the least sure first, each text once, or drawn at random (then whole comments, at most
    `n` questions unless one comment has more). People read of a rule what the model reads."""
    text_of = {rule.id: "\n".join(rule.read.lines()).removeprefix("Rule: ") for rule in policy.rules}

    def question(i: int, finding: Finding) -> Question:
        comment = rows[i].comment
        return {
            "comment_id": rows[i].id,
            "text": comment.text,
            "title": comment.title,
            "parent": comment.parent,
            "community": comment.community or policy.community,
            "rule": finding.rule,
            "rule_text": text_of[finding.rule],
            "score": round(finding.score, 6),
            "suggestion": BROKEN if finding.score >= 0.5 else KEPT,
            "drawn": RANDOM if at_random else UNSURE,
            "group": rows[i].group,
            "label": "",
        }

    if at_random:
        drawn = list(range(len(rows)))
        random.Random(seed).shuffle(drawn)
        comments = drawn[: max(1, n // len(policy.rules))]
        return [question(i, finding) for i in comments for finding in decisions[i].findings]
    once: dict[str, int] = {}  # of many comments and rules only what is asked is written out
    for i, row in enumerate(rows):
        texts = (clean(text).casefold() for text in (row.comment.text, row.comment.title, row.comment.parent))
        once.setdefault(sha256_text(canonical_json(list(texts))), i)
    pairs = ((i, finding) for i in once.values() for finding in decisions[i].findings)
    unsure = heapq.nsmallest(n, pairs, key=lambda pair: abs(round(pair[1].score, 6) - 0.5))
    return [question(i, finding) for i, finding in unsure]  # equals in the order they came


def form_of(path: Path) -> str:
    """From the name's ending. Raises BessemerError for another."""
    if path.suffix not in FORMATS:
        raise BessemerError(
            f"{path.suffix or 'no ending'!r} says no format", where=str(path),
            fix=", ".join(f"{end}: {name}" for end, name in FORMATS.items()),
        )  # fmt: skip
    return FORMATS[path.suffix]


def write_questions(path: Path, asked: Sequence[Question], model: str) -> list[Path]:
    """The file, and for Label Studio the labelling configuration beside it. model: the digest that scored them."""
    form = form_of(path)
    if form == "jsonl":
        write_text(path, "".join(json.dumps(_plain(q), ensure_ascii=False) + "\n" for q in asked))
    elif form == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, FIELDS)
        writer.writeheader()
        writer.writerows([{k: _cell(v) for k, v in _plain(q).items()} for q in asked])
        write_text(path, f"\ufeff{out.getvalue()}")  # else spreadsheets take it for their country's code page
    else:
        write_text(path, json.dumps([_task(_plain(q), model) for q in asked], ensure_ascii=False, indent=1) + "\n")
        config = path.with_suffix(".xml")
        write_text(config, LABELS)
        return [path, config]
    return [path]


def _plain(question: Question) -> Question:
    """Half of a surrogate pair is no character: a file cannot hold it."""
    return {k: v.encode(errors="replace").decode() if isinstance(v, str) else v for k, v in question.items()}


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _task(question: Question, model: str) -> Question:
    said = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [question["suggestion"]]}}
    data = {k: v for k, v in question.items() if k != "label"}
    score = max(question["score"], 1 - question["score"])
    return {"data": data, "predictions": [{"model_version": model, "score": round(score, 6), "result": [said]}]}


# -- answers ----------------------------------------------------------------------------------------------------


def read_answers(path: Path) -> tuple[list[dict[str, Any]], Counter[str]]:
    """(rows, what was left out). A row has `rule`, `label` and `action`: calibrations and data sets read it.

    Several people about one question: the majority. Raises BessemerError with the place for an answer that is none.
    """
    form = form_of(path)
    left_out: Counter[str] = Counter()
    said: dict[tuple[str, ...], list[bool]] = defaultdict(list)
    questions: dict[tuple[str, ...], Mapping[str, Any]] = {}
    found = {"jsonl": _json_lines, "csv": _rows, "label-studio": _tasks}[form](path)
    for place, question, answers in found:
        if not question.get("text") or not question.get("rule"):
            raise BessemerError(
                "the question lacks its text or rule", where=place, fix="keep the columns of the export"
            )
        texts = (str(question.get(name) or "") for name in ("text", "title", "parent"))  # one id may have two
        identity = str(question.get("comment_id") or question.get("id") or "")
        key = identity or place, str(question["rule"]), *texts
        questions.setdefault(key, {**question, "id": identity})
        said[key] += [_answer(answer, place) for answer in answers if answer is not None and str(answer).strip()]
    rows: list[dict[str, Any]] = []
    for key, question in questions.items():
        votes = Counter(said[key])
        if votes[True] == votes[False]:
            left_out["not answered" if not votes else "people disagree"] += 1
            continue
        broken = votes[True] > votes[False]
        names = ("id", "text", "title", "parent", "community", "rule", "drawn", "group")
        about = {name: question[name] for name in names if question.get(name)}
        rows.append({**about, "label": broken, "action": "removed" if broken else "approved", "people": votes.total()})
    return rows, left_out


Found = Iterator[tuple[str, Mapping[str, Any], Sequence[Any]]]  # where, the question, what people said


def _answer(value: Any, place: str) -> bool:
    word = str(value).strip().lower()
    if word == BROKEN or word in REMOVED:
        return True
    if word == KEPT or word in APPROVED:
        return False
    raise BessemerError(f"{str(value)[:40]!r} is no answer", where=place, fix=f"write {BROKEN} or {KEPT}")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # line ends of texts stay
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise BessemerError(f"the answers cannot be read ({reason})", where=str(path)) from None


def _json_lines(path: Path) -> Found:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise BessemerError("the line is no JSON object", where=f"{path}:{number}", fix="one object a line")
        question = cast(dict[str, Any], row)
        yield f"{path}:{number}", question, [question.get("label", "")]


def _rows(path: Path) -> Found:
    text = _text(path)
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)  # spreadsheets of some countries save with another one
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        for row in reader:
            question = {k: v[1:] if v and v.startswith("'") else v for k, v in row.items() if isinstance(v, str)}
            yield f"{path}:{reader.line_num}", question, [question.get("label", "")]
    except csv.Error as error:  # such as a quote that nothing closes
        raise BessemerError(
            f"the rows cannot be read ({error})", where=f"{path}:{reader.line_num}", fix="save it as CSV again"
        ) from None


def _tasks(path: Path) -> Found:
    """Label Studio's JSON export, and its short form (JSON-MIN)."""
    tasks = read_json(path)
    if not isinstance(tasks, list):
        raise BessemerError("no list of tasks", where=str(path), fix="export as JSON from Label Studio")
    for number, raw in enumerate(cast(list[Any], tasks), 1):
        place = f"{path}, task {number}"
        if not isinstance(raw, dict):
            raise BessemerError("the task is no object", where=place, fix="export as JSON from Label Studio")
        task = cast(dict[str, Any], raw)
        if "data" not in task:
            yield place, task, [task.get("label", "")]
            continue
        try:
            question, choices = dict(task["data"]), _choices(task.get("annotations") or [])
        except (AttributeError, TypeError, ValueError):
            raise BessemerError(
                "the task has another shape than Label Studio's", where=place, fix="export as JSON from Label Studio"
            ) from None
        yield place, question, choices


def _choices(annotations: Sequence[Any]) -> list[Any]:
    results = [r for a in annotations if not a.get("was_cancelled") for r in a.get("result") or []]
    return [c for r in results if r.get("type") == "choices" for c in (r.get("value") or {}).get("choices") or []]
