"""bessemer data moderation RECIPE"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bessemer.cli.options import Json, Set, print_json, print_table

LISTED = 10  # rules that no policy words


def moderation(
    recipe: Annotated[str, typer.Argument(help="The recipe: logs, policies, comments.", metavar="RECIPE")],
    set_: Set = None,
    json: Json = False,
) -> None:
    """Moderation logs -> a data set of twins: each comment under a rule that it breaks and one that it keeps."""
    from bessemer.recipe.load import load
    from bessemer.recipe.moderation_recipe import ModerationRecipe
    from bessemer.track.screen import Screen

    loaded = load(ModerationRecipe, recipe, set_ or [])
    from bessemer.moderate.build import build

    built = build(loaded, Screen())
    made = built.prepared
    if json:
        print_json({"reference": made.reference, "folder": str(made.folder), "new": made.new, **built.report})
        return
    show(made.reference, built.report)
    print(f"\n{made.reference} in {made.folder}")
    print(f"in a training recipe: from: dataset:{made.reference}/train, kind: chat; domain text: /texts")


def show(reference: str, report: dict[str, Any]) -> None:
    rows = [
        [
            name,
            str(side["twins"]),
            str(side["comments"]),
            str(side["from_logs"]),
            str(len(side["rules"])),
            _shown(side["blind"]["comment_only"]),
            _shown(side["blind"]["rule_only"]),
        ]
        for name, side in report["splits"].items()
    ]
    columns = ["split", "twins", "comments", "answers from logs", "rules", "comment only", "rule only"]
    print_table(f"{reference}: blind baselines as AUROC, .5 is chance", columns, rows, right=[1, 2, 3, 4])
    for reason, n in report["left_out"].items():
        print(f"left out: {n} ({reason})")
    if names := report.get("unworded"):  # a data set of before did not look
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        print(f"rules that no policy words, read as the log writes them: {', '.join(names[:LISTED])}{more}")


def _shown(interval: dict[str, float] | None) -> str:
    if interval is None:
        return "too few"
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"
