"""Run in this process: Ctrl-C (or SIGTERM, or a terminal that goes) asks for a checkpoint and a stop; twice it stops
at once."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType

from bessemer.files import home, sha256_text


@contextlib.contextmanager
def stop_requests(say: Callable[[str, str], None]) -> Generator[Callable[[], bool]]:
    """Yields a function that tells whether a stop was asked for. say: line and style, shown at the first request."""
    asked = False

    def ask(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if asked and number != signal.SIGHUP:  # of a terminal that goes, a shell and the kernel tell both
            raise KeyboardInterrupt
        asked = True
        with contextlib.suppress(Exception):  # it may have come in the middle of printing
            say("stopping: a checkpoint is written first (once more: stop at once)", "yellow")

    asking = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else nohup: the terminal may go
        asking.append(signal.SIGHUP)
    old = {number: signal.signal(number, ask) for number in asking}
    try:
        yield lambda: asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _processor() -> str:
    """Machines that share a home do not share machine code: it is compiled for the processor that compiles."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return sha256_text("".join(sorted({line for line in lines if line.startswith(("model name", "flags"))})))[:12]


def quiet_libraries() -> None:
    """Nothing is downloaded behind the user's back, no library paints bars over ours, and compiled code is loaded from
    a folder of the user's own instead of one in /tmp. Before torch is imported."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home() / "cache" / "compiled" / _processor()))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
