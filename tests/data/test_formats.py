"""Hostile bytes, as they come: every one is refused with its place, and the good rows around it survive."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.data import formats
from bessemer.data.sources import Source
from bessemer.errors import BessemerError

ROWS = [{"text": f"text {i}", "year": str(1850 + i)} for i in range(4)]
JSONL = "".join(json.dumps(r) + "\n" for r in ROWS).encode()
CSV = b"text,year\n" + b"".join(f"{r['text']},{r['year']}\n".encode() for r in ROWS)


def zst(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def parquet(path: Path, rows: list[dict[str, object]] | pa.Table, **how: object) -> Path:
    pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), path, **how)
    return path


def noise(n: int, seed: int = 0) -> list[dict[str, object]]:
    """Rows that hardly compress, so that a cut hits data and not the footer of a tiny file."""
    rng = random.Random(seed)
    return [{"text": rng.randbytes(500).hex(), "n": i} for i in range(n)]


# -- what is read -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        (".jsonl", JSONL),
        (".ndjson", JSONL.replace(b"\n", b"\r\n")),
        (".json", json.dumps(ROWS, indent=1).encode()),
        (".json", JSONL),
        (".csv", CSV),
        (".tsv", CSV.replace(b",", b"\t")),
        (".csv", b"\xef\xbb\xbf" + CSV.replace(b"\n", b"\r\n")),
        (".jsonl", b"\xef\xbb\xbf\n" + JSONL.rstrip()),
        (".json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
    ],
)
def test_one_content_in_every_text_format(tmp_path: Path, suffix: str, data: bytes, packing: str) -> None:
    packed = {"": lambda d: d, ".gz": gzip.compress, ".zst": zst}[packing](data)
    path = tmp_path / f"x{suffix}{packing}"
    path.write_bytes(packed)
    items = list(Source(str(path)))
    assert [{"text": i.text, **i.meta} for i in items] == ROWS
    assert len({i.id for i in items}) == 4 and all(i.id.startswith(path.name) for i in items)


def test_one_content_in_every_binary_format(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    parquet(tmp_path / "a.parquet", table, row_group_size=3)
    pa.feather.write_feather(table, tmp_path / "b.feather")
    with pa.ipc.new_file(tmp_path / "c.arrow", table.schema) as sink:
        sink.write_table(table)
    with pa.ipc.new_stream(tmp_path / "d.arrow", table.schema) as sink:  # what the datasets library writes
        sink.write_table(table, max_chunksize=2)
    items = list(Source(str(tmp_path)))
    assert [{"text": i.text, **i.meta} for i in items] == ROWS * 4
    assert items[0].id == "a.parquet:1" and items[-1].id == "d.arrow:4"


@pytest.mark.parametrize("name", ["x.txt", "x.md", "x.txt.gz", "x.md.zst"])
def test_a_text_file_is_one_document(tmp_path: Path, name: str) -> None:
    data = b"\xef\xbb\xbf# Title\r\n\r\nGr\xc3\xbc\xc3\x9fe\n"
    packed = gzip.compress(data) if name.endswith(".gz") else zst(data) if name.endswith(".zst") else data
    (tmp_path / name).write_bytes(packed)
    (item,) = Source(str(tmp_path / name))
    assert (item.id, item.text) == (name, "# Title\r\n\r\nGrüße\n")


def test_csv_cells_may_hold_quotes_commas_and_newlines(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'text,n\r\n"one ""quoted"",\r\nand a line",1\r\n\r\nplain,2\r\n')
    first, second = Source(str(path))
    assert first.text == 'one "quoted",\r\nand a line' and first.id == "x.csv:2"
    assert second.id == "x.csv:5" and second.meta == {"n": "2"}


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers() | st.none(), max_size=4)))
def test_json_arrays_are_cut_into_their_rows_wherever_a_chunk_ends(rows: list[dict[str, object]]) -> None:
    from io import BufferedReader, BytesIO

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "CHUNK", 7)
        data = json.dumps(rows, ensure_ascii=False, indent=2).encode("utf-8", "surrogatepass")
        found = [r.values for r in formats.rows("x.json", BufferedReader(BytesIO(data))) if isinstance(r, formats.Row)]
    assert found == rows


def test_values_that_json_does_not_have_become_ones_that_it_has(tmp_path: Path) -> None:
    import datetime as dt
    import decimal

    when = dt.datetime(2026, 11, 23, 20, 0, tzinfo=dt.UTC)
    path = parquet(
        tmp_path / "x.parquet",
        pa.table(
            {
                "text": ["a"],
                "at": pa.array([when], pa.timestamp("ns", "UTC")),
                "day": [when.date()],
                "bytes": [b"\xff"],
                "price": [decimal.Decimal("1.50")],
                "score": [float("nan")],
                "tags": [[{"k": None}]],
            }
        ),
    )
    (item,) = Source(str(path))
    assert json.loads(json.dumps(item.meta, allow_nan=False)) == {
        "at": "2026-11-23T20:00:00+00:00",
        "day": "2026-11-23",
        "bytes": "/w==",
        "price": "1.50",
        "score": None,
        "tags": [{"k": None}],
    }


# -- what is refused --------------------------------------------------------------------------------------------

GOOD = b'{"text": "good"}\n'
HOSTILE: dict[str, tuple[str, bytes, str, int]] = {
    # name: (file, bytes, what the error says, good rows that `skip` leaves)
    "bad line": ("x.jsonl", GOOD + b'{"text": \n' + GOOD, r"x.jsonl:2:10: no valid JSON", 2),
    "no object": ("x.jsonl", GOOD + b"[1]\n" + GOOD, r"x.jsonl:2: a row must be a JSON object \(it is list\)", 2),
    "wrong UTF-8": ("x.jsonl", GOOD + b'{"text": "caf\xe9"}\n' + GOOD, r"x.jsonl:2:14: no UTF-8 text \(.*0xe9", 2),
    "nul byte": ("x.jsonl", GOOD + b'{"text": "a\0b"}\n', r"x.jsonl:2:12: no valid JSON \(Invalid control", 1),
    "nul text": ("x.jsonl", GOOD + b'{"text": "a\\u0000b"}\n', r"x.jsonl:2: a text holds a NUL .*character 2 of 3", 1),
    "surrogate": ("x.jsonl", GOOD + b'{"text": "\\ud800"}\n', r"x.jsonl:2: a text holds half of .*U\+D800", 1),
    "surrogate meta": ("x.jsonl", GOOD + b'{"text": "a", "by": ["\\udfff"]}\n', r"x.jsonl:2: a text holds half", 1),
    "NaN": ("x.jsonl", GOOD + b'{"text": "a", "score": NaN}\n', r"x.jsonl:2: no valid JSON \(NaN is no JSON", 1),
    "deep": ("x.jsonl", GOOD + b'{"text": ' + b"[" * 200_000 + b"\n", r"x.jsonl:2: no valid JSON", 1),
    "deep, but JSON": (
        "x.jsonl",
        GOOD + b'{"text": "a", "by": ' + b"[" * 300 + b"]" * 300 + b"}\n",
        r"x.jsonl:2: a value is nested too deeply \(more than 100 levels",
        1,
    ),
    "null": ("x.jsonl", GOOD + b'{"text": null}\n', r"x.jsonl:2: no text in column 'text' \(it is null", 1),
    "wrong type": (
        "x.jsonl",
        GOOD + b'{"text": {"a": 1}}\n',
        r"x.jsonl:2: no text in column 'text' \(it is an object",
        1,
    ),
    "missing column": ("x.jsonl", GOOD + b'{"txt": "a"}\n', r"x.jsonl:2: no column 'text' \(it has 'txt'", 1),
    "id of a wrong type": ("x.jsonl", GOOD + b'{"text": "a", "id": [1]}\n', r"x.jsonl:2: 'id' must be a text", 1),
    "UTF-16": ("x.jsonl", GOOD.decode().encode("utf-16"), r"x.jsonl:1:1: no UTF-8 text \(it is UTF-16", 0),
    "gzip as text": ("x.jsonl", gzip.compress(GOOD), r"x.jsonl:1:1: no UTF-8 text \(it is gzip data", 0),
    "zip as text": ("x.csv", b"PK\x03\x04rest", r"x.csv:1:1: no UTF-8 text \(it is a zip archive", 0),
    "empty": ("x.jsonl", b"", r"x.jsonl: the file has no rows", 0),
    "blank": ("x.jsonl", b"\n \n", r"x.jsonl: the file has no rows", 0),
    "empty text": ("x.txt", b" \n", r"x.txt:1: the file is empty", 0),
    "empty csv": ("x.csv", b"", r"x.csv: the file has no rows", 0),
    "header only": ("x.csv", b"text,year\n", r"x.csv: the file has no rows", 0),
    "text UTF-8": ("x.md", b"one\ntw\xff", r"x.md:2:3: no UTF-8 text \(invalid start byte 0xff, byte 3", 0),
    "ragged": (
        "x.csv",
        CSV + b"one,two,three\nonly\n",
        r"x.csv:6: the row does not fit .*3 cells under a header of 2",
        4,
    ),
    "header twice": ("x.csv", b"text,a,text\n1,2,3\n", r"x.csv:1: two columns have one name \('text'", 0),
    "csv UTF-8": ("x.csv", b"text,n\na\xff,1\nb,2\n", r"x.csv:2:2: no UTF-8 text", 1),
    "csv header UTF-8": ("x.csv", b"t\xffxt,n\nb,2\n", r"x.csv:1:2: no UTF-8 text", 0),
    "csv nul": ("x.csv", b"text,n\na\0b,1\nb,2\n", r"x.csv:2: a text holds a NUL", 1),
    "open quote": (
        "x.csv",
        b'text,n\nb,2\n"never closed,1\nc,3\n',
        r"x.csv:3: no valid CSV \(unexpected end of data",
        1,
    ),
    "text after a quote": ("x.csv", b'text,n\n"a"b,1\nb,2\n', r"x.csv:2: no valid CSV", 1),
    "json cut off": ("x.json", b'[{"text": "a"},\n {"text": "b"', r"x.json:2:14: no valid JSON", 1),
    "json open": ("x.json", b'[{"text": "a"}', r"x.json:1:15: no valid JSON \(the array never ends", 1),
    "json comma": ("x.json", b'[{"text": "a"}\n {"text": "b"}]', r"x.json:2:2: no valid JSON \('\{' where", 1),
    "json more": ("x.json", b'[{"text": "a"}]\n[]', r"x.json:2:1: no valid JSON \(something follows", 1),
    "json scalar": ("x.json", b'[{"text": "a"}, 12, {"text": "c"}]', r"x.json row 2: a row must be a JSON object", 2),
    "json UTF-8": ("x.json", b'[{"text": "a\xff"}]', r"x.json:1:13: no UTF-8 text \(invalid start byte 0xff\)", 0),
    "json empty": ("x.json", b"[]", r"x.json: the file has no rows", 0),
    "gzip cut off": ("x.jsonl.gz", gzip.compress(JSONL)[:-9], r"x.jsonl.gz:5: the file is damaged or cut off", 4),
    "gzip changed": ("x.jsonl.gz", gzip.compress(JSONL)[:-8] + b"12345678", r"x.jsonl.gz:\d: the file is damaged", 4),
    "no gzip": ("x.jsonl.gz", JSONL, r"x.jsonl.gz:1: the file is damaged .*Not a gzipped", 0),
    "zstd cut off": ("x.jsonl.zst", zst(JSONL)[:-4], r"x.jsonl.zst:\d: the file is damaged .*Truncated", -1),
    "no zstd": ("x.jsonl.zst", JSONL, r"x.jsonl.zst:1: the file is damaged", 0),
    "no parquet": ("x.parquet", JSONL, r"x.parquet: the file is damaged .*no whole Parquet", 0),
    "empty parquet": ("x.parquet", b"", r"x.parquet: the file is damaged", 0),
    "no arrow": ("x.arrow", JSONL, r"x.arrow: the file is damaged", 0),
    "feather 1": ("x.feather", b"FEA1xxxx", r"x.feather: Feather version 1", 0),
}


LOST = {
    "UTF-16", "gzip as text", "zip as text", "header twice", "csv header UTF-8", "json cut off", "json open",
    "json comma", "json more", "json UTF-8", "gzip cut off", "gzip changed", "no gzip", "zstd cut off", "no zstd",
    "no parquet", "empty parquet", "no arrow", "feather 1", "open quote",
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bytes(tmp_path: Path, case: str, bessemer_home: Path) -> None:
    """fail names the place; skip and quarantine count it, list it and keep the rest, unless the rest cannot be read."""
    name, data, match, good = HOSTILE[case]
    path = tmp_path / name
    path.write_bytes(data)
    (tmp_path / "y.jsonl").write_bytes(GOOD)  # so that something is left
    with pytest.raises(BessemerError, match=match) as failed:
        list(Source(str(path)))
    for policy in ("skip", "quarantine"):
        source = Source(str(tmp_path), on_error=policy)
        if case in LOST:
            with pytest.raises(BessemerError, match=f"{match}|the header cannot be read") as caught:
                list(source)
            assert "leave it out" in caught.value.fix or caught.value.fix == "write it again as version 2"
            continue
        items = list(source)
        assert good < 0 or len(items) == good + 1
        assert source.refused.n >= 1 and next(iter(source.refused.counts[name])) in str(failed.value)
    if case in LOST:
        return
    kept = [json.loads(line) for f in (bessemer_home / "quarantine").iterdir() for line in f.read_text().splitlines()]
    assert len(kept) == source.refused.n and all(k["file"] == name and k["reason"] for k in kept)


def test_a_line_of_50_mb_is_refused_by_its_size_and_the_next_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(GOOD + b'{"text": "' + b"x" * 50_000_000 + b'"}\n' + GOOD)
    with pytest.raises(BessemerError, match=r"x.jsonl:2: a row is too long \(47.7 MiB, at most 32.0 MiB\)"):
        list(Source(str(path)))
    assert len(list(Source(str(path), on_error="skip"))) == 2


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("x.csv", b"text\n", b"\n"),
        ("x.json", b'[{"text": "', b'"}]'),
        ("x.txt", b"", b""),
        ("q.csv", b'text\n"', b'"\n'),
    ],
)
def test_what_is_too_long_in_the_other_formats(tmp_path: Path, name: str, before: bytes, after: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(
        before + (b"x" * 99 + b"\n") * 400_000 + after if name == "q.csv" else before + b"x" * 40_000_000 + after
    )
    with pytest.raises(BessemerError, match=r"too long|larger than field limit"):
        list(Source(str(path)))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "s.arrow"])
def test_cut_off_tables(tmp_path: Path, name: str, share: float) -> None:
    table = pa.Table.from_pylist(noise(4000))
    path = tmp_path / name
    if name == "x.parquet":
        parquet(path, table, row_group_size=500)
    else:
        with (pa.ipc.new_file if name[0] == "x" else pa.ipc.new_stream)(path, table.schema) as sink:
            sink.write_table(table, max_chunksize=500)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(BessemerError, match="the file is damaged or cut off|no usable rows"):
        list(Source(str(path)))


def test_a_flipped_byte_inside_a_parquet_page_is_found(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", noise(1000), row_group_size=250, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for policy in ("fail", "skip"):
        with pytest.raises(BessemerError, match=r"x.parquet row 501: the file is damaged .*rows to 750"):
            list(Source(str(path), on_error=policy))


def test_text_in_parquet_that_is_no_utf8_costs_its_row_only(tmp_path: Path) -> None:
    texts = pa.array([b"a", b"\xff", b"c"], pa.binary()).cast(pa.string(), safe=False)
    path = parquet(tmp_path / "x.parquet", pa.table({"text": texts}))
    source = Source(str(path), on_error="skip")
    assert [i.id for i in source] == ["x.parquet:1", "x.parquet:3"]
    assert source.refused.reasons == {"no UTF-8 text": 1}


def test_memory_stays_flat_however_long_the_file_is(tmp_path: Path) -> None:
    """A child may take 150 MB over what an empty one takes; the file would unpack to 800 MB."""
    import subprocess
    import sys

    path = tmp_path / "x.jsonl.gz"
    block = gzip.compress((json.dumps({"text": "x" * 5000}) + "\n").encode() * 1000, 1)
    path.write_bytes(block * 160)
    program = (
        "import resource, sys; from bessemer.data.sources import Source\n"
        "start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "n = sum(1 for _ in Source(sys.argv[1]))\n"
        "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    n, grown_kib = map(int, done.stdout.split())
    assert n == 160_000 and grown_kib < 150_000
