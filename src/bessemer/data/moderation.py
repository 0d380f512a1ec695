"""The form in which a model is asked whether a comment breaks a rule: the same in training, evaluation and serving.

The comment stands before the rule, so that everything up to `Rule:` is the same for all rules of a policy and is
computed once. Texts are cleaned here; what people are shown stays as it was written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bessemer.data.items import Message

SYSTEM = "Does the comment break the rule?"
YES, NO = ANSWERS = ("yes", "no")
MAX_CHARACTERS = 40_000  # a comment longer than this is not judged
MAX_CONTEXT = 300  # characters of a title or of what is answered; the rest is left out
MOST_MARKS = 3  # combining marks in a row

_OVERRIDE = re.compile("\u202e([^\u202a-\u202e\u2066-\u2069\n]*)(?:\u202c|(?=[\u202a-\u202e\u2066-\u2069\n])|$)")
# Blank fillers, the grapheme joiner and variation selectors; category Cf (zero width, direction, tags) comes on top.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class Comment:
    """What is judged, as it was written, and what it answers."""

    text: str
    title: str = ""
    parent: str = ""
    community: str = ""


@dataclass(frozen=True)
class RuleText:
    """A rule as the model reads it."""

    text: str
    includes: Sequence[str] = ()
    excludes: Sequence[str] = ()
    breaks: Sequence[str] = ()  # examples
    keeps: Sequence[str] = ()

    def lines(self) -> list[str]:
        parts = (
            ("Covered", self.includes),
            ("Not covered", self.excludes),
            ("Breaks it", self.breaks),
            ("Keeps it", self.keeps),
        )
        more = [f"{name}: {'; '.join(map(clean, texts))}" for name, texts in parts if texts]
        return [f"Rule: {clean(self.text)}", *more]


def ask(comment: str | Comment, rule: str | RuleText) -> tuple[Message, ...]:
    """The prompt: one question, one comment, one rule. The answer is one of `ANSWERS`."""
    comment = Comment(comment) if isinstance(comment, str) else comment
    rule = RuleText(rule) if isinstance(rule, str) else rule
    about = (("Community", comment.community), ("Title", comment.title), ("Reply to", comment.parent))
    lines = [f"{name}: {_context(text)}" for name, text in about if text.strip()]
    return Message("system", SYSTEM), Message(
        "user", "\n".join([*lines, f"Comment: {clean(comment.text)}", *rule.lines()])
    )


def shorten(comment: Comment) -> Comment:
    """With no more of title, parent and community than is read, cleaned, so that many prompts clean little."""
    return Comment(comment.text, *(_context(text) for text in (comment.title, comment.parent, comment.community)))


def _context(text: str) -> str:
    return clean(text[:MAX_CHARACTERS])[:MAX_CONTEXT]


def example(comment: str | Comment, rule: str | RuleText, broken: bool) -> tuple[Message, ...]:
    """The conversation that teaches one answer."""
    return (*ask(comment, rule), Message("assistant", YES if broken else NO))


def clean(text: str) -> str:
    """One line of what a reader sees: no invisible characters, no tricks of direction, one space between words."""
    if not (text.isascii() and text.isprintable()):
        text = _OVERRIDE.sub(lambda m: m[1][::-1], text)
        text = unicodedata.normalize("NFKC", _BLANK.sub("", text))
        text = "".join(_shown(c) for c in text)
        text = _few_marks(text)
    return _SPACES.sub(" ", text).strip()


def _shown(character: str) -> str:
    match unicodedata.category(character):
        case "Cf":
            return ""
        case "Cc" | "Zl" | "Zp":
            return " "
        case "Cs" | "Co" | "Cn":
            return "\ufffd"
        case _:
            return character


def _few_marks(text: str) -> str:
    kept: list[str] = []
    in_a_row = 0
    for character in text:
        in_a_row = in_a_row + 1 if unicodedata.category(character) == "Mn" else 0
        if in_a_row <= MOST_MARKS:
            kept.append(character)
    return "".join(kept)


def comment_of(row: dict[str, Any]) -> Comment:
    """From a row of a file; absent fields are empty."""
    return Comment(*(str(row.get(name) or "") for name in ("text", "title", "parent", "community")))
