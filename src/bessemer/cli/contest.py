"""bessemer contest run | list | show"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bessemer.cli.options import Json, print_json, print_table, read_each, rows_of
from bessemer.cli.run import Cpus, Gpus, OnHere, Workers
from bessemer.units import show_count

By = Annotated[str, typer.Option(help="Who does this, for the ledger. Default: user@host.", show_default=False)]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def run(
    file: Annotated[Path, typer.Argument(metavar="CONTEST", help="The contest file.")],
    on: OnHere = "local",
    workers: Workers = None,
    cpus: Cpus = None,
    gpus: Gpus = False,
    by: By = "",
    json: Json = False,
) -> None:
    """Train every contestant on the same data within the same budget, and rank them on the same sealed tasks.

    The same command goes on after a stop, a crash or a kill.
    """
    from bessemer.contest import run_contest
    from bessemer.errors import BessemerError
    from bessemer.evaluate.openings import who
    from bessemer.files import read_json
    from bessemer.launch.here import quiet_libraries, stop_requests
    from bessemer.launch.place import parse_place
    from bessemer.registry.contest import CARD, PAGE
    from bessemer.track.screen import Screen

    quiet_libraries()
    place = parse_place(on, workers=workers, cpus=cpus, gpus=gpus)
    if place.kind in {"k8s", "sky"}:
        raise BessemerError(f"a contest waits for its runs, and {on} only writes a manifest", where="--on")
    screen = Screen()
    with stop_requests(screen.say) as stop_asked:
        folder = run_contest(file, place, screen, stop_asked, by=by or who())
    card = read_json(folder / CARD)
    if json:
        print_json({"folder": str(folder), "contest": card})
        return
    show_contest(card)
    print(f"\ncard      {folder / CARD}\npage      {folder / PAGE}\ncheck it  bessemer verify {folder}")


@app.command("list")
def list_(json: Json = False) -> None:
    """List the contests here."""
    from bessemer.registry.contest import names

    found = read_each(names(), _facts)
    if json:
        print_json(found)
        return
    rows = rows_of(found, lambda f: [f["name"], f["created"], ", ".join(f["contestants"])])
    title = "Contests" if rows else "No contests yet: bessemer contest run FILE"
    print_table(title, ["name", "created", "contestants"], rows)


def _facts(name: str) -> dict[str, Any]:
    from bessemer.files import read_json
    from bessemer.registry.contest import CARD, contests_folder

    folder = contests_folder() / name
    card = read_json(folder / CARD)
    contestants = [e["name"] for e in card["entrants"]]
    return {"name": name, "created": card["created"], "contestants": contestants, "folder": str(folder)}


@app.command()
def show(
    contest: Annotated[str, typer.Argument(metavar="CONTEST", help="Its folder or its name.")], json: Json = False
) -> None:
    """The table of a contest, after checking it."""
    from bessemer.registry.contest import find_contest, verify_contest

    card = verify_contest(find_contest(contest))
    if json:
        print_json(card)
        return
    show_contest(card)


def show_contest(card: dict[str, Any]) -> None:
    """Standings of every task, then gain, forgetting and cost."""
    from bessemer.registry.contest_page import ranks

    for name, task in card["tasks"].items():
        rows = [
            [ranks(s), s["name"], "{value:.3f} [{low:.3f}, {high:.3f}]".format(**s["result"]), s["scope"]]
            for s in task["standings"]
        ]
        sealed = "sealed" if task["seal"] else "open"
        print_table(f"{name} ({sealed}, {task['role']})", ["rank", "contestant", task["primary"], "about"], rows)
    rows = [
        [
            e["name"],
            e["division"],
            show_count(e["tokens"]) if e["tokens"] else "–",
            f"{e['flops']:.3g}" if e["flops"] else "–",
            "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**e["gain"]) if e["gain"] else "–",
            "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**e["forgotten"]) if e["forgotten"] else "–",
            "front" if e["name"] in card["front"] else "",
            "; ".join(e["faults"]),
        ]
        for e in card["entrants"]
    ]
    head = ["contestant", "division", "tokens", "flop", "gain", "lost", "", "faults"]
    print_table("Gain on the first task, worst loss elsewhere, cost", head, rows, right=[2, 3])
