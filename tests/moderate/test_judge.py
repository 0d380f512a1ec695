from __future__ import annotations

import random

import pytest

from bessemer.data import moderation
from bessemer.data.moderation import MAX_CHARACTERS, MAX_CONTEXT, Comment, ask, clean
from bessemer.errors import BessemerError
from bessemer.infer.generate import max_positions
from bessemer.infer.model import load
from bessemer.infer.score import option_logprobs
from bessemer.moderate import judge as judge_module
from bessemer.moderate.judge import PIECE_TOKENS, CommentError, Judge
from bessemer.moderate.policy import Policy, Rule
from tests.infer.conftest import MakeModel, of_kind
from tests.tiny import WORDS

__all__ = ["of_kind"]


def words(n: int, seed: int = 0) -> str:
    return " ".join(random.Random(seed).choice(WORDS) for _ in range(n))


def test_one_pass_gives_what_each_prompt_alone_gives(judge: Judge, policy: Policy) -> None:
    comments = [Comment(words(n, n), title="A title", parent=words(4)) for n in (1, 5, 30, 100)]
    found = judge.odds([judge.prepare(c, policy) for c in comments])
    for comment, odds in zip(comments, found, strict=True):
        named = Comment(comment.text, comment.title, comment.parent, "SteelTalk")
        prompts = [ask(named, rule.read) for rule in policy.rules]
        for prompt, value in zip(prompts, odds, strict=True):
            yes, no = option_logprobs(judge.loaded, [prompt], ["yes", "no"])[0]
            assert value == pytest.approx(yes - no, abs=1e-4)


def test_a_long_comment_is_judged_in_pieces_and_the_worst_counts(judge: Judge, policy: Policy) -> None:
    text = words(2000)
    question = judge.prepare(Comment(text), policy)
    parts = judge._pieces(text, PIECE_TOKENS)
    assert len(question.pieces) == len(parts) > 2 and " ".join(parts) == text
    assert all(len(judge.loaded.renderer.encode_texts([p])[0]) <= PIECE_TOKENS for p in parts)
    alone = judge.odds([judge.prepare(Comment(p), policy) for p in parts])
    assert judge.odds([question])[0] == pytest.approx([max(rule) for rule in zip(*alone, strict=True)], abs=1e-4)


@pytest.mark.parametrize("text", ["x" * 19_000, "😀" * 3000, "e\u0301\u0300" * 4000, "東" * 9000])
def test_no_text_outgrows_the_model(judge: Judge, policy: Policy, text: str) -> None:
    question = judge.prepare(Comment(text, title="😀" * 5000, parent="東" * 5000), policy)
    assert max(len(p) for piece in question.pieces for p in piece) <= max_positions(judge.loaded)


@pytest.mark.parametrize("text", ["", "   ", "\u200b\u2060", "\x00\x01", "\u3164"])
def test_nothing_to_see(judge: Judge, policy: Policy, text: str) -> None:
    with pytest.raises(BessemerError, match="no text"):
        judge.prepare(Comment(text), policy)


def test_too_long(judge: Judge, policy: Policy) -> None:
    with pytest.raises(BessemerError, match="characters"):
        judge.prepare(Comment("x" * 1_000_000), policy)
    with pytest.raises(BessemerError, match="72,000 characters"):  # one character that stands for eighteen
        judge.prepare(Comment("\ufdfa" * 4000), policy)
    with pytest.raises(BessemerError, match="128 pieces of 512 tokens; at most 64 are judged under 2 rules"):
        judge.prepare(Comment("x" * 39_000), policy)
    many = Policy(name="p", rules=[Rule(id=f"r{i}", text="Be kind.") for i in range(100)])
    with pytest.raises(BessemerError, match="at most 10 are judged under 100 rules"):
        judge.prepare(Comment("x" * 5000), many)
    assert len(judge.prepare(Comment("x" * 2000), many).pieces) <= 10


def test_a_huge_title_is_cut_before_it_is_read_under_every_rule(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned: list[int] = []
    monkeypatch.setattr(moderation, "clean", lambda text: cleaned.append(len(text)) or clean(text))
    many = Policy(name="p", rules=[Rule(id=f"r{i}", text="Be kind.") for i in range(100)])
    huge = "é" * 1_000_000
    question = judge.prepare(Comment("hello", title=huge, parent=huge, community=huge), many)
    assert max(cleaned) <= MAX_CHARACTERS and sum(n > MAX_CONTEXT for n in cleaned) == 3
    short = Comment("hello", *("é" * MAX_CONTEXT for _ in range(3)))
    assert question == judge.prepare(short, many)


def test_too_many_tokens_are_refused_before_they_are_made(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    many = Policy(name="big", rules=[Rule(id=f"r{i}", text=words(300)) for i in range(100)])
    judge.check(many)
    monkeypatch.setattr(judge_module, "MAX_TOKENS", 30_000)
    made: list[Comment] = []
    whole = judge._ids
    monkeypatch.setattr(judge, "_ids", lambda comment, rule: made.append(comment) or whole(comment, rule))
    with pytest.raises(CommentError, match="under 100 rules makes at least [0-9,]+ tokens; at most 30,000"):
        judge.prepare(Comment("hello"), many)
    assert len(made) == 1  # the longest rule's, for the room that the comment has


def test_of_a_policy_that_is_refused_nothing_is_kept_but_a_number(judge: Judge) -> None:
    policy = Policy(name="big", rules=[Rule(id="long", text="Be kind.", includes=[words(600)] * 4)])
    with pytest.raises(BessemerError, match="without the comment's text"):
        judge.check(policy)
    assert judge._sizes[policy.digest].keys() == {"long"}
    short = Rule(id="short", text="Be calm.")
    both = Policy(name="big", rules=[short, *policy.rules])
    other = Policy(name="big", rules=[*policy.rules, short])
    assert both.digest == other.digest
    for asked in (both, other):  # one hash, two orders: the longest rule is the same one
        with pytest.raises(BessemerError, match="rules.long"):
            judge.check(asked)


def test_a_rule_longer_than_the_context(judge: Judge) -> None:
    long = Rule(id="long", text=words(600), includes=[words(600), words(600)])
    policy = Policy(name="p", rules=[Rule(id="short", text="Be kind."), long])
    with pytest.raises(BessemerError, match="rules.long: .* the model reads 2048 in all"):
        judge.check(policy)


def test_tricks_do_not_change_what_is_read(judge: Judge, policy: Policy) -> None:
    plain = "buy steel here"
    for trick in (
        "b\u200buy ste\u2060el here",
        "\uff42\uff55\uff59 steel\u00a0here",
        "\u202eereh leets yub\u202c",
        "buy\nsteel\there",
    ):
        assert clean(trick) == plain
        assert judge.prepare(Comment(trick), policy) == judge.prepare(Comment(plain), policy)


def test_prompts_fit_into_a_sliding_window(of_kind: MakeModel, policy: Policy) -> None:
    """Every piece of a long comment is scored, and a rule that leaves no room is told before anything is."""
    small = Judge(load(of_kind("mistral", sliding_window=256)))
    question = small.prepare(Comment("no iron today " * 200), policy)
    assert len(question.pieces) > 1 and max(len(p) for piece in question.pieces for p in piece) <= 256
    assert len(small.odds([question])[0]) == len(policy.rules)
    short = Policy(name="p", rules=[Rule(id=name, text=name) for name in "ab"])  # fillers are longer than its rules
    for n in range(190, 260):
        question = small.prepare(Comment("iron " * n), short)
        assert len(small.odds([question])[0]) == 2
    with pytest.raises(BessemerError, match="the model reads 256 in all"):
        small.check(Policy(name="p", rules=[Rule(id="a", text="no iron " * 150)]))
