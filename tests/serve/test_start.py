"""`bessemer serve` as a process: what it checks before it loads, how it starts and ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import pytest

from bessemer.errors import BessemerError
from bessemer.registry.store import open_release, sign_release
from bessemer.serve import server
from bessemer.serve.keys import Key, find_key
from tests.test_signatures import write_keys
from tests.tiny import make_tiny_release

COMMAND = (sys.executable, "-c", "from bessemer.cli.main import main; main()", "serve")


def _refused(*arguments: str) -> str:
    """stderr of a server that must not start."""
    ended = subprocess.run([*COMMAND, *arguments], capture_output=True, check=False, text=True, timeout=60)
    assert ended.returncode == 4, ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    return ended.stderr


def _shown(process: subprocess.Popen[str]) -> str:
    """What a server says when it is ready."""
    assert process.stdout is not None
    shown = ""
    while "curl" not in shown:
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        shown += line
    return shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_ends_cleanly(tiny_model: Path, bessemer_home: Path, number: signal.Signals) -> None:
    make_tiny_release(tiny_model, bessemer_home)
    process = subprocess.Popen(
        [*COMMAND, "tiny", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        shown = _shown(process)
        found = re.search(r"http://127\.0\.0\.1:\d+/v1", shown)
        assert found
        file = bessemer_home / "keys" / "serve.token"
        token = file.read_text().strip()
        assert f"export OPENAI_API_KEY=$(cat '{file}')" in shown
        assert token not in shown
        with openai.OpenAI(base_url=found[0], api_key=token, max_retries=0) as client:
            answer = client.chat.completions.create(
                model="tiny@1", messages=[{"role": "user", "content": "hi"}], max_tokens=3
            )
        assert answer.system_fingerprint == open_release("tiny@1").digest
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert errors == ""
    finally:
        process.kill()


@pytest.mark.parametrize("kind", ["whole", "stream", "moderation"])
def test_who_is_still_answered_at_a_stop_is_told(tiny_model: Path, bessemer_home: Path, kind: str) -> None:
    """After the time of grace, with an error in the schema's shape, and the process ends as one that was stopped."""
    make_tiny_release(tiny_model, bessemer_home)
    slow = (  # answers that take for ever on any machine
        "import time, bessemer.serve.jobs, bessemer.serve.server as s, bessemer.moderate.judge as j\n"
        "s.GRACE_S = 1\n"
        "take = bessemer.serve.jobs.Job.run\n"
        "def run(self, loaded, cancelled):\n"
        "    for piece in take(self, loaded, lambda: False):\n"
        "        yield piece\n"
        "        print('working')\n"
        "        time.sleep(0.5)\n"
        "bessemer.serve.jobs.Job.run = run\n"
        "j.Judge.odds = lambda *_: print('working') or time.sleep(99)\n"
        "from bessemer.cli.main import main\n"
        "main()"
    )
    policy = bessemer_home / "policy.yaml"
    policy.write_text("name: steel\ncommunity: iron\nrules:\n  - {id: ore, text: No ore.}\n")
    process = subprocess.Popen(
        [sys.executable, "-c", slow, "serve", "tiny", "--port", "0", "--policy", str(policy)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        shown = _shown(process)
        url = re.search(r"http://127\.0\.0\.1:\d+", shown)
        assert url
        headers = {"Authorization": f"Bearer {(bessemer_home / 'keys' / 'serve.token').read_text().strip()}"}
        body: dict[str, object] = {"model": "tiny@1", "prompt": "iron", "max_tokens": 500, "stream": kind == "stream"}
        path, body = ("moderations", {"input": "iron"}) if kind == "moderation" else ("completions", body)
        with ThreadPoolExecutor(1) as beside:
            asked = beside.submit(httpx2.post, f"{url[0]}/v1/{path}", json=body, headers=headers, timeout=120)
            while process.stdout and process.stdout.readline() != "working\n":
                assert not asked.done(), asked.result().text
            process.send_signal(signal.SIGTERM)
            answer = asked.result()
        assert answer.status_code == (200 if kind == "stream" else 503), answer.text
        assert '"server_stopping"' in answer.text
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and errors == "", errors
    finally:
        process.kill()


def test_a_changed_byte_is_refused(tiny_model: Path, bessemer_home: Path) -> None:
    weights = make_tiny_release(tiny_model, bessemer_home) / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    message = _refused("tiny@1", "--port", "0")
    assert "model.safetensors" in message
    assert "its bytes changed" in message
    assert "must not be served" in message


def test_only_what_a_trusted_key_signed_is_served(tiny_model: Path, bessemer_home: Path, tmp_path: Path) -> None:
    make_tiny_release(tiny_model, bessemer_home)
    private, public = write_keys(tmp_path)
    assert "not signed" in _refused("tiny@1", "--port", "0", "--trust", str(public))
    sign_release("tiny@1", private)
    _, stranger = write_keys(tmp_path, "stranger")
    assert "not signed by" in _refused("tiny@1", "--port", "0", "--trust", str(stranger))
    assert server.open_model("tiny@1", public)[1].reference == "tiny@1"


def test_a_port_in_use_is_refused_before_loading(tiny_model: Path, bessemer_home: Path) -> None:
    make_tiny_release(tiny_model, bessemer_home)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = _refused("tiny", "--port", str(port))
    assert f"port {port} is in use" in message
    assert "--port 0" in message


def test_an_unknown_release_is_refused() -> None:
    assert "there is no release 'nothing'" in _refused("nothing", "--port", "0")


def test_addresses() -> None:
    with server.listen("127.0.0.1", 0) as first, pytest.raises(BessemerError, match="is in use"):
        server.listen("127.0.0.1", first.getsockname()[1])
    with pytest.raises(BessemerError, match="cannot listen"):
        server.listen("203.0.113.1", 0)


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    server.need_extras()
    monkeypatch.setattr(server, "NEEDED", ("torch", "no_such_package"))
    with pytest.raises(BessemerError, match=r"no_such_package[\s\S]*bessemer\[serve\]"):
        server.need_extras()


def test_the_verb_imports_nothing_heavy() -> None:
    code = (
        "import sys, bessemer.cli.serve, bessemer.serve.server, bessemer.serve.keys, bessemer.registry.store;"
        "print([m for m in ('torch', 'transformers', 'fastapi', 'uvicorn') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# -- tokens ------------------------------------------------------------


def test_a_token_is_made_once_and_kept_private(bessemer_home: Path) -> None:
    key = find_key("127.0.0.1")
    file = bessemer_home / "keys" / "serve.token"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert key.token == file.read_text().strip()
    assert len(key.token) >= 40
    assert find_key("localhost") == key
    assert key.token not in repr(key)


EVERYWHERE = ".".join("0000")


def test_a_token_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BESSEMER_TOKEN", "from-the-environment")
    assert find_key(EVERYWHERE) == Key("from-the-environment", "$BESSEMER_TOKEN", "BESSEMER_TOKEN")
    file = tmp_path / "token"
    file.write_text("from-the-file-0123\n")
    file.chmod(0o600)
    assert find_key(EVERYWHERE, file).token == "from-the-file-0123"
    file.chmod(0o640)
    with pytest.raises(BessemerError, match=r"other users may read[\s\S]*chmod 600"):
        find_key("127.0.0.1", file)


@pytest.mark.parametrize("token", ["short", "with spaces in the token", "ümlaut-0123456789", "line\nbreak-0123456789"])
def test_weak_tokens(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("BESSEMER_TOKEN", token)
    with pytest.raises(BessemerError, match="at least 16 characters") as caught:
        find_key("127.0.0.1")
    assert token not in str(caught.value)


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.168.0.9", "forge.example"])
def test_other_machines_need_a_token_that_was_chosen(host: str, bessemer_home: Path) -> None:
    with pytest.raises(BessemerError, match="BESSEMER_TOKEN"):
        find_key(host)
    assert not (bessemer_home / "keys").exists()


def test_a_missing_token_file(tmp_path: Path) -> None:
    with pytest.raises(BessemerError, match="cannot be read"):
        find_key("127.0.0.1", tmp_path / "none")


def _policy(path: Path, text: str) -> Path:
    path.write_text(f"name: steel\nrules:\n  - {{id: ore, text: {text}}}\n")
    return path


def test_its_own_policy_may_be_named(tiny_model: Path, bessemer_home: Path, tmp_path: Path) -> None:
    """As its answers name it; one reference never has two contents."""
    make_tiny_release(tiny_model, bessemer_home)
    path = _policy(tmp_path / "steel.yaml", "No ore.")
    process = subprocess.Popen(
        [*COMMAND, "tiny", "--port", "0", "--policy", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        found = re.search(r"http://127\.0\.0\.1:\d+/v1", _shown(process))
        assert found
        headers = {"Authorization": f"Bearer {(bessemer_home / 'keys' / 'serve.token').read_text().strip()}"}
        with httpx2.Client(headers=headers) as http:
            first = http.post(f"{found[0]}/moderations", json={"input": "no ore"}).json()
            again = http.post(f"{found[0]}/moderations", json={"input": "no ore", "policy": first["policy"]})
        assert first["policy"] == "steel@1" and again.json()["policy_hash"] == first["policy_hash"]
    finally:
        process.kill()
        process.communicate()
    assert "steel@1 is stored with other content" in _refused("tiny", "--policy", str(_policy(path, "No slag.")))


def test_a_rule_that_leaves_no_room_is_told_at_the_start(tiny_model: Path, bessemer_home: Path, tmp_path: Path) -> None:
    make_tiny_release(tiny_model, bessemer_home)
    long = _policy(tmp_path / "steel.yaml", " ".join(["ore"] * 1000))
    shown = subprocess.run(
        [*COMMAND, "tiny", "--port", "0", "--policy", str(long)],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert shown.returncode == 4 and "Traceback" not in shown.stderr and "rules.ore" in shown.stderr, shown
    assert "curl" not in shown.stdout
