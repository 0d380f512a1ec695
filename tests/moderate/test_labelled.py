"""Which comments of a file are independent of each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bessemer.data.moderation import Comment
from bessemer.moderate.labelled import Row, clusters


def row(identity: str, text: str, group: str = "") -> Row:
    return Row(identity, Comment(text), group=group)


def test_copies_and_groups_are_one_cluster() -> None:
    rows = [row("1", "Buy  now"), row("2", "buy now\u200b"), row("3", "other", "ann"), row("4", "buy now", "ann")]
    first, second, third, fourth, alone = clusters([*rows, row("5", "alone")])
    assert first == second == third == fourth != alone


def test_comments_without_text_are_no_copies() -> None:
    assert len(set(clusters([row("1", ""), row("2", "\u200b"), row("3", "group 1"), row("4", "text")]))) == 4


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz")), max_size=30))
def test_clusters_are_what_can_be_reached(pairs: list[tuple[str, str]]) -> None:
    found = clusters([row(str(i), text, group) for i, (text, group) in enumerate(pairs)])
    reached = [{i} for i in range(len(pairs))]
    for _ in pairs:
        for i, (text, group) in enumerate(pairs):
            near = (j for j, (t, g) in enumerate(pairs) if t == text or g == group)
            reached[i] = set.union(reached[i], *(reached[j] for j in near))
    assert [[found[j] == found[i] for j in range(len(pairs))] for i in range(len(pairs))] == [
        [j in reached[i] for j in range(len(pairs))] for i in range(len(pairs))
    ]
