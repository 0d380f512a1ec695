"""What is said at the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from bessemer.registry.store import StoredRelease
from bessemer.registry.summary import closing_lines
from tests.registry.example import make_scorecard


def sample(comment: str, wanted: str, before: str, after: str) -> dict[str, object]:
    messages = [{"role": "user", "content": comment}]
    return {"title": "rules", "messages": messages, "wanted": wanted, "before": before, "after": after}


NEVER = sample("never", "yes", "no (51%)", "no (51%)")
ALWAYS = sample("always", "no", "no (84%)", "no (94%)")
LEARNT = sample("learnt", "yes", "no (87%)", "yes (94%)")


@pytest.mark.parametrize(
    ("samples", "shown"), [([NEVER, ALWAYS, LEARNT], "learnt"), ([NEVER, ALWAYS], "never"), ([], None)]
)
def test_what_to_try_is_what_was_learnt(samples: list[dict[str, object]], shown: str | None, tmp_path: Path) -> None:
    release = StoredRelease("house-rules", 1, tmp_path, "a" * 64, {})
    lines = closing_lines(make_scorecard() | {"samples": samples}, release, tmp_path)
    assert [line for line in lines if "user:" in line] == ([] if shown is None else [f"    user: {shown}"])
