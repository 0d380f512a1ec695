"""bessemer data ..."""

from __future__ import annotations

import typer

from bessemer.cli import prepare

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.command()(prepare.prepare)
