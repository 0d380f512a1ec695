"""What files say of their comments, and which of those are independent of each other."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bessemer.data.items import Item
from bessemer.data.moderation import Comment
from bessemer.errors import BessemerError
from bessemer.moderate.dataset import add_version
from bessemer.moderate.labelled import Row, clusters, read_rows
from bessemer.moderate.policy import Policy


def row(identity: str, text: str, group: str = "") -> Row:
    return Row(identity, Comment(text), group=group)


def test_groups_are_clusters_and_without_them_copies_are() -> None:
    rows = [row("1", "Buy  now"), row("2", "buy now\u200b"), row("3", "this", "ann"), row("4", "other", "ann")]
    first, second, third, fourth, alone, apart = clusters([*rows, row("5", "alone"), row("6", "This", "bob")])
    assert first == second and third == fourth
    assert len({first, third, alone, apart}) == 4  # one word in two threads makes no cluster of them


def test_comments_without_text_are_no_copies() -> None:
    assert len(set(clusters([row("1", ""), row("2", "\u200b"), row("3", "comment 1"), row("4", "text")]))) == 4


def read(path: Path, policy: Policy, *rows: dict[str, Any], labels: bool = True, **how: Any) -> list[Row]:
    path.write_text("".join(json.dumps({"text": "see there", **r}) + "\n" for r in rows))
    return read_rows(str(path), policy, labels=labels, **how)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


@pytest.mark.parametrize(
    ("row", "labels"),
    [
        ({"rule": "Do not post links.", "action": "removed"}, {"no-links": True}),  # a log may quote it
        ({"rule": " do NOT post links. ", "label": 1.0}, {"no-links": True}),  # of a column with gaps pandas makes 1.0
        ({"rule": "kind", "label": 0.0}, {"kind": False}),
        ({"rule": ["kind", "no-links"], "action": "removed"}, {"kind": True, "no-links": True}),
        ({"action": "approved"}, {"kind": False, "no-links": False}),
        ({"action": "removed", "appeal": "overturned"}, {"kind": False, "no-links": False}),
        ({"broken": ["Do not post links."]}, {"kind": False, "no-links": True}),
        ({"labels": {"kind": "no", "no-links": None}}, {"kind": False}),
        ({"rule": "kind", "decision": "removed"}, {"kind": True}),
    ],
)
def test_labels(policy: Policy, path: Path, row: dict[str, Any], labels: dict[str, bool]) -> None:
    assert [r.labels for r in read(path, policy, row)] == [labels]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"rule": "R3", "action": "removed"}, "'R3' is no rule of steel-talk@2"),
        ({"rule": "kind", "label": "perhaps"}, "the label of 'kind' is neither true nor false, but 'perhaps'"),
        ({"rule": "kind", "action": "lock"}, "'lock' is no action"),
        ({"rule": "kind", "action": "removed", "appeal": "Granted (auto)"}, "is no outcome of an appeal"),
        ({"rule": {"id": "kind"}, "action": "removed"}, "the rule is no text and no list of texts"),
        ({"action": "removed"}, "the row has no labels"),
    ],
)
def test_what_a_calibration_refuses(policy: Policy, path: Path, row: dict[str, Any], what: str) -> None:
    with pytest.raises(BessemerError, match=what.replace("(", "\\(").replace(")", "\\)")):
        read(path, policy, row)


def test_a_dry_run_reads_logs_of_other_rules(policy: Policy, path: Path) -> None:
    rows = read(
        path, policy,
        {"id": 1, "rule": "R3", "action": "removed"}, {"id": 2, "rule": "R3", "action": "lock"},
        {"id": 3, "text": None}, {"id": 4, "rule": "kind", "action": "approved"},
        labels=False,
    )  # fmt: skip
    assert [(r.removed, r.labels) for r in rows] == [(True, {}), (None, {}), (None, {}), (False, {"kind": False})]
    assert rows[2].comment.text == ""


def test_comments_that_are_gone_are_left_out(policy: Policy, path: Path) -> None:
    skipped = Counter[str]()
    rows = read(path, policy, *({"id": i, "text": t, "action": "approved"} for i, t in enumerate(
        ["[removed]", " [Deleted] ", "see [removed]"])), skipped=skipped)  # fmt: skip
    assert [r.id for r in rows] == ["2"] and list(skipped.values()) == [2]
    with pytest.raises(BessemerError, match="no comments"):
        read(path, policy, {"text": "[removed]"}, labels=False)


def test_where_rows_disagree_an_appeal_and_then_the_latest_word_counts(policy: Policy, path: Path) -> None:
    def told(action: str, **more: Any) -> dict[str, Any]:
        return {"id": 1, "rule": "kind", "action": action, **more}

    one, two = told("removed", time="2026-01-02"), told("approved", time="2026-01-01")
    for rows, broken in (
        ((one, two), True), ((two, one), True), ((one, two | {"appeal": "overturned"}), False),
        ((told("removed"), told("removed", appeal="granted")), False),
    ):  # fmt: skip
        (found,) = read(path, policy, *rows)
        assert (found.labels, found.removed) == ({"kind": broken}, broken)
    for rows in ((told("removed"), told("approved")), (one, told("approved", time="last week"))):
        with pytest.raises(BessemerError, match="both breaks and keeps 'kind'"):
            read(path, policy, *rows)
        (found,) = read(path, policy, *rows, labels=False)
        assert found.labels == {} and found.removed is True


def test_the_latest_label_counts_too(policy: Policy, path: Path) -> None:
    told = [{"id": 1, "rule": "kind", "label": label, "time": f"2026-01-0{1 + label}"} for label in (True, False)]
    assert [r.labels for r in read(path, policy, *told)] == [{"kind": True}]


def test_bytes_are_no_text(policy: Policy, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"text": pyarrow.array([b"hello"], pyarrow.binary())})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(BessemerError, match="the row has no text"):
        read_rows(str(tmp_path / "rows.parquet"), policy)


def test_rows_without_ids(policy: Policy, path: Path) -> None:
    """As `review import` writes questions of comments that have none: each about one rule."""
    asked = [{"rule": rule, "label": True} for rule in ("no-links", "kind")]
    found = read(path, policy, *asked, *asked, {"text": "other", **asked[0]})
    both = {"no-links": True, "kind": True}
    assert [r.labels for r in found] == [both, both, {"no-links": True}] and len({r.id for r in found}) == 3
    assert len(read(path, policy, {}, {}, labels=False)) == 2  # copies stay copies
    assert len(read(path, policy, *asked, labels=False)) == 2  # also when moderators said different things of them


def test_a_column_of_another_meaning_is_not_read(policy: Policy, path: Path) -> None:
    rows = ({"id": i, "group": "premium", "parent": "t1_abc"} for i in range(2))
    found = read(path, policy, *rows, labels=False, columns={"group": None, "parent": None})
    assert [(r.group, r.comment.parent) for r in found] == [("", ""), ("", "")]


def test_a_data_set_whose_bytes_changed_is_not_read(bessemer_home: Path, policy: Policy) -> None:
    items = [Item(f"c{n}", text=f"Comment {n}") for n in range(9)]
    made = add_version("comments", {"texts": items}, ingredients={}, recipe={}, report={})
    assert len(read_rows("dataset:comments@1/texts", policy)) == 9
    (part,) = made.folder.glob("texts/*.parquet")
    content = bytearray(part.read_bytes())
    content[len(content) // 3] ^= 1
    part.write_bytes(content)
    with pytest.raises(BessemerError, match="bytes changed"):
        read_rows("dataset:comments@1/texts", policy)
