"""One model, one task -> columns: what the model said about every item, not yet what it is worth.

What was computed is kept under the model's digest and the item's content, batch by batch: a killed evaluation goes on
where it stopped, and a second one of the same model costs nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bessemer.errors import BessemerError
from bessemer.evaluate.grade import JudgeClient, grade_texts
from bessemer.evaluate.metrics import Columns
from bessemer.evaluate.tasks import LoadedTask, TaskItem, gold
from bessemer.files import canonical_json, home, sha256_text
from bessemer.infer.generate import generate, need_room
from bessemer.infer.model import Loaded, need_scoring_room, scoring_limit
from bessemer.infer.score import Progress, branch_logprobs, n_same

SCORING = "scoring/5"  # changed when the same model would score differently
TOGETHER = 64  # items whose answers a user's scorer grades in one go
WINDOW = 2048  # tokens of a document that are scored together
Value = list[float]
Branching = tuple[list[int], list[list[int]]]  # a prompt and its continuations, as token ids
Asked = tuple[TaskItem, Branching]


@dataclass
class Kept:
    """What is known of one model, in a file of lines. key: what decides the value, hashed."""

    path: Path
    known: dict[str, Value] = field(default_factory=dict[str, Value])

    @staticmethod
    def of(loaded: Loaded, folder: Path | None = None) -> Kept:
        """The values of a model in this precision. A line that a kill tore is left out."""
        assert loaded.digest, "models without a digest would share what is kept"
        precision = str(loaded.machine.dtype).removeprefix("torch.")
        return Kept.named(f"{loaded.digest[:32]}-{precision}", folder)

    @staticmethod
    def named(name: str, folder: Path | None = None) -> Kept:
        kept = Kept((folder or home() / "cache" / "scores") / f"{name}.jsonl")
        if kept.path.exists():
            for line in kept.path.read_text().splitlines():
                try:
                    row = json.loads(line)
                    kept.known[row["k"]] = row["v"]
                except (ValueError, KeyError, TypeError):
                    continue
        return kept

    def add(self, keys: Iterable[str], values: Iterable[Value]) -> None:
        lines = ""
        for key, value in zip(keys, values, strict=True):
            self.known[key] = value
            lines += json.dumps({"k": key, "v": value}) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, ("\n" + lines).encode())  # the newline ends a line that a kill tore
        finally:
            os.close(handle)


def answer_task(
    loaded: Loaded,
    task: LoadedTask,
    *,
    progress: Progress | None = None,
    kept: Kept | None = None,
    salt: str = "",
) -> Columns:
    """Ask the model everything. salt: of a sealed set, so that what is kept tells nothing about its items.

    Raises BessemerError for an item that is longer than the model reads, an answer that is no number, and what the
    scorer or judge of the task raises.
    """
    kind, see = task.task.kind, progress or (lambda _: None)
    judge = JudgeClient(task.task.judge) if task.task.judge else None
    if kind in {"generate", "judge"}:
        values = _generated(loaded, task, judge, see, kept, salt)
    elif kind == "perplexity":
        asked = list(_windows(loaded, task))
        bits = dict.fromkeys((item.id for item in task.items), 0.0)
        for (item, _), (value,) in zip(asked, _scored(loaded, asked, see, kept, salt), strict=True):
            bits[item.id] += value
        values = [[value] for value in bits.values()]
    else:
        asked = list(zip(task.items, _branchings(loaded, task), strict=True))
        values = _scored(loaded, asked, see, kept, salt)
    return columns_of(task, values, judge.identify() if judge else "")


# -- log-likelihoods ----------------------------------------------------------------------------------------


def _scored(loaded: Loaded, asked: Sequence[Asked], progress: Progress, kept: Kept | None, salt: str) -> list[Value]:
    _need_room(loaded, asked)
    branchings = [branching for _, branching in asked]
    keys = [_key(loaded, salt, prompt, branches) for prompt, branches in branchings]
    known = kept.known if kept else {}
    missing = [i for i, key in enumerate(keys) if key not in known]
    progress(1 - len(missing) / len(keys))
    fresh: dict[int, Value] = {}

    def done(which: list[int], values: list[list[float]]) -> None:
        fresh.update((missing[w], value) for w, value in zip(which, values, strict=True))
        if kept:
            kept.add([keys[missing[w]] for w in which], values)

    if missing:
        prompts, branches = zip(*(branchings[i] for i in missing), strict=True)
        branch_logprobs(loaded, prompts, branches, lambda share: progress(share * len(missing) / len(keys)), done)
    found = [fresh.get(i) or known[key] for i, key in enumerate(keys)]
    for (item, _), value in zip(asked, found, strict=True):
        if not np.isfinite(value).all():
            raise BessemerError(
                f"the model gave {value} as log-probabilities",
                where=f"item {item.id}",
                fix="its weights are damaged, or training diverged",
            )
    return found


def _key(loaded: Loaded, salt: str, *what: Any) -> str:
    return sha256_text(canonical_json([SCORING, salt, str(loaded.machine.device.type), *what]))


def _branchings(loaded: Loaded, task: LoadedTask) -> list[Branching]:
    """Every item as a prompt and its continuations."""
    renderer = loaded.renderer
    match task.task.kind:
        case "pairs":
            begin = [_first_id(loaded)]
            encoded = renderer.encode_texts([t for i in task.items for t in (i.good, i.bad)])
            return [(begin, encoded[k : k + 2]) for k in range(0, len(encoded), 2)]
        case "classify":
            options = [task.task.answers for _ in task.items]
        case _:
            options = [i.choices for i in task.items]
    chat = [n for n, i in enumerate(task.items) if i.messages]
    text = [n for n, i in enumerate(task.items) if not i.messages]
    found: dict[int, Branching] = {}
    answers = iter(renderer.answer_ids([o for n in chat for o in options[n]]) if chat else ())
    stem = renderer.answer_stem if chat else []
    for n in chat:
        found[n] = [*renderer.chat_ids(task.items[n].chat), *stem], [next(answers)[len(stem) :] for _ in options[n]]
    found.update(zip(text, _continued(loaded, [(task.items[n].prompt, options[n]) for n in text]), strict=True))
    if task.task.kind == "classify":
        _need_apart(task.task.answers, [found[n] for n in (*chat[:1], *text[:1])])
    return [found[n] for n in range(len(task.items))]


def _need_apart(answers: Sequence[str], asked: Sequence[Branching]) -> None:
    """Raises BessemerError where an answer's tokens begin another's, which could never be the likelier one then."""
    for _, branches in asked:
        for (one, short), (other, long) in permutations(zip(answers, branches, strict=True), 2):
            if long[: len(short)] == short:
                raise BessemerError(
                    f"the tokens of {one!r} begin those of {other!r}, so {other!r} can never be likelier",
                    where="answers",
                    fix="write them so that none begins another: words, or letters",
                )


def _continued(loaded: Loaded, asked: Sequence[tuple[str, Sequence[str]]]) -> list[Branching]:
    """Plain texts with continuations: what a continuation adds to the ids of its prompt.

    Spaces at a prompt's end belong to the continuation, as tokenizers write them. A continuation without a space of
    its own gets none: tasks say what stands between question and answer. Where a tokenizer melts the end of the prompt
    and a continuation into one token, the question ends before that token, for all continuations of the item.
    """
    cut = [(prompt.rstrip(), prompt[len(prompt.rstrip()) :]) for prompt, _ in asked]
    prompts = loaded.renderer.encode_texts([prompt for prompt, _ in cut])
    wholes = iter(
        loaded.renderer.encode_texts(
            [prompt + spaces + o for (prompt, spaces), (_, own) in zip(cut, asked, strict=True) for o in own]
        )
    )
    found: list[Branching] = []
    opening = loaded.renderer.opening
    for ids, (_, options) in zip(prompts, asked, strict=True):
        own = [next(wholes) for _ in options]
        n = min(n_same(ids, whole) for whole in own)
        found.append(([*opening, *ids[:n]] or [_first_id(loaded)], [whole[n:] for whole in own]))
    return found


def _first_id(loaded: Loaded) -> int:
    """What stands before a text that nothing precedes."""
    begin: int | None = loaded.renderer.chat.bos_token_id
    end = loaded.renderer.end_of_text_id
    assert end is not None
    return end if begin is None else begin


def _windows(loaded: Loaded, task: LoadedTask) -> Iterator[Asked]:
    """Documents in windows; every token is scored once, given the last token of the window before.

    The last window is given as many tokens as fit. So does lm-evaluation-harness (with max_length=2048).
    """
    size = min(WINDOW, scoring_limit(loaded))
    for item, ids in zip(task.items, loaded.renderer.encode_texts([i.text for i in task.items]), strict=True):
        given = [_first_id(loaded), *ids]
        for start in range(0, len(ids), size):
            end = min(start + size, len(ids))
            first = max(0, end - size) if start else 0
            yield item, (given[first : start + 1], [ids[start:end]])


def _need_room(loaded: Loaded, asked: Sequence[Asked]) -> None:
    for item, (prompt, branches) in asked:
        if not all(branches):
            raise BessemerError("an answer has no tokens", where=f"item {item.id}", fix="give it words")
        longest = len(prompt) + max(map(len, branches)) - 1  # nothing follows the last token, so it is not read
        need_scoring_room(loaded, longest, f"item {item.id}")


# -- generation ---------------------------------------------------------------------------------------------


def _generated(
    loaded: Loaded, task: LoadedTask, judge: JudgeClient | None, progress: Progress, kept: Kept | None, salt: str
) -> list[Value]:
    """For each item the worth of its samples. A user's scorer grades TOGETHER items: the sandbox starts seldom."""
    wanted = task.task
    settings = wanted.model_dump(
        mode="json", include={"max_tokens", "samples", "temperature", "stop", "match", "judge"}
    )
    code = judge.identify() if judge else task.spec().get("scorer_sha256", "")
    known = kept.known if kept else {}
    ids = [_prompt_ids(loaded, item) for item in task.items]
    for item, own in zip(task.items, ids, strict=True):
        need_room(loaded, len(own), wanted.max_tokens, f"item {item.id}")
    unseen = set[str]() if wanted.match.how == "python" else {"id", "group", "slice"}  # a user's function sees all
    keys = [
        _key(loaded, salt, settings, code, i, item.model_dump(exclude=unseen))
        for i, item in zip(ids, task.items, strict=True)
    ]
    values = [known.get(key, []) for key in keys]
    missing = [n for n, key in enumerate(keys) if key not in known]
    progress(1 - len(missing) / len(keys))
    size = TOGETHER if wanted.match.how == "python" else 1
    for some in (missing[i : i + size] for i in range(0, len(missing), size)):
        texts: list[str] = []
        for n in some:
            texts += [_say(loaded, ids[n], task, sample) for sample in range(wanted.samples)]
            progress(1 / len(keys))
        items = [task.items[n] for n in some for _ in range(wanted.samples)]
        if judge:
            grades = [judge.grade(item, text) for item, text in zip(items, texts, strict=True)]
        else:
            grades = grade_texts(wanted.match, items, texts, task.scorer)
        for i, n in enumerate(some):
            values[n] = grades[i * wanted.samples : (i + 1) * wanted.samples]
        if kept:
            kept.add([keys[n] for n in some], [values[n] for n in some])
    return values


def _prompt_ids(loaded: Loaded, item: TaskItem) -> list[int]:
    if item.messages:
        return loaded.renderer.chat_ids(item.chat)
    return [*loaded.renderer.opening, *loaded.renderer.encode_texts([item.prompt])[0]] or [_first_id(loaded)]


def _say(loaded: Loaded, ids: Sequence[int], task: LoadedTask, sample: int) -> str:
    wanted = task.task
    tokens = generate(
        loaded,
        ids,
        max_tokens=wanted.max_tokens,
        temperature=wanted.temperature,
        seed=int(sha256_text(canonical_json([list(ids), sample]))[:15], 16),  # items are drawn independently
        stop=wanted.stop,
    )
    return "".join(token.text for token in tokens if not token.hidden)


# -- columns ------------------------------------------------------------------------------------------------


def columns_of(task: LoadedTask, values: Sequence[Value], judge: str = "") -> Columns:
    """values: for each item the log-probabilities of its options, or the worth of its answers."""
    ids = tuple(item.id for item in task.items)
    groups = tuple(item.group or item.id for item in task.items)
    slices = tuple(item.slice for item in task.items)
    return Columns(task.task.kind, ids, groups, slices, _values(task, values), judge)


def _values(task: LoadedTask, values: Sequence[Value]) -> dict[str, NDArray[Any]]:
    items = task.items
    match task.task.kind:
        case "classify":
            place = {answer: k for k, answer in enumerate(task.task.answers)}
            return {"label": np.array([place[str(i.answer)] for i in items]), "logprob": np.array(values)}
        case "choice":
            most = max(map(len, values))
            lengths = [[float(n) for n in i.lengths or [len(c.encode()) for c in i.choices]] for i in items]
            return {
                "gold": np.array([gold(i) for i in items]),
                "logprob": _filled(values, most),
                "bytes": _filled(lengths, most),
            }
        case "pairs":
            return {"logprob": np.array(values)}
        case "perplexity":
            return {
                "bits": -np.array([v[0] for v in values]) / np.log(2),
                "bytes": np.array([float(len(i.text.encode())) for i in items]),
            }
        case _:
            return {"right": np.array(values)}


def _filled(rows: Sequence[Sequence[float]], width: int) -> NDArray[np.float64]:
    """Rows of different lengths as one array, nan beyond their ends."""
    return np.array([[*row, *[np.nan] * (width - len(row))] for row in rows])
