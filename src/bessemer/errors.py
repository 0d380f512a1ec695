"""What a user sees when something is wrong: what, where, what was observed, and the fix.

Exit codes of every command are listed in `EXIT_CODES`; they are part of the interface.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

EXIT_CODES = {
    "ok": 0,  # also: verdict SHIP
    "internal": 1,  # a defect of Bessemer: a traceback is shown
    "hold": 2,  # verdict HOLD
    "reject": 3,  # verdict REJECT
    "user": 4,  # bad input, refused
    "interrupted": 130,  # Ctrl-C: checkpointed and stopped
}


class BessemerError(ValueError):
    """A mistake that the user can repair.

    what: one sentence with the observed numbers. where: a file, a recipe path or an address.
    fix: what to do now. All three are shown; nothing was half-written when this is raised.
    """

    exit_code = EXIT_CODES["user"]

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__("\n".join(filter(None, [f"{where}: {what}" if where else what, fix and f"  fix: {fix}"])))

    def fields(self) -> dict[str, Any]:
        """For JSON."""
        return {"what": self.what, "where": self.where, "fix": self.fix, "problems": []}


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe. `where` is a dotted path such as `stages[0].lr`."""

    where: str
    what: str
    fix: str = ""


class RecipeError(BessemerError):
    """All mistakes of a recipe at once."""

    def __init__(self, source: str, problems: list[Problem], *, of: str = "recipe") -> None:
        self.problems = problems
        lines = [f"  {p.where or '(top)'}: {p.what}" + (f"  -> {p.fix}" if p.fix else "") for p in problems]
        count = f"{len(problems)} mistake{'s' if len(problems) != 1 else ''}"
        super().__init__(f"{count} in the {of}\n" + "\n".join(lines), where=source)

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "problems": [vars(p) for p in self.problems]}


class StoppedByUserError(BessemerError):
    """Ctrl-C once: a checkpoint was written; the same command continues."""

    exit_code = EXIT_CODES["interrupted"]
