"""bessemer eval | verdict | verify"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from bessemer.cli.options import Json, print_json, print_table
from bessemer.cli.releases import verify_release
from bessemer.errors import BessemerError

if TYPE_CHECKING:
    from bessemer.evaluate.metrics import Columns
    from bessemer.evaluate.power import Noise
    from bessemer.evaluate.tasks import LoadedTask

Models = Annotated[
    list[str],
    typer.Argument(metavar="MODEL...", help="A run, release or checkpoint; seeds of one recipe; inspect:LOG[#SCORER]."),
]
Gains = Annotated[
    list[str] | None,
    typer.Option(help="Where a gain is wanted: a task file, seal:NAME[/public], lm-eval:FILE; repeatable."),
]
By = Annotated[str, typer.Option(help="Who does this, for the ledger. Default: user@host.", show_default=False)]
Evaluation = Annotated[str, typer.Argument(metavar="EVALUATION", help="Its folder, its scorecard.json, or its name.")]
MEASURE = "measure"


class _Group(TyperGroup):
    """`bessemer eval MODEL ...` measures; other first words are subcommands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in {"--help", "-h"}:
            args = [MEASURE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_Group, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command(MEASURE)
def measure(
    models: Models,
    tasks: Gains = None,
    keep: Annotated[list[str] | None, typer.Option(help="Where nothing may be lost: the same; repeatable.")] = None,
    against: Annotated[str, typer.Option(help="Default: what the run started from.", show_default=False)] = "",
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where to write the evaluation.")] = None,
    by: By = "",
    json: Json = False,
) -> None:
    """Measure a model on tasks, before against after, with intervals. The sealed part of a seal is opened once.

    `bessemer eval MODEL --tasks T` is short for `bessemer eval measure MODEL --tasks T`.
    """
    from bessemer.evaluate.openings import who
    from bessemer.examine import examine
    from bessemer.files import read_json
    from bessemer.launch.here import quiet_libraries
    from bessemer.registry.evaluation import CARD, PAGE
    from bessemer.track.screen import Screen

    quiet_libraries()
    asked, kept = _split(tasks), _split(keep)
    folder = examine(models, asked, kept, Screen(), against=against, by=by or who(), out=out)
    card = read_json(folder / CARD)
    if json:
        print_json({"folder": str(folder), "scorecard": card})
        return
    show_card(card)
    print(f"\nscorecard {folder / CARD}\npage      {folder / PAGE}\ncheck it  bessemer verify {folder}")


def _split(values: list[str] | None) -> list[str]:
    """Options that are given several times, or once with commas."""
    return [part for value in values or [] for part in value.split(",") if part]


@app.command()
def power(
    task: Annotated[str, typer.Argument(metavar="TASK", help="A task file, or seal:NAME for its sealed part.")],
    effect: Annotated[float | None, typer.Option(help="A change worth having; default: the task's.")] = None,
    before: Annotated[str, typer.Option(metavar="EVALUATION", help="Measured results to learn the spread from.")] = "",
    json: Json = False,
) -> None:
    """Before a run: the smallest change that this task can show, and how many items a wanted change needs."""
    from bessemer.evaluate import power as compute
    from bessemer.evaluate.card import primary_metric

    name, spec, n_items, noise = _noise(task, before)
    wanted = effect if effect is not None else float(spec["smallest_effect"])
    facts = {
        "task": name,
        "metric": primary_metric(spec).name,
        "n_items": n_items,
        "alpha": spec["alpha"],
        "power": compute.POWER,
        "smallest_effect": compute.smallest_effect(noise, n_items, alpha=spec["alpha"]),
        "wanted": wanted,
        "items_needed": compute.items_needed(noise, wanted, alpha=spec["alpha"]),
        "design_effect": noise.design_effect,
        "basis": noise.basis,
    }
    if json:
        print_json(facts)
        return
    print(f"{name}: {facts['metric']} on {n_items} items")
    print(f"  smallest change that {n_items} items show     {facts['smallest_effect']:.4f}")
    print(f"  items that a change of {wanted:g} needs       {facts['items_needed']:,}")
    print(f"  alpha {spec['alpha']:g}, power {compute.POWER:g}; assumed: {noise.basis}")


def _noise(argument: str, before: str) -> tuple[str, dict[str, Any], int, Noise]:
    """(name, spec, items, spread) of a task: measured where an evaluation has it, else assumed."""
    from bessemer.evaluate import power as compute
    from bessemer.evaluate.card import primary_metric
    from bessemer.evaluate.seal import load
    from bessemer.examine import SEAL, find_task, spec_of

    asked = find_task(argument, "gain")
    if asked.task is None:
        found = load(argument.removeprefix(SEAL))
        spec, counts = spec_of(found).model_dump(mode="json"), found.commitment["counts"]
        n_items, like = (
            counts["sealed"] - counts["control"] - counts["canary"],
            find_task(f"{argument}/public", "gain").task,
        )
    else:
        spec, n_items, like = asked.task.task.model_dump(mode="json"), len(asked.task.items), asked.task
    assert like is not None
    positive, groups = _positive_share(like), _design_effect(like)  # the public part of a seal is drawn like the sealed
    metric = primary_metric(spec)
    if before:
        sides = _columns_of(before, asked.name)
        noise = compute.noise_of_columns(metric, *sides, relative=metric.name == "bits_per_byte")
    else:
        noise = compute.assumed_noise(metric, positive_share=positive, design_effect=groups)
    return asked.name, spec, n_items, noise


def _columns_of(evaluation: str, task: str) -> list[Columns]:
    """One or two models' answers to a task."""
    from bessemer.evaluate.result import read_result
    from bessemer.files import read_json
    from bessemer.registry.evaluation import CARD, find_evaluation
    from bessemer.registry.papers import RESULTS

    folder = find_evaluation(evaluation)
    tasks = read_json(folder / CARD)["tasks"]
    if task not in tasks:
        raise BessemerError(f"it has no task {task!r}", where=str(folder), fix=f"there: {', '.join(tasks)}")
    digests = [d for side in ("before", "after") for d in tasks[task]["results"][side][:1]]
    return [read_result(folder / RESULTS / f"{d}.json", d).columns for d in digests]


def _positive_share(task: LoadedTask) -> float:
    answers = [item.answer for item in task.items]
    return sum(a == task.task.answers[0] for a in answers) / len(answers) if task.task.answers else 0.5


def _design_effect(task: LoadedTask) -> float:
    """If nothing is measured: items of one group as if they were one item."""
    groups = {item.group or item.id for item in task.items}
    return len(task.items) / len(groups)


def verdict(evaluation: Evaluation, json: Json = False) -> int:
    """SHIP, HOLD or REJECT, as exit code 0, 2 or 3, with the reasons. The evaluation is checked first."""
    from bessemer.evaluate.verdict import Verdict
    from bessemer.registry.evaluation import find_evaluation, verify_evaluation

    card = verify_evaluation(find_evaluation(evaluation))
    found = Verdict(**card["verdict"])
    if json:
        print_json({"verdict": found.word, "reasons": found.reasons, "exit_code": found.exit_code})
    else:
        _print_verdict(card)
    return found.exit_code


def verify(
    thing: Annotated[str, typer.Argument(help="A release (name@1), or an evaluation or contest (folder or name).")],
    key: Annotated[
        Path | None,
        typer.Option(metavar="PUBLIC_KEY", help="who must have signed the release; default: BESSEMER_TRUSTED_KEY"),
    ] = None,
    head: Annotated[str, typer.Option(help="sha256 that manifest.json must have, kept from before.")] = "",
    json: Json = False,
) -> None:
    """Check a release (every byte, its signature), or an evaluation or a contest offline (every byte, every number,
    every result against its ledger)."""
    from bessemer.files import sha256_file
    from bessemer.registry import contest
    from bessemer.registry.evaluation import find_evaluation, verify_evaluation
    from bessemer.registry.papers import MANIFEST

    if "@" in thing and not Path(thing).exists():
        if head:
            raise BessemerError("a release has no such head", where="--head", fix="pin its digest instead")
        verify_release(thing, key, json)
        return
    if key:
        raise BessemerError("only releases are signed", where="--key", fix="a release is name@version")
    contests = [p for p in (Path(thing), contest.contests_folder() / thing) if contest.is_contest(p)]
    folder = contest.find_contest(str(contests[0])) if contests else find_evaluation(thing)
    card = contest.verify_contest(folder, head=head) if contests else verify_evaluation(folder, head=head)
    manifest = sha256_file(folder / MANIFEST)
    if json:
        print_json({"ok": True, "folder": str(folder), "manifest": manifest, "verdict": card.get("verdict")})
        return
    sealed = [name for name, t in card["tasks"].items() if t["seal"]]
    print(f"{folder}: sound")
    print(f"  {len(card['tasks'])} tasks computed again from their results, {len(sealed)} of them backed by a ledger")
    print(f"  manifest {manifest}  (keep it: a folder that was written anew has another)")
    if not contests:
        _print_verdict(card)


def show_card(card: dict[str, Any]) -> None:
    """The tasks as a table, and the verdict."""
    rows: list[list[str]] = []
    for name, task in card["tasks"].items():
        metric = task["primary"]
        sides = task["metrics"][metric]
        cells = [_interval(sides[s]["result"]) if s in sides else "–" for s in ("before", "after")]
        change = task.get("change")
        answer = change["answer"] if change else "–"
        overlap = task["overlap"]
        fed = f"{overlap['n_contaminated']}" if overlap["known"] else "not known"
        rows.append([name, task["role"], metric, *cells, answer, str(task["n_items"]), fed])
    print_table("", ["task", "role", "metric", "before", "after", "answer", "items", "of them fed"], rows, right=[6])
    _print_verdict(card)


def _interval(found: dict[str, float]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _print_verdict(card: dict[str, Any]) -> None:
    print(f"\nverdict {card['verdict']['word']}")
    for reason in card["verdict"]["reasons"]:
        print(f"  {reason}")
