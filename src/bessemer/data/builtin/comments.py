"""Real short comments: tweets, film and shop reviews, newspaper sentences.

They come inside the source distribution of vaderSentiment (MIT; its notes ask for the citation Hutto & Gilbert,
ICWSM 2014; the sentences themselves belong to their writers). Fetched by pip, sha256-checked, read in memory.
"""

from __future__ import annotations

import html
from functools import cache

from bessemer.data.items import Item
from bessemer.families import package
from bessemer.files import sha256_text

PACKAGE = "vaderSentiment==3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
MEMBER = "hutto_ICWSM_2014.tar.gz!hutto_ICWSM_2014/{name}_GroundTruth.txt"
DOMAIN = ("tweets", "movieReviewSnippets", "amazonReviewSnippets")
LICENCE = "MIT (package); texts of third parties"


@cache
def _sentences(name: str) -> list[tuple[str, str]]:
    """(id, text) of one file: lines of `id TAB rating TAB text`, without repeated texts."""
    archive = package.fetch(PACKAGE, SHA256, sdist=True)
    seen: dict[str, str] = {}
    for line in package.read_member(archive, MEMBER.format(name=name)).decode().splitlines():
        number, _, text = line.split("\t", 2)
        text = " ".join(html.unescape(text).split())
        if text and text.lower() not in seen:
            seen[text.lower()] = f"{name}:{number}\t{text}"
    pairs = (entry.split("\t", 1) for entry in seen.values())
    return [(number, text) for number, text in pairs]


def held_out(text: str) -> bool:
    """A fixed fifth of all comments is never trained on; it depends on nothing but the words of the text."""
    letters = "".join(c for c in text.lower() if c.isalnum())
    return int(sha256_text(letters)[:8], 16) % 5 == 0


@cache
def domain_comments(*, test: bool) -> list[tuple[str, str]]:
    """(id, text) of the community's comments: those for training, or the held-out fifth."""
    return [pair for name in DOMAIN for pair in _sentences(name) if held_out(pair[1]) == test]


def domain_documents() -> list[Item]:
    return [Item(id=i, text=text, meta={"licence": LICENCE}) for i, text in domain_comments(test=False)]


def newspaper_documents() -> list[Item]:
    """Editorial articles, their sentences put together again (ids are `article_sentence`)."""
    articles: dict[str, list[str]] = {}
    for number, text in _sentences("nytEditorialSnippets"):
        articles.setdefault(number.rpartition("_")[0], []).append(text)
    return [Item(id=i, text=" ".join(parts), meta={"licence": LICENCE}) for i, parts in articles.items()]
