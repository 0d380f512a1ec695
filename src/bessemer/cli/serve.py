"""`bessemer serve`: private inference for a release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    release: Annotated[
        str, typer.Argument(help="name@version; or name: what `bessemer route` chose, else the newest version")
    ],
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
    policy: Annotated[
        str | None, typer.Option(help="policy of moderation requests that name none: a file, or a stored name@version")
    ] = None,
    also: Annotated[
        list[str] | None, typer.Option(help="a further release for clients who pin it (name@version); repeatable")
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option(metavar="PUBLIC_KEY", help="serve only what this key signed; default: BESSEMER_TRUSTED_KEY"),
    ] = None,
    log_text: Annotated[
        bool, typer.Option("--log-text", help="the decision log holds the comments; default: keyed hashes only")
    ] = False,
) -> None:
    """Serve a release with an OpenAI-compatible API. Every byte of it is checked first."""
    from functools import partial

    from rich.console import Console

    from bessemer.moderate.judge import Judge
    from bessemer.moderate.policy import load_policy, need_same, store
    from bessemer.registry.routes import read_route
    from bessemer.registry.store import find_release
    from bessemer.serve.keys import find_key
    from bessemer.serve.server import describe, listen, need_extras, open_model, run
    from bessemer.signatures import trusted_key

    need_extras()
    trust = trust or trusted_key()
    opened = partial(open_model, trusted=trust)
    key = find_key(host, token_file)
    rules = load_policy(policy) if policy else None
    if rules:
        need_same(rules)  # before a model is loaded
    pinned = "@" in release
    route = None if pinned else read_route(release)
    others = [find_release(name).reference for name in also or []]
    with listen(host, port) as taken:
        loaded, stored = opened(f"{release}@{route.stable}" if route else release)
        if rules:
            Judge(loaded).check(rules)  # a rule that leaves no room is the server's mistake, not its clients'
            store(rules)  # answers name it, so that clients may ask for it by that name
        Console(highlight=False, soft_wrap=True).print(describe(stored, taken, key, trust), markup=False)
        more = [opened(name) for name in others if name != stored.reference]
        run(
            loaded, stored, taken, key.token, allow_host or [],
            others=more, stays=others, open_release=None if pinned else opened, policy=rules, keep_text=log_text,
        )  # fmt: skip
