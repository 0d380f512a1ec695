"""The worth of an answer about a rule whose truth code can compute: exact, free, without a judge."""

from __future__ import annotations

from bessemer.data.items import Item
from bessemer.data.moderation import NO, YES, clean
from bessemer.data.rule_families import family
from bessemer.errors import BessemerError

LABEL = "Comment: "  # of the form in data/moderation.py


def rule_reward(item: Item, answer: str) -> float:
    """1.0 when the answer is what code finds, else 0.0; an answer that is neither yes nor no is worth 0.0.

    item: a question whose `meta["rule"]` names a family; the comment is read from its last user message. Raises
    BessemerError when there is no such family or no comment.
    """
    name = str(item.meta.get("rule", ""))
    rule = family(name)
    asked = next((m.content for m in reversed(item.messages) if m.role == "user"), "")
    comment = next((line.removeprefix(LABEL) for line in asked.splitlines() if line.startswith(LABEL)), "")
    if rule is None or not comment:
        raise BessemerError(
            f"code knows no answer: meta.rule is {name!r}" if rule is None else "the prompt holds no comment",
            where=f"item {item.id}",
            fix="reward only items of families in data/rule_families.yaml, in the form of data/moderation.py",
        )
    return float(answer.strip().lower() == (YES if rule.breaks(clean(comment)) else NO))
