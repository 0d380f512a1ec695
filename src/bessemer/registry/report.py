"""The report: one page that says what was learnt, what was kept, and how it came about; readable offline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bessemer.registry import facts as read
from bessemer.registry.facts import listed, number, section
from bessemer.registry.page import (
    CONTENTS,
    Cell,
    Html,
    bullets,
    code,
    details,
    digest,
    facts,
    join,
    nothing,
    render,
    section_of,
    table,
    tag,
    whole,
    words,
)
from bessemer.registry.progress import fed, went
from bessemer.registry.results import kept, learnt
from bessemer.registry.svg import escape
from bessemer.units import show_bytes, show_count, show_seconds

BADGES = {"SHIP": ("good", "✓"), "HOLD": ("wait", "–"), "REJECT": ("bad", "✕")}


def build_report(
    plan: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    scorecard: Mapping[str, Any],
    lineage: Mapping[str, Any],
) -> str:
    """The run as one self-contained HTML page without scripts or loads.

    plan: plan.lock.json. metrics: events of metrics.jsonl. scorecard: scorecard.json. lineage: the release
    manifest's facts, optionally with "seconds" {step: seconds}. Parts without data say so in one line.
    """
    metrics = [event for event in metrics if isinstance(event, Mapping)]
    name = _name(plan, lineage)
    body = [
        learnt(scorecard),
        kept(scorecard),
        went(plan, metrics, scorecard),
        fed(plan, metrics, lineage),
        samples(scorecard),
        origin(plan, lineage),
        again(name, scorecard, lineage),
    ]
    identity = str(plan.get("identity") or lineage.get("plan_identity") or "not recorded")
    foot = f"Made by Bessemer. Plan {identity[:12]}."
    return whole(f"{name} – Bessemer run report", _head(name, plan, metrics, scorecard, lineage), body, foot)


def samples(scorecard: Mapping[str, Any]) -> Html:
    """Prompts with the wanted answer and the answers before and after training."""
    shown = [_sample(section(s)) for s in listed(scorecard.get("samples"))]
    return section_of("samples", shown or [nothing("No sample was recorded.")])


def origin(plan: Mapping[str, Any], lineage: Mapping[str, Any]) -> Html:
    """Everything that pins this model: base, recipe, code, plan, data, files, machine and time."""
    base = {**section(plan.get("base")), **section(lineage.get("base"))}
    size = number(base.get("bytes"))
    rows: list[tuple[str, Cell]] = [
        ("Base model", str(base.get("name") or "not recorded")),
        ("Base digest", digest(base.get("digest"))),
        ("Base from", str(base.get("origin") or "not recorded") + (f", {show_bytes(size)}" if size else "")),
        ("Chat template", str(base.get("chat_template") or "the base's own")),
        ("Base licence", str(base.get("licence") or "not recorded")),
        ("Plan identity", digest(plan.get("identity") or lineage.get("plan_identity"))),
        ("Recipe sha256", digest(lineage.get("recipe_sha256"))),
        ("Code sha256", digest(lineage.get("code_sha256"))),
        ("Seed", str(section(plan.get("recipe")).get("seed", "not recorded"))),
        ("Created", str(lineage.get("created") or "not recorded")),
    ]
    seconds = {k: s for k, v in section(lineage.get("seconds")).items() if (s := number(v)) is not None}
    if seconds:
        spent = ", ".join(f"{k} {show_seconds(v)}" for k, v in seconds.items())
        rows.append(("Time", f"{show_seconds(sum(seconds.values()))} in all: {spent}"))
    machine = section(plan.get("machine"))
    versions = {**section(machine.get("versions")), **section(lineage.get("versions"))}
    place = {k: v for k, v in machine.items() if k != "versions"}
    rows += [(f"Machine: {path}", str(v)) for path, v in read.flat(place) if path]
    if versions:
        rows.append(("Versions", ", ".join(f"{k} {v}" for k, v in versions.items())))
    parts = [facts(rows), *_more(plan, lineage, base)]
    return section_of("lineage", parts)


def again(name: str, scorecard: Mapping[str, Any], lineage: Mapping[str, Any]) -> Html:
    """The command that makes this model again and, for a release, the one that serves it."""
    same = "The same recipe, data, code and base checkpoint give the same plan identity:"
    if _verdict(scorecard, lineage) != "SHIP":
        return section_of(
            "again",
            [words(same), code("bessemer run RECIPE"), words("There is nothing to serve: only SHIP makes a release.")],
        )
    version = lineage.get("version")
    reference = f"{name}@{version}" if version else name
    return section_of(
        "again",
        [
            words(f"The release holds its recipe. {same}"),
            code("bessemer run recipe.yaml"),
            words("Serve it, pinned by its digest, behind an OpenAI-compatible address on this machine:"),
            code(f"bessemer serve {reference}"),
        ],
    )


def _verdict(scorecard: Mapping[str, Any], lineage: Mapping[str, Any]) -> str:
    return str(section(scorecard.get("verdict")).get("word") or lineage.get("verdict") or "NOT MEASURED")


def _name(plan: Mapping[str, Any], lineage: Mapping[str, Any]) -> str:
    return str(lineage.get("name") or section(plan.get("recipe")).get("name") or "unnamed run")


def _head(
    name: str,
    plan: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    scorecard: Mapping[str, Any],
    lineage: Mapping[str, Any],
) -> list[Html]:
    version = lineage.get("version")
    verdict = section(scorecard.get("verdict"))
    word = _verdict(scorecard, lineage)
    tone, sign = BADGES.get(word, ("wait", "–"))
    badge = Html(f'<span class="badge"><span aria-hidden="true">{sign} </span>{escape(word)}</span>')
    meaning = read.VERDICT_WORDS.get(word, "no verdict was reached")
    reasons = bullets([str(r).replace(" -> ", " → ") for r in listed(verdict.get("reasons"))])
    base = str({**section(plan.get("base")), **section(lineage.get("base"))}.get("name") or "")
    total = sum(n for stage in read.consumed(plan, metrics, lineage.get("tokens")).values() for n in stage.values())
    story = [f"Trained from {base}" if base else "", f"on {show_count(total)} tokens" if total else ""]
    seconds = sum(number(v) or 0.0 for v in section(lineage.get("seconds")).values())
    story.append(f"in {show_seconds(seconds)}" if seconds else "")
    lead = " ".join(filter(None, story))
    links = "".join(f'<a href="#{anchor}">{escape(title)}</a> ' for anchor, title in CONTENTS.items())
    return [
        tag("h1", f"{name}@{version}" if version else name),
        words(lead + ".", "lead") if lead else Html(""),
        tag(
            "div",
            badge,
            Html(f"<p>{escape(meaning[0].upper() + meaning[1:])}.</p>"),
            reasons,
            class_=f"verdict {tone}",
        ),
        Html(f'<nav aria-label="Contents">{links}</nav>'),
    ]


def _sample(sample: Mapping[str, Any]) -> Html:
    turns = "".join(
        f'<dt>{escape(section(m).get("role", "text"))}</dt><dd dir="auto">{escape(section(m).get("content", ""))}</dd>'
        for m in listed(sample.get("messages"))
    )
    wanted = sample.get("wanted")
    cells: list[Html] = []
    for title, answer in (
        ("Wanted", wanted),
        ("Before", sample.get("before")),
        ("After", sample.get("after")),
    ):
        same = title != "Wanted" and wanted is not None and _plain(answer) == _plain(wanted)
        heading = f"{title} (as wanted)" if same else title
        style = ' class="same"' if same else ""
        shown = "–" if answer is None else str(answer) or "(nothing)"
        cells.append(Html(f'<div><h4>{heading}</h4><p{style} dir="auto">{escape(shown)}</p></div>'))
    return Html(
        f'<article class="sample"><h3>{render(str(sample.get("title", "Sample")))}</h3>'
        f'<dl class="say">{turns}</dl>'
        f'<div class="answers">{join(cells).text}</div></article>'
    )


def _plain(answer: object) -> str:
    """An answer without the share that the scorecard writes behind it: `yes (93%)` -> `yes`."""
    return re.sub(r" \(\d+%\)$", "", str(answer)).strip()


def _more(plan: Mapping[str, Any], lineage: Mapping[str, Any], base: Mapping[str, Any]) -> list[Html]:
    """The long parts of the lineage, folded."""
    full: list[tuple[str, object]] = [
        ("base", base.get("digest")),
        ("plan", plan.get("identity") or lineage.get("plan_identity")),
        ("recipe", lineage.get("recipe_sha256")),
        ("code", lineage.get("code_sha256")),
    ]
    data = {**section(plan.get("sources")), **section(lineage.get("data"))}
    full += [(f"data {k}", section(v).get("digest")) for k, v in data.items()]
    full += [(f"file {k}", section(v).get("sha256")) for k, v in section(lineage.get("files")).items()]
    rows: list[list[Cell]] = [[name, tag("code", str(value))] for name, value in full if value]
    parts = [details("Every digest in full", table("SHA-256 digests", ["Of", "Digest"], rows))] if rows else []
    for title, value in (
        ("Recipe, with defaults filled in", plan.get("recipe")),
        ("Estimate before the run", plan.get("estimate")),
    ):
        leaves = [(path, str(leaf)) for path, leaf in read.flat(section(value)) if path]
        parts.append(details(title, facts(leaves)) if leaves else Html(""))
    filled = [str(f) for f in listed(plan.get("defaults"))]
    return [*parts, details(f"Filled in by default ({len(filled)})", bullets(filled)) if filled else Html("")]
