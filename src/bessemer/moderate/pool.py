"""Cases -> comments with what each breaks and keeps, each on one side of the split, no two of them alike."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bessemer.data.curate.near import I64, mix, near_duplicates
from bessemer.data.curate.split import united
from bessemer.data.moderation import Comment
from bessemer.data.rule_families import families
from bessemer.errors import BessemerError
from bessemer.files import sha256_text
from bessemer.moderate.logs import Case, final
from bessemer.recipe.moderation_recipe import Parts
from bessemer.units import parse_time

Floats = NDArray[np.float64]
SIDES = ("train", "validation", "test", "new-communities")
LIKE = 0.8  # of the comments that do not break a rule, those above this quantile of likeness are hard cases
FEWEST = 5  # comments that break a rule, so that likeness to them means something


@dataclass(eq=False)
class Pooled:
    """One comment. Rules are keys: (community, rule)."""

    id: str
    comment: Comment
    text: str
    side: str
    labelled: bool
    broken: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    kept: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    hard: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    torn: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])  # rows disagree: neither broken nor kept

    @cached_property
    def computed(self) -> frozenset[str]:
        """The families of computed rules that it breaks."""
        return frozenset(name for name, family in families().items() if family.breaks(self.text))


def pool(cases: Sequence[Case], parts: Parts, *, others_kept: bool, seed: int, left_out: Counter[str]) -> list[Pooled]:
    """Comments that are alike are one: the first of those on the most held-out side. left_out: counted by reason."""
    alike = near_duplicates([c.text for c in cases], jaccard=parts.jaccard, words=2)
    sides = _sides(cases, _with_groups(alike, cases), parts, seed)
    members: dict[int, list[int]] = defaultdict(list)
    for i, label in enumerate(alike.tolist()):
        members[label].append(i)
    found: list[Pooled] = []
    for own in members.values():
        last = max(sides[i] for i in own)
        staying = [i for i in own if sides[i] == last]
        if len(staying) < len(own):
            left_out["like a comment that is held out"] += len(own) - len(staying)
        left_out["near-duplicate"] += len({cases[i].text for i in staying}) - 1
        found.append(_one([cases[i] for i in staying], SIDES[last], left_out))
    times: Counter[str] = Counter()
    for comment in found:  # a log may have an edited comment twice under one id
        times[comment.id] += 1
        comment.id += f"~{times[comment.id]}" if times[comment.id] > 1 else ""
    rules = _rules_of(found)
    for comment in found:
        if comment.labelled:
            _complete(comment, rules, others_kept)
    _mark_hard(found)
    return found


def _with_groups(alike: I64, cases: Sequence[Case]) -> I64:
    """Comments that are alike or share a group, such as a thread."""
    units = np.array([int(sha256_text(c.group)[:15], 16) if c.group else 0 for c in cases], np.uint64)
    return united(alike, units) if units.any() else alike


def _sides(cases: Sequence[Case], labels: I64, parts: Parts, seed: int) -> list[int]:
    """A side for each case. By time a group may straddle; by hash it does not."""
    if parts.by == "time":
        times = np.array([c.time if c.time is not None else np.nan for c in cases])
        known = times[~np.isnan(times)]
        if not len(known):
            raise BessemerError(
                "no row has a time", where="split.by", fix="name its column (columns: {time: ...}), or split by hash"
            )
        validation, test = _cuts(known, parts)
        sides = [2 if t >= test else int(t >= validation) for t in times.tolist()]
    else:
        firsts = np.array([int(sha256_text(cases[i].text)[:15], 16) for i in labels], np.uint64)
        draws = mix(firsts ^ mix(np.array([seed], np.uint64))) / float(2**64)
        sides = [(d < parts.test + parts.validation) + int(d < parts.test) for d in draws.tolist()]
    apart = set(parts.communities)
    unknown = apart - {c.comment.community for c in cases}
    if unknown:
        raise BessemerError(
            f"no log has the community {sorted(unknown)[0]!r}", where="split.communities", fix="check its name"
        )
    return [3 if c.comment.community in apart else int(side) for c, side in zip(cases, sides, strict=True)]


def _cuts(times: Floats, parts: Parts) -> tuple[float, float]:
    """Where validation and test begin. Raises BessemerError where validation would begin with the test, or later."""
    given, test = parts.validation_from, float(np.quantile(times, 1 - parts.test))
    if parts.test_from is not None:
        test = parse_time(parts.test_from, "split.test_from")
    if given is None:  # its share of all comments, before the test
        held_out = parts.validation + float((times >= test).mean())
        return float(np.quantile(times, max(0.0, 1 - held_out))), test
    if (validation := parse_time(given, "split.validation_from")) >= test:
        begins = (datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds") for moment in (validation, test))
        raise BessemerError(
            "validation begins at {}, the test at {}".format(*begins),
            where="split.validation_from",
            fix="let validation begin before the test, or give test_from",
        )
    return validation, test


def _one(cases: Sequence[Case], side: str, left_out: Counter[str]) -> Pooled:
    """What several rows say about one comment. Where they disagree about a rule, outcomes of appeals outrank others and
    the latest word wins; rules about which they still disagree are left out."""
    first = next((c for c in cases if c.broken is not None), cases[0])
    made = Pooled(first.id, first.comment, first.text, side, first.broken is not None)
    said: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in cases:
        if case.broken is not None:
            said[case.comment.community, case.rule].append(case)
    for key, rows in said.items():
        for case in final(rows):
            (made.broken if case.broken else made.kept).add(key)
            if case.hard and case.rule:
                made.hard.add(key)
    made.torn = made.broken & made.kept
    if made.torn:
        left_out["rows disagree about a rule"] += len(made.torn)
    for rules in (made.broken, made.kept, made.hard):
        rules.difference_update(made.torn)
    return made


def _rules_of(comments: Sequence[Pooled]) -> dict[str, set[tuple[str, str]]]:
    """The rules of each community that some comment breaks."""
    rules: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for comment in comments:
        for key in comment.broken:
            if key[1]:
                rules[key[0]].add(key)
    return rules


def _complete(comment: Pooled, rules: Mapping[str, set[tuple[str, str]]], others_kept: bool) -> None:
    """A removal without a reason tells of no rule, an approval without one of all rules of the community.

    others_kept: a removal for some rules tells that the others are kept. An approval that names a rule is about that
    rule only: a granted appeal, an answer of a review. Each community speaks of its own rules.
    """
    for community in {name for name, _ in comment.broken | comment.kept}:
        unnamed = (community, "")
        removed, approved = unnamed in comment.broken, unnamed in comment.kept
        comment.broken.discard(unnamed)
        comment.kept.discard(unnamed)
        broken = {key for key in comment.broken if key[0] == community}
        if removed:
            comment.broken -= broken
            comment.kept -= {key for key in comment.kept - comment.hard if key[0] == community}
        elif approved or (others_kept and broken):
            comment.kept |= rules.get(community, set()) - broken - comment.torn


def _mark_hard(comments: Sequence[Pooled]) -> None:
    """Kept rules whose removed comments are like this one: TF-IDF against their mean."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    labelled = [c for c in comments if c.labelled]
    of: dict[tuple[str, str], list[int]] = defaultdict(list)
    kept_of: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, comment in enumerate(labelled):
        for key in comment.broken:
            of[key].append(i)
        for key in comment.kept:
            kept_of[key].append(i)
    if not any(len(own) >= FEWEST for own in of.values()):
        return
    texts = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), max_features=50_000).fit_transform(
        [c.text for c in labelled]
    )
    for key, own in of.items():
        candidates = kept_of.get(key, [])
        if len(own) < FEWEST or not candidates:
            continue
        mean = np.asarray(texts[own].mean(axis=0)).ravel()
        likeness = texts[candidates] @ mean
        border = np.quantile(likeness, LIKE)
        for i, value in zip(candidates, likeness.tolist(), strict=True):
            if value > border:
                labelled[i].hard.add(key)
