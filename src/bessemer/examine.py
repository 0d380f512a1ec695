"""`bessemer eval`: find the models, ask them everything, and write an evaluation that others can check.

An evaluation is a folder: `scorecard.json`, the results that it was computed from, a copy of every seal that was
opened, a page to look at, and `manifest.json` with the digest of each. What was answered is kept, so that a killed
evaluation goes on where it stopped. A sealed task is scored once for each model; then its result is read.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from bessemer.data.start import resolve_start
from bessemer.errors import BessemerError
from bessemer.evaluate import seal
from bessemer.evaluate.adapt import InspectLog, load_any, open_inspect_log
from bessemer.evaluate.answer import Kept, answer_task
from bessemer.evaluate.card import GAIN, KEEP, Block, order_fault, primary_metric
from bessemer.evaluate.metrics import Columns
from bessemer.evaluate.openings import Opening, begin_opening, finish_opening, need_openings
from bessemer.evaluate.result import (
    Document,
    Fed,
    TaskResult,
    hide_items,
    keep_result,
    make_result,
    path_of,
    read_result,
)
from bessemer.evaluate.submissions import submissions_of
from bessemer.evaluate.tasks import LoadedTask, Task, with_rows
from bessemer.families.fetch import Checkpoint, resolve
from bessemer.files import canonical_json, need_writable, read_json, read_record, sha256_text
from bessemer.registry import store
from bessemer.registry.evaluation import write_evaluation
from bessemer.registry.lineage import consumed, trainings
from bessemer.run import need_measured
from bessemer.signatures import MANIFEST
from bessemer.track.runs import BEGUN, PLAN, run_names, runs_folder
from bessemer.track.screen import Screen
from bessemer.units import now

if TYPE_CHECKING:
    from bessemer.infer.model import Loaded

SEAL, INSPECT = "seal:", "inspect:"


@dataclass(frozen=True)
class Subject:
    """A model to be measured. digest: of the files that it is loaded from; the same for a run and its release.

    lineage: the run or release whose training manifest says what it was fed; "" when nobody knows.
    plan: of the run that made it. begun: when that run began, or the one that made its start, as the ledger writes it.
    """

    name: str
    kind: str  # run, release, checkpoint
    digest: str
    path: Path
    end_of_text: str
    lineage: str = ""
    plan: dict[str, Any] | None = None
    begun: str = ""
    seals: dict[str, str] | None = None  # {seal: digest of its commitment} that stood there when the run began

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"name": self.name, "kind": self.kind, "digest": self.digest}
        if self.plan is not None:
            base = self.plan["base"]
            facts |= {"begun": self.begun, "seals": self.seals or {}, "plan_identity": self.plan["identity"]}
            facts |= {"base": base["name"], "base_digest": base["digest"]}
        return facts


def find_subject(name: str) -> Subject:
    """A release (`name@version`), a finished run (`name`), a checkpoint of the catalogue, a folder or a hub id.

    Raises BessemerError when there is none, or its bytes are not what they were.
    """
    head, _, version = name.partition("@")
    if version.isdigit() and store.versions(head):
        return _of_release(store.open_release(name))
    if Path(name).name == name and (runs_folder() / name / PLAN).exists():
        return _of_run(name)
    try:
        return _of_checkpoint(resolve(name))
    except BessemerError as error:
        runs = ", ".join(run_names()) or "none"
        raise BessemerError(error.what, where=error.where, fix=f"{error.fix}; runs: {runs}") from None


def _of_release(release: store.StoredRelease) -> Subject:
    checkpoint = resolve(str(release.path))
    plan = read_json(release.path / PLAN) if (release.path / PLAN).exists() else None
    end_of_text = release.manifest.get("end_of_text", "")
    name = release.reference
    lineage = name if plan and "token_sets" in plan else ""
    try:
        begun, seals = _first_begun(name) if lineage else _begun(release.path)
    except BessemerError:  # what it was averaged with is gone
        lineage, begun, seals = "", "", dict[str, str]()
    if release.manifest.get("added"):  # what another checkpoint brought in is not known
        lineage = ""
    return Subject(name, "release", checkpoint.digest, release.path, end_of_text, lineage, plan, begun, seals)


def _of_run(name: str) -> Subject:
    folder = runs_folder() / name
    model, plan = folder / "model", read_json(folder / PLAN)
    if not model.exists():
        raise BessemerError("this run has no model yet", where=str(folder), fix="bessemer run RECIPE finishes it")
    if (measured := folder / "measured" / "after.json").exists():
        need_measured(model, read_record(measured))  # else the run's probes and data are those of other weights
    begun, seals = _first_begun(name)
    digest, end_of_text = resolve(str(model)).digest, plan["base"]["end_of_text"]
    return Subject(name, "run", digest, model, end_of_text, name, plan, begun, seals)


def _first_begun(run: str) -> tuple[str, dict[str, str]]:
    """When the first of the trainings of its weights began, and the seals that stood there; "" when nobody knows."""
    return min((_begun(training.folder) for training in trainings(run)), key=lambda told: told[0])


def _begun(folder: Path) -> tuple[str, dict[str, str]]:
    """Of a run or a release."""
    if (folder / BEGUN).exists():
        told = read_json(folder / BEGUN)
        return told["at"], told["seals"]
    told = read_json(folder / MANIFEST) if (folder / MANIFEST).exists() else {}
    return ("", {}) if told.get("added") else (told.get("begun", ""), told.get("seals", {}))


def _of_checkpoint(found: Checkpoint) -> Subject:
    return Subject(found.name, "checkpoint", found.digest, found.path, found.end_of_text)


def base_of(subject: Subject) -> Subject | None:
    """What a run started from. Raises BessemerError when it is no longer what it was."""
    if subject.plan is None:
        return None
    found = _of_checkpoint(resolve_start(subject.plan["recipe"]["start"], subject.plan["recipe"].get("chat_template")))
    if found.digest != subject.plan["base"]["digest"]:
        raise BessemerError(
            f"another base than the plan's: {found.digest[:12]}..., not {subject.plan['base']['digest'][:12]}...",
            where=subject.plan["recipe"]["start"],
            fix="restore it, or name what to compare with (--against)",
        )
    return found


# -- what is asked ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A task as the user named it: open (`task`), or the sealed part of a seal."""

    name: str
    role: str
    task: LoadedTask | None
    seal: str = ""


def find_task(argument: str, role: str) -> Asked:
    """A task file, `seal:NAME` (its sealed part: an opening), `seal:NAME/public`, or what adapters read.

    Raises BessemerError.
    """
    if not argument.startswith(SEAL):
        task = load_any(argument)
        return Asked(task.name, role, task)
    name, _, part = argument.removeprefix(SEAL).partition("/")
    found = seal.load(name)
    if part not in {"", "public"}:
        raise BessemerError(
            f"{part!r} is no part of a seal", where=argument, fix=f"{SEAL}{name} or {SEAL}{name}/public"
        )
    if part:
        rows = [(row["id"], row) for row in seal.public_rows(name)]
        return Asked(f"{name}-public", role, with_rows(spec_of(found), rows, where=argument, scorer=found.scorer))
    return Asked(name, role, None, name)


def spec_of(found: seal.Seal) -> Task:
    """The task of a seal, without its items."""
    given = {k: v for k, v in found.task.items() if k != "scorer_sha256"}
    return Task.model_validate({"items": seal.SEALED, **_unusual(Task, given)})


def _unusual(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the defaults: a commitment names every field, but some may be given for some kinds only."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        usual = model.model_fields[name].get_default(call_default_factory=True)
        plain = usual.model_dump(mode="json") if isinstance(usual, BaseModel) else usual
        if value == plain:
            continue
        nested = isinstance(usual, BaseModel) and isinstance(value, Mapping)
        kept[name] = _unusual(type(usual), value) if nested else value
    return kept


def examine(
    targets: Sequence[str],
    tasks: Sequence[str],
    keep: Sequence[str],
    screen: Screen,
    *,
    against: str = "",
    by: str,
    out: Path | None = None,
) -> Path:
    """Measure models on tasks; returns the folder of the evaluation.

    targets: one model, the seeds of one recipe, or logs of Inspect (`inspect:LOG` or `inspect:LOG#SCORER`, without
    tasks). tasks: where a gain is wanted; keep: where nothing may be lost.
    against: what it is compared with; by default what the run started from. Raises BessemerError.
    """
    if out is not None and out.exists():
        raise BessemerError("there is something of this name already", where=str(out), fix="--out another folder")
    if any(t.startswith(INSPECT) for t in (*targets, against)):
        return _examine_logs(targets, against, by, out)
    asked = [find_task(t, GAIN) for t in tasks] + [find_task(t, KEEP) for t in keep]
    if len({a.name for a in asked}) < len(asked):
        raise BessemerError(
            "two tasks have one name", where=", ".join(a.name for a in asked), fix="name each once, in one role"
        )
    if not asked:
        raise BessemerError(
            "there is nothing to measure", fix="--tasks TASK, and --keep TASK for what must not be lost"
        )
    subjects = [find_subject(t) for t in targets]
    if len({s.digest for s in subjects}) < len(subjects):
        raise BessemerError("two of the models are the same", where=", ".join(targets), fix="name each one once")
    other = find_subject(against) if against else base_of(subjects[0])
    models = {s.digest: s.name for s in [*subjects, *([other] if other else [])]}
    for sealed in (a.seal for a in asked if a.seal):
        need_openings(sealed, models)
    probes, retain = _probes(subjects)
    if out is not None:
        need_writable(out.absolute().parent)
    before = ask(other, asked, screen, by=by) if other else {}
    after = [ask(s, asked, screen, by=by) for s in subjects]
    blocks = [
        Block(
            a.name,
            a.role,
            spec_as_dict(a),
            [before[a.name]] if other else [],
            [r[a.name] for r in after],
            _ordered(seal_facts(a), subjects),
        )
        for a in asked
    ]
    facts = {
        "created": now(),
        "by": by,
        "code": seal.code_digests(),
        "models": [s.facts() for s in subjects],
        "against": other.facts() if other else None,
    }
    return write_evaluation(blocks, facts, probes, retain, out)


def _log(asked: str) -> InspectLog:
    """`LOG`, or `LOG#SCORER`; a path may hold a # itself."""
    log, _, scorer = asked.rpartition("#")
    return open_inspect_log(asked) if not log or Path(asked).exists() else open_inspect_log(log, scorer)


def _examine_logs(targets: Sequence[str], against: str, by: str, out: Path | None) -> Path:
    """The same statistics on what another tool measured: logs of Inspect, as models and as what they are compared with.

    Nothing is asked, and what the models were fed is not known.
    """
    names = [*targets, *([against] if against else [])]
    if not all(n.startswith(INSPECT) for n in names):
        raise BessemerError(
            "logs are compared with logs only", where=", ".join(names), fix=f"{INSPECT}LOG for each one"
        )
    logs = [_log(n.removeprefix(INSPECT)) for n in names]
    if len({(log.task, log.scorer) for log in logs}) > 1:
        asked = "; ".join(
            f"{name}: task {log.task}, scorer {log.scorer}" for name, log in zip(names, logs, strict=True)
        )
        raise BessemerError(f"the logs are of different tasks or scorers ({asked})", fix="compare logs of one task")
    results = [make_log_result(log) for log in logs]
    models = [{"name": log.model, "kind": "log", "digest": r.model} for log, r in zip(logs, results, strict=True)]
    after = len(targets)
    task = re.sub(r"[^a-z0-9._-]+", "-", logs[0].task.lower()).strip("-._") or "log"
    spec = Task.model_validate({"name": task, "kind": "generate", "items": "log"})
    facts = {
        "created": now(),
        "by": by,
        "code": seal.code_digests(),
        "models": models[:after],
        "against": models[after] if against else None,
    }
    block = Block(task, GAIN, spec.model_dump(mode="json", exclude={"items"}), results[after:], results[:after])
    return write_evaluation([block], facts, {}, None, out)


def make_log_result(log: InspectLog) -> TaskResult:
    """A log's columns under a digest of their own: it does not say which weights answered."""
    digest = sha256_text(canonical_json([log.model, log.task, log.scorer, log.columns.as_json()]))
    return TaskResult(f"log:{digest[:32]}", log.columns, None, Fed(False), {})


def spec_as_dict(asked: Asked) -> dict[str, Any]:
    """With all fields, also those that an older commitment does not name."""
    return (
        asked.task.spec() if asked.task else spec_of(seal.load(asked.seal)).model_dump(mode="json", exclude={"items"})
    )


def _probes(subjects: Sequence[Subject]) -> tuple[dict[str, Any], float | None]:
    """What runs measured of their own probes, and their retention budget. With several seeds the worst of each."""
    found: dict[str, Any] = {}
    retain: float | None = None
    paths = {s.name: path for s in subjects if (path := _scorecard_of(s)) is not None and path.exists()}
    if missing := [s.name for s in subjects if s.name not in paths and (paths or s.plan is not None)]:
        raise BessemerError(
            f"{missing[0]} has no scorecard: what it forgot is not known",
            where=", ".join(s.name for s in subjects),
            fix="finish its run, or leave it out",
        )
    for path in paths.values():
        card = read_json(path)
        retain = card["retain"] if retain is None else max(retain, card["retain"])
        for name, probe in card["probes"].items():
            if name not in found or probe["change"]["high"] > found[name]["change"]["high"]:
                found[name] = probe
    return found, retain


def _scorecard_of(subject: Subject) -> Path | None:
    if subject.kind == "release":
        return subject.path / "scorecard.json"
    return runs_folder() / subject.name / "scorecard.json" if subject.kind == "run" else None


def seal_facts(asked: Asked) -> dict[str, Any]:
    """What a reader must know of a seal; empty for an open task."""
    if not asked.seal:
        return {}
    found = seal.load(asked.seal)
    return {
        "name": found.name,
        "created": found.commitment["created"],
        "commitment": found.digest,
        "root": found.commitment["root"],
        "head": found.head,
        "counts": found.commitment["counts"],
        "submissions": [s.as_json() for s in submissions_of(found.entries)],
    }


def _ordered(facts: dict[str, Any], subjects: Sequence[Subject]) -> dict[str, Any]:
    """With why the sealing did not come before the training; empty when it did."""
    faults = [order_fault(facts, s.facts()) for s in subjects] if facts else []
    return facts | {"out_of_order": "; ".join(dict.fromkeys(filter(None, faults)))} if facts else {}


# -- asking -------------------------------------------------------------------------------------------------


def ask(subject: Subject, asked: Sequence[Asked], screen: Screen, *, by: str) -> dict[str, TaskResult]:
    """{task: result}. Only sealed tasks that were scored already need no model."""
    model = _Model(subject)
    with screen.step(f"ask {subject.name}") as advance:

        def progress(share: float) -> None:
            advance(share / len(asked), "")

        found: dict[str, TaskResult] = {}
        for one in asked:
            if one.task is not None:
                columns = answer_task(model.loaded, one.task, progress=progress, kept=model.kept)
                found[one.name] = make_result(subject.digest, one.task, columns, model.documents())
            else:
                found[one.name] = score_sealed(
                    one.seal,
                    subject.digest,
                    by,
                    lambda t, salt: answer_task(model.loaded, t, progress=progress, kept=model.kept, salt=salt),
                    model.documents,
                )
    model.forget()
    return found


class _Model:
    """A subject whose weights are loaded when they are first needed, and what it was fed."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._loaded: Loaded | None = None
        self._kept: Kept | None = None

    @property
    def loaded(self) -> Loaded:
        if self._loaded is None:
            from bessemer.infer.model import load

            loaded = load(self.subject.path, digest=self.subject.digest, end_of_text=self.subject.end_of_text)
            if resolve(str(self.subject.path)).digest != self.subject.digest:  # others may have been asked for hours
                raise BessemerError(
                    "its bytes changed since they were looked at",
                    where=str(self.subject.path),
                    fix="let nobody write there, and run the same command again",
                )
            self._loaded = loaded
        return self._loaded

    @property
    def kept(self) -> Kept:
        if self._kept is None:
            self._kept = Kept.of(self.loaded)
        return self._kept

    def documents(self) -> Iterator[Document] | None:
        """(id, text) of everything that it was fed; None when nobody knows."""
        if not self.subject.lineage:
            return None
        found = trainings(self.subject.lineage)
        if any("token_sets" not in training.plan for training in found):
            return None
        decode = self.loaded.renderer.decode
        return ((f"{source}/{name}", decode(ids)) for source, name, ids in consumed(found))

    def forget(self) -> None:
        self._loaded = self._kept = None
        gc.collect()


def score_sealed(
    name: str,
    digest: str,
    by: str,
    answer: Callable[[LoadedTask, str], Columns],
    documents: Callable[[], Iterator[Document] | None],
) -> TaskResult:
    """The result of the sealed part for a model: kept from when it was scored, or scored now, once.

    answer: asks the model, given the task and the seal's salt. documents: what it was fed; None when nobody knows.
    """
    known = {s.model: s for s in submissions_of(seal.load(name).entries)}
    if (old := known.get(digest)) and old.scored:
        return _kept_result(name, digest, old.result)
    with begin_opening(name, model_digest=digest, by=by) as opening:
        task = _sealed_task(opening)
        columns = answer(task, opening.salt)
        made = make_result(digest, task, columns, documents(), controls=opening.controls(), canaries=opening.canaries())
        hidden = hide_items(made, {item.row["id"]: item.leaf for item in opening.items()}, opening.salt)
        result = keep_result(hidden)
        metric = primary_metric(task.spec())
        score = {metric.name: round(metric.value(hidden.columns), 6), "n_items": len(hidden.columns)}
        finish_opening(opening, result_digest=result, score=score)
    return hidden


def _sealed_task(opening: Opening) -> LoadedTask:
    rows = [(f"sealed item {n}", row) for n, row in enumerate(opening.rows(), 1)]
    return with_rows(spec_of(opening.seal), rows, where=f"seal {opening.seal.name}", scorer=opening.seal.scorer)


def _kept_result(name: str, model: str, digest: str) -> TaskResult:
    path = path_of(digest)
    if not path.exists():
        raise BessemerError(
            f"model {model[:12]} was scored on this seal, but its result is not here",
            where=str(path),
            fix=f"copy it from an evaluation that has it (results/{digest}.json); a model is scored once",
        )
    return read_result(path, digest)
