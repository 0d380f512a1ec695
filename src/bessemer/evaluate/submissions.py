"""What a seal's ledger tells: every model that it was opened for, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bessemer.errors import BessemerError
from bessemer.evaluate.ledger import Entry

TWICE = {("scored", "scored"), ("scored", "withdrawn"), ("withdrawn", "withdrawn")}  # (event, state before it)


@dataclass(frozen=True)
class Submission:
    """One model that a sealed task was opened for. state: opened, scored or withdrawn; a score is kept in any state.

    code_changed: files of the metric's code that are not those of the commitment.
    """

    model: str
    state: str
    by: str
    opened: str
    scored: str = ""
    result: str = ""
    score: dict[str, Any] = field(default_factory=dict[str, Any])
    withdrawn: str = ""
    withdrawn_by: str = ""
    why: str = ""
    code_changed: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"code_changed": list(self.code_changed)}


def submissions_of(entries: Sequence[Entry]) -> list[Submission]:
    """Every submission, in the order of the openings, withdrawn ones too.

    Raises BessemerError naming the first entry that could not have been made, such as a second score of a model.
    """
    facts: dict[str, dict[str, Any]] = {}
    revealed = False
    for e in entries[1:]:
        event, old = e["event"], facts.get(e.get("model", ""))
        if fault := _fault(event, old, revealed):
            raise BessemerError(
                f"entry {e['n']} of the ledger says `{event}`, but {fault}", fix="who wrote it did not use Bessemer"
            )
        if event == "opened":
            facts[e["model"]] = {"state": "opened", "by": e["by"], "opened": e["at"]}
            facts[e["model"]]["code_changed"] = tuple(e["code_changed"])
        elif event == "scored" and old is not None:
            old |= {"state": "scored", "scored": e["at"], "result": e["result"], "score": e["score"]}
            old["code_changed"] = tuple(sorted({*old["code_changed"], *e.get("code_changed", ())}))
        elif event == "withdrawn" and old is not None:
            old |= {"state": "withdrawn", "withdrawn": e["at"], "withdrawn_by": e["by"], "why": e["why"]}
        revealed = revealed or event == "revealed"
    return [Submission(model, **found) for model, found in facts.items()]


def _fault(event: str, old: dict[str, Any] | None, revealed: bool) -> str:
    """Why an entry cannot follow what was before it; empty when it can."""
    state = old["state"] if old else ""
    faults = {
        "there is no such event": event not in {"opened", "scored", "withdrawn", "revealed", "repaired"},
        "the items were revealed before it": revealed and event in {"opened", "scored", "revealed"},
        "the seal was opened for that model before": event == "opened" and state,
        "the seal was never opened for that model": event in {"scored", "withdrawn"} and not state,
        f"that model was {state} before": (event, state) in TWICE,
    }
    return next((text for text, found in faults.items() if found), "")
