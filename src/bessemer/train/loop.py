"""The one loop. Reads top to bottom: batch, loss, gradient, judgement, step, metrics, probes, checkpoint."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bessemer.data.batch import NO_TARGET, Batch, StageData, divide, share_beginnings, without_ends
from bessemer.errors import BessemerError, StoppedByUserError
from bessemer.recipe.schema import Stage
from bessemer.track.metrics import MetricsFile
from bessemer.train import checkpoint
from bessemer.train.guard import Guard
from bessemer.train.memory import MICRO_TOKENS, fitting, peak_memory
from bessemer.train.objectives import OBJECTIVES
from bessemer.train.optimizers import Optimizers, make_optimizer
from bessemer.train.preflight import check_first_step
from bessemer.train.schedule import learning_rate
from bessemer.train.speed import flops, peak_flops
from bessemer.train.weights import Trainable
from bessemer.units import show_seconds

TIMED = 12  # steps that are measured before it is said how long the rest will take


@dataclass(frozen=True)
class StageRun:
    """What one stage needs. `lr`, `warmup` and `final_lr` are the plan's values, defaults filled in."""

    name: str
    stage: Stage
    lr: float
    warmup: float
    data: StageData
    folder: Path  # checkpoints and the stage's result
    probe_every: int  # steps
    checkpoint_every: int  # steps
    metrics_begin: int = 0  # bytes of metrics.jsonl when the stage begins
    untouched: bool = True  # it begins with the start checkpoint's own weights
    micro_tokens: int = MICRO_TOKENS  # tokens that a process computes at once; more in a step are accumulated
    optimizer_state: Path | None = None  # the training that made the start left it: this stage's optimizer goes on
    final_lr: float = 0.05
    keep_all: bool = False  # checkpoints, the last step's too
    plan: str = ""  # identity of the run's plan: checkpoints of another one are passed over

    def rate(self, step: int) -> float:
        stage = self.stage
        return learning_rate(step, self.data.n_steps, self.lr, self.warmup, self.final_lr, stage.schedule, stage.decay)


@dataclass(frozen=True)
class Hooks:
    """What the loop tells the rest of the house. Only the leading process of a world logs and speaks."""

    metrics: MetricsFile | None  # None in processes that do not lead
    on_probe: Callable[[int], float | None]  # step; measures the probes; the largest relative loss of any of them
    say: Callable[[str], None]
    stop_asked: Callable[[], bool]
    on_begin: Callable[[], None] = lambda: None  # the stage begins at its first step


@dataclass(frozen=True)
class Gradient:
    """A step's loss before anything moved. per_source: {source: (sum of its losses in nats, its targets)}.

    n_tokens: that were computed; fewer than the batch has where documents begin alike or nothing is learned.
    """

    loss: float
    norm: float
    per_source: dict[int, tuple[float, int]]
    n_tokens: int
    stop: bool = False  # whether any process was asked to stop


def compute_gradient(
    trainable: Trainable,
    batch: Batch,
    objective: str,
    clip: float,
    *,
    z_loss: float = 0.0,
    micro_tokens: int = MICRO_TOKENS,
    stop: bool = False,
) -> Gradient:
    """Leave the clipped gradient of a step's batch in the masters; all processes of a world get the same numbers.

    The batch is cut into equally many parts for every process, because sharded weights are gathered by all together.
    """
    world, loss = trainable.world, 0.0
    per_source: dict[int, tuple[float, int]] = {}
    parts = divide(without_ends(batch), world.size, micro_tokens)[world.rank]
    if trainable.loaded.machine.device.type == "cpu":  # a GPU has a kernel for documents as they are
        parts = [share_beginnings(part) for part in parts]
    n_tokens = sum(len(part.tokens_N) for part in parts)
    for part in parts:
        part_loss, losses_S = trainable.root(OBJECTIVES[objective], trainable, part, z_loss)
        part_loss.backward()
        loss += part_loss.item()
        sources_S = torch.from_numpy(part.sources_N[part.targets_N != NO_TARGET])
        losses_S = losses_S.cpu()
        for source in sources_S.unique().tolist():
            mine = losses_S[sources_S == source]
            total, count = per_source.get(source, (0.0, 0))
            per_source[source] = (total + mine.double().sum().item(), count + len(mine))
    norm = trainable.clip(clip)
    if not world.alone:
        known = sorted(set(batch.sources_N.tolist()))
        own = [x for s in known for x in per_source.get(s, (0.0, 0))]
        loss, stops, computed, *sums = world.total([loss, float(stop), float(n_tokens), *own])
        per_source, stop = {s: (sums[2 * i], int(sums[2 * i + 1])) for i, s in enumerate(known)}, stops > 0
        n_tokens = int(computed)
    return Gradient(loss, norm, per_source, n_tokens, stop)


def train_step(
    trainable: Trainable,
    optimizer: Optimizers,
    batch: Batch,
    objective: str,
    lr: float,
    clip: float,
    *,
    micro_tokens: int = MICRO_TOKENS,
) -> Gradient:
    """One optimizer step, unguarded: for measuring and for loops of one's own.

    micro_tokens: computed at once; halved where they do not fit. Raises BessemerError when the loss or the gradient is
    not finite, or every gradient is zero; the weights are then as before the step.
    """
    gradient, _ = fitting(
        lambda tokens: compute_gradient(trainable, batch, objective, clip, micro_tokens=tokens),
        micro_tokens,
        max(batch.lengths_D),
        trainable.clear_gradients,
    )
    # Where nothing has changed yet, a batch that the start itself teaches is right in everything.
    nothing = gradient.norm == 0 and not all(batch.anchored_D)
    if Guard(6).judge(gradient.loss, gradient.norm, {}) != "apply" or nothing:
        raise BessemerError(
            f"the loss is {gradient.loss:g} and the gradient's norm {gradient.norm:g}: nothing sound can be learned",
            where=f"batch with {', '.join(batch.ids[:3])} ...",
            fix="look at these items; lower lr or clip",
        )
    optimizer.step(lr)
    trainable.round()
    return gradient


class _Stage:
    """A stage being trained: what the loop and its rare turns (resume, roll back) share."""

    def __init__(self, run: StageRun, trainable: Trainable, hooks: Hooks) -> None:
        self.run, self.trainable, self.hooks = run, trainable, hooks
        self.optimizer = make_optimizer(trainable, run.stage)
        self.guard = Guard(run.stage.skip_above)
        self.writer = checkpoint.Writer(run.folder, trainable.world, keep_all=run.keep_all, say=hooks.say)
        self.names = [s.name for s in run.data.sources]
        self.micro_tokens = run.micro_tokens
        self.timed: list[float] = []

    def resume(self) -> int:
        """Restore the newest good checkpoint; returns the first step to do. Metrics written after it are forgotten."""
        metrics = self.hooks.metrics
        if self.trainable.world.leads:
            checkpoint.clear(self.run.folder)
        path, refused = checkpoint.newest_good(self.run.folder, self.run.plan)
        for reason in refused:
            self.hooks.say(f"checkpoint passed over: {reason}")
        self.agree(path)
        self.forget_newer(path)
        if path is None:
            if metrics is not None:
                metrics.rewind(self.run.metrics_begin)
            if self.run.optimizer_state is not None:
                checkpoint.restore_moments(self.run.optimizer_state, self.trainable, self.optimizer)
            self.hooks.on_begin()
            return 0
        state = checkpoint.restore(path, self.trainable, self.optimizer)
        if metrics is not None:
            metrics.rewind(state["metrics_offset"])
        self.guard.load(state["guard"])
        if state["world"] == self.trainable.world.size:
            # Another division adds up in another order, but less memory than before allows no other.
            self.micro_tokens = min(self.micro_tokens, state["micro_tokens"])
        self.hooks.say(f"{self.run.name}: continues after step {state['step']} of {self.run.data.n_steps}")
        return state["step"]

    def agree(self, path: Path | None) -> None:
        """Raises BessemerError when processes do not see the same checkpoint: shards of two steps fit together."""
        step, world = int(path.name.removeprefix("step-")) if path else 0, self.trainable.world
        if world.total([step])[0] != step * world.size:
            raise BessemerError(
                f"process {world.rank} finds step {step}, others another one",
                where=str(self.run.folder),
                fix="all processes need the same BESSEMER_HOME on a shared disk that is in order",
            )

    def forget_newer(self, path: Path | None) -> None:
        """Damaged checkpoints, and those of steps that no longer count, would push out the one that is gone on from."""
        if self.trainable.world.leads:
            checkpoint.remove_newer(self.run.folder, path)
        self.trainable.world.wait()

    def save(self, done: int, forgotten: float | None, *, due: bool) -> None:
        """due: at this step an undisturbed training writes one, too."""
        metrics = self.hooks.metrics
        state = {
            "metrics_offset": metrics.offset() if metrics else 0,
            "guard": self.guard.state(),
            "world": self.trainable.world.size,
            "micro_tokens": self.micro_tokens,
            "forgotten": forgotten,
            "due": due,
            "plan": self.run.plan,
            "optimizer": self.run.stage.optimizer,
            "all_weights": self.run.stage.method == "full" and self.run.stage.freeze == 0,
        }
        self.writer.save(done, self.trainable, self.optimizer, state)

    def log(self, event: str, **values: Any) -> None:
        if self.hooks.metrics is not None:
            self.hooks.metrics.log(event, stage=self.run.name, **values)

    def estimate(self, done: int, seconds: float) -> None:
        """Say how long the stage will take, once, when a few steps were measured."""
        self.timed.append(seconds)
        if len(self.timed) == TIMED and self.run.data.n_steps > 2 * TIMED:
            # The first may compile. The mean: steps differ, those that the start checkpoint teaches take twice as long.
            left = (self.run.data.n_steps - done) * statistics.mean(self.timed[1:])
            self.log("estimate", step=done, seconds=left)
            self.hooks.say(f"  {self.run.name}: about {show_seconds(left)} for the steps that are left")

    def give_up(self, step: int, batch: Batch) -> BessemerError:
        return BessemerError(
            f"step {step + 1}: {self.guard.reason}; steps before it were as bad and nothing sound can be learned",
            where=f"{self.run.name}, batch with {', '.join(batch.ids[:3])} ...",
            fix=f"look at these items; lower lr (now {self.run.lr:g}) or clip; raise skip_above if the spike is real",
        )

    def skip(self, step: int, batch: Batch, gradient: Gradient) -> None:
        """Leave a step out and say so."""
        self.trainable.clear_gradients()
        self.log("skip", step=step + 1, why=self.guard.reason, loss=str(gradient.loss), ids=batch.ids[:20])
        self.hooks.say(f"  step {step + 1} skipped: {self.guard.reason} (batch with {batch.ids[0]} ...)")

    def roll_back(self, step: int, batch: Batch) -> None:
        """Back to the newest good checkpoint; the steps since then, this one included, never count."""
        self.writer.settle("an older one is gone back to")
        self.trainable.world.wait()
        # Where an undisturbed training goes back to.
        path, _ = checkpoint.newest_good(self.run.folder, self.run.plan, due=True)
        self.agree(path)
        if path is None:
            raise self.give_up(step, batch)
        self.forget_newer(path)
        state = checkpoint.restore(path, self.trainable, self.optimizer)
        self.guard.load(state["guard"] | {"roll_backs": self.guard.roll_backs})
        if not self.guard.roll_back():
            raise self.give_up(step, batch)
        if self.hooks.metrics is not None:
            self.hooks.metrics.rewind(state["metrics_offset"])  # what was undone was not trained on
        self.log("roll back", step=step + 1, to=state["step"], why=self.guard.reason)
        self.hooks.say(f"  back to step {state['step']}; steps {state['step'] + 1} to {step + 1} are left out")


def train_stage(run: StageRun, trainable: Trainable, hooks: Hooks) -> None:
    """Train one stage to its end, from its newest good checkpoint where there is one.

    Raises StoppedByUserError after writing a checkpoint when a stop was asked for.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    stage = _Stage(run, trainable, hooks)
    try:
        _train(stage, run, trainable, hooks)
    finally:
        if trainable.world.alone:  # whoever begins again after an interrupt must find nobody writing
            stage.writer.join()


def _train(stage: _Stage, run: StageRun, trainable: Trainable, hooks: Hooks) -> None:
    n_steps, world = run.data.n_steps, trainable.world
    first = stage.resume()
    stage.log(
        "machine", peak_flops=peak_flops(trainable.loaded.machine) * world.size, device=trainable.loaded.machine.name
    )
    for step in range(first, n_steps):
        started = time.perf_counter()
        batch, lr, done = run.data.batch(step), run.rate(step), step + 1
        gradient, stage.micro_tokens = fitting(
            lambda tokens, batch=batch: compute_gradient(
                trainable,
                batch,
                run.stage.objective,
                run.stage.clip,
                z_loss=run.stage.z_loss,
                micro_tokens=tokens,
                stop=hooks.stop_asked(),
            ),
            stage.micro_tokens,
            max(batch.lengths_D),
            trainable.clear_gradients,
        )
        if step == 0:
            numbers = (gradient.loss, gradient.norm, gradient.per_source)
            check_first_step(run.name, trainable, batch, *numbers, untouched=run.untouched)
        losses = {stage.names[s]: t / n for s, (t, n) in sorted(gradient.per_source.items()) if n}
        decision = stage.guard.judge(gradient.loss, gradient.norm, losses)
        if decision == "apply":
            stage.optimizer.step(lr)
            trainable.round()
            stage.log(
                "step",
                step=done,
                loss=gradient.loss,
                lr=lr,
                grad_norm=gradient.norm,
                tokens={name: int((batch.sources_N == s).sum()) for s, name in enumerate(stage.names)},
                source_loss=losses,
                seconds=round(time.perf_counter() - started, 3),
                flops=flops(trainable, gradient.n_tokens, sum(n for _, n in gradient.per_source.values())),
                memory=peak_memory(),
            )
            stage.estimate(done, time.perf_counter() - started)
        else:
            stage.skip(step, batch, gradient)
            if decision == "roll back":
                stage.roll_back(step, batch)
        forgotten = hooks.on_probe(done) if done % run.probe_every == 0 or done == n_steps else None
        stop = gradient.stop or (world.alone and hooks.stop_asked())
        due = done % run.checkpoint_every == 0 and not stage.guard.in_a_row  # never keep what may have gone wrong
        if (done < n_steps and (due or stop)) or (done == n_steps and run.keep_all):
            stage.save(done, forgotten, due=due or done == n_steps)
        if done < n_steps and stop:
            stage.writer.wait()
            world.wait()  # nobody says that a checkpoint was written before all have written
            raise StoppedByUserError(
                f"stopped at step {done} of {n_steps}; a checkpoint was written",
                where=run.name,
                fix="run the same command again to continue",
            )
    try:
        stage.writer.wait()
    except BessemerError as error:
        if run.keep_all:
            raise
        hooks.say(f"  {error.what}; all steps are done, and the stage's weights are written instead")
