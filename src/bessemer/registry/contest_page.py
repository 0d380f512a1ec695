"""The page of a contest: ranks as ranges, gain against forgetting, what it cost, and every submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bessemer.registry import facts as read
from bessemer.registry.charts import Mark, Row, whiskers
from bessemer.registry.evaluation_page import submissions
from bessemer.registry.page import (
    Cell,
    Html,
    bullets,
    facts,
    figure,
    nothing,
    section_of,
    table,
    tag,
    value,
    whole,
    words,
)
from bessemer.registry.svg import Scale, dot, line, nice_ticks, picture, signed, text, tick_texts
from bessemer.units import show_count, show_seconds


def build_contest_page(card: Mapping[str, Any]) -> str:
    """One self-contained HTML page without scripts or loads. card: contest.json."""
    contest, tasks = card["contest"], card["tasks"]
    body = [
        *(_standings(name, task) for name, task in tasks.items()),
        _front(card),
        _costs(card),
        section_of("submissions", submissions(tasks), "Every submission"),
        _rules(card),
    ]
    head = [
        tag("h1", contest["name"]),
        words(f"{len(card['entrants'])} contestants, the same data, the same budget, the same sealed tasks.", "lead"),
    ]
    foot = f"Made by Bessemer on {card['created']} by {card['by']}. Check it: bessemer verify FOLDER"
    return whole(f"{contest['name']} – contest", head, body, foot, "Bessemer contest")


def ranks(standing: Mapping[str, Any]) -> str:
    """1, or 1–3 when the items cannot tell."""
    best, worst = standing["best"], standing["worst"]
    return str(best) if best == worst else f"{best}–{worst}"


def _standings(name: str, task: Mapping[str, Any]) -> Html:
    placed = task["standings"]
    rows = [Row(s["name"], (Mark(s["name"], *(s["result"][k] for k in ("value", "low", "high"))),)) for s in placed]
    spoken = ", ".join(f"{s['name']} {s['result']['value']:.3f}" for s in placed)
    better = "higher is better" if task["higher_is_better"] else "lower is better"
    cells: list[list[Cell]] = [
        [
            s["name"],
            ranks(s),
            value(f"{s['result']['value']:.3f}", f"{s['result']['low']:.3f} to {s['result']['high']:.3f}"),
            s["scope"],
        ]
        for s in placed
    ]
    shown = [p for p in task["pairs"] if p["better"]]
    told = [
        f"{p['better']} is better than {p['first'] if p['better'] == p['second'] else p['second']} (p {p['p']:.3g})"
        for p in shown
    ]
    kind = "sealed" if task["seal"] else "open"
    parts = [
        figure(
            f"{read.metric_words(task['primary'])}, {better}",
            lambda w: whiskers(rows, width=w, alt=f"{name}: {spoken}.", show=lambda v: f"{v:.3f}"),
            "Bar: interval over items, and over seeds where there are several.",
        ),
        table("A rank is a range where the items cannot tell", ["Contestant", "Rank", "Value", "About"], cells, [1, 2]),
        bullets(told) if told else nothing("No difference between two contestants is shown."),
    ]
    return section_of(f"task-{name}", parts, f"{name} ({kind}, {task['role']})")


def _front(card: Mapping[str, Any]) -> Html:
    """Gain on the first task against the worst loss elsewhere."""
    points = [e for e in card["entrants"] if e["gain"] and e["forgotten"]]
    if not points:
        return section_of("front", [nothing("Gain and forgetting were not measured together.")], "Gain and forgetting")
    names = ", ".join(card["front"])
    chart = figure(
        "Gain over the own base (up) against the worst loss elsewhere (right)",
        lambda w: scatter(points, card["front"], w),
        "Filled: nobody gains more and forgets less at once.",
    )
    return section_of("front", [chart, words(f"On the front: {names}.")], "Gain and forgetting")


def scatter(entrants: Sequence[Mapping[str, Any]], best: Sequence[str], width: int) -> str:
    """One dot a contestant with both intervals."""
    height, left, bottom = 300.0, 62.0, 258.0
    x_values = [e["forgotten"][k] for e in entrants for k in ("low", "high")] + [0.0]
    y_values = [e["gain"][k] for e in entrants for k in ("low", "high")] + [0.0]
    x_ticks, y_ticks = nice_ticks(min(x_values), max(x_values), 4), nice_ticks(min(y_values), max(y_values), 4)
    x = Scale(x_ticks[0], x_ticks[-1], left + 8, width - 30)
    y = Scale(y_ticks[0], y_ticks[-1], bottom, 16)
    body: list[str] = []
    for tick, label in zip(y_ticks, tick_texts(y_ticks), strict=True):
        body += [line(left, y(tick), width - 20, y(tick), "grid"), text(left - 6, y(tick) + 4.5, label, "axis", "end")]
    for tick, label in zip(x_ticks, tick_texts(x_ticks), strict=True):
        body += [line(x(tick), 16, x(tick), bottom, "grid"), text(x(tick), bottom + 18, label, "axis", "middle")]
    for e in entrants:
        gain, lost, style = e["gain"], e["forgotten"], "after" if e["name"] in best else "before"
        at_x, at_y = x(lost["value"]), y(gain["value"])
        body += [
            line(x(lost["low"]), at_y, x(lost["high"]), at_y, f"whisker {style}"),
            line(at_x, y(gain["low"]), at_x, y(gain["high"]), f"whisker {style}"),
            dot(at_x, at_y, f"mark {style}", f"{e['name']}: gain {gain['value']:+.3f}, lost {lost['value']:+.3f}"),
            text(at_x + 8, at_y - 8, e["name"], f"value {style}"),
        ]
    body.append(text(width - 20, bottom + 36, "lost elsewhere", "axis", "end"))
    spoken = "; ".join(
        f"{e['name']} gained {e['gain']['value']:.3f}, lost {e['forgotten']['value']:.3f}" for e in entrants
    )
    return picture(body, width, height, f"{spoken}.", "narrow" if width < 500 else "wide")


def _costs(card: Mapping[str, Any]) -> Html:
    rows: list[list[Cell]] = []
    for e in card["entrants"]:
        gain, lost = e["gain"], e["forgotten"]
        rows.append(
            [
                e["name"],
                e["division"],
                show_count(e["tokens"]) if e["tokens"] else "–",
                f"{e['flops']:.3g}" if e["flops"] else "–",
                show_seconds(e["seconds"]) if e["seconds"] else "–",
                str(len(e["trials"])) if len(e["trials"]) > 1 else "–",
                f"{e['flops_per_point']:.3g}" if e["flops_per_point"] else "–",
                signed(gain["value"], 3) if gain else "–",
                signed(lost["value"], 3) if lost else "–",
                "; ".join(e["faults"]) or "–",
            ]
        )
    head = ["Contestant", "Division", "Tokens", "FLOP", "Time", "Trials", "FLOP a point", "Gain", "Lost", "Faults"]
    budget = card["contest"]["budget"]
    flops = f" and {budget['flops']:.3g} floating point operations" if budget["flops"] else ""
    lead = f"Budget for everything that a contestant trains: {show_count(budget['tokens'])} tokens{flops}."
    note = "A point is a hundredth of the first task's metric."
    return section_of("costs", [words(f"{lead} {note}"), table("What it cost", head, rows, range(2, 9))], "Cost")


def _rules(card: Mapping[str, Any]) -> Html:
    contest = card["contest"]
    rows: list[tuple[str, Cell]] = [
        ("Data", ", ".join(f"{k}: {v}" for k, v in contest["data"].items())),
        ("Tasks", ", ".join(contest["tasks"])),
        ("Nothing may be lost on", ", ".join(contest["keep"]) or "nothing was named"),
        ("Seeds", ", ".join(map(str, contest["seeds"]))),
    ]
    return section_of("rules", [facts(rows)], "Rules")
