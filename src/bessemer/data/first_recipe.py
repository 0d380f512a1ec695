"""A first recipe for the user's own files, with a tenth of them held out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bessemer.data.columns import guess_kind, row_of
from bessemer.data.formats import BINARY, WHOLE, Row, rows
from bessemer.data.items import Item
from bessemer.data.open import list_files, need, open_file, reading
from bessemer.data.sources import Source
from bessemer.errors import BessemerError
from bessemer.files import need_new, sha256_text, write_text
from bessemer.recipe.load import parse_recipe

PLAIN = re.compile(r"[\w./@~-]+")  # needs no quotes in YAML
HELD_OUT = 10  # one of so many rows

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

    Rows that look like conversations become chat, everything else documents; the parts are JSON lines.
    Raises BessemerError when a file cannot be used or `out` exists.
    """
    need_new(out)
    folder = out.parent / f"{out.stem}-data"
    sources, tasks = "", ""
    kinds, sizes = dict[str, str](), dict[str, int]()
    done: list[str] = []
    planned: list[tuple[Path, str]] = []
    for path in files:
        kind, read = _read(path)
        source = _name(path, set(kinds))
        kinds[source] = kind
        sizes[source] = sum(len(r.line) for r in read)
        train, test = ([r.line for r in read if r.held_out == side] for side in (False, True))
        if not train or not test:
            raise BessemerError(
                f"{len(read)} rows are too few to hold some out, since rows of one text or group stay together",
                where=str(path),
                fix="give 20 or more that differ",
            )
        targets = {part: folder / f"{source}.{part}.jsonl" for part in ("train", "test")}
        for target in targets.values():
            need_new(target)  # of another recipe
        planned += [(targets["train"], "\n".join(train) + "\n"), (targets["test"], "\n".join(test) + "\n")]
        sources += f"  {source}: {{from: {json.dumps(str(targets['train']))}, kind: {kind}}}\n"
        if kind == "documents" or len({row.answer for row in read}) == 2:
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
        _stage(objective, {s: sizes[s] for s, k in kinds.items() if k == kind})
        for objective, kind in (("cpt", "documents"), ("sft", "chat"))
    )
    text = TEMPLATE.format(
        out=out,
        name=_key(name),
        start=_yaml(start),
        sources=sources.rstrip(),
        stages=stages,
        tasks=tasks,
    )
    parse_recipe(text, where=str(out))
    for path, content in planned:
        write_text(path, content)
    write_text(out, text)
    return [*done, f"recipe written to {out}", f"next: bessemer plan {out}"]


def _stage(objective: str, sizes: Mapping[str, int]) -> str:
    """A stage with 25 % replay, the rest shared by the sources of its kind by their size, so that each is read once;
    nothing when there are none."""
    if not sizes:
        return ""
    sources = list(sizes)
    shares = [max(0.0001, round(0.75 * n / sum(sizes.values()), 4)) for n in sizes.values()]
    largest = shares.index(max(shares))
    shares[largest] = round(0.75 - sum(shares) + shares[largest], 4)
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


def _yaml(text: str) -> str:
    return text if PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _key(text: str) -> str:
    return text if _is_text(text) else json.dumps(text)


def _is_text(word: str) -> bool:
    """Whether YAML reads it as it stands: no year, no date, no `on`."""
    try:
        return yaml.safe_load(word) == word
    except (yaml.YAMLError, ValueError):
        return False


def _name(path: Path, taken: set[str]) -> str:
    base = "".join(c if c.isascii() and c.isalnum() else "-" for c in path.stem.lower()).strip("-")[:60] or "data"
    name = base if base != "docs" and _is_text(base) else f"data-{base}"  # 2024, on, null
    return name if name not in taken else f"{name}-{len(taken)}"


@dataclass(frozen=True)
class _Row:
    line: str  # as JSON
    together: str  # rows with the same text or group stay on one side of the split
    answer: str  # of a conversation

    @property
    def held_out(self) -> bool:
        return int(sha256_text(self.together)[:8], 16) % HELD_OUT == 0


def _read(path: Path) -> tuple[str, list[_Row]]:
    """(kind, rows). Raises BessemerError with the place of the first row that cannot be used."""
    if not path.is_file():
        raise BessemerError("the file does not exist or is no plain file", where=str(path))
    kind = _kind(path)
    items: Iterable[Item] = Source(str(path), kind)
    if list_files(str(path))[0].format in WHOLE:
        paragraphs = (p.strip() for item in items for p in re.split(r"\n\s*\n", item.text))
        items = [Item(id=f"{path.name}:{n}", text=p) for n, p in enumerate(paragraphs, start=1) if len(p) > 40]
    return kind, [_row(item) for item in items]


def _kind(path: Path) -> str:
    """What the file's first readable row looks like; a conversation wins over a text beside it."""
    (file,) = list_files(str(path))
    if file.format in BINARY:
        need("pyarrow", str(path), f"{file.format} files")
    with reading(file), open_file(file) as stream:
        nothing: dict[str, Any] = {}
        first = next((r.values for r in rows(file.name, stream) if isinstance(r, Row)), nothing)
    kind = guess_kind(first)
    if kind == "preference":
        raise BessemerError("no objective reads preference pairs yet", where=str(path), fix="give documents or chats")
    return kind


def _row(item: Item) -> _Row:
    """The item with its provenance as columns beside it, as it came."""
    row = row_of(item)
    line = json.dumps(dict(item.meta) | {k: v for k, v in row.items() if k != "meta"}, ensure_ascii=False)
    texts = [item.text] if item.text else [m.content for m in item.messages]
    return _Row(line, item.group or _plain("\n".join(texts)), texts[-1].strip())


def _plain(text: str) -> str:
    """Letters and digits only, as the plan compares held-out items with training data."""
    return "".join(c for c in text.lower() if c.isalnum())
