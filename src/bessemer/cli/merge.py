"""bessemer merge RUN"""

from __future__ import annotations

from typing import Annotated

import typer

from bessemer.cli.options import Json, print_json, print_table


def merge(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run whose training is finished.")],
    at: Annotated[str, typer.Option(help="Shares of the way from the start to the trained weights.")] = "",
    add: Annotated[
        str, typer.Option(help="A checkpoint whose difference to --minus is added: --at says how much.")
    ] = "",
    minus: Annotated[str, typer.Option(help="What --add was tuned from.")] = "",
    with_: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="RUN", help="A run of the same start that is averaged with it; repeatable."),
    ] = None,
    release: Annotated[bool, typer.Option("--release", help="Release the best point, if its verdict is SHIP.")] = False,
    json: Json = False,
) -> None:
    """Measure models between the start and the trained weights, and choose the best one within the retention budget."""
    from bessemer.errors import BessemerError
    from bessemer.launch.here import quiet_libraries
    from bessemer.merging import POINTS
    from bessemer.merging import merge as do_merge
    from bessemer.track.screen import Screen

    quiet_libraries()
    try:
        shares = [float(part) for part in at.split(",") if part.strip()] or list(POINTS)
    except ValueError:
        raise BessemerError(f"{at!r} is no list of numbers", where="--at", fix="such as 0.25,0.5,1") from None
    if bool(add) != bool(minus):
        raise BessemerError(
            "one of the two is missing", where="--add, --minus", fix="such as --add F@post --minus F@mid"
        )
    others = [name for given in with_ or [] for name in given.split(",") if name]
    if others and add:
        raise BessemerError("one or the other", where="--with, --add", fix="average first, with --release")
    found = do_merge(run, shares, Screen(), add=(add, minus) if add else None, others=others, release=release)
    if json:
        print_json(found)
        return
    rows = [
        [f"{p['share']:g}", f"{abs(p['value']):.3f}", f"{p['worst'] * 100:+.2f} %", "yes" if p["kept"] else "no",
         p["verdict"], "<- best" if p["share"] == found["best"] else ""]
        for p in found["points"]
    ]  # fmt: skip
    columns = ["share", found["task"], "worst probe, upper end", "in budget", "verdict", ""]
    way = (
        f"From {run} (0) to {run} + {add} - {minus} (1)"
        if add
        else f"From the start of {run} (0) to the mean of {', '.join([run, *others])} (1)"
        if others
        else f"From the start of {run} (0) to its trained weights (1)"
    )
    print_table(way, columns, rows, right=[0, 1, 2])
    print(f"released as {found['release']}" if found["release"] else "nothing was released")
