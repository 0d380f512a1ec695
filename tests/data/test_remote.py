"""Addresses elsewhere, against real servers on loopback: S3 (moto's server process), HTTP, and fsspec's memory."""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bessemer.data.sources import Source, read_items
from bessemer.errors import BessemerError
from bessemer.families.store import storage_options

ROWS = [{"text": f"text {i}", "year": 1850 + i} for i in range(3)]
JSONL = "".join(json.dumps(r) + "\n" for r in ROWS).encode()


def fill(folder: Path) -> Path:
    """One content in three files, and one that is no data."""
    (folder / "b").mkdir(parents=True)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(JSONL))
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "b" / "c.parquet")
    (folder / "d.csv").write_text("text,year\n" + "".join(f"{r['text']},{r['year']}\n" for r in ROWS))
    (folder / "notes.pdf").write_bytes(b"%PDF")
    return folder


def check(address: str, names: list[str]) -> Source:
    source = Source(address)
    assert [f.name for f in source.files()] == names
    items = list(source)
    assert [i.text for i in items] == [r["text"] for r in ROWS] * len(names)
    assert [i.id for i in items] == [f"{name}:{n + (name == 'd.csv')}" for name in names for n in (1, 2, 3)]
    return source


# -- S3 ---------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    port = free_port()
    program = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/moto-api/"):  # noqa: S310
                break
            assert server.poll() is None
            time.sleep(0.1)
        yield url
        server.terminate()


@pytest.fixture
def s3(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket `forge` with the files; credentials and endpoint come from the environment, as for users."""
    for key, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(key, value)
    fsspec.filesystem("s3").clear_instance_cache()  # one that an earlier test left knows another server
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/moto-api/reset", method="POST"))  # noqa: S310
    fs = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    fs.mkdir("forge")
    fs.put(str(fill(tmp_path / "bucket")) + "/", "forge/data/", recursive=True)
    fsspec.filesystem("s3").invalidate_cache()
    yield fs
    fsspec.filesystem("s3").clear_instance_cache()


def test_s3_folders_globs_and_files(s3: Any) -> None:
    whole = check("s3://forge/data", ["a.jsonl.gz", "b/c.parquet", "d.csv"])
    check("s3://forge/data/", ["a.jsonl.gz", "b/c.parquet", "d.csv"])
    check("s3://forge/data/*.gz", ["a.jsonl.gz"])
    check("s3://forge/data/**/*.parquet", ["b/c.parquet"])
    check("s3://forge/data/d.csv", ["d.csv"])
    assert all(f.tag and f.n_bytes for f in whole.files())


def test_the_digest_of_a_bucket_follows_its_bytes_without_reading_them(s3: Any) -> None:
    first = Source("s3://forge/data").digest()
    assert Source("s3://forge/data").digest() == first
    s3.pipe("forge/data/d.csv", b"text,year\nother,1\n")
    fsspec.filesystem("s3").invalidate_cache()
    assert Source("s3://forge/data").digest() != first


def test_what_a_bucket_does_not_have_is_one_clear_error(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("s3://forge/none.jsonl", "s3://nobody/x.jsonl"):
        with pytest.raises(BessemerError, match=f"{address}: it does not exist"):
            read_items(address)
    with pytest.raises(BessemerError, match="holds no files that are read"):
        read_items("s3://forge/data/*.txt")
    for address in ("s3:///x.jsonl", "s3://", "s3://A_b/x.jsonl"):
        with pytest.raises(BessemerError, match=r"cannot be read|does not exist"):
            read_items(address)
    with pytest.raises(BessemerError, match="'.pdf' files are not read"):
        read_items("s3://forge/data/notes.pdf")


def test_a_bad_row_in_a_bucket_has_its_place(s3: Any) -> None:
    s3.pipe("forge/bad/x.jsonl", JSONL + b"{\n")
    with pytest.raises(BessemerError, match=r"s3://forge/bad/x.jsonl:4:2: no valid JSON"):
        read_items("s3://forge/bad/x.jsonl")


# -- HTTP -------------------------------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


class Ranged(Quiet):
    """Answers a range of bytes, as real file servers do, and says which version of the bytes it has."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        wanted = self.headers.get("Range")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        first, last = 0, len(data) - 1
        if wanted:
            first_text, _, last_text = wanted.removeprefix("bytes=").partition("-")
            first, last = int(first_text), min(int(last_text or last), last)
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{hash(data)}"')
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[first : last + 1])

    do_HEAD = do_GET


@pytest.fixture(params=[Quiet, Ranged])
def web(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = fill(tmp_path / "web")
    handler = functools.partial(request.param, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


def test_files_of_a_web_server(web: tuple[str, Path]) -> None:
    url, folder = web
    check(f"{url}/a.jsonl.gz", ["a.jsonl.gz"])
    assert [i.id for i in Source(f"{url}/d.csv?token=x")] == ["d.csv:2", "d.csv:3", "d.csv:4"]
    first = Source(f"{url}/d.csv").digest()
    assert Source(f"{url}/d.csv").digest() == first
    (folder / "d.csv").write_text("text,year\nother,1\n")
    assert Source(f"{url}/d.csv").digest() != first


def test_parquet_of_a_web_server_whether_it_answers_ranges_or_not(web: tuple[str, Path]) -> None:
    check(f"{web[0]}/b/c.parquet", ["c.parquet"])


def test_a_long_file_is_read_to_its_end(web: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the server gives parts of it or not, and for as long as it takes: aiohttp ends a transfer after five
    minutes; here after one second."""
    import aiohttp
    from aiohttp import client

    monkeypatch.setattr(client, "DEFAULT_TIMEOUT", aiohttp.ClientTimeout(total=1))
    fsspec.get_filesystem_class("http").clear_instance_cache()
    url, folder = web
    (folder / "long.jsonl").write_bytes(b"".join(b'{"text": "%s %d"}\n' % (b"x" * 1000, n) for n in range(12_000)))
    items = iter(Source(f"{url}/long.jsonl"))
    next(items)
    time.sleep(1.5)
    assert sum(1 for _ in items) == 11_999
    assert storage_options("s3://x") == {} and storage_options(url)["client_kwargs"]["timeout"].total is None


def test_a_long_parquet_file_needs_a_server_that_gives_parts(web: tuple[str, Path]) -> None:
    url, folder = web
    rows = [{"text": os.urandom(6000).hex()} for _ in range(1200)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "long.parquet")
    if "Ranged" in os.environ["PYTEST_CURRENT_TEST"]:
        assert len(read_items(f"{url}/long.parquet")) == 1200
    else:
        with pytest.raises(BessemerError, match="the server gives no parts of files.*parquet"):
            read_items(f"{url}/long.parquet")


def test_a_missing_page_and_a_dead_server(web: tuple[str, Path]) -> None:
    with pytest.raises(BessemerError, match=r"none.jsonl: it does not exist"):
        read_items(f"{web[0]}/none.jsonl")
    with pytest.raises(BessemerError, match=r"cannot be read .*[Cc]onnect"):
        read_items(f"http://127.0.0.1:{free_port()}/x.jsonl")


class Forbids(Quiet):
    def do_GET(self) -> None:
        self.send_error(403)

    do_HEAD = do_GET


def test_what_a_web_server_refuses_is_said(tmp_path: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Forbids)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(BessemerError, match="x.jsonl: cannot be read .*403.*\n.*permissions"):
            read_items(f"http://127.0.0.1:{server.server_port}/x.jsonl")
    finally:
        server.shutdown()
        server.server_close()


class Breaks(Quiet):
    """Promises more than it sends."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(JSONL)

    do_HEAD = do_GET


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_a_connection_that_breaks_is_no_fault_of_a_row(policy: str) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Breaks)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(BessemerError, match="x.jsonl: cannot be read"):
            list(Source(f"http://127.0.0.1:{server.server_port}/x.jsonl", on_error=policy))
    finally:
        server.shutdown()
        server.server_close()


# -- any fsspec address -----------------------------------------------------------------------------------------


def test_any_file_system_of_fsspec(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(fill(tmp_path / "m")) + "/", "/forge/data/", recursive=True)
    try:
        source = check("memory://forge/data", ["a.jsonl.gz", "b/c.parquet", "d.csv"])
        first = source.digest()
        memory.pipe("/forge/data/d.csv", b"text,year\nother,1\n")
        assert Source("memory://forge/data").digest() != first
    finally:
        memory.rm("/forge", recursive=True)


def test_a_server_that_does_not_answer_is_one_clear_error() -> None:
    with pytest.raises(BessemerError, match=r"x.jsonl: cannot be read .*refused"):
        read_items(f"ftp://127.0.0.1:{free_port()}/x.jsonl")


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BessemerError, match=r"pip install 'bessemer\[gs\]'"):
        read_items("gs://bucket/x.jsonl")
    with pytest.raises(BessemerError, match="install the fsspec driver for abfs"):
        read_items("abfs://bucket/x.jsonl")
    with pytest.raises(BessemerError, match="no address .Protocol not known: s4"):
        read_items("s4://bucket/x.jsonl")


@pytest.mark.parametrize("address", ["zip://x.jsonl::file://a.zip", "tar://x.jsonl::file://a.tar", "zip://a.zip"])
def test_archives_are_not_read_through_fsspec_either(address: str) -> None:
    with pytest.raises(BessemerError, match="archives are not read"):
        read_items(address)


def test_local_text_needs_neither_pyarrow_nor_fsspec(tmp_path: Path) -> None:
    """A child that cannot import them reads JSON lines, CSV and text, and is told the extra for the rest."""
    fill(tmp_path / "x")
    program = (
        "import sys\n"
        "class Never:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.partition('.')[0] in ('pyarrow', 'fsspec', 'aiohttp'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Never())\n"
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, *r: None if n in ('pyarrow', 'fsspec') else real(n, *r)\n"
        "from bessemer.data.sources import read_items\n"
        "from bessemer.errors import BessemerError\n"
        "for address in sys.argv[1:]:\n"
        "    try: print(len(read_items(address)))\n"
        "    except BessemerError as error: print(str(error).replace(chr(10), ' '))\n"
    )
    names = ["x/a.jsonl.gz", "x/d.csv", "x/b/c.parquet"]
    command = [sys.executable, "-c", program, *(str(tmp_path / n) for n in names), "https://example.org/x.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"NO_PROXY": "*"})
    first, second, third, fourth = done.stdout.splitlines()
    assert (first, second) == ("3", "3")
    assert "pip install 'bessemer[data]'" in third and "pip install 'bessemer[data]'" in fourth
