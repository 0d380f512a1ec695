"""A plan's stages in order: the only place that knows the whole story.

plan -> measure before -> train each stage -> export -> measure after -> verdict -> report -> release. Every part
leaves a file when it is done and is skipped when that file is there, so the same command continues after a kill.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bessemer.data.batch import StageData
from bessemer.errors import BessemerError, StoppedByUserError
from bessemer.evaluate.measure import Measured, cut_probes, measure
from bessemer.evaluate.scorecard import build_scorecard
from bessemer.files import (
    digest_files,
    exclusive,
    read_json,
    sha256_file,
    sha256_folder,
    write_json,
    write_text,
)
from bessemer.infer.score import Window, bits_per_byte, window_bits
from bessemer.plan.resolve import Plan, Prepared, add_estimate, drift, prepare
from bessemer.recipe.load import dump_recipe
from bessemer.recipe.schema import Recipe
from bessemer.registry import store
from bessemer.registry.card import build_card
from bessemer.registry.report import build_report
from bessemer.track.metrics import MetricsFile, read_metrics
from bessemer.track.runs import PLAN, runs_folder
from bessemer.track.screen import Screen
from bessemer.train import checkpoint
from bessemer.train.export import export_model
from bessemer.train.loop import Hooks, StageRun, train_stage
from bessemer.train.weights import Trainable, merged, what_is_trained
from bessemer.train.weights import prepare as prepare_weights
from bessemer.units import show_change, show_count

LEAST_STEPS = 10  # between two probes or checkpoints
PROBE_SHARE = 4  # probes during training measure every fourth window


@dataclass(frozen=True)
class Result:
    """A finished run."""

    name: str
    folder: Path
    scorecard: dict[str, Any]
    release: store.StoredRelease | None

    @property
    def verdict(self) -> str:
        return self.scorecard["verdict"]["word"]


def make_plan(recipe: Recipe, screen: Screen, *, measured: bool, restart: bool = False) -> Prepared:
    """Resolve the recipe and write plan.lock.json into the run's folder.

    restart: forget what the run did so far. Raises BessemerError when the run exists with another plan, when a
    release has the name, or when memory or disk are missing; nothing is changed then.
    """
    folder = runs_folder() / recipe.name
    with screen.step("plan: base, data, tokens"):
        prepared = prepare(recipe, screen.say)
    old: Plan = read_json(folder / PLAN) if (folder / PLAN).exists() else {}
    if not restart:
        _refuse_other_plan(folder, old, prepared.plan)
    if measured:
        with screen.step("plan: memory, disk, a measured step"):
            add_estimate(prepared, measured=True)
    else:
        add_estimate(prepared, measured=False)
        if old.get("identity") == prepared.identity:
            prepared.plan["estimate"] = old["estimate"]
    if restart:
        shutil.rmtree(folder, ignore_errors=True)
    write_json(folder / PLAN, prepared.plan)
    return prepared


def _refuse_other_plan(folder: Path, old: Plan, new: Plan) -> None:
    name: str = new["recipe"]["name"]
    if old.get("identity") == new["identity"]:
        return
    started = folder.exists() and any(p.name not in {PLAN, "log.txt"} for p in folder.iterdir())
    if old and started:
        lines = "\n".join(f"    {line}" for line in drift(old, new)[:12])
        raise BessemerError(
            f"something changed since this run's plan was made:\n{lines}",
            where=str(folder / PLAN),
            fix="undo the change; or --restart to begin again; or another name (--set name=...)",
        )
    if versions := store.versions(name):
        raise BessemerError(
            f"a release of this name exists: {name}@{versions[-1]}",
            where="name",
            fix="choose another name (--set name=...), or --restart to make its next version",
        )


def run_recipe(
    recipe: Recipe, screen: Screen, stop_asked: Callable[[], bool] = lambda: False, *, restart: bool = False
) -> Result:
    """Do whatever of the recipe's run is not done yet.

    Raises BessemerError for bad input (nothing half-written), StoppedByUserError after Ctrl-C.
    """
    folder = runs_folder() / recipe.name
    with exclusive(runs_folder() / f".{recipe.name}.lock", f"the run {recipe.name}"):
        prepared = make_plan(recipe, screen, measured=False, restart=restart)
        screen.to_file(folder / "log.txt")
        return _Story(prepared, folder, screen, stop_asked).tell()


class _Story:
    """The parts of a run. Each returns at once when its file is there."""

    def __init__(self, prepared: Prepared, folder: Path, screen: Screen, stop_asked: Callable[[], bool]) -> None:
        self.prepared, self.folder, self.screen, self.stop_asked = prepared, folder, screen, stop_asked
        self.recipe, self.plan = prepared.recipe, prepared.plan
        self.trainable: Trainable | None = None
        self.windows: dict[str, list[Window]] = {}

    def tell(self) -> Result:
        """The whole story, in order."""
        seconds = self.folder / "seconds.json"
        self.screen.seconds |= read_json(seconds) if seconds.exists() else {}
        self._say_plan()
        parts: list[Callable[[], None]] = [self.before]
        parts += [lambda n=n: self.train(n) for n in range(len(self.recipe.stages))]
        parts += [self.export, self.after, self.judge]
        for part in parts:
            if self.stop_asked():
                raise StoppedByUserError("stopped between two steps", fix="run the same command again to continue")
            part()
            write_json(seconds, self.screen.seconds)
        return self.release()

    def _say_plan(self) -> None:
        base = self.plan["base"]
        self.screen.say(f"base {base['name']} ({base['digest'][:12]}), licence {base['licence']}")
        for stage in self.plan["stages"]:
            mixture = ", ".join(f"{name} {show_count(s['tokens'])}" for name, s in stage["sources"].items())
            self.screen.say(
                f"{stage['name']}: {stage['steps']} steps, {show_count(stage['tokens'])} tokens ({mixture})"
            )

    # -- measuring --------------------------------------------------------------------------------------------

    def before(self) -> None:
        """What the untouched model knows."""
        if not (self.folder / "measured" / "before.json").exists():
            trainable = self._weights(0)
            self._measure("before: what the base knows", trainable.loaded, "before")

    def after(self) -> None:
        """What the exported model knows: the bytes that are measured are the bytes that are released."""
        if not (self.folder / "measured" / "after.json").exists():
            from bessemer.infer.model import load

            model = self.folder / "model"
            digest = sha256_folder({k: v["sha256"] for k, v in digest_files(model).items()})
            loaded = load(model, digest=digest, end_of_text=self.prepared.checkpoint.end_of_text)
            self._measure("after: what the model knows now", loaded, "after")

    def _measure(self, title: str, loaded: Any, name: str) -> None:
        with self.screen.step(title) as advance:
            windows = cut_probes(loaded, self.recipe, self.prepared.probes)
            result = measure(loaded, self.recipe, self.prepared.tasks, windows, self._unless_stopped(advance))
        write_json(self.folder / "measured" / f"{name}.json", result)

    def _unless_stopped(self, advance: Callable[[float, str], None]) -> Callable[[float], None]:
        def progress(share: float) -> None:
            advance(share, "")
            if self.stop_asked():
                raise StoppedByUserError("stopped while measuring", fix="run the same command again to continue")

        return progress

    # -- training ---------------------------------------------------------------------------------------------

    def _stage_folder(self, n: int) -> Path:
        return self.folder / self.plan["stages"][n]["name"]

    def _overlay(self, n: int) -> Path | None:
        """The fp32 weights with which stage n begins, checked against their digest; None for the base's own."""
        if n == 0:
            return None
        path, done = (
            self._stage_folder(n - 1) / "weights.safetensors",
            read_json(self._stage_folder(n - 1) / "done.json"),
        )
        if sha256_file(path) != done["weights_sha256"]:
            raise BessemerError(
                "its bytes changed since the stage was finished",
                where=str(path),
                fix="--restart trains it again",
            )
        return path

    def _weights(self, n: int) -> Trainable:
        """Weights ready for stage n. Stage 0's are kept in memory from the measurement before to its training."""
        if self.trainable is None:
            self.trainable = prepare_weights(
                self.prepared.checkpoint,
                self._overlay(n),
                what_is_trained(self.recipe.stages[n], self.recipe.seed),
                keep_start=bool(self.prepared.stages[n].anchored),
            )
        return self.trainable

    def train(self, n: int) -> None:
        folder, planned = self._stage_folder(n), self.plan["stages"][n]
        if (folder / "done.json").exists():
            self.screen.say(f"{planned['name']} is done already")
            return
        trainable = self._weights(n)
        data: StageData = self.prepared.stages[n]
        every = [
            max(LEAST_STEPS, round(share * data.n_steps))
            for share in (self.recipe.probe_every, self.recipe.checkpoint_every)
        ]
        run = StageRun(
            planned["name"],
            self.recipe.stages[n],
            planned["lr"],
            planned["warmup"],
            data,
            folder,
            every[0],
            every[1],
            read_json(self._stage_folder(n - 1) / "done.json")["metrics_offset"] if n else 0,
            untouched=n == 0,
        )
        metrics = MetricsFile(self.folder / "metrics.jsonl")
        with self.screen.step(f"train {run.name}") as advance:
            self._train(run, trainable, metrics, advance)
        self._finish(n, run, trainable, metrics)

    def _train(
        self, run: StageRun, trainable: Trainable, metrics: MetricsFile, advance: Callable[[float, str], None]
    ) -> None:
        begun = 0

        def on_step(step: int, n_steps: int, loss: float) -> None:
            nonlocal begun
            advance((step - begun) / n_steps, f"step {step}/{n_steps} loss {loss:.3f}")
            begun = step

        hooks = Hooks(
            metrics=metrics,
            on_step=on_step,
            on_begin=lambda: self._first_probe(metrics, run.name),
            on_probe=lambda step: self._probe(trainable, metrics, run.name, step),
            say=self.screen.say,
            stop_asked=self.stop_asked,
        )
        train_stage(run, trainable, hooks)

    def _finish(self, n: int, run: StageRun, trainable: Trainable, metrics: MetricsFile) -> None:
        """Keep the stage's fp32 weights (and those of earlier stages that it froze), drop its checkpoints."""
        from safetensors.torch import load_file, save_file

        overlay = self._overlay(n)
        weights = load_file(overlay) if overlay else {}
        masters = {name: m.detach().cpu() for name, m in trainable.masters.items()}
        weights |= merged(self.prepared.checkpoint, overlay, what_is_trained(run.stage, self.recipe.seed), masters)
        run.folder.mkdir(parents=True, exist_ok=True)
        tmp = run.folder / ".tmp-weights.safetensors"
        save_file(weights, tmp)
        final = tmp.replace(run.folder / "weights.safetensors")
        done = {"weights_sha256": sha256_file(final), "metrics_offset": metrics.offset()}
        metrics.close()
        write_json(run.folder / "done.json", done)
        for path in checkpoint.complete(run.folder):
            shutil.rmtree(path)
        self.trainable = None

    # -- probes during training -------------------------------------------------------------------------------

    def _probe_windows(self, trainable: Trainable) -> dict[str, list[Window]]:
        if not self.windows:
            windows = cut_probes(trainable.loaded, self.recipe, self.prepared.probes)
            self.windows = {name: cut[::PROBE_SHARE] for name, cut in windows.items()}
        return self.windows

    def _start_bits(self) -> dict[str, float]:
        """Bits per byte of the untouched model on the windows that are measured during training."""
        measured: Measured = read_json(self.folder / "measured" / "before.json")["probes"]
        return {
            name: sum(probe["bits"][::PROBE_SHARE]) / sum(probe["bytes"][::PROBE_SHARE])
            for name, probe in measured.items()
        }

    def _first_probe(self, metrics: MetricsFile, stage: str) -> None:
        if stage == self.plan["stages"][0]["name"]:
            for name, bits in self._start_bits().items():
                metrics.log("probe", stage=stage, step=0, probe=name, bits_per_byte=bits, start=bits)

    def _probe(self, trainable: Trainable, metrics: MetricsFile, stage: str, step: int) -> float:
        """Measure how much was forgotten so far and say it against the budget; returns the worst probe's share."""
        start, shown, worst = self._start_bits(), [], -1.0
        for name, windows in self._probe_windows(trainable).items():
            now = bits_per_byte(window_bits(trainable.loaded, windows), windows)
            metrics.log("probe", stage=stage, step=step, probe=name, bits_per_byte=now, start=start[name])
            shown.append(f"{name} {now:.3f} ({show_change(now, start[name])})")
            worst = max(worst, now / start[name] - 1)
        budget = f"{(1 / self.recipe.retain - 1) * 100:+.1f} %"
        self.screen.say(f"  probe at {stage} step {step}: {', '.join(shown)}; budget {budget} bits per byte")
        return worst

    # -- results ----------------------------------------------------------------------------------------------

    def export(self) -> None:
        model = self.folder / "model"
        if not model.exists():
            last = len(self.recipe.stages)
            with self.screen.step("export safetensors"):
                export_model(self.prepared.checkpoint, self._overlay(last), model, self.recipe.merge)

    def judge(self) -> None:
        measured = self.folder / "measured"
        card = build_scorecard(
            self.recipe,
            read_json(measured / "before.json"),
            read_json(measured / "after.json"),
            self.prepared.tasks,
        )
        write_json(self.folder / "scorecard.json", card)

    def _facts(self, verdict: str) -> dict[str, Any]:
        """The lineage: what the model was made of, and how."""
        tokens: dict[str, dict[str, int]] = {}
        for event in read_metrics(self.folder / "metrics.jsonl"):
            if event["event"] == "step":
                stage = tokens.setdefault(event["stage"], {})
                for source, n in event["tokens"].items():
                    stage[source] = stage.get(source, 0) + n
        data = {
            name: {"from": self.recipe.sources[name].from_, **facts} for name, facts in self.plan["sources"].items()
        }
        return {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "verdict": verdict,
            "base": {k: v for k, v in self.plan["base"].items() if k != "end_of_text"},
            "end_of_text": self.plan["base"]["end_of_text"],
            "recipe_sha256": self.plan["recipe_sha256"],
            "code_sha256": self.plan["code_sha256"],
            "plan_identity": self.plan["identity"],
            "data": data,
            "tokens": tokens,
            "seconds": self.screen.seconds,
        }

    def release(self) -> Result:
        """Report, card and (on SHIP) the release; once."""
        card = read_json(self.folder / "scorecard.json")
        result_file = self.folder / "result.json"
        if not result_file.exists():
            facts = self._facts(card["verdict"]["word"])
            metrics = read_metrics(self.folder / "metrics.jsonl")
            write_text(self.folder / "report.html", build_report(self.plan, metrics, card, facts))
            reference = self._add_release(facts, card) if card["verdict"]["word"] == "SHIP" else None
            write_json(result_file, {"release": reference, "verdict": card["verdict"]["word"]})
        return load_result(self.recipe.name)

    def _add_release(self, facts: dict[str, Any], card: dict[str, Any]) -> str:
        made = next((r for r in store.list_releases() if r.manifest["plan_identity"] == facts["plan_identity"]), None)
        if made and made.name == self.recipe.name and made.manifest["created"] >= self._begun():
            return made.reference  # a kill came between the release and result.json
        write_text(self.folder / "README.md", build_card({"name": self.recipe.name, **facts}, card, self.plan))
        recipe_text = yaml.safe_dump(dump_recipe(self.recipe), sort_keys=False, allow_unicode=True)
        write_text(self.folder / "recipe.yaml", recipe_text)
        own = ("README.md", "recipe.yaml", PLAN, "metrics.jsonl", "scorecard.json", "report.html")
        files = {p.name: p for p in sorted((self.folder / "model").iterdir())} | {n: self.folder / n for n in own}
        with self.screen.step("release"):
            return store.add_release(self.recipe.name, files, facts).reference

    def _begun(self) -> str:
        """When this run measured its end; a release of it cannot be older."""
        ended = (self.folder / "measured" / "after.json").stat().st_mtime
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ended))


def load_result(name: str) -> Result:
    """A finished run by name. Raises BessemerError when it is not finished or unknown."""
    folder = runs_folder() / name
    if not (folder / "result.json").exists():
        raise BessemerError("this run is not finished, or there is none", where=str(folder), fix="bessemer runs")
    result = read_json(folder / "result.json")
    release = store.find_release(result["release"]) if result["release"] else None
    return Result(name, folder, read_json(folder / "scorecard.json"), release)
