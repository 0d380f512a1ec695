"""A user's function runs, and can reach nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bessemer.errors import BessemerError
from bessemer.rewards.sandbox import call_function

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is missing: apt install bubblewrap")


def scorer(folder: Path, code: str) -> Path:
    file = folder / "score.py"
    file.write_text(code)
    return file


def test_values_come_back_in_order(tmp_path: Path) -> None:
    file = scorer(tmp_path, "def score(item, answer):\n    print('noise')\n    return item['wanted'] == answer\n")
    calls = [({"wanted": str(i)}, "3") for i in range(5)]
    assert call_function(file, "score", calls) == [0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    "attack",
    [
        "open('/etc/passwd').read()",
        "__import__('os').listdir('/home')",
        "open('/usr/bin/x', 'w')",
        "assert not __import__('ctypes').CDLL(None).mount(b'none', b'/usr', None, 32 | 4096, None)",  # writable anew
        "__import__('socket').create_connection(('127.0.0.1', PORT), timeout=2)",
        "bytearray(2 << 30)",
        "__import__('os').environ['SECRET']",
        "open('/x', 'w')",
        "open('/dev/x', 'w')",
    ],
)
def test_nothing_of_the_host_is_reached(tmp_path: Path, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setenv("SECRET", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        attack = attack.replace("PORT", str(server.getsockname()[1]))
        file = scorer(tmp_path, f"def score(item, answer):\n    {attack}\n    return 1\n")
        with pytest.raises(BessemerError, match="call 1 of 1 failed"):
            call_function(file, "score", [({}, "")])


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("def score(item, answer): return 2", "gave '2'"),
        ("def score(item, answer): return float('nan')", "gave 'nan'"),
        ("def score(item, answer): raise KeyError('x')", "KeyError"),
        ("def other(): pass", "KeyError: 'score'"),
        ("def score(:", "SyntaxError"),
        ("import os\ndef score(item, answer): os._exit(3)", "ended after 0 of 1 calls"),
        ("import os\ndef score(item, answer): os.write(2, b'\\xff gone'); os._exit(3)", "calls: \ufffd gone"),
        ("import os\ndef score(item, answer): os.write(3, b'[1]\\nx\\n')", "ended after 0 of 1 calls"),
        ("def score(item, answer):\n    while True: print('x' * 100_000)", "File too large|ended after 0 of 1"),
        (
            "def score(item, answer):\n    for name in 'ab': open(name, 'wb').write(bytes(10 << 20))",
            "No space left",
        ),
    ],
)
def test_faults_are_named(tmp_path: Path, code: str, wanted: str) -> None:
    with pytest.raises(BessemerError, match=wanted):
        call_function(scorer(tmp_path, code), "score", [({}, "")])


def test_an_endless_call_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bessemer.rewards.sandbox.START_S", 0.5)
    file = scorer(tmp_path, "def score(item, answer):\n    while answer == 'b': pass\n    return 1\n")
    with pytest.raises(BessemerError, match="call 2 of 2|ended after 1 of 2"):
        call_function(file, "score", [({}, "a"), ({}, "b")], seconds_each=0.3)


def test_without_bubblewrap_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(BessemerError, match="bubblewrap is missing"):
        call_function(scorer(tmp_path, "def score(item, answer): return 1"), "score", [({}, "")])
