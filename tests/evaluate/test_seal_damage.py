"""Seals that were changed by hand, killed while they were written, or used by several processes at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bessemer.errors import BessemerError
from bessemer.evaluate import ledger, seal
from bessemer.evaluate.openings import begin_opening, finish_opening, submissions
from bessemer.evaluate.seal import load, reveal, verify_reveal, verify_seal
from tests.evaluate.seals import ONE, RESULT, ROWS, TWO, events, item, make, score, sha256

# -- damage -----------------------------------------------------------------------------------------------------


def test_a_flipped_bit_in_any_artefact_is_found() -> None:
    made = make(control=10)
    score()
    reveal("rules", "Ada")
    for path in sorted(made.folder.iterdir()):
        sound = path.read_bytes()
        for at in {*range(0, len(sound), max(1, len(sound) // 25)), len(sound) - 1}:
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1 :])
            with pytest.raises(BessemerError):
                verify_seal(made.folder)
            with pytest.raises(BessemerError):
                verify_reveal(made.folder)
        path.write_bytes(sound)
    assert verify_seal(made.folder)


@pytest.mark.parametrize("name", ["commitment.json", "public.jsonl", "sealed.bin", "leaves.json", "ledger.jsonl"])
def test_a_file_that_is_missing_a_link_or_too_many(name: str, tmp_path: Path) -> None:
    made = make()
    (made.folder / name).rename(tmp_path / name)
    with pytest.raises(BessemerError, match="missing"):
        verify_seal(made.folder)
    (made.folder / name).symlink_to(tmp_path / name)  # the same bytes, but others can change them
    with pytest.raises(BessemerError, match="no plain file"):
        verify_seal(made.folder)
    (made.folder / name).unlink()
    (tmp_path / name).rename(made.folder / name)
    assert verify_seal(made.folder)
    (made.folder / "more.jsonl").write_text("{}")
    with pytest.raises(BessemerError, match=r"more\.jsonl is in the folder but not in the commitment"):
        verify_seal(made.folder)


def test_a_hand_that_also_mends_the_digests_is_caught_by_root_and_counts() -> None:
    """As far as that goes: who rewrites everything is caught by a head that someone kept."""
    made = make()

    def rewrite(name: str, text: str) -> None:
        (made.folder / name).write_text(text)
        c = json.loads((made.folder / "commitment.json").read_text())
        c["files"][name] = {"sha256": sha256(made.folder / name), "bytes": len(text.encode())}
        (made.folder / "commitment.json").write_text(json.dumps(c))
        (made.folder / "ledger.jsonl").unlink()
        facts = {"name": "rules", "by": "Mallory", "commitment": sha256(made.folder / "commitment.json")}
        ledger.append(made.folder / "ledger.jsonl", "created", lock=made.folder.parent / ".lock", **facts)

    leaves = json.loads((made.folder / "leaves.json").read_text())["leaves"]
    public = (made.folder / "public.jsonl").read_text()
    rewrite("leaves.json", json.dumps({"leaves": [leaves[1], leaves[0], *leaves[2:]]}))
    with pytest.raises(BessemerError, match="another root than the commitment"):
        verify_seal(made.folder)
    rewrite("leaves.json", json.dumps({"leaves": leaves[1:]}))
    with pytest.raises(BessemerError, match="20 public and 19 sealed items, but the commitment says 20 and 20"):
        verify_seal(made.folder)
    rewrite("leaves.json", json.dumps({"leaves": leaves}))
    rewrite("public.jsonl", public + '{"id":"new"}\n')
    with pytest.raises(BessemerError, match="21 public"):
        verify_seal(made.folder)
    rewrite("public.jsonl", public.replace("amber", "umber"))
    assert verify_seal(made.folder)  # sound in itself
    with pytest.raises(BessemerError, match="written anew"):
        verify_seal(made.folder, head=made.head)


def test_a_commitment_that_lacks_what_is_needed_is_refused_not_crashed_on(tmp_path: Path) -> None:
    made = make()
    sound = json.loads((made.folder / "commitment.json").read_text())
    broken = [{}, sound | {"format": "bessemer.seal/9"}, sound | {"files": {}}]
    broken += [{k: v for k, v in sound.items() if k != gone} for gone in seal.TERMS]
    for n, commitment in enumerate(broken):
        copied = tmp_path / str(n)
        shutil.copytree(made.folder, copied)
        (copied / "commitment.json").write_text(json.dumps(commitment))
        (copied / "ledger.jsonl").unlink()
        digest = sha256(copied / "commitment.json")
        ledger.append(copied / "ledger.jsonl", "created", lock=tmp_path / ".lock", commitment=digest)
        with pytest.raises(BessemerError, match="is not read here|the commitment has no|is about the files"):
            verify_seal(copied)


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        (["scored"], "entry 2 of the ledger says `scored`, but the seal was never opened for that model"),
        (["withdrawn"], "never opened"),
        (["opened", "opened"], "entry 3 of the ledger says `opened`, but the seal was opened for that model before"),
        (["opened", "scored", "scored"], "that model was scored before"),
        (["opened", "withdrawn", "scored"], "that model was withdrawn before"),
        (["revealed", "opened"], "the items were revealed before it"),
        (["opened", "revealed", "scored"], "the items were revealed before it"),
        (["forgiven"], "there is no such event"),
    ],
)
def test_a_sound_chain_of_what_cannot_have_happened(entries: list[str], what: str) -> None:
    made = make()
    facts: dict[str, Any] = {
        "model": ONE,
        "by": "Mallory",
        "code_changed": [],
        "result": RESULT,
        "score": {},
        "why": "x",
    }
    for event in entries:
        ledger.append(made.folder / "ledger.jsonl", event, lock=seal.lock_of("rules"), **facts)
    for act in (lambda: load("rules"), lambda: verify_seal(made.folder)):
        with pytest.raises(BessemerError, match=what):
            act()


@pytest.mark.parametrize(
    "change", [{"counts": 3}, {"files": []}, {"root": 7}, {"name": None}, {"files": {"sealed.bin": 1}}]
)
def test_a_folder_of_nonsense_is_refused_not_crashed_on(change: dict[str, Any]) -> None:
    made = make()
    sound = json.loads((made.folder / "commitment.json").read_text())
    (made.folder / "commitment.json").write_text(json.dumps(sound | change))
    (made.folder / "ledger.jsonl").unlink()
    digest = sha256(made.folder / "commitment.json")
    ledger.append(made.folder / "ledger.jsonl", "created", lock=seal.lock_of("rules"), commitment=digest)
    for act in (lambda: load("rules"), lambda: verify_seal(made.folder)):
        with pytest.raises(BessemerError):
            act()


def test_a_seal_under_another_name_is_not_that_seal() -> None:
    made = make()
    made.folder.rename(made.folder.with_name("other"))
    with pytest.raises(BessemerError, match="the commitment is of seal 'rules'"):
        load("other")


# -- kills and others at the same time --------------------------------------------------------------------------

SETUP = f"""
import os, signal, sys
from tests.evaluate.test_seal_damage import *
from bessemer import files
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
ONE, TWO = {ONE!r}, {TWO!r}
"""


def in_a_process(program: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", SETUP + program]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=root, env=dict(os.environ), stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def killed(program: str) -> None:
    process = in_a_process(program)
    _, err = process.communicate()
    assert process.returncode == -9, err


def test_killed_between_key_and_folder() -> None:
    killed("seal.new_folder = die\nmake()")
    key = seal.key_path("rules").read_bytes()
    assert seal.names() == []
    score(make().name)
    assert seal.key_path("rules").read_bytes() == key


def test_killed_when_the_folder_is_whole_but_has_no_name_yet() -> None:
    killed("files.finish_folder = die\nmake()")
    assert seal.names() == []
    verify_seal(make().folder)


def test_killed_while_the_key_is_written() -> None:
    killed("os.fsync = die\nmake()")
    assert seal.names() == [] and not seal.key_path("rules").exists()
    score(make().name)


def test_the_key_of_a_folder_that_was_moved_away_is_kept(tmp_path: Path) -> None:
    old = make()
    old.folder.rename(tmp_path / "kept")
    make(rows=ROWS[:20])
    shutil.rmtree(old.folder)
    (tmp_path / "kept").rename(old.folder)
    score()


def test_something_else_in_the_place_of_the_key_is_not_touched() -> None:
    path = seal.key_path("rules")
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(BessemerError, match=r"no key of this user alone \(4 bytes"):
        make()
    assert path.read_text() == "mine" and seal.names() == []


def test_killed_between_opened_and_scored_continues() -> None:
    make()
    killed('begin_opening("rules", model_digest=ONE, by="Ben").rows(); die()')
    assert events() == ["created", "opened"]
    with begin_opening("rules", model_digest=ONE, by="Ben") as opening:
        assert opening.continued
        finish_opening(opening, result_digest=RESULT, score={"auroc": 0.5})
    assert events() == ["created", "opened", "scored"]


TORN = """
real = os.write
def half(handle, content):
    real(handle, bytes(content)[: len(content) // 2])
    die()
"""


def test_killed_in_the_middle_of_the_line_opened() -> None:
    made = make()
    killed(TORN + 'os.write = half\nbegin_opening("rules", model_digest=ONE, by="Ben")')
    with pytest.raises(BessemerError, match="is incomplete"):
        verify_seal(made.folder)
    assert load("rules") == made and submissions("rules") == []
    score()
    assert events() == ["created", "repaired", "opened", "scored"]


def test_killed_in_the_middle_of_the_line_scored() -> None:
    make()
    killed(
        TORN + 'o = begin_opening("rules", model_digest=ONE, by="Ben")\nos.write = half\n'
        'finish_opening(o, result_digest="e" * 64, score={})'
    )
    assert submissions("rules")[0].state == "opened"  # nobody was told that it was scored
    score()
    assert events() == ["created", "opened", "repaired", "scored"]
    verify_seal(load("rules").folder)


def test_killed_between_the_entry_and_the_file_of_a_reveal() -> None:
    make()
    killed('seal.write_text = die\nreveal("rules", "Ada")')
    assert events() == ["created", "revealed"]
    with pytest.raises(BessemerError, match="no opening counts"):
        begin_opening("rules", model_digest=ONE, by="Ben")
    reveal("rules", "Ada")
    verify_reveal(load("rules").folder)


HOLD = 'o = begin_opening("rules", model_digest=ONE, by="Ben")\nprint("open", flush=True)\nsys.stdin.read()'


def test_two_processes_that_open_for_one_model_at_once() -> None:
    make()
    holder = in_a_process(HOLD)
    assert holder.stdout and holder.stdout.readline() == "open\n"
    with pytest.raises(
        BessemerError, match=rf"opening of rules for model {ONE[:12]} is in use by another process \(pid"
    ):
        begin_opening("rules", model_digest=ONE, by="Cy")
    score(model=TWO)  # another model is no matter
    holder.kill()
    holder.communicate()
    score()  # a dead holder holds nothing
    assert events() == ["created", "opened", "opened", "scored", "scored"]


def test_many_processes_at_once_leave_a_sound_ledger() -> None:
    make()
    start = time.time() + 3
    race = f'import time; time.sleep(max(0, {start} - time.time())); score("rules", model='
    racers = [in_a_process(f"{race}{digest!r})") for digest in (ONE, ONE, TWO, "3" * 64)]
    codes = []
    for racer in racers:
        _, err = racer.communicate()
        codes.append(racer.returncode)
        assert racer.returncode == 0 or "in use by another process" in err or "was scored on" in err
    assert sorted(codes) == [0, 0, 0, 1] and codes[2:] == [0, 0]
    found = events()
    assert found[0] == "created" and Counter(found[1:]) == {"opened": 3, "scored": 3}
    verify_seal(load("rules").folder)


def test_a_full_disk_leaves_no_half_seal(monkeypatch: pytest.MonkeyPatch) -> None:
    real = seal.write_json

    def full(path: Path, value: Any) -> None:
        if path.name == "commitment.json":
            raise OSError(28, "No space left on device", str(path))
        real(path, value)

    monkeypatch.setattr(seal, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        make()
    assert seal.names() == [] and not seal.folder_of("rules").exists()


@pytest.mark.parametrize("control", [0, 10])
def test_a_part_that_could_not_be_scored_is_refused_before_anything_is_sealed(control: int) -> None:
    rows = [item(n, group=f"g{n % 8}") | {"answer": "yes" if n % 8 == 0 else "no"} for n in range(40)]
    with pytest.raises(BessemerError, match=r"of the (public|sealed) part have the answer 'no'"):
        make(rows=rows, control=control)  # all that are yes are one group
    assert seal.names() == []
