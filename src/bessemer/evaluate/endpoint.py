"""A task answered by a model behind an endpoint, such as a contestant whose weights nobody has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from bessemer.errors import BessemerError
from bessemer.evaluate.answer import Kept, columns_of
from bessemer.evaluate.client import ChatClient, Reply
from bessemer.evaluate.grade import grade_texts
from bessemer.evaluate.metrics import Columns
from bessemer.evaluate.tasks import LoadedTask, Task, TaskItem
from bessemer.files import canonical_json, sha256_text
from bessemer.infer.score import Progress
from bessemer.recipe.schema import Strict

TOP = 20  # likeliest first tokens that an endpoint is asked for; more are refused by most
UNSAID = 3.0  # nats below the least likely token that it named: an answer that was not among them
SAID = 6.0  # nats between what it said and what it did not say, where it names no probabilities
SHORT = 16  # tokens of an answer that names one of the options


class Endpoint(Strict):
    """Where a model answers."""

    url: str = Field(description="Base URL, such as http://127.0.0.1:8000/v1", pattern=r"^https?://\S+$")
    model: str = Field(description="Its name there; what it answers with is recorded and must not change")
    key_env: str | None = Field(default=None, description="Environment variable that holds the key of the endpoint")
    timeout_s: Annotated[float, Field(gt=0, le=600)] = Field(default=60.0, description="Longest wait for one answer")


def answer_task(
    client: ChatClient, task: LoadedTask, progress: Progress, *, kept: Kept | None = None, salt: str = ""
) -> Columns:
    """What the endpoint says of every item; what it said is kept, so that no item is sent twice.

    Raises BessemerError for kinds that need the model's own probabilities.
    """
    kind, values = task.task.kind, list[list[float]]()
    if kind not in {"classify", "choice", "generate"}:
        raise BessemerError(
            f"a task of kind {kind} needs the probabilities of texts, which no endpoint gives",
            where=f"task {task.name}",
            fix="classify, choice and generate can be asked",
        )
    need_askable(task.task)
    how: dict[str, Any] = {"max_tokens": task.task.max_tokens, "temperature": task.task.temperature}
    how |= {"stop": task.task.stop} if task.task.stop else {}
    settings = [
        client.identify() if kept else "",
        salt,
        task.task.match.model_dump(mode="json"),
        task.spec().get("scorer_sha256", ""),
    ]
    for item in task.items:
        options = task.task.answers if kind == "classify" else item.choices
        asked = _messages(item, options)
        body = how if kind == "generate" else {"max_tokens": SHORT, "logprobs": True, "top_logprobs": TOP}
        key = sha256_text(canonical_json([*settings, asked, body, options, item.wanted]))
        value = kept.known.get(key) if kept else None
        if value is None:
            reply = client.ask(asked, item.id, **body)
            if kind == "generate":
                value = grade_texts(task.task.match, [item], [reply.text], task.scorer)
            else:
                value = logprobs_of(reply, options)
            if kept:
                kept.add([key], [value])
        values.append(value)
        progress(1 / len(task.items))
    return columns_of(task, values)


def need_askable(task: Task) -> None:
    """Raises BessemerError for a task that draws several answers: an endpoint is asked once, as others are not."""
    if task.samples > 1:
        raise BessemerError(
            f"the task looks at {task.samples} answers to each item; an endpoint gives one",
            where=f"task {task.name}",
            fix="use a task with samples: 1",
        )


def _messages(item: TaskItem, options: Sequence[str] = ()) -> list[dict[str, str]]:
    turns = [{"role": m.role, "content": m.content} for m in item.messages]
    turns = turns or [{"role": "user", "content": item.prompt}]
    if options:
        asked = f"Reply with one of these and nothing else: {' | '.join(options)}"
        turns[-1] = turns[-1] | {"content": f"{turns[-1]['content']}\n\n{asked}"}
    return turns


def logprobs_of(reply: Reply, options: Sequence[str]) -> list[float]:
    """A log-probability for each option: of the first token that begins it, else by what was said."""
    said = reply.text.strip().lower()
    if reply.top:
        floor = min(reply.top.values()) - UNSAID
        found = [_begins(reply.top, option) for option in options]
        if any(f is not None for f in found):
            return [floor if f is None else f for f in found]
    chosen = [said.startswith(option.strip().lower()) for option in options]
    return [0.0 if c else -SAID for c in chosen] if any(chosen) else [-SAID] * len(options)


def _begins(top: dict[str, float], option: str) -> float | None:
    """The likelihood of all named tokens that the option begins with, whatever their case and spaces."""
    wanted = option.strip().lower()
    found = [p for token, p in top.items() if (t := token.strip().lower()) and wanted.startswith(t)]
    return float(np.logaddexp.reduce(found)) if found else None
