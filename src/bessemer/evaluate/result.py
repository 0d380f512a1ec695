"""What one model said on one task, with everything that a statistic needs and nothing that tells an item.

Of a sealed task the items go by their leaves (salted hashes) and groups by a keyed hash, so that a result can be given
to others while the items stay sealed. A result is plain JSON; its digest stands in the seal's ledger.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bessemer.errors import BessemerError
from bessemer.evaluate.controls import CONTROL_ALPHA
from bessemer.evaluate.metrics import Columns, chances, rightness
from bessemer.evaluate.overlap import Field, Overlap, Search
from bessemer.evaluate.sides import question
from bessemer.evaluate.tasks import LoadedTask
from bessemer.files import canonical_json, home, read_json, sha256_text, write_json

FORMAT = "bessemer.result/1"
Document = tuple[str, str]  # id, text


@dataclass(frozen=True)
class Fed:
    """What a search for overlap looked through. n_documents: 0 when nothing is known of what the model was fed."""

    known: bool
    n_documents: int = 0


@dataclass(frozen=True)
class TaskResult:
    """columns: the items that count. controls: items whose answers are coin flips, apart. overlap: {item: {field: ...}}
    of both; empty when nothing is known of what the model was fed. leaked: canaries that were fed to it."""

    model: str
    columns: Columns
    controls: Columns | None
    fed: Fed
    overlap: dict[str, dict[str, Any]]
    leaked: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "model": self.model,
            "columns": self.columns.as_json(),
            "controls": self.controls.as_json() if self.controls else None,
            "fed": {"known": self.fed.known, "n_documents": self.fed.n_documents},
            "overlap": self.overlap,
            "leaked": list(self.leaked),
        }

    @property
    def digest(self) -> str:
        return sha256_text(canonical_json(self.as_json()))

    @staticmethod
    def from_json(data: Mapping[str, Any], where: str = "result") -> TaskResult:
        """Raises BessemerError when the data are no result."""
        try:
            if data["format"] != FORMAT:
                raise BessemerError(f"format {data['format']!r} is not read here", where=where, fix=f"use {FORMAT}")
            controls = Columns.from_json(data["controls"]) if data["controls"] else None
            fed = Fed(bool(data["fed"]["known"]), int(data["fed"]["n_documents"]))
            overlap = {str(k): dict(v) for k, v in data["overlap"].items()}
            columns = Columns.from_json(data["columns"])
            return TaskResult(str(data["model"]), columns, controls, fed, overlap, tuple(map(str, data["leaked"])))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, BessemerError):
                raise
            raise BessemerError(f"this is no result ({type(error).__name__}: {error})", where=where) from None

    def clean(self) -> NDArray[np.bool_]:
        """Which of the items that count were not found in what the model was fed. [I]"""
        return np.array([not is_contaminated(self.overlap.get(i, {})) for i in self.columns.ids])

    def n_untold(self) -> int:
        """Items of which no overlap can be told: too short, or all of their words are the form of the task."""
        found = [self.overlap.get(i, {}) for i in self.columns.ids]
        return sum(not any(field["can_tell"] for field in fields.values()) for fields in found) if self.fed.known else 0


def is_contaminated(fields: Mapping[str, Any]) -> bool:
    return any(field["contaminated"] for field in fields.values())


# -- making one ---------------------------------------------------------------------------------------------


def find_overlap(task: LoadedTask, documents: Iterable[Document]) -> tuple[dict[str, dict[str, Any]], int]:
    """({item: {question and answer: largest overlap with a document}}, documents looked through)."""
    fields: list[Field] = []
    for n, item in enumerate(task.items):
        group = item.group or item.id
        texts = {"question": question(item.model_dump()), "answer": item.answer_text}
        fields += [Field(n, name, text, group) for name, text in texts.items() if text]
    search = Search(fields)
    n_documents = search.look(documents)
    found: dict[str, dict[str, Any]] = {item.id: {} for item in task.items}
    for overlap in search.found:
        found[task.items[overlap.item].id][overlap.field] = _plain(overlap)
    return found, n_documents


def _plain(overlap: Overlap) -> dict[str, Any]:
    return {k: v for k, v in overlap.as_dict().items() if k != "field"}


def make_result(
    model: str,
    task: LoadedTask,
    columns: Columns,
    documents: Iterable[Document] | None,
    *,
    controls: frozenset[str] = frozenset(),
    canaries: frozenset[str] = frozenset(),
) -> TaskResult:
    """documents: what the model was fed; None when nobody knows. controls: ids of items that are coin flips.

    canaries: those of the controls whose words nobody can have written: one that was fed shows that the file leaked.
    """
    overlap, n_documents = ({}, 0) if documents is None else find_overlap(task, documents)
    is_control = np.array([i in controls for i in columns.ids])
    if is_control.all():
        raise BessemerError("every item is a control", where=f"task {task.name}", fix="seal more items")
    return TaskResult(
        model,
        columns.take(~is_control),
        columns.take(is_control) if is_control.any() else None,
        Fed(n_documents > 0, n_documents),
        overlap,
        tuple(sorted(i for i in canaries if is_contaminated(overlap.get(i, {})))),
    )


def hide_items(result: TaskResult, leaves: Mapping[str, str], salt: str) -> TaskResult:
    """The same result with leaves for ids and keyed hashes for groups. leaves: {id: leaf}; salt: of the seal."""

    def hidden(columns: Columns | None) -> Columns | None:
        if columns is None:
            return None
        groups = tuple(hmac.digest(salt.encode(), g.encode(), hashlib.sha256).hex()[:16] for g in columns.groups)
        return replace(columns, ids=tuple(leaves[i] for i in columns.ids), groups=groups)

    columns = hidden(result.columns)
    assert columns is not None
    return replace(
        result,
        columns=columns,
        controls=hidden(result.controls),
        overlap={leaves[i]: fields for i, fields in result.overlap.items()},
        leaked=tuple(sorted(leaves[i] for i in result.leaked)),
    )


# -- keeping them -------------------------------------------------------------------------------------------


def path_of(digest: str) -> Path:
    return home() / "results" / f"{digest}.json"


def keep_result(result: TaskResult) -> str:
    """Write a result under its digest, safely on the disk; returns the digest."""
    digest = result.digest
    write_json(path_of(digest), result.as_json())
    return digest


def read_result(path: Path, digest: str) -> TaskResult:
    """Raises BessemerError when it is not the result of that digest."""
    data = read_json(path)
    if (got := sha256_text(canonical_json(data))) != digest:
        raise BessemerError(
            f"its content changed: sha256 {got[:12]}..., expected {digest[:12]}...",
            where=str(path),
            fix="restore it from a copy; a sealed task is scored once for each model",
        )
    return TaskResult.from_json(data, str(path))


# -- what the controls say ----------------------------------------------------------------------------------


def judge_controls(result: TaskResult) -> dict[str, Any] | None:
    """Right answers on coin flips against chance; None without controls. seen: more than luck explains."""
    if result.controls is None:
        return None
    right = float(rightness(result.controls).sum())
    chance = float(chances(result.controls).mean())
    p = tail_p(math.floor(right + 1e-9), len(result.controls), chance)
    return {"n": len(result.controls), "right": round(right, 3), "chance": chance, "p": p, "seen": p < CONTROL_ALPHA}


def tail_p(right: int, n: int, chance: float) -> float:
    """Probability of at least so many right ones of n by luck (binomial)."""
    if right <= 0:
        return 1.0
    if not 0 < chance < 1:
        return float(chance >= 1)
    logs = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        + k * math.log(chance) + (n - k) * math.log1p(-chance)
        for k in range(right, n + 1)
    )  # fmt: skip
    return min(1.0, math.fsum(map(math.exp, logs)))
