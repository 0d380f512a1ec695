"""A plan's stages in order: the only place that knows the whole story.

plan -> measure before -> train each stage -> export -> measure after -> verdict -> report -> release. Every part
leaves a file when it is done and is skipped when that file is there, so the same command continues after a kill.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from bessemer.errors import BessemerError, StoppedByUserError
from bessemer.evaluate.measure import cut_probes, measure, need_one_precision
from bessemer.evaluate.scorecard import build_scorecard, need_intervals
from bessemer.evaluate.seal import commitments
from bessemer.files import (
    digest_files,
    digest_of_files,
    exclusive,
    read_json,
    read_record,
    write_json,
    write_record,
    write_text,
)
from bessemer.plan.resolve import Needs, Plan, Prepared, add_estimate, drift, keep_estimate, prepare
from bessemer.recipe.load import dump_recipe
from bessemer.recipe.schema import Recipe
from bessemer.registry import store
from bessemer.registry.card import build_card
from bessemer.registry.report import build_report
from bessemer.signatures import SIGNING_KEY, signer_id, signer_of, signing_key
from bessemer.stage import Training, overlay_of
from bessemer.track.metrics import read_metrics
from bessemer.track.runs import BEGUN, DONE, LOG, METRICS, PLAN, STOP, alone, ending, is_begun, lock_path, runs_folder
from bessemer.track.screen import Screen, See
from bessemer.track.trackers import following
from bessemer.train.export import export_model
from bessemer.units import now, show_bytes, show_count

TrainStage = Callable[[int, See], None]  # number of the stage from 0; what is told of every event


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


def make_plan(
    recipe: Recipe, screen: Screen, *, measured: bool, restart: bool = False, here: bool = True, workers: int = 1
) -> Prepared:
    """Resolve the recipe and write plan.lock.json into the run's folder.

    restart: forget what the run did so far. here: it runs on this machine, which must have the disk, and the memory for
    so many workers; 0: its stages are trained elsewhere. What the run has done already is not asked for again.

    Raises BessemerError when the run exists with another plan, when a release has the name, or when memory or disk
    are missing; nothing is changed then.
    """
    folder = runs_folder() / recipe.name
    with screen.step("plan: base, data, tokens"):
        prepared = prepare(recipe, screen.say)
    old: Plan = read_json(folder / PLAN) if (folder / PLAN).exists() else {}
    if not restart:
        _refuse_other_plan(folder, old, prepared.plan)
    done = old.get("identity") == prepared.identity and not restart
    trained = done and all((folder / s["name"] / DONE).exists() for s in prepared.plan["stages"])
    written = sum(p.lstat().st_size for p in folder.rglob("*")) if folder.exists() else 0
    needs = Needs(0 if trained else workers, written) if here else None
    if measured:
        with screen.step("plan: memory, disk, a measured step"):
            add_estimate(prepared, measured=True, needs=needs)
        if old.get("identity") == prepared.identity:  # another division of steps would add up in another order
            prepared.plan["estimate"]["micro_tokens"] = old["estimate"]["micro_tokens"]
    else:
        add_estimate(prepared, measured=False, needs=needs)
        if old.get("identity") == prepared.identity:
            keep_estimate(old, prepared.plan)
    if restart and folder.exists():  # away in one step: half of an old run must never look like one
        folder.rename(folder.with_name(f".restarted-{recipe.name}-{uuid4().hex}"))
    write_json(folder / PLAN, prepared.plan)
    for left in folder.parent.glob(f".restarted-{recipe.name}-*"):  # also of a restart that was killed
        if left.name.rpartition("-")[0] == f".restarted-{recipe.name}":  # else it is another run's
            shutil.rmtree(left, ignore_errors=True)
    return prepared


def plan_run(recipe: Recipe, screen: Screen, *, measured: bool) -> Prepared:
    """`make_plan` while nobody runs it: a run has one plan from its beginning to its end."""
    with exclusive(lock_path(recipe.name), f"the run {recipe.name}"):
        return make_plan(recipe, screen, measured=measured)


def _refuse_other_plan(folder: Path, old: Plan, new: Plan) -> None:
    name: str = new["recipe"]["name"]
    if old.get("identity") == new["identity"]:
        return
    started = folder.exists() and is_begun(folder)
    if started and not old:
        raise BessemerError(
            f"the folder holds parts of a run without its {PLAN}: nobody knows of which plan they are",
            where=str(folder),
            fix="restore the file; or --restart to begin again; or another name (--set name=...)",
        )
    if started:
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
    recipe: Recipe,
    screen: Screen,
    stop_asked: Callable[[], bool] = lambda: False,
    *,
    restart: bool = False,
    elsewhere: TrainStage | None = None,
    workers: int = 1,
    track: Sequence[str] = (),
) -> Result:
    """Do whatever of the recipe's run is not done yet. elsewhere: who trains a stage, when not this process. workers:
    how many processes of this machine train it together; 0: other machines do.

    track: trackers that follow the run.

    Raises BessemerError for bad input (nothing half-written), StoppedByUserError after Ctrl-C or `runs stop`.
    """
    folder = runs_folder() / recipe.name
    signing_key()  # refuses one that cannot sign, before anything is spent
    screen.seconds.clear()  # of this run alone: contests tell several
    with exclusive(lock_path(recipe.name), f"the run {recipe.name}"):
        (folder / STOP).unlink(missing_ok=True)
        prepared = make_plan(recipe, screen, measured=False, restart=restart, workers=workers)
        screen.to_file(folder / LOG)
        with ending(folder), following(folder, track, screen.say):
            return _Story(prepared, folder, screen, lambda: stop_asked() or (folder / STOP).exists(), elsewhere).tell()


class _Story:
    """The parts of a run. Each returns at once when its file is there."""

    def __init__(
        self,
        prepared: Prepared,
        folder: Path,
        screen: Screen,
        stop_asked: Callable[[], bool],
        elsewhere: TrainStage | None = None,
    ) -> None:
        self.prepared, self.folder, self.screen, self.stop_asked = prepared, folder, screen, stop_asked
        self.recipe, self.plan, self.elsewhere = prepared.recipe, prepared.plan, elsewhere
        self.training = Training(prepared, folder, screen.say, stop_asked)

    def tell(self) -> Result:
        """The whole story, in order."""
        self._begin()
        seconds = self.folder / "seconds.json"
        self.screen.seconds |= read_json(seconds) if seconds.exists() else {}
        self._say_plan()
        parts: list[Callable[[], None]] = [self.before]
        parts += [lambda n=n: self.train(n) for n in range(len(self.recipe.stages))]
        parts += [self.export, self.after, self.judge]
        for part in parts:
            if self.stop_asked():
                raise StoppedByUserError("stopped between two steps", fix="run the same command again to continue")
            try:
                part()
            finally:
                with contextlib.suppress(OSError):  # a full disk has been told already
                    write_json(seconds, self.screen.seconds)
        return self.release()

    def _begin(self) -> None:
        """Once: when the run began and which seals stood there, so that an evaluation can tell what came first; and who
        is to sign its release, which a process without that key must not leave unsigned."""
        if (self.folder / BEGUN).exists():
            if not (self.folder / "result.json").exists():
                need_signer(self.folder)
            return
        key = signing_key()
        signer = {"signer": signer_id(key)} if key else {}
        write_json(self.folder / BEGUN, {"at": now(), "seals": commitments(), **signer})

    def _say_plan(self) -> None:
        base = self.plan["base"]
        self.screen.say(f"base {base['name']} ({base['digest'][:12]}), licence {base['licence']}")
        for stage in self.plan["stages"]:
            mixture = ", ".join(f"{name} {show_count(s['tokens'])}" for name, s in stage["sources"].items())
            self.screen.say(
                f"{stage['name']}: {stage['steps']} steps, {show_count(stage['tokens'])} tokens ({mixture})"
            )
        cost = self.plan["estimate"]
        self.screen.say(
            f"needs about {show_bytes(cost['memory_bytes'])} of memory, {show_bytes(cost['disk_bytes'])} of disk"
        )

    # -- measuring --------------------------------------------------------------------------------------------

    def before(self) -> None:
        """What the untouched model knows."""
        if not (self.folder / "measured" / "before.json").exists():
            self._measure("before: what the base knows", self.training.weights(0).loaded, "before")
        need_intervals(self.recipe, read_record(self.folder / "measured" / "before.json"))

    def after(self) -> None:
        """What the exported model knows: the bytes that are measured are the bytes that are released."""
        if not (self.folder / "measured" / "after.json").exists():
            from bessemer.infer.model import load

            model = self.folder / "model"
            loaded = load(model, digest=digest_of(model), end_of_text=self.prepared.checkpoint.end_of_text)
            self._measure("after: what the model knows now", loaded, "after")

    def _measure(self, title: str, loaded: Any, name: str) -> None:
        with self.screen.step(title) as advance:
            windows = cut_probes(loaded, self.recipe, self.prepared.probes)
            result = measure(loaded, self.recipe, self.prepared.tasks, windows, self._unless_stopped(advance))
        write_record(self.folder / "measured" / f"{name}.json", dict(result))

    def _unless_stopped(self, advance: Callable[[float, str], None]) -> Callable[[float], None]:
        def progress(share: float) -> None:
            advance(share, "")
            if self.stop_asked():
                raise StoppedByUserError("stopped while measuring", fix="run the same command again to continue")

        return progress

    def train(self, n: int) -> None:
        """Train stage n, here or (by `elsewhere`) by workers that leave the same files."""
        name = self.plan["stages"][n]["name"]
        if (self.folder / name / DONE).exists():
            self.screen.say(f"{name} is done already")
            return
        if self.elsewhere:
            self.training.forget_weights()
        with self.screen.stage(name, self.plan["stages"][n]["steps"], 1 / self.recipe.retain - 1) as see:
            if self.elsewhere:
                self.elsewhere(n, see)
            else:
                with alone(self.folder / name):
                    self.training.train(n, see)

    # -- results ----------------------------------------------------------------------------------------------

    def export(self) -> None:
        model = self.folder / "model"
        if not model.exists():
            last = len(self.recipe.stages)
            with self.screen.step("export safetensors"):
                export_model(
                    self.prepared.checkpoint, [overlay_of(self.folder, self.plan, last)], model, self.recipe.merge
                )

    def judge(self) -> None:
        measured = self.folder / "measured"
        before, after = (read_record(measured / f"{when}.json") for when in ("before", "after"))
        need_one_precision(before, after, str(measured))
        card = build_scorecard(self.recipe, before, after, self.prepared.tasks)
        write_json(self.folder / "scorecard.json", card)

    def release(self) -> Result:
        """Report, card and (on SHIP) the release; once."""
        card = read_json(self.folder / "scorecard.json")
        result_file = self.folder / "result.json"
        if not result_file.exists():
            facts = facts_of(self.folder, self.plan, self.recipe, card["verdict"]["word"], self.screen.seconds)
            metrics = read_metrics(self.folder / METRICS)
            write_text(self.folder / "report.html", build_report(self.plan, metrics, card, facts))
            reference = self._add_release(facts, card) if card["verdict"]["word"] == "SHIP" else None
            write_json(result_file, {"release": reference, "verdict": card["verdict"]["word"]})
        return load_result(self.recipe.name)

    def _add_release(self, facts: dict[str, Any], card: dict[str, Any]) -> str:
        name = self.recipe.name
        mine = (store.find_release(f"{name}@{version}") for version in store.versions(name))
        mine = (r for r in mine if not r.manifest.keys() & {"merge", "added"})  # those are other weights
        same = {"plan_identity": facts["plan_identity"], "begun": facts["begun"]}
        made = next((r for r in mine if {key: r.manifest.get(key) for key in same} == same), None)
        if made and need_signer(self.folder) in {None, signer_of(made.path)}:
            return made.reference  # a kill came between the release and result.json
        need_measured(self.folder / "model", read_record(self.folder / "measured" / "after.json"))
        with self.screen.step("release"):
            return write_release(self.folder, self.plan, self.recipe, self.folder / "model", card, facts)


def need_signer(folder: Path) -> str | None:
    """Who is to sign the release of the run in this folder; None when nobody must.

    Raises BessemerError when that key is not the one that signs here.
    """
    wanted: str | None = read_json(folder / BEGUN).get("signer")
    key = signing_key()
    if wanted and (key is None or signer_id(key) != wanted):
        raise BessemerError(
            f"this run's release is to be signed with the key {wanted[:12]}, which is not set here",
            where=SIGNING_KEY,
            fix=f"set it as when the run began; to do without, remove `signer` from {folder / BEGUN}",
        )
    return wanted


def digest_of(model: Path) -> str:
    return digest_of_files(digest_files(model))


def need_measured(model: Path, measured: Mapping[str, Any]) -> None:
    """Raises BessemerError when a model's bytes are not those that were measured: what was found is not about them."""
    if (now := digest_of(model)) != measured["digest"]:
        raise BessemerError(
            f"the model changed since it was measured: sha256 {now[:12]}..., not {measured['digest'][:12]}...",
            where=str(model),
            fix="remove this folder and what was measured of it; the same command makes both again",
        )


def facts_of(folder: Path, plan: Plan, recipe: Recipe, verdict: str, seconds: dict[str, float]) -> dict[str, Any]:
    """The lineage: what a model was made of, and how."""
    tokens: dict[str, dict[str, int]] = {}
    for event in read_metrics(folder / METRICS):
        if event["event"] == "step":
            stage = tokens.setdefault(event["stage"], {})
            for source, n in event["tokens"].items():
                stage[source] = stage.get(source, 0) + n
    begun = read_json(folder / BEGUN)
    return {
        "created": now(),
        "begun": begun["at"],
        "seals": begun["seals"],
        "verdict": verdict,
        "base": {k: v for k, v in plan["base"].items() if k != "end_of_text"},
        "end_of_text": plan["base"]["end_of_text"],
        "recipe_sha256": plan["recipe_sha256"],
        "code_sha256": plan["code_sha256"],
        "plan_identity": plan["identity"],
        "data": {name: {"from": recipe.sources[name].from_, **facts} for name, facts in plan["sources"].items()},
        "tokens": tokens,
        "seconds": seconds,
    }


def write_release(
    folder: Path, plan: Plan, recipe: Recipe, model: Path, card: dict[str, Any], facts: dict[str, Any]
) -> str:
    """Card, recipe, report and weights as the next version of the run's name; returns its reference."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".tmp-papers-") as name:
        papers = Path(name)
        write_text(papers / "README.md", build_card({"name": recipe.name, **facts}, card, plan))
        text = yaml.safe_dump(dump_recipe(recipe), sort_keys=False, allow_unicode=True)
        write_text(papers / "recipe.yaml", text)
        write_json(papers / "scorecard.json", card)
        write_text(papers / "report.html", build_report(plan, read_metrics(folder / METRICS), card, facts))
        own = {p.name: p for p in papers.iterdir()} | {n: folder / n for n in (PLAN, METRICS)}
        return store.add_release(recipe.name, {p.name: p for p in sorted(model.iterdir())} | own, facts).reference


def release_model(
    folder: Path,
    plan: Plan,
    recipe: Recipe,
    model: Path,
    card: dict[str, Any],
    merge: float,
    more: dict[str, Any],
) -> str:
    """Release another point on the way from the start to a run's trained weights; its recipe says which.

    more: facts for the manifest, such as what was added to the weights.
    """
    seconds = read_json(folder / "seconds.json")
    facts = facts_of(folder, plan, recipe, card["verdict"]["word"], seconds) | {"merge": merge} | more
    return write_release(folder, plan, recipe.model_copy(update={"merge": merge}), model, card, facts)


def load_result(name: str) -> Result:
    """A finished run by name. Raises BessemerError when it is not finished or unknown."""
    folder = runs_folder() / name
    if not (folder / "result.json").exists():
        raise BessemerError("this run is not finished, or there is none", where=str(folder), fix="bessemer runs")
    result = read_json(folder / "result.json")
    release = store.find_release(result["release"]) if result["release"] else None
    return Result(name, folder, read_json(folder / "scorecard.json"), release)
