"""bessemer runs | runs show | stop | resume | logs"""

from __future__ import annotations

from typing import Annotated

import typer

from bessemer.cli.options import Json, print_json, print_table, read_each, rows_of
from bessemer.cli.run import Cpus, Gpus, OnHere, Time, Track, Wait, Workers, launch

Name = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]

app = typer.Typer(invoke_without_command=True, pretty_exceptions_enable=False)


@app.callback()
def runs(context: typer.Context, json: Json = False) -> None:
    """List the runs: planned, queued, running, stopped, failed, interrupted (killed), finished."""
    if context.invoked_subcommand:
        if json:
            from bessemer.errors import BessemerError

            raise BessemerError(
                f"it stands behind the command: bessemer runs {context.invoked_subcommand} ... --json", where="--json"
            )
        return
    from bessemer.launch.control import glance
    from bessemer.track.runs import run_names

    found = read_each(run_names(), glance)
    if json:
        print_json(found)
        return
    columns = ["name", "state", "last", "verdict", "release", "job"]
    title = "Runs" if found else "No runs yet: bessemer run RECIPE"
    print_table(title, columns, rows_of(found, lambda run: [run[c] for c in columns]))


@app.command()
def show(name: Name, json: Json = False) -> None:
    """How far a run is, where it is going on, and why it ended."""
    from bessemer.launch.control import look

    run = look(name)
    if json:
        print_json(run)
        return
    print(f"{name}: {run['state']}", *filter(None, [run["holder"], run["job"] and f"job {run['job']}"]), sep=", ")
    for stage in run["stages"]:
        loss = "" if stage["loss"] is None else f", loss {stage['loss']:.3f}"
        print(f"  {stage['name']}  step {stage['step']} of {stage['steps']}{loss}{', done' if stage['done'] else ''}")
    if why := run["why"]:
        print(f"  {why['what']}", *(f"  fix: {why['fix']}" for _ in [0] if why.get("fix")), sep="\n")
    if run["verdict"]:
        print(f"  verdict {run['verdict']}  {run['release']}")
    print(f"  {run['folder']}")


@app.command()
def stop(name: Name, json: Json = False) -> None:
    """Ask a run to write a checkpoint and stop, on whatever machine it is; wait until it has."""
    from bessemer.launch import control

    run = control.stop(name)
    if json:
        print_json(run)
        return
    print(f"{name}: {run['state']}" + (f", {run['why']['what']}" if run["why"] else ""))


@app.command()
def resume(
    name: Name,
    on: OnHere = "local",
    workers: Workers = None,
    cpus: Cpus = None,
    gpus: Gpus = False,
    time: Time = "",
    wait: Wait = False,
    track: Track = None,
    json: Json = False,
) -> int:
    """Continue a run from the recipe in its plan, here or at another place."""
    from bessemer.files import read_json
    from bessemer.launch.place import parse_place
    from bessemer.recipe.schema import Recipe
    from bessemer.track.runs import PLAN, run_folder

    place = parse_place(on, workers=workers, cpus=cpus, gpus=gpus, time=time)
    recipe = Recipe.model_validate(read_json(run_folder(name) / PLAN)["recipe"])
    return launch(recipe, place, restart=False, wait=wait, track=track or [], json=json)


@app.command()
def logs(name: Name, follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False) -> None:
    """What a run said, and what its workers wrote."""
    from bessemer.launch.control import logs as read_logs

    for line in read_logs(name, follow=follow):
        print(line, flush=True)


@app.command()
def export(
    name: Name,
    track: Annotated[str, typer.Option("--track", metavar="TRACKER", help="tensorboard, trackio, wandb, mlflow.")],
    json: Json = False,
) -> None:
    """Send all metrics of a run to a tracker."""
    import os

    from bessemer.track.runs import run_folder
    from bessemer.track.trackers import QUIET, send

    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    n = send(run_folder(name), track, again=True)
    if json:
        print_json({"name": name, "tracker": track, "events": n})
        return
    print(f"{n} events of {name} sent to {track}")
