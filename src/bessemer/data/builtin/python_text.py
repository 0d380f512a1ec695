"""Text that comes with Python itself: general replay (docstrings) and a probe disjoint by source (topics)."""

from __future__ import annotations

import ast
import inspect
import os
import re
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from bessemer.data.items import Item, Message
from bessemer.files import sha256_text

SKIP = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "pydoc_data",
    "turtledemo",
    "ensurepip",
    "__pycache__",
}
MIN_CHARACTERS = 160
LICENCE = "PSF-2.0"


@cache
def _docstrings() -> list[tuple[str, str]]:
    """(dotted name, docstring) of everything public in the standard library, by name, without repeats."""
    root = Path(os.__file__).parent
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if SKIP & set(parts):
            continue
        module = ".".join(parts).removesuffix(".__init__")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in the library's own strings
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):
                continue
        for name, text in _walk(tree, module):
            found.setdefault(text, name)
    return sorted((name, text) for text, name in found.items())


def _walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield name, inspect.cleandoc(text)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield from _walk(child, f"{name}.{child.name}")


def docstrings() -> list[Item]:
    return [
        Item(id=name, text=f"{name}\n\n{text}", meta={"licence": LICENCE})
        for name, text in _docstrings()
        if len(text) >= MIN_CHARACTERS
    ]


def questions(held_out: bool | None = None) -> list[Item]:
    """Instructions made of docstrings: what does X do? -> the first paragraph.

    held_out: None for all of them; True for a fixed eighth, chosen by the answer so that equal answers stay on one
    side; False for the rest.
    """
    items: list[Item] = []
    for name, text in _docstrings():
        first = " ".join(text.split("\n\n")[0].split())
        if name.count(".") >= 1 and 40 <= len(first) <= 300 and re.match(r"[A-Z]\w+ .*\.$", first):
            ask = Message("user", f"What does {name} do in Python?")
            if held_out is None or held_out == (int(sha256_text(first.lower())[:8], 16) % 8 == 0):
                items.append(Item(id=name, messages=(ask, Message("assistant", first)), meta={"licence": LICENCE}))
    return items


def topics() -> list[Item]:
    """The language reference as pydoc carries it. Never part of the replay."""
    from pydoc_data.topics import topics as texts

    return [Item(id=name, text=text.strip(), meta={"licence": LICENCE}) for name, text in sorted(texts.items())]
