"""bessemer runs"""

from __future__ import annotations

from bessemer.cli.options import Json, print_json, print_table


def runs(json: Json = False) -> None:
    """List the runs: planned, started, finished."""
    from bessemer.track.runs import list_runs

    found = list_runs()
    if json:
        print_json(found)
        return
    rows = [[r["name"], r["state"], r["last"], r["verdict"], r["release"]] for r in found]
    print_table(
        "Runs" if rows else "No runs yet: bessemer run RECIPE", ["name", "state", "last", "verdict", "release"], rows
    )
