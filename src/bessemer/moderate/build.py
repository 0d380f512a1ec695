"""Moderation logs, policies and comments -> a data set of twins, after both blind baselines were looked at."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bessemer.data.curate.prepare import Prepared
from bessemer.data.items import Item, digest_items
from bessemer.data.moderation import RuleText, example
from bessemer.data.rule_families import FILE, NAMES, families, family, words_of
from bessemer.data.twins import Truths, balance, choose_named, choose_twins, even_out
from bessemer.errors import BessemerError
from bessemer.files import canonical_json, sha256_file, sha256_text
from bessemer.moderate.blind import Blind, blind_baselines
from bessemer.moderate.dataset import add_version, find_version, held
from bessemer.moderate.logs import Case, read_cases
from bessemer.moderate.policy import Policy, load_policy
from bessemer.moderate.pool import SIDES, Pooled, pool
from bessemer.recipe.moderation_recipe import ModerationRecipe
from bessemer.track.screen import Screen

BUILD = 6  # raised when the same ingredients give other twins than before
TOLERANCE = 0.04  # |broken - kept| as a share of a rule's twins
APPROVED = 0.75  # share of a rule's kept cases that come from approved comments, where there are so many
PER_HELD_OUT = 5  # twins of a removed comment outside training, where no setting of training changes the questions
TOGETHER = 2  # twins of a comment in one row of training, where what they begin with is computed once
SHAPES = 3  # in training: times as many twins for a rule about marks, counts or shape as for one about words
Key = tuple[str, str]  # (community, rule); of a computed rule ("", family)
Twin = tuple[Pooled, Key, Key]  # the broken and the kept rule
Word = Callable[[Key, random.Random], RuleText]


@dataclass(frozen=True)
class Built:
    """What was made, or found made."""

    prepared: Prepared
    report: dict[str, Any]


def build(recipe: ModerationRecipe, screen: Screen) -> Built:
    """Raises BessemerError, for a leak with its numbers; nothing is written then."""
    known = _known_families(recipe)
    policies = [load_policy(p) for p in recipe.policies]
    left_out: Counter[str] = Counter()
    with screen.step("logs and comments read"):
        by_time = recipe.split.by == "time"
        cases = [
            *(c for n, s in recipe.logs.items() for c in read_cases(n, s, left_out, needs_time=by_time)),
            *(c for n, s in recipe.comments.items() for c in read_cases(n, s, left_out)),
        ]
        cases = _by_id(cases, policies)
    ingredients = _ingredients(recipe, cases, policies)
    with held(recipe.name):
        if old := find_version(recipe.name, ingredients):
            screen.say(f"{old.reference} is made of exactly this; nothing to do")
            return Built(old, old.manifest["moderation"])
        with screen.step("comments compared and split"):
            pooled = pool(cases, recipe.split, others_kept=recipe.others_kept, seed=recipe.seed, left_out=left_out)
        with screen.step("twins chosen"):
            by_side = _parts(recipe, pooled, known, policies, _nameless(cases, policies))
            parts = {name: items for name, items in by_side.items() if items}
        if "train" not in parts:
            raise BessemerError(
                f"no twins for training out of {len(cases)} rows", where=recipe.name,
                fix="a twin needs a comment that breaks one rule and keeps another one: add rules, logs or comments",
            )  # fmt: skip
        with screen.step("blind baselines computed"):
            blind = {name: _blind(items) for name, items in parts.items()}
        named = {(c.comment.community, c.rule) for c in cases if c.rule}
        report = _report(parts, blind, left_out, len(cases), named - _wordings(policies).keys())
        _refuse_leaks(recipe, blind)
        texts = [Item(c.id, text=c.text, meta={"community": c.comment.community}) for c in pooled if c.side == "train"]
        bare = {name: [_bare(item) for item in items] for name, items in parts.items()}
        made = add_version(
            recipe.name,
            {**bare, "texts": texts},
            ingredients=ingredients,
            recipe=recipe.model_dump(by_alias=True, mode="json", exclude_none=True),
            report=report,
        )
        return Built(made, report)


def _known_families(recipe: ModerationRecipe) -> tuple[list[str], list[str]]:
    """(for training, for no training)."""
    every = families()
    asked = recipe.computed
    apart = [*asked.unseen, *asked.validation]
    unknown = sorted({*asked.families, *apart} - every.keys())
    if unknown:
        raise BessemerError(f"{unknown[0]!r} is no family of rules", where="computed", fix=f"known: {', '.join(every)}")
    return asked.families or [name for name in every if name not in apart], apart


def _ingredients(recipe: ModerationRecipe, cases: Sequence[Case], policies: Sequence[Policy]) -> dict[str, Any]:
    settings = recipe.model_dump(mode="json", exclude={"name", "logs", "comments", "policies"})
    return {
        "sources": {"cases": sha256_text(canonical_json([repr(c) for c in cases]))},
        "policies": [(p.community or p.name, p.digest) for p in policies],
        "settings": settings,
        "families": [sha256_file(FILE), sha256_file(FILE.with_suffix(".py"))],
        "build": BUILD,
        "form": digest_items([Item("form", messages=example("comment", "rule", True))]),
    }


# -- twins ------------------------------------------------------------------------------------------------------


def _parts(
    recipe: ModerationRecipe, pooled: Sequence[Pooled], known: tuple[list[str], list[str]], policies: Sequence[Policy],
    nameless: Collection[str],
) -> dict[str, list[Item]]:  # fmt: skip
    trained, apart = known
    wordings = _wordings(policies)

    def seen(key: Key, rng: random.Random) -> RuleText:
        if key[0]:
            return rng.choice(wordings[key]) if key in wordings else RuleText(key[1])
        known = family(key[1])
        assert known is not None, key
        return RuleText(rng.choice(known.trained))

    def last(key: Key, rng: random.Random) -> RuleText:
        return RuleText(families()[key[1]].wordings[-1])

    found: dict[str, list[Item]] = {}
    for side in SIDES:
        own = [c for c in pooled if c.side == side]
        n_computed = {"train": recipe.computed.twins, "new-communities": 0}.get(side, recipe.computed.held_out)
        rng = random.Random(f"{recipe.seed} {side}")
        twins = _all_twins(own, trained, recipe, n_computed, rng, taught=side == "train")
        if side == "train":
            twins += _named(own, apart, recipe, random.Random(f"{recipe.seed} named"))
        rng.shuffle(twins)
        found[side] = _items(side, twins, seen, rng, nameless)
        if side == "train":  # what training did not see is not tested as seen
            used = {i.meta["rule"] for i in found[side] if i.meta["truth"] == "code"}
            trained = [name for name in trained if name in used]
    for name, side, names, word in (
        ("new-wordings", "test", trained, last),
        ("new-rules", "test", recipe.computed.unseen, seen),
        ("validation-rules", "validation", recipe.computed.validation, seen),
    ):
        rng = random.Random(f"{recipe.seed} {name}")
        held_out = [c for c in pooled if c.side == side]
        twins = _computed(held_out, names, recipe, recipe.computed.held_out, rng)
        found[name] = _items(name, balance(twins, TOLERANCE), word, rng, nameless)
    return found


def _wordings(policies: Sequence[Policy]) -> Mapping[Key, list[RuleText]]:
    """How each rule of each community may be read."""
    found: dict[Key, list[RuleText]] = defaultdict(list)
    for policy in policies:
        for rule in policy.rules:
            found[policy.community or policy.name, rule.id].append(rule.read)
    return found


def _nameless(cases: Sequence[Case], policies: Sequence[Policy]) -> set[str]:
    """The communities that nobody names when a comment is judged: no row, no log and no policy declares them."""
    declared = {p.community for p in policies} | {c.comment.community for c in cases if c.declared}
    return {c.comment.community for c in cases} - declared


def _by_id(cases: Sequence[Case], policies: Sequence[Policy]) -> list[Case]:
    """Rules under their policy's id, whether a log names or quotes them; others as they were written first.

    Under two names a comment would break a rule and keep it.
    """
    known: dict[Key, str] = {}
    for policy in policies:
        for name, rule in policy.names.items():
            known.setdefault((policy.community or policy.name, name), rule)
    found: list[Case] = []
    for case in cases:
        rule = known.setdefault((case.comment.community, case.rule.casefold()), case.rule) if case.rule else ""
        found.append(case if rule == case.rule else replace(case, rule=rule))
    return found


def _all_twins(
    comments: Sequence[Pooled],
    trained: Sequence[str],
    recipe: ModerationRecipe,
    n_computed: int,
    rng: random.Random,
    *,
    taught: bool,
) -> list[Twin]:
    """Those of the log, then computed ones that even out the computed rules; every rule balanced."""
    yes: Counter[Key] = Counter()
    no: Counter[Key] = Counter()
    per_comment = recipe.per_comment if taught else PER_HELD_OUT
    twins = list(_logged(comments, trained, per_comment, rng, yes, no))
    twins += _computed(comments, trained, recipe, n_computed, rng, yes, no, taught=taught)

    def others(comment: Pooled, broken: Key, kept: Key) -> Truths[Key]:
        """Computed rules for computed ones, but in twins that teach a direction."""
        if taught and not broken[0] and not kept[0] and kept[1] in families()[broken[1]].opposites:
            return Truths((), ())
        own = [name for name in trained if name in comment.computed]
        rest = [name for name in trained if name not in comment.computed]
        return Truths(
            () if broken[0] else tuple(("", name) for name in own),
            () if kept[0] else tuple(("", name) for name in rest),
        )

    return balance(even_out(twins, others), TOLERANCE)


def _logged(
    comments: Sequence[Pooled],
    trained: Sequence[str],
    per_comment: int,
    rng: random.Random,
    yes: Counter[Key],
    no: Counter[Key],
) -> Iterator[Twin]:
    """What the log knows. A removed comment breaks its rule and keeps another; an approved one keeps the rule and
    breaks a computed one, so that approved comments are not recognised by their answer."""
    labelled = [c for c in comments if c.labelled]
    rng.shuffle(labelled)
    removed: list[tuple[Pooled, Key]] = []
    for comment in labelled:
        for _ in range(per_comment if comment.broken else 0):
            rule = min(sorted(comment.broken), key=lambda r: yes[r])
            yes[rule] += 1
            removed.append((comment, rule))
    approved = [c for c in labelled if not c.broken and c.kept]
    approved = _alternating([c for c in approved if c.hard], [c for c in approved if not c.hard])
    used: set[str] = set()
    yield from _approved(approved, used, APPROVED, trained, rng, yes, no)
    for comment, break_it in removed:
        kept = [*sorted(comment.kept), *(("", n) for n in trained if n not in comment.computed)]
        if not kept:
            yes[break_it] -= 1
            continue
        keep_it = max(kept, key=lambda r: (yes[r] - no[r] + 2 * (r in comment.hard), rng.random()))
        no[keep_it] += 1
        yield comment, break_it, keep_it
    yield from _approved(approved, used, 1, trained, rng, yes, no)  # where no removed comment was left to keep a rule


def _alternating(one: Sequence[Pooled], other: Sequence[Pooled]) -> list[Pooled]:
    """Hard cases and usual ones in turn, while there are both: of hard ones alone a model learns no usual case."""
    n = min(len(one), len(other))
    return [*(c for pair in zip(one[:n], other[:n], strict=True) for c in pair), *one[n:], *other[n:]]


def _approved(
    comments: Sequence[Pooled],
    used: set[str],
    share: float,
    trained: Sequence[str],
    rng: random.Random,
    yes: Counter[Key],
    no: Counter[Key],
) -> Iterator[Twin]:
    """Each approved comment once, until `share` of a rule's kept cases are theirs."""
    for comment in comments:
        open_ = [r for r in sorted(comment.kept) if no[r] < share * yes[r]]
        broken = [("", n) for n in trained if n in comment.computed] if open_ else []
        if not broken or comment.id in used:
            continue
        keep_it = max(open_, key=lambda r: (r in comment.hard, yes[r] - no[r], rng.random()))
        break_it = min(broken, key=lambda r: (yes[r] - no[r], rng.random()))
        used.add(comment.id)
        yes[break_it] += 1
        no[keep_it] += 1
        yield comment, break_it, keep_it


def _computed(
    comments: Sequence[Pooled],
    used: Sequence[str],
    recipe: ModerationRecipe,
    n_twins: int,
    rng: random.Random,
    yes: Counter[Key] | None = None,
    no: Counter[Key] | None = None,
    *,
    taught: bool = False,
) -> list[Twin]:
    """Comments under two rules whose truth code knows: all without a label, and a share of the log's.

    taught: for training. A rule about marks, counts or shape then gets `SHAPES` times as many twins as one about words,
    and one that forbids too few stands beside one that forbids too many: only the words between them differ.
    """
    fewest, most = recipe.computed.words
    usable = [c for c in comments if fewest <= len(c.text.split()) <= most]
    usable = [c for c in usable if not c.labelled or rng.random() < recipe.mixed]
    rng.shuffle(usable)

    def truths() -> Iterator[tuple[Pooled, Truths[Key]]]:
        for comment in usable:
            broken = tuple(("", name) for name in used if name in comment.computed)
            yield comment, Truths(broken, tuple(key for name in used if (key := ("", name)) not in broken))

    def weight(key: Key) -> float:
        return SHAPES if taught and not families()[key[1]].about_words else 1

    def opposites(key: Key) -> set[Key]:
        return {("", name) for name in families()[key[1]].opposites} if taught else set()

    known = max((n for key, n in (yes or Counter[Key]()).items() if not key[0]), default=0)
    most = 1.5 * n_twins / max(1, sum(weight(("", name)) for name in used)) + known
    return list(choose_twins(truths(), n_twins, most, rng, yes, no, weight, opposites))


def _named(
    comments: Sequence[Pooled], apart: Sequence[str], recipe: ModerationRecipe, rng: random.Random
) -> list[Twin]:
    """Comments under two rules that name a word, half of them a second one that the comment does not hold.

    Never a word of a rule that is for no training.
    """
    fewest, most = recipe.computed.words
    usable = {c.id: c for c in comments if fewest <= len(c.text.split()) <= most}
    tested = [families()[name] for name in apart if families()[name].about_words]
    texts = [(c.id, c.text) for c in usable.values()]
    twins = choose_named(texts, recipe.computed.named, rng, lambda word: any(f.breaks(word) for f in tested))
    words = sorted({word for _, word, _ in twins})

    def rule(comment: Pooled, word: str) -> Key:
        second = rng.choice(words)
        if rng.random() < 0.5 or second == word or second in words_of(comment.text):
            return "", NAMES + word
        return "", NAMES + "+".join(rng.sample((word, second), 2))

    return [(usable[key], rule(usable[key], word), rule(usable[key], other)) for key, word, other in twins]


def _items(side: str, twins: Sequence[Twin], word: Word, rng: random.Random, nameless: Collection[str]) -> list[Item]:
    seen: Counter[str] = Counter()
    items: list[Item] = []
    for comment, break_it, keep_it in twins:
        seen[comment.id] += 1
        twin = f"{side}:{comment.id}:{seen[comment.id]}"
        group = f"{side}:{comment.id}:{-(-seen[comment.id] // TOGETHER)}" if side == "train" else twin
        for key, broken in ((break_it, True), (keep_it, False)):
            rule = word(key, rng)
            community = key[0] or comment.comment.community  # of comments alike, each has its community's rules
            meta = {"rule": key[1], "truth": "log" if key[0] else "code", "comment": comment.id}
            meta |= {"community": community} if community else {}
            meta |= {"asked": "\n".join(rule.lines()), "text": comment.text}
            answer = "yes" if broken else "no"
            said = replace(comment.comment, community="" if community in nameless else community)
            items.append(Item(f"{twin}:{answer}", messages=example(said, rule, broken), group=group, meta=meta))
    return items


# -- what is found, what is written --------------------------------------------------------------------------------


def _blind(items: Sequence[Item]) -> Blind:
    broken = [i.messages[-1].content == "yes" for i in items]
    groups = [str(i.meta["comment"]) for i in items]
    return blind_baselines([str(i.meta["text"]) for i in items], [str(i.meta["asked"]) for i in items], broken, groups)


def _refuse_leaks(recipe: ModerationRecipe, blind: Mapping[str, Blind]) -> None:
    leaks = [f"{side}: {leak}" for side, found in blind.items() for leak in found.leaks(recipe.leak)]
    if leaks:
        raise BessemerError(
            f"the answer can be guessed without the rule or without the comment (limit {recipe.leak:.3f}): "
            + "; ".join(leaks),
            where=recipe.name,
            fix="look at `bessemer data moderation --json`; add approved comments of these rules, or more rules",
        )


def _report(
    parts: Mapping[str, Sequence[Item]], blind: Mapping[str, Blind], left_out: Counter[str], n_rows: int,
    unworded: Collection[Key],
) -> dict[str, Any]:  # fmt: skip
    """unworded: rules that no policy words, which are read as the log writes them."""
    return {
        "rows": n_rows,
        "left_out": dict(+left_out),
        "unworded": sorted(f"{community}: {rule}" for community, rule in unworded),
        "splits": {
            name: {
                "twins": len(items) // 2,
                "comments": len({i.meta["comment"] for i in items}),
                "from_logs": sum(i.meta["truth"] == "log" for i in items),
                "rules": _rules(items),
                "blind": blind[name].as_dict(),
            }
            for name, items in parts.items()
        },
    }


def _rules(items: Sequence[Item]) -> dict[str, list[int]]:
    """Rule -> how often broken, how often kept; those that name a word together."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for item in items:
        rule = str(item.meta["rule"])
        found["a named word" if rule.startswith(NAMES) else rule][item.messages[-1].content == "no"] += 1
    return dict(sorted(found.items()))


def _bare(item: Item) -> Item:
    """Without what the messages hold already."""
    return Item(
        item.id,
        item.text,
        item.messages,
        item.group,
        {k: v for k, v in item.meta.items() if k not in {"asked", "text"}},
    )
