"""Run a user's Python function where it can do no harm: no network, no files of the host, no environment.

bubblewrap gives the process namespaces of its own; limits on memory, processor time, processes and file size are set
before the first line of the user's code. One start serves many calls. Where bubblewrap or user namespaces are missing,
nothing runs: there is no less safe way that is taken instead.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

from bessemer.errors import BessemerError

MEMORY_BYTES = 1 << 30
FILE_BYTES = 1 << 24  # of each file that it writes, what it prints included, and of all in /tmp
TOLD_BYTES = 10_000  # of what it printed last
START_S = 10.0  # given to the interpreter on top of the calls' own time

# Runs inside. What the user's code prints goes to stderr, so that results are the only thing on stdout.
_DRIVER = """
import json, os, resource, sys
memory, cpu, size = map(int, sys.argv[1:4])
for what, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, cpu), (resource.RLIMIT_FSIZE, size),
                    (resource.RLIMIT_NPROC, 64), (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(what, (limit, limit))
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
calls = json.loads(sys.stdin.read())
space = {"__name__": "scorer"}
try:
    exec(compile(calls["code"], calls["file"], "exec"), space)
    function = space[calls["function"]]
except BaseException as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=out, flush=True)
    sys.exit(0)
for arguments in calls["calls"]:
    try:
        line = json.dumps({"value": function(*arguments)})
    except BaseException as error:
        line = json.dumps({"error": f"{type(error).__name__}: {error}"})
    print(line, file=out, flush=True)
"""


def call_function(
    file: Path, function: str, calls: Sequence[Sequence[Any]], *, seconds_each: float = 2.0
) -> list[float]:
    """function(*arguments) for each of the calls, as numbers from 0 to 1.

    Raises BessemerError when the sandbox is not there, the code fails or takes too long (with the call's place), or an
    answer is no number from 0 to 1.
    """
    if not calls:
        return []
    limit_s = math.ceil(START_S + seconds_each * len(calls))
    asked = {"code": file.read_text(), "file": file.name, "function": function, "calls": [list(c) for c in calls]}
    command = [*_bubblewrap(file), sys.executable, "-I", "-c", _DRIVER]
    command += [str(n) for n in (MEMORY_BYTES, limit_s, FILE_BYTES)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:  # through a pipe it could fill our memory
        try:
            given = json.dumps(asked).encode()
            code = subprocess.run(
                command, input=given, stdout=out, stderr=said, timeout=limit_s, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            n_done = len(_answers(out))
            raise BessemerError(
                f"call {n_done + 1} of {len(calls)} did not end (limit {limit_s} s in all)",
                where=str(file),
                fix="make the function faster; it must not wait for anything",
            ) from None
        answers = _answers(out)
        if len(answers) < len(calls) and not (answers and "error" in answers[0]):
            said.seek(max(0, said.seek(0, 2) - TOLD_BYTES))
            reason = (said.read().decode(errors="replace").strip().splitlines() or [f"exit {code}"])[-1]
            raise BessemerError(
                f"the sandbox ended after {len(answers)} of {len(calls)} calls: {reason}",
                where=str(file),
                fix=f"the function may use {MEMORY_BYTES >> 30} GiB of memory, print {FILE_BYTES >> 20} MiB, and needs "
                "user namespaces (sysctl kernel.unprivileged_userns_clone=1) and bubblewrap 0.7 or newer",
            )
    return [_value(answer, i, len(calls), file) for i, answer in enumerate(answers[: len(calls)])]


def _answers(out: IO[bytes]) -> list[dict[str, Any]]:
    """The lines that are answers, up to the first that is none."""
    out.seek(0)
    found: list[dict[str, Any]] = []
    for line in out:
        try:
            answer = json.loads(line)
        except ValueError:
            break
        if not isinstance(answer, dict):
            break
        found.append(cast(dict[str, Any], answer))
    return found


def _value(answer: dict[str, Any], i: int, n: int, file: Path) -> float:
    value = answer.get("value")
    if "error" in answer:
        raise BessemerError(f"call {i + 1} of {n} failed ({answer['error']})", where=str(file), fix="correct the code")
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise BessemerError(
            f"call {i + 1} of {n} gave {str(value)[:50]!r}", where=str(file), fix="return a number from 0 to 1"
        )
    return float(value)


def _bubblewrap(file: Path) -> list[str]:
    program = shutil.which("bwrap")
    if program is None:
        raise BessemerError(
            "bubblewrap is missing, and a user's code runs nowhere else",
            where=str(file),
            fix="apt install bubblewrap",
        )
    seen = ["/usr", sys.base_prefix, *(str(p) for p in map(Path, ("/lib", "/lib64", "/bin")) if p.exists())]
    command = [program, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    command += ["--cap-drop", "ALL"]  # as root it would keep them all, and could mount what is read-only anew
    command += ["--proc", "/proc", "--dev", "/dev"]
    command += ["--size", str(FILE_BYTES), "--tmpfs", "/tmp"]  # noqa: S108 - first: a venv may lie in /tmp
    for path in dict.fromkeys(seen):
        command += ["--ro-bind", path, path]
    inside = Path(sys.prefix)
    if not inside.is_relative_to("/usr"):  # the interpreter of a virtual environment is a link into the base
        command += ["--ro-bind", str(inside / "bin"), str(inside / "bin")]
        if (inside / "pyvenv.cfg").exists():
            command += ["--ro-bind", str(inside / "pyvenv.cfg"), str(inside / "pyvenv.cfg")]
    command += ["--remount-ro", "/dev", "--remount-ro", "/"]  # they lie in memory, too
    return [*command, "--chdir", "/tmp"]  # noqa: S108
