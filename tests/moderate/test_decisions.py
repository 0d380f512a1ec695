"""The decision log and appeals: append-only, chained, without texts unless asked, and back to training data."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bessemer.data.moderation import Comment
from bessemer.errors import BessemerError
from bessemer.moderate.chain import ChainLog, find_entry, read_entries
from bessemer.moderate.decide import Known, Measured, Scale, decide
from bessemer.moderate.decisions import (
    appeal,
    appeals_folder,
    comment_key,
    decision_entry,
    hash_comment,
    read_appeals,
    suggestion,
    training_rows,
)
from bessemer.moderate.labelled import read_rows
from bessemer.moderate.logs import read_cases
from bessemer.moderate.policy import Policy, Rule
from bessemer.recipe.moderation_recipe import Log


def test_entries_are_found_by_id_and_files_rotate(tmp_path: Path) -> None:
    log = ChainLog(tmp_path, "decision", max_bytes=600)
    ids = [i for n in range(20) for i in log.write([{"n": n}, {"n": -n, "text": "ä\nb"}])]
    log.close()
    assert len(set(ids)) == 40 and len(list(tmp_path.glob("*.jsonl"))) > 3
    assert [find_entry(tmp_path, i)["n"] for i in ids] == [x for n in range(20) for x in (n, -n)]
    assert [e["id"] for e in read_entries(tmp_path, "decision")] == ids
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in tmp_path.glob("*.jsonl"))
    for wrong in ("", "decision-x-0001-0", ids[3] + "1", "../" + ids[0], ids[0].replace("-0001-", "-0099-")):
        with pytest.raises(BessemerError, match="no entry"):
            find_entry(tmp_path, wrong)


def test_an_id_that_points_nowhere(tmp_path: Path) -> None:
    identity = ChainLog(tmp_path, "decision").write([{"n": 1}])[0]
    for offset in ("9" * 18, "9" * 30, "1"):
        with pytest.raises(BessemerError, match="no entry"):
            find_entry(tmp_path, identity.rpartition("-")[0] + "-" + offset)


def test_after_a_failed_rotation_the_log_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ChainLog(tmp_path, "decision", max_bytes=1)
    ids = log.write([{"n": 0}])
    really = os.open

    def full(path: Any, flags: int, mode: int = 0o777) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("bessemer.moderate.chain.os.open", full)
    with pytest.raises(OSError, match="no space"):
        log.write([{"n": 1}])
    monkeypatch.setattr("bessemer.moderate.chain.os.open", really)
    reader, writer = os.pipe()  # may get the number that the log had
    ids += log.write([{"n": 2}]) + log.write([{"n": 3}])
    os.write(writer, b"x")
    assert os.read(reader, 1) == b"x"
    assert [e["id"] for e in read_entries(tmp_path, "decision")] == ids
    for number in (reader, writer):
        os.close(number)


def test_the_key_appears_whole_and_a_damaged_one_is_refused(bessemer_home: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: comment_key(), range(32)))
    assert len(keys) == 1 and len(keys.pop()) == 32
    path = bessemer_home / "keys" / "decisions.key"
    assert path.stat().st_mode & 0o777 == 0o600 and [p.name for p in path.parent.iterdir()] == [path.name]
    path.write_text("")  # killed before it was written
    with pytest.raises(BessemerError, match="0 characters"):
        comment_key()


def test_a_changed_or_missing_line_breaks_the_chain(tmp_path: Path) -> None:
    log = ChainLog(tmp_path, "decision", max_bytes=2000)
    for n in range(30):
        log.write([{"n": n}])
    path = sorted(tmp_path.glob("*.jsonl"))[1]
    good = path.read_text()
    lines = good.splitlines(keepends=True)
    for bad in (good.replace('"n":', '"m":', 1), "".join(lines[1:]), "".join([*lines[:2], *lines[3:]])):
        path.write_text(bad)
        with pytest.raises(BessemerError, match="does not continue"):
            list(read_entries(tmp_path, "decision"))
    path.write_text(good)
    assert len(list(read_entries(tmp_path, "decision"))) == 30
    last = sorted(tmp_path.glob("*.jsonl"))[-1]
    with last.open("a") as file:
        file.write('{"n": 99, "prev')  # a writer was killed
    assert len(list(read_entries(tmp_path, "decision"))) == 30


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ChainLog(tmp_path, "decision")
    log.write([{"n": 1}])
    real = os.write

    def half(handle: int, content: bytes) -> int:
        if len(content) > 20:
            return real(handle, content[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space"):
        log.write([{"n": 2, "text": "x" * 100}])
    monkeypatch.setattr(os, "write", real)
    log.write([{"n": 3}])
    assert [e["n"] for e in read_entries(tmp_path, "decision")] == [1, 3]


def test_threads_write_one_chain(tmp_path: Path) -> None:
    log = ChainLog(tmp_path, "decision", max_bytes=5000)
    threads = [threading.Thread(target=lambda: [log.write([{"n": n}]) for n in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(read_entries(tmp_path, "decision"))) == 200


def logged(policy: Policy, tmp_path: Path, text: str, *, keep: bool = False) -> tuple[Path, str]:
    """A decision that cites both rules."""
    decision = decide(policy, [9.0, 9.0], Known({r.id: Measured(Scale(), 0.9) for r in policy.rules}))
    entry = decision_entry(
        Comment(text), policy, decision, release="tiny@1", digest="d" * 64, canary=False, key=comment_key(), text=keep
    )
    return tmp_path, ChainLog(tmp_path, "decision").write([entry])[0]


def test_a_decision_holds_no_text_unless_asked(policy: Policy, tmp_path: Path) -> None:
    folder, identity = logged(policy, tmp_path, "see https://secret.example now")
    entry = find_entry(folder, identity)
    assert "secret" not in json.dumps(entry)
    assert entry["policy_hash"] == policy.digest and entry["digest"] == "d" * 64 and entry["action"] == "remove"
    assert entry["rules"]["no-links"] == [pytest.approx(0.999877, abs=1e-6), 0.9, "broken", "remove"]
    assert entry["comment"] == hash_comment("see\u200b https://secret.example\nnow", comment_key())
    assert entry["comment"] != hash_comment("see https://secret.example now", b"another key")
    folder, identity = logged(policy, tmp_path / "texts", "see \ud800 you", keep=True)
    assert find_entry(folder, identity)["text"] == "see ? you"


def test_appeals_become_rows_that_data_moderation_reads(policy: Policy, tmp_path: Path) -> None:
    text = "see https://x.example, all of you"
    folder, identity = logged(policy, tmp_path / "decisions", text)
    log, key = ChainLog(appeals_folder(), "appeal"), comment_key()
    assert not appeal(log, folder, identity, "overturned", key=key)["teaches"]  # nobody knows the text
    with pytest.raises(BessemerError, match="not the one"):
        appeal(log, folder, identity, "overturned", text="another text", key=key)
    with pytest.raises(BessemerError, match="no rule 'other'"):
        appeal(log, folder, identity, "overturned", rules=["other"], text=text, key=key)
    with pytest.raises(BessemerError, match="names no rule"):
        appeal(log, folder, identity, "missed", text=text, key=key)
    with pytest.raises(BessemerError, match="no entry"):
        appeal(log, folder, identity + "0", "upheld", text=text, key=key)
    appeal(log, folder, identity, "overturned", rules=["kind"], text=text, note="quoting", key=key)
    appeal(log, folder, identity, "upheld", rules=["no-links"], text=text, key=key)
    appeal(log, folder, identity, "missed", rules=["kind"], text=text, key=key)
    suggestion(
        log, Comment("be nice", "A title", "said before", "other"), policy, {"kind": False}, digest="d" * 64, key=key
    )
    rows = list(training_rows(read_appeals()))
    assert [(r["rule"], r["action"], r["appeal"], r["community"]) for r in rows] == [
        ("kind", "removed", "", "SteelTalk"),  # the last word about it
        ("no-links", "removed", "upheld", "SteelTalk"),
        ("kind", "approved", "", "other"),
    ]
    assert [(r["title"], r["parent"]) for r in rows] == [("", "")] * 2 + [("A title", "said before")]
    assert find_entry(appeals_folder(), rows[0]["id"].rpartition("/")[0])["text"] == text
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    cases = list(read_cases("appeals", Log.model_validate({"from": str(file)}), Counter(), needs_time=True))
    assert [(c.rule, c.broken, c.hard) for c in cases] == [
        ("kind", True, False),
        ("no-links", True, False),
        ("kind", False, True),
    ]


def test_rows_of_a_policy_without_a_community_say_whose_rules_they_mean(tmp_path: Path) -> None:
    """And no community: the served prompt had none."""
    entry = {"policy": "steel@3", "community": "", "comment": "c", "text": "x", "id": "1", "at": "2026-01-01"}
    rows = training_rows(iter([{**entry, "outcome": "suggested", "labels": {"kind": True}}]))
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    (case,) = read_cases("appeals", Log.model_validate({"from": str(path)}), Counter())
    assert (case.comment.community, case.declared) == ("steel", False)
    (row,) = read_rows(str(path), Policy(name="steel", rules=[Rule(id="kind", text="Be kind.")]))
    assert row.comment.community == ""


def test_the_last_ruling_counts_whoever_wrote_it_and_whichever_brought_the_text() -> None:
    def ruling(at: str, outcome: str, text: str = "") -> dict[str, Any]:
        about = {"policy": "p@1", "policy_hash": "h", "digest": "d", "community": "SteelTalk", "comment": "c"}
        found = {"id": at, "at": at, "decision": "d-1", "outcome": outcome, "labels": {"kind": outcome != "overturned"}}
        return {**about, **found, **({"text": text} if text else {})}

    def taught(*entries: dict[str, Any]) -> list[tuple[str, str]]:
        return [(r["text"], r["appeal"]) for r in training_rows(iter(entries))]

    first, last = ruling("2026-01-01T00:00:00Z", "upheld", "you fool"), ruling("2026-01-02T00:00:00Z", "overturned")
    assert taught(first, last) == taught(last, first) == [("you fool", "overturned")]
    assert taught(last) == []


def test_upheld_is_about_what_was_cited(policy: Policy, tmp_path: Path) -> None:
    """That a decision to leave a comment alone is upheld must not teach that it breaks the rule."""
    decision = decide(policy, [9.0, -9.0], Known())
    entry = decision_entry(
        Comment("be nice"), policy, decision, release="r@1", digest="d", canary=False, key=b"k", text=True
    )
    identity = ChainLog(tmp_path / "d", "decision").write([entry])[0]
    log = ChainLog(tmp_path / "a", "appeal")
    with pytest.raises(BessemerError, match="the decision found 'kind' kept"):
        appeal(log, tmp_path / "d", identity, "upheld", rules=["kind"], key=b"k")
    with pytest.raises(BessemerError, match="comments have at most"):
        appeal(log, tmp_path / "d", identity, "upheld", text="\ufdfa" * 1_000_000, key=b"k")


def test_a_text_that_is_too_long_to_be_judged_is_hashed_as_it_came() -> None:
    """One character may stand for eighteen: cleaning megabytes of them takes gigabytes."""
    long = "\ufdfa" * 1_000_000
    assert hash_comment(long, b"k") != hash_comment(long + "x", b"k")
    assert hash_comment("a  b", b"k") == hash_comment("a b", b"k")


def test_an_appeal_is_learnt_with_what_the_comment_answers(policy: Policy, tmp_path: Path) -> None:
    comment = Comment("Yes, do it", title="About iron", parent="Shall I hit it?", community="\ud800")
    decision = decide(policy, [9.0, 9.0], Known())
    entry = decision_entry(comment, policy, decision, release="r@1", digest="d", canary=False, key=b"k", text=True)
    assert entry["community"] == "?"
    identity = ChainLog(tmp_path / "d", "decision").write([entry])[0]
    log = ChainLog(tmp_path / "a", "appeal")
    kept = appeal(log, tmp_path / "d", identity, "missed", rules=["kind"], key=b"k")
    given = appeal(log, tmp_path / "d", identity, "missed", rules=["kind"], text="Yes, do it", parent="other", key=b"k")
    assert (kept["text"], kept["title"], kept["parent"]) == ("Yes, do it", "About iron", "Shall I hit it?")
    assert given["parent"] == "other"


def test_a_decision_without_findings_is_queued(policy: Policy, tmp_path: Path) -> None:
    entry = decision_entry(
        Comment(""), policy, None, release="r@1", digest="d", canary=True, key=b"k", text=True, error="comment_empty"
    )
    identity = ChainLog(tmp_path, "decision").write([entry])[0]
    found = find_entry(tmp_path, identity)
    assert found["action"] == "queue" and found["error"] == "comment_empty" and found["canary"] is True
    with pytest.raises(BessemerError, match="cites no rule"):
        appeal(ChainLog(tmp_path / "a", "appeal"), tmp_path, identity, "upheld", text="", key=b"k")
