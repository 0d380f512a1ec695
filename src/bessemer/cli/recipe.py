"""bessemer recipe schema | init | check"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from bessemer.cli.options import Json, RecipePath, Set, print_json
from bessemer.errors import BessemerError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


FILES = {  # every file that a user writes -> the model that reads it
    "recipe": "bessemer.recipe.schema:Recipe",
    "data": "bessemer.recipe.data_recipe:DataRecipe",
    "moderation": "bessemer.recipe.moderation_recipe:ModerationRecipe",
    "policy": "bessemer.moderate.policy:Policy",
    "task": "bessemer.evaluate.tasks:Task",
    "contest": "bessemer.contest:Contest",
}


@app.command()
def schema(
    of: Annotated[str, typer.Argument(metavar="FILE", help=f"What the file is: {', '.join(FILES)}.")] = "recipe",
) -> None:
    """Print every field of a recipe, or of another file, as JSON Schema: for you and for editors (YAML)."""
    if of not in FILES:
        raise BessemerError(f"no file that Bessemer reads is a {of!r}", where="FILE", fix=f"one of {', '.join(FILES)}")
    module, _, name = FILES[of].partition(":")
    print_json(getattr(import_module(module), name).model_json_schema(by_alias=True))


@app.command()
def check(recipe: RecipePath, set_: Set = None, json: Json = False) -> None:
    """Check a recipe and report every mistake; nothing is fetched or trained, no data is opened."""
    from bessemer.data.sources import need_found
    from bessemer.recipe.load import dump_recipe, load_recipe

    loaded = load_recipe(recipe, set_ or [])
    need_found(loaded)
    print_json(dump_recipe(loaded)) if json else print(f"{recipe}: fine ({loaded.name})")


@app.command()
def init(
    files: Annotated[
        list[Path], typer.Argument(help="Your data: .jsonl, .json, .csv, .tsv, .parquet, .arrow, .txt or .md files.")
    ],
    out: Annotated[Path, typer.Option(help="Where to write the recipe.")] = Path("recipe.yaml"),
    name: Annotated[str, typer.Option(help="Name of the run and the release.")] = "my-expert",
    start: Annotated[str, typer.Option(help="Checkpoint to start from.")] = "smollm2-135m@post",
) -> None:
    """Write a commented recipe for your files, with a tenth of each held out."""
    from bessemer.data.first_recipe import write_recipe

    for line in write_recipe(files, out, name=name, start=start):
        print(line)
