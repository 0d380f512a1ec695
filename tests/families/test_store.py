"""Model folders behind URLs: a real object store (moto), a folder as one, a store that breaks in the middle."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import pytest

from bessemer.errors import BessemerError
from bessemer.families import catalogue, store
from bessemer.families.fetch import resolve
from bessemer.signatures import RELEASE_FORMAT, TRUSTED_KEY
from tests.families.test_fetch import add_private

WEIGHTS = "model.safetensors"


@pytest.fixture
def memory(tiny_model: Path) -> Iterator[str]:
    """A store that lies in memory and holds the tiny model and what nobody needs."""
    fs = fsspec.filesystem("memory")
    for path in tiny_model.iterdir():
        fs.pipe(f"/bucket/mine/{path.name}", path.read_bytes())
    fs.pipe("/bucket/mine/optimizer.pt", b"a pickle")
    fs.pipe("/bucket/mine/onnx/model.safetensors", b"another format")
    yield "memory://bucket/mine"
    fs.rm("/bucket", recursive=True)


def test_a_url_is_a_start_and_works_when_the_store_is_gone(memory: str, tiny_model: Path, bessemer_home: Path) -> None:
    one = resolve(memory)
    assert one.digest == resolve(str(tiny_model)).digest and one.origin == f"store {memory}"
    assert one.path.is_relative_to(bessemer_home) and not (one.path / "optimizer.pt").exists()
    fsspec.filesystem("memory").rm("/bucket", recursive=True)
    assert resolve(memory) == one
    fsspec.filesystem("memory").pipe("/bucket/nothing", b"")


def test_a_folder_of_another_disk_by_url(tiny_model: Path) -> None:
    assert resolve(f"file://{tiny_model}").digest == resolve(str(tiny_model)).digest


def test_a_changed_byte_in_the_cache_is_refused(memory: str) -> None:
    weights = resolve(memory).path / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(BessemerError, match="its bytes changed since it was fetched") as caught:
        resolve(memory)
    assert "fetched again" in caught.value.fix


def test_a_store_that_breaks_leaves_nothing_whole_and_goes_on(
    memory: str, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BLOCK_BYTES", 1 << 16)
    fs = fsspec.filesystem("memory")
    real, starts = type(fs)._open, []

    class Breaks:
        def __init__(self, file: Any, after: int) -> None:
            self.file, self.after = file, after

        def __enter__(self) -> Breaks:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def seek(self, at: int) -> None:
            starts.append(at)
            self.file.seek(at)

        def read(self, n: int) -> bytes:
            if self.file.tell() >= self.after:
                raise OSError("connection reset by peer")
            return self.file.read(n)

    limit = [500_000]
    monkeypatch.setattr(type(fs), "_open", lambda self, path, *a, **k: Breaks(real(self, path, *a, **k), limit[0]))
    with pytest.raises(BessemerError, match="the store could not deliver it") as caught:
        resolve(memory)
    assert caught.value.where == memory and "what has arrived is kept" in caught.value.fix
    assert [p for p in (bessemer_home / "cache" / "stores").iterdir() if p.is_dir() and p.name[0] != "."] == []
    limit[0] = 10**9
    starts.clear()
    assert resolve(memory).files[WEIGHTS]["bytes"] > 500_000
    assert starts == [8 * (1 << 16)]  # only the weights, from where they broke


def test_what_is_left_of_a_download_does_not_count_when_the_store_changed(
    memory: str, tiny_model: Path, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bessemer.families import download

    def fail(*_: object) -> None:
        raise OSError("the machine went down")

    monkeypatch.setattr(download, "finish_folder", fail)
    with pytest.raises(OSError, match="went down"):
        resolve(memory)
    monkeypatch.undo()
    monkeypatch.setenv("BESSEMER_HOME", str(bessemer_home))
    changed = json.dumps(json.loads((tiny_model / "generation_config.json").read_text()) | {"top_k": 7}).encode()
    fsspec.filesystem("memory").pipe("/bucket/mine/generation_config.json", changed)
    assert (resolve(memory).path / "generation_config.json").read_bytes() == changed


def whole(home: Path) -> list[str]:
    return [p.name for p in (home / "cache" / "stores").iterdir() if p.is_dir() and p.name[0] != "."]


@pytest.mark.parametrize("name", ["generation_config.json", WEIGHTS])
def test_files_of_two_versions_are_not_stitched_together(
    memory: str, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Somebody writes another version while the files are fetched: files of the same sizes."""
    fs, real, copied = fsspec.filesystem("memory"), store._copy, list[int]()
    other = fs.cat(f"/bucket/mine/{name}").replace(b"1", b"2", 1)

    def copy(opened: Any, out: Any, there: int) -> None:
        real(opened, out, there)
        copied.append(1)
        if len(copied) == 2:
            fs.pipe(f"/bucket/mine/{name}", other)

    monkeypatch.setattr(store, "_copy", copy)
    with pytest.raises(BessemerError, match=f"{name} changed in the store while the files were fetched") as caught:
        resolve(memory)
    assert caught.value.where == memory and "run it again" in caught.value.fix and whole(bessemer_home) == []
    assert (resolve(memory).path / name).read_bytes() == other


@pytest.mark.parametrize(
    "key", ["ETag", "etag", "md5Hash", "mtime", "created", "Content-MD5", "Digest", "Last-Modified"]
)
def test_whatever_tells_two_versions_apart_is_looked_at(key: str) -> None:
    one, two = (store._remote(None, {"name": "a/b", "size": 7, key: said}, "") for said in ("one", "two"))
    assert one != two and one.name == "b"


def test_a_full_disk_is_not_told_as_the_store_s_fault(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):

        def fail(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(store, "_copy", fail)
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            resolve(memory)
        assert not isinstance(caught.value, BessemerError)


# -- releases -------------------------------------------------------------------------------------------------------


@pytest.fixture
def release(memory: str) -> str:
    """The folder of a release in the store: nobody signed it."""
    fsspec.filesystem("memory").pipe("/bucket/mine/manifest.json", json.dumps({"format": RELEASE_FORMAT}).encode())
    return memory


def test_a_release_behind_a_url_is_not_opened_where_a_key_is_trusted(
    release: str, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUSTED_KEY, "release.pub")
    for _ in range(2):
        with pytest.raises(BessemerError, match="this is a release, and who signed it cannot be checked") as caught:
            resolve(release)
        assert caught.value.where == release and "whole folder" in caught.value.fix and whole(bessemer_home) == []
    monkeypatch.delenv(TRUSTED_KEY)
    found = resolve(release)
    monkeypatch.setenv(TRUSTED_KEY, "release.pub")
    with pytest.raises(BessemerError, match="this is a release"):
        resolve(release)  # that it is in the cache makes no difference
    shutil.rmtree(found.path)
    fsspec.filesystem("memory").rm("/bucket/mine/manifest.json")
    assert resolve(release).digest == found.digest  # what is there now is no release


@pytest.mark.parametrize("manifest", [b"", b"{}", b"[]", b'{"format": "of another program"}'])
def test_a_base_behind_a_url_stays_one_where_a_key_is_trusted(
    memory: str, manifest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    if manifest:
        fsspec.filesystem("memory").pipe("/bucket/mine/manifest.json", manifest)
    monkeypatch.setenv(TRUSTED_KEY, "release.pub")
    one = resolve(memory)
    fsspec.filesystem("memory").rm("/bucket", recursive=True)
    assert resolve(memory) == one  # also without the store
    fsspec.filesystem("memory").pipe("/bucket/nothing", b"")


def test_a_manifest_that_cannot_be_read_is_refused_where_a_key_is_trusted(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.filesystem("memory").pipe("/bucket/mine/manifest.json", b"{")
    resolve(memory)
    monkeypatch.setenv(TRUSTED_KEY, "release.pub")
    with pytest.raises(BessemerError, match="JSONDecodeError"):
        resolve(memory)


def test_a_model_that_cannot_be_loaded_is_refused_before_its_weights_come(memory: str, bessemer_home: Path) -> None:
    fs = fsspec.filesystem("memory")
    config = json.loads(fs.cat("/bucket/mine/config.json"))
    fs.pipe("/bucket/mine/config.json", json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}).encode())
    with pytest.raises(BessemerError, match="auto_map"):
        resolve(memory)
    assert not list(bessemer_home.glob(f"cache/stores/**/{WEIGHTS}*"))


@pytest.mark.parametrize(
    ("url", "said", "fix"),
    [
        ("memory://bucket/none", "the store could not deliver it (FileNotFoundError", "check the address"),
        ("nonesuch://bucket/mine", "the store could not deliver it (ValueError", "check the address"),
    ],
)
def test_what_is_not_there_is_one_clear_error(url: str, said: str, fix: str) -> None:
    with pytest.raises(BessemerError) as caught:
        resolve(url)
    assert said in caught.value.what and fix in caught.value.fix and caught.value.where == url


def test_pickled_weights_are_refused(memory: str) -> None:
    fs = fsspec.filesystem("memory")
    fs.mv(f"/bucket/mine/{WEIGHTS}", "/bucket/mine/pytorch_model.bin")
    with pytest.raises(BessemerError, match="no safetensors weights"):
        resolve(memory)


def test_a_private_family_in_an_object_store(memory: str, tmp_path: Path, tiny_model: Path) -> None:
    add_private(tmp_path)
    text = (catalogue.private_folder() / "mine.yaml").read_text()
    catalogue.add(text.replace(f"folder: {tmp_path}", f'url: "{memory}"'), where="mine.yaml")
    found = resolve("mine-tiny@pre")
    assert (found.stage, found.licence) == ("pre", "internal")
    wrong = text.replace(f"folder: {tmp_path}", f'url: "{memory}", digest: "{"0" * 64}"')
    catalogue.add(wrong, where="mine.yaml")
    with pytest.raises(BessemerError, match="its bytes changed: digest"):
        resolve("mine-tiny@pre")


def test_a_real_s3_server(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }.items():
            monkeypatch.setenv(name, value)
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.mkdir("bucket")
        fs.put(str(tiny_model), "bucket/mine", recursive=True)
        assert resolve("s3://bucket/mine").digest == resolve(str(tiny_model)).digest

        real, later = store._copy, [b"{{ 'of another version' }}"]
        fs.put(str(tiny_model), "bucket/changing", recursive=True)

        def copy(opened: Any, out: Any, there: int) -> None:  # the driver keeps its listing; the store moves on
            real(opened, out, there)
            if later:
                fs.pipe_file("bucket/changing/chat_template.jinja", later.pop())  # the first that was fetched

        monkeypatch.setattr(store, "_copy", copy)
        with pytest.raises(BessemerError, match=r"chat_template\.jinja changed in the store"):
            resolve("s3://bucket/changing")
        made = resolve("s3://bucket/changing").path
        assert (made / "chat_template.jinja").read_text() == "{{ 'of another version' }}"
        with pytest.raises(BessemerError, match="the store could not deliver it"):
            resolve("s3://bucket/none")
    finally:
        server.stop()
        fsspec.filesystem("s3").clear_instance_cache()  # whoever asks s3:// next has another server


def test_a_web_server_s_files_of_two_versions_are_not_stitched_together(
    tiny_model: Path, tmp_path: Path, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says when a file was changed, and no more. A download breaks; meanwhile a file of the same size comes."""
    folder, real = shutil.copytree(tiny_model, tmp_path / "served"), store._stream
    changed = folder / "generation_config.json"

    def fail(fs: Any, path: str, out: Any, there: int) -> None:
        if path.endswith(WEIGHTS):
            raise OSError("connection reset by peer")
        real(fs, path, out, there)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(store, "_stream", fail)
        with pytest.raises(BessemerError, match="the store could not deliver it"):
            resolve(url)
        assert list(bessemer_home.rglob(changed.name))
        monkeypatch.setattr(store, "_stream", real)
        changed.write_bytes(changed.read_bytes().replace(b"0", b"1", 1))
        os.utime(changed, (1, 1))
        assert (resolve(url).path / changed.name).read_bytes() == changed.read_bytes()
        server.shutdown()


def test_a_store_that_lists_no_sizes_is_asked_for_each(
    tiny_model: Path, tmp_path: Path, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As web servers' listings have none. This one gives no parts of files either, and links what is no file."""
    monkeypatch.setattr(store, "BLOCK_BYTES", 1 << 14)  # the tiny model has many
    folder, broken = shutil.copytree(tiny_model, tmp_path / "served"), list[int]()

    class Listing(SimpleHTTPRequestHandler):
        def list_directory(self, path: Any) -> Any:
            links = ["?C=N;O=D", "forbidden", *(p.name for p in folder.iterdir())]
            page = "".join(f'<a href="{name}">{name}</a>' for name in links).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            return io.BytesIO(page)

        def send_head(self) -> Any:
            if "forbidden" in self.path:
                return self.send_error(403)
            return super().send_head()

        def copyfile(self, source: Any, outputfile: Any) -> None:
            if self.path.endswith(WEIGHTS) and not broken:
                broken.append(1)
                outputfile.write(source.read(100_000))
                outputfile.flush()
                until = time.monotonic() + 20
                while not any(p.stat().st_size for p in bessemer_home.rglob(f"{WEIGHTS}.part")):
                    assert time.monotonic() < until
                    time.sleep(0.01)
                self.close_connection = True
            else:
                super().copyfile(source, outputfile)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Listing, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        with pytest.raises(BessemerError, match="the store could not deliver it"):
            resolve(url)  # it breaks in the middle
        (part,) = bessemer_home.rglob(f"{WEIGHTS}.part")
        assert part.stat().st_size > 0
        assert resolve(url).digest == resolve(str(tiny_model)).digest  # that file begins again
        server.shutdown()
