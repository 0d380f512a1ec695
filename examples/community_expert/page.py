"""The page: what a trust-and-safety lead wants to know, with every number's interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import encoder
import measure
import prepare

from bessemer.evaluate.stats import Interval
from bessemer.registry.charts import Mark, Row, whiskers
from bessemer.registry.page import Html, figure, section_of, table, whole, words

Facts = Mapping[str, Any]
ENCODER = (
    "An own encoder is MiniLM-L6 (22.7M parameters), fine-tuned for each task alone, with one seed, on the first "
    f"{encoder.LONGEST} tokens of a comment; the expert reads longer ones in pieces."
)
CHARTED = {"base", "expert"}
NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "recall": "recall at 90 % precision, at its best threshold on the test",
    "ece": "calibration error",
}


def shown(interval: Interval | Facts, digits: int = 3) -> str:
    low, high, value = (
        (interval[k] for k in ("low", "high", "value"))
        if isinstance(interval, Mapping)
        else (interval.low, interval.high, interval.value)
    )
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def percent(interval: Interval) -> str:
    return f"{100 * interval.value:+.2f} % [{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]"


def verdict(change: Interval) -> str:
    """From the interval of the change in AUROC."""
    if change.low > 0:
        return "better"
    if change.low > -measure.MARGIN:
        return "worse, within the margin" if change.high < 0 else "not worse"
    return "worse" if change.high < 0 else "not shown"


def replace_section(
    found: Mapping[str, measure.Replaced],
    tuned: Mapping[str, measure.Replaced],
    n_seeds: int,
    pooled: Mapping[str, Interval],
) -> Html:
    """found: beside the classifier that was trained for each task; tuned: beside its encoder, empty without one.

    pooled: AUROC of one classifier of all tasks.
    """
    chart = list[Row]()
    for task, one in found.items():
        marks = [("expert", one.own["auroc"].result, True), ("own classifier", one.its["auroc"].result, False)]
        if tuned:
            marks.append(("own encoder", tuned[task].its["auroc"].result, False))
        chart.append(Row(task, tuple(Mark(n, i.value, i.low, i.high, filled=f) for n, i, f in marks)))
    return section_of(
        "replace",
        [
            words(
                f"One model under each task's rule, {n_seeds} seed(s), against a classifier that was trained for this "
                "task alone on the same comments (TF-IDF and logistic regression, tuned on a tenth of the training "
                "data). Paired on the same test comments; not worse: the whole interval of the change in AUROC lies "
                f"above -{measure.MARGIN}; worse: all of it lies below 0. Of the calibration error less is better. One "
                "classifier of all tasks, which is not told the rule, has AUROC "
                + ", ".join(f"{shown(auroc)} ({task})" for task, auroc in pooled.items())
                + "."
                + (" " + ENCODER if tuned else "")
            ),
            figure(
                "AUROC, 95 % intervals",
                lambda width: whiskers(chart, width=width, alt="AUROC of all", show=lambda v: f"{v:.3f}"),
            ),
            _compared(found, "own classifier"),
            *([_compared(tuned, "own encoder")] if tuned else []),
        ],
        "Does one expert replace the classifiers?",
    )


def average_section(found: Mapping[str, measure.Replaced], n_seeds: int) -> Html:
    return section_of(
        "average",
        [
            words(
                f"The mean of the weights of the {n_seeds} trainings, one model: seeds learn the same and forget each "
                "in its own way. What it reads and what it kept stands beside the other arms below."
            ),
            _compared(found, "own classifier"),
        ],
        "And the average of the trainings?",
    )


def _compared(found: Mapping[str, measure.Replaced], with_what: str) -> Html:
    rows = []
    for task, one in found.items():
        for name, title in NAMES.items():
            change = one.change[name].change
            word = verdict(change)
            if name != "auroc":  # the margin is of AUROC
                more, less = ("worse", "better") if name == "ece" else ("better", "worse")
                word = more if change.low > 0 else less if change.high < 0 else ""
            rows.append(
                [f"{task}: {title}", shown(one.own[name].result), shown(one.its[name].result), shown(change), word]
            )
    return table(f"Expert and {with_what}", ["task", "expert", with_what, "change", "verdict"], rows)


def promise_section(found: Mapping[str, measure.Replaced]) -> Html:
    rows = []
    for task, one in found.items():
        seen, promised = one.threshold, one.threshold["promised"]
        if promised["threshold"] is None:
            rows.append([task, "none: it would queue only", "", "", ""])
            continue
        precision = f"{seen['right']} of {seen['flagged']}" if seen["flagged"] else "nothing flagged"
        rows.append(
            [
                task,
                f"{promised['threshold']:.3f}",
                shown(promised["precision"]) if promised["precision"] else "",
                precision,
                f"{seen['right']} of {seen['broken']}",
            ]
        )
    head = ["rule", "threshold", "precision promised", "right among removed (test)", "found (test)"]
    return section_of(
        "thresholds",
        [
            words(
                "Thresholds for 90 % precision, chosen on a tenth of the training comments, then used on the test. A "
                "rule without a threshold removes nothing by itself; what it finds goes to people."
            ),
            table("What removing by itself would have done", head, rows),
        ],
        "What could be removed without a human?",
    )


def steer_section(arms: Mapping[str, Facts], blind: Mapping[str, Facts], rules: Facts) -> Html:
    """rules: of the expert on rules never trained, as `measure.by_rule` gives it; empty without one."""
    titles = list(next(iter(arms.values()))["steer"])
    rows = [
        [name, *("; ".join(map(shown, (f["auroc"], f["both_right"], f["scaled"]))) for f in facts["steer"].values())]
        for name, facts in arms.items()
    ]
    for name, title in (("comment_only", "the comment alone"), ("rule_only", "the rule alone")):
        rows.append([title, *(shown(blind[t][name]) if blind[t][name] else "" for t in titles)])
    head = ["arm", *titles]
    chart = [
        Row(title, tuple(Mark(a, i["value"], i["low"], i["high"], filled=a == "expert") for a, i in marks))
        for title, marks in _both_right(arms, titles)
    ]

    def draw(width: int) -> str:
        return whiskers(chart, width=width, alt="both right by arm", show=lambda v: f"{v:.2f}", percent=False)

    return section_of(
        "steer",
        [
            words(
                "Twins: the same comment under a rule that it breaks and one that it keeps. A model that does not read "
                "the rule gets no twin right; guessing gets a quarter. First AUROC, then the share of twins with both "
                "answers right, as the model says them and on the scale of rules without labels, which was chosen on "
                "other rules that no training had; of the first seed. Of the moderators' column, AUROC is that of "
                "their own answers. labels-N, no-replay and tuning-only (both of the most labels) saw fewer "
                "twins than the expert. The "
                "last two rows: AUROC of classifiers that see only the comment, or only the rule, of what AUROC is of. "
                "In the moderators' column a removed comment breaks its community's rule and keeps one that code "
                "decides, and an approved one the other way round: who tells removed comments from approved ones and "
                "answers the opposite under every other rule has both right, so that column shows how well it knows "
                "their decisions, the others whether it reads the rule. Intervals are over comments; the rules are "
                "those that were asked."
            ),
            *([figure("Both answers right", draw)] if arms.keys() & CHARTED else []),
            table("Does it read the rule?", head, rows),
            *([_rule_by_rule(rules)] if rules else []),
        ],
        "Does it read the rule?",
    )


def _rule_by_rule(rules: Facts) -> Html:
    rows = [[name, f"{auroc:.3f}"] for name, auroc in sorted(rules["alone"].items(), key=lambda pair: -pair[1])]
    rows.append(["all, with an interval over rules", shown(rules["over_rules"])])
    return table("The expert on rules never trained, one by one", ["rule", "AUROC"], rows)


def _both_right(arms: Mapping[str, Facts], titles: Sequence[str]) -> list[tuple[str, list[tuple[str, Facts]]]]:
    steer = {a: f["steer"] for a, f in arms.items() if a in CHARTED}
    return [
        (
            title,
            [(a, of[title]["both_right"]) for a, of in steer.items()]
            + [(f"{a} on that scale", of[title]["scaled"]) for a, of in steer.items() if a == "expert"],
        )
        for title in titles
    ]


def labels_section(found: Mapping[str, Mapping[str, tuple[Interval, Interval, Interval]]], few: int, full: int) -> Html:
    """found: {labels: {task: (expert, classifier, change)}}; few, full: twins under computed rules of these arms, of
    the expert."""
    rows = [
        [f"{n} labels, {task}", shown(own), shown(its), shown(change), verdict(change)]
        for n, tasks in found.items()
        for task, (own, its, change) in tasks.items()
    ]
    return section_of(
        "labels",
        [
            words(
                "AUROC on the test with few labelled comments of each task, one seed, drawn once for both; the expert "
                f"holds 7 % of them out. These arms saw {few:,} computed twins instead of {full:,}; the classifiers' "
                "regularisation is chosen on all development comments, which favours them."
            ),
            table("Few labels", ["labels", "expert", "own classifier", "change", "verdict"], rows),
        ],
        "How many labels does it need?",
    )


def parts_section(found: Mapping[str, Mapping[str, Interval]], whole: str) -> Html:
    """found: {arm: {measure: change}}; whole: the arm with all parts, of the same twins."""
    titles = next(iter(found.values()))
    rows = [[title, *(shown(changes[title]) for changes in found.values())] for title in titles]
    return section_of(
        "parts",
        [
            words(
                f"Change against {whole}, which was trained on the same twins with everything, one seed each: without "
                "general text beside the comments (no-replay), without reading the communities' texts first "
                "(tuning-only). Of bits per byte more is worse, of all others less. An interval that holds 0 shows "
                "nothing; each is of one comparison out of many."
            ),
            table("Without a part of the recipe", ["measure", *found], rows),
        ],
        "What does each part of the recipe do?",
    )


def cite_section(arms: Mapping[str, Facts]) -> Html:
    rows = [
        [
            name,
            shown(f["cite"]["exact"]),
            shown(f["cite"]["exact_where_some"]),
            f"{f['cite']['found']} of {f['cite']['broken']}",
            f"{f['cite']['found']} of {f['cite']['said']}",
        ]
        for name, f in arms.items()
    ]
    nothing = next(iter(arms.values()))["cite"]["nothing"]
    return section_of(
        "cite",
        [
            words(
                f"{measure.N_CITE} comments under {measure.CITE_RULES} rules at once; whoever cites nothing names the "
                f"exact set for {nothing:.3f} of them."
            ),
            table(
                "The exact set of broken rules",
                ["arm", "exact", "exact where some rule is broken", "found", "right among cited"],
                rows,
            ),
        ],
        "Does it cite the right rules?",
    )


def keep_section(arms: Mapping[str, Facts]) -> Html:
    titles = ["topics", "newspaper", *measure.OLD]
    rows = [[name, *(f["keep"][t] for t in titles)] for name, f in arms.items() if name != "base"]
    return section_of(
        "keep",
        [
            words(
                "Change against the untouched model: bits per byte (more is worse) of texts that nothing was trained "
                "on, and the share of minimal pairs where the grammatical sentence is likelier (less is worse)."
            ),
            table("What was forgotten", ["arm", *titles], rows),
        ],
        "What did it forget?",
    )


def serve_section(speed: Facts) -> Html:
    return section_of(
        "serve",
        [
            words(
                f"On {speed['machine']}: one comment under {speed['rules']} rules takes {speed['p50_ms']:.0f} ms at "
                f"the median, {speed['p95_ms']:.0f} ms at the 95th percentile; {speed['comments_per_second']:.1f} "
                "comments a second in batches of sixteen. Under load: benchmarks/moderate.py."
            )
        ],
        "How fast is it?",
    )


def write_page(path: Path, sections: Sequence[Html]) -> None:
    path.write_text(
        whole(
            "One expert for every community's rules",
            [words("What was measured, where separate classifiers win included. Intervals are 95 %.")],
            sections,
            f"data: {', '.join(prepare.TASKS)} and comments of Reddit; thresholds, temperatures and classifiers were "
            "chosen without the tests, but earlier recipes were compared on them",
            "Bessemer proof",
        )
    )
