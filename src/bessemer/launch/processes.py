"""A tree of processes: its members, what their stacks are, its end. Read from Linux's /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

STACKS_S = 1.0  # time to write them


def descendants(root: int) -> list[int]:
    """Pids of all children of children, whatever their session."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found, waiting = list[int](), [root]
    while waiting:
        mine = children.get(waiting.pop(), [])
        found += mine
        waiting += mine
    return found


def dump_stacks(root: int) -> None:
    """Every process below that has a handler for SIGUSR1 (see the worker) writes its stacks into the log."""
    asked = [pid for pid in (root, *descendants(root)) if _listens(pid)]
    for pid in asked:
        _send(pid, signal.SIGCONT)  # a stopped process hears nothing
        _send(pid, signal.SIGUSR1)
    time.sleep(STACKS_S if asked else 0)


def _listens(pid: int) -> bool:
    """Whether SIGUSR1 is caught; it would kill any other process."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1)
    return False


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all below it, at once, and wait for it."""
    if process.poll() is None:
        _send(process.pid, signal.SIGSTOP)  # it shall not start others meanwhile
        for pid in (*descendants(process.pid), process.pid):
            _send(pid, signal.SIGKILL)
    process.wait()


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
