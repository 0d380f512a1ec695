"""What a policy would do to past comments, from answers that are given."""

from __future__ import annotations

from bessemer.data.moderation import Comment
from bessemer.moderate.decide import Known, Measured, Scale
from bessemer.moderate.dry_run import Judged, dry_run
from bessemer.moderate.labelled import Row
from bessemer.moderate.policy import Policy, Rule


def test_what_moderators_let_stand_comes_first() -> None:
    policy = Policy(name="p", rules=[Rule(id="a", text="No a.", action="remove")])
    rows = [Row(i, Comment(f"x {i}"), removed=removed) for i, removed in (("1", False), ("2", True), ("3", False))]
    found = dry_run(policy, Judged(rows, [[4.0], [3.0], [-4.0]], []), Known({"a": Measured(Scale(), 0.9)}))
    rule = found["rules"]["a"]
    assert rule["words"]["broken"]["n"] == 2 == found["volumes"]["remove"]["n"]
    assert rule["approved_by_moderators"] == 1 and rule["expected_false_positives"] == 0.07
    assert [f["id"] for f in rule["likely_false_positives"]] == ["1", "2"]
    assert [f["approved_by_moderators"] for f in rule["likely_false_positives"]] == [True, False]


def test_of_those_that_nobody_judged_the_least_sure_come_first() -> None:
    policy = Policy(name="p", rules=[Rule(id="a", text="No a.", action="remove")])
    rows = [Row(str(i), Comment(f"x {i}")) for i in range(3)]
    found = dry_run(policy, Judged(rows, [[4.0], [2.5], [3.0]], []), Known({"a": Measured(Scale(), 0.9)}))
    assert [f["id"] for f in found["rules"]["a"]["likely_false_positives"]] == ["1", "2", "0"]
