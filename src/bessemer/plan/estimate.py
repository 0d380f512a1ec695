"""What a run will cost: memory, disk, minutes. Formulas for the first two, a measured step for the last."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bessemer.data.batch import StageData
from bessemer.errors import BessemerError
from bessemer.families.fetch import Checkpoint
from bessemer.files import home, read_json
from bessemer.recipe.schema import Recipe, Stage
from bessemer.units import show_bytes

RUNTIME_BYTES = 900_000_000  # Python, torch and transformers in memory
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


def size_of(checkpoint: Checkpoint) -> Size:
    """Raises BessemerError when config.json lacks a number."""
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
    )


def trained_parameters(size: Size, stage: Stage) -> int:
    """How many numbers the optimizer moves; for adapters about, because key-value heads may be narrower."""
    share = 1 - round(stage.freeze * size.layers) / size.layers
    if stage.method != "full":
        rows_and_columns = 4 * 2 * size.hidden + 3 * (size.hidden + size.intermediate)
        return round(stage.rank * rows_and_columns * size.layers * share)
    if stage.freeze == 0:
        return size.parameters
    return round((size.parameters - size.embedding) * share)


def memory_bytes(size: Size, recipe: Recipe, *, half: bool) -> int:
    """Peak of the training process. half: weights compute in 16 bits beside fp32 masters."""
    peak = 0
    for stage in recipe.stages:
        trained = trained_parameters(size, stage)
        tokens = min(stage.rows * stage.row_tokens, 4096 + stage.row_tokens)
        width = 2 if half else 4
        # Weights, then per trained parameter: master, gradient, two moments; and the rounded gradient.
        state = size.parameters * width + trained * (
            16 + (2 if half else 0) + (width if stage.general == "start" else 0)
        )
        trained_layers = size.layers - round(stage.freeze * size.layers)
        per_token = trained_layers * (14 * size.hidden + 5 * size.intermediate) * width
        logits = 512 * size.vocabulary * (4 + 2 * width)
        peak = max(peak, state + tokens * per_token + logits)
    loading = size.parameters * 4 * 2
    return RUNTIME_BYTES + max(peak, loading)


def disk_bytes(size: Size, recipe: Recipe, *, half: bool) -> int:
    """Checkpoints (two kept, one being written), stage weights, the model and the release."""
    largest = max(trained_parameters(size, s) for s in recipe.stages)
    checkpoints = 3 * largest * 12
    stages = len(recipe.stages) * largest * 4
    return checkpoints + stages + 2 * size.parameters * (2 if half else 4) + 50_000_000


def available_memory() -> int:
    """Bytes that processes can still take; 0 when the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def need_resources(memory: int, disk: int) -> None:
    """Raises BessemerError when memory or disk cannot hold the run. BESSEMER_MEMORY_LIMIT lowers the memory."""
    free = available_memory()
    if limit := os.environ.get("BESSEMER_MEMORY_LIMIT"):
        if not limit.isdecimal():
            raise BessemerError(f"{limit!r} is no number of bytes", where="BESSEMER_MEMORY_LIMIT")
        free = min(free or int(limit), int(limit))
    if free and memory > free:
        raise BessemerError(
            f"the run needs about {show_bytes(memory)} of memory, {show_bytes(free)} are available",
            where="memory",
            fix="raise `freeze`, lower `rows` or `row_tokens`, or start from a smaller checkpoint",
        )
    free_disk = shutil.disk_usage(home()).free
    if disk > free_disk:
        raise BessemerError(
            f"the run needs about {show_bytes(disk)} of disk, {show_bytes(free_disk)} are free",
            where=str(home()),
            fix=f"free {show_bytes(disk - free_disk)}, or set BESSEMER_HOME to a larger disk",
        )


def measure_step(checkpoint: Checkpoint, recipe: Recipe, stages: list[StageData]) -> tuple[list[float], str]:
    """(seconds of a step for each stage, precision). Trains on copies that are thrown away."""
    from bessemer.train.loop import train_step
    from bessemer.train.optimizers import make_optimizer
    from bessemer.train.weights import prepare, what_is_trained

    seconds: list[float] = []
    precision = ""
    for stage, data in zip(recipe.stages, stages, strict=True):
        trainable = prepare(checkpoint, None, what_is_trained(stage, recipe.seed), keep_start=bool(data.anchored))
        precision = str(trainable.loaded.machine.dtype).removeprefix("torch.")
        optimizer = make_optimizer(trainable, stage)
        times: list[float] = []
        for step in range(min(4, data.n_steps)):
            start = time.perf_counter()
            train_step(trainable, optimizer, data.batch(step), stage.objective, 1e-9, stage.clip)
            times.append(time.perf_counter() - start)
        seconds.append(statistics.median(times[1:] or times))  # the first step touches new memory
        del trainable, optimizer
    return seconds, precision
