"""Text for benchmarks: what is installed on this machine (sources and documentation of Python packages)."""

from __future__ import annotations

import json
import site
import sysconfig
from collections.abc import Iterator
from itertools import count
from pathlib import Path

SUFFIXES = {".py", ".pyi", ".md", ".rst", ".txt"}
SHORTEST = 50  # characters


def installed_texts(megabytes: float) -> Iterator[tuple[str, str]]:
    """(id, text) until there are about so many MB; when the machine has less, further rounds number every line anew."""
    roots = [Path(sysconfig.get_paths()["stdlib"]), *(Path(p) for p in site.getsitepackages())]
    paths = sorted({p for root in roots for p in root.rglob("*") if p.suffix in SUFFIXES and p.is_file()})
    left = megabytes * 1e6
    for round_ in count():
        for path in paths:
            text = path.read_text(errors="replace")
            if round_:
                text = "\n".join(f"{line} {i % 7}{round_}" for i, line in enumerate(text.splitlines()))
            if len(text) < SHORTEST:
                continue
            if left <= 0:
                return
            yield f"{round_}:{path}", text
            left -= len(text.encode())


def write_corpus(path: Path, megabytes: float) -> tuple[int, int]:
    """Write about so many MB of documents as JSONL. Returns (documents, bytes of text)."""
    n = size = 0
    with path.open("w") as file:
        for name, text in installed_texts(megabytes):
            file.write(json.dumps({"id": name, "text": text}) + "\n")
            n, size = n + 1, size + len(text.encode())
    return n, size
