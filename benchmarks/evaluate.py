"""Scoring beside lm-evaluation-harness's own runner: seconds, log-likelihoods and accuracy on the same items.

    python benchmarks/evaluate.py [--rounds 3] [--items 100] [--dtypes bfloat16 float32] [--batches 8 32 auto]
                                  [--start CHECKPOINT]

Three tasks from Python's documentation, written as task files of lm-eval and read by both:

choice:  a paragraph; which of four sentences comes next.
yes-no:  instructions that all items share, then a short text; two answers of one word.
pairs:   a sentence, and the same one with two words exchanged; nothing before them.

Timed is what a runner does with a loaded model and built requests: `HFLM.loglikelihood` there, `answer_task` here,
both with tokenizing. Everything runs in one process, interleaved; medians. lm-eval tries each of its batch sizes in the
first round and goes on with the fastest.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bessemer.data.builtin import COLLECTIONS
from bessemer.evaluate.adapt import load_lm_eval
from bessemer.evaluate.answer import Kept, answer_task
from bessemer.evaluate.metrics import METRICS, Columns
from bessemer.evaluate.tasks import LoadedTask
from bessemer.families.fetch import Checkpoint, resolve
from bessemer.infer.model import Loaded, load

SENTENCE = re.compile(r"[A-Z][^.!?\n]{30,160}[.!?](?=\s)")
RULES = """You sort short passages of a manual. Some of them tell the reader what to do: which function to call, which
argument to give, what to avoid, what to write instead. Others describe: what an object is, what a function returns,
how a module came about, what happens inside of the interpreter. Passages that do both count as advice when the first
sentence tells the reader what to do. Examples of code alone are no advice. Warnings are advice, because a reader who
knows them acts otherwise. History is no advice, nor is a definition of a term, nor a list of names.
"""
Row = dict[str, Any]


# -- the items --------------------------------------------------------------------------------------------------


def sentences() -> Iterator[list[str]]:
    """The sentences of each topic of Python's documentation, in order."""
    for item in COLLECTIONS["python/topics"][1]():
        flat = re.sub(r"\s+", " ", item.text) + " "
        yield SENTENCE.findall(flat)


def make_rows(n: int) -> dict[str, tuple[list[Row], str]]:
    """{task: (rows, the rest of its task file)}."""
    draw = random.Random(7)
    topics = [found for found in sentences() if len(found) > 6]
    every = [s for found in topics for s in found]
    starts = [(found, i) for found in topics for i in range(0, len(found) - 5, 3)]
    draw.shuffle(starts)
    draw.shuffle(every)
    choice: list[Row] = []
    for found, i in starts[:n]:
        others = draw.sample([s for s in every if s not in found], 3)
        options = [found[i + 5], *others]
        draw.shuffle(options)
        question = " ".join(found[i : i + 5])
        choice.append({"question": question, "options": options, "right": options.index(found[i + 5])})
    yes_no = [{"text": " ".join(draw.sample(every, 2)), "right": draw.randrange(2)} for _ in range(n)]
    pairs = [{"good": s, "bad": exchanged(s, draw)} for s in every[: 2 * n]]
    return {
        "choice": (choice, 'doc_to_text: "{{question}}"\ndoc_to_choice: options\ndoc_to_target: right\n'),
        "yes-no": (
            yes_no,
            f"doc_to_text: {json.dumps(RULES + chr(10) + 'Passage: {{text}}' + chr(10) + 'Is it advice?')}\n"
            'doc_to_choice: ["yes", "no"]\ndoc_to_target: right\n',
        ),
        "pairs": (pairs, 'doc_to_text: ""\ndoc_to_choice: "{{[good, bad]}}"\ndoc_to_target: 0\n'),
    }


def exchanged(sentence: str, draw: random.Random) -> str:
    words = sentence.split()
    i = draw.randrange(1, len(words) - 1)
    words[i], words[i + 1] = words[i + 1], words[i]
    return " ".join(words) if " ".join(words) != sentence else sentence[::-1]


def write_tasks(folder: Path, n: int) -> list[Path]:
    paths: list[Path] = []
    for name, (rows, rest) in make_rows(n).items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {data}}}\ntest_split: train\n"
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(head + "output_type: multiple_choice\nmetric_list: [{metric: acc}]\n" + rest)
    return paths


# -- lm-eval ----------------------------------------------------------------------------------------------------


def their_requests(folder: Path, name: str) -> list[Any]:
    from lm_eval.tasks import TaskManager

    task: Any = TaskManager(include_path=str(folder), include_defaults=False).load([name])["tasks"][name]
    task.build_all_requests()
    return task.instances


def their_runners(start: Checkpoint, dtype: torch.dtype, batches: list[str]) -> dict[str, Any]:
    """One model in memory, one runner for each batch size."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(start.path, dtype=dtype, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(start.path, local_files_only=True)
    return {
        f"lm-eval, batch {size}": HFLM(
            pretrained=model.eval(), tokenizer=tokenizer, batch_size=size, max_batch_size=64, device="cpu"
        )
        for size in batches
    }


def theirs(runner: Any, requests: list[Any]) -> list[float]:
    with open(os.devnull, "w") as quiet:  # noqa: PTH123 - its progress bars
        out, sys.stderr = sys.stderr, quiet
        try:
            return [value for value, _ in runner.loglikelihood(requests, disable_tqdm=True)]
        finally:
            sys.stderr = out


# -- beside each other ------------------------------------------------------------------------------------------


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


def in_their_order(task: LoadedTask, columns: Columns) -> list[float]:
    return [v for row in columns.values["logprob"].tolist() for v in row]


def accuracy(task: LoadedTask, values: list[float]) -> float:
    """Of values in the order of the requests, two or four an item."""
    table = np.array(values).reshape(len(task.items), -1)
    gold = [0 if task.task.kind == "pairs" else int(str(item.answer)) for item in task.items]
    return float((table.argmax(axis=1) == gold).mean())


def compare(
    paths: list[Path], start: Checkpoint, dtype: torch.dtype, rounds: int, batches: list[str]
) -> list[list[str]]:
    runners = their_runners(start, dtype, batches)
    loaded = load(start.path, digest=start.digest, end_of_text=start.end_of_text, dtype=dtype)
    rows: list[list[str]] = []
    totals = [0.0, 0.0]
    for path in paths:
        task, requests = load_lm_eval(path), their_requests(path.parent, path.stem)
        seconds: dict[str, list[float]] = {name: [] for name in [*runners, "bessemer"]}
        best = list(runners)
        answer_task(loaded, task)  # both touch their memory once before the clock runs
        theirs(runners[best[0]], requests[:64])
        columns: Any = None
        values: list[float] = []
        for _ in range(rounds):
            took, columns = timed(lambda: answer_task(loaded, task))  # noqa: B023
            seconds["bessemer"].append(took)
            for name in best:
                took, values = timed(lambda: theirs(runners[name], requests))  # noqa: B023
                seconds[name].append(took)
            best = [min(runners, key=lambda name: statistics.median(seconds[name] or [float("inf")]))]
        mine = in_their_order(task, columns)
        apart = max(abs(a - b) for a, b in zip(mine, values, strict=True))
        ours, peer = (statistics.median(seconds[name]) for name in ("bessemer", best[0]))
        totals = [totals[0] + ours, totals[1] + peer]
        others = ", ".join(f"{name.split()[-1]} {seconds[name][0]:.1f}" for name in runners)
        rows.append(
            [
                str(dtype).removeprefix("torch."), f"{path.stem} ({len(task.items)})", f"{ours:.1f}", f"{peer:.1f}",
                f"{peer / ours:.2f}", f"{apart:.1e}",
                f"{METRICS['accuracy'].value(columns):.4f} {accuracy(task, values):.4f}", others,
            ]
        )  # fmt: skip
        print(" | ".join(rows[-1]), flush=True)
    ratio = f"{totals[1] / totals[0]:.2f}"
    rows.append([str(dtype).removeprefix("torch."), "all", *(f"{t:.1f}" for t in totals), ratio, "", "", ""])
    return rows


class Killed(Exception):
    """What a kill is to the evaluation."""


def resumed(path: Path, loaded: Loaded, folder: Path) -> str:
    """Seconds of a whole run, of one that goes on after being killed half-way, and of one that has everything."""
    task = load_lm_eval(path)
    done = [0.0]

    def kill(share: float) -> None:
        done[0] += share
        if done[0] > 0.5:
            raise Killed

    whole, wanted = timed(lambda: answer_task(loaded, task, kept=Kept.of(loaded, folder / "whole")))
    with contextlib.suppress(Killed):
        answer_task(loaded, task, kept=Kept.of(loaded, folder / "killed"), progress=kill)
    rest, again = timed(lambda: answer_task(loaded, task, kept=Kept.of(loaded, folder / "killed")))
    second, kept = timed(lambda: answer_task(loaded, task, kept=Kept.of(loaded, folder / "whole")))
    apart = max(float(np.nanmax(np.abs(wanted.values["logprob"] - c.values["logprob"]))) for c in (again, kept))
    return f"whole {whole:.2f} s, after a kill half-way {rest:.2f} s, again {second:.2f} s; apart {apart:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--batches", nargs="+", default=["8", "32", "auto"], help="of lm-eval")
    parser.add_argument("--start", default="smollm2-135m@post")
    wanted = parser.parse_args()
    start = resolve(wanted.start)
    table = Table("precision", "items", "bessemer s", "lm-eval s", "x", "apart", "accuracy ours, theirs", "batch sizes")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_tasks(folder, wanted.items)
        for dtype in wanted.dtypes:
            for row in compare(paths, start, getattr(torch, dtype), wanted.rounds, wanted.batches):
                table.add_row(*row)
        Console(width=140).print(table)
        loaded = load(start.path, digest=start.digest, end_of_text=start.end_of_text)
        print("kept:", resumed(paths[0], loaded, folder))


if __name__ == "__main__":
    main()
