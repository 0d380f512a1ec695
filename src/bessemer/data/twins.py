"""Which comment goes under which two rules: one that it breaks, one that it keeps.

Each comment has both answers, so the comment alone tells nothing; each rule is broken about as often as kept, so the
rule alone tells nothing either.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key")
Rule = TypeVar("Rule")  # an id, or a community and an id


@dataclass(frozen=True)
class Truths(Generic[Rule]):
    """The rules that a comment breaks, and those that it keeps."""

    broken: tuple[Rule, ...]
    kept: tuple[Rule, ...]


def choose_twins(
    comments: Iterable[tuple[Key, Truths[Rule]]],
    n_twins: int,
    most: float,
    rng: random.Random,
    yes: Counter[Rule] | None = None,
    no: Counter[Rule] | None = None,
) -> Iterator[tuple[Key, Rule, Rule]]:
    """(key, broken rule, kept rule) of up to `n_twins` comments, in the order they come.

    most: a rule that was broken more often than this waits for the others, which keeps rare rules visible. yes, no: how
    often each rule stands as broken and as kept already; they are counted on.
    """
    yes = Counter[Rule]() if yes is None else yes
    no = Counter[Rule]() if no is None else no
    n_chosen = 0
    for key, comment in comments:
        if n_chosen == n_twins:
            return
        broken = [r for r in comment.broken if yes[r] <= most]
        if not broken or not comment.kept:
            continue
        break_it = min(broken, key=lambda r: (yes[r], rng.random()))
        keep_it = max(comment.kept, key=lambda r: (yes[r] - no[r], rng.random()))
        yes[break_it] += 1
        no[keep_it] += 1
        n_chosen += 1
        yield key, break_it, keep_it


def balance(twins: Iterable[tuple[Key, Rule, Rule]], tolerance: float) -> list[tuple[Key, Rule, Rule]]:
    """Leave out twins until every rule is broken about as often as kept.

    tolerance: how much |broken - kept| may be, as a share of the rule's twins. What goes first is a twin between the
    rule that is most often broken and the one that is most often kept, the latest of them.
    """
    pairs: dict[tuple[Rule, Rule], list[int]] = {}
    left = list(twins)
    for i, (_, broken, kept) in enumerate(left):
        pairs.setdefault((broken, kept), []).append(i)
    yes, no = Counter(b for _, b, _ in left), Counter(k for _, _, k in left)

    def is_off(rule: Rule) -> bool:
        return abs(yes[rule] - no[rule]) > max(1.0, tolerance * (yes[rule] + no[rule]))

    gone: set[int] = set()
    while wrong := {rule for rule in yes | no if is_off(rule)}:
        touching = [pair for pair in pairs if wrong & set(pair)]
        worst = max(touching, key=lambda p: (yes[p[0]] - no[p[0]]) - (yes[p[1]] - no[p[1]]))
        gone.add(pairs[worst].pop())
        if not pairs[worst]:
            del pairs[worst]
        yes[worst[0]] -= 1
        no[worst[1]] -= 1
    return [twin for i, twin in enumerate(left) if i not in gone]
