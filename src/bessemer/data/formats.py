"""The bytes of a file -> its rows, one at a time, each with its place; what cannot be read comes as a BadRow.

A row is never longer than MAX_ROW_BYTES in memory, and nothing here holds a whole file, except a .txt or .md, which is
one row. Nothing raises for bad bytes: the caller decides whether a bad row stops the run.
"""

from __future__ import annotations

import codecs
import csv
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, cast

from bessemer.units import show_bytes

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather", ".txt", ".md")
PACKED = (".gz", ".zst")
BINARY = (".parquet", ".arrow", ".feather")  # compressed inside; never .gz or .zst around them
NUMBERED = (".json", *BINARY)  # places are row numbers; in the others they are lines
WHOLE = (".txt", ".md")

MAX_ROW_BYTES = 32 << 20
CHUNK = 1 << 20
BATCH_ROWS = 512
BOM = b"\xef\xbb\xbf"
OTHER_BYTES = {
    b"\x1f\x8b": "gzip data; its name must end in .gz",
    b"\x28\xb5\x2f\xfd": "zstd data; its name must end in .zst",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"PAR1": "Parquet; its name must end in .parquet",
    b"ARROW1": "Arrow; its name must end in .arrow",
    b"\xff\xfe": "UTF-16; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
}


@dataclass(frozen=True)
class Row:
    """number: the line in which it begins, or the row in NUMBERED formats, from 1; 0 = the whole file."""

    number: int
    values: dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """What cannot be read, and why. `lost`: neither can anything after it in this file.

    number as in Row; with a column (a character from 1) it is always a line. `raw` holds at most CHUNK bytes.
    """

    number: int
    column: int
    reason: str
    detail: str = ""
    raw: bytes = b""
    lost: bool = False
    fix: str = ""


def split_name(name: str) -> tuple[str, str]:
    """(format, packing): 'a/b.jsonl.gz' -> ('.jsonl', '.gz'); the format is whatever suffix there is."""
    packing = suffix if (suffix := _suffix(name)) in PACKED else ""
    return _suffix(name[: len(name) - len(packing)]), packing


def is_data(name: str) -> bool:
    return split_name(name)[0] in FORMATS


def _suffix(name: str) -> str:
    last = name.rpartition("/")[2]
    return last[last.rfind(".") :].lower() if "." in last else ""


def rows(name: str, stream: BinaryIO) -> Iterator[Row | BadRow]:
    """The rows of one file; `name` says its format. A file without any row yields one BadRow.

    Raises OSError when the disk or the network fails.
    """
    form = split_name(name)[0]
    last = 0
    try:
        for row in _reader(form)(stream):
            last = row.number
            yield row
        if not last and form not in WHOLE:
            yield BadRow(0, 0, "the file has no rows")
    except (EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        yield BadRow(last + 1, 0, "the file is damaged or cut off", str(error), lost=True)


def _reader(form: str) -> Callable[[BinaryIO], Iterator[Row | BadRow]]:
    readers = dict.fromkeys((".jsonl", ".ndjson"), _json_lines) | dict.fromkeys(WHOLE, _whole)
    readers |= {".json": _json_values, ".csv": partial(_separated, delimiter=",")}
    readers |= {".tsv": partial(_separated, delimiter="\t"), ".parquet": _parquet}
    return readers.get(form, _arrow)


# -- text -------------------------------------------------------------------------------------------------------


def _whole(stream: BinaryIO) -> Iterator[Row | BadRow]:
    raw = stream.read(MAX_ROW_BYTES + 1)
    if wrong := _other_bytes(raw[:6]):
        yield wrong
    elif len(raw) > MAX_ROW_BYTES:
        fix = "cut it into documents, one row each"
        yield BadRow(1, 0, "a row is too long", f"more than {show_bytes(MAX_ROW_BYTES)}; {fix}", raw[:CHUNK], lost=True)
    else:
        try:
            text = raw.removeprefix(BOM).decode()
        except UnicodeDecodeError as error:
            start = raw.rfind(b"\n", 0, error.start) + 1
            yield _no_utf8(error, raw.count(b"\n", 0, error.start) + 1, error.start - start, raw)
            return
        if text.strip():
            yield Row(0, {"text": text})
        else:
            yield BadRow(1, 0, "the file is empty")


def _json_lines(stream: BinaryIO) -> Iterator[Row | BadRow]:
    for number, raw in _lines(stream):
        if isinstance(raw, BadRow):
            yield raw
            continue
        if not raw.strip():
            continue
        try:
            yield _object(number, json.loads(raw.rstrip(b"\r\n").decode(), parse_constant=_no_constant), raw)
        except UnicodeDecodeError as error:
            yield _no_utf8(error, number, error.start, raw)
        except json.JSONDecodeError as error:
            yield BadRow(number, error.pos + 1, "no valid JSON", error.msg, raw[:CHUNK])
        except (ValueError, RecursionError) as error:
            yield BadRow(number, 0, "no valid JSON", str(error), raw[:CHUNK])


def _object(number: int, value: Any, raw: bytes) -> Row | BadRow:
    if not isinstance(value, dict):
        return BadRow(number, 0, "a row must be a JSON object", f"it is {type(value).__name__}", raw[:CHUNK])
    return Row(number, cast(dict[str, Any], value))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | BadRow]]:
    """(number, line). A line that is too long is passed over a piece at a time."""
    if wrong := _other_bytes(_peek(stream)):
        yield 1, wrong
        return
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(BOM)
        size, end = len(line), line
        if size <= MAX_ROW_BYTES:
            yield number, line
            continue
        while not end.endswith(b"\n") and (end := stream.readline(CHUNK)):
            size += len(end)
        detail = f"{show_bytes(size)}, at most {show_bytes(MAX_ROW_BYTES)}"
        yield number, BadRow(number, 0, "a row is too long", detail, line[:CHUNK])


def _peek(stream: BinaryIO) -> bytes:
    return cast(Any, stream).peek(6)[:6]  # both BufferedReader and GzipFile have it


def _other_bytes(head: bytes) -> BadRow | None:
    for magic, what in OTHER_BYTES.items():
        if head.startswith(magic):
            return BadRow(1, 1, "no UTF-8 text", f"it is {what}", lost=True)
    return None


def _no_utf8(error: UnicodeDecodeError, line: int, byte: int, raw: bytes) -> BadRow:
    """byte: offset in the line."""
    what = f"{error.reason} 0x{error.object[error.start]:02x}, byte {byte + 1} of the line"
    return BadRow(line, byte + 1, "no UTF-8 text", what, raw[:CHUNK])


# -- JSON -------------------------------------------------------------------------------------------------------


class _Characters:
    """The characters of a file, a piece at a time, with the place of the next one."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder(parse_constant=_no_constant)
        self._text, self._at = "", 0
        self._wrong: UnicodeDecodeError | None = None
        self.line, self.column = 1, 1

    def next(self) -> str:
        """The next character that is no white space, without taking it; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self.take(1)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, n: int) -> None:
        passed = self._text[self._at : self._at + n]
        lines = passed.count("\n")
        self.column = len(passed) - passed.rfind("\n") if lines else self.column + n
        self.line += lines
        self._at += n

    def value(self) -> Any:
        """The JSON value that begins here. Raises ValueError or RecursionError."""
        while True:
            held = len(self._text) - self._at
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                if held > MAX_ROW_BYTES or not self._more():
                    raise
                continue
            if end == len(self._text) and self._more():
                continue  # a number may go on
            self.take(end - self._at)
            return value

    def fail(self, error: Exception) -> BadRow:
        """After a mistake nobody knows where the next row begins."""
        if isinstance(error, json.JSONDecodeError):
            self.take(error.pos - self._at)
        raw = self._text[self._at : self._at + CHUNK].encode()
        if len(self._text) - self._at > MAX_ROW_BYTES:
            return BadRow(
                self.line, self.column, "a row is too long", f"at most {show_bytes(MAX_ROW_BYTES)}", raw, True
            )
        said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return BadRow(self.line, self.column, "no valid JSON", said, raw, lost=True)

    def _more(self) -> bool:
        """Read on, twice as much each time that a value is longer than what is held; False at the end.

        Raises UnicodeDecodeError once what comes before the wrong byte has been used.
        """
        if self._wrong:
            self.take(len(self._text) - self._at)
            raise self._wrong
        raw = self._stream.read(max(CHUNK, len(self._text) - self._at))
        try:
            new = self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            new, self._wrong = error.object[: error.start].decode("utf-8-sig"), error
        if not raw and not new:
            return False
        self._text, self._at = self._text[self._at :] + new, 0
        return True


def _json_values(stream: BinaryIO) -> Iterator[Row | BadRow]:
    """One array of objects, one object, or objects one after another."""
    if wrong := _other_bytes(_peek(stream)):
        yield wrong
        return
    text = _Characters(stream)
    number = 0
    try:
        is_array = text.next() == "["
        if is_array:
            text.take(1)
        while (character := text.next()) not in ({"]"} if is_array else {""}):
            if is_array and number:
                if character != ",":
                    raise ValueError(f"{character!r} where ',' or ']' belongs" if character else "the array never ends")
                text.take(1)
                text.next()
            number += 1
            yield _object(number, text.value(), b"")
        if is_array:
            text.take(1)
            if text.next():
                raise ValueError("something follows the array")
    except UnicodeDecodeError as error:
        what = f"{error.reason} 0x{error.object[error.start]:02x}"
        yield BadRow(text.line, text.column, "no UTF-8 text", what, lost=True)
    except (ValueError, RecursionError) as error:
        yield text.fail(error)


# -- CSV --------------------------------------------------------------------------------------------------------

csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))


class _TooLong(Exception):
    """A line that is too long, on its way through csv.reader."""


class _Decoded:
    """Lines for csv.reader. After an exception it goes on with the next line, as a generator would not."""

    def __init__(self, stream: BinaryIO) -> None:
        self._lines = _lines(stream)
        self.number = 0
        self.raw = b""  # of the row so far
        self.bad: BadRow | None = None  # the row's first fault

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        if isinstance(line, BadRow):
            self.bad = line
            raise _TooLong
        if len(self.raw) < CHUNK:
            self.raw = (self.raw + line)[:CHUNK]
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            self.bad = self.bad or _no_utf8(error, self.number, error.start, line)
            return line.decode(errors="replace")  # only to find where the row ends

    def begin(self) -> int:
        """A new row: the line in which it begins."""
        self.raw, self.bad = b"", None
        return self.number + 1


def _separated(stream: BinaryIO, delimiter: str) -> Iterator[Row | BadRow]:
    lines = _Decoded(stream)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)  # strict: an open quote must not swallow the file
    header: list[str] | None = None
    while True:
        number = lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except _TooLong:
            cells = []
        except csv.Error as error:
            # A quote that was never closed took whatever came up to here for its own text: those rows are lost.
            lost = lines.number > number
            yield BadRow(number, 0, "no valid CSV", str(error), lines.raw, lost=lost)
            if lost:
                return
            continue
        if lines.bad:
            yield lines.bad
            if header is None or lines.bad.lost:
                yield BadRow(number, 0, "the header cannot be read", lost=True)
                return
        elif header is None:
            if not cells:
                continue
            header = cells
            if twice := _twice(header):
                yield BadRow(number, 0, "two columns have one name", f"{twice!r}", lines.raw, lost=True)
                return
        elif cells and len(cells) != len(header):
            what = f"{len(cells)} cells under a header of {len(header)}"
            yield BadRow(number, 0, "the row does not fit the header", what, lines.raw)
        elif cells:
            yield Row(number, dict(zip(header, cells, strict=True)))


def _twice(names: Sequence[str]) -> str | None:
    return next((name for name, n in Counter(names).items() if n > 1), None)


# -- Parquet and Arrow ------------------------------------------------------------------------------------------


def _parquet(stream: BinaryIO) -> Iterator[Row | BadRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(stream, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        yield _damaged(0, "Parquet", error)
        return
    number = 0
    for group in range(file.num_row_groups):  # so that what is said of a damaged one names its rows
        batches = partial(file.iter_batches, BATCH_ROWS, row_groups=[group])
        last = number + file.metadata.row_group(group).num_rows
        yield from _batches("Parquet", file.schema_arrow.names, batches, number, f"rows to {last}: ")
        number = last


def _arrow(stream: BinaryIO) -> Iterator[Row | BadRow]:
    import pyarrow as pa

    try:
        if _peek(stream) == b"ARROW1":
            file = pa.ipc.open_file(stream)
            names, batches = file.schema.names, (file.get_batch(i) for i in range(file.num_record_batches))
        elif _peek(stream).startswith(b"FEA1"):
            yield BadRow(0, 0, "Feather version 1 is not read", "write it again as version 2", lost=True)
            return
        else:
            reader = pa.ipc.open_stream(stream)
            names, batches = reader.schema.names, iter(reader)
    except (pa.ArrowException, OSError) as error:
        yield _damaged(0, "Arrow", error)
        return
    yield from _batches("Arrow", names, lambda: batches)


def _batches(
    what: str,
    names: Sequence[str],
    batches: Callable[[], Iterator[Any]],
    number: int = 0,
    which: str = "",
) -> Iterator[Row | BadRow]:
    """number: rows before these; which: the rows that are gone when one cannot be read."""
    import pyarrow as pa

    if twice := _twice(names):
        yield BadRow(0, 0, "two columns have one name", f"{twice!r}", lost=True)
        return
    try:
        for batch in batches():
            for start in range(0, batch.num_rows, BATCH_ROWS):
                for values in _python(_microseconds(batch.slice(start, BATCH_ROWS))):
                    number += 1
                    if isinstance(values, ValueError):
                        reason = "no UTF-8 text" if isinstance(values, UnicodeDecodeError) else "no readable value"
                        yield BadRow(number, 0, reason, str(values)[:200])
                    else:
                        yield Row(number, values)
    except (pa.ArrowException, OSError) as error:
        yield _damaged(number + 1, what, error, which)


def _microseconds(batch: Any) -> Any:
    """Python has no nanoseconds; pandas writes nothing else."""
    import pyarrow as pa

    for i, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            column = batch.column(i).cast(pa.timestamp("us", field.type.tz), safe=False)
            batch = batch.set_column(i, field.name, column)
    return batch


def _python(batch: Any) -> Iterator[dict[str, Any] | ValueError]:
    """The rows as Python values; one by one when some text is no UTF-8."""
    try:
        yield from batch.to_pylist()
    except ValueError:
        for i in range(batch.num_rows):
            try:
                yield from batch.slice(i, 1).to_pylist()
            except ValueError as error:
                yield error


def _damaged(number: int, what: str, error: Exception, which: str = "") -> BadRow:
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    detail = f"{which}no whole {what}: {str(error)[:200]}"
    return BadRow(number, 0, "the file is damaged or cut off", detail, lost=True)
