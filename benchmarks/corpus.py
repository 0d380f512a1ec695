"""Text for benchmarks: what is installed on this machine (sources and documentation of Python packages), as JSONL."""

from __future__ import annotations

import json
import site
import sysconfig
from pathlib import Path

SUFFIXES = {".py", ".pyi", ".md", ".rst", ".txt"}


def installed_texts() -> list[Path]:
    roots = [Path(sysconfig.get_paths()["stdlib"]), *(Path(p) for p in site.getsitepackages())]
    return sorted({p for root in roots for p in root.rglob("*") if p.suffix in SUFFIXES and p.is_file()})


def write_corpus(path: Path, megabytes: float) -> tuple[int, int]:
    """Write about so many MB of documents; when the machine has less, further rounds number every line anew.

    Returns (documents, bytes of text).
    """
    wanted, size, n, round_ = megabytes * 1e6, 0, 0, 0
    texts = installed_texts()
    with path.open("w") as file:
        while size < wanted:
            for source in texts:
                text = source.read_text(errors="replace")
                if round_:
                    text = "\n".join(f"{line} {i % 7}{round_}" for i, line in enumerate(text.splitlines()))
                if len(text) < 50:
                    continue
                file.write(json.dumps({"id": f"{round_}:{source}", "text": text}) + "\n")
                size, n = size + len(text.encode()), n + 1
                if size >= wanted:
                    break
            round_ += 1
    return n, size
