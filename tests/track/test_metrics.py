from __future__ import annotations

import json
from pathlib import Path

from bessemer.track.metrics import read_metrics


def test_ids_with_other_line_separators_are_read_back(tmp_path: Path) -> None:
    events = [{"event": "skip", "ids": ["a\u2028b", "c\u0085d"]}, {"event": "step", "step": 1}]
    text = "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in events)
    (tmp_path / "metrics.jsonl").write_text(text + '{"event": "st')
    assert read_metrics(tmp_path / "metrics.jsonl") == events
