"""What came out: tables on the screen, and a picture of domain against general quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from bessemer.cli.options import print_table
from bessemer.registry.svg import Scale, element, nice_ticks, text, tick_texts

Row = dict[str, Any]
WIDTH, HEIGHT, LEFT, BOTTOM = 760, 480, 70, 60
COLOURS = {"a": "#b45309", "b": "#b91c1c", "c": "#6b7280", "d": "#1d4ed8", "e": "#047857", "s": "#111827"}


def best_rate(folder: Path, entrant: Row) -> float:
    """The rate of the trial that went on: the one with the best public score (fewest bits)."""
    trials = yaml.safe_load((folder / "contest.yaml").read_text())["contestants"][entrant["name"]]["trials"]
    scores = [t["public"] for t in entrant["trials"]]
    chosen: str = trials[scores.index(min(scores))][0]
    return float(chosen.partition("=")[2])


def cell(interval: Row, digits: int = 3) -> str:
    value, low, high = (interval[k] for k in ("value", "low", "high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def show(folder: Path, card: Row, found: Row) -> None:
    tasks = {name: {s["name"]: s["result"] for s in t["standings"]} for name, t in card["tasks"].items()}
    entrants = {e["name"]: e for e in card["entrants"]}
    rows = [
        [
            name,
            f"{found['rates'][name]:g}",
            f"{entrants[name]['tokens'] / 1e6:.2f}M",
            cell(tasks["comments"][name]),
            cell(tasks["docs"][name]),
            cell(found["arms"][name]["questions"]),
        ]
        for name in entrants
    ]
    columns = ["arm", "rate", "tokens of all runs", "comments (sealed)", "docs", "answers (first seed)"]
    print_table("Bits per byte; three seeds, 95 % intervals over items and seeds", columns, rows, right=[1, 2])
    columns = ["checkpoint", "comments (public)", "docs", "answers"]
    rows = [[n, *(cell(m[t]) for t in ("comments", "docs", "questions"))] for n, m in found["starts"].items()]
    print_table("\nBefore any of it", columns, rows)
    rows = [
        [r["start"], f"{r['share']:.0%}", f"{r['lr']:g}", *(cell(r[t]) for t in ("comments", "docs", "questions"))]
        for r in found["replay"]
    ]
    print_table(
        "\nReplay at equal domain tokens (one seed)", ["start", "share", "rate", *columns[1:]], rows, right=[1, 2]
    )
    rows = [[f"{r['tokens']:,}", cell(r["comments"]), cell(r["docs"])] for r in found["scratch"]]
    print_table("\nFrom scratch on the domain", ["tokens", "comments (public)", "docs"], rows, right=[0])
    rows = [[n, *(cell(m[t]) for t in ("comments", "docs", "questions"))] for n, m in found["chat"].items()]
    print_table("\nChat after an early start", ["model", *columns[1:]], rows)
    (folder / "choices.svg").write_text(picture(tasks, found["starts"]))
    print(f"\npicture {folder / 'choices.svg'}")


def picture(tasks: Row, starts: Row) -> str:
    """Bits per byte of the comments (across) and of the documentation (up): nearer to the corner is better."""
    points = [(n, s, tasks["docs"][n]) for n, s in tasks["comments"].items()]
    points += [(f"start {n}", m["comments"], m["docs"]) for n, m in starts.items()]
    xs, ys = ([v for p in points for v in (p[i]["low"], p[i]["high"])] for i in (1, 2))
    x_ticks, y_ticks = nice_ticks(min(xs), max(xs)), nice_ticks(min(ys), max(ys))
    x = Scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - 20)
    y = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, 20)
    body = [element("rect", x=0, y=0, width=WIDTH, height=HEIGHT, fill="#ffffff")]
    for tick, words in zip(x_ticks, tick_texts(x_ticks), strict=True):
        body.append(element("line", x1=x(tick), x2=x(tick), y1=20, y2=HEIGHT - BOTTOM, stroke="#e5e7eb"))
        body.append(text(x(tick), HEIGHT - BOTTOM + 18, words, anchor="middle"))
    for tick, words in zip(y_ticks, tick_texts(y_ticks), strict=True):
        body.append(element("line", x1=LEFT, x2=WIDTH - 20, y1=y(tick), y2=y(tick), stroke="#e5e7eb"))
        body.append(text(LEFT - 8, y(tick) + 4, words, anchor="end"))
    body.append(text(WIDTH / 2, HEIGHT - 14, "comments, bits per byte (domain)", anchor="middle"))
    body.append(text(LEFT, 14, "documentation, bits per byte (general)"))
    for name, across, up in points:
        colour = COLOURS[name[0]]
        cx, cy = x(across["value"]), y(up["value"])
        body.append(element("line", x1=x(across["low"]), x2=x(across["high"]), y1=cy, y2=cy, stroke=colour))
        body.append(element("line", x1=cx, x2=cx, y1=y(up["low"]), y2=y(up["high"]), stroke=colour))
        body.append(element("circle", cx=cx, cy=cy, r=4, fill="#ffffff" if name[0] == "s" else colour, stroke=colour))
        body.append(element("g", text(cx + 7, cy - 6, name), fill=colour))
    attributes = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "font-size": 12}
    return element("svg", "".join(body), font_family="sans-serif", **attributes)
