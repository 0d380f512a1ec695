"""Comments from files: for a calibration with labels, for a dry run with what moderators did, where that is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from bessemer.data.formats import BadRow, rows
from bessemer.data.moderation import Comment, clean, comment_of
from bessemer.data.open import list_files, open_file, reading
from bessemer.errors import BessemerError
from bessemer.moderate.logs import APPROVED, OVERTURNED, REMOVED, Renamed
from bessemer.moderate.policy import Policy


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
    """Of each comment what it is not independent of: its group, and every copy of its text with their groups."""
    found: dict[str, str] = {}  # a name -> another one of its cluster; of the last one itself

    def last(name: str) -> str:
        while (nearer := found.setdefault(name, name)) != name:
            found[name] = found[nearer]  # a way that was gone once is shorter the next time
            name = nearer
        return name

    names = [f"group {row.group or row.id}" for row in rows]
    for row, name in zip(rows, names, strict=True):
        if text := clean(row.comment.text).casefold():
            found[last(name)] = last(f"text {text}")
    return [last(name) for name in names]


def read_rows(
    address: str, policy: Policy, columns: Mapping[str, str] | None = None, *, labels: bool = False
) -> list[Row]:
    """Every comment of a file. labels: each row must have some.

    A row's labels are `labels: {rule: true}`, or `broken: [rule, ...]` (all others are kept), or `rule` with `label` or
    `action`. Rows of one id and text are one comment with the labels of all, as `bessemer review import` writes them.
    Raises BessemerError with file and line for a row that says nothing usable, or when there is no row.
    """
    found = _merged(_read(address, policy, columns or {}, labels), address)
    if not found:
        raise BessemerError("there are no comments", where=address, fix="give a file with one comment a row")
    return found


def _read(address: str, policy: Policy, columns: Mapping[str, str], wanted: bool) -> Iterator[Row]:
    renamed = Renamed(columns)
    for file in list_files(address):
        with reading(file), open_file(file) as stream:
            for row in rows(file.name, stream):
                place = f"{file.name}:{row.number}"
                if isinstance(row, BadRow):
                    raise BessemerError(f"{row.reason} {row.detail}".strip(), where=place, fix=row.fix or "repair it")
                values = renamed.read(row.values)
                if not isinstance(values.get("text"), str):
                    raise BessemerError(
                        f"the row has no text; its columns are {', '.join(map(repr, row.values))}",
                        where=place,
                        fix="name its column: --column text=NAME",
                    )
                labels = _labels(values, policy, place)
                if wanted and not labels:
                    raise BessemerError(
                        "the row has no labels", where=place,
                        fix='labels: {"RULE": true}, or broken: ["RULE"], or rule and label',
                    )  # fmt: skip
                identity = values.get("id")
                name = place if identity in (None, "") else str(identity)
                group, drawn = str(values.get("group") or name), str(values.get("drawn") or "")
                yield Row(name, comment_of(values), labels, _removed(values), group, drawn)
    if renamed.known:
        renamed.refuse_absent(address)


def _merged(rows: Iterator[Row], address: str) -> list[Row]:
    known: dict[tuple[str, Comment], Row] = {}
    for row in rows:
        old = known.setdefault((row.id, row.comment), row)
        if old is row:
            continue
        torn = [rule for rule, mark in row.labels.items() if old.labels.get(rule, mark) != mark]
        if torn:
            raise BessemerError(
                f"the comment {row.id!r} both breaks and keeps {torn[0]!r}", where=address, fix="keep one of the rows"
            )
        removed = old.removed if row.removed is None else row.removed or bool(old.removed)
        known[row.id, row.comment] = replace(old, labels={**old.labels, **row.labels}, removed=removed)
    return list(known.values())


def _labels(values: Mapping[str, Any], policy: Policy, place: str) -> dict[str, bool]:
    known = [rule.id for rule in policy.rules]
    given, broken = values.get("labels"), values.get("broken")
    if isinstance(given, Mapping):
        labels = {str(k): _flag(v) for k, v in cast(Mapping[Any, Any], given).items() if v is not None}
    elif isinstance(broken, Sequence) and not isinstance(broken, str):
        named = {str(rule) for rule in cast(Sequence[Any], broken)}
        labels = {rule: (rule in named) for rule in [*known, *sorted(named - set(known))]}
    elif values.get("rule") not in (None, ""):
        mark = values.get("label")
        labels = {str(values["rule"]): _ended(values) if mark is None else _flag(mark)}
        if labels == {str(values["rule"]): None}:
            labels = {}
    else:
        labels = {}
    wrong = [rule for rule, mark in labels.items() if rule not in known or mark is None]
    if wrong:
        raise BessemerError(
            f"{wrong[0]!r} is no rule of {policy.reference}"
            if wrong[0] not in known
            else f"the label of {wrong[0]!r} is neither true nor false",
            where=place,
            fix=f"rules: {', '.join(known)}; labels: true and false, or 1 and 0",
        )
    return {rule: bool(mark) for rule, mark in labels.items()}


def _flag(value: Any) -> bool | None:
    word = str(value).strip().lower()
    return True if word in REMOVED else False if word in APPROVED else None


def _ended(values: Mapping[str, Any]) -> bool | None:
    """Whether the comment stayed removed in the end: after the decision, and after an appeal, as data sets read it."""
    if str(values.get("appeal") or "").strip().lower() in OVERTURNED:
        return False
    return next((_flag(values[name]) for name in ("decision", "action") if values.get(name) not in (None, "")), None)


def _removed(values: Mapping[str, Any]) -> bool | None:
    ended = _ended(values)
    return _flag(values["removed"]) if ended is None and values.get("removed") not in (None, "") else ended
