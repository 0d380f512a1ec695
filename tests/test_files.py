from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer import files
from bessemer.errors import BessemerError
from bessemer.units import show_bytes


class CrashError(Exception):
    """Stands for a full disk, a kill, a bug."""


def test_a_full_disk_under_weights_is_told_as_one(tmp_path: Path) -> None:
    """safetensors' own words; a folder that is not there shows that they are its own."""
    torch = pytest.importorskip("torch")
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    words = "Error while serializing: I/O error: No space left on device (os error 28) at path"
    with pytest.raises(BessemerError, match="the disk is full(.|\n)*make room"), files.saving_weights(tmp_path):
        raise SafetensorError(words)
    with (
        pytest.raises(BessemerError, match=r"cannot be written \(.*I/O error.*os error 2"),
        files.saving_weights(tmp_path),
    ):
        save_file({"a": torch.ones(2)}, tmp_path / "absent" / "x")
    with pytest.raises(SafetensorError, match="defect"), files.saving_weights(tmp_path):
        raise SafetensorError("a defect of ours")


def test_a_device_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write_text(pipe, "hello")
    assert os.read(reader, 10) == b"hello" and pipe.is_fifo()
    os.close(reader)


# -- atomic writes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "plan.json"
    files.write_text(path, "old")

    def crash(*_: object) -> None:
        raise CrashError

    monkeypatch.setattr(os if moment == "fsync" else Path, moment, crash)
    with pytest.raises(CrashError):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    monkeypatch.undo()
    files.write_text(path, "new")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_a_kill_while_writing_leaves_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    files.write_text(path, "old")
    program = (
        "import os, signal, sys; from pathlib import Path; from bessemer import files\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_text(Path(sys.argv[1]), 'new' * 100000)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL and path.read_text() == "old"


def test_folders_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "model"
    with pytest.raises(CrashError), files.new_folder(final) as tmp:
        (tmp / "half").write_text("half")
        raise CrashError
    assert list(final.parent.iterdir()) == []
    with files.new_folder(final) as tmp:
        (tmp / "sub").mkdir()
        (tmp / "sub" / "whole").write_text("whole")
        assert not final.exists()
    assert (final / "sub" / "whole").read_text() == "whole" and list(final.parent.iterdir()) == [final]


def test_leftovers_of_a_killed_process_do_not_get_into_a_new_folder(tmp_path: Path) -> None:
    (tmp_path / ".tmp-model").mkdir()
    (tmp_path / ".tmp-model" / "old").write_text("of a killed process")
    with files.new_folder(tmp_path / "model") as tmp:
        (tmp / "new").write_text("new")
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["new"]


# -- reading and digests --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "what"), [(None, "does not exist"), (b"{", "no valid JSON"), (b"\xff", "no valid JSON")]
)
def test_unreadable_json_names_the_file(tmp_path: Path, content: bytes | None, what: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BessemerError, match=what) as caught:
        files.read_json(path)
    assert caught.value.where == str(path)


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    value = {"text": "Grüße 東京 😀\n", "n": [1, 2.5, None, True]}
    files.write_json(tmp_path / "x.json", value)
    assert files.read_json(tmp_path / "x.json") == value


def test_equal_values_have_equal_digests() -> None:
    assert files.canonical_json({"b": 1, "a": [1, "ü"]}) == '{"a":[1,"ü"],"b":1}'
    assert files.sha256_folder({"a": "1", "b": "2"}) == files.sha256_folder({"b": "2", "a": "1"})
    assert files.sha256_folder({"a": "1", "b": "2"}) != files.sha256_folder({"a": "2", "b": "1"})


def test_digest_then_check(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    found = files.digest_files(tmp_path, skip=frozenset({"b"}))
    assert list(found) == ["sub/a"] and found["sub/a"]["bytes"] == 1
    files.check_files(tmp_path, found, fix="")
    (tmp_path / "sub" / "a").write_text("b")
    with pytest.raises(BessemerError, match="its bytes changed"):
        files.check_files(tmp_path, found, fix="")


def test_home_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BESSEMER_HOME", "~/elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.home() == tmp_path / "elsewhere"
    monkeypatch.delenv("BESSEMER_HOME")
    assert files.home() == tmp_path / ".bessemer"


# -- what a folder must offer ---------------------------------------------------------------------------------


def test_a_folder_that_can_be_written_is_made_and_left_empty(tmp_path: Path) -> None:
    files.need_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")  # also root cannot write below a file
    with pytest.raises(BessemerError, match=r"cannot be written \(Not a directory\)") as caught:
        files.need_writable(tmp_path / "file" / "home")
    assert "BESSEMER_HOME" in caught.value.fix and caught.value.where == str(tmp_path / "file" / "home")


def test_too_little_disk_is_said_with_numbers(tmp_path: Path) -> None:
    files.need_disk(tmp_path, 1, "nothing")
    wanted = shutil.disk_usage(tmp_path).free + 10 * 1024**4
    with pytest.raises(BessemerError) as caught:
        files.need_disk(tmp_path, wanted, "fetching it")
    assert f"fetching it needs {show_bytes(wanted)} of disk" in caught.value.what
    assert caught.value.fix.startswith("free 10.0 TiB")


# -- locks ----------------------------------------------------------------------------------------------------

HOLD = (
    "import sys, time; from pathlib import Path; from bessemer.files import exclusive\n"
    "with exclusive(Path(sys.argv[1]), 'the run x'):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(600)"
)


def test_a_lock_refuses_the_second_and_is_freed_by_killing_the_first(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "x.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BessemerError, match="the run x is in use") as caught, files.exclusive(lock, "the run x"):
            pytest.fail("two holders")
        assert f"pid {holder.pid} on " in caught.value.what and "--set name=" in caught.value.fix
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with files.exclusive(lock, "the run x"):
        assert f"pid {os.getpid()} on " in lock.read_text()


def test_an_error_inside_frees_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    with pytest.raises(CrashError), files.exclusive(lock, "x"):
        raise CrashError
    with files.exclusive(lock, "x"):
        pass


def test_manifests_are_json_for_people(tmp_path: Path) -> None:
    files.write_json(tmp_path / "m.json", {"a": 1})
    text = (tmp_path / "m.json").read_text()
    assert text.endswith("}\n") and "\n" in text.strip() and json.loads(text) == {"a": 1}


@given(st.lists(st.integers(0, 3 * files.DIRECT_BYTES // 2), max_size=3))
@settings(max_examples=10)
def test_what_is_written_hashed_is_there_and_has_the_digest(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    """Pieces of any length, below, at and above what is written at once."""
    path = tmp_path_factory.mktemp("hashed") / "file"
    pieces = [bytes([i + 1]) * size for i, size in enumerate([*sizes, files.DIRECT_BYTES])]
    said = files.write_hashed(path, map(memoryview, pieces))
    assert path.read_bytes() == b"".join(pieces)
    assert said == {"sha256": files.sha256_file(path), "bytes": path.stat().st_size}


def test_a_file_system_that_refuses_direct_writing_gets_plain_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = os.write, list[int]()

    def write(fd: int, data: memoryview) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(len(data))
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    content = b"x" * (files.DIRECT_BYTES + 5)
    said = files.write_hashed(tmp_path / "file", [memoryview(content)])
    assert refused and (tmp_path / "file").read_bytes() == content and said["bytes"] == len(content)


def test_who_would_make_the_same_waits_and_is_told_for_whom(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom bessemer.files import exclusive\n"
        "with exclusive(Path(sys.argv[1]), 'it'):\n    print('held', flush=True)\n    sys.stdin.readline()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin and holder.stdout and holder.stdout.readline() == "held\n"
    told: list[str] = []

    def go_on(text: str) -> None:
        told.append(text)
        assert holder.stdin
        holder.stdin.write("\n")
        holder.stdin.flush()

    with files.exclusive(tmp_path / "lock", "it", wait=go_on):
        assert holder.wait() == 0 and f"it is being made by pid {holder.pid}" in told[0]
    with files.exclusive(tmp_path / "lock", "it", wait=told.append):  # nobody to wait for
        assert len(told) == 1


@pytest.mark.parametrize("full_after", [0, 2])
def test_a_full_disk_under_a_checkpoint_is_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_after: int
) -> None:
    """And not a complaint about memory that is still looked at."""
    real, written = os.write, list[int]()

    def write(fd: int, data: memoryview) -> int:
        written.append(len(data))
        if len(written) > full_after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space left") as failed:
        files.write_hashed(tmp_path / "file", [memoryview(b"x" * (3 * files.DIRECT_BYTES + 5))])
    assert failed.value.errno == errno.ENOSPC


def test_a_full_disk_under_arrays_has_its_number(tmp_path: Path) -> None:
    """numpy's own words; without the number it would be a defect of ours."""
    with pytest.raises(OSError, match="No space left.*8388608 requested") as failed, files.saving_arrays(tmp_path):
        raise OSError("8388608 requested and 4096 written")
    assert (failed.value.errno, failed.value.filename) == (errno.ENOSPC, str(tmp_path))
    with pytest.raises(PermissionError), files.saving_arrays(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_disk_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with pytest.raises(BessemerError, match="this file system has no locks"), files.exclusive(tmp_path / "l", "it"):
        pass


def test_a_disk_that_syncs_no_folders_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    number = errno.EINVAL
    files.fsync_folder(tmp_path)
    number = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        files.fsync_folder(tmp_path)
