"""bessemer run RECIPE"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bessemer.cli.options import Json, RecipePath, Set, print_json

if TYPE_CHECKING:
    from bessemer.launch.place import Place
    from bessemer.recipe.schema import Recipe

On = Annotated[
    str,
    typer.Option(
        "--on", metavar="PLACE", help="local[:WORKERS], slurm[:PARTITION], ray[://HEAD:PORT], k8s:QUEUE, sky."
    ),
]
OnHere = Annotated[
    str, typer.Option("--on", metavar="PLACE", help="local[:WORKERS], slurm[:PARTITION], ray[://HEAD:PORT].")
]
Workers = Annotated[int | None, typer.Option(help="Processes that train a stage together.")]
Cpus = Annotated[int | None, typer.Option(help="Cores for each worker, asked of the cluster; else 1.")]
Gpus = Annotated[bool, typer.Option("--gpus", help="Ask the cluster for one GPU for each worker.")]
Time = Annotated[str, typer.Option(metavar="HH:MM:SS", help="Slurm: limit of one job; it goes on in a next one.")]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track", envvar="BESSEMER_TRACK", metavar="TRACKER", help="tensorboard, trackio, wandb, mlflow; repeatable."
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Slurm: show the log until the run has ended.")]


def run(
    recipe: RecipePath,
    set_: Set = None,
    restart: Annotated[bool, typer.Option(help="Forget what this run did so far and begin again.")] = False,
    on: On = "local",
    workers: Workers = None,
    cpus: Cpus = None,
    gpus: Gpus = False,
    time: Time = "",
    wait: Wait = False,
    manifest: Annotated[Path | None, typer.Option(metavar="FILE", help="k8s and sky: only write it.")] = None,
    track: Track = None,
    json: Json = False,
) -> int:
    """Train, measure and release. The same command continues after a stop, a crash or a kill."""
    from bessemer.launch.place import parse_place
    from bessemer.recipe.load import load_recipe

    place = parse_place(on, workers=workers, cpus=cpus, gpus=gpus, time=time)
    loaded = load_recipe(recipe, set_ or [])
    return launch(loaded, place, restart=restart, wait=wait, manifest=manifest, track=track or [], json=json)


def launch(
    recipe: Recipe,
    place: Place,
    *,
    restart: bool,
    wait: bool,
    json: bool,
    track: Sequence[str],
    manifest: Path | None = None,
) -> int:
    """Run a recipe at a place, hand it to Slurm, or write a manifest; returns the exit code."""
    from bessemer.files import read_json
    from bessemer.launch.here import quiet_libraries, stop_requests
    from bessemer.launch.start import start
    from bessemer.track.runs import JOB, runs_folder
    from bessemer.track.screen import Screen

    quiet_libraries()
    screen = Screen()
    with stop_requests(screen.say) as stop_asked:
        result = start(recipe, place, screen, stop_asked, restart=restart, wait=wait, manifest=manifest, track=track)
    if result is None:  # it was handed on
        if json:
            job = runs_folder() / recipe.name / JOB
            number = read_json(job)["job"] if manifest is None and job.exists() else None
            written = str(manifest) if manifest else None
            print_json({"name": recipe.name, "release": None, "job": number, "manifest": written})
        return 0
    from bessemer.evaluate.verdict import Verdict
    from bessemer.registry.summary import closing_lines

    for line in closing_lines(result.scorecard, result.release, result.folder):
        screen.say(line)
    if json:
        reference = result.release.reference if result.release else None
        digest = result.release.digest if result.release else None
        print_json(
            {
                "name": result.name,
                "folder": str(result.folder),
                "release": reference,
                "digest": digest,
                "scorecard": result.scorecard,
            }
        )
    return Verdict(result.verdict, []).exit_code
