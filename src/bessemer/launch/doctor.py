"""Is this machine ready? Each finding says what was seen and what to do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from bessemer.errors import BessemerError
from bessemer.files import home, need_writable
from bessemer.units import GIB, show_bytes

NEED_MEMORY = 6 * GIB
NEED_DISK = 5 * GIB
NO_COMPILER = "long stages train a fifth faster with one: apt-get install g++ python3-dev"


@dataclass(frozen=True)
class Finding:
    what: str
    ok: bool
    found: str
    fix: str = ""


def examine() -> list[Finding]:
    """Everything the demo needs, cheapest first."""
    return [_python(), _cores(), _memory(), _cache(), _disk(), *_packages(), *_torch()]


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding("Python", ok, sys.version.split()[0], "" if ok else "install Python 3.11 or newer")


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0))
    return Finding("cores", cores >= 1, str(cores), "" if cores > 1 else "one core works; expect twice the time")


def _memory() -> Finding:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    ok = pages * size >= NEED_MEMORY
    return Finding("memory", ok, show_bytes(pages * size), "" if ok else f"the demo needs {show_bytes(NEED_MEMORY)}")


def _cache() -> Finding:
    try:
        need_writable(home())
    except BessemerError as error:
        return Finding("cache", False, error.what, error.fix)
    used = sum(p.stat().st_size for p in (home() / "cache").rglob("*") if p.is_file())
    return Finding("cache", True, f"{home()} (BESSEMER_HOME), {show_bytes(used)} used")


def _disk() -> Finding:
    folder = home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    fix = "" if free >= NEED_DISK else f"free {show_bytes(NEED_DISK - free)} or set BESSEMER_HOME to a larger disk"
    return Finding("disk", free >= NEED_DISK, f"{show_bytes(free)} free", fix)


def _packages() -> list[Finding]:
    findings: list[Finding] = []
    for extra, names in {"train": ("torch", "transformers", "gguf"), "serve": ("fastapi", "uvicorn")}.items():
        for name in names:
            try:
                findings.append(Finding(name, True, version(name)))
            except PackageNotFoundError:
                findings.append(Finding(name, False, "not installed", f"pip install 'bessemer[{extra}]'"))
    return findings


def _torch() -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return []
    from bessemer.infer.model import detect_machine

    machine = detect_machine()
    precision = str(machine.dtype).removeprefix("torch.")
    device = Finding(
        "device",
        True,
        f"{machine.name}, {precision}",
        ""
        if machine.device.type == "cuda"
        else "no GPU seen: everything works on the CPU, models up to some 100M parameters train in minutes",
    )
    slow = "" if precision == "bfloat16" else "this machine has no fast bf16: training takes two to three times as long"
    from bessemer.train.compiled import has_compiler

    compiler = Finding("compiler", True, "found" if has_compiler() else "none", "" if has_compiler() else NO_COMPILER)
    return [device, Finding("bf16", True, precision, slow), compiler]
