"""bessemer route RELEASE"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bessemer.cli.options import Json, print_json


def route(
    release: Annotated[str, typer.Argument(help="name@version; its name alone shows the route.", metavar="RELEASE")],
    canary: Annotated[
        float | None, typer.Option(help="Give this version such a share of the requests instead; 0 ends it.")
    ] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="End the canary; else back to the version before.")
    ] = False,
    trust: Annotated[
        Path | None,
        typer.Option(metavar="PUBLIC_KEY", help="Only to what this key signed; default: BESSEMER_TRUSTED_KEY"),
    ] = None,
    json: Json = False,
) -> None:
    """Which version servers give to clients who ask for a name.

    Servers that were started with the name alone follow without a restart.
    """
    from dataclasses import asdict

    from bessemer.errors import BessemerError
    from bessemer.registry.routes import promote, read_route, roll_back, set_canary

    name, _, version = release.partition("@")
    if rollback and (version or canary is not None):
        raise BessemerError(
            "--rollback goes to the version before, or ends a canary, whatever else is given", where="--rollback",
            fix=f"bessemer route {name} --rollback, or bessemer route {name}@VERSION",
        )  # fmt: skip
    if rollback:
        found = roll_back(name, trust)
    elif canary is not None:
        found = set_canary(release, canary, trust)
    elif version:
        found = promote(release, trust)
    else:
        found = read_route(name)
    if found is None:
        raise BessemerError(
            "no version was chosen; servers take the newest", where=name, fix=f"bessemer route {name}@VERSION"
        )
    if json:
        print_json(asdict(found))
        return
    print(f"{name}: stable {found.stable}", end="")
    print(f", canary {found.canary} for {found.share:.1%}" if found.canary else "", end="")
    print(f", before that {', '.join(map(str, found.before))}" if found.before else "")
