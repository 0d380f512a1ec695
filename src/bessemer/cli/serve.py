"""`bessemer serve`: private inference for a release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    release: Annotated[str, typer.Argument(help="name@version, or name for its newest version")],
    host: Annotated[
        str, typer.Option(help="address to listen on; others than this machine's need a token of yours")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(help="port to listen on; 0 takes a free one", min=0, max=65535)] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="file with the token (mode 600); else BESSEMER_TOKEN, else one is made"),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="a further name that clients may call this server by; repeatable")
    ] = None,
) -> None:
    """Serve a release with an OpenAI-compatible API. Every byte of it is checked first."""
    from rich.console import Console

    from bessemer.registry.store import open_release
    from bessemer.serve.keys import find_key
    from bessemer.serve.server import describe, listen, need_extras, run

    need_extras()
    key = find_key(host, token_file)
    with listen(host, port) as taken:
        stored = open_release(release)
        from bessemer.infer.model import load

        loaded = load(stored.path, digest=stored.digest, end_of_text=stored.manifest["end_of_text"])
        Console(highlight=False, soft_wrap=True).print(describe(stored, taken, key), markup=False)
        run(loaded, stored, taken, key.token, allow_host or [])
