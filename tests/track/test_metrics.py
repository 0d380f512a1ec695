from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.track import metrics
from bessemer.track.metrics import last_step, read_metrics


def test_ids_with_other_line_separators_are_read_back(tmp_path: Path) -> None:
    events = [{"event": "skip", "ids": ["a\u2028b", "c\u0085d"]}, {"event": "step", "step": 1}]
    text = "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in events)
    (tmp_path / "metrics.jsonl").write_text(text + '{"event": "st')
    assert read_metrics(tmp_path / "metrics.jsonl") == events


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["step", "probe", "skip"]), max_size=40), st.integers(1, 60), st.booleans())
def test_the_last_step_is_found_from_the_end(
    tmp_path_factory: pytest.TempPathFactory, events: list[str], block: int, torn: bool
) -> None:
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    lines = [json.dumps({"event": e, "step": n, "ids": ["a\u2028b"] * (n % 3)}) for n, e in enumerate(events)]
    path.write_text("".join(f"{line}\n" for line in lines) + '{"event": "step", "st' * torn)
    steps = [e for e in read_metrics(path) if e["event"] == "step"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "BLOCK", block)
        assert last_step(path) == (steps[-1] if steps else None)


def test_a_run_that_did_nothing_has_no_last_step(tmp_path: Path) -> None:
    assert last_step(tmp_path / "none") is None
