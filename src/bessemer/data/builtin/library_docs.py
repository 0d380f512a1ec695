"""Documentation of two large Python libraries: enough prose and code under a plain licence to grow a small family on.

It comes inside the source distributions of Django (BSD-3-Clause) and SQLAlchemy (MIT), fetched by pip, sha256-checked
and read in memory. Whole pages are documents. Guides explain, the reference lists: a family is fed the reference first
and annealed on the guides. A tenth of the pages, chosen by name, is never trained on.
"""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass
from functools import cache

from bessemer.data.items import Item
from bessemer.families import package
from bessemer.files import sha256_text

PARTS = ("reference", "guides", "held-out")


@dataclass(frozen=True)
class Library:
    """A source distribution. pages: which of its members; guides: which of those explain rather than list."""

    package: str
    sha256: str
    licence: str
    pages: str
    guides: str


LIBRARIES = (
    Library(
        package="Django==5.2.8",
        sha256="23254866a5bb9a2cfa6004e8b809ec6246eba4b58a7589bc2772f1bcc8456c7f",
        licence="BSD-3-Clause",
        pages=r"^[^/]+/docs/(?P<name>[^_].*)\.txt$",
        guides=r"^(intro|topics|howto|faq|internals|misc)/",
    ),
    Library(
        package="SQLAlchemy==2.0.44",
        sha256="0ae7454e1ab1d780aee69fd2aae7d6b8670a581d8847f2d1e0f7ddfbf47e5a22",
        licence="MIT",
        pages=r"^[^/]+/doc/build/(?P<name>.*)\.rst$",
        guides=r"^(orm|core|tutorial|faq|errors|glossary)",
    ),
)


@cache
def _pages() -> list[tuple[str, Item]]:
    """(part, page) of both libraries, by name."""
    found: list[tuple[str, Item]] = []
    for library in LIBRARIES:
        archive = package.fetch(library.package, library.sha256, sdist=True)
        prefix = library.package.partition("==")[0].lower()
        with tarfile.open(archive) as tar:
            for member in tar:
                match = re.match(library.pages, member.name)
                if match and member.isfile() and (file := tar.extractfile(member)):
                    name, text = match["name"], file.read().decode().strip()
                    part = "guides" if re.match(library.guides, name) else "reference"
                    part = "held-out" if held_out(name) else part
                    if text:
                        found.append((part, Item(id=f"{prefix}/{name}", text=text, meta={"licence": library.licence})))
    return sorted(found, key=lambda pair: pair[1].id)


def held_out(name: str) -> bool:
    """A fixed tenth of the pages; it depends on nothing but the page's name."""
    return int(sha256_text(name)[:8], 16) % 10 == 0


def read(part: str) -> list[Item]:
    """The pages of one of PARTS."""
    return [page for of, page in _pages() if of == part]
