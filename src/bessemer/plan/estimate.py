"""What a run will cost: memory, disk, minutes. Formulas for the first two, a measured step for the last."""

from __future__ import annotations

import math
import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bessemer.data.batch import StageData
from bessemer.errors import BessemerError
from bessemer.families.fetch import Checkpoint
from bessemer.families.read import open_weights, read_config
from bessemer.files import home, read_json
from bessemer.recipe.schema import Recipe, Stage
from bessemer.units import show_bytes

RUNTIME_BYTES = 1_400_000_000  # Python, torch with its compiler and transformers in memory
UNLIMITED = 1 << 60  # bytes; version 1 of control groups writes a number near 2 ** 63 for no limit
SAFE_SHARE = 0.8  # of the free memory that a run may plan with
MEASURED = 6  # steps of a stage that are timed
EVALUATION_SPEEDUP = 3.0  # a token that is only read costs about a third of one that is trained on


@dataclass(frozen=True)
class Size:
    """Of a model, from its config and its file: parameters, and what activations grow with."""

    parameters: int
    embedding: int
    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    head: int = 0  # parameters of an output head of its own; 0 where it is the embedding


def size_of(checkpoint: Checkpoint) -> Size:
    """Raises BessemerError when config.json lacks a number, or a file of weights is damaged."""
    config: dict[str, Any] = read_json(checkpoint.path / "config.json")
    config = config.get("text_config", config)
    try:
        hidden, layers, vocabulary = config["hidden_size"], config["num_hidden_layers"], config["vocab_size"]
    except KeyError as error:
        raise BessemerError(f"{error} is missing", where=str(checkpoint.path / "config.json")) from None
    width = {"float32": 4, "bfloat16": 2, "float16": 2}.get(str(config.get("dtype") or config.get("torch_dtype")), 4)
    parameters = checkpoint.n_bytes // width
    return Size(
        parameters,
        hidden * vocabulary,
        hidden,
        layers,
        config.get("intermediate_size", 4 * hidden),
        vocabulary,
        _head(checkpoint, vocabulary, hidden),
    )


def _head(checkpoint: Checkpoint, vocabulary: int, hidden: int) -> int:
    """Where two matrices are as large as the embedding, one of them is a head. Configs do not always say so."""
    alike = 0
    for name in checkpoint.files:
        if name.endswith(".safetensors"):
            with open_weights(checkpoint.path / name, "numpy") as file:
                names = file.keys()  # it is no mapping
                alike += sum(file.get_slice(key).get_shape() == [vocabulary, hidden] for key in names)
    return hidden * vocabulary if alike > 1 else 0


def context_of(checkpoint: Checkpoint) -> int:
    """How many positions a document may have: those that the start was trained on, and that its sliding window sees.
    Without a limit where its config names none.

    Rotations of the kinds `dynamic` and `longrope` change for all documents of a pass as soon as one is longer than the
    original context, so that is the limit there.
    """
    from bessemer.infer.model import sliding_window_of

    window = sliding_window_of(read_config(checkpoint.path).get_text_config(decoder=True))
    config: dict[str, Any] = read_json(checkpoint.path / "config.json")
    config = config.get("text_config", config)
    most = config.get("max_position_embeddings") or config.get("n_positions") or sys.maxsize
    most = min(most, window or most)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type")) in {"dynamic", "longrope"}:
        original = "original_max_position_embeddings"
        return min(most, rope.get(original) or config.get(original) or most)
    return most


def trained_parameters(size: Size, stage: Stage) -> int:
    """How many numbers the optimizer moves; for adapters about, because key-value heads may be narrower."""
    share = 1 - round(stage.freeze * size.layers) / size.layers
    if stage.method != "full":
        rows_and_columns = 4 * 2 * size.hidden + 3 * (size.hidden + size.intermediate)
        return round(stage.rank * rows_and_columns * size.layers * share)
    if stage.freeze == 0:
        return size.parameters
    return round((size.parameters - size.embedding - size.head) * share) + size.head


def stage_memory(size: Size, stage: Stage, tokens: int, *, half: bool, workers: int = 1) -> int:
    """Bytes while `tokens` tokens of a stage are computed at once, without what Python and libraries take.

    half: weights compute in 16 bits beside fp32 masters. workers: processes that share the weights and their state.
    """
    trained, width = trained_parameters(size, stage), 2 if half else 4
    # Weights; then per trained parameter: master, gradient, two moments, and what a checkpoint copies of them.
    state = size.parameters * width + trained * (16 + 12)
    start = 0
    if stage.general == "start":  # alone, what is frozen is shared; among several each process has a whole one
        start = (trained if workers == 1 else size.parameters) * width
    trained_layers = size.layers - round(stage.freeze * size.layers)
    per_token = trained_layers * (14 * size.hidden + 5 * size.intermediate) * width
    logits = 512 * size.vocabulary * (4 + 2 * width)
    return -(-state // workers) + start + tokens * per_token + logits


def fit(size: Size, recipe: Recipe, free: int, *, half: bool, most: int, workers: int = 1) -> tuple[list[int], int]:
    """(tokens of each stage that are computed at once, bytes of a training process at its peak).

    As many as a step has, at most `most`; halved until they fit into the share of the free memory that is safe, but
    never less than a row. free: bytes, 0 when nobody knows.
    """
    chosen: list[int] = []
    peak = size.parameters * 4 * 2  # while loading, before it is shared
    for stage in recipe.stages:
        tokens = min(most, stage.rows * stage.row_tokens)
        while free and tokens > stage.row_tokens and _over(size, stage, tokens, free, half=half, workers=workers):
            tokens //= 2
        chosen.append(max(tokens, stage.row_tokens))
        peak = max(peak, stage_memory(size, stage, chosen[-1], half=half, workers=workers))
    return chosen, RUNTIME_BYTES + peak


def _over(size: Size, stage: Stage, tokens: int, free: int, *, half: bool, workers: int) -> bool:
    return RUNTIME_BYTES + stage_memory(size, stage, tokens, half=half, workers=workers) > SAFE_SHARE * free


def training_flops(plan: dict[str, Any]) -> float:
    """Floating point operations of a plan's matrix products, without attention.

    For each token 2 a parameter forward, 2 for what flows back through the layers that are trained, 2 for the gradient
    of a parameter that is; and 2 a parameter for a token whose targets the start checkpoint gives. An upper bound where
    the head works at supervised positions only.
    """
    total, cost = 0.0, plan["estimate"]
    for stage, recipe, trained in zip(
        plan["stages"], plan["recipe"]["stages"], cost["trained_parameters"], strict=True
    ):
        through = cost["parameters"] * (1 - recipe["freeze"]) if recipe["method"] != "full" else trained
        per_token = 2 * cost["parameters"] + 2 * through + 2 * trained
        total += stage["tokens"] * per_token
        if recipe["general"] == "start":
            general = sum(
                s["tokens"] for name, s in stage["sources"].items() if plan["sources"][name]["role"] == "general"
            )
            total += general * 2 * cost["parameters"]
    return total


def _written(size: Size, stage: Stage) -> int:
    """Parameters that a finished stage leaves: of adapters the whole matrices that they belong to."""
    if stage.method == "full":
        return trained_parameters(size, stage)
    return round((size.parameters - size.embedding) * (1 - stage.freeze))


def disk_bytes(size: Size, recipe: Recipe, *, half: bool) -> int:
    """Checkpoints (or all of them), stage weights, the model and the release."""
    largest = max(trained_parameters(size, s) for s in recipe.stages)
    kept = 5  # the newest two, the one that forgot least, one to go back to, and one being written
    if recipe.keep_checkpoints == "all":
        kept = len(recipe.stages) * (math.ceil(1 / recipe.checkpoint_every) + 1)
    checkpoints = kept * largest * 12
    stages = sum(4 * _written(size, s) for s in recipe.stages)
    return checkpoints + stages + 2 * size.parameters * (2 if half else 4) + 50_000_000


def available_memory() -> int:
    """Bytes that a process can still take where it trains; 0 when the system does not say.

    Of the GPU where there is one. BESSEMER_MEMORY_LIMIT lowers it.
    """
    free = _free_of_gpu() or _free_of_system()
    if limit := os.environ.get("BESSEMER_MEMORY_LIMIT"):
        if not limit.isdecimal():
            raise BessemerError(f"{limit!r} is no number of bytes", where="BESSEMER_MEMORY_LIMIT")
        free = min(free or int(limit), int(limit))
    return free


def _free_of_gpu() -> int:
    import torch

    from bessemer.infer.model import detect_machine

    return torch.cuda.mem_get_info()[0] if detect_machine().device.type == "cuda" else 0


def _free_of_system() -> int:
    free = 0
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    except OSError:
        pass
    left = free_of_group()
    return min(free or left, left) if left is not None else free


def free_of_group(root: Path = Path("/")) -> int | None:
    """Bytes that the control group of this process has left; None without a limit.

    A container or a batch job is killed at its own limit, however much the machine has. Pages of files that the kernel
    may drop count as free. https://docs.kernel.org/admin-guide/cgroup-v2.html, and v1's memory.rst beside it.
    """
    left: list[int] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        at = base / path.strip("/")
        for folder in (at, *at.parents):  # in a container the path may be the host's: its root is then this group's
            limit, used = (_read(folder / name).strip() for name in names[:2])
            if limit.isdecimal() and used.isdecimal() and int(limit) < UNLIMITED:
                stat = dict(row.split() for row in _read(folder / "memory.stat").splitlines() if len(row.split()) == 2)
                left.append(max(0, int(limit) - int(used) + int(stat.get(names[2], 0))))
            if folder == base:
                break
    return min(left, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def need_memory(memory: int) -> None:
    """Raises BessemerError when `memory` bytes are not free where a stage is trained."""
    free = available_memory()
    if free and memory > free:
        raise BessemerError(
            f"the run needs about {show_bytes(memory)} of memory, {show_bytes(free)} are available",
            where="memory",
            fix="raise `freeze`, lower `rows` or `row_tokens`, or start from a smaller checkpoint",
        )


def need_disk(disk: int) -> None:
    """Raises BessemerError when `disk` bytes more do not fit under BESSEMER_HOME."""
    free_disk = shutil.disk_usage(home()).free
    if disk > free_disk:
        raise BessemerError(
            f"the run needs about {show_bytes(disk)} more of disk, {show_bytes(free_disk)} are free",
            where=str(home()),
            fix=f"free {show_bytes(disk - free_disk)}, or set BESSEMER_HOME to a larger disk",
        )


def measure_step(
    checkpoint: Checkpoint, recipe: Recipe, stages: list[StageData], micro_tokens: Sequence[int]
) -> tuple[list[float], str]:
    """(mean seconds of a step for each stage, precision). Trains on copies that are thrown away.

    micro_tokens: of each stage, computed at once.

    The steps lie all over the stage: what stands in them differs, such as how much the start checkpoint teaches.
    """
    from bessemer.train.loop import train_step
    from bessemer.train.optimizers import make_optimizer
    from bessemer.train.weights import prepare, what_is_trained

    seconds: list[float] = []
    precision = ""
    for stage, data, micro in zip(recipe.stages, stages, micro_tokens, strict=True):
        trainable = prepare(checkpoint, None, what_is_trained(stage, recipe.seed), keep_start=bool(data.anchored))
        precision = str(trainable.loaded.machine.dtype).removeprefix("torch.")
        optimizer = make_optimizer(trainable, stage)
        times: list[float] = []
        n = min(MEASURED, data.n_steps)
        for step in [0, *(data.n_steps * i // n for i in range(n))]:
            start = time.perf_counter()
            batch = data.batch(step)
            train_step(trainable, optimizer, batch, stage.objective, 1e-9, stage.clip, micro_tokens=micro)
            times.append(time.perf_counter() - start)
        seconds.append(statistics.mean(times[1:]))  # the first step touches new memory
        del trainable, optimizer
    return seconds, precision
