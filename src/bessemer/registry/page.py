"""HTML pieces of the report: tables, figures, lists. Data comes in as text and is escaped here, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template

from bessemer.registry.charts import NARROW, WIDE, series_class
from bessemer.registry.svg import escape


@dataclass(frozen=True)
class Html:
    """Markup that is finished; a plain str in its place is data and gets escaped."""

    text: str


Cell = str | Html
CONTENTS = {
    "learnt": "What was learnt",
    "kept": "What was kept",
    "went": "How it went",
    "fed": "What it was fed",
    "samples": "Samples",
    "lineage": "Lineage",
    "again": "Reproduce and serve",
}


def render(value: Cell) -> str:
    return value.text if isinstance(value, Html) else f"<bdi>{escape(value)}</bdi>"


def join(parts: Sequence[Html]) -> Html:
    return Html("\n".join(p.text for p in parts if p.text))


def tag(name: str, *inside: Cell, class_: str = "") -> Html:
    opening = f'{name} class="{escape(class_)}"' if class_ else name
    return Html(f"<{opening}>{''.join(map(render, inside))}</{name}>")


def words(sentence: str, class_: str = "") -> Html:
    """A paragraph of our own words and data; escaped as a whole."""
    return tag("p", Html(escape(sentence)), class_=class_)


def nothing(sentence: str) -> Html:
    """One line in place of a part that has no data."""
    return words(sentence, "none")


def section_of(anchor: str, parts: Sequence[Html], title: str = "") -> Html:
    """One of the page's sections, under its title; of a run's report by its anchor alone."""
    title = title or CONTENTS[anchor]
    return Html(
        f'<section id="{anchor}" aria-labelledby="{anchor}-h"><h2 id="{anchor}-h">{escape(title)}</h2>\n'
        f"{join(parts).text}</section>"
    )


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], numbers: Sequence[int] = ()) -> Html:
    """A table that scrolls in its own box; its first column names the row; `numbers` are right-aligned."""
    style = [' class="n"' if i in numbers else "" for i in range(len(head))]
    top = "".join(f'<th scope="col"{style[i]}>{escape(h)}</th>' for i, h in enumerate(head))
    body = "".join(
        "<tr>"
        + f'<th scope="row">{render(row[0])}</th>'
        + "".join(f"<td{style[i]}>{render(cell)}</td>" for i, cell in enumerate(row) if i)
        + "</tr>\n"
        for row in rows
    )
    return Html(
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption><span>{escape(caption)}</span></caption><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table></div>"
    )


def figure(title: str, draw: Callable[[int], str], note: str = "", keys: Html | None = None) -> Html:
    """A chart drawn twice, wide and for a phone (CSS shows one), under its caption."""
    below = f'<div class="note">{escape(note)}</div>' if note else ""
    return Html(
        f'<figure><figcaption class="above"><strong>{escape(title)}</strong>{below}</figcaption>'
        f"{keys.text if keys else ''}{draw(WIDE)}{draw(NARROW)}</figure>"
    )


def keys(names: Sequence[tuple[str, int]]) -> Html:
    """Names with the colours of their series."""
    items = (
        f'<li><svg viewBox="0 0 22 12" aria-hidden="true"><rect class="part {series_class(c)}" '
        f'width="22" height="12"/></svg>{render(name)}</li>'
        for name, c in names
    )
    return Html(f'<ul class="keys">{"".join(items)}</ul>')


def facts(rows: Sequence[tuple[str, Cell]]) -> Html:
    inside = "".join(f"<dt>{escape(name)}</dt><dd>{render(value)}</dd>" for name, value in rows)
    return Html(f'<dl class="facts">{inside}</dl>')


def digest(value: object) -> Html:
    """The first 12 characters; the whole digest on hover (and in the details of the lineage)."""
    full = str(value or "")
    return Html(f'<code title="{escape(full)}">{escape(full[:12])}</code>' if full else "not recorded")


def value(main: str, below: str = "") -> Html:
    """A number with its interval on a second, quieter line."""
    return Html(escape(main) + (f"<br><small>{escape(below)}</small>" if below else ""))


def details(summary: str, *inside: Html) -> Html:
    return Html(f"<details><summary>{escape(summary)}</summary>{join(inside).text}</details>")


def code(text: str) -> Html:
    return Html(f'<pre tabindex="0"><code>{escape(text)}</code></pre>')


def bullets(items: Sequence[str]) -> Html:
    return Html(f"<ul>{''.join(f'<li>{render(i)}</li>' for i in items)}</ul>") if items else Html("")


def whole(
    title: str, head: Sequence[Html], body: Sequence[Html], foot: str, kicker: str = "Bessemer run report"
) -> str:
    """The finished page from report.html. kicker: what kind of page it is."""
    template = resources.files("bessemer.registry").joinpath("report.html").read_text("utf-8")
    return Template(template).substitute(
        title=escape(title), kicker=escape(kicker), head=join(head).text, body=join(body).text, foot=escape(foot)
    )
