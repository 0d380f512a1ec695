"""bessemer data prepare DATA"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bessemer.cli.options import Json, Set, print_json, print_table
from bessemer.units import show_count


def prepare(
    recipe: Annotated[str, typer.Argument(help="The data recipe.", metavar="DATA")],
    on: Annotated[str, typer.Option(help="Where: local, slurm[:PARTITION], ray[://HEAD:PORT].")] = "local",
    workers: Annotated[int | None, typer.Option(help="Tasks at a time; the result does not depend on it.")] = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Clean, de-duplicate and split sources into a data set. The same command continues after a kill."""
    from bessemer.recipe.data_recipe import DataRecipe
    from bessemer.recipe.load import load
    from bessemer.track.screen import Screen

    loaded = load(DataRecipe, recipe, set_ or [])
    from bessemer.data.curate.prepare import prepare as make
    from bessemer.files import read_json

    made = make(loaded, Screen(), on=on, workers=workers)
    report = read_json(made.folder / "report.json")
    if json:
        facts = {k: made.manifest[k] for k in ("name", "version", "fingerprint", "tokens", "splits")}
        print_json({**facts, "folder": str(made.folder), "new": made.new, "steps": report["steps"]})
        return
    show_report(made.reference, report)
    print(f"\n{made.reference} in {made.folder}\nin a training recipe: from: dataset:{made.reference}/train")


def show_report(reference: str, report: dict[str, Any]) -> None:
    """What each step took and gave, why, with examples."""
    rows: list[list[str]] = []
    for step in report["steps"]:
        notes = {**step["why"], **step["did"]}
        first, *more = [f"{n} {what}" for what, n in sorted(notes.items(), key=lambda x: (-x[1], x[0]))] or [""]
        tokens = [show_count(step["tokens_in"]), show_count(step["tokens_out"])]
        rows.append([step["step"], str(step["items_in"]), str(step["items_out"]), *tokens, first])
        rows += [["", "", "", "", "", note] for note in more]
    columns = ["step", "items in", "out", "tokens in", "out", "why"]
    print_table(f"{reference}  (tokens {report['tokens']})", columns, rows, right=[1, 2, 3, 4])
    print("\nExamples (personal data masked)")
    for step in report["steps"]:
        for why, texts in step["examples"].items():
            print(f"  {step['step']}: {why}", *(f"    | {text}" for text in texts[:2]), sep="\n")
    sides = [[name, str(side["items"])] for name, side in report["splits"].items()]
    print_table("\nSplits", ["split", "items"], sides, right=[1])
