"""Collections that come with packages: enough real text to try everything without a network of one's own.

Each entry: name -> (kind of its items, function that reads them). Nothing of it lies in this repository.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bessemer.data.builtin import comments, house_rules, library_docs, python_text
from bessemer.data.items import Item

COLLECTIONS: dict[str, tuple[str, Callable[[], list[Item]]]] = {
    "comments": ("documents", comments.domain_documents),
    **{f"docs/{part}": ("documents", partial(library_docs.read, part)) for part in library_docs.PARTS},
    "newspaper": ("documents", comments.newspaper_documents),
    "rules/train": ("chat", partial(house_rules.read, "train")),
    "rules/trained": ("chat", partial(house_rules.read, "trained")),
    "rules/new-wording": ("chat", partial(house_rules.read, "new-wording")),
    "rules/new-rule": ("chat", partial(house_rules.read, "new-rule")),
    "python/docstrings": ("documents", python_text.docstrings),
    "python/questions": ("chat", python_text.questions),
    "python/questions-train": ("chat", partial(python_text.questions, False)),
    "python/questions-held-out": ("chat", partial(python_text.questions, True)),
    "python/topics": ("documents", python_text.topics),
}
