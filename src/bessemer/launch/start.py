"""Start a run at a place: here, with workers, or as a job of a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable

from bessemer.launch.group import Group, make_command
from bessemer.launch.place import Place
from bessemer.recipe.schema import Recipe
from bessemer.run import Result, run_recipe
from bessemer.track.screen import Screen


def start(
    recipe: Recipe,
    place: Place,
    screen: Screen,
    stop_asked: Callable[[], bool],
    *,
    restart: bool = False,
) -> Result | None:
    """Do whatever of the recipe's run is not done yet. Raises what `run_recipe` raises."""
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
        ).train
    return run_recipe(recipe, screen, stop_asked, restart=restart, elsewhere=train)
