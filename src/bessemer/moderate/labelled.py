"""Comments from files: for a calibration with labels, for a dry run with what moderators did, where that is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast, get_args

from bessemer.data.moderation import Comment, clean, comment_of
from bessemer.data.sources import good_rows
from bessemer.errors import BessemerError
from bessemer.moderate.logs import APPROVED, DELETED, GONE, REMOVED, Renamed, final, outcome, rules_of
from bessemer.moderate.policy import Policy
from bessemer.recipe.moderation_recipe import LogColumn
from bessemer.units import parse_time

COLUMNS = (*(c for c in get_args(LogColumn) if c != "policy"), "label", "labels", "broken", "removed", "drawn")


@dataclass(frozen=True)
class Row:
    """A comment with what is known: labels by rule; removed: what moderators did, None where the file does not say;
    drawn: how `review export` chose it, random or unsure."""

    id: str
    comment: Comment
    labels: Mapping[str, bool] = field(default_factory=dict[str, bool])
    removed: bool | None = None
    group: str = ""
    drawn: str = ""


def clusters(rows: Sequence[Row]) -> list[str]:
    """Of each comment what it is not independent of: its group; without one, the copies of its text.

    Copies in groups stay apart: "this" in every thread would make one of all threads.
    """
    texts = [clean(row.comment.text).casefold() for row in rows]
    return [
        f"group {row.group}" if row.group else f"text {text}" if text else f"comment {row.id}"
        for row, text in zip(rows, texts, strict=True)
    ]


@dataclass(frozen=True)
class _Mark:
    """Somebody's word about a rule; see `logs.Statement`."""

    broken: bool
    appealed: bool = False
    time: float | None = None


@dataclass
class _Told:
    """What the rows of one comment say. labels: by rule; removed: by what the rows call the rule, "" for none."""

    row: Row
    has_id: bool
    labels: dict[str, list[_Mark]]
    removed: dict[str, list[_Mark]]

    def goes_on(self, old: _Told, wanted: bool) -> bool:
        """Whether it is about the same comment; of labelled rows without an id those that each name another rule."""
        if self.has_id or not wanted:
            return self.has_id
        return bool(self.labels and old.labels and not self.labels.keys() & old.labels.keys())

    def add(self, other: _Told) -> None:
        for own, its in ((self.labels, other.labels), (self.removed, other.removed)):
            for rule, marks in its.items():
                own.setdefault(rule, []).extend(marks)

    def settled(self, address: str, wanted: bool) -> Row:
        """Raises BessemerError where labels are wanted and disagree; else such a rule has none."""
        said = {rule: {mark.broken for mark in final(marks)} for rule, marks in self.labels.items()}
        torn = [rule for rule, marks in said.items() if len(marks) == 2]
        if torn and wanted:
            raise BessemerError(
                f"the comment {self.row.id!r} both breaks and keeps {torn[0]!r}", where=address,
                fix="keep one of the rows, or say when each was written (time)",
            )  # fmt: skip
        labels = {rule: marks.pop() for rule, marks in said.items() if len(marks) == 1}
        removed = [mark.broken for marks in self.removed.values() for mark in final(marks)]
        return replace(self.row, labels=labels, removed=any(removed) if removed else None)


def read_rows(
    address: str,
    policy: Policy,
    columns: Mapping[str, str | None] | None = None,
    *,
    labels: bool = False,
    skipped: Counter[str] | None = None,
) -> list[Row]:
    """Every comment of a file. labels: each row must have some.

    A row's labels are `labels: {rule: true}`, or `broken: [rule, ...]` (all others are kept), or `rule` (ids or texts)
    with `label`, `action`, `decision` or `appeal`; an approval without a rule keeps all. Rows of one id and text are
    one comment with the labels of all, as `bessemer review import` writes them. Rows whose text is gone are counted in
    `skipped`. Without `labels` rows may say what they like about rules that the policy does not have.
    Raises BessemerError with file and line for a row that says nothing usable, or when there is no row.
    """
    known: dict[tuple[str, Comment], _Told] = {}
    found: list[_Told] = []
    for told in _read(address, policy, columns or {}, labels, Counter() if skipped is None else skipped):
        key = told.row.id if told.has_id else "", told.row.comment
        if (old := known.get(key)) and told.goes_on(old, labels):
            old.add(told)
        else:
            known[key] = told
            found.append(told)
    if not found:
        raise BessemerError("there are no comments", where=address, fix="give a file with one comment a row")
    return [told.settled(address, labels) for told in found]


def _read(
    address: str, policy: Policy, columns: Mapping[str, str | None], wanted: bool, skipped: Counter[str]
) -> Iterator[_Told]:
    renamed = Renamed(columns)
    for place, row in good_rows(address):
        values = renamed.read(row)
        if "text" not in values or isinstance(values["text"], list | dict | bytes):
            raise BessemerError(
                f"the row has no text; its columns are {', '.join(map(repr, row))}",
                where=place,
                fix="name its column: --column text=NAME",
            )
        if clean(str(values["text"] or "")).lower() in GONE:
            skipped[DELETED] += 1
            continue
        yield _told(values, policy, place, wanted)
    if renamed.known:
        renamed.refuse_absent(address)


def _told(values: Mapping[str, Any], policy: Policy, place: str, wanted: bool) -> _Told:
    named = rules_of(values.get("rule"), place)
    time = _time(values, place)
    done = _done(values, time, place, wanted)
    marks = _labels(values, named, done, policy, place)
    labels = {rule: [replace(mark, time=time)] for rule, mark in marks.items()}
    known = [rule for rule in policy.names.values() if rule in labels]
    if wanted and (unknown := [rule for rule in labels if rule not in known]):
        raise BessemerError(
            f"{unknown[0]!r} is no rule of {policy.reference}", where=place,
            fix=f"rules: {', '.join(rule.id for rule in policy.rules)}",
        )  # fmt: skip
    if wanted and not labels:
        raise BessemerError(
            "the row has no labels", where=place, fix='labels: {"RULE": true}, or broken: ["RULE"], or rule and label'
        )
    removed = done
    if removed is None and values.get("removed") not in (None, ""):
        said = _flag(values["removed"])
        removed = None if said is None else _Mark(said, time=time)
    identity = values.get("id")
    name = place if identity in (None, "") else str(identity)
    row = Row(
        name, comment_of(dict(values)), group=str(values.get("group") or ""), drawn=str(values.get("drawn") or "")
    )
    return _Told(
        row,
        identity not in (None, ""),
        {rule: marks for rule, marks in labels.items() if rule in known},
        {rule: [removed] for rule in named or [""]} if removed else {},
    )


def _labels(
    values: Mapping[str, Any], named: Sequence[str], done: _Mark | None, policy: Policy, place: str
) -> dict[str, _Mark]:
    """By the policy's ids where it has such a rule, else as the row calls it."""
    given, broken = values.get("labels"), values.get("broken")
    every = [rule.id for rule in policy.rules]
    if isinstance(given, Mapping):
        marks = {
            str(k): _need_flag(v, str(k), place) for k, v in cast(Mapping[Any, Any], given).items() if v is not None
        }
    elif isinstance(broken, Sequence) and not isinstance(broken, str):
        marks = {**dict.fromkeys(every, _Mark(False)), **dict.fromkeys(rules_of(broken, place), _Mark(True))}
    elif values.get("label") not in (None, ""):
        marks = dict.fromkeys(named, _need_flag(values["label"], ", ".join(named), place)) if named else {}
    elif done is not None and (named or not done.broken):
        marks = dict.fromkeys(named or every, done)
    else:
        marks = {}
    return {policy.names.get(clean(rule).casefold(), rule): mark for rule, mark in marks.items()}


def _need_flag(value: Any, rule: str, place: str) -> _Mark:
    if (said := _flag(value)) is None:
        raise BessemerError(
            f"the label of {rule!r} is neither true nor false, but {str(value)[:40]!r}", where=place,
            fix="labels: true and false, or 1 and 0",
        )  # fmt: skip
    return _Mark(said)


def _flag(value: Any) -> bool | None:
    word = str(value).strip().lower()
    return True if word in REMOVED else False if word in APPROVED else None


def _time(values: Mapping[str, Any], place: str) -> float | None:
    """It is only needed where rows disagree, so a text that is no time is none."""
    try:
        return None if values.get("time") in (None, "") else parse_time(values["time"], place)
    except BessemerError:
        return None


def _done(values: Mapping[str, Any], time: float | None, place: str, wanted: bool) -> _Mark | None:
    """What moderators did in the end, as data sets read it; words that nobody knows say nothing where no labels are
    wanted."""
    try:
        found = outcome(values, place)
    except BessemerError:
        if wanted and values.get("label") in (None, "") and not {"labels", "broken"} & values.keys():
            raise
        return None
    return found and _Mark(found.broken, found.appealed, time)
