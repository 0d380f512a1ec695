"""bessemer families list | show | add | accept | export | import | grow"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bessemer.cli.options import Json, Set, print_json, print_table
from bessemer.errors import BessemerError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A family, a size or a checkpoint: olmo2, olmo2-1b@pre.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """Families, their sizes and stages: what `start:` can name."""
    from bessemer.families.catalogue import entries
    from bessemer.families.show import as_json, family_rows, local_rows

    if json:
        print_json({name: as_json(e) for name, e in entries().items()})
        return
    columns = ["family", "sizes", "stages", "licence", "its data"]
    print_table("Families: `start:` takes FAMILY-SIZE@STAGE[:STEP]", columns, family_rows())
    print()
    print_table("Of them without the hub", ["start", "parameters", "from", "note"], local_rows(), right=[1])


@app.command()
def show(name: Name, json: Json = False) -> None:
    """What is known, each fact with its source; what is not known says so."""
    from bessemer.families.show import as_json, facts_of, find_any

    found = find_any(name)
    if json:
        print_json(as_json(found))
        return
    print_table(name, ["fact", "value", "source"], facts_of(found))


@app.command()
def add(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A family file.")] = None,
    template: Annotated[bool, typer.Option("--template", help="Print a commented example.")] = False,
) -> None:
    """Check a family file and put it into this machine's catalogue."""
    from importlib.resources import files

    from bessemer.families.catalogue import add as do_add
    from bessemer.families.catalogue import private_folder

    if template:
        print(files("bessemer.families").joinpath("family_template.txt").read_text(), end="")
        return
    if file is None:
        raise BessemerError("no file was given", where="families add", fix="bessemer families add --template > my.yaml")
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BessemerError(f"cannot be read ({error})", where=str(file)) from None
    names = do_add(text, where=str(file))
    print(f"added to {private_folder()}: {', '.join(names)}")


@app.command()
def accept(
    name: Name, yes: Annotated[bool, typer.Option("--yes", help="They were read elsewhere; do not ask.")] = False
) -> None:
    """Show the terms of a checkpoint whose licence must be accepted, and write down that you accept them."""
    from bessemer.families.imported import licence_of
    from bessemer.families.show import terms_of
    from bessemer.families.terms import accept as do_accept
    from bessemer.families.terms import text_of

    terms = terms_of(name)
    text = licence_of(name.partition("@")[0]) or text_of(terms)  # a site without a network has what was carried in
    print(text or f"{terms.name}\n{terms.url}")
    if not yes and not _agrees(f"Do you accept the {terms.name}?", name):
        raise BessemerError(f"the {terms.name} was not accepted", where=name, fix="nothing was fetched")
    print(f"accepted: {do_accept(terms, text)}")


def _agrees(question: str, name: str) -> bool:
    try:
        return typer.confirm(question)
    except typer.Abort:
        if sys.stdin and sys.stdin.isatty():
            raise  # Ctrl-C
        raise BessemerError(
            "nobody is here to accept them", where=name, fix="read them, then add --yes; nothing was fetched"
        ) from None


@app.command()
def export(
    name: Annotated[str, typer.Argument(metavar="START", help="What a recipe's `start:` can name.")],
    out: Annotated[Path, typer.Option(help="A folder that does not exist yet.")],
) -> None:
    """Write a checkpoint into a folder that can be carried into a site without a network."""
    from bessemer.families.airgap import export as do_export

    found = do_export(name, out)
    print(f"{found.name}  {found.digest[:16]}  {out}")
    print("there: bessemer families import FOLDER")


@app.command("import")
def import_(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `families export` wrote.")]) -> None:
    """Check every byte of an exported checkpoint; then `start:` finds it without a network."""
    from bessemer.families.airgap import bring

    found = bring(folder)
    print(f"start: {found.start}  {found.digest[:16]}  {found.folder}")


@app.command()
def grow(
    name: Annotated[str, typer.Argument(metavar="NAME", help="FAMILY-SIZE: nano-1m, nano-6m, nano-30m, or your own.")],
    shape: Annotated[str, typer.Option(help="For a name of your own: nano-1m, nano-6m or nano-30m.")] = "",
    recipe: Annotated[Path | None, typer.Option(help="Your own corpora: a recipe with stages pre, mid, post.")] = None,
    set_: Set = None,
    restart: Annotated[bool, typer.Option(help="Train again, after a change of the recipe.")] = False,
    json: Json = False,
) -> None:
    """Train a family from scratch, with a checkpoint after every stage. The same command goes on after a kill."""
    from bessemer.growing import describe
    from bessemer.growing import grow as do_grow
    from bessemer.launch.here import quiet_libraries
    from bessemer.track.screen import Screen

    quiet_libraries()
    made = do_grow(name, Screen(), shape=shape, recipe=recipe, sets=set_ or [], restart=restart)
    if json:
        print_json([{"name": c.name, "digest": c.digest, "path": str(c.path)} for c in made])
        return
    print("\n".join(describe(made)))
    print(f"start from one of them: `start: {made[0].name}` in a recipe")
