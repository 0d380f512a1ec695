"""`bessemer`: registers the verbs and turns errors into messages and exit codes. Imports nothing heavy."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import bessemer
from bessemer.cli import (
    contest,
    data,
    doctor,
    evaluate,
    families,
    merge,
    moderate,
    plan,
    policy,
    recipe,
    releases,
    review,
    route,
    run,
    runs,
    seal,
    serve,
    show,
    trace,
)
from bessemer.errors import EXIT_CODES, BessemerError
from bessemer.files import home

CLOSED = 128 + signal.SIGPIPE  # as the shell says it of other programs
PATH_FIX = "give it to this user, or name another place; what was finished is kept"

app = typer.Typer(
    help="Your own expert model from an open base: mixed, measured, pinned, served on your own machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(run.run)
app.command()(plan.plan)
app.command()(serve.serve)
app.command()(route.route)
app.command()(releases.releases)
app.command()(releases.sign)
app.command()(show.show)
app.command()(trace.trace)
app.command()(merge.merge)
app.command()(moderate.moderate)
app.command()(evaluate.verdict)
app.command()(evaluate.verify)
app.command()(doctor.doctor)
app.add_typer(
    runs.app, name="runs", help="List, show, stop and resume runs; read their logs; send metrics to a tracker."
)
app.add_typer(data.app, name="data", help="Prepare data and look at it.")
app.add_typer(evaluate.app, name="eval", help="Measure models on tasks; how small an effect a task can show.")
app.add_typer(families.app, name="families", help="Checkpoints known by name; grow a family of your own.")
app.add_typer(contest.app, name="contest", help="Several recipes, one budget, the same sealed tasks.")
app.add_typer(seal.app, name="seal", help="Seal a task before training; list who opened it; verify it.")
app.add_typer(policy.app, name="policy", help="Rules of communities: check, store, list.")
app.add_typer(review.app, name="review", help="What people say about decisions, and what comes of it.")
app.add_typer(recipe.app, name="recipe", help="Write, check and describe recipes.")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(bessemer.__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Exit codes: 0 fine or SHIP, 2 HOLD or drift, 3 REJECT, 4 refused, 130 stopped, 1 a defect of Bessemer."""


def main() -> None:
    """Entry point of the command."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started it (`>&-`)
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()  # while errors are still told
    except BessemerError as error:
        _refuse(error)
    except (KeyboardInterrupt, typer.Abort):
        _tell_programs(BessemerError("stopped"))
        print("stopped", file=sys.stderr)
        sys.exit(EXIT_CODES["interrupted"])
    except ModuleNotFoundError as error:
        _refuse(BessemerError(f"the Python package {error.name!r} is missing", fix=f"pip install '{_bringer(error)}'"))
    except BrokenPipeError:  # nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(CLOSED)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free space, or set BESSEMER_HOME to a larger disk; what was finished is kept"
            _refuse(BessemerError("the disk is full", where=str(error.filename or home()), fix=fix))
        if error.filename is None:
            raise
        _refuse(BessemerError(error.strerror or type(error).__name__, where=str(error.filename), fix=PATH_FIX))
    except SystemExit as ended:  # nobody reads stdout any more (`| head`): the libraries end with 1, a defect's code
        sys.exit(CLOSED if ended.code == 1 else ended.code)
    except Exception as error:
        message, show = getattr(error, "format_message", None), getattr(error, "show", None)
        if message and show:  # a usage error; the library keeps its class to itself
            _tell_programs(BessemerError(message()))
            show()
            sys.exit(EXIT_CODES["user"])
        raise
    sys.exit(code if isinstance(code, int) else 0)


def _bringer(error: ModuleNotFoundError) -> str:
    """`bessemer[EXTRA]` with the missing package, else the package itself."""
    package = (error.name or "").partition(".")[0]
    name = {"sklearn": "scikit-learn", "mlflow": "mlflow-skinny"}.get(package, package)
    for wanted in metadata.requires("bessemer") or []:
        found = re.match(r"""([\w-]+).*extra == ["']([\w-]+)["']""", wanted)
        if found and found[1].replace("-", "_").lower() == name.replace("-", "_").lower():
            return f"bessemer[{found[2]}]"
    return name


def _refuse(error: BessemerError) -> NoReturn:
    _tell_programs(error)
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def _tell_programs(error: BessemerError) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"error": error.fields()}))


if __name__ == "__main__":
    main()
