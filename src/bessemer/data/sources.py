"""An address in a recipe -> items. Files and folders of the user's, or collections that come with packages."""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bessemer.data.builtin import COLLECTIONS
from bessemer.data.items import ROLES, Item, Message
from bessemer.errors import BessemerError

SUFFIXES = (".jsonl", ".csv", ".txt", ".md")


def read_items(address: str, *, kind: str, text: str = "text", where: str = "") -> list[Item]:
    """All items behind an address, in a stable order.

    Raises BessemerError when it does not exist, has no usable rows, or any row is unusable (with file and line).
    """
    if address.startswith("bessemer:"):
        items = _read_collection(address, kind, where)
    else:
        items = [item for path in _files(address, where) for item in _read_file(path, kind, text)]
    if not items:
        raise BessemerError(f"{address!r} has no usable rows", where=where, fix="give a source with text in it")
    return items


def _read_collection(address: str, kind: str, where: str) -> list[Item]:
    name = address.removeprefix("bessemer:")
    if name not in COLLECTIONS:
        raise BessemerError(
            f"{address!r} is no collection",
            where=where,
            fix=f"known: {', '.join('bessemer:' + n for n in COLLECTIONS)}",
        )
    has, read = COLLECTIONS[name]
    if has != kind:
        raise BessemerError(f"{address!r} holds {has}, not {kind}", where=where, fix=f"kind: {has}")
    return read()


def _files(address: str, where: str) -> list[Path]:
    path = Path(address).expanduser()
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES)
    elif path.is_file():
        found = [path]
    else:
        found = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())  # noqa: PTH207
    if not found:
        raise BessemerError(
            f"{address!r} does not exist or holds no {', '.join(SUFFIXES)} files",
            where=where,
            fix="paths are relative to the folder in which the command runs",
        )
    for file in found:
        if file.suffix not in SUFFIXES:
            raise BessemerError(
                f"{file.suffix!r} files are not read", where=str(file), fix=f"use {', '.join(SUFFIXES)}"
            )
    return found


def _read_file(path: Path, kind: str, text: str) -> list[Item]:
    try:
        if path.suffix in {".txt", ".md"}:
            if kind != "documents":
                raise BessemerError("a text file holds documents, not conversations", where=str(path), fix="use .jsonl")
            content = path.read_text()
            return [Item(id=path.name, text=content)] if content.strip() else []
        return [_item(row, kind, text, f"{path}:{line}", f"{path.name}:{line}") for line, row in _rows(path)]
    except UnicodeDecodeError as error:
        raise BessemerError(f"no UTF-8 text ({error.reason} at byte {error.start})", where=str(path)) from None


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(newline="") as file:
        if path.suffix == ".csv":
            for row in (reader := csv.DictReader(file)):
                yield reader.line_num, row
            return
        for line, content in enumerate(file, start=1):
            if not content.strip():
                continue
            try:
                row = json.loads(content)
            except ValueError as error:
                raise BessemerError(f"no valid JSON ({error})", where=f"{path}:{line}") from None
            if not isinstance(row, dict):
                raise BessemerError("a row must be a JSON object", where=f"{path}:{line}")
            yield line, row


def _item(row: dict[str, Any], kind: str, text: str, where: str, default_id: str) -> Item:
    used = {text, "id", "group", "messages", "prompt", "completion"}
    meta = {k: v for k, v in row.items() if k not in used}
    common = {"id": str(row.get("id") or default_id), "group": str(row.get("group") or ""), "meta": meta}
    if kind == "documents":
        value = row.get(text)
        if not isinstance(value, str) or not value.strip():
            columns = ", ".join(map(repr, row))
            raise BessemerError(f"no text in column {text!r}", where=where, fix=f"set `text:` to one of {columns}")
        return Item(text=value, **common)
    return Item(messages=_messages(row, where), **common)


def _messages(row: dict[str, Any], where: str) -> tuple[Message, ...]:
    raw = row.get("messages")
    if raw is None and isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        raw = [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["completion"]},
        ]
    if not isinstance(raw, list) or not raw:
        raise BessemerError("no `messages`, nor `prompt` and `completion`", where=where)
    messages: list[Message] = []
    for i, message in enumerate(raw):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ROLES or not isinstance(content, str):
            raise BessemerError(f"message {i} needs a role of {', '.join(ROLES)} and a text", where=where)
        messages.append(Message(role, content))
    if messages[-1].role != "assistant" or not messages[-1].content.strip():
        raise BessemerError("the last message must be an answer of the assistant", where=where)
    return tuple(messages)
