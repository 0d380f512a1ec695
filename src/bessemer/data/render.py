"""Items -> token ids and loss masks. The one renderer for training, evaluation and serving alike.

Text of users is never parsed for special tokens: a comment that contains "<|im_end|>" stays text. The chat template is
rendered with placeholders (data/template.py); its control tokens become ids, and what lies between two of them, the
template's words and the contents, is tokenised together as plain text. So ids agree with the library's own, and special
tokens come from the template only. A template that marks turns with mere words (OLMo 2's `<|user|>`) has no such guard.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bessemer.data.encode import Encoder
from bessemer.data.items import Item, Message
from bessemer.data.template import (
    KEPT_CHARACTERS,
    KEPT_VIEWS,
    ChatTemplate,
    Hidden,
    Hole,
    View,
    need_shown,
    with_fixed_date,
)
from bessemer.errors import BessemerError
from bessemer.families.read import read_tokenizer
from bessemer.files import canonical_json, sha256_file, sha256_text

Tools = Sequence[Mapping[str, Any]]


class _Mark:
    """Where a trained answer starts or ends in a program, or where another one starts."""


START, END, CUT = _Mark(), _Mark(), _Mark()
PROBE = Item("chat_template", messages=(Message("user", "Alpha"), Message("assistant", "zero")))
Encode = Callable[[Sequence[str]], list[list[int]]]
Program = list[int | str | Hole | _Mark]  # control tokens, the template's words, holes for contents, marks


@dataclass(frozen=True)
class Job:
    """One rendering of one conversation, ready to be encoded."""

    program: Program
    texts: Sequence[str]


@dataclass(frozen=True)
class Answer:
    """An answer as it is written when it is the last message: text[start:] is what it adds to its prompt."""

    message: int
    start: int
    text: str


@dataclass(frozen=True)
class Example:
    """One item as the model sees it. ids_L and supervised_L have the same length; a supervised token is a target."""

    id: str
    group: str
    ids_L: NDArray[np.int32]
    supervised_L: NDArray[np.bool_]


class Renderer:
    """A tokenizer with its chat template. Loads nothing but files of the model folder."""

    def __init__(self, folder: Path, end_of_text: str = "") -> None:
        from tokenizers import Tokenizer

        self.chat = read_tokenizer(folder)
        self._with_special = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._plain = Tokenizer.from_str(self._all_text())
        self._plain.encode_special_tokens = True
        for tokenizer in (self._with_special, self._plain):
            tokenizer.no_truncation()
            tokenizer.no_padding()
        end = end_of_text or self.chat.eos_token
        self.end_of_text_id: int | None = self._with_special.token_to_id(end) if end else None
        if self.end_of_text_id is None:
            raise BessemerError(f"the tokenizer has no end-of-text token ({end!r})", where=str(folder))
        self.n_vocabulary = max(self._with_special.get_vocab(with_added_tokens=True).values()) + 1  # ids may have gaps
        self._folder = folder
        self._made: tuple[Any, ChatTemplate] | None = None
        self._programs: dict[Any, Program] = {}
        self._kept = 0  # characters of their views
        self._encoder = Encoder(self._plain, self.control)
        self.special_ids = {i for i, t in self._with_special.get_added_tokens_decoder().items() if t.special}

    @cached_property
    def control(self) -> dict[int, str]:
        """The tokens that only a template may write: special ones, and added ones that stand in the template (such as
        Qwen's <tool_call>, which is not marked as special)."""
        added = self._with_special.get_added_tokens_decoder()
        template = getattr(self.chat, "chat_template", None) or ""
        text = template if isinstance(template, str) else json.dumps(template)
        return {i: t.content for i, t in added.items() if t.special or (t.content.strip() and t.content in text)}

    @cached_property
    def answer_end(self) -> int | None:
        """The control token that ends a trained answer; None without a template in which answers can be told apart."""
        if not self.chat.chat_template:
            return None
        try:
            (job,) = self.jobs_of(PROBE)
        except BessemerError:
            return None
        return end_of(job)

    def _all_text(self) -> str:
        """The tokenizer with every control token marked special, so that it can be told to read them as text."""
        found = json.loads(self._with_special.to_str())
        for token in found.get("added_tokens", []):
            token["special"] = token["special"] or token["id"] in self.control
        return json.dumps(found)

    @property
    def _template(self) -> ChatTemplate:
        raw = getattr(self.chat, "chat_template", None)
        if not raw:
            raise BessemerError(
                "the model's tokenizer has no chat template, so it cannot read conversations",
                fix="give the recipe one (chat_template: family, or a Jinja file), start from an instruction-tuned "
                "(post) checkpoint, or use documents only",
            )
        if self._made is None or self._made[0] != raw:  # made once, and again for another template
            template = with_fixed_date(self.chat.get_chat_template(tools=None))
            names = tuple(self.control.values())
            apply = partial(self.chat.apply_chat_template, chat_template=template)
            self._made = raw, ChatTemplate(apply, lambda text: any(n in text for n in names))
        return self._made[1]

    def ingredients(self, kind: str) -> dict[str, str]:
        """What decides which ids an item of this kind becomes."""
        found = {"tokenizer": sha256_file(self._folder / "tokenizer.json"), "end_of_text": str(self.end_of_text_id)}
        if kind != "documents":
            found["template"] = sha256_text(canonical_json([self.chat.chat_template, self.chat.special_tokens_map]))
            return found
        if self.opening:
            found["opening"] = str(self.opening)
        if words := sorted(t for i, t in self.control.items() if i not in self.special_ids):
            found["kept as text"] = canonical_json(words)  # added tokens that this template writes
        return found

    def token_id(self, token: str) -> int | None:
        return self._with_special.token_to_id(token)

    def token(self, id: int) -> str | None:
        """Its spelling in the vocabulary; None for a row of the embedding that no token has."""
        return self._with_special.id_to_token(id)

    # -- text -----------------------------------------------------------------------------------------------

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """A few texts, without special tokens."""
        return self._encoder.encode(texts)

    @property
    def engine(self) -> str:
        """What makes ids of many items, for the record; the ids do not depend on it."""
        return self._encoder.engine

    def decode(self, ids: Sequence[int]) -> str:
        return self._with_special.decode(list(ids), skip_special_tokens=True)

    def decode_all(self, ids: Sequence[int]) -> str:
        """Every id as text, special tokens too: for looking, never for training."""
        return self._with_special.decode(list(ids), skip_special_tokens=False)

    # -- chat -----------------------------------------------------------------------------------------------

    @cached_property
    def opening(self) -> tuple[int, ...]:
        """What the tokenizer itself puts before a text, as Llama's and Gemma's do."""
        begin: int | None = self.chat.bos_token_id
        return () if begin is None or self.chat("")["input_ids"][:1] != [begin] else (begin,)

    def chat_ids(self, messages: Sequence[Message], *, answer_follows: bool = True, tools: Tools = ()) -> list[int]:
        """Token ids of a conversation; with `answer_follows` the assistant's turn is opened."""
        hidden = self._template.hide(messages)
        view = self._template.view(hidden, tools, n=len(messages), answer_follows=answer_follows)
        need_shown(view, hidden, len(messages), answer_follows=answer_follows)
        answers = [a for a in self._answers(hidden, tools) if view.text.startswith(a.text)]
        return self._encode([Job(self._program(view, answers, ()), hidden.texts)], self.encode_texts)[0][0]

    def answer_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """What is trained as each answer, without the tokens that end it, after the turn that `chat_ids` opens.

        Templates may write something before the text: Qwen 3 an empty thought, Mistral a space.
        """
        asked = Message("user", PROBE.messages[0].content)
        items = [Item(str(n), messages=(asked, Message("assistant", text))) for n, text in enumerate(texts)]
        answers: list[list[int]] = [e.ids_L[e.supervised_L].tolist() for e in self.render(items)]
        for ids in answers:
            while ids[-1] in self.control:
                ids.pop()
        return answers

    @cached_property
    def answer_stem(self) -> list[int]:
        """What every answer begins with in training."""
        together = list(zip(*self.answer_ids(("yes", "no", "0")), strict=False))
        return [ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, together)]

    def _answers(self, hidden: Hidden, tools: Tools) -> list[Answer]:
        """Every answer as it is written when it is the last message."""
        found: list[Answer] = []
        for i, message in enumerate(hidden.messages):
            if message["role"] != "assistant" or i == 0:
                continue
            before = self._template.view(hidden, tools, n=i, answer_follows=True)
            after = self._template.view(hidden, tools, n=i + 1, answer_follows=False)
            if not after.text.startswith(before.text):
                raise BessemerError(
                    "the chat template writes an answer's turn otherwise than it opens one, so the answer's tokens "
                    "cannot be told apart",
                    fix="use the template of the model's own family",
                )
            found.append(Answer(i, len(before.text), after.text))
        return found

    def _jobs(self, item: Item) -> list[Job]:
        """A conversation as the renderings in which its answers are trained: one, unless the template rewrites earlier
        turns (Qwen 3 drops their thoughts, gpt-oss ends them otherwise). Then every answer is trained in the rendering
        that the model would see when it gives it."""
        hidden = self._template.hide(item.messages)
        pending = self._answers(hidden, item.tools)
        if not pending or pending[-1].message != len(item.messages) - 1 or item.messages[0].role == "assistant":
            raise BessemerError("a conversation begins with a question and ends with an answer", fix="correct the row")
        if any(not (m["content"] or m.get("tool_calls")) for m in hidden.messages if m["role"] == "assistant"):
            raise BessemerError("an answer is empty", fix="take it out, or give it words")
        _need_calls(hidden, pending)
        jobs: list[Job] = []
        while pending:
            n = pending[-1].message + 1
            view = self._template.view(hidden, item.tools, n=n, answer_follows=False)
            need_shown(view, hidden, n)
            _need_tools(item, pending[-1])
            shown = [a for a in pending if view.text.startswith(a.text)]
            if trained := [a for a in shown if item.messages[a.message].trained]:
                jobs.insert(0, Job(self._program(view, shown, trained), hidden.texts))
            pending = [a for a in pending if a not in shown]
        if not jobs:
            raise BessemerError("no answer of a conversation is trained", fix="take it out, or train one of them")
        return jobs

    def _program(self, view: View, answers: Sequence[Answer], trained: Sequence[Answer]) -> Program:
        """What to encode: the view in pieces, cut where answers start, so that an answer's first token is the same in
        training and when the model writes it. A trained answer ends with its last control token; what the template
        writes after that (a newline) is no answer. Raises BessemerError when there is none.
        """
        key = (view.text, tuple((a.start, len(a.text), a in trained) for a in answers))
        program = self._programs.get(key)  # other threads may empty it at any time
        if program is None:
            if len(self._programs) >= KEPT_VIEWS or self._kept + len(view.text) > KEPT_CHARACTERS:
                self._programs.clear()
                self._kept = 0
            program = self._programs[key] = self._make_program(view, answers, trained)
            self._kept += len(view.text)
        return program

    def _make_program(self, view: View, answers: Sequence[Answer], trained: Sequence[Answer]) -> Program:
        pieces = list(self._pieces(view, {a.start for a in answers}))
        program: Program = [op for _, _, op in pieces]
        for answer in reversed(answers):
            inside = [k for k, (a, b, _) in enumerate(pieces) if answer.start <= a and b <= len(answer.text)]
            ends = [k for k in inside if isinstance(program[k], int)]
            if answer in trained:
                if not ends or any(isinstance(program[k], Hole) for k in inside if k > ends[-1]):
                    raise BessemerError(
                        "the end of the assistant's turn would never be trained: the chat template closes it "
                        "with no special token",
                        fix="use a template that ends a turn with a special token",
                    )
                program.insert(ends[-1] + 1, END)
            if inside:
                program.insert(inside[0], START if answer in trained else CUT)
        return program

    def _pieces(self, view: View, cuts: set[int]) -> Iterator[tuple[int, int, int | str | Hole]]:
        """(start, end in the view's text, control token, other text, or hole)."""
        for start, end, part in view.parts():
            if isinstance(part, Hole):
                yield start, end, part
                continue
            places = [start, *sorted(c for c in cuts if start < c < end), end]
            for a, b in pairwise(places):
                at = a
                encoded = self._with_special.encode(view.text[a:b], add_special_tokens=False)
                for token, (x, y) in zip(encoded.ids, encoded.offsets, strict=True):
                    if token in self.control:
                        if at < a + x:
                            yield at, a + x, view.text[at : a + x]
                        yield a + x, a + y, token
                        at = a + y
                if at < b:
                    yield at, b, view.text[at:b]

    def _encode(self, jobs: Sequence[Job], encode: Encode) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """(ids, [start, end) of the answers) of each job, with one threaded call. Contents and the template's words are
        read as text together, as the tokenizer would read them; control tokens come from the template alone."""
        runs: list[str] = []
        layouts: list[list[Any]] = []
        for job in jobs:
            layout: list[Any] = []
            run: list[str] = []
            for op in (*job.program, None):
                if isinstance(op, (str, Hole)):
                    run.append(op if isinstance(op, str) else op.fill(job.texts))
                    continue
                if text := "".join(run):
                    layout.append(text)
                    runs.append(text)
                    run = []
                layout.append(op)
            layouts.append(layout)
        encoded = iter(encode(runs))
        return [_assemble(layout, encoded) for layout in layouts]

    # -- items ----------------------------------------------------------------------------------------------

    def render(self, items: Sequence[Item]) -> list[Example]:
        """Documents (every token is a target, opened as the tokenizer opens a text, closed by end-of-text) or
        conversations (answers are targets).

        A conversation gives several examples of one id when its template rewrites earlier turns. Raises BessemerError
        for a conversation that the template refuses, or whose answers would not be trained up to their end.
        """
        if items and items[0].messages:
            return self._render_chat(items)
        begin, end_1 = np.array(self.opening, np.int32), np.array([self.end_of_text_id], np.int32)
        examples: list[Example] = []
        for item, ids in zip(items, self._encoder.encode_much([i.text for i in items]), strict=True):
            ids_L = np.concatenate([begin, ids, end_1])
            supervised_L = np.ones(len(ids_L), np.bool_)
            examples.append(Example(item.id, item.cluster, ids_L, supervised_L))
        return examples

    def _render_chat(self, items: Sequence[Item]) -> list[Example]:
        jobs: list[Job] = []
        owners: list[tuple[str, str]] = []
        for item in items:
            own = self.jobs_of(item)
            jobs += own
            # Renderings of one conversation need not lie in one row; items of one group must.
            groups = [item.group or f"{item.id} rendering {n}" for n in range(len(own))]
            owners += [(item.id, group) for group in [*groups[:-1], item.cluster]]
        examples: list[Example] = []
        encode: Encode = lambda texts: [ids.tolist() for ids in self._encoder.encode_much(texts)]  # noqa: E731
        for (ids, spans), (id, group) in zip(self._encode(jobs, encode), owners, strict=True):
            supervised_L = np.zeros(len(ids), np.bool_)
            for start, end in spans:
                supervised_L[start:end] = True
            examples.append(Example(id, group, np.array(ids, np.int32), supervised_L))
        return examples

    def jobs_of(self, item: Item) -> list[Job]:
        """What to encode for a conversation. Raises BessemerError with the item's id as its place."""
        try:
            return self._jobs(item)
        except BessemerError as error:
            raise BessemerError(error.what, where=item.id, fix=error.fix) from None

    # -- checks ---------------------------------------------------------------------------------------------

    def check_rendered(self, items: Sequence[Item], examples: Sequence[Example]) -> None:
        """Raises BessemerError, with counts and the first id, unless the examples are what training needs.

        Documents: every token a target and the end-of-text token last. Conversations: the supervised tokens, decoded,
        are exactly each answer's own text and its end of turn; so no mask is empty, all ones or shifted. The wanted
        text comes from the template and the messages, without tokens.
        """
        if items and items[0].messages:
            wanted = [wanted_answers(job, self.control) for item in items for job in self.jobs_of(item)]
            faults = [self._fault(e, w) for e, w in zip(examples, wanted, strict=True)]
        else:
            faults = [self._document_fault(e) for e in examples]
        found = [(example.id, fault) for example, fault in zip(examples, faults, strict=True) if fault]
        if found:
            first, fault = found[0]
            same = sum(f == fault for _, f in found)
            others = f"; {len(found)} have faults" if len(found) > same else ""
            raise BessemerError(
                f"{same} of {len(examples)} rendered items have {fault}{others}",
                where=first,
                fix="the tokenizer and the chat template do not fit each other; use those of the model's own folder",
            )

    def _document_fault(self, example: Example) -> str:
        if len(example.ids_L) < 2 or not example.supervised_L.all():
            return "tokens that are not trained"
        return "" if example.ids_L[-1] == self.end_of_text_id else "no end-of-text token at the end"

    def _fault(self, example: Example, wanted: Sequence[str]) -> str:
        mask_L = example.supervised_L
        if not mask_L.any():
            return "an empty loss mask"
        if mask_L.all():
            return "a loss mask of ones only: the questions would be trained too"
        edges = np.flatnonzero(np.diff(np.concatenate([[False], mask_L, [False]]).astype(np.int8))).reshape(-1, 2)
        if any(int(example.ids_L[end - 1]) not in self.control for _, end in edges):
            return "answers whose end-of-turn token is not trained"
        said = [self._with_special.decode(example.ids_L[a:b].tolist(), skip_special_tokens=False) for a, b in edges]
        if "".join(map(self._comparable, said)) != "".join(map(self._comparable, wanted)):
            return "a shifted loss mask: the supervised tokens are not the answers"
        return ""

    def _comparable(self, text: str) -> str:
        text = unicodedata.normalize("NFKC", text)
        return text if self._decodes_exactly else "".join(text.split())

    @cached_property
    def _decodes_exactly(self) -> bool:
        """Whether white space comes back; tokenizers of the SentencePiece kind may lose a space at the start."""
        probe = " a\n\n b "
        return self._with_special.decode(self.encode_texts([probe])[0], skip_special_tokens=False) == probe


def _need_calls(hidden: Hidden, answers: Sequence[Answer]) -> None:
    """A template that knows no tools leaves their calls out, and an answer of nothing would be trained. Raises
    BessemerError."""
    for answer in answers:
        for call in hidden.messages[answer.message].get("tool_calls", ()):
            if (name := call["function"]["name"]) not in answer.text[answer.start :]:
                raise BessemerError(
                    f"the chat template does not write the call of {name!r}",
                    fix="use a template that knows tools (chat_template:), or take rows with calls out",
                )


def _need_tools(item: Item, last: Answer) -> None:
    """Raises BessemerError for tools that the model would never see."""
    for tool in item.tools:
        named = tool.get("function")
        name = (named if isinstance(named, Mapping) else tool).get("name")
        if isinstance(name, str) and name not in last.text:
            raise BessemerError(
                f"the chat template does not show the tool {name!r}",
                fix="use a template that knows tools (chat_template:), or take the column `tools` out",
            )


def wanted_answers(job: Job, control: Mapping[int, str]) -> list[str]:
    """The text of every answer that a job trains, with its end of turn."""
    answers: list[str] = []
    inside = False
    for op in job.program:
        if isinstance(op, _Mark):
            inside = op is START
            answers += [""] if inside else []
        elif inside:
            answers[-1] += op.fill(job.texts) if isinstance(op, Hole) else control[op] if isinstance(op, int) else op
    return answers


def _assemble(layout: Sequence[Any], encoded: Iterator[list[int]]) -> tuple[list[int], list[tuple[int, int]]]:
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    start = 0
    for op in layout:
        if isinstance(op, str):
            ids += next(encoded)
        elif isinstance(op, int):
            ids.append(op)
        elif op is START:
            start = len(ids)
        elif op is END:
            spans.append((start, len(ids)))
    return ids, spans


def end_of(job: Job) -> int:
    """The control token that ends the first trained answer."""
    end = job.program[job.program.index(END) - 1]
    assert isinstance(end, int)  # the renderer sees to it
    return end


def eos_ids(renderer: Renderer, generation_config: dict[str, Any]) -> set[int]:
    """Ids that end a generation: the tokenizer's end token, the end of text, what the model's config names, and what
    ends an answer of the chat template. Base checkpoints with a template (Qwen) name only the end of text."""
    named = generation_config.get("eos_token_id")
    ids = set(named) if isinstance(named, list) else {named}
    ends = {renderer.chat.eos_token_id, renderer.end_of_text_id, renderer.answer_end}
    return {i for i in ids | ends if i is not None}
