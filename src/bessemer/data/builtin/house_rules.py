"""House rules of a community: the rule is part of the input, and code knows the truth.

Every comment appears as a twin: under one rule that it breaks and one that it keeps. The comment alone predicts
nothing by construction, and each rule is broken about as often as kept, so the rule alone predicts nothing
either. Most of the families are about words, because a small model learns those in minutes; punctuation and counting
rules are known to be hard at this size (three are in, honestly marked).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

from bessemer.data.builtin import comments
from bessemer.data.items import Item
from bessemer.data.moderation import clean, example
from bessemer.data.rule_families import families
from bessemer.data.twins import Truths, choose_twins

SEED = 20261123
TWINS = {"train": 1100, "trained": 120, "new-wording": 70, "new-rule": 70}
WAITS = 1.3  # times its even share of the twins, after which a rule waits for the others
TRAINED = tuple(f for f in families().values() if f.use == "demo")
UNSEEN = tuple(f for f in families().values() if f.use == "demo-unseen")


@cache
def read(split: str) -> list[Item]:
    """Twins for `train`, or held-out ones: `trained` rules, `new-wording`, `new-rule`.

    Each item is a conversation with the answer yes (broken) or no (kept); twins share `group`.
    """
    used = {f.name: f for f in (UNSEEN if split == "new-rule" else TRAINED)}
    rng = random.Random(f"{SEED} {split}")
    usable = [(i, c) for i, c in comments.domain_comments(test=split != "train") if 3 <= len(c.split()) <= 13]
    rng.shuffle(usable)

    def truths() -> Iterator[tuple[tuple[str, str], Truths[str]]]:
        for number, comment in usable:
            broken = tuple(name for name, f in used.items() if f.breaks(clean(comment)))
            yield (number, comment), Truths(broken, tuple(name for name in used if name not in broken))

    items: list[Item] = []
    most = WAITS * TWINS[split] / len(used)
    for (number, comment), break_it, keep_it in choose_twins(truths(), TWINS[split], most, rng):
        for name, broken in ((break_it, True), (keep_it, False)):
            wordings = used[name].wordings
            wording = wordings[-1] if split == "new-wording" else rng.choice(wordings[:-1])
            items.append(
                Item(
                    id=f"{split}:{number}:{name}",
                    messages=example(comment, wording, broken),
                    group=f"{split}:{number}",
                    meta={"rule": name, "licence": comments.LICENCE},
                )
            )
    return items
