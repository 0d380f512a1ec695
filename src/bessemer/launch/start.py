"""Start a run at a place: here, with workers, or as a job of a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bessemer.errors import BessemerError, StoppedByUserError
from bessemer.launch import control, slurm
from bessemer.launch.group import Group, make_command
from bessemer.launch.manifest import write_manifest
from bessemer.launch.place import Place
from bessemer.recipe.schema import Recipe
from bessemer.run import Result, load_result, run_recipe
from bessemer.track.screen import Screen
from bessemer.track.trackers import check_trackers
from bessemer.train.optimizers import need_whole_matrices


def start(
    recipe: Recipe,
    place: Place,
    screen: Screen,
    stop_asked: Callable[[], bool],
    *,
    restart: bool = False,
    wait: bool = False,
    manifest: Path | None = None,
    track: Sequence[str] = (),
) -> Result | None:
    """Do whatever of the recipe's run is not done yet. wait: for a job of Slurm. manifest: where to write it.

    track: trackers that follow the run; a job of Slurm or of a manifest finds them in its environment.

    Returns None when the run was handed to a queue or only a manifest was written.

    Raises what `run_recipe` raises.
    """
    if (manifest is None) == (place.kind in {"k8s", "sky"}):
        fix = "--on k8s:QUEUE|sky --manifest FILE writes what you apply yourself"
        raise BessemerError("a manifest goes with k8s and sky, and with them alone", where="--manifest", fix=fix)
    if wait and place.kind != "slurm":
        raise BessemerError("only a job of Slurm is waited for", where="--wait", fix="leave it out")
    for stage in recipe.stages:  # before anything is fetched and measured
        need_whole_matrices(stage, alone=place.workers == 1)
    check_trackers(track)
    if place.kind in {"slurm", "k8s", "sky"}:  # the job finds them there, and so does a manifest
        os.environ["BESSEMER_TRACK"] = " ".join(track)
    if place.kind == "slurm":
        job = slurm.submit(recipe, place, screen, restart=restart)
        screen.say(f"job {job} submitted: bessemer runs logs {recipe.name} -f; bessemer runs stop {recipe.name}")
        return _follow(recipe.name, screen) if wait else None
    if manifest is not None:
        write_manifest(recipe, place, screen, manifest, restart=restart)
        screen.say(f"written to {manifest}; it continues the run {recipe.name} of a shared BESSEMER_HOME")
        return None
    train = None
    if place.own:
        # Workers of this machine share its cores; Ray gives each of its workers what it asked for.
        threads = max(1, len(os.sched_getaffinity(0)) // place.workers) if place.kind == "local" else None
        train = Group(
            recipe.name,
            lambda number: make_command(place, recipe.name, number),
            screen,
            stop_asked,
            threads=threads if place.workers > 1 else None,
            queues=place.kind == "ray",
        ).train
    workers = 0 if place.kind == "ray" else place.workers
    return run_recipe(recipe, screen, stop_asked, restart=restart, elsewhere=train, workers=workers, track=track)


def _follow(name: str, screen: Screen) -> Result:
    for line in control.logs(name, follow=True):
        screen.say(line)
    run = control.look(name)
    if run["state"] == "finished":
        return load_result(name)
    why = run["why"]
    kind = StoppedByUserError if run["state"] == "stopped" else BessemerError
    what = why.get("what", f"the job ended without a result: {run['state']}")
    raise kind(what, where=run["folder"], fix=why.get("fix", ""))
