from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bessemer.errors import BessemerError
from bessemer.evaluate import ledger
from bessemer.evaluate.ledger import append, read_ledger, writing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "ledger.jsonl"
    append(found, "created", name="rules", by="Ada")
    append(found, "opened", model="m" * 8, by="Zoë \n\u2028 \x7f")
    append(found, "scored", model="m" * 8, score={"auroc": 0.8125, "n": 3})
    return found


def lines_of(path: Path) -> list[str]:
    """Not splitlines: an entry may hold other characters that end a line."""
    return [line + "\n" for line in path.read_text().split("\n")[:-1]]


def test_entries_come_back_in_order_each_with_the_hash_of_the_one_before(path: Path) -> None:
    entries = read_ledger(path)
    assert [e["n"] for e in entries] == [1, 2, 3]
    assert [e["event"] for e in entries] == ["created", "opened", "scored"]
    assert [e["previous"] for e in entries] == ["0" * 64, entries[0]["hash"], entries[1]["hash"]]
    assert entries[1]["by"] == "Zoë \n\u2028 \x7f" and entries[2]["score"] == {"auroc": 0.8125, "n": 3}
    assert all(e["at"].endswith("Z") and len(e["at"]) == 20 for e in entries)
    assert path.read_bytes().count(b"\n") == 3


def test_every_flipped_bit_is_found(path: Path) -> None:
    """Anywhere: keys, values, spaces there are none, ends of lines, the very last byte."""
    sound = path.read_bytes()
    for at in range(len(sound)):
        for bit in range(8):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << bit]) + sound[at + 1 :])
            for torn_ok in (False, True):
                with pytest.raises(BessemerError, match=r"entry \d"):
                    read_ledger(path, torn_ok=torn_ok)


def test_the_entry_that_breaks_the_chain_is_named(path: Path) -> None:
    lines = lines_of(path)
    changed = lines[1].replace("Zoë", "Bob")
    for broken, what in [
        ([lines[0], changed, lines[2]], "entry 2 of the ledger was changed"),
        ([lines[0], lines[2]], "entry 2 of the ledger does not follow"),
        ([lines[1], lines[0], lines[2]], "entry 1 of the ledger does not follow"),
        ([*lines, lines[2]], "entry 4 of the ledger does not follow"),
        ([lines[0], "\n", *lines[1:]], "entry 2 of the ledger is no line that Bessemer wrote"),
        ([lines[0].replace(":", ": ", 1), *lines[1:]], "entry 1 of the ledger is no line that Bessemer wrote"),
        ([lines[0].replace('"n":1', '"n":1,"n":1'), *lines[1:]], "entry 1 of the ledger is no line"),
    ]:
        path.write_text("".join(broken))
        with pytest.raises(BessemerError, match=what) as caught:
            read_ledger(path)
        assert caught.value.where == str(path) and "copy" in caught.value.fix
        with pytest.raises(BessemerError, match=what):  # and nothing is appended to it
            append(path, "opened")
        assert path.read_text() == "".join(broken)


def test_a_cut_tail_is_found_by_who_knows_a_later_hash(path: Path) -> None:
    head = read_ledger(path)[-1]["hash"]
    append(path, "withdrawn")
    assert len(read_ledger(path, head=head)) == 4  # it has grown since
    path.write_text("".join(lines_of(path)[:2]))
    assert len(read_ledger(path)) == 2  # a sound chain
    with pytest.raises(BessemerError, match=r"is not among the 2 of the ledger: its end was cut off"):
        read_ledger(path, head=head)


def test_a_ledger_written_anew_does_not_have_the_old_head(path: Path) -> None:
    head = read_ledger(path)[-1]["hash"]
    path.unlink()
    for event in ("created", "opened", "scored"):
        append(path, event, by="Mallory")
    assert len(read_ledger(path)) == 3
    with pytest.raises(BessemerError, match="written anew"):
        read_ledger(path, head=head)


@pytest.mark.parametrize("content", [None, b""])
def test_a_ledger_that_is_missing_or_empty(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ledger.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BessemerError, match="is missing|holds no entry"):
        read_ledger(path)


# -- kills ------------------------------------------------------------------------------------------------------


def test_wherever_a_kill_tears_the_last_line_the_next_entry_repairs_it(path: Path) -> None:
    sound = path.read_bytes()
    first_two = sound[: sound.rindex(b"\n", 0, -1) + 1]
    for cut in range(len(first_two) + 1, len(sound) - 1):  # at least the newline and the last brace are missing
        path.write_bytes(sound[:cut])
        with pytest.raises(BessemerError, match=r"the last line, after entry 2, is incomplete \(\d+ bytes"):
            read_ledger(path)
        assert len(read_ledger(path, torn_ok=True)) == 2
        assert path.read_bytes() == sound[:cut]  # reading repairs nothing
        append(path, "opened", model="other")
        events = [(e["event"], e.get("removed")) for e in read_ledger(path)]
        torn = sound[len(first_two) : cut].decode()
        assert events == [("created", None), ("opened", None), ("repaired", torn), ("opened", None)]
        assert path.read_bytes().startswith(first_two)


def test_a_last_line_that_lacks_only_its_end_is_kept(path: Path) -> None:
    entries = read_ledger(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert read_ledger(path) == entries
    append(path, "opened")
    assert [e["event"] for e in read_ledger(path)] == ["created", "opened", "scored", "opened"]


@pytest.mark.parametrize("rest", [b"\0" * 40, b"{", b'{"at":"2026', '{"by":"Zoë'.encode()[:-1]])
def test_what_a_power_cut_leaves_is_repaired_too(path: Path, rest: bytes) -> None:
    path.write_bytes(path.read_bytes() + rest)
    append(path, "opened")
    assert [e["event"] for e in read_ledger(path)][-2:] == ["repaired", "opened"]


@pytest.mark.parametrize("rest", [b"12", b'{"a":1}', b"{} "])
def test_what_no_kill_leaves_is_not_repaired(path: Path, rest: bytes) -> None:
    path.write_bytes(path.read_bytes() + rest)
    before = path.read_bytes()
    for act in (lambda: append(path, "opened"), lambda: read_ledger(path, torn_ok=True)):
        with pytest.raises(BessemerError, match="entry 4 of the ledger"):
            act()
    assert path.read_bytes() == before


KILLED = """
import os, signal, sys
from pathlib import Path
from bessemer.evaluate import ledger
real = os.write
def torn(handle, content):
    real(handle, bytes(content)[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
os.write = torn
ledger.append(Path(sys.argv[1]), "scored", model="n" * 8)
"""


def test_a_process_killed_in_the_middle_of_its_line(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, path], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    with pytest.raises(BessemerError, match="is incomplete"):
        read_ledger(path)
    append(path, "scored", model="n" * 8)  # the lock died with its holder
    entries = read_ledger(path)
    assert [e["event"] for e in entries] == ["created", "opened", "scored", "repaired", "scored"]
    assert entries[3]["removed"].startswith('{"at":')


def test_a_full_disk_leaves_the_ledger_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real, calls = path.read_bytes(), os.write, list[int]()

    def full(handle: int, content: Any) -> int:
        if calls:
            raise OSError(28, "No space left on device")
        calls.append(1)
        return real(handle, bytes(content)[:20])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        append(path, "opened")
    assert calls and path.read_bytes() == before


# -- several at once ----------------------------------------------------------------------------------------------

MANY = """
import sys
from pathlib import Path
from bessemer.evaluate import ledger
for n in range(20):
    ledger.append(Path(sys.argv[1]), "opened", who=sys.argv[2], which=n)
"""


def test_processes_that_append_at_once_wait_for_each_other(path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", MANY, path, name]) for name in ("a", "b", "c")]
    assert [p.wait() for p in processes] == [0, 0, 0]
    entries = read_ledger(path)[3:]
    assert len(entries) == 60
    for name in ("a", "b", "c"):
        assert [e["which"] for e in entries if e["who"] == name] == list(range(20))


def test_what_was_read_under_the_lock_still_holds_when_it_is_added_to(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "WAIT_S", 0.1)
    with writing(path) as book:
        with pytest.raises(BessemerError, match="in use by another process"):
            append(path, "opened")
        assert book.add("opened")["n"] == 4
    assert [e["event"] for e in book.entries] == [e["event"] for e in read_ledger(path)]


def test_the_lock_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "seal").mkdir()
    append(tmp_path / "seal" / "ledger.jsonl", "created", lock=tmp_path / ".lock")
    assert [p.name for p in (tmp_path / "seal").iterdir()] == ["ledger.jsonl"]


@pytest.mark.parametrize("spell", [lambda e: json.dumps(e, indent=1).replace("\n", ""), json.dumps])
def test_another_spelling_of_the_same_entry_is_no_entry(path: Path, spell: Callable[[Any], str]) -> None:
    first, *rest = lines_of(path)
    path.write_text(spell(json.loads(first)) + "\n" + "".join(rest))
    with pytest.raises(BessemerError, match="entry 1"):
        read_ledger(path)
