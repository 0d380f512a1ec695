"""bessemer review ..."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def review() -> None:
    """What people say about decisions, and what comes of it."""


@app.command()
def appeal(
    decision: Annotated[str, typer.Argument(help="The id of the decision.")],
    outcome: Annotated[str, typer.Argument(help="overturned, upheld, or missed (with --rule).")],
    rule: Annotated[
        list[str] | None, typer.Option(help="A rule that is meant; repeatable; default: those cited.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="A file with the comment, to be learnt from.")] = None,
    note: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Record what people found about a decision."""
    from bessemer.errors import BessemerError
    from bessemer.moderate.chain import ChainLog
    from bessemer.moderate.decisions import OUTCOMES, appeals_folder, comment_key, decisions_folder
    from bessemer.moderate.decisions import appeal as record

    if outcome not in OUTCOMES:
        raise BessemerError(f"{outcome!r} is no outcome", where="review appeal", fix=f"known: {', '.join(OUTCOMES)}")
    log = ChainLog(appeals_folder(), "appeal")
    words = text.read_text() if text else ""
    entry = record(
        log, decisions_folder(), decision, outcome, rules=rule or [], text=words, note=note, key=comment_key()
    )
    print(f"{entry['id']}: {'can be learnt from' if entry['teaches'] else 'without a text nothing is learnt from it'}")


@app.command()
def appeals(
    out: Annotated[Path | None, typer.Option(help="The file to write; default: stdout.")] = None,
) -> None:
    """Appeals and suggestions as rows of a moderation log, for `bessemer data moderation`."""
    from bessemer.files import write_text
    from bessemer.moderate.decisions import read_appeals, training_rows

    rows = [jsonlib.dumps(row, ensure_ascii=False) + "\n" for row in training_rows(read_appeals())]
    if out:
        write_text(out, "".join(rows))
        print(f"{len(rows)} rows in {out}", file=sys.stderr)
    else:
        sys.stdout.writelines(rows)
