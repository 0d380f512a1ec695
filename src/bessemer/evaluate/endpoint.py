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
        # A user's function sees the whole item.
        known = item.model_dump(mode="json") if task.task.match.how == "python" else item.wanted
        key = sha256_text(canonical_json([*settings, asked, body, options, known]))
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
    said, wanted = reply.text.strip().lower(), [option.strip().lower() for option in options]
    likely = sorted(reply.top.items(), key=lambda pair: -pair[1])
    begins = [(p, [w.startswith(t) for w in wanted]) for token, p in likely if (t := token.strip().lower())]
    begins = [(p, begun) for p, begun in begins if any(begun)]  # tokens that begin options, the likeliest first
    if begins and sum(begins[0][1]) == 1:  # else "The" begins two, and only what follows tells them apart
        floor = min(reply.top.values()) - UNSAID
        found = [[p for p, begun in begins if begun[place] and sum(begun) == 1] for place in range(len(wanted))]
        return [float(np.logaddexp.reduce(own)) if own else floor for own in found]
    longest = max((w for w in wanted if said.startswith(w)), key=len, default=None)  # "not sure" is no "no"
    return [0.0 if w == longest else -SAID for w in wanted]
