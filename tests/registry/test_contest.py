"""What stands against an entrant's numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bessemer.registry import contest
from bessemer.registry.contest import Contested, Entrant, _faults


@pytest.mark.parametrize(("known", "faults"), [(True, []), (False, ["words: nothing is known of what it was fed"])])
def test_unknown_training_data_are_a_fault(monkeypatch: pytest.MonkeyPatch, known: bool, faults: list[str]) -> None:
    monkeypatch.setattr(contest, "judge_controls", lambda _: None)
    monkeypatch.setattr(contest, "order_fault", lambda *_: "")
    result: Any = SimpleNamespace(
        fed=SimpleNamespace(known=known), clean=lambda: np.ones(9, bool), columns=[0] * 9, leaked=[]
    )
    task = Contested("words", "gain", {"overlap_limit": 0.05}, {"name": "words"})
    entrant = Entrant("x", "fixed data", [{}], {"name": "base"}, {}, {"words": [result]}, [], 0, 0.0, 0.0)
    assert _faults(entrant, [task]) == faults
