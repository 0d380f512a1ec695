"""Comments and rules -> log-odds that the model says yes. No threshold is known here.

What is asked is the form of `data/moderation.py`. Everything that can be refused is refused by `prepare`, comment by
comment, before the model computes, so that a batch holds good comments only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from bessemer.data.items import Item, Message
from bessemer.data.moderation import ANSWERS, MAX_CHARACTERS, Comment, RuleText, ask, clean, shorten
from bessemer.errors import BessemerError
from bessemer.infer.model import Loaded, scoring_limit
from bessemer.infer.score import Progress, branch_odds, option_ids
from bessemer.moderate.policy import Policy

PIECE_TOKENS = 512
SMALLEST_ROOM = 64  # tokens that must be left for the comment
MAX_PIECES = 64  # of a comment: 32,000 tokens, such as 10,000 characters of Chinese
MAX_PROMPTS = 1000  # pieces times rules
MAX_TOKENS = 500_000  # of all prompts: with it one comment costs minutes at most, and everybody behind it waits
KNOWN_POLICIES = 1000


class CommentError(BessemerError):
    """A comment that cannot be judged. code: for programs."""

    def __init__(self, code: str, what: str, fix: str) -> None:
        super().__init__(what, where="comment", fix=fix)
        self.code = code


@dataclass(frozen=True)
class Question:
    """A comment that is ready to be judged. pieces: for each one, the prompt of every rule as token ids."""

    pieces: tuple[tuple[tuple[int, ...], ...], ...]

    @cached_property
    def n_tokens(self) -> int:
        """Of all prompts; what they share is counted each time."""
        return sum(len(p) for prompts in self.pieces for p in prompts)


class Judge:
    """A model that answers yes or no about one comment and one rule."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        yes, no = option_ids(loaded, ANSWERS)
        self.options = (yes, no)
        self._sizes: dict[str, dict[str, int]] = {}  # tokens of each rule's prompt about next to nothing, by policy

    def check(self, policy: Policy) -> None:
        """Raises BessemerError naming the first rule that leaves the model no room to read a comment."""
        self._room(policy, Comment("x", community=policy.community))

    def prepare(self, comment: Comment, policy: Policy) -> Question:
        """Tokens of everything that must be read.

        Raises CommentError when the comment has no text or is too long.
        """
        _need_short(comment.text)
        comment = shorten(replace(comment, community=comment.community or policy.community))
        text = clean(comment.text)
        _need_short(text)  # one character may stand for many
        if not text:
            raise CommentError("comment_empty", "the comment has no text that anyone can see", "send some text")
        room = self._room(policy, comment)
        rules = [rule.read for rule in policy.rules]
        texts = self._pieces(text, room)
        if len(texts) > MAX_PIECES or len(texts) * len(rules) > MAX_PROMPTS:
            raise CommentError(
                "comment_too_long",
                f"the comment makes {len(texts)} pieces of {room} tokens; at most "
                f"{min(MAX_PIECES, MAX_PROMPTS // len(rules))} are judged under {len(rules)} rules",
                "send the part that people see, or ask about fewer rules",
            )
        least = len(texts) * sum(self._rule_sizes(policy).values())
        if least > MAX_TOKENS:  # before the work of making them
            raise self._too_many(f"at least {least:,}", len(rules))
        found = Question(tuple(tuple(self._ids(replace(comment, text=t), rule) for rule in rules) for t in texts))
        if found.n_tokens > MAX_TOKENS:
            raise self._too_many(f"{found.n_tokens:,}", len(rules))
        return found

    def _too_many(self, tokens: str, n_rules: int) -> CommentError:
        return CommentError(
            "comment_too_long",
            f"the comment under {n_rules} rules makes {tokens} tokens; at most {MAX_TOKENS:,} are judged",
            "send the part that people see, or ask about fewer or shorter rules",
        )

    def odds(self, questions: Sequence[Question], progress: Progress | None = None) -> list[list[float]]:
        """For each comment and rule the log-odds of yes; of a comment in pieces the highest."""
        flat = [piece for question in questions for piece in question.pieces]
        found = iter(branch_odds(self.loaded, flat, self.options, progress) if flat else ())
        return [[max(rule) for rule in zip(*(next(found) for _ in q.pieces), strict=True)] for q in questions]

    def twins(self, groups: Sequence[Sequence[Item]], progress: Progress | None = None) -> list[list[float]]:
        """For each item, group by group, the log-odds of yes; what a group begins with is computed once.

        Raises BessemerError for an item whose answer is neither yes nor no.
        """
        for item in (item for group in groups for item in group):
            if not item.messages or item.messages[-1].content not in ANSWERS:
                raise BessemerError(
                    "the answer is neither yes nor no", where=f"item {item.id}", fix="give a set of twins"
                )
        prompts = [[self.prompt(item.messages[:-1]) for item in group] for group in groups]
        return branch_odds(self.loaded, prompts, self.options, progress)

    def prompt(self, asked: Sequence[Message]) -> tuple[int, ...]:
        """Tokens up to where the model says yes or no: behind what every answer begins with."""
        renderer = self.loaded.renderer
        return (*renderer.chat_ids(asked), *renderer.answer_stem)

    def _ids(self, comment: Comment, rule: RuleText) -> tuple[int, ...]:
        return self.prompt(ask(comment, rule))

    def _room(self, policy: Policy, comment: Comment) -> int:
        """Tokens that a piece of the comment may have beside the longest rule and what the comment answers."""
        sizes = self._rule_sizes(policy)
        longest = max(policy.rules, key=lambda rule: sizes[rule.id])
        limit = scoring_limit(self.loaded)
        used = len(self._ids(replace(comment, text="x"), longest.read))
        if used + SMALLEST_ROOM > limit:
            raise BessemerError(
                f"without the comment's text a prompt has {used} tokens; the model reads {limit} in all, and "
                f"{SMALLEST_ROOM} of them are for the text",
                where=f"policy {policy.reference}: rules.{longest.id}",
                fix="shorten the rule, its lists or its examples, or make two of it; send a shorter title or parent",
            )
        return min(PIECE_TOKENS, limit - used)

    def _rule_sizes(self, policy: Policy) -> dict[str, int]:
        sizes = self._sizes.get(policy.digest)
        if sizes is None:
            if len(self._sizes) >= KNOWN_POLICIES:
                self._sizes.clear()
            sizes = {rule.id: len(self._ids(Comment("x"), rule.read)) for rule in policy.rules}
            self._sizes[policy.digest] = sizes
        return sizes

    def _pieces(self, text: str, room: int) -> list[str]:
        """The text, halved at a space until every part has at most `room` tokens."""
        if len(self.loaded.renderer.encode_texts([text])[0]) <= room:
            return [text]
        middle = len(text) // 2
        before, after = text.rfind(" ", 1, middle), text.find(" ", middle, -1)
        spaces = [place for place in (before, after) if place > 0]
        cut = min(spaces, key=lambda place: abs(place - middle)) if spaces else middle
        return [
            *self._pieces(text[:cut].strip() or text[:cut], room),
            *self._pieces(text[cut:].strip() or text[cut:], room),
        ]


def _need_short(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise CommentError(
            "comment_too_long",
            f"the comment has {len(text):,} characters; at most {MAX_CHARACTERS:,} are judged",
            "send the part that people see",
        )
