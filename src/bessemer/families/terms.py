"""Licences that must be accepted before the weights are fetched (Gemma, Llama): asked once, kept with the date."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from bessemer.errors import BessemerError
from bessemer.families import package
from bessemer.families.catalogue import Entry
from bessemer.families.schema import Terms
from bessemer.files import home, read_json, sha256_text, write_json, write_text
from bessemer.units import now


def need_accepted(entry: Entry) -> None:
    """Raises BessemerError when the terms of a checkpoint were not accepted on this machine."""
    if entry.terms and not is_accepted(entry.terms):
        raise BessemerError(
            f"{entry.size} comes under the {entry.terms.name}, which nobody has accepted here",
            where=entry.name,
            fix=f"read them ({entry.terms.url}), then: bessemer families accept {entry.size}",
        )


def is_accepted(terms: Terms) -> bool:
    path = _record(terms)
    return path.exists() and read_json(path).get("url") == terms.url


def accept(terms: Terms, text: str) -> Path:
    """Write down that they were accepted; text: what was shown ("" = the address only). Returns the record."""
    record = _record(terms)
    shown = {"text_sha256": sha256_text(text)} if text else {}
    if text:
        write_text(record.with_suffix(".txt"), text)
    write_json(record, {"name": terms.name, "url": terms.url, "accepted": now(), **shown})
    return record


def text_of(terms: Terms) -> str:
    """The text that comes with the package, without HTML's tags; "" when it is only on the web.

    Raises BessemerError when the package cannot be fetched.
    """
    if terms.text is None:
        return ""
    raw = package.read_member(package.fetch(terms.text.name, terms.text.sha256), terms.text.file).decode()
    return _plain(raw) if terms.text.file.endswith(".html") else raw


def _record(terms: Terms) -> Path:
    name = "".join(c if c.isalnum() else "-" for c in terms.name.lower())
    return home() / "licences" / f"{name}.json"


class _Text(HTMLParser):
    """The lines of a page, and those of its <article> from the title on, without menus."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.article: list[str] = []
        self.open = {"script": 0, "style": 0, "nav": 0, "article": 0}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "h1":
            self.article.clear()
        if tag in self.open:
            self.open[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            self.open[tag] -= 1

    def handle_data(self, data: str) -> None:
        if self.open["script"] or self.open["style"] or not (line := " ".join(data.split())):
            return
        self.lines.append(line)
        if self.open["article"] and not self.open["nav"]:
            self.article.append(line)


def _plain(html: str) -> str:
    parser = _Text()
    parser.feed(html)
    return "\n".join(parser.article or parser.lines) + "\n"
