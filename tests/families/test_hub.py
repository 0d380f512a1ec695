"""The real huggingface_hub in a process of its own, against a small server that speaks the hub's protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bessemer.files import sha256_file
from bessemer.signatures import RELEASE_FORMAT, TRUSTED_KEY
from tests.hub import NEW, OLD, Hub, serve

REPO = "tests/tiny"
PROGRAM = """
import sys
from bessemer.errors import BessemerError
from bessemer.families.fetch import resolve
try:
    found = resolve(sys.argv[1])
    print(found.digest, found.origin, found.name, found.path, sep="\\n")
except BessemerError as error:
    print(error)
    sys.exit(error.exit_code)
"""
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tiny_model: Path) -> Iterator[Hub]:
    files = {p.name: p.read_bytes() for p in tiny_model.iterdir()}
    commits = {
        OLD: {**files, "evil.py": b"raise SystemExit", "onnx/model.safetensors": b"another format"},
        NEW: {**files, "LICENSE": b"Apache-2.0"},
    }
    branches = {"stage1-step-40000": NEW, "stage1-step-80000": OLD}
    with serve(Hub(REPO, commits=commits, branches=branches)) as found:
        yield found


def resolve(
    hub_url: str, start: str, *, offline: bool = False, token: str = "", program: str = PROGRAM
) -> subprocess.CompletedProcess[str]:
    settings = {
        "HF_ENDPOINT": hub_url,
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": token,
        "HF_HOME": "/nonexistent",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-c", program, start]
    return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False, timeout=120)


def snapshots(home: Path) -> list[str]:
    """Whole models of the cache."""
    return sorted(p.name for p in home.glob("cache/hub/models/*/*") if p.is_dir() and not p.name.startswith("."))


# The library hands on pieces of 10 MiB, which is more than the tiny model has.
SMALL_PIECES = "import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE = 1 << 14\n" + PROGRAM


def test_a_hub_id_is_pinned_to_its_commit_and_works_offline(hub: Hub, bessemer_home: Path) -> None:
    first = resolve(hub.url, REPO)
    assert first.returncode == 0, first.stdout + first.stderr
    digest, origin, name, folder = first.stdout.splitlines()
    assert (origin, name) == (f"hub {REPO} at commit {OLD}", REPO)
    assert Path(folder).is_relative_to(bessemer_home)
    assert {p.name for p in Path(folder).iterdir()} == set(hub.commits[NEW]) - {"LICENSE"}
    assert not any("evil.py" in path or "onnx" in path for path in hub.asked if "resolve" in path)

    hub.main = NEW  # the branch moves; a start that was resolved once stays where it was
    n_asked = len(hub.asked)
    assert resolve(hub.url, REPO).stdout.splitlines()[:2] == [digest, origin]
    assert resolve("http://127.0.0.1:9", REPO, offline=True).stdout.splitlines()[:2] == [digest, origin]
    assert resolve("http://127.0.0.1:9", REPO).stdout.splitlines()[:2] == [digest, origin]  # the hub is down
    assert len(hub.asked) == n_asked  # nothing is asked once it is here


def test_the_size_is_said_before_anything_is_fetched(hub: Hub) -> None:
    found = resolve(hub.url, REPO)
    assert found.stderr.startswith(f"{REPO}: fetching ") and "MiB" in found.stderr.splitlines()[0]


def test_a_commit_or_a_branch_can_be_named(hub: Hub) -> None:
    for revision in (NEW, "stage1-step-40000"):
        found = resolve(hub.url, f"{REPO}@{revision}")
        assert found.stdout.splitlines()[1] == f"hub {REPO} at commit {NEW}", found.stdout + found.stderr


@pytest.mark.parametrize("start", ["tests/none", f"{REPO}@{'c' * 40}", "bad--name/..x"])
def test_what_the_hub_does_not_have_is_one_clear_error(hub: Hub, start: str, bessemer_home: Path) -> None:
    found = resolve(hub.url, start)
    assert found.returncode == 4, found.stderr
    assert found.stdout.startswith(f"{start}: the hub could not deliver it") and "fix: " in found.stdout
    assert not list((bessemer_home / "cache" / "hub").glob("*.json"))  # nothing was pinned


def test_a_branch_that_is_not_there_names_the_nearest(hub: Hub) -> None:
    found = resolve(hub.url, f"{REPO}@stage1-step-41000")
    assert found.returncode == 4 and "has no such revision" in found.stdout
    assert "the nearest: stage1-step-40000, stage1-step-80000" in found.stdout


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_that_cannot_be_reached_is_one_clear_error(offline: bool) -> None:
    found = resolve("http://127.0.0.1:9", REPO, offline=offline)
    assert found.returncode == 4, found.stderr
    assert found.stdout.startswith(f"{REPO}: the hub could not deliver it")


@pytest.mark.parametrize("private", [True, False])
def test_a_gated_model_without_a_token_says_what_to_do(hub: Hub, private: bool) -> None:
    hub.token, hub.private = "hf_right", private
    found = resolve(hub.url, REPO)
    assert found.returncode == 4 and "wants its terms accepted first (no token is set)" in found.stdout
    assert f"https://huggingface.co/{REPO}" in found.stdout and "HF_TOKEN" in found.stdout
    assert resolve(hub.url, REPO, token="hf_right").returncode == 0


@pytest.mark.parametrize("private", [True, False])
def test_an_expired_token_is_refused_and_never_shown(hub: Hub, private: bool) -> None:
    hub.token, hub.private = "hf_right", private
    found = resolve(hub.url, REPO, token="hf_expired_secret")
    assert found.returncode == 4 and "expired" in found.stdout and "HF_TOKEN" in found.stdout
    assert "hf_expired_secret" not in found.stdout + found.stderr


def test_a_broken_download_is_not_taken_for_whole_and_goes_on(hub: Hub, bessemer_home: Path) -> None:
    size = len(hub.commits[OLD][WEIGHTS])
    hub.cut, hub.cuts = size // 3, 1
    broken = resolve(hub.url, REPO, program=SMALL_PIECES)
    assert broken.returncode == 4, broken.stdout + broken.stderr
    assert "the hub could not deliver it" in broken.stdout and "what has arrived is kept" in broken.stdout
    assert snapshots(bessemer_home) == []
    offline = resolve("http://127.0.0.1:9", REPO, offline=True)
    assert offline.returncode == 4 and snapshots(bessemer_home) == []

    hub.down = False
    again = resolve(hub.url, REPO)
    assert again.returncode == 0, again.stdout + again.stderr
    kept = int(hub.ranges[0].removeprefix("bytes=").removesuffix("-"))
    assert "the rest is there" in again.stderr and len(hub.ranges) == 1 and size // 4 < kept <= size // 3
    assert sha256_file(Path(again.stdout.splitlines()[3]) / WEIGHTS) == sha256_of(hub, WEIGHTS)


def sha256_of(hub: Hub, name: str) -> str:
    import hashlib

    return hashlib.sha256(hub.commits[OLD][name]).hexdigest()


def test_a_short_break_is_mended_in_the_same_run(hub: Hub) -> None:
    hub.cut, hub.cuts = len(hub.commits[OLD][WEIGHTS]) * 2 // 3, 2  # the first time; what is left is shorter
    assert resolve(hub.url, REPO, program=SMALL_PIECES).returncode == 0 and len(hub.ranges) == 1


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_other_bytes_than_the_hub_says_are_refused(hub: Hub, name: str, bessemer_home: Path) -> None:
    hub.liar = name
    found = resolve(hub.url, REPO)
    assert found.returncode == 4 and f"{name} came with other bytes" in found.stdout, found.stdout + found.stderr
    assert snapshots(bessemer_home) == []
    hub.liar = ""
    assert resolve(hub.url, REPO).returncode == 0


def test_pickled_weights_are_refused_before_anything_is_fetched(hub: Hub) -> None:
    files = hub.commits[OLD]
    files["pytorch_model.bin"] = files.pop(WEIGHTS)
    found = resolve(hub.url, REPO)
    assert found.returncode == 4 and "only pytorch_model.bin (a pickle" in found.stdout
    assert not any("resolve" in path for path in hub.asked)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "code of its own (auto_map)"),
        ({"model_type": "nonesuch"}, "no causal language model of the architecture 'nonesuch'"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_refused_before_its_weights_are_fetched(
    hub: Hub, change: dict[str, object], said: str
) -> None:
    files = hub.commits[OLD]
    files["config.json"] = json.dumps({**json.loads(files["config.json"]), **change}).encode()
    found = resolve(hub.url, REPO)
    assert found.returncode == 4 and said in found.stdout, found.stdout + found.stderr
    assert hub.sent.get(WEIGHTS, 0) == 0


def test_shards_are_fetched_with_their_index(hub: Hub, tiny_model: Path, tmp_path: Path, bessemer_home: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(tmp_path, max_shard_size="700KB")
    shards = {p.name: p.read_bytes() for p in tmp_path.glob("model*")}
    assert len(shards) > 2
    files = hub.commits[OLD]
    files.pop(WEIGHTS)
    files.update({**shards, "consolidated.safetensors": b"the same weights once more"})
    found = resolve(hub.url, REPO)
    assert found.returncode == 0, found.stdout + found.stderr
    names = {p.name for p in Path(found.stdout.splitlines()[3]).iterdir()}
    assert set(shards) <= names and "consolidated.safetensors" not in names

    hub.main = NEW
    hub.commits[NEW].pop(WEIGHTS)
    hub.commits[NEW].update(shards)
    gone = max(n for n in shards if n.endswith(".safetensors"))
    hub.commits[NEW].pop(gone)
    found = resolve(hub.url, f"{REPO}@{NEW}")
    assert found.returncode == 4 and f"shards are missing, first {gone}" in found.stdout
    assert len(snapshots(bessemer_home)) == 1


def test_too_little_disk_is_said_with_the_bytes_that_are_needed(hub: Hub, bessemer_home: Path) -> None:
    full = "import shutil\nshutil.disk_usage = lambda _: shutil._ntuple_diskusage(1, 1, 1000)\n" + PROGRAM
    found = resolve(hub.url, REPO, program=full)
    assert found.returncode == 4 and "MiB of disk, 1,000 B are free" in found.stdout.replace("1000 B", "1,000 B")
    assert not any("resolve" in path for path in hub.asked) and snapshots(bessemer_home) == []


def test_a_full_disk_is_not_told_as_the_hub_s_fault(hub: Hub) -> None:
    full = (
        "import os, huggingface_hub.file_download as f\n"
        "def fail(*_, **__):\n    raise OSError(28, os.strerror(28))\n"
        "f.http_get = fail\n"
    )
    found = resolve(hub.url, REPO, program=full + PROGRAM)
    assert found.stderr.endswith("OSError: [Errno 28] No space left on device\n") and not found.stdout


def test_a_release_on_the_hub_is_not_opened_where_a_key_is_trusted(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commits[OLD]["manifest.json"] = json.dumps({"format": RELEASE_FORMAT}).encode()
    hub.commits[NEW]["manifest.json"] = b'{"format": "of another program"}'
    assert resolve(hub.url, REPO).returncode == 0
    monkeypatch.setenv(TRUSTED_KEY, "release.pub")
    found = resolve(hub.url, REPO)
    assert found.returncode == 4 and f"{REPO}: this is a release, and who signed it" in found.stdout
    assert resolve(hub.url, f"{REPO}@{NEW}").returncode == 0


def test_weights_that_transformers_would_pass_over_are_refused_before_anything_is_fetched(hub: Hub) -> None:
    files = hub.commits[OLD]
    files["consolidated.safetensors"] = files.pop(WEIGHTS)
    found = resolve(hub.url, REPO)
    assert found.returncode == 4 and "only consolidated.safetensors, which transformers does not load" in found.stdout
    assert not any("resolve" in path for path in hub.asked)


def test_a_changed_byte_in_the_cache_is_refused_with_the_remedy(hub: Hub) -> None:
    weights = Path(resolve(hub.url, REPO).stdout.splitlines()[3]) / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    found = resolve(hub.url, REPO)
    assert found.returncode == 4 and "its bytes changed" in found.stdout and "fetched again" in found.stdout
