"""The task file: what is measured, on which items, and what counts as an effect.

A task is a page of YAML beside its items in JSONL (docs/design/evaluation.md has the table of kinds). Items are read
strictly: all mistakes of the task at once, and the mistakes of its items with their lines.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from bessemer.data.builtin import COLLECTIONS
from bessemer.data.items import ROLES, Item, Message
from bessemer.data.sources import Source, good_rows
from bessemer.errors import BessemerError
from bessemer.files import sha256_file
from bessemer.recipe.load import load
from bessemer.recipe.schema import Name, Strict

Kind = Literal["classify", "choice", "pairs", "generate", "perplexity", "judge"]
METRICS_OF: dict[str, tuple[str, ...]] = {  # the first one is the default
    "classify": ("accuracy", "macro_f1", "auroc", "auprc", "recall_at_precision", "ece", "both_right"),
    "choice": ("accuracy", "accuracy_norm", "ece"),
    "pairs": ("accuracy",),
    "generate": ("exact_match", "pass_at_k"),
    "perplexity": ("bits_per_byte",),
    "judge": ("score",),
}
BINARY_ONLY = ("auprc", "recall_at_precision")
SHOWN = 5  # mistakes of items that an error lists


class Match(Strict):
    """When a generated answer is right."""

    how: Literal["exact", "normalised", "numeric", "regex", "python"] = Field(
        default="normalised",
        description="exact: the same text; normalised: without case, punctuation, articles and spaces; numeric: the "
        "last number of the answer equals the wanted one; regex: `pattern` finds something that equals the wanted "
        "answer; python: `scorer` says, in the sandbox",
    )
    pattern: str | None = Field(
        default=None, description="With how: regex. Its first group that is not empty, or the match, is compared"
    )
    scorer: str | None = Field(
        default=None,
        description="With how: python. A file beside the task with `def score(item: dict, answer: str) -> float`",
    )
    which: Literal["first", "last"] = Field(
        default="first", description="With how: regex. Which of the places it finds"
    )
    strip: bool = Field(default=True, description="exact, regex: without spaces at the ends")
    ignore_case: bool = Field(default=False, description="exact, regex: without case")
    ignore_punctuation: bool = Field(default=False, description="exact, regex: without ASCII punctuation")
    ignore: list[str] = Field(
        default_factory=list[str], description="exact, regex: patterns that are taken out of both sides first"
    )

    @model_validator(mode="after")
    def _whole(self) -> Match:
        if (self.how == "regex") != (self.pattern is not None):
            raise ValueError(".pattern: goes with how: regex, and how: regex needs it")
        if (self.how == "python") != (self.scorer is not None):
            raise ValueError(".scorer: goes with how: python, and how: python needs it")
        compared = {"strip", "ignore_case", "ignore_punctuation", "ignore"} & self.model_fields_set
        if compared and self.how not in {"exact", "regex"}:
            raise ValueError(f".{min(compared)}: goes with how: exact and how: regex")
        if "which" in self.model_fields_set and self.how != "regex":
            raise ValueError(".which: goes with how: regex")
        for name, pattern in [("pattern", self.pattern or ""), *(("ignore", p) for p in self.ignore)]:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f".{name}: no regular expression ({error})") from None
        return self


class Judge(Strict):
    """A model behind an OpenAI-compatible endpoint that grades answers by a rubric."""

    url: str = Field(description="Base URL, such as http://127.0.0.1:8000/v1", pattern=r"^https?://\S+$")
    model: str = Field(description="Name of the judge; what it answers with is recorded and must not change")
    rubric: str = Field(description="What a good answer is, in words", min_length=10)
    key_env: str | None = Field(None, description="Environment variable that holds the key of the endpoint")
    timeout_s: Annotated[float, Field(gt=0, le=600)] = Field(60.0, description="Longest wait for one answer")


class Task(Strict):
    """A held-out measurement."""

    name: Name = Field(description="What results call it")
    kind: Kind = Field(
        description="classify: one of `answers`; choice: one of the item's `choices`; pairs: `good` against `bad`; "
        "generate: an answer that `match` checks; perplexity: bits per byte of `text`; judge: graded by a rubric"
    )
    items: str = Field(description="JSONL beside this file, or any address that a source takes")
    answers: list[str] = Field(
        default_factory=list[str], description="classify: the labels; the first one is the positive one"
    )
    metric: str | None = Field(None, description="The one that decides; default: the first of its kind")
    smallest_effect: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.02, description="The smallest change of the metric that matters; the margin of EQUIVALENT"
    )
    alpha: Annotated[float, Field(gt=0, le=0.2)] = Field(0.05, description="Error rate of the answers WIN and LOSS")
    overlap_limit: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of the items that may be found in what a run was fed; above it there is no SHIP"
    )
    precision: Annotated[float, Field(gt=0, lt=1)] = Field(0.9, description="Of recall_at_precision")
    match: Match = Field(default_factory=Match, description="generate: when an answer is right")
    max_tokens: Annotated[int, Field(ge=1, le=8192)] = Field(64, description="generate, judge: longest answer")
    samples: Annotated[int, Field(ge=1, le=100)] = Field(1, description="generate: answers drawn for each item")
    temperature: Annotated[float, Field(ge=0, le=2)] = Field(0.0, description="generate, judge: 0 takes the likeliest")
    k: Annotated[int, Field(ge=1, le=100)] = Field(1, description="generate: k of pass_at_k")
    stop: list[str] = Field(default_factory=list[str], description="generate: texts that end an answer")
    judge: Judge | None = None

    @property
    def primary(self) -> str:
        return self.metric or METRICS_OF[self.kind][0]

    @model_validator(mode="after")
    def _cross_check(self) -> Task:
        found: list[str] = []
        if self.metric is not None and self.metric not in METRICS_OF[self.kind]:
            found.append(f"metric: {self.metric!r} is none of kind {self.kind}: {', '.join(METRICS_OF[self.kind])}")
        if self.kind == "classify" and len(self.answers) < 2:
            found.append("answers: classify needs at least two")
        if self.kind != "classify" and self.answers:
            found.append("answers: only with kind classify")
        if len(set(self.answers)) < len(self.answers):
            found.append("answers: one stands twice")
        if self.primary in BINARY_ONLY and len(self.answers) != 2:
            found.append(f"metric: {self.primary} needs two answers, there are {len(self.answers)}")
        if (self.kind == "judge") != (self.judge is not None):
            found.append("judge: goes with kind judge, and kind judge needs it")
        if self.samples > 1 and self.temperature == 0:
            found.append(f"temperature: 0 gives {self.samples} equal samples")
        if self.k > self.samples:
            found.append(f"k: {self.k} of {self.samples} samples cannot be looked at")
        given = self.model_fields_set
        for name in ("match", "samples", "stop", "k"):
            if name in given and self.kind != "generate":
                found.append(f"{name}: only with kind generate")
        if found:
            raise ValueError("\n".join(found))
        return self


class _Message(Strict):
    role: Literal["system", "user", "assistant", "tool"]
    content: str


class TaskItem(Strict):
    """One item. `messages` go through the chat template; `prompt` is text as it stands.

    lengths: what accuracy_norm divides by, one for each choice; by default the bytes of the choice.
    """

    id: str = Field(min_length=1)
    group: str = ""
    slice: str = ""
    prompt: str = ""
    messages: list[_Message] = Field(default_factory=list[_Message])
    answer: str | int | None = None
    answers: list[str] = Field(default_factory=list[str])
    choices: list[str] = Field(default_factory=list[str])
    lengths: list[int] = Field(default_factory=list[int])
    good: str = ""
    bad: str = ""
    text: str = ""
    reference: str = ""
    meta: dict[str, Any] = Field(default_factory=dict[str, Any])

    @property
    def chat(self) -> list[Message]:
        return [Message(m.role, m.content) for m in self.messages]

    @property
    def wanted(self) -> list[str]:
        return self.answers or [str(self.answer)]

    @property
    def answer_text(self) -> str:
        given = self.choices[self.answer] if isinstance(self.answer, int) and self.choices else self.answer
        return "\n".join(filter(None, [*self.answers, "" if given is None else str(given), self.good, self.reference]))


@dataclass(frozen=True)
class LoadedTask:
    """A task with its items, checked against each other. `scorer`: the code of `match.scorer`."""

    task: Task
    items: tuple[TaskItem, ...]
    scorer: Path | None = None

    @property
    def name(self) -> str:
        return self.task.name

    def rows(self) -> list[dict[str, Any]]:
        """The items as plain data; what an item does not have is left out."""
        return [item.model_dump(exclude_defaults=True) for item in self.items]

    def spec(self) -> dict[str, Any]:
        """The task without its items, as plain data."""
        spec = self.task.model_dump(mode="json", exclude={"items"})
        return spec | ({"scorer_sha256": sha256_file(self.scorer)} if self.scorer else {})


def load_task(path: str | Path) -> LoadedTask:
    """Read a task file and its items. Raises RecipeError (all mistakes of the file) or BessemerError (of the items)."""
    path = Path(path)
    task = load(Task, path)
    scorer = path.parent / task.match.scorer if task.match.scorer else None
    if scorer is not None and not scorer.is_file():
        raise BessemerError("the scorer does not exist", where=str(scorer), fix=f"match.scorer in {path}")
    beside = path.parent / task.items
    address = str(beside) if "://" not in task.items and beside.exists() else task.items
    return with_rows(task, _read(address, task, f"{path}: items"), where=str(path), scorer=scorer)


def with_rows(
    task: Task, found: Sequence[tuple[str, Mapping[str, Any]]], *, where: str, scorer: Path | None = None
) -> LoadedTask:
    """The task with (place, row) pairs as its items. Raises BessemerError that lists the first mistakes of all."""
    items: list[TaskItem] = []
    wrong: list[str] = []
    for place, row in found:
        try:
            item = TaskItem.model_validate(dict(row))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(map(str, first["loc"]))
            what = "unknown key; put it under `meta`" if first["type"] == "extra_forbidden" else first["msg"]
            wrong.append(f"{place}: {name}: {what}")
            continue
        if fault := _fault(task, item):
            wrong.append(f"{place}: {fault}")
        items.append(item)
    counts = Counter(item.id for item in items)
    wrong += [f"id {id!r} stands {n} times" for id, n in counts.items() if n > 1]
    if not found:
        wrong.append("there are no items")
    if not wrong and task.kind == "classify" and len({item.answer for item in items}) == 1:
        wrong.append(f"every item has the answer {items[0].answer!r}, so nothing can be told apart")
    if wrong:
        listed = "".join(f"\n  {text}" for text in wrong[:SHOWN])
        more = f"\n  and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise BessemerError(
            f"{len(wrong)} mistake{'s' if len(wrong) > 1 else ''} in the items of task {task.name}{listed}{more}",
            where=where,
            fix="correct the rows; docs/design/evaluation.md has a table of what each kind of task needs",
        )
    return LoadedTask(task, tuple(items), scorer)


def _fault(task: Task, item: TaskItem) -> str:
    """What an item of this kind lacks, or has too much; empty when it is sound."""
    asks = bool(item.prompt) + bool(item.messages)
    if task.kind not in {"pairs", "perplexity"} and asks != 1:
        return "give either prompt or messages" if asks else "no question: give prompt or messages"
    if item.messages and item.messages[-1].role == "assistant":
        return "messages end with the assistant; put that text into `answer`"
    return _FAULTS[task.kind](task, item)


def _classify_fault(task: Task, item: TaskItem) -> str:
    if item.answer is None:
        return "no answer"
    return "" if item.answer in task.answers else f"answer {item.answer!r} is none of {', '.join(task.answers)}"


def _choice_fault(task: Task, item: TaskItem) -> str:
    if len(item.choices) < 2 or len(set(item.choices)) < len(item.choices):
        return "choices need at least two different texts"
    if item.lengths and (len(item.lengths) != len(item.choices) or min(item.lengths) < 1):
        return f"{len(item.choices)} choices need as many lengths, each at least 1"
    if item.answer is None:
        return "no answer"
    if isinstance(item.answer, int):
        inside = 0 <= item.answer < len(item.choices)
        return "" if inside else f"answer {item.answer} is no place in {len(item.choices)} choices (they count from 0)"
    return "" if item.answer in item.choices else f"answer {item.answer!r} is none of the choices"


def _pairs_fault(task: Task, item: TaskItem) -> str:
    return "" if item.good and item.bad and item.good != item.bad else "pairs need good and bad, and they must differ"


def _generate_fault(task: Task, item: TaskItem) -> str:
    if item.answer is None and not item.answers and task.match.how != "python":
        return "no answer"
    if task.match.how == "numeric" and any(number(a) is None for a in item.wanted):
        return f"answer {item.wanted[0]!r} is no number, but match is numeric"
    return ""


_FAULTS: dict[str, Callable[[Task, TaskItem], str]] = {
    "classify": _classify_fault,
    "choice": _choice_fault,
    "pairs": _pairs_fault,
    "generate": _generate_fault,
    "perplexity": lambda task, item: "" if item.text.strip() else "no text",
    "judge": lambda task, item: "",
}


def gold(item: TaskItem) -> int:
    """The place of the right choice."""
    return item.answer if isinstance(item.answer, int) else item.choices.index(str(item.answer))


def number(text: str) -> float | None:
    """Thousands in commas, with currencies and per cent; None for what is none, or not finite."""
    try:
        found = float(re.sub(r"[,$€£%\s]", "", text.replace("\u2212", "-")))
    except ValueError:
        return None
    return found if math.isfinite(found) else None


# -- reading ----------------------------------------------------------------------------------------------


def _read(address: str, task: Task, where: str) -> list[tuple[str, Mapping[str, Any]]]:
    if address.startswith("bessemer:"):
        name = address.removeprefix("bessemer:")
        if name not in COLLECTIONS:
            known = ", ".join("bessemer:" + n for n in COLLECTIONS)
            raise BessemerError(f"{address!r} is no collection", where=where, fix=f"known: {known}")
        return [(item.id, row_of(item)) for item in COLLECTIONS[name][1]()]
    if address.startswith("dataset:"):  # its rows are items, not a task's
        kind = "documents" if task.kind == "perplexity" else "chat"
        return [(item.id, row_of(item)) for item in Source(address, kind, where=where)]
    return [(place, answered(row)) for place, row in good_rows(address, where)]


def answered(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A conversation that ends with the assistant, as its question and its answer."""
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages or row.get("answer") is not None:
        return row
    last: Any = messages[-1]
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        return row
    return {**row, "messages": messages[:-1], "answer": str(last.get("content", "")).strip()}


def row_of(item: Item) -> dict[str, Any]:
    """An item of a source as a task's row."""
    row: dict[str, Any] = {
        "id": item.id,
        "group": item.group,
        "slice": str(item.meta.get("slice") or item.meta.get("rule", "")),
    }
    if not item.messages:
        return row | {"text": item.text}
    assert all(m.role in ROLES for m in item.messages)
    turns = [{"role": m.role, "content": m.content} for m in item.messages]
    return dict(answered(row | {"messages": turns}))
