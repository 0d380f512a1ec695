"""A first recipe for the user's own files, with a tenth of them held out."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bessemer.errors import BessemerError
from bessemer.files import sha256_text, write_text
from bessemer.recipe.load import parse_recipe

HELD_OUT = 10  # one of so many rows
TEXT_COLUMNS = ("text", "content", "body", "comment", "document")

TEMPLATE = """\
# Made by `bessemer recipe init`. Every field: `bessemer recipe schema`. Check: `bessemer recipe check {out}`.
name: {name}                # the run and its release: {name}@1
start: {start}   # family@stage, a hub id (owner/name) or a local folder
retain: 0.99                # general text may get at most 1 % worse in bits per byte; a gate, not a hope

sources:
{sources}
  docs:                     # general replay: keeps old skills alive; comes with Python, needs no network
    from: bessemer:python/docstrings
    role: general

stages:
{stages}
probes:                     # general text that is never trained on; measured before, during and after
  topics: {{from: "bessemer:python/topics"}}

tasks:                      # held out of your own data; the first one decides
{tasks}"""


def write_recipe(files: list[Path], out: Path, *, name: str, start: str) -> list[str]:
    """Split each file's rows, write the parts beside `out` and a recipe that uses them; returns what was done.

    Conversations need rows with `messages`, or `prompt` and `completion`; everything else counts as documents.
    Raises BessemerError when a file cannot be used or `out` exists.
    """
    if out.exists():
        raise BessemerError("the file exists", where=str(out), fix="choose another name with --out")
    folder = out.parent / f"{out.stem}-data"
    sources, tasks = "", ""
    kinds: dict[str, str] = {}
    done: list[str] = []
    planned: list[tuple[Path, str]] = []
    for path in files:
        kind, rows, column = _read(path)
        source = _name(path, set(kinds))
        kinds[source] = kind
        train, test = ([r.line for r in rows if r.held_out == side] for side in (False, True))
        if not train or not test:
            raise BessemerError(
                f"{len(rows)} rows are too few to hold some out", where=str(path), fix="give 20 or more"
            )
        targets = {part: folder / f"{source}.{part}.jsonl" for part in ("train", "test")}
        planned += [(targets["train"], "\n".join(train) + "\n"), (targets["test"], "\n".join(test) + "\n")]
        text = f", text: {column}" if kind == "documents" and column != "text" else ""
        sources += f"  {source}: {{from: {json.dumps(str(targets['train']))}, kind: {kind}{text}}}\n"
        if kind == "documents" or len({row.answer for row in rows}) == 2:
            metric = "bits_per_byte" if kind == "documents" else "auroc"
            tasks += f"  {source}: {{from: {json.dumps(str(targets['test']))}, metric: {metric}}}\n"
        done.append(f"{path}: {len(train)} {kind} to train on, {len(test)} held out")
    if not tasks:
        raise BessemerError(
            "these conversations have more than two different answers, and no metric for that is there yet",
            where=", ".join(map(str, files)),
            fix="add a file of documents from the same domain; its bits per byte are measured",
        )
    stages = "".join(
        _stage(objective, [s for s, k in kinds.items() if k == kind])
        for objective, kind in (("cpt", "documents"), ("sft", "chat"))
    )
    text = TEMPLATE.format(out=out, name=name, start=start, sources=sources.rstrip(), stages=stages, tasks=tasks)
    parse_recipe(text, where=str(out))
    for path, content in planned:
        write_text(path, content)
    write_text(out, text)
    return [*done, f"recipe written to {out}", f"next: bessemer plan {out}"]


def _stage(objective: str, sources: list[str]) -> str:
    """A stage with 25 % replay, the rest shared by the sources of its kind; nothing when there are none."""
    if not sources:
        return ""
    shares = [round(0.75 / len(sources), 4)] * len(sources)
    shares[-1] = round(0.75 - sum(shares[:-1]), 4)
    mixture = ", ".join(f"{s}: {share:g}" for s, share in zip(sources, shares, strict=True))
    weights = ", ".join(f"{s}: 1" for s in [*sources, "docs"])
    balance = (
        f"    loss_weight: {{{weights}}}   # each source counts as a mean of its own\n" if objective == "sft" else ""
    )
    return (
        f"  - objective: {objective}\n"
        f"    mixture: {{{mixture}, docs: 0.25}}   # shares of the tokens\n{balance}"
        "    # tokens: 200k          # default: your data once\n"
        "    # lr: 1e-4              # default: by model size\n"
        "    freeze: 0.5             # lower half kept fixed: faster, forgets less\n"
    )


def _name(path: Path, taken: set[str]) -> str:
    base = "".join(c if c.isascii() and c.isalnum() else "-" for c in path.stem.lower()).strip("-")[:60] or "data"
    name = base if base != "docs" else "data"
    return name if name not in taken else f"{name}-{len(taken)}"


@dataclass(frozen=True)
class _Row:
    line: str  # as JSON
    together: str  # rows with the same text or group stay on one side of the split
    answer: str  # of a conversation

    @property
    def held_out(self) -> bool:
        return int(sha256_text(self.together)[:8], 16) % HELD_OUT == 0


def _read(path: Path) -> tuple[str, list[_Row], str]:
    """(kind, rows, text column). Raises BessemerError with the place of the first row that cannot be used."""
    if not path.is_file():
        raise BessemerError("the file does not exist", where=str(path))
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise BessemerError(f"no UTF-8 text ({error.reason} at byte {error.start})", where=str(path)) from None
    if path.suffix in {".txt", ".md"}:
        paragraphs = (p.strip() for p in text.split("\n\n"))
        places: list[tuple[str, dict[str, Any]]] = [(str(path), {"text": p}) for p in paragraphs if len(p) > 40]
    elif path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        places = [(f"{path}:{reader.line_num}", row) for row in reader]
    elif path.suffix == ".jsonl":
        lines = enumerate(text.split("\n"), start=1)  # splitlines would cut at U+2028, which JSON allows in a text
        places = [(f"{path}:{n}", _parse(line, f"{path}:{n}")) for n, line in lines if line.strip()]
    else:
        raise BessemerError(f"{path.suffix!r} files are not read", where=str(path), fix="use .jsonl, .csv, .txt or .md")
    where = places[0][0] if places else str(path)
    first: dict[str, Any] = places[0][1] if places else {}
    if "messages" in first or {"prompt", "completion"} <= set(first):
        return "chat", [_chat_row(row, at) for at, row in places], ""
    column = next((c for c in TEXT_COLUMNS if isinstance(first.get(c), str)), None)
    if column is None:
        raise BessemerError(
            f"no text column among {', '.join(map(repr, first)) or 'nothing'}",
            where=where,
            fix=f"name it {TEXT_COLUMNS[0]!r}, or give `messages`",
        )
    return "documents", [_document_row(row, column, at) for at, row in places], column


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BessemerError(f"no valid JSON ({error})", where=where) from None
    if not isinstance(row, dict):
        raise BessemerError("a row must be a JSON object", where=where)
    return cast(dict[str, Any], row)


def _document_row(row: dict[str, Any], column: str, where: str) -> _Row:
    if not isinstance(row.get(column), str) or not row[column].strip():
        raise BessemerError(f"no text in column {column!r}", where=where, fix="repair the row or take it out")
    return _Row(_dump(row), str(row.get("group") or _plain(row[column])), "")


def _chat_row(row: dict[str, Any], where: str) -> _Row:
    """Raises BessemerError unless there is a text in every message. Roles are checked by the plan."""
    messages: Any = row.get("messages") or [{"content": row.get("prompt")}, {"content": row.get("completion")}]
    try:
        texts = [str(m["content"]) for m in messages if isinstance(m["content"], str)]
        whole = len(texts) == len(messages)
    except (TypeError, KeyError):
        texts, whole = [], False
    if not whole:
        raise BessemerError("no `messages`, nor `prompt` and `completion`, that are texts", where=where)
    return _Row(_dump(row), str(row.get("group") or _plain("\n".join(texts))), texts[-1].strip())


def _dump(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)


def _plain(text: str) -> str:
    """Letters and digits only, as the plan compares held-out items with training data."""
    return "".join(c for c in text.lower() if c.isalnum())
