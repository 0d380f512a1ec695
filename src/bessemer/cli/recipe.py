"""bessemer recipe schema | init | check"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bessemer.cli.options import Json, RecipePath, Set, print_json

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema, for editors (YAML language server)."""
    from bessemer.recipe.schema import Recipe

    print_json(Recipe.model_json_schema(by_alias=True))


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
