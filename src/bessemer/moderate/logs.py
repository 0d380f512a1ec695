"""Moderation logs -> cases: one comment, one rule, and whether it was broken in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bessemer.data.formats import BadRow, rows
from bessemer.data.moderation import Comment, clean, comment_of
from bessemer.data.open import list_files, open_file, reading
from bessemer.errors import BessemerError
from bessemer.recipe.moderation_recipe import Comments, Log
from bessemer.units import parse_time

REMOVED = frozenset(
    {"1", "true", "yes", "remove", "removed", "removecomment", "removelink", "delete", "deleted", "spam", "spamcomment",
     "spamlink", "ban", "banned", "filtered"}
)  # fmt: skip
APPROVED = frozenset(
    {"0", "false", "no", "approve", "approved", "approvecomment", "approvelink", "keep", "kept", "allow", "allowed",
     "ignore", "ignored", "unspam"}
)  # fmt: skip
OVERTURNED = frozenset({"overturned", "overturn", "granted", "reversed", "reverse", "accepted", "restored"})
UPHELD = frozenset({"upheld", "uphold", "denied", "rejected", "dismissed"})
NO_APPEAL = frozenset({"", "none"})
GONE = frozenset({"[removed]", "[deleted]"})


@dataclass(frozen=True)
class Case:
    """What one row says. rule: an id or a reason, "" when the row names none. broken: None without a label.

    hard: it looked broken to somebody and was not (an appeal was granted; a report was turned down). appealed: the row
    holds the outcome of an appeal.
    """

    id: str
    comment: Comment
    text: str  # cleaned
    rule: str = ""
    broken: bool | None = None
    hard: bool = False
    appealed: bool = False
    time: float | None = None
    group: str = ""


@dataclass
class Renamed:
    """Rows under our names for their columns. A name that no row has is a slip: its values would all be missing."""

    columns: Mapping[str, str]  # our name -> the file's
    known: dict[str, None] = field(default_factory=dict[str, None])  # the file's, in their order

    def read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if self.columns and not row.keys() <= self.known.keys():
            self.known |= dict.fromkeys(row)
        return {**row, **{ours: row.get(theirs) for ours, theirs in self.columns.items()}}

    def refuse_absent(self, where: str) -> None:
        """Raises BessemerError for a column that stood in no row read."""
        absent = [name for name in self.columns.values() if name not in self.known]
        if absent:
            raise BessemerError(
                f"no row has a column {absent[0]!r}", where=where, fix=f"they have {', '.join([*self.known][:20])}"
            )


def read_cases(name: str, source: Log | Comments, skipped: Counter[str], *, needs_time: bool = False) -> Iterator[Case]:
    """Rows that say nothing usable are counted in `skipped`, by reason.

    Raises BessemerError with file and line for a row that cannot be read, an action or an outcome that is unknown, or
    a time that is none; and for a column that no row has.
    """
    log = source if isinstance(source, Log) else None
    kind = "logs" if log else "comments"
    renamed = Renamed({str(ours): theirs for ours, theirs in source.columns.items()})
    n_rows = 0
    for file in list_files(source.from_, f"{kind}.{name}.from"):
        with reading(file), open_file(file) as stream:
            for row in rows(file.name, stream):
                n_rows += 1
                place = f"{file.name}:{row.number}"
                if isinstance(row, BadRow):
                    raise BessemerError(f"{row.reason} {row.detail}".strip(), where=place, fix=row.fix or "repair it")
                values = renamed.read(row.values)
                text = clean(str(values.get("text") or ""))
                if not text or text.lower() in GONE:
                    skipped["no text (deleted, or nothing to see)"] += 1
                    continue
                identity = values.get("id")
                identity = f"{name}:{row.number if identity in (None, '') else identity}"
                yield _case(identity, values, text, log, name, place, needs_time)
    if not n_rows:
        raise BessemerError("there are no rows", where=f"{kind}.{name}.from", fix="check the address")
    renamed.refuse_absent(f"{kind}.{name}.columns")


def _case(
    identity: str, values: Mapping[str, Any], text: str, log: Log | None, name: str, place: str, needs_time: bool
) -> Case:
    comment = comment_of({**values, "text": text})
    time = values.get("time")
    if time in (None, "") and needs_time:
        raise BessemerError(
            "the row has no time", where=place, fix="name its column (columns: {time: ...}), or split by hash"
        )
    at = None if time in (None, "") else parse_time(time, place)
    group = str(values.get("group") or "")
    if log is None:
        return Case(identity, comment, text, time=at, group=group)
    comment = Comment(comment.text, comment.title, comment.parent, comment.community or log.community or name)
    rule = clean(str(values.get("rule") or log.rule))
    acted, decided = _word(values.get("action")), _word(values.get("decision"))
    first = acted in {w.lower() for w in log.removed} if log.removed and acted else _side(acted, place, "action")
    final = _side(decided, place, "decision") if decided else first
    appeal = _word(values.get("appeal"))
    if appeal not in OVERTURNED | UPHELD | NO_APPEAL:
        raise BessemerError(
            f"{appeal[:40]!r} is no outcome of an appeal",
            where=place,
            fix=f"known: {', '.join(sorted(OVERTURNED | UPHELD))}",
        )
    broken = final and appeal not in OVERTURNED  # a log may hold the decision from before the appeal, or after it
    reported = bool(values.get("rule"))  # a log about one rule names it in no row
    hard = not broken and (first or reported)
    appealed = appeal not in NO_APPEAL
    return Case(identity, comment, text, rule, broken, hard=hard, appealed=appealed, time=at, group=group)


def _word(value: Any) -> str:
    return "" if value is None else str(value).strip().lower()


def _side(word: str, place: str, column: str) -> bool:
    """True: removed. Raises BessemerError for a word that is neither."""
    if word not in REMOVED | APPROVED:
        raise BessemerError(
            f"{word[:40]!r} is no {column}" if word else f"the row has no {column}",
            where=place,
            fix=f"removed: {', '.join(sorted(REMOVED))}; approved: {', '.join(sorted(APPROVED))}; or name the column "
            f"(columns: {{{column}: ...}})",
        )
    return word in REMOVED
