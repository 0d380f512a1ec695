"""Addresses -> files -> items: what is listed, in which order, under which ids, and what a policy does."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bessemer.data.columns import row_of
from bessemer.data.items import Item
from bessemer.data.sources import Source, quarantine_path, read_items
from bessemer.errors import BessemerError
from bessemer.files import digest_files, write_json


def write(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "1", "text": "one", "licence": "MIT"}\n\n{"text": "two"}\n')
    (tmp_path / "b.csv").write_text('text,year\n"three, with comma",1856\n')
    (tmp_path / "c.md").write_text("# four")
    write(tmp_path / "d" / "x.jsonl" / "part.jsonl", {"text": "five"})  # a folder may be named like a file
    (tmp_path / "ignored.bin").write_bytes(b"\x00")
    write(tmp_path / ".hidden" / "x.jsonl", {"text": "never"})
    (tmp_path / "d" / "back").symlink_to(tmp_path)
    items = read_items(str(tmp_path))
    assert [i.text for i in items] == ["one", "two", "three, with comma", "# four", "five"]
    assert items[0].id == "1" and items[0].meta == {"licence": "MIT"}
    assert items[1].id == "a.jsonl:3" and items[-1].id == "d/x.jsonl/part.jsonl:1"


def test_a_glob_and_a_moved_folder_give_the_same_ids(tmp_path: Path) -> None:
    for n in (1, 2):
        write(tmp_path / "a" / f"p{n}" / "x.jsonl", {"text": f"text {n}"})
    whole = read_items(str(tmp_path / "a"))
    assert [i.id for i in whole] == ["p1/x.jsonl:1", "p2/x.jsonl:1"]
    assert read_items(str(tmp_path / "a" / "*" / "*.jsonl")) == whole
    assert read_items(str(tmp_path / "a" / "**" / "*.jsonl")) == whole
    (tmp_path / "a").rename(tmp_path / "b")
    assert read_items(str(tmp_path / "b")) == whole


def test_files_can_be_read_one_by_one_and_in_other_processes(tmp_path: Path) -> None:
    for n in range(3):
        write(tmp_path / f"{n}.jsonl", *({"body": f"text {n} {i}", "content": "c"} for i in range(n + 1)))
    source = Source(str(tmp_path), columns={"text": "body"})
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own
    assert [i for f in copy.files() for i in copy.read(f)] == list(source)
    assert [f.name for f in source.files()] == ["0.jsonl", "1.jsonl", "2.jsonl"]
    assert copy.digest() == source.digest()


def test_the_digest_follows_bytes_names_and_settings_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a" / "x.jsonl", {"text": "one", "body": "two"})
    first = Source(str(path.parent)).digest()
    (tmp_path / "a").rename(tmp_path / "b")
    moved = tmp_path / "b"
    assert Source(str(moved)).digest() == first
    assert Source(str(moved), columns={"text": "body"}).digest() != first
    (moved / "x.jsonl").rename(moved / "y.jsonl")
    assert Source(str(moved)).digest() != first
    (moved / "y.jsonl").rename(moved / "x.jsonl")
    write(moved / "x.jsonl", {"text": "one", "body": "tvo"})
    assert Source(str(moved)).digest() != first
    assert Source("bessemer:python/topics").digest() == Source("bessemer:python/topics").digest()


# -- policies ---------------------------------------------------------------------------------------------------


def test_skipped_rows_are_counted_and_listed_once_however_often_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n{"text": null}\n[]\n{"text": "b"}\n')
    source = Source(str(path), on_error="skip")
    for _ in range(2):
        assert [i.id for i in source] == ["x.jsonl:1", "x.jsonl:5"]
    assert source.refused.n == 3
    assert source.refused.reasons == {
        "no valid JSON": 1,
        "no text in column 'text'": 1,
        "a row must be a JSON object": 1,
    }
    assert source.refused.counts.keys() == {"x.jsonl"}


def test_quarantine_keeps_the_raw_row_once(tmp_path: Path, bessemer_home: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "caf\xe9"}\n{"other": "Gr\xc3\xbc\xc3\x9fe"}\n')
    source = Source(str(path), on_error="quarantine")
    for _ in range(2):
        assert len(list(source)) == 1
    (kept,) = (bessemer_home / "quarantine").iterdir()
    assert kept == quarantine_path(source, source.files()[0])
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [(r["line"], r["raw"]) for r in rows] == [(2, '{"text": "caf\\xe9"}\n'), (3, '{"other": "Grüße"}')]
    assert rows[0]["address"] == str(path) and rows[0]["column"] == 14
    path.write_bytes(b'{"text": "a"}\n')  # repaired
    assert len(list(source)) == 1 and not kept.exists()


def test_a_reading_that_stops_early_leaves_nothing_half_written(tmp_path: Path, bessemer_home: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('bad\n{"text": "a"}\n{"text": "b"}\n')
    reading = iter(Source(str(path), on_error="quarantine"))
    next(reading)
    del reading
    assert not list((bessemer_home / "quarantine").iterdir())


def test_a_full_disk_is_one_clear_error(tmp_path: Path, disk_of: Callable[[str], Path]) -> None:
    full = disk_of("64k") / "quarantine"
    path = write(tmp_path / "x.jsonl", {"text": "a"}, *[{"other": "x" * 5000}] * 100)
    with pytest.raises(BessemerError, match=r"refused rows cannot be kept \(No space left"):
        list(Source(str(path), on_error="quarantine"))
    assert not list(full.iterdir())


@pytest.mark.parametrize("policy", ["skip", "quarantine"])
def test_a_source_without_a_row_left_is_refused_with_the_counts(tmp_path: Path, policy: str) -> None:
    path = write(tmp_path / "x.jsonl", {}, {}, [])
    with pytest.raises(BessemerError, match=r"3 were refused: 2 x no text column; 1 x a row must be"):
        list(Source(str(path), on_error=policy, where="sources.x.from"))


def test_repeated_ids_name_both_places(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"id": "x", "text": "1"}, {"id": 7, "text": "2"})
    write(tmp_path / "b.jsonl", {"id": "y", "text": "3"}, {"id": "7", "text": "4"})
    with pytest.raises(BessemerError, match=r"b.jsonl:2: an id stands twice \('7', first in .*a.jsonl:2\)"):
        read_items(str(tmp_path))
    source = Source(str(tmp_path), on_error="skip")
    assert [i.text for i in source] == ["1", "2", "3"] and source.refused.reasons == {"an id stands twice": 1}


# -- addresses that do not work ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "kind", "match"),
    [
        ("none.jsonl", None, "documents", "does not exist"),
        ("x.pdf", b"x", "documents", "'.pdf' files are not read"),
        ("x", b"x", "documents", "'x' files are not read"),
        ("x.zip", b"PK", "documents", "archives are not read"),
        ("x.tar.gz", b"x", "documents", "archives are not read"),
        ("x.tgz", b"x", "documents", "archives are not read"),
        ("x.jsonl.bz2", b"x", "documents", "'.bz2' files are not read"),
        ("x.parquet.gz", b"x", "documents", ".parquet is not read inside .gz"),
        ("x.txt", b"text", "chat", "a text file holds documents, not chat"),
    ],
)
def test_files_that_are_not_read(tmp_path: Path, name: str, content: bytes | None, kind: str, match: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BessemerError, match=match):
        read_items(str(tmp_path / name), kind=kind)


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.jsonl.bz2"])
def test_a_folder_is_not_read_without_its_archive(tmp_path: Path, name: str) -> None:
    write(tmp_path / "x.jsonl", {"text": "a"})
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BessemerError, match="are not read"):
        read_items(str(tmp_path))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(BessemerError, match="holds no files that are read"):
        read_items(str(tmp_path))


def test_broken_links_and_pipes_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nothing.jsonl")
    for address in (tmp_path, tmp_path / "link.jsonl"):
        with pytest.raises(BessemerError, match=r"link.jsonl: a link to a file that does not exist"):
            read_items(str(address))
    (tmp_path / "link.jsonl").unlink()
    os.mkfifo(tmp_path / "pipe.jsonl")
    for address in (tmp_path, tmp_path / "pipe.jsonl", tmp_path / "*.jsonl"):
        with pytest.raises(BessemerError, match=r"pipe.jsonl: no plain file"):
            read_items(str(address))


def test_a_socket_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("x.jsonl")
        with pytest.raises(BessemerError, match="no plain file"):
            read_items("x.jsonl")


def test_what_this_user_may_not_read_is_one_clear_error(tmp_path: Path) -> None:
    """Root may read everything, so a child gives its rights away first."""
    folder = tmp_path / "closed"
    write(folder / "inner" / "x.jsonl", {"text": "a"})
    write(tmp_path / "x.jsonl", {"text": "a"}).chmod(0)
    write(tmp_path / "open.jsonl", {"text": "a"})
    (folder / "inner").chmod(0)
    program = (
        "import os, sys\n"
        "from bessemer.data.sources import read_items\n"
        "from bessemer.errors import BessemerError\n"
        "read_items(sys.argv.pop(1))\n"  # imports what it needs while it may
        "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for address in sys.argv[1:]:\n"
        "    try: print(len(read_items(address)))\n"
        "    except BessemerError as error: print(str(error).replace(chr(10), ' '))\n"
    )
    for parent in [tmp_path, *tmp_path.parents][:4]:  # with xdist there is one more
        parent.chmod(parent.stat().st_mode | 0o055)
    inner = folder / "inner"
    addresses = [tmp_path / "open.jsonl", folder, inner, inner / "x.jsonl", inner / "*.jsonl", tmp_path / "x.jsonl"]
    command = [sys.executable, "-c", program, *map(str, addresses)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    inner.chmod(0o755)
    said = done.stdout.splitlines()
    assert len(said) == 5 and all("fix: " in line for line in said), done.stderr
    assert "inner: cannot be read (PermissionError: Permission denied)" in said[0]
    for line, name in zip(said[1:4], ("inner", "inner/x.jsonl", "inner/*.jsonl"), strict=True):
        assert f"{name}: cannot be read (PermissionError: Permission denied)" in line
    assert "x.jsonl: the file cannot be read (Permission denied)" in said[4]


def test_a_name_that_is_too_long_is_one_clear_error() -> None:
    with pytest.raises(BessemerError, match="File name too long"):
        read_items("x" * 5000 + ".jsonl")


def test_settings_that_do_not_exist() -> None:
    for settings, match in [
        ({"kind": "documnts"}, "did you mean 'documents'"),
        ({"on_error": "ignore"}, "allowed: fail, skip, quarantine"),
        ({"columns": {"txt": "a"}}, "did you mean 'text'"),
        ({"columns": {"chosen": "a"}}, "none of the choices"),
    ]:
        with pytest.raises(BessemerError, match=match):
            Source("x.jsonl", **settings)  # pyright: ignore[reportArgumentType]


# -- prepared data sets -----------------------------------------------------------------------------------------


@pytest.fixture
def prepared(bessemer_home: Path) -> Path:
    folder = bessemer_home / "datasets" / "posts" / "2"
    for split, n in (("train", 3), ("test", 1)):
        items = [Item(f"{split}-{i}", text=f"{split} {i}", group="g", meta={"licence": "MIT"}) for i in range(n)]
        rows = [{k: json.dumps(v) if k == "meta" else v for k, v in row_of(i).items()} for i in items]
        (folder / split).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / split / "part-00000.parquet")
    write_json(folder / "manifest.json", {"files": digest_files(folder)})
    return folder


def test_a_prepared_data_set_is_read_by_name_version_and_split(prepared: Path) -> None:
    items = read_items("dataset:posts@2/train")
    assert [i.text for i in items] == ["train 0", "train 1", "train 2"]
    assert items[0] == Item("train-0", text="train 0", group="g", meta={"licence": "MIT"})
    assert Source("dataset:posts@2/train").digest() != Source("dataset:posts@2/test").digest()


@pytest.mark.parametrize(
    ("address", "match"),
    [
        ("dataset:posts@2", "has the splits test, train"),
        ("dataset:posts@2/dev", "no split 'dev'"),
        ("dataset:posts@3", r"no prepared data set\n  fix: known: dataset:posts@2"),
        ("dataset:posts", "is no prepared data set"),
        ("dataset:../../x@2", "is no prepared data set"),
        ("dataset:..@../..", "is no prepared data set"),
    ],
)
def test_data_sets_that_are_not_there(prepared: Path, address: str, match: str) -> None:
    with pytest.raises(BessemerError, match=match):
        read_items(address)


def test_a_data_set_whose_bytes_changed_is_refused(prepared: Path) -> None:
    path = prepared / "train" / "part-00000.parquet"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    with pytest.raises(BessemerError, match="its bytes changed"):
        read_items("dataset:posts@2/train")
    assert read_items("dataset:posts@2/test")


# -- collections ------------------------------------------------------------------------------------------------


def test_unknown_collection() -> None:
    with pytest.raises(BessemerError, match="is no collection"):
        read_items("bessemer:nope")
    with pytest.raises(BessemerError, match="holds documents, not chat"):
        read_items("bessemer:python/topics", kind="chat")


def test_python_text_comes_with_python() -> None:
    topics = read_items("bessemer:python/topics")
    assert len(topics) > 50 and sum(len(i.text) for i in topics) > 200_000
    docs = read_items("bessemer:python/docstrings")
    questions = read_items("bessemer:python/questions", kind="chat")
    assert len(docs) > 1000 and len(questions) > 1000
    assert len({i.id for i in docs}) == len(docs)
    source = Source("bessemer:python/topics")
    assert [i for f in source.files() for i in source.read(f)] == topics


def test_columns_of_a_built_in_collection_are_refused() -> None:
    with pytest.raises(BessemerError, match="has no columns to choose from"):
        Source("bessemer:python/docstrings", columns={"text": "body"})
