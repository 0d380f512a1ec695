from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.data.rule_families import NAMES, families, family, words_of
from bessemer.data.twins import Truths, balance, choose_named, choose_twins, even_out

RULES = [f"r{i}" for i in range(9)]


@given(st.lists(st.tuples(st.sampled_from(RULES), st.sampled_from(RULES)), max_size=200))
def test_balance_leaves_every_rule_as_often_broken_as_kept(pairs: list[tuple[str, str]]) -> None:
    twins = [(i, b, k) for i, (b, k) in enumerate(pairs) if b != k]
    left = balance(twins, 0.05)
    assert set(left) <= set(twins)
    yes, no = Counter(b for _, b, _ in left), Counter(k for _, _, k in left)
    assert all(abs(yes[r] - no[r]) <= max(1, 0.05 * (yes[r] + no[r])) for r in RULES)


def truths(seed: int, n: int) -> list[Truths[str]]:
    """Comments that all break r0, which nobody can keep, and often r1."""
    rng = random.Random(seed)
    broken = [
        {"r0", *rng.sample(RULES[1:], rng.randrange(3)), *(["r1"] if rng.random() < 0.6 else [])} for _ in range(n)
    ]
    return [Truths(tuple(sorted(b)), tuple(r for r in RULES if r not in b)) for b in broken]


@given(st.integers(0, 99), st.integers(1, 60))
def test_exchanges_stay_true_and_come_closer_to_balance(seed: int, n: int) -> None:
    rng, known = random.Random(seed), truths(seed, n)
    twins = [
        (i, rng.choice(t.broken), rng.choice(t.kept)) for i, t in enumerate(known) for _ in range(rng.choice((1, 2)))
    ]
    twins = list(dict.fromkeys(twins))
    fixed = {key for key, *_ in twins if key % 5 == 0}
    made = even_out(twins, lambda key, b, k: Truths((), ()) if key in fixed else known[key])

    def distance(some: list[tuple[int, str, str]]) -> int:
        surplus = Counter(b for _, b, _ in some)
        surplus.subtract(k for _, _, k in some)
        return sum(n * n for n in surplus.values())

    assert [key for key, *_ in made] == [key for key, *_ in twins] and distance(made) <= distance(twins)
    assert all(b in known[key].broken and k in known[key].kept for key, b, k in made)
    assert all(new == old for new, old in zip(made, twins, strict=True) if new[0] in fixed)
    stood = Counter((key, r) for key, *rules in twins for r in rules)
    assert all(n <= max(1, stood[asked]) for asked, n in Counter((key, r) for key, *rs in made for r in rs).items())


def test_exchanges_save_what_balance_would_take() -> None:
    known = truths(1, 300)
    twins = [(i, "r0" if i % 2 else t.broken[-1], t.kept[-1]) for i, t in enumerate(known)]
    made = even_out(twins, lambda key, b, k: known[key])
    assert len(balance(twins, 0.04)) < 150 and len(balance(made, 0.04)) > 200


def test_balance_leaves_alone_what_is_balanced() -> None:
    twins = [(i, RULES[i % 9], RULES[(i + 1) % 9]) for i in range(90)]
    assert balance(twins, 0.0) == twins


def test_a_choice_balances_what_was_chosen_before() -> None:
    rng = random.Random(1)
    comments = []
    for i in range(900):
        broken = tuple(rng.sample(RULES, 2))
        comments.append((i, Truths(broken, tuple(r for r in RULES if r not in broken))))
    yes, no = Counter({"r0": 40}), Counter({"r1": 30})
    twins = list(choose_twins(comments, 400, 60, random.Random(2), yes, no))
    assert len(twins) == 400
    assert all(b in comments[i][1].broken and k in comments[i][1].kept for i, b, k in twins)
    assert all(abs(yes[r] - no[r]) <= 3 for r in RULES) and max(yes.values()) <= 61


def test_a_rule_with_more_weight_gets_more_twins() -> None:
    rng = random.Random(1)
    broken = [rng.sample(RULES, 3) for _ in range(900)]
    comments = [(i, Truths(tuple(b), tuple(r for r in RULES if r not in b))) for i, b in enumerate(broken)]
    heavy = set(RULES[:3])
    yes = Counter[str]()
    list(choose_twins(comments, 450, 60, random.Random(2), yes, None, lambda r: 3 if r in heavy else 1))
    assert all(2.5 < yes[r] / yes[other] < 3.5 for r in heavy for other in set(RULES) - heavy)


def test_an_opposite_is_kept_unless_it_is_kept_too_often() -> None:
    comments = [(i, Truths(("r0",), ("r1", "r2", "r3"))) for i in range(60)]
    yes, no = Counter({"r1": 20, "r2": 500, "r3": 500}), Counter[str]()
    twins = list(choose_twins(comments, 60, 99, random.Random(1), yes, no, opposites={"r0": {"r1"}}.__getitem__))
    kept = [k for _, _, k in twins]
    assert kept[:26] == ["r1"] * 26 and "r1" not in kept[26:]


def test_opposites_forbid_the_contrary() -> None:
    known = families()
    assert all(name in known[other].opposites for name, f in known.items() for other in f.opposites)
    assert known["commas"].opposites == {"commas-least-1"} and known["short"].opposites == {"long"}
    assert known["characters-most-60"].opposites == {f"characters-least-{n}" for n in (40, 60, 80, 100)}
    assert not known["love"].opposites


def test_more_than_thirty_families_with_wordings_of_their_own() -> None:
    known = families()
    assert len(known) >= 50
    texts = [w for f in known.values() for w in f.wordings]
    assert len(set(texts)) == len(texts) and all(len(f.wordings) == 5 or f.use for f in known.values())


@pytest.mark.parametrize(
    ("name", "breaks", "keeps"),
    [
        ("long", "a b c d e f g h i j k l m n o p", "a b c d e f g h i j k l m n o"),
        ("short", "one two three four five", "one two three four five six"),
        ("sentences", "One. Two.", "One, two."),
        ("repeats", "it is is so", "it is so"),
        ("all-capitals", "STOP THAT 1!", "STOP that"),
        ("lower-start", "hello", "Hello"),
        ("no-end", "Hello", "Hello."),
        ("other-script", "привет", "Grüße aus Köln"),
        ("hashtags", "so #cool", "number 1 # is"),
        ("addresses", "write to a.b@example.org", "write @ home"),
        ("long-number", "call 0123456", "in 2026"),
        ("amounts", "only $5", "five dollars"),
        ("stretched", "sooo good", "soo good"),
        ("emoji", "nice 😀", "nice :)"),
        ("smileys", "nice :)", "nice 😀"),
        ("first-person", "I'm here", "It is here"),
        ("repeats", "The the cat", "the cathedral"),
        ("colons", "note: this", "note; this"),
        ("dashes", "so - no", "well-known"),
        ("hyphens", "well-known", "so - no"),
        ("apostrophes", "it's", "its own"),
        ("years", "in 1999", "in 19999"),
        ("clock", "at 3pm", "3 people"),
        ("small-i", "so i went", "So I went, i.e. gone"),
        ("names", "so Peter went", "Peter went"),
        ("question-end", "so? why?", "so? no."),
        ("long-words", "a consequence", "a short one"),
        ("sentences", "Hello there. nice", "Version 1.5 of it."),
        ("characters-most-40", "a" * 41, "a" * 40),
        ("characters-least-40", "a" * 39, "a" * 40),
        ("sentences-most-2", "One. Two! Three?", "One. Two... "),
        ("sentences-least-2", "One, two.", "One. two"),
        ("commas-most-1", "a, b, c", "a, b"),
        ("commas-least-1", "a b", "a, b"),
        ("percent", "5 %", "5 percent"),
        ("angles", "a > b", "(a)"),
        ("ordinals", "the 2nd", "the second"),
        ("doing", "a king", "ingots"),
        ("manner", "only this", "lying"),
        ("question-words", "Why so", "so why"),
        ("two-capitals", "on TV", "on a TVs USA Tv"),
    ],
)
def test_what_counted_families_count(name: str, breaks: str, keeps: str) -> None:
    assert families()[name].breaks(breaks) and not families()[name].breaks(keeps)


def test_a_direction_cannot_be_told_from_what_is_counted() -> None:
    """Else "at most" is never read: what was rarer in training came out the wrong way round."""
    bounds = {side: {n.removeprefix(f"characters-{side}-") for n in families() if n.startswith(f"characters-{side}-")}
              for side in ("least", "most")}  # fmt: skip
    assert bounds["least"] == bounds["most"] and len(bounds["least"]) > 2


@given(st.integers(0, 50), st.integers(0, 120))
def test_named_words_are_true_balanced_and_never_those_of_a_tested_rule(seed: int, n_twins: int) -> None:
    rng = random.Random(seed)
    vocabulary = ["anvil", "bellows", "cinder", "draft", "ember", "flue", "grate", "hearth", "ingot", "jig"] + [
        f"{a}{b}x" for a in "klmnpqrstu" for b in "aeiou"
    ]
    texts = [(i, " ".join(rng.sample(vocabulary, 4)) + " don't") for i in range(150)]
    twins = choose_named(texts, n_twins, rng, lambda word: word == "anvil")
    assert len(twins) <= n_twins and len({key for key, *_ in twins}) == len(twins)
    held, absent = Counter(w for _, w, _ in twins), Counter(w for _, _, w in twins)
    for key, word, other in twins:
        for name, breaks in ((word, True), (other, False)):
            rule = family(NAMES + name)
            assert rule is not None and rule.breaks(texts[key][1]) is breaks
            assert all(name in wording for wording in rule.wordings)
    assert not {"anvil", "don"} & {*held, *absent}
    assert sum((held - absent).values()) + sum((absent - held).values()) <= 2 + n_twins // 10


def test_words_that_a_rule_may_name() -> None:
    assert words_of("Don't SHOUT, it's the Anvil-maker's 2nd one") == {"shout", "the", "anvil", "one"}
    assert family("word:anvil") is not None
    two = family("word:anvil+flue")
    assert two is not None and "No anvil or flue here." in two.wordings
    assert two.breaks("An Anvil.") and two.breaks("the flue") and not two.breaks("anvils")
    assert not any(
        map(family, ("nothing-like-it", "word:", "word:It", "word:two words", "word:a+anvil", "word:anvil+"))
    )
