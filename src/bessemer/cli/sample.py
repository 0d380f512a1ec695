"""bessemer data sample START"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from bessemer.cli.options import Json, print_json
from bessemer.cli.prepare import show_report


def sample(
    start: Annotated[str, typer.Argument(help="Who writes: as a recipe's `start`.", metavar="START")],
    name: Annotated[str, typer.Option(help="Name of the data set.")],
    kind: Annotated[Literal["documents", "chat"], typer.Option(help="Texts, or questions with answers.")] = "documents",
    tokens: Annotated[str, typer.Option(help="Tokens to draw, before anything is dropped.")] = "200k",
    longest: Annotated[int, typer.Option(min=16, help="Tokens of one sample.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.1, max=2.0)] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.1, max=1.0)] = 0.95,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    openings: Annotated[str, typer.Option(help="Documents whose first words begin the new ones.")] = "",
    json: Json = False,
) -> None:
    """General data that a checkpoint writes itself, filtered and kept as a data set. Goes on after a kill."""
    from bessemer.errors import BessemerError
    from bessemer.files import read_json
    from bessemer.launch.here import quiet_libraries
    from bessemer.track.screen import Screen
    from bessemer.units import parse_count

    quiet_libraries()
    from bessemer.replay import Asked
    from bessemer.replay import sample as draw

    try:
        n_tokens = parse_count(tokens)
    except ValueError as error:
        raise BessemerError(str(error), where="--tokens") from None
    asked = Asked(kind, n_tokens, longest, temperature, top_p, seed, openings)
    made = draw(start, name, asked, Screen())
    if json:
        print_json({**{k: made.manifest[k] for k in ("name", "version", "tokens")}, "folder": str(made.folder)})
        return
    show_report(made.reference, read_json(made.folder / "report.json"))
    more = ", kind: chat" if kind == "chat" else ""
    print(f"\nin a training recipe: {{from: dataset:{made.reference}/train, role: general{more}}}")
