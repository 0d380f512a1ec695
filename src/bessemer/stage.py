"""One stage of a run, trained in this process: by the story itself, or by a worker that the story waits for.

It needs the run's folder and a prepared plan, and leaves `weights.safetensors` and `done.json` in the stage's folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from bessemer.data.batch import StageData
from bessemer.errors import BessemerError
from bessemer.evaluate.measure import Measured, cut_probes
from bessemer.files import fsync_file, read_json, read_record, saving_weights, sha256_file, write_json
from bessemer.infer.model import give_back_memory
from bessemer.infer.score import Window, bits_per_byte, window_bits
from bessemer.plan.defaults import optimizer_digest, optimizer_state_of
from bessemer.plan.resolve import Plan, Prepared
from bessemer.track.metrics import MetricsFile, read_metrics
from bessemer.track.runs import DONE, METRICS
from bessemer.track.screen import See
from bessemer.train import checkpoint
from bessemer.train.compiled import compile_layers, is_worth
from bessemer.train.loop import Hooks, StageRun, train_stage
from bessemer.train.speed import flops
from bessemer.train.weights import Trainable, merged, what_is_trained
from bessemer.train.weights import prepare as prepare_weights
from bessemer.train.world import World
from bessemer.units import show_bytes, show_change, show_seconds

LEAST_STEPS = 10  # between two probes or checkpoints
PROBE_SHARE = 4  # probes during training measure every fourth window


def overlay_of(folder: Path, plan: Plan, n: int) -> Path:
    """The fp32 weights that the first n stages of a run left (n from 1), checked against their digest.

    Raises BessemerError when they are missing or changed.
    """
    stage = folder / plan["stages"][n - 1]["name"]
    path, done = stage / "weights.safetensors", read_json(stage / DONE)
    if sha256_file(path) != done["weights_sha256"]:
        raise BessemerError(
            "its bytes changed since the stage was finished", where=str(path), fix="--restart trains it again"
        )
    return path


class Training:
    """The stages of one run. Stage 0's weights stay in memory from the measurement before to its training.

    world: the processes that train together; only its first one speaks, logs and writes results.
    """

    def __init__(
        self,
        prepared: Prepared,
        folder: Path,
        say: Callable[[str], None],
        stop_asked: Callable[[], bool],
        world: World = World(),  # noqa: B008 - frozen
    ) -> None:
        self.prepared, self.folder, self.stop_asked, self.world = prepared, folder, stop_asked, world
        self.say: Callable[[str], None] = say if world.leads else lambda text: None
        self.recipe, self.plan = prepared.recipe, prepared.plan
        self._trainable: tuple[int, Trainable] | None = None  # for which stage
        self._windows: dict[str, list[Window]] = {}

    def stage_folder(self, n: int) -> Path:
        return self.folder / self.plan["stages"][n]["name"]

    def overlay(self, n: int) -> Path | None:
        """The fp32 weights with which stage n begins, checked against their digest; None for the base's own."""
        return overlay_of(self.folder, self.plan, n) if n else None

    def weights(self, n: int) -> Trainable:
        """Weights ready for stage n, loaded once. Those of another stage have its freeze and adapters: they go."""
        if self._trainable is None or self._trainable[0] != n:
            self.forget_weights()
            made = prepare_weights(
                self.prepared.checkpoint,
                self.overlay(n),
                what_is_trained(self.recipe.stages[n], self.recipe.seed),
                keep_start=bool(self.prepared.stages[n].anchored),
                world=self.world,
            )
            self._trainable = n, made
        return self._trainable[1]

    def forget_weights(self) -> None:
        """Free their memory: someone else trains next."""
        self._trainable = None
        give_back_memory()

    def train(self, n: int, see: See = lambda _: None) -> None:
        """Train stage n to its end from its newest good checkpoint. see: told of every event.

        Raises StoppedByUserError when a stop was asked for, BessemerError when nothing sound can be learned.
        """
        planned, trainable = self.plan["stages"][n], self.weights(n)
        data: StageData = self.prepared.stages[n]
        if is_worth(flops(trainable, planned["tokens"], sum(s["supervised"] for s in planned["sources"].values()))):
            compile_layers(trainable)
        probe_every, checkpoint_every = (
            max(LEAST_STEPS, round(share * data.n_steps))
            for share in (self.recipe.probe_every, self.recipe.checkpoint_every)
        )
        run = StageRun(
            planned["name"],
            self.recipe.stages[n],
            planned["lr"],
            planned["warmup"],
            data,
            self.stage_folder(n),
            probe_every,
            checkpoint_every,
            read_json(self.stage_folder(n - 1) / DONE)["metrics_offset"] if n else 0,
            untouched=n == 0,
            micro_tokens=self.plan["estimate"]["micro_tokens"][n],
            optimizer_state=self._optimizer_state(n),
            final_lr=planned["final_lr"],
            keep_all=self.recipe.keep_checkpoints == "all",
            plan=self.plan["identity"],
        )
        metrics = MetricsFile(self.folder / METRICS, see) if self.world.leads else None
        hooks = Hooks(
            metrics=metrics,
            on_begin=lambda: self._first_probe(metrics, run.name),
            on_probe=lambda step: self._probe(trainable, metrics, run.name, step),
            say=self.say,
            stop_asked=self.stop_asked,
        )
        train_stage(run, trainable, hooks)
        self._finish(n, run, trainable, metrics)
        self._compare(run.name)

    def _optimizer_state(self, n: int) -> Path | None:
        """Of the start, where the plan says that the stage goes on with it; checked against the plan's digest."""
        planned = self.plan["stages"][n].get("optimizer_state")
        if planned is None:
            return None
        path = optimizer_state_of(self.prepared.checkpoint)
        if path is None or optimizer_digest(path) != planned:
            raise BessemerError(
                "the optimizer's state of the start is no longer the one of the plan",
                where=str(self.prepared.checkpoint.path),
                fix="restore it from a copy, or plan again under another name",
            )
        return path

    def _compare(self, stage: str) -> None:
        """Say what was estimated beside what it took."""
        events = [e for e in read_metrics(self.folder / METRICS) if e.get("stage") == stage]
        said = next((e for e in reversed(events) if e["event"] == "estimate"), None)
        steps = [e for e in events if e["event"] == "step"]
        if said is not None and steps:
            took = sum(e["seconds"] for e in steps if e["step"] > said["step"])
            memory, planned = max(e["memory"] for e in steps), self.plan["estimate"]["memory_bytes"]
            self.say(
                f"  {stage}: steps took {show_seconds(took)} (estimated {show_seconds(said['seconds'])}), "
                f"memory {show_bytes(memory)} (estimated {show_bytes(planned)})"
            )

    def _finish(self, n: int, run: StageRun, trainable: Trainable, metrics: MetricsFile | None) -> None:
        """Keep the stage's fp32 weights (and those of earlier stages that it froze), drop its checkpoints."""
        from safetensors.torch import load_file, save_file

        masters = trainable.whole_masters()
        if metrics is not None:
            overlay, what = self.overlay(n), what_is_trained(run.stage, self.recipe.seed)
            weights = load_file(overlay) if overlay else {}
            weights |= merged(self.prepared.checkpoint, overlay, what, masters)
            run.folder.mkdir(parents=True, exist_ok=True)
            tmp = run.folder / ".tmp-weights.safetensors"
            try:
                with saving_weights(tmp):
                    save_file(weights, tmp)
                fsync_file(tmp)  # before anything says that it is there, and the checkpoints go
            except BaseException:
                tmp.unlink(missing_ok=True)  # it may be what fills the disk
                raise
            final = tmp.replace(run.folder / "weights.safetensors")
            done = {"weights_sha256": sha256_file(final), "metrics_offset": metrics.offset()}
            metrics.close()
            write_json(run.folder / DONE, done)
            for path in [] if run.keep_all else checkpoint.complete(run.folder):
                if not (path / checkpoint.PINNED).exists():
                    shutil.rmtree(path)
        self.world.wait()
        self.forget_weights()

    # -- probes -----------------------------------------------------------------------------------------------

    def _probe_windows(self, trainable: Trainable) -> dict[str, list[Window]]:
        if not self._windows:
            windows = cut_probes(trainable.loaded, self.recipe, self.prepared.probes)
            self._windows = {name: cut[::PROBE_SHARE] for name, cut in windows.items()}
        return self._windows

    def _start_bits(self) -> dict[str, float]:
        """Bits per byte of the untouched model on the windows that are measured during training."""
        measured: Measured = read_record(self.folder / "measured" / "before.json")["probes"]
        return {
            name: sum(probe["bits"][::PROBE_SHARE]) / sum(probe["bytes"][::PROBE_SHARE])
            for name, probe in measured.items()
        }

    def _first_probe(self, metrics: MetricsFile | None, stage: str) -> None:
        if metrics is not None and stage == self.plan["stages"][0]["name"]:
            for name, bits in self._start_bits().items():
                metrics.log("probe", stage=stage, step=0, probe=name, bits_per_byte=bits, start=bits)

    def _probe(self, trainable: Trainable, metrics: MetricsFile | None, stage: str, step: int) -> float:
        """Measure how much was forgotten so far and say it against the budget; returns the worst probe's share.

        Every process of a world measures all windows: sharded weights are gathered by all together.
        """
        start, shown, worst = self._start_bits(), list[str](), -1.0
        for name, windows in self._probe_windows(trainable).items():
            with trainable.as_written():
                bits = trainable.root(window_bits, trainable.loaded, windows)
            now = bits_per_byte(bits, windows)
            if metrics is not None:
                metrics.log("probe", stage=stage, step=step, probe=name, bits_per_byte=now, start=start[name])
            shown.append(f"{name} {now:.3f} ({show_change(now, start[name])})")
            worst = max(worst, now / start[name] - 1)
        budget = f"{(1 / self.recipe.retain - 1) * 100:+.1f} %"
        self.say(f"  probe at {stage} step {step}: {', '.join(shown)}; budget {budget} bits per byte")
        return worst
