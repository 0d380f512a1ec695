"""bessemer data ..."""

from __future__ import annotations

import typer

from bessemer.cli import look, moderation_data, prepare, sample

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.command()(prepare.prepare)
app.command()(moderation_data.moderation)
app.command()(look.show)
app.command()(look.mix)
app.command()(look.stats)
app.command()(sample.sample)
