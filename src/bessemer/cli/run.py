"""bessemer run RECIPE"""

from __future__ import annotations

from typing import Annotated

import typer

from bessemer.cli.options import Json, RecipePath, Set, print_json


def run(
    recipe: RecipePath,
    set_: Set = None,
    restart: Annotated[bool, typer.Option(help="Forget what this run did so far and begin again.")] = False,
    json: Json = False,
) -> int:
    """Train, measure and release. The same command continues after a stop, a crash or a kill."""
    from bessemer.launch.here import quiet_libraries, stop_requests
    from bessemer.recipe.load import load_recipe
    from bessemer.track.screen import Screen

    quiet_libraries()
    loaded = load_recipe(recipe, set_ or [])
    screen = Screen()
    from bessemer.evaluate.verdict import Verdict
    from bessemer.registry.summary import closing_lines
    from bessemer.run import run_recipe

    with stop_requests(screen.say) as stop_asked:
        result = run_recipe(loaded, screen, stop_asked, restart=restart)
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
