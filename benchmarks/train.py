"""Training steps beside transformers' Trainer and TRL's SFTTrainer: tokens per second, loss, peak memory, one run.

    python benchmarks/train.py [--work cpt|chat] [--rounds 3] [--steps 5] [--start CHECKPOINT] [--arms ...]

Every arm is a process of its own that does a few steps on the same texts and is started again in every round, one
after the other; the first step of a process touches new memory and is not counted. Allocator settings and threads are
the same for all. AdamW (fused), full rank, clip 1, the same rate.

cpt:  rows of 512 tokens, four in a step, every token supervised.
chat: conversations of 60 to 150 tokens, answers supervised; the Trainer pads a batch to its longest, TRL packs them
      with its default (best fit decreasing, rows of 512), ours lays them end to end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bessemer.data.batch import NO_TARGET, build_batch
from bessemer.data.shards import Segment
from bessemer.families.fetch import Checkpoint, resolve

ROW, ROWS, CHATS = 512, 4, 16  # tokens of a row, rows of a cpt step, conversations of a chat step
RATE = 1e-5
WARM = 2  # steps of a process that are not counted


@dataclass(frozen=True)
class Work:
    """The same documents for everyone, step by step."""

    steps: list[list[Segment]]

    def counts(self, step: int) -> tuple[int, int]:
        """(tokens, supervised targets)."""
        segments = self.steps[step]
        return sum(len(s.ids_L) for s in segments), sum(int(s.supervised_L[1:].sum()) for s in segments)


def make_work(kind: str, start: Checkpoint, n_steps: int) -> Work:
    from bessemer.data import Packer, Renderer, Source, pack_source

    renderer = Renderer(start.path, start.end_of_text)
    if kind == "cpt":
        packed = pack_source("topics", Source("bessemer:python/topics"), renderer, Packer(ROW))
        full = [r for r in map(packed.row, range(packed.n_rows)) if sum(len(s.ids_L) for s in r) == ROW]
        return Work([[s for row in full[i * ROWS : (i + 1) * ROWS] for s in row] for i in range(n_steps)])
    packed = pack_source("questions", Source("bessemer:python/questions", kind="chat"), renderer, Packer(ROW))
    chats = [s for row in map(packed.row, range(packed.n_rows)) for s in row if 60 <= len(s.ids_L) <= 150]
    return Work([chats[i * CHATS : (i + 1) * CHATS] for i in range(n_steps)])


# -- arms: each returns [(seconds, loss)] per step ------------------------------------------------------------------

Timed = list[tuple[float, float]]


def ours(work: Work, start: Checkpoint, *, freeze: float = 0.0, fused: bool = True) -> Timed:
    from bessemer.recipe.schema import Stage
    from bessemer.train.compiled import compile_layers
    from bessemer.train.loop import train_step
    from bessemer.train.optimizers import make_optimizer
    from bessemer.train.weights import Trained, prepare

    trainable = prepare(start, None, Trained(freeze))
    if fused:
        compile_layers(trainable)
    optimizer = make_optimizer(trainable, Stage.model_validate({"objective": "cpt", "mixture": {"a": 1}}))
    timed: Timed = []
    for segments in work.steps:
        begun = time.perf_counter()
        batch = build_batch([(0, (s,)) for s in segments], ["a"], {})
        loss = train_step(trainable, optimizer, batch, "cpt", RATE, 1.0).loss
        timed.append((time.perf_counter() - begun, loss))
    return timed


def arguments(folder: str, n_steps: int, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": folder, "max_steps": n_steps, "learning_rate": RATE, "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused", "max_grad_norm": 1.0, "logging_steps": 1, "save_strategy": "no", "report_to": [],
        "disable_tqdm": True, "use_cpu": not torch.cuda.is_available(), "dataloader_pin_memory": False,
        "gradient_checkpointing": False, "weight_decay": 0.0,
    } | more  # fmt: skip


def clock() -> tuple[Any, Callable[[Any], Timed]]:
    """A callback that times steps from one beginning to the next, and what it saw."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.begun: list[float] = []
            self.ended: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ended.append(time.perf_counter())

    made = Clock()

    def read(trainer: Any) -> Timed:
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        starts = [made.begun[0], *made.ended[:-1]]  # fetching a batch belongs to its step
        return [(e - b, loss) for b, e, loss in zip(starts, made.ended, losses, strict=True)]

    return made, read


def trainer(work: Work, start: Checkpoint, *, autocast: bool) -> Timed:
    """One padded batch a step; bf16 autocast over fp32 weights, or weights in bf16."""
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    dtype = torch.float32 if autocast else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(start.path, dtype=dtype)
    flat: list[dict[str, list[int]]] = []
    for segments in work.steps:
        ids = [s.ids_L.tolist() for s in segments]
        labels = [[i if y else NO_TARGET for i, y in zip(s.ids_L, s.supervised_L, strict=True)] for s in segments]
        if len(ids) != CHATS:  # rows of packed documents: as the usual concatenate-and-cut gives them
            ids = [list(r) for r in np.concatenate(ids).reshape(-1, ROW).tolist()]
            labels = [list(r) for r in np.concatenate(labels).reshape(-1, ROW).tolist()]
        flat += [{"input_ids": i, "labels": [int(x) for x in y]} for i, y in zip(ids, labels, strict=True)]
    per_step = len(flat) // len(work.steps)

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        width = max(len(r["input_ids"]) for r in rows)
        pad = lambda r, key, value: r[key] + [value] * (width - len(r[key]))  # noqa: E731
        return {
            "input_ids": torch.tensor([pad(r, "input_ids", 0) for r in rows]),
            "labels": torch.tensor([pad(r, "labels", NO_TARGET) for r in rows]),
            "attention_mask": torch.tensor(
                [[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in rows]
            ),
        }

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(flat)

    watch, read = clock()
    with tempfile.TemporaryDirectory() as folder:
        asked = TrainingArguments(
            **arguments(folder, len(work.steps), per_device_train_batch_size=per_step, bf16=autocast)
        )
        made = InOrder(model=model, args=asked, train_dataset=flat, data_collator=collate, callbacks=[watch])  # type: ignore[arg-type]
        made.train()
    return read(made)


def trl(work: Work, start: Checkpoint, *, autocast: bool) -> Timed:
    """SFTTrainer with packing, its default strategy; rows of 512."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    dtype = torch.float32 if autocast else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(start.path, dtype=dtype)
    chat = len(work.steps[0]) == CHATS
    segments = [s for step in work.steps for s in step]
    rows: dict[str, Any] = {"input_ids": [s.ids_L.tolist() for s in segments]}
    if chat:
        rows["completion_mask"] = [[int(x) for x in s.supervised_L] for s in segments]
    watch, read = clock()
    with tempfile.TemporaryDirectory() as folder:
        n_tokens = sum(len(r) for r in rows["input_ids"])
        n_steps = max(2, n_tokens // (ROW * ROWS) if not chat else n_tokens // (ROW * 3))
        asked = SFTConfig(
            **arguments(folder, n_steps, per_device_train_batch_size=ROWS if not chat else 3, bf16=autocast),
            packing=True, max_length=ROW, completion_only_loss=chat, dataset_num_proc=None,
        )  # fmt: skip
        made = SFTTrainer(
            model=model, args=asked, train_dataset=datasets.Dataset.from_dict(rows),
            processing_class=AutoTokenizer.from_pretrained(start.path), callbacks=[watch],
        )  # fmt: skip
        trl.seen = _seen(made)  # type: ignore[attr-defined]
        made.train()
    return read(made)


def _seen(made: Any) -> list[tuple[int, int]]:
    """(tokens, supervised targets) of every step as they go into the model: TRL packs in its own order."""
    counts: list[tuple[int, int]] = []
    real = made.compute_loss

    def counting(model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        mask = inputs.get("attention_mask")
        n = int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
        counts.append((n, int((inputs["labels"][:, 1:] != NO_TARGET).sum())))
        return real(model, inputs, *args, **more)

    made.compute_loss = counting
    return counts


ARMS: dict[str, Callable[[Work, Checkpoint], Timed]] = {
    "bessemer": ours,
    "bessemer, not compiled": lambda w, s: ours(w, s, fused=False),
    "bessemer, lower half frozen": lambda w, s: ours(w, s, freeze=0.5),
    "Trainer, autocast": lambda w, s: trainer(w, s, autocast=True),
    "Trainer, bf16": lambda w, s: trainer(w, s, autocast=False),
    "TRL packing, autocast": lambda w, s: trl(w, s, autocast=True),
    "TRL packing, bf16": lambda w, s: trl(w, s, autocast=False),
}


# -- one run --------------------------------------------------------------------------------------------------------


def child(name: str, kind: str, n_steps: int, start_name: str) -> None:
    from bessemer.infer.model import detect_machine
    from bessemer.launch.here import quiet_libraries

    quiet_libraries()
    detect_machine()  # sets the allocator, for every arm
    start = resolve(start_name)
    work = make_work(kind, start, n_steps)
    trl.seen = []  # type: ignore[attr-defined]
    timed = ARMS[name](work, start)
    counts = trl.seen or [work.counts(i) for i in range(len(timed))]  # type: ignore[attr-defined]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rows = [(s, loss, *c) for (s, loss), c in zip(timed, counts, strict=False)]
    print("\n" + json.dumps({"rows": rows, "peak": peak}))


def run_arm(name: str, kind: str, n_steps: int, start: str) -> dict[str, Any]:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import train; "
    code += f"train.child({name!r}, {kind!r}, {n_steps}, {start!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(kind: str, arms: list[str], rounds: int, n_steps: int, start: str) -> None:
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name in arms:
            seen[name].append(run_arm(name, kind, n_steps, start))
            last = seen[name][-1]["rows"][-1]
            print(f"  {kind}, {name}: {last[0]:.2f} s for {last[2]} tokens, loss {last[1]:.3f}", flush=True)
    columns = ["arm", "seconds a step", "tokens/s", "supervised/s", "losses of the first steps", "peak GiB", "x"]
    table = Table(title=f"{kind}: {start}, {rounds} rounds of {n_steps} steps", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column in {"arm", columns[4]} else "right")
    rate: dict[str, float] = {}
    for name in arms:
        rows = [r for one in seen[name] for r in one["rows"][WARM:]]
        tokens, supervised = (statistics.median(r[i] / r[0] for r in rows) for i in (2, 3))
        rate[name] = tokens if kind == "cpt" else supervised
        losses = " ".join(f"{r[1]:.3f}" for r in seen[name][0]["rows"][:4])
        peak = statistics.median(one["peak"] for one in seen[name]) / 2**30
        seconds = statistics.median(r[0] for r in rows)
        cells = [f"{seconds:.2f}", f"{tokens:.0f}", f"{supervised:.0f}", losses, f"{peak:.2f}"]
        table.add_row(name, *cells, f"{rate[arms[0]] / rate[name]:.2f}")
    Console(width=160).print(table)
    print(
        f"x: how many times as fast as the arm {arms[0]} is, in {'tokens' if kind == 'cpt' else 'supervised tokens'}/s"
    )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--work", choices=["cpt", "chat"], nargs="*", default=["cpt", "chat"])
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--steps", type=int, default=7)
    asked.add_argument("--start", default="smollm2-135m@post")
    asked.add_argument("--arms", nargs="*", default=list(ARMS))
    options = asked.parse_args()
    for kind in options.work:
        compare(kind, options.arms, options.rounds, options.steps, options.start)


if __name__ == "__main__":
    main()
