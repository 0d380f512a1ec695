"""bessemer show THING"""

from __future__ import annotations

from typing import Annotated

import typer

from bessemer.cli.options import Json, print_json, print_table


def show(
    thing: Annotated[str, typer.Argument(help="A release (name@1), a run (name), or `sources`.")],
    json: Json = False,
) -> None:
    """Explain a release or a run: results with intervals, lineage, where its files are."""
    if thing == "sources":
        from bessemer.data.builtin import COLLECTIONS

        listed = {f"bessemer:{name}": kind for name, (kind, _) in COLLECTIONS.items()}
        if json:
            print_json(listed)
        else:
            print_table("Collections that come with packages", ["from", "kind"], [list(x) for x in listed.items()])
    else:
        from bessemer.registry.summary import explain

        print_json(explain(thing)) if json else print("\n".join(explain(thing)["lines"]))
