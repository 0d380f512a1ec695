"""`--on PLACE`: where a run is told and where its stages are trained. Never part of what the run is."""

from __future__ import annotations

import difflib
import importlib.util
import re
import shutil
from dataclasses import dataclass

from bessemer.errors import BessemerError

PLACES = {
    "local": "local or local:WORKERS",
    "slurm": "slurm or slurm:PARTITION",
    "ray": "ray or ray://HEAD:PORT",
    "k8s": "k8s:QUEUE",
    "sky": "sky",
}


@dataclass(frozen=True)
class Place:
    """kind: a key of PLACES. target: partition, address of the head (ray://...) or queue. workers: processes that train
    a stage together; own: apart from the process that tells the story. cpus, gpus: for each, asked of a cluster."""

    kind: str = "local"
    target: str = ""
    workers: int = 1
    own: bool = False
    cpus: int = 1
    gpus: bool = False
    time: str = ""


def parse_place(
    text: str, *, workers: int | None = None, cpus: int | None = None, gpus: bool = False, time: str = ""
) -> Place:
    """Read `--on` and the options that go with it. Raises BessemerError; says what is not installed, too."""
    kind, _, target = text.partition(":")
    if kind not in PLACES:
        close = difflib.get_close_matches(kind, PLACES, n=1)
        fix = f"did you mean {PLACES[close[0]]}?" if close else ", ".join(PLACES.values())
        raise BessemerError(f"{text!r} is no place to run", where="--on", fix=fix)
    rules = {"local": r"|[1-9]\d*", "slurm": r"[\w.,-]*", "ray": r"|//[^/]+", "k8s": r"[a-z0-9.-]+", "sky": ""}
    if not re.fullmatch(rules[kind], target):
        raise BessemerError(f"{text!r} is no place to run", where="--on", fix=PLACES[kind])
    if kind == "local" and target:
        if workers not in {None, int(target)}:
            raise BessemerError(f"{text} and --workers {workers} disagree", where="--on", fix="say it once")
        workers = int(target)
    if workers is not None and workers < 1:
        raise BessemerError(f"{workers} workers can do nothing", where="--workers", fix="1 or more")
    if kind == "local" and (gpus or cpus):
        what = "here all cores are used, and a GPU when torch sees one"
        raise BessemerError(what, where="--cpus, --gpus", fix="leave them out")
    if cpus is not None and cpus < 1:
        raise BessemerError(f"{cpus} cores can do nothing", where="--cpus", fix="1 or more")
    if time and kind != "slurm":
        raise BessemerError("only Slurm wants a time limit", where="--time", fix="leave it out")
    _need_installed(kind)
    if kind == "ray":
        return Place(kind, f"ray:{target}" if target else "", workers or 1, True, cpus or 1, gpus)
    return Place(kind, "" if kind == "local" else target, workers or 1, workers is not None, cpus or 1, gpus, time)


def _need_installed(kind: str) -> None:
    if kind == "ray" and not all(importlib.util.find_spec(name) for name in ("ray", "pandas")):
        raise BessemerError("Ray is not installed here", where="--on ray", fix="pip install 'bessemer[train,ray]'")
    if kind == "slurm" and shutil.which("sbatch") is None:
        fix = "run this on a machine of the cluster"
        raise BessemerError("Slurm's command sbatch is not here", where="--on slurm", fix=fix)
