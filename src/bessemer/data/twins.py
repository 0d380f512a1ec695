"""Which comment goes under which two rules: one that it breaks, one that it keeps.

Each comment has both answers, so the comment alone tells nothing; each rule is broken about as often as kept, so the
rule alone tells nothing either.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from bessemer.data.rule_families import words_of

SLACK = 5  # times that a rule may stand as kept beyond those as broken, where an opposite one is broken
COMMON = 0.02  # share of the comments; a word in more of them is not named
Key = TypeVar("Key")
Id = TypeVar("Id", bound=Hashable)
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
    weight: Callable[[Rule], float] = lambda _rule: 1.0,
    opposites: Callable[[Rule], Collection[Rule]] | None = None,
) -> Iterator[tuple[Key, Rule, Rule]]:
    """(key, broken rule, kept rule) of up to `n_twins` comments, in the order they come.

    most: a rule that was broken more often than this waits for the others, which keeps rare rules visible. yes, no: how
    often each rule stands as broken and as kept already; they are counted on. weight: how many times as many twins as
    others a rule gets, where there are so many comments. opposites: rules that forbid the contrary; one of them is the
    kept rule where the comment keeps one that is not kept too often already.
    """
    yes = Counter[Rule]() if yes is None else yes
    no = Counter[Rule]() if no is None else no
    n_chosen = 0
    for key, comment in comments:
        if n_chosen == n_twins:
            return
        broken = [r for r in comment.broken if yes[r] <= most * weight(r)]
        if not broken or not comment.kept:
            continue
        break_it = min(broken, key=lambda r: (yes[r] / weight(r), rng.random()))
        rivals = opposites(break_it) if opposites else ()
        contrary = [r for r in comment.kept if r in rivals and no[r] <= yes[r] + SLACK]
        keep_it = max(contrary or comment.kept, key=lambda r: (yes[r] - no[r], rng.random()))
        yes[break_it] += 1
        no[keep_it] += 1
        n_chosen += 1
        yield key, break_it, keep_it


def choose_named(
    comments: Sequence[tuple[Id, str]], n_twins: int, rng: random.Random, left_out: Callable[[str], bool]
) -> list[tuple[Id, str, str]]:
    """(key, a word that the comment holds, one that it does not hold) of up to `n_twins` comments, in a drawn order.

    Every word stands as often on one side as on the other, but for a few that find no place. Words are neither so
    common that they say nothing nor so rare that they are slips. left_out: words of rules that are for no training.
    """
    words = {key: sorted(words_of(text)) for key, text in comments}
    known = Counter(word for own in words.values() for word in own)
    usable = {w for w, n in known.items() if 3 <= n <= max(3, COMMON * len(comments)) and not left_out(w)}
    used, held = Counter[str](), list[tuple[Id, str]]()
    for key in rng.sample(list(words), len(words)):
        own = [w for w in words[key] if w in usable]
        if own and len(held) < n_twins:
            word = min(own, key=lambda w: (used[w], rng.random()))
            used[word] += 1
            held.append((key, word))
    held.sort(key=lambda pair: pair[1])
    absent = [word for _, word in [*held[len(held) // 2 :], *held[: len(held) // 2]]]
    for i, (key, _) in enumerate(held):
        for _ in range(20):
            j = rng.randrange(len(held))
            if absent[i] not in words[key]:
                break
            if absent[j] not in words[key] and absent[i] not in words[held[j][0]]:
                absent[i], absent[j] = absent[j], absent[i]
    chosen = [(key, word, other) for (key, word), other in zip(held, absent, strict=True) if other not in words[key]]
    rng.shuffle(chosen)
    return chosen


def even_out(
    twins: Iterable[tuple[Id, Rule, Rule]], others: Callable[[Id, Rule, Rule], Truths[Rule]]
) -> list[tuple[Id, Rule, Rule]]:
    """Exchange rules of twins for other rules of their comments, as long as rules come closer to being broken as often
    as kept. Nothing is left out, so what `balance` then must take away is what no exchange mends.

    others: the rules that may stand in the place of a twin's broken and of its kept one; none where it is to stay.
    """
    found = list(twins)
    surplus = Counter(b for _, b, _ in found)
    surplus.subtract(k for _, _, k in found)
    asked = {(key, rule) for key, *rules in found for rule in rules}  # no comment twice under one rule
    moved = True
    while moved:
        moved = False
        for i, (key, *pair) in enumerate(found):
            choice = others(key, *pair)
            for side, sign, rules in ((0, 1, choice.broken), (1, -1, choice.kept)):
                old = pair[side]
                free = [rule for rule in rules if (key, rule) not in asked]
                new = min(free, key=lambda rule: sign * surplus[rule], default=old)
                if sign * (surplus[old] - surplus[new]) > 1:
                    surplus[old] -= sign
                    surplus[new] += sign
                    asked ^= {(key, old), (key, new)}
                    pair[side], moved = new, True
            found[i] = (key, pair[0], pair[1])
    return found


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
