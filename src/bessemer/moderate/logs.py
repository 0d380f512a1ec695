"""Moderation logs -> cases: one comment, one rule, and whether it was broken in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, cast

from bessemer.data.moderation import Comment, clean, comment_of
from bessemer.data.sources import good_rows
from bessemer.errors import BessemerError
from bessemer.recipe.moderation_recipe import Comments, Log
from bessemer.units import parse_time

REMOVED = frozenset(
    {"1", "1.0", "true", "yes", "remove", "removed", "removecomment", "removelink", "delete", "deleted", "spam",
     "spamcomment", "spamlink", "ban", "banned", "filtered"}
)  # fmt: skip
APPROVED = frozenset(
    {"0", "0.0", "false", "no", "approve", "approved", "approvecomment", "approvelink", "keep", "kept", "allow",
     "allowed", "ignore", "ignored", "unspam"}
)  # fmt: skip
OVERTURNED = frozenset({"overturned", "overturn", "granted", "reversed", "reverse", "accepted", "restored"})
UPHELD = frozenset({"upheld", "uphold", "denied", "rejected", "dismissed"})
NO_APPEAL = frozenset({"", "none", "no", "null", "n/a", "false", "0", "pending", "open", "in review"})
GONE = frozenset({"[removed]", "[deleted]"})
DELETED = "no text (deleted, or nothing to see)"


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
    declared: bool = True  # the community: else its name only says whose policy is meant


@dataclass(frozen=True)
class Outcome:
    """What came of a comment. first: it was removed at first; broken: it stayed removed in the end; appealed: an appeal
    said so."""

    first: bool
    broken: bool
    appealed: bool


class Statement(Protocol):
    """Somebody's word about one comment and one rule."""

    @property
    def broken(self) -> bool | None: ...
    @property
    def appealed(self) -> bool: ...
    @property
    def time(self) -> float | None: ...


S = TypeVar("S", bound=Statement)


def final(said: Sequence[S]) -> list[S]:
    """Of statements about one comment and rule those that count: where they disagree, outcomes of appeals outrank
    others and the latest word wins. What is left may still disagree."""
    if len({s.broken for s in said}) == 1:
        return list(said)
    said = [s for s in said if s.appealed] or said
    times = [s.time for s in said if s.time is not None]
    return [s for s in said if s.time == max(times)] if len(times) == len(said) else list(said)


@dataclass
class Renamed:
    """Rows under our names for their columns. A name that no row has is a slip: its values would all be missing."""

    columns: Mapping[str, str | None]  # our name -> the file's; None: the file has it for something else
    known: dict[str, None] = field(default_factory=dict[str, None])  # the file's, in their order

    def read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if self.columns and not row.keys() <= self.known.keys():
            self.known |= dict.fromkeys(row)
        return {**row, **{ours: theirs and row.get(theirs) for ours, theirs in self.columns.items()}}

    def refuse_absent(self, where: str) -> None:
        """Raises BessemerError for a column that stood in no row read."""
        absent = [name for name in self.columns.values() if name is not None and name not in self.known]
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
    for place, row in good_rows(source.from_, f"{kind}.{name}.from"):
        n_rows += 1
        values = renamed.read(row)
        text = clean(str(values.get("text") or ""))
        if not text or text.lower() in GONE:
            skipped[DELETED] += 1
            continue
        if log and _word(values.get("action")) in {w.lower() for w in log.ignored}:
            skipped["an action that says nothing of the comment"] += 1
            continue
        identity = values.get("id")
        identity = f"{name}:{place.rpartition(':')[2] if identity in (None, '') else identity}"
        yield from _cases(identity, values, text, log, name, place, needs_time)
    if not n_rows:
        raise BessemerError("there are no rows", where=f"{kind}.{name}.from", fix="check the address")
    renamed.refuse_absent(f"{kind}.{name}.columns")


def _cases(
    identity: str, values: Mapping[str, Any], text: str, log: Log | None, name: str, place: str, needs_time: bool
) -> Iterator[Case]:
    """One for each rule that the row names, or one without a rule."""
    comment = comment_of({**values, "text": text})
    time = values.get("time")
    if time in (None, "") and needs_time:
        raise BessemerError(
            "the row has no time", where=place, fix="name its column (columns: {time: ...}), or split by hash"
        )
    at = None if time in (None, "") else parse_time(time, place)
    group = str(values.get("group") or "")
    if log is None:
        yield Case(identity, comment, text, time=at, group=group)
        return
    declared = comment.community or log.community
    named_by = str(values.get("policy") or "") or name  # appeals name the policy, whose rules they are about
    comment = replace(comment, community=declared or named_by)
    named = rules_of(values.get("rule"), place, log.separator)
    found = outcome(values, place, log.removed)
    if found is None:
        raise BessemerError("the row has no action", where=place, fix=_known_words("action"))
    # The log may hold the decision from before the appeal, or after it. A log about one rule names it in no row.
    hard = not found.broken and (found.first or bool(named))
    for rule in named or [clean(log.rule)]:
        yield Case(
            identity, comment, text, rule, found.broken,
            hard=hard, appealed=found.appealed, time=at, group=group, declared=bool(declared),
        )  # fmt: skip


def rules_of(value: Any, place: str, separator: str = "") -> list[str]:
    """The rules that a cell names, cleaned: a text, a list of texts, or a text with several between separators.

    Raises BessemerError for anything else: a list that is read as one text is a rule that nobody wrote.
    """
    several = cast(list[Any], value) if isinstance(value, list) else [value]
    if any(isinstance(one, list | dict) for one in several):
        raise BessemerError("the rule is no text and no list of texts", where=place, fix="give rule ids or reasons")
    texts = [str(one) for one in several if one is not None]
    parts = [clean(part) for text in texts for part in (text.split(separator) if separator else [text])]
    return list(dict.fromkeys(part for part in parts if part))


def outcome(values: Mapping[str, Any], place: str, removed: Collection[str] = ()) -> Outcome | None:
    """What the columns action, decision and appeal say; None when they say nothing.

    removed: what `action` says of a removal, where it has words of its own. Raises BessemerError for unknown words.
    """
    acted, decided, appeal = (_word(values.get(name)) for name in ("action", "decision", "appeal"))
    if appeal not in OVERTURNED | UPHELD | NO_APPEAL:
        raise BessemerError(
            f"{appeal[:40]!r} is no outcome of an appeal",
            where=place,
            fix=f"known: {', '.join(sorted(OVERTURNED | UPHELD))}; not decided: {', '.join(sorted(NO_APPEAL - {''}))}",
        )
    appealed = appeal not in NO_APPEAL
    if not acted and not decided and appeal not in OVERTURNED:
        return None
    own = {word.lower() for word in removed}
    first = (acted in own if own else _side(acted, place, "action")) if acted else None
    last = _side(decided, place, "decision") if decided else first is not False
    return Outcome(last if first is None else first, last and appeal not in OVERTURNED, appealed)


def _word(value: Any) -> str:
    return "" if value is None else str(value).strip().lower()


def _side(word: str, place: str, column: str) -> bool:
    """True: removed. Raises BessemerError for a word that is neither."""
    if word not in REMOVED | APPROVED:
        raise BessemerError(f"{word[:40]!r} is no {column}", where=place, fix=_known_words(column))
    return word in REMOVED


def _known_words(column: str) -> str:
    return (
        f"removed: {', '.join(sorted(REMOVED))}; approved: {', '.join(sorted(APPROVED))}; or name the column "
        f"(columns: {{{column}: ...}}), or say which actions mean removed and which are ignored"
    )
