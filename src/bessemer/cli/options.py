"""Options that several verbs share, and how tables and JSON are printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bessemer.errors import BessemerError

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe field, e.g. stages[0].lr=1e-4.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
RecipePath = Annotated[str, typer.Argument(help="The recipe file.", metavar="RECIPE")]


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def read_each(names: Iterable[str], read: Callable[[str], dict[str, Any]], key: str = "name") -> list[dict[str, Any]]:
    """Facts of each with `fault` None. What is damaged hides no others: {key: its name, "fault": why}."""
    found: list[dict[str, Any]] = []
    for name in names:
        try:
            found.append({**read(name), "fault": None})
        except BessemerError as error:
            found.append({key: name, "fault": error.fields()})
        except (KeyError, TypeError, AttributeError) as error:  # JSON of another shape
            fields = BessemerError(f"no such file as Bessemer writes ({type(error).__name__}: {error})").fields()
            found.append({key: name, "fault": fields})
    return found


def rows_of(
    found: Iterable[dict[str, Any]], row: Callable[[dict[str, Any]], list[str]], key: str = "name"
) -> list[list[str]]:
    """Rows of a table of what `read_each` found."""
    return [[f[key], "DAMAGED", f["fault"]["what"]] if f["fault"] else row(f) for f in found]


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
) -> None:
    """A table on stdout; columns in `right` are right-aligned."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    # Into a pipe or a file rows are not folded at 80 columns: there they are searched and cut, not looked at.
    # What stands in cells is text of users: [/x] is no markup there and :fire: no emoji.
    width = None if sys.stdout.isatty() else 1000
    Console(highlight=False, markup=False, emoji=False, width=width).print(table)
