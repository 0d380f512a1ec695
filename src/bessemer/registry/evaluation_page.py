"""The page of an evaluation: what was gained, what was kept, whether the items were clean, and who else was scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bessemer.registry import facts as read
from bessemer.registry.charts import Guide, Mark, Row, whiskers
from bessemer.registry.facts import measured
from bessemer.registry.page import (
    Cell,
    Html,
    bullets,
    digest,
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
from bessemer.registry.svg import escape, signed

BADGES = {"SHIP": ("good", "✓"), "HOLD": ("wait", "–"), "REJECT": ("bad", "✕")}
ANSWERS = {
    "WIN": "better",
    "LOSS": "worse",
    "EQUIVALENT": "no change that matters",
    "INCONCLUSIVE": "cannot tell",
}


def build_page(card: Mapping[str, Any]) -> str:
    """One self-contained HTML page without scripts or loads. card: scorecard.json of an evaluation."""
    names = ", ".join(m["name"] for m in card["models"])
    tasks: Mapping[str, Mapping[str, Any]] = card["tasks"]
    gain = {k: t for k, t in tasks.items() if t["role"] == "gain"}
    keep = {k: t for k, t in tasks.items() if t["role"] == "keep"}
    body = [
        _measured_section("gained", "What was gained", gain, "No task was named that has to gain."),
        _kept(keep, card["probes"]),
        _clean(tasks),
        section_of("submissions", submissions(tasks), "Who was scored"),
        _origin(card),
    ]
    foot = f"Made by Bessemer on {card['created']} by {card['by']}. Check it: bessemer verify FOLDER"
    return whole(f"{names} – evaluation", _head(names, card), body, foot, "Bessemer evaluation")


def _head(names: str, card: Mapping[str, Any]) -> list[Html]:
    word = card["verdict"]["word"]
    tone, sign = BADGES[word]
    badge = Html(f'<span class="badge"><span aria-hidden="true">{sign} </span>{escape(word)}</span>')
    meaning = read.VERDICT_WORDS[word]
    against = f"compared with {card['against']['name']}" if card["against"] else "compared with nothing"
    return [
        tag("h1", names),
        words(f"{len(card['tasks'])} tasks, {against}.", "lead"),
        tag(
            "div",
            badge,
            Html(f"<p>{escape(meaning[0].upper() + meaning[1:])}.</p>"),
            bullets([r.replace(" -> ", " → ") for r in card["verdict"]["reasons"]]),
            class_=f"verdict {tone}",
        ),
    ]


def _measured_section(anchor: str, title: str, tasks: Mapping[str, Mapping[str, Any]], empty: str) -> Html:
    if not tasks:
        return section_of(anchor, [nothing(empty)], title)
    parts = [_chart(metric, group) for metric, group in _by_metric(tasks).items()]
    return section_of(anchor, [*parts, _metrics_table(tasks), *_flips(tasks)], title)


def _by_metric(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, task in tasks.items():
        found.setdefault(task["primary"], {})[name] = task
    return found


def _chart(metric: str, tasks: Mapping[str, Mapping[str, Any]]) -> Html:
    rows: list[Row] = []
    for name, task in tasks.items():
        sides = task["metrics"][metric]
        marks = [
            Mark(side, m.value, m.low, m.high, side == "after")
            for side in ("before", "after")
            if side in sides and (m := measured(sides[side]["result"]))
        ]
        rows.append(Row(name, tuple(marks), (Guide("chance 0.5", 0.5),) if metric == "auroc" else ()))
    spoken = "; ".join(f"{r.label}: " + ", ".join(f"{m.name} {m.value:.3f}" for m in r.marks) for r in rows)
    return figure(
        f"{read.metric_words(metric)}",
        lambda w: whiskers(rows, width=w, alt=f"{metric}. {spoken}.", show=lambda v: f"{v:.3f}"),
        "Ring: before; disc: after; bar: interval.",
    )


def _metrics_table(tasks: Mapping[str, Mapping[str, Any]]) -> Html:
    rows: list[list[Cell]] = []
    for name, task in tasks.items():
        primary = task["primary"]
        for metric in sorted(task["metrics"], key=lambda m: m != primary):  # the one that decides comes first
            sides = task["metrics"][metric]
            own = metric == primary
            d = task.get("change") if own else None
            rows.append(
                [
                    value(name, f"{task['n_items']:,} items in {task['n_clusters']:,} groups") if own else "",
                    read.metric_words(metric),
                    _estimate(sides.get("before")),
                    _estimate(sides.get("after")),
                    _change(d) if d else "–",
                    value(ANSWERS[d["answer"]], f"p {d['p_adjusted'] or d['p']:.3g}") if d else "–",
                ]
            )
    head = ["Task", "Metric", "Before", "After", "Change", "Answer"]
    return table("All metrics, intervals below the values", head, rows, [2, 3, 4])


def _estimate(side: Mapping[str, Any] | None) -> Cell:
    if side is None:
        return "–"
    r = side["result"]
    return value(f"{r['value']:.3f}", f"{r['low']:.3f} to {r['high']:.3f}")


def _change(d: Mapping[str, Any]) -> Cell:
    scale, unit, digits = (100, " %", 2) if d["relative"] else (1, "", 3)
    main, low, high = (signed(d["change"][k] * scale, digits) for k in ("value", "low", "high"))
    return value(main + unit, f"{low} to {high}")


def _flips(tasks: Mapping[str, Mapping[str, Any]]) -> list[Html]:
    """Right answers that became wrong, and the other way round: an average hides both."""
    rows: list[list[Cell]] = []
    for name, task in tasks.items():
        if t := task.get("transitions"):
            cells: list[Cell] = [_share(t[k]) for k in ("right_to_wrong", "wrong_to_right", "forgot", "learnt")]
            rows.append([name, *cells])
    head = ["Task", "Right to wrong", "Wrong to right", "Forgotten", "Learnt"]
    caption = "What changed item by item; the last two without what guessing does"
    return [table(caption, head, rows, [1, 2, 3, 4])] if rows else []


def _share(found: Mapping[str, float] | None) -> Cell:
    if found is None:
        return "–"
    return value(f"{found['value']:.1%}", f"{found['low']:.1%} to {found['high']:.1%}")


def _kept(keep: Mapping[str, Mapping[str, Any]], probes: Mapping[str, Any]) -> Html:
    parts = [_chart(metric, group) for metric, group in _by_metric(keep).items()]
    parts += [_metrics_table(keep), *_flips(keep)] if keep else []
    rows: list[list[Cell]] = []
    for name, probe in probes.items():
        change = {k: signed(probe["change"][k] * 100, 2) for k in ("value", "low", "high")}
        rows.append(
            [
                name,
                f"{probe['before']['value']:.3f}",
                f"{probe['after']['value']:.3f}",
                value(f"{change['value']} %", f"{change['low']} to {change['high']}"),
                f"{signed(probe['limit'] * 100, 2)} %",
            ]
        )
    head = ["Probe", "Before", "After", "Change", "Budget"]
    parts += [table("Probes of the run, bits per byte", head, rows, [1, 2, 3, 4])] if rows else []
    return section_of("kept", parts or [nothing("Nothing general was measured.")], "What was kept")


def _clean(tasks: Mapping[str, Mapping[str, Any]]) -> Html:
    rows: list[list[Cell]] = []
    for name, task in tasks.items():
        overlap = task["overlap"]
        if task["role"] != "gain":
            continue
        if not overlap["known"]:
            rows.append([name, "not known", "–", "–", "–", _coins(task)])
            continue
        rows.append(
            [
                name,
                f"{overlap['n_documents']:,}",
                value(f"{overlap['n_contaminated']:,}", f"{overlap['share']:.1%} of {task['n_items']:,}"),
                f"{overlap['longest']:,} words",
                f"{overlap['n_untold']:,}",
                _coins(task),
            ]
        )
    head = ["Task", "Documents fed", "Items found", "Longest run", "Too short to tell", "Coin flips"]
    lead = (
        "Every held-out item was looked for, word by word, in everything that was fed in the model's runs here, those "
        "of its start included; what a published start was trained on is not known. An item is found when 13 words in "
        "a row are, or half of its runs of 8 words. Paraphrases are not found."
    )
    return section_of("clean", [words(lead), table("Overlap with the training", head, rows, [1, 2, 3, 4])], "Clean")


def _coins(task: Mapping[str, Any]) -> Cell:
    controls = [c for c in task["controls"] if c]
    if not controls:
        return "–"
    c = min(controls, key=lambda one: one["p"])
    return value(f"{c['right']:g} of {c['n']} right", f"chance {c['chance']:.0%}, p {c['p']:.2g}")


def submissions(tasks: Mapping[str, Mapping[str, Any]]) -> list[Html]:
    """Of every sealed task all models that it was opened for."""
    parts: list[Html] = []
    for name, task in tasks.items():
        if not task["seal"]:
            continue
        rows: list[Sequence[Cell]] = [
            [
                digest(s["model"]),
                s["state"],
                s["by"],
                s["opened"],
                s["scored"] or "–",
                _score(s["score"]),
                ", ".join(s["code_changed"]) or "–",
                s["why"],
            ]
            for s in task["seal"]["submissions"]
        ]
        head = ["Model", "State", "By", "Opened", "Scored", "Score", "Code changed since", "Why withdrawn"]
        parts.append(table(f"{name}: every model that it was opened for", head, rows))
    lead = "The more models are tried on one seal, the higher the best of them scores by luck alone."
    return [words(lead), *parts] if parts else [nothing("No task was sealed.")]


def _score(score: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in score.items())


def _origin(card: Mapping[str, Any]) -> Html:
    rows: list[tuple[str, Cell]] = []
    for title, models in (("Model", card["models"]), ("Compared with", [card["against"]] if card["against"] else [])):
        for m in models:
            rows.append((title, f"{m['name']} ({m['kind']})"))
            rows.append(("Digest", digest(m["digest"])))
            if m.get("begun"):
                rows.append(("Training began", m["begun"]))
    for name, task in card["tasks"].items():
        if task["seal"]:
            rows.append((f"Seal {name}", digest(task["seal"]["commitment"])))
            rows.append(("Sealed on", task["seal"]["created"]))
            rows.append(("Head of its ledger", digest(task["seal"]["head"])))
    return section_of("lineage", [facts(rows)], "Lineage")
