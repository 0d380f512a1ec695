"""bessemer families list | show | grow"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bessemer.cli.options import Json, Set, print_json, print_table
from bessemer.units import show_count

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.command("list")
def list_(json: Json = False) -> None:
    """Checkpoints that are known by name."""
    from bessemer.families.catalogue import entries

    found = entries()
    if json:
        print_json({name: vars(e) for name, e in found.items()})
        return
    rows = [[e.name, show_count(e.parameters), e.licence, e.note] for e in found.values()]
    print_table("Checkpoints known by name", ["start", "size", "licence", "note"], rows, right=[1])


@app.command()
def show(name: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="family@stage")], json: Json = False) -> None:
    """What is known of a checkpoint; what is not known says so."""
    from bessemer.families.catalogue import find

    facts = vars(find(name))
    if json:
        print_json(facts)
        return
    for key, value in facts.items():
        print(f"{key:16}{_shown(value)}")


def _shown(value: Any) -> str:
    return "not known" if value in {None, ""} else str(value)


@app.command()
def grow(
    name: Annotated[str, typer.Argument(metavar="NAME", help="nano-1m, nano-6m or nano-30m.")],
    recipe: Annotated[Path | None, typer.Option(help="Your own corpora: a recipe with stages pre, mid, post.")] = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Train a family from scratch, with a checkpoint after every stage. The same command goes on after a kill."""
    from bessemer.growing import describe
    from bessemer.growing import grow as do_grow
    from bessemer.launch.here import quiet_libraries
    from bessemer.track.screen import Screen

    quiet_libraries()
    made = do_grow(name, Screen(), recipe=recipe, sets=set_ or [])
    if json:
        print_json([{"name": c.name, "digest": c.digest, "path": str(c.path)} for c in made])
        return
    print("\n".join(describe(made)))
    print(f"start from one of them: `start: {made[0].name}` in a recipe")
