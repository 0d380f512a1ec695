"""Contests: everyone trains on the same data within the same budget, and is measured on the same sealed tasks.

    name: rules
    tasks: [seal:rules]                  # the first one decides
    keep: [general.yaml]                 # where nothing may be lost
    data: {own: own.jsonl, old: "hf:owner/name"}   # all that may be trained on
    budget: {tokens: 2M, flops: 5.0e+15} # for all that a contestant trains, its trials included
    seeds: [1, 2, 3]
    contestants:
      replay: {recipe: replay.yaml}
      tuned:  {recipe: replay.yaml, trials: [["stages[0].lr=1e-4"], ["stages[0].lr=3e-4"]]}
      gpt:    {endpoint: {url: ..., model: ...}, send_sealed: true}

Trials are runs too: they are trained with the first seed and scored on the public part, the best one goes on, and all
of them count. An endpoint is in a division of its own ("open data"): nobody knows what it was fed, and asking it sends
the items away. Everything that was done is kept, so that a killed contest goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from bessemer.errors import BessemerError
from bessemer.evaluate import seal
from bessemer.evaluate.answer import Kept
from bessemer.evaluate.card import GAIN, KEEP
from bessemer.evaluate.client import ChatClient
from bessemer.evaluate.endpoint import Endpoint, answer_task, need_askable
from bessemer.evaluate.openings import need_openings, submissions
from bessemer.evaluate.result import TaskResult, make_result
from bessemer.examine import (
    SEAL,
    Asked,
    ask,
    base_of,
    find_subject,
    find_task,
    score_sealed,
    seal_facts,
    spec_as_dict,
    spec_of,
)
from bessemer.files import read_json, sha256_text
from bessemer.launch.place import Place
from bessemer.launch.start import start
from bessemer.plan.estimate import training_flops
from bessemer.recipe.load import load, load_recipe
from bessemer.recipe.schema import MAX_NAME, Count, Name, Recipe, Strict
from bessemer.registry.contest import Contested, Entrant, write_contest
from bessemer.run import plan_run
from bessemer.track.runs import PLAN, runs_folder
from bessemer.track.screen import Screen
from bessemer.units import now, show_count

OPEN_DATA = "open data"
SAME_DATA = "same data"
StopAsked = Callable[[], bool]


class Budget(Strict):
    """For everything that one contestant trains."""

    tokens: Count = Field(description="Tokens in all of its runs")
    flops: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Floating point operations of their matrix products, teachers included"
    )


class Contestant(Strict):
    """A recipe (with trials), or an endpoint."""

    recipe: str | None = Field(default=None, description="A recipe file, beside the contest's")
    set: list[str] = Field(default_factory=list[str], description="Fields that are changed, like --set")
    trials: list[list[str]] = Field(
        default_factory=list[list[str]],
        description="Variants that are tried with the first seed; the best on the public part goes on",
    )
    endpoint: Endpoint | None = None
    send_sealed: bool = Field(default=False, description="Yes, the sealed items may be sent to the endpoint")

    @model_validator(mode="after")
    def _one_of(self) -> Contestant:
        if (self.recipe is None) == (self.endpoint is None):
            raise ValueError(".recipe: give either a recipe or an endpoint")
        if self.endpoint is not None and (self.set or self.trials):
            raise ValueError(".trials: an endpoint trains nothing")
        if self.endpoint is not None and not self.send_sealed:
            raise ValueError(".send_sealed: an endpoint is sent the sealed items; say `send_sealed: true` to allow it")
        if len(self.trials) == 1:
            raise ValueError(".trials: one trial is none; put it into `set`")
        return self


class Contest(Strict):
    """Who competes, on what, with how much."""

    name: Name = Field(description="Name of the contest")
    tasks: list[str] = Field(min_length=1, description="Sealed tasks (seal:NAME); the first one decides")
    keep: list[str] = Field(default_factory=list[str], description="Open tasks where nothing may be lost")
    data: dict[Name, str] = Field(min_length=1, description="Addresses of all that may be trained on")
    starts: list[str] = Field(
        default_factory=list[str], description="What may be started from, where not all start from the same"
    )
    budget: Budget
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(
        default_factory=lambda: [1], min_length=1, description="Every contestant trains once with each"
    )
    contestants: dict[Name, Contestant] = Field(min_length=2)

    @model_validator(mode="after")
    def _cross_check(self) -> Contest:
        found: list[str] = []
        for n, task in enumerate(self.tasks):
            if not task.startswith(SEAL) or "/" in task:
                found.append(f"tasks[{n}]: {task!r} is not sealed; make it `seal:NAME` (bessemer seal create)")
        if len(set(self.seeds)) < len(self.seeds):
            found.append("seeds: one stands twice")
        if found:
            raise ValueError("\n".join(found))
        return self


@dataclass
class Entered:
    """A contestant with its runs. trials: the recipes that are tried; chosen: which of them went on."""

    name: str
    entry: Contestant
    trials: list[Recipe] = field(default_factory=list[Recipe])
    scores: list[float] = field(default_factory=list[float])
    chosen: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    def final(self, contest: Contest, trial: int | None = None) -> list[Recipe]:
        """The chosen recipe (or another trial) with as many seeds as the contest has; the first one is there already,
        with a seed of its own where seeds are what is tried."""
        best = self.trials[self.chosen if trial is None else trial]
        seeds = [seed for seed in contest.seeds if seed != best.seed][: len(contest.seeds) - 1]
        return [best, *(named(best, f"{best.name}-s{seed}", seed) for seed in seeds)]


def named(recipe: Recipe, name: str, seed: int) -> Recipe:
    """Raises BessemerError when the run's name would be longer than a name may be."""
    if len(name) > MAX_NAME:
        raise BessemerError(
            f"a run of it would be called {name}, {len(name)} characters; at most {MAX_NAME} are a name",
            where="name",
            fix="shorten the contest's or the contestant's name",
        )
    return recipe.model_copy(update={"name": name, "seed": seed})


def run_contest(path: Path, place: Place, screen: Screen, stop_asked: StopAsked, *, by: str) -> Path:
    """Train, choose, measure and rank; returns the contest's folder. Raises BessemerError before anything is spent when
    a recipe trains on undeclared data or would spend more than the budget."""
    contest = load(Contest, path)
    for task in contest.tasks:
        seal.load(task.removeprefix(SEAL))
    entered = [_enter(contest, name, entry, path.parent) for name, entry in contest.contestants.items()]
    bases = _refuse_unfair(contest, entered, screen)
    asked = [find_task(t, GAIN) for t in contest.tasks] + [find_task(k, KEEP) for k in contest.keep]
    _need_openings(contest, entered, bases)
    if any(one.entry.endpoint for one in entered):
        for task in asked:
            need_askable(task.task.task if task.task else spec_of(seal.load(task.seal)))
    wait = place.kind == "slurm"  # what was trained is measured here
    for one in (e for e in entered if e.trials):
        for recipe in one.trials:
            start(recipe, place, screen, stop_asked, wait=wait)
        _choose(contest, one, screen)
        for recipe in one.final(contest)[1:]:
            start(recipe, place, screen, stop_asked, wait=wait)
    entrants = [_measure(contest, one, asked, screen, by) for one in entered]
    tasks = [Contested(a.name, a.role, spec_as_dict(a), seal_facts(a)) for a in asked]
    return write_contest(contest.model_dump(mode="json"), tasks, entrants, created=now(), by=by)


def _enter(contest: Contest, name: str, entry: Contestant, folder: Path) -> Entered:
    if entry.recipe is None:
        return Entered(name, entry)
    stem, seed = f"{contest.name}-{name}", contest.seeds[0]
    trials: list[Recipe] = []
    for n, changes in enumerate(entry.trials or [[]]):
        loaded = load_recipe(str(folder / entry.recipe), [*entry.set, *changes])
        own = any(change.partition("=")[0].strip() == "seed" for change in changes)  # trials may be seeds
        name_of_run = f"{stem}-t{n + 1}" if entry.trials else stem
        trials.append(named(loaded, name_of_run, loaded.seed if own else seed))
    return Entered(name, entry, trials)


def _refuse_unfair(contest: Contest, entered: Sequence[Entered], screen: Screen) -> dict[str, str]:
    """All that is wrong with all contestants at once, before anything is trained. Returns {digest: start}."""
    found: list[str] = []
    digests: dict[str, tuple[str, str]] = {}  # address -> (what it held, for whom)
    bases: dict[str, tuple[str, str]] = {}  # digest -> (start, whose): a start may bring data and tokens of its own
    for one in entered:
        n_seeds = len(contest.seeds)
        costs: list[tuple[int, float]] = []
        for recipe in one.trials:
            found += [f"{one.name}: {fault}" for fault in _undeclared(contest, recipe)]
            plan = _plan_of(recipe, screen)
            costs.append((sum(s["tokens"] for s in plan["stages"]), training_flops(plan)))
            found += list(_changed(one.name, plan, digests))
            bases.setdefault(plan["base"]["digest"], (recipe.start, one.name))
        if not costs:
            continue
        # Whichever trial goes on is trained once more for every further seed: the dearest one is what must fit.
        one.tokens = sum(t for t, _ in costs) + (n_seeds - 1) * max(t for t, _ in costs)
        one.flops = sum(f for _, f in costs) + (n_seeds - 1) * max(f for _, f in costs)
        budget = contest.budget
        if one.tokens > budget.tokens:
            found.append(
                f"{one.name}: {len(one.trials)} trials and {n_seeds} seeds train on {show_count(one.tokens)} tokens, "
                f"the budget is {show_count(budget.tokens)}"
            )
        if budget.flops is not None and one.flops > budget.flops:
            found.append(f"{one.name}: {one.flops:.3g} operations, the budget is {budget.flops:.3g}")
    if contest.starts or len(bases) > 1:
        found += [
            f"{whose}: starts from {start}; {len(bases)} different starts, and it is not among the contest's `starts`"
            for start, whose in bases.values()
            if start not in contest.starts
        ]
    if found:
        raise BessemerError(
            f"{len(found)} contestants or runs are not fair\n  " + "\n  ".join(found),
            where=contest.name,
            fix="the same data and the same budget for everyone: change the recipes, or the contest for all",
        )
    return {digest: start for digest, (start, _) in bases.items()}


def _need_openings(contest: Contest, entered: Sequence[Entered], bases: Mapping[str, str]) -> None:
    """Raises BessemerError, before anything is trained, where a seal cannot be opened for all that will be scored."""
    models = dict(bases) | {_digest_of(one.entry.endpoint): one.name for one in entered if one.entry.endpoint}
    trained: list[set[str]] = []  # of each contestant, what is there already
    for one in (e for e in entered if e.trials):
        names = [recipe.name for trial in range(len(one.trials)) for recipe in one.final(contest, trial)]
        trained.append({find_subject(n).digest for n in names if (runs_folder() / n / "model").exists()})
    for name in (task.removeprefix(SEAL) for task in contest.tasks):
        scored = {s.model for s in submissions(name)}
        need_openings(name, models, sum(max(0, len(contest.seeds) - len(own & scored)) for own in trained))


def _plan_of(recipe: Recipe, screen: Screen) -> dict[str, Any]:
    return plan_run(recipe, screen, measured=False).plan


def _undeclared(contest: Contest, recipe: Recipe) -> Iterator[str]:
    known = set(contest.data.values())
    for name, source in recipe.sources.items():
        if source.from_ not in known:
            yield f"source {name} reads {source.from_}, which is not among the contest's data"


def _changed(who: str, plan: dict[str, Any], digests: dict[str, tuple[str, str]]) -> Iterator[str]:
    """The same address must hold the same for everyone."""
    for name, source in plan["sources"].items():
        address = plan["recipe"]["sources"][name]["from"]
        kind = plan["recipe"]["sources"][name]["kind"]
        first, whose = digests.setdefault(f"{address} as {kind}", (source["digest"], who))
        if first != source["digest"]:
            yield f"{who}: {address} holds something else than for {whose} ({source['digest'][:12]}, {first[:12]})"


# -- choosing and measuring ---------------------------------------------------------------------------------


def _choose(contest: Contest, one: Entered, screen: Screen) -> None:
    """The best trial on the public part of the first task; the sealed part is not looked at."""
    if len(one.trials) < 2:
        return
    from bessemer.evaluate.card import primary_metric

    public = find_task(f"{contest.tasks[0]}/public", GAIN)
    assert public.task is not None
    metric = primary_metric(public.task.task.model_dump(mode="json"))
    sign = 1 if metric.higher_is_better else -1
    for recipe in one.trials:
        result = ask(find_subject(recipe.name), [public], screen, by="")[public.name]
        one.scores.append(metric.value(result.columns))
    one.chosen = max(range(len(one.trials)), key=lambda n: sign * one.scores[n])
    screen.say(
        f"{one.name}: trial {one.chosen + 1} of {len(one.trials)} goes on ({metric.name} {one.scores[one.chosen]:.3f})"
    )


def _measure(contest: Contest, one: Entered, asked: Sequence[Asked], screen: Screen, by: str) -> Entrant:
    if one.entry.endpoint is not None:
        return _measure_endpoint(one, one.entry.endpoint, asked, screen, by)
    runs = one.final(contest)
    subjects = [find_subject(r.name) for r in runs]
    base = base_of(subjects[0])
    assert base is not None
    before = ask(base, asked, screen, by=by)
    after = [ask(s, asked, screen, by=by) for s in subjects]
    spent = {r.name: read_json(runs_folder() / r.name / PLAN) for r in [*one.trials, *runs[1:]]}
    return Entrant(
        name=one.name,
        division=SAME_DATA,
        models=[s.facts() for s in subjects],
        base=base.facts(),
        before={a.name: [before[a.name]] for a in asked},
        after={a.name: [r[a.name] for r in after] for a in asked},
        trials=[{"run": r.name, "public": s} for r, s in zip(one.trials, one.scores or [None], strict=False)],
        tokens=sum(s["tokens"] for plan in spent.values() for s in plan["stages"]),
        flops=sum(training_flops(plan) for plan in spent.values()),
        seconds=sum(sum(_seconds(name).values()) for name in spent),
    )


def _seconds(run: str) -> dict[str, float]:
    path = runs_folder() / run / "seconds.json"
    return {k: v for k, v in read_json(path).items() if k.startswith("train ")} if path.exists() else {}


def _digest_of(endpoint: Endpoint) -> str:
    """What stands for weights that nobody has."""
    return f"endpoint:{sha256_text(f'{endpoint.url} {endpoint.model}')[:32]}"


def _measure_endpoint(one: Entered, where: Endpoint, asked: Sequence[Asked], screen: Screen, by: str) -> Entrant:
    client = ChatClient(where.url, where.model, where.key_env, where.timeout_s, f"contestants.{one.name}.endpoint")
    digest = _digest_of(where)
    kept, after = Kept.named(digest.replace(":", "-")), dict[str, list[TaskResult]]()
    with screen.step(f"ask {one.name}") as advance:

        def progress(share: float) -> None:
            advance(share / len(asked), "")

        for task in asked:
            if task.task is None:
                after[task.name] = [
                    score_sealed(
                        task.seal,
                        digest,
                        by,
                        lambda t, salt: answer_task(client, t, progress, kept=kept, salt=salt),
                        lambda: None,
                    )
                ]
            elif task.task.task.kind in {"classify", "choice", "generate"}:
                columns = answer_task(client, task.task, progress, kept=kept)
                after[task.name] = [make_result(digest, task.task, columns, None)]
    model = {
        "name": where.model,
        "kind": "endpoint",
        "digest": digest,
        "identity": client.identity or "",
        "url": where.url,
    }
    return Entrant(one.name, OPEN_DATA, [model], None, {}, after, [], 0, 0.0, 0.0)
