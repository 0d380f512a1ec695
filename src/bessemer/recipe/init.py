"""A first recipe for the user's own files, with a tenth of them held out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

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
        held = {r for r in rows if int(sha256_text(r)[:8], 16) % HELD_OUT == 0}
        train, test = [r for r in rows if r not in held], [r for r in rows if r in held]
        if not train or not test:
            raise BessemerError(f"{len(rows)} rows are too few to hold some out", where=str(path), fix="give 20 or more")
        targets = {part: folder / f"{source}.{part}.jsonl" for part in ("train", "test")}
        planned += [(targets["train"], "\n".join(train) + "\n"), (targets["test"], "\n".join(test) + "\n")]
        text = f", text: {column}" if kind == "documents" and column != "text" else ""
        sources += f"  {source}: {{from: {json.dumps(str(targets['train']))}, kind: {kind}{text}}}\n"
        if kind == "documents" or _two_answers(rows):
            metric = "bits_per_byte" if kind == "documents" else "auroc"
            tasks += f"  {source}: {{from: {json.dumps(str(targets['test']))}, metric: {metric}}}\n"
        done.append(f"{path}: {len(train)} {kind} to train on, {len(test)} held out")
    if not tasks:
        raise BessemerError(
            "these conversations have more than two different answers, and no metric for that is there yet",
            where=", ".join(map(str, files)),
            fix="add a file of documents from the same domain; its bits per byte are measured",
        )
    stages = "".join(_stage(objective, [s for s, k in kinds.items() if k == kind])
                     for objective, kind in (("cpt", "documents"), ("sft", "chat")))
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
    balance = f"    loss_weight: {{{weights}}}   # each source counts as a mean of its own\n" if objective == "sft" else ""
    return (
        f"  - objective: {objective}\n"
        f"    mixture: {{{mixture}, docs: 0.25}}   # shares of the tokens\n{balance}"
        "    # tokens: 200k          # default: your data once\n"
        "    # lr: 1e-4              # default: by model size\n"
        "    freeze: 0.5             # lower half kept fixed: faster, forgets less\n"
    )


def _name(path: Path, taken: set[str]) -> str:
    base = "".join(c if c.isalnum() else "-" for c in path.stem.lower()).strip("-") or "data"
    name = base if base != "docs" else "data"
    return name if name not in taken else f"{name}-{len(taken)}"


def _read(path: Path) -> tuple[str, list[str], str]:
    """(kind, rows as JSON lines, text column)."""
    if not path.is_file():
        raise BessemerError("the file does not exist", where=str(path))
    if path.suffix in {".txt", ".md"}:
        paragraphs = [p.strip() for p in path.read_text().split("\n\n")]
        return "documents", [json.dumps({"text": p}, ensure_ascii=False) for p in paragraphs if len(p) > 40], "text"
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = [json.dumps(row, ensure_ascii=False) for row in csv.DictReader(file)]
    elif path.suffix == ".jsonl":
        rows = [line for line in path.read_text().splitlines() if line.strip()]
    else:
        raise BessemerError(f"{path.suffix!r} files are not read", where=str(path), fix="use .jsonl, .csv, .txt or .md")
    try:
        first: dict[str, Any] = json.loads(rows[0]) if rows else {}
    except ValueError as error:
        raise BessemerError(f"no valid JSON ({error})", where=f"{path}:1") from None
    if "messages" in first or {"prompt", "completion"} <= set(first):
        return "chat", rows, ""
    column = next((c for c in TEXT_COLUMNS if isinstance(first.get(c), str)), None)
    if column is None:
        raise BessemerError(
            f"no text column among {', '.join(map(repr, first)) or 'nothing'}", where=f"{path}:1",
            fix=f"name it {TEXT_COLUMNS[0]!r}, or give `messages`",
        )
    return "documents", rows, column


def _two_answers(rows: list[str]) -> bool:
    answers: set[str] = set()
    for row in map(json.loads, rows):
        answer = row["messages"][-1]["content"] if "messages" in row else row["completion"]
        answers.add(str(answer).strip())
    return len(answers) == 2
