"""The one loop. Reads top to bottom: batch, loss, gradient, step, metrics, probes, checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from bessemer.data.batch import NO_TARGET, Batch, StageData, share_prefix, split_batch
from bessemer.errors import BessemerError, StoppedByUserError
from bessemer.recipe.schema import Stage
from bessemer.track.metrics import MetricsFile
from bessemer.train import checkpoint
from bessemer.train.objectives import OBJECTIVES
from bessemer.train.weights import Trainable

MICRO_TOKENS = 4096  # tokens computed at once; more in a step are accumulated
BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class StageRun:
    """What one stage needs. `lr` and `warmup` are the plan's values, defaults filled in."""

    name: str
    stage: Stage
    lr: float
    warmup: float
    data: StageData
    folder: Path  # checkpoints and the stage's result
    probe_every: int  # steps
    checkpoint_every: int  # steps


@dataclass(frozen=True)
class Hooks:
    """What the loop tells the rest of the house."""

    metrics: MetricsFile
    on_step: Callable[[int, int, float], None]  # step, steps, loss
    on_probe: Callable[[int], None]  # step; measures the probes and reports them
    say: Callable[[str], None]
    stop_asked: Callable[[], bool]


def learning_rate(step: int, n_steps: int, peak: float, warmup: float, final: float) -> float:
    """Linear warm-up over the first `warmup` of the steps, then linear decay to `final` * peak at the end."""
    done = (step + 1) / n_steps
    if done <= warmup:
        return peak * done / warmup
    return peak * (1 - (1 - final) * (done - warmup) / (1 - warmup))


def make_optimizer(trainable: Trainable, stage: Stage) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only."""
    matrices = [m for m in trainable.masters.values() if m.ndim >= 2]
    vectors = [m for m in trainable.masters.values() if m.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": stage.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=BETAS, fused=True)


def train_step(
    trainable: Trainable,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    objective: str,
    lr: float,
    clip: float,
) -> tuple[float, float, dict[int, tuple[float, int]]]:
    """One optimizer step. Returns (loss, gradient norm, {source: (sum of its losses in nats, its targets)}).

    Raises BessemerError when the loss or the gradient is not finite, or every gradient is zero; the weights are
    then as before the step.
    """
    loss = 0.0
    per_source: dict[int, tuple[float, int]] = {}
    for part in map(share_prefix, split_batch(batch, MICRO_TOKENS)):
        part_loss, losses_S = OBJECTIVES[objective](trainable, part)
        part_loss.backward()
        trainable.take_gradients()
        loss += part_loss.item()
        sources_S = torch.from_numpy(part.sources_N[part.targets_N != NO_TARGET])
        for source in sources_S.unique().tolist():
            mine = losses_S.cpu()[sources_S == source]
            total, count = per_source.get(source, (0.0, 0))
            per_source[source] = (total + mine.double().sum().item(), count + len(mine))
    masters = list(trainable.masters.values())
    norm = float(torch.nn.utils.clip_grad_norm_(masters, clip, foreach=True))
    if not (math.isfinite(loss) and math.isfinite(norm)) or norm == 0:
        raise BessemerError(
            f"the loss is {loss:g} and the gradient's norm {norm:g}: nothing sound can be learned from this step",
            where=f"batch with {', '.join(batch.ids[:3])} ...",
            fix="look at these items; lower lr or clip",
        )
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    trainable.round()
    return loss, norm, per_source


def train_stage(run: StageRun, trainable: Trainable, hooks: Hooks) -> None:
    """Train one stage to its end, from its newest good checkpoint where there is one.

    Raises StoppedByUserError after writing a checkpoint when a stop was asked for.
    """
    optimizer = make_optimizer(trainable, run.stage)
    n_steps, names = run.data.n_steps, [s.name for s in run.data.sources]
    first = resume(run, trainable, optimizer, hooks)
    for step in range(first, n_steps):
        started = time.perf_counter()
        batch = run.data.batch(step)
        lr = learning_rate(step, n_steps, run.lr, run.warmup, run.stage.final_lr)
        loss, norm, per_source = train_step(trainable, optimizer, batch, run.stage.objective, lr, run.stage.clip)
        done = step + 1
        hooks.metrics.log(
            "step",
            stage=run.name,
            step=done,
            loss=loss,
            lr=lr,
            grad_norm=norm,
            tokens=_tokens(batch, names),
            source_loss={names[s]: total / max(1, n) for s, (total, n) in sorted(per_source.items())},
            seconds=round(time.perf_counter() - started, 3),
        )
        hooks.on_step(done, n_steps, loss)
        if done % run.probe_every == 0 or done == n_steps:
            hooks.on_probe(done)
        stop = hooks.stop_asked()
        if done < n_steps and (done % run.checkpoint_every == 0 or stop):
            checkpoint.save(run.folder, done, trainable, optimizer, {"metrics_offset": hooks.metrics.offset()})
        if stop and done < n_steps:
            raise StoppedByUserError(
                f"stopped at step {done} of {n_steps}; a checkpoint was written",
                where=run.name,
                fix="run the same command again to continue",
            )


def resume(run: StageRun, trainable: Trainable, optimizer: torch.optim.Optimizer, hooks: Hooks) -> int:
    """Restore the newest good checkpoint; returns the first step to do."""
    path, refused = checkpoint.newest_good(run.folder)
    for reason in refused:
        hooks.say(f"checkpoint passed over: {reason}")
    if path is None:
        return 0
    state = checkpoint.restore(path, trainable, optimizer)
    hooks.say(f"{run.name}: continues after step {state['step']} of {run.data.n_steps}")
    return state["step"]


def _tokens(batch: Batch, names: list[str]) -> dict[str, int]:
    return {name: int((batch.sources_N == s).sum()) for s, name in enumerate(names)}
