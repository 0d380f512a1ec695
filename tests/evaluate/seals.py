"""A small seal and what is done to it, for the tests of seals."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from bessemer.evaluate import ledger, seal
from bessemer.evaluate.openings import begin_opening, finish_opening
from bessemer.evaluate.seal import Seal, create

ONE, TWO, RESULT = "1" * 64, "2" * 64, "e" * 64
SPEC: dict[str, Any] = {"name": "rules", "kind": "classify", "answers": ["yes", "no"], "metric": "auroc",
                        "smallest_effect": 0.02, "alpha": 0.05}  # fmt: skip
WORDS = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "islet", "jetty", "knoll", "larch",
         "marsh", "north", "ocean", "pines")  # fmt: skip


def item(n: int, **more: Any) -> dict[str, Any]:
    """Items whose texts share nothing."""
    text = " ".join(f"{word}{n}" for word in WORDS[n % 7 : n % 7 + 8])
    return {"id": f"item-{n}", "prompt": text, "answer": ("yes", "no")[n % 2], **more}


ROWS = [item(n, meta={"secret": f"needle {n}"}) for n in range(40)]


def make(name: str = "rules", rows: Any = ROWS, spec: Any = SPEC, **more: Any) -> Seal:
    return create(name, rows, spec, **{"share": 0.5, "seed": 7, "by": "Ada", **more})


def score(name: str = "rules", model: str = ONE, result: str = RESULT) -> ledger.Entry:
    with begin_opening(name, model_digest=model, by="Ben") as opening:
        assert opening.rows()
        return finish_opening(opening, result_digest=result, score={"auroc": 0.75})


def events(name: str = "rules") -> list[str]:
    return [e["event"] for e in ledger.read_ledger(seal.folder_of(name) / seal.LEDGER)]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
