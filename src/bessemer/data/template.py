"""A chat template, rendered once per shape of conversation: literal text, holes where contents belong, and answers.

Contents never reach the template: it is given placeholders, so nothing in a content can act on it, and conversations of
one shape (the same roles and fields) share one rendering. Legend: a view is one rendering of one conversation.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import product
from typing import Any

from bessemer.data.items import Message
from bessemer.errors import BessemerError
from bessemer.files import canonical_json, sha256_text

# The quotation mark tells how often a hole was written as JSON: it comes out as ", \" or \\\".
PLACEHOLDER = '\ue000{}"\ue001'
HOLES = re.compile('\ue000(\\d+)(\\\\*)"\ue001')
PRIVATE = re.compile("[\ue000\ue001]")
# What a template leaves of the padding says whether it strips the content: nothing, line breaks, or all white space.
PADS = ("\n \n", "\n  \n")
PADDED = ("content", "reasoning_content", "thinking")
THINKING = re.compile(r"\s*<think>(.*?)</think>\s*(.*)", re.DOTALL)
THOUGHT = ("<think>", "</think>")
DATES = re.compile(r"""strftime_now\(\s*("[^"]*"|'[^']*')\s*\)""")
TODAY = date(2024, 7, 26)
KEPT_VIEWS = 10_000
KEPT_CHARACTERS = 20_000_000  # of what views are known by; a view of a long conversation is as long as its frame


def with_fixed_date(template: str) -> str:
    """The template with one date for ever: many print today's, and a rendering that changes overnight could neither be
    resumed nor compared. The name that templates call is set to a lookup, as no function can be handed in."""
    known = {form[1:-1]: TODAY.strftime(form[1:-1]) for form in DATES.findall(template)}
    return f"{{% set strftime_now = {json.dumps(known)}.get %}}{template}" if known else template


@dataclass(frozen=True)
class Hole:
    """Where a text belongs. strips: the characters the template takes off its left and right ("" none, None white
    space); as_json: how often it is written as JSON."""

    number: int
    strips: tuple[str | None, str | None]
    as_json: int

    def fill(self, texts: Sequence[str]) -> str:
        text = texts[self.number]
        if self.strips[0] != "":
            text = text.lstrip(self.strips[0])
        if self.strips[1] != "":
            text = text.rstrip(self.strips[1])
        for _ in range(self.as_json):
            text = json.dumps(text, ensure_ascii=False)[1:-1]
        return text


@dataclass(frozen=True)
class View:
    """text: the rendering with a bare placeholder at every hole, in order."""

    text: str
    holes: tuple[Hole, ...]

    def parts(self) -> Iterator[tuple[int, int, str | Hole]]:
        """(start, end, literal text or hole) over the whole text."""
        at = 0
        for match, hole in zip(HOLES.finditer(self.text), self.holes, strict=True):
            yield at, match.start(), self.text[at : match.start()]
            yield match.start(), match.end(), hole
            at = match.end()
        yield at, len(self.text), self.text[at:]


@dataclass(frozen=True)
class Hidden:
    """A conversation with placeholders for its texts. n_texts[i]: texts in the first i messages; reasoning[i]: the
    number of message i's reasoning, which a template may leave out of earlier turns."""

    messages: list[dict[str, Any]]
    texts: list[str]
    n_texts: list[int]
    reasoning: list[int | None]


class ChatTemplate:
    """apply: renders a list of messages with the model's template (transformers' apply_chat_template)."""

    def __init__(self, apply: Callable[..., str], is_control: Callable[[str], bool]) -> None:
        self._apply, self._is_control = apply, is_control
        self._views: dict[str, View] = {}
        self._kept = 0  # characters of their keys
        self._acted_on: dict[str, bool] = {}  # by the text's sha256
        self._looking = threading.RLock()

    @cached_property
    def _reasoned(self) -> str:
        """An answer with reasoning, as the template writes it."""
        turns = (Message("user", "u"), Message("assistant", "a", reasoning="r"))
        return self._text(self.hide(turns, split=False).messages, (), answer_follows=False)

    @cached_property
    def shows_reasoning(self) -> bool:
        """Whether the template has a place for what an answer was reasoned from."""
        return PLACEHOLDER.format(1) in self._reasoned

    @cached_property
    def marks_thoughts(self) -> bool:
        """Whether a thought stands in the answer itself, between tokens of the template's own."""
        return not self.shows_reasoning and all(map(self._is_control, THOUGHT))

    def acts_on(self, text: str) -> bool:
        """Whether the template reads a system message's words, as SmolLM3's looks for /no_think."""
        key = sha256_text(text)  # texts come from outside, and may be long
        with self._looking:  # others wait, so that nobody sees what is only said while a text is compared
            return self._acts_on(key, text)

    def _acts_on(self, key: str, text: str) -> bool:
        if key not in self._acted_on:
            if len(self._acted_on) >= KEPT_VIEWS:
                self._acted_on.clear()
            self._acted_on[key] = False  # while it is hidden for comparison
            turns = (Message("system", text), Message("user", "u"), Message("assistant", "a"))
            hidden = self.hide(turns, split=False)
            plain = [{"role": m.role, "content": m.content} for m in turns]
            try:
                parts = self.view(hidden, (), n=3, answer_follows=False).parts()
                filled = "".join(p.fill(hidden.texts) if isinstance(p, Hole) else p for *_, p in parts)
                self._acted_on[key] = filled != self._text(plain, (), answer_follows=False)
            except BessemerError:  # no place for a system message: said where the conversation is rendered
                pass
        return self._acted_on[key]

    def hide(self, messages: Sequence[Message], *, split: bool = True) -> Hidden:
        """Raises BessemerError when a name, a role or an argument's key, which the template must see, holds a token of
        the template's own."""
        found = Hidden([], [], [0], [])

        def place(text: str) -> str:
            if not text:
                return ""  # templates ask whether there is a text
            found.texts.append(text)
            return PLACEHOLDER.format(len(found.texts) - 1)

        def leaves(value: Any) -> Any:
            if isinstance(value, str):
                return place(value)
            if isinstance(value, Mapping):
                return {self._seen(str(k)): leaves(v) for k, v in value.items()}
            return [leaves(v) for v in value] if isinstance(value, (list, tuple)) else value

        for message in messages:
            reasoning, content = message.reasoning, message.content
            marked: re.Match[str] | None = None
            if split and not reasoning and message.role == "assistant":
                match = THINKING.fullmatch(content)
                thought, tag, rest = content.partition(THOUGHT[1])
                if match and self.shows_reasoning:
                    reasoning, content = match[1].strip(), match[2]
                elif tag and THOUGHT[0] not in thought and self.shows_reasoning and tag in self._reasoned:
                    reasoning, content = thought.strip(), rest.lstrip()  # the prompt opened it, so only its end is here
                elif match and self.marks_thoughts:
                    marked = match
            turn: dict[str, Any] = {"role": message.role}
            found.reasoning.append(len(found.texts) if reasoning else None)
            if reasoning:
                turn["reasoning_content"] = turn["thinking"] = place(reasoning)
            if marked:
                begin, end = marked.span(1)
                thought, rest = place(content[begin:end]), place(content[end + len(THOUGHT[1]) :])
                turn["content"] = f"{THOUGHT[0]}{thought}{THOUGHT[1]}{rest}"
            elif message.role == "system" and content and self.acts_on(content):
                turn["content"] = self._seen(content)
            else:
                turn["content"] = place(content)
            if message.tool_calls:
                turn["tool_calls"] = [
                    {
                        "type": "function",
                        "id": self._seen(c.id),
                        "function": {"name": self._seen(c.name), "arguments": leaves(c.arguments)},
                    }
                    for c in message.tool_calls
                ]
            if message.name:
                turn["name"] = self._seen(message.name)
            if message.call_id:
                turn["tool_call_id"] = self._seen(message.call_id)
            found.messages.append(turn)
            found.n_texts.append(len(found.texts))
        return found

    def _seen(self, text: str) -> str:
        if self._is_control(text) or PRIVATE.search(text):
            raise BessemerError(
                f"{text[:80]!r} holds a token of the chat template",
                fix="names of tools and of their arguments must be plain words",
            )
        return text

    def view(self, hidden: Hidden, tools: Sequence[Mapping[str, Any]], *, n: int, answer_follows: bool) -> View:
        """The first `n` messages; with answer_follows the assistant's turn is opened.

        Raises BessemerError when the template refuses them, loses a text or shows one twice.
        """
        messages = hidden.messages[:n]
        key = canonical_json([messages, tools, answer_follows])
        view = self._views.get(key)  # other threads may empty it at any time
        if view is None:
            if len(self._views) >= KEPT_VIEWS or self._kept + len(key) > KEPT_CHARACTERS:
                self._views.clear()
                self._kept = 0
            for tool in tools:
                self._seen(canonical_json(tool))
            view = self._views[key] = self._make(messages, tools, answer_follows=answer_follows)
            self._kept += len(key)
        return view

    def _make(
        self, messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]], *, answer_follows: bool
    ) -> View:
        bare = self._text(messages, tools, answer_follows=answer_follows)
        padded = self._text(_pad(messages), tools, answer_follows=answer_follows)
        literals, others = HOLES.split(bare)[::3], HOLES.split(padded)[::3]
        found = [(int(n), len(slashes).bit_length()) for n, slashes in HOLES.findall(bare)]  # 0, 1, 3 -> 0, 1, 2
        if len(literals) != len(others):
            raise _changes("shows other texts when there is white space around them")
        spoken = {int(n) for m in messages for k in PADDED for n, _ in HOLES.findall(m.get(k, ""))}
        depths = [None, *(depth if number in spoken else None for number, depth in found), None]
        strips = [_strips(*gap) for gap in zip(literals, others, depths, depths[1:], strict=False)]
        holes = [Hole(n, (strips[i][1], strips[i + 1][0]), depth) for i, (n, depth) in enumerate(found)]
        return View(bare, tuple(holes))

    def _text(self, messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]], *, answer_follows: bool) -> str:
        from jinja2 import TemplateError

        try:
            return self._apply(
                messages,
                tools=[dict(t) for t in tools] or None,
                tokenize=False,
                add_generation_prompt=answer_follows,
            )
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(m["role"] for m in messages)
            raise BessemerError(
                f"the chat template refuses this conversation of {roles or 'nothing'} ({error})",
                fix="this template needs another order of roles, for example a user's message before every answer",
            ) from None


def need_shown(view: View, hidden: Hidden, n: int, *, answer_follows: bool = False) -> None:
    """Raises BessemerError unless the view shows every text of the first n messages once. Reasoning of earlier turns
    may be left out; that of an answer at the end may not."""
    shown = [hole.number for hole in view.holes]
    if n and not answer_follows and hidden.reasoning[n - 1] is not None and hidden.reasoning[n - 1] not in shown:
        raise _changes("has no place for an answer's reasoning")
    optional = set(hidden.reasoning[:n])
    for i in range(hidden.n_texts[n]):
        times = shown.count(i)
        if times != 1 and (times or i not in optional):
            raise _changes(f"shows the text {hidden.texts[i][:40]!r} {times} times, not once")


def _pad(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with white space around every text in a content or reasoning."""
    left, right = PADS
    pad: Callable[[str], str] = lambda text: HOLES.sub(lambda m: f"{left}{m[0]}{right}", text)  # noqa: E731
    return [{k: pad(v) if k in PADDED else v for k, v in m.items()} for m in messages]


def _strips(bare: str, padded: str, before: int | None, after: int | None) -> tuple[str | None, str | None]:
    """What the template strips from the right of the text before a gap and from the left of the text after it.

    before, after: how often those texts were written as JSON; None: nothing was padded there, so nothing is known.
    """
    rights = {"": PADS[1], "\n": PADS[1].rstrip("\n"), None: ""} if before is not None else {"": ""}
    lefts = {"": PADS[0], "\n": PADS[0].lstrip("\n"), None: ""} if after is not None else {"": ""}
    for (right, kept), (left, also) in product(rights.items(), lefts.items()):
        if _as_json(kept, before or 0) + bare + _as_json(also, after or 0) == padded:
            return right, left
    raise _changes("changes the white space around a text in a way of its own")


def _as_json(text: str, times: int) -> str:
    for _ in range(times):
        text = json.dumps(text)[1:-1]
    return text


def _changes(what: str) -> BessemerError:
    return BessemerError(
        f"the chat template {what}",
        fix="this template needs another shape of conversation (for example no system message)",
    )
