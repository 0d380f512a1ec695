"""What a model says about every comment, and what follows from it. Every answer is kept, so nothing is asked twice."""

from __future__ import annotations

import gzip
import json
import os
import random
import statistics
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import prepare
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_union

from bessemer.data.items import digest_items
from bessemer.data.moderation import Comment
from bessemer.data.rule_families import families
from bessemer.data.sources import Source
from bessemer.data.twins import Truths, balance, choose_twins
from bessemer.errors import BessemerError
from bessemer.evaluate.metrics import METRICS, Columns, recall_at_precision
from bessemer.evaluate.stats import Difference, Estimate, Interval, difference, estimate
from bessemer.examine import Subject, ask, find_subject, find_task
from bessemer.files import canonical_json, sha256_file, sha256_text, write_bytes
from bessemer.infer.model import load
from bessemer.moderate.blind import blind_baselines
from bessemer.moderate.calibrate import calibrate, fit_scale, share
from bessemer.moderate.decide import Scale
from bessemer.moderate.judge import Judge
from bessemer.moderate.labelled import Row as Labelled
from bessemer.moderate.policy import Policy, Rule, load_policy
from bessemer.moderate.unlabelled import SIDE
from bessemer.recipe.moderation_recipe import Computed
from bessemer.track.screen import Screen

Row = dict[str, Any]
Floats = NDArray[np.float64]
PRECISION = 0.9
LABELS = (100, 300, 1000)
MARGIN = 0.02  # of AUROC: what a classifier may be better by
N_CITE, CITE_RULES = 300, 12  # comments and computed rules of one policy
OLD = ("encyclopedia", "minimal-pairs", "maths")
TWINS = ("test", "new-wordings", "new-rules", SIDE)  # sides of the data set that every arm is asked
STEERED = {  # title -> (side, who knows the truth)
    "rules it knows": ("test", "code"),
    "new wordings": ("new-wordings", "code"),
    "new rules": ("new-rules", "code"),
    "answers of moderators": ("test", "log"),
}
DIGITS = 4  # of a log-odds
MEASURES = {"auroc": METRICS["auroc"], "auprc": METRICS["auprc"], "recall": recall_at_precision(PRECISION)}


# -- answers ------------------------------------------------------------------------------------------------------


def policies() -> dict[str, Policy]:
    return {task: load_policy(str(prepare.POLICIES / f"{prepare.TASKS[task][1]}.yaml")) for task in prepare.TASKS}


def citing() -> Policy:
    """Computed rules that training knew, in one policy."""
    held_out = Computed.model_validate({})
    names = [n for n in families() if n not in {*held_out.unseen, *held_out.validation}]
    chosen = random.Random("cite").sample(names, CITE_RULES)
    return Policy(name="citing", rules=[Rule(id=n, text=families()[n].wordings[0]) for n in chosen])


def cite_comments(data: Path) -> list[Row]:
    rows = [
        r for r in prepare.read(data / "moderation" / "reddit_comments" / "dev.jsonl") if len(r["text"].split()) > 2
    ]
    return random.Random("comments").sample(rows, 2 * N_CITE)


def answers(name: str, address: str, data: Path, out: Path, tests: str, questions: str) -> Row:
    """Log-odds of a model: {task: {development, test}}, twins, unseen, cite [comments][rules]; and how fast it was."""
    screen, subject = Screen(), find_subject(address)
    kept = out / "answers" / f"{name}-{subject.digest[:12]}-{questions[:12]}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    judge = Judge(load(subject.path, digest=subject.digest, end_of_text=subject.end_of_text))

    def odds(title: str, rows: Sequence[Row], policy: Policy) -> list[list[float]]:
        with screen.step(f"{name}: {title}") as advance:
            questions = [judge.prepare(Comment(r["text"]), policy) for r in rows]
            answered = judge.odds(questions, lambda share: advance(share, ""))
            return [[round(o, DIGITS) for o in own] for own in answered]

    found: Row = {"digest": subject.digest}
    for task, policy in policies().items():
        sides = {side: prepare.read(out / "data" / f"{task}-{side}.jsonl") for side in ("development", "test")}
        found[task] = {side: [o[0] for o in odds(f"{task}, {side}", r, policy)] for side, r in sides.items()}
    unseen = load_policy(str(prepare.POLICIES / "unseen.yaml"))
    found["unseen"] = odds("a policy never seen", prepare.read(out / "data" / "unseen.jsonl"), unseen)
    found["cite"] = odds("which rules are broken", cite_comments(data), citing())
    found["twins"] = {side: twins(name, judge, screen, tests, side) for side in TWINS}
    found["speed"] = speed(judge, cite_comments(data)[:64])
    prepare.write(kept, [found])
    return found


def twins(name: str, judge: Judge, screen: Screen, tests: str, side: str) -> list[Row]:
    """What it says of one side's twins: {rule, truth (code or log), group, broken, odds}."""
    items = list(Source(f"dataset:{tests}/{side}", "chat"))
    grouped = [list(own) for _, own in groupby(items, lambda item: item.group)]
    with screen.step(f"{name}: twins, {side}") as advance:
        found = judge.twins(grouped, lambda share: advance(share, ""))
    odds = [o for own in found for o in own]
    return [
        {
            "rule": str(item.meta["rule"]),
            "truth": str(item.meta["truth"]),
            "group": item.group,
            "broken": item.messages[-1].content == "yes",
            "odds": round(own, DIGITS),
        }
        for item, own in zip(items, odds, strict=True)
    ]


def speed(judge: Judge, rows: Sequence[Row]) -> Row:
    """One comment under the twelve rules at a time, then sixteen at a time; tokenizing included."""
    policy, comments, alone = citing(), [Comment(r["text"]) for r in rows], list[float]()
    for comment in comments:
        begin = time.perf_counter()
        judge.odds([judge.prepare(comment, policy)])
        alone.append(1000 * (time.perf_counter() - begin))
    begin = time.perf_counter()
    for at in range(0, len(comments), 16):
        judge.odds([judge.prepare(c, policy) for c in comments[at : at + 16]])
    together = len(comments) / (time.perf_counter() - begin)
    p50, p95 = statistics.median(alone), float(np.quantile(alone, 0.95))
    found = {"rules": CITE_RULES, "p50_ms": p50, "p95_ms": p95, "comments_per_second": together}
    machine, cores = judge.loaded.machine, len(os.sched_getaffinity(0))
    name = f"{cores} cores" if machine.device.type == "cpu" else machine.name
    return {**found, "machine": f"{name}, {str(machine.dtype).removeprefix('torch.')}"}


def separate(out: Path) -> dict[str, Row]:
    """One classifier for each task, and one for all that is not told the rule. {task: {kind: {side: log-odds}}}

    TF-IDF of words 1-2 and characters 2-5, logistic regression; C is chosen on the development part.
    """
    kept = out / "answers" / f"separate-{tasks_digest(out)[:12]}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    parts = {
        t: {s: prepare.read(out / "data" / f"{t}-{s}.jsonl") for s in ("train", "development", "test")}
        for t in prepare.TASKS
    }
    pooled = [r for p in parts.values() for r in p["train"]]
    found: dict[str, Row] = {t: {} for t in parts}
    with Screen().step("separate classifiers"):
        every = _fit(pooled, {t: {s: p[s] for s in ("development", "test")} for t, p in parts.items()})
        for task, p in parts.items():
            sides = {s: p[s] for s in ("development", "test")}
            found[task] = {"separate": _fit(p["train"], {task: sides})[task], "pooled": every[task]}
    prepare.write(kept, [found])
    return found


def _fit(train: Sequence[Row], asked: Mapping[str, Mapping[str, Sequence[Row]]]) -> dict[str, dict[str, list[float]]]:
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2),
    )
    x = features.fit_transform([r["text"] for r in train])
    y = np.array([r["label"] for r in train])
    at = {
        t: {s: features.transform([r["text"] for r in rows]) for s, rows in sides.items()} for t, sides in asked.items()
    }
    truth = {t: [r["label"] for r in sides["development"]] for t, sides in asked.items()}
    best, chosen = -1.0, None
    for c in (0.3, 1, 3, 10, 30):
        model = LogisticRegression(C=c, max_iter=1000, class_weight="balanced").fit(x, y)
        scores = [roc_auc_score(truth[t], model.decision_function(at[t]["development"])) for t in asked]
        if statistics.mean(scores) > best:
            best, chosen = statistics.mean(scores), model
    assert chosen is not None
    return {t: {s: chosen.decision_function(m).tolist() for s, m in sides.items()} for t, sides in at.items()}


# -- what follows ---------------------------------------------------------------------------------------------------


def columns(odds: Sequence[float], broken: Sequence[bool], groups: Sequence[str]) -> Columns:
    scores = np.array(odds, np.float64)
    logprob = np.stack([-np.logaddexp(0, -scores), -np.logaddexp(0, scores)], axis=1)
    ids = tuple(map(str, range(len(scores))))
    return Columns(
        "classify", ids, tuple(groups), ("",) * len(ids), {"label": np.where(broken, 0, 1), "logprob": logprob}
    )


@dataclass(frozen=True)
class Replaced:
    """One task: the expert's seeds and the classifier on the same test comments, by the measures and `ece`."""

    own: dict[str, Estimate]
    its: dict[str, Estimate]
    change: dict[str, Difference]
    threshold: Row  # what was promised on the development part, and what came on the test

    def as_dict(self) -> Row:
        plain = {k: {n: v.as_dict() for n, v in getattr(self, k).items()} for k in ("own", "its", "change")}
        return {**plain, "threshold": self.threshold}


def replaced(task: str, seeds: Sequence[Row], classifier: Row, out: Path) -> Replaced:
    sides = {s: prepare.read(out / "data" / f"{task}-{s}.jsonl") for s in ("development", "test")}
    broken = {s: np.array([bool(r["label"]) for r in rows]) for s, rows in sides.items()}
    groups = [r["group"] for r in sides["test"]]

    def of(odds: Row) -> Columns:
        return columns(odds["test"], broken["test"].tolist(), groups)

    def scaled(odds: Row) -> Columns:
        scale = fit_scale(np.array(odds["development"]), broken["development"])
        return columns([o / scale.temperature + scale.bias for o in odds["test"]], broken["test"].tolist(), groups)

    compared = {n: (m, [of(s[task]) for s in seeds], of(classifier)) for n, m in MEASURES.items()}
    compared["ece"] = METRICS["ece"], [scaled(s[task]) for s in seeds], scaled(classifier)
    return Replaced(
        {n: estimate(m, own) for n, (m, own, _) in compared.items()},
        {n: estimate(m, its) for n, (m, _, its) in compared.items()},
        {n: difference(m, its, own, margin=MARGIN) for n, (m, own, its) in compared.items()},
        promised(task, seeds[0], sides, broken["test"]),
    )


def pooled(task: str, classifier: Row, out: Path) -> Interval:
    """AUROC of the classifier of all tasks, which is not told the rule."""
    rows = prepare.read(out / "data" / f"{task}-test.jsonl")
    made = columns(classifier["test"], [bool(r["label"]) for r in rows], [r["group"] for r in rows])
    return estimate(METRICS["auroc"], made).result


def promised(task: str, odds: Row, sides: Mapping[str, Sequence[Row]], broken: NDArray[np.bool_]) -> Row:
    """The threshold for the wanted precision from the development part; what it does on the test."""
    policy = policies()[task]
    rule = policy.rules[0].id
    rows = [
        Labelled(r["id"], Comment(r["text"]), {rule: bool(r["label"])}, None, r["group"]) for r in sides["development"]
    ]
    found = calibrate(policy, rows, [[o] for o in odds[task]["development"]], odds["digest"])
    facts, known = found.facts["rules"][rule], found.measured[rule]
    seen: Row = {"volumes": found.facts["volumes"], "promised": facts, "flagged": 0, "right": 0}
    if known.threshold is not None:
        flagged = np.array([known.scale.score(o) >= known.threshold for o in odds[task]["test"]])
        seen |= {"flagged": int(flagged.sum()), "right": int((flagged & broken).sum()), "broken": int(broken.sum())}
    return seen


def few_labels(model: Row, arm: str, out: Path, tests: str) -> dict[str, tuple[Interval, Interval, Interval]]:
    """{task: AUROC of the arm, of a classifier of the same labels, and the change between them}.

    The classifier's C is chosen on the whole development part.
    """
    found: dict[str, tuple[Interval, Interval, Interval]] = {}
    for task in prepare.TASKS:
        sides = {s: prepare.read(out / "data" / f"{task}-{s}.jsonl") for s in ("development", "test")}
        labels = prepare.few_labels(out, task, int(arm.removeprefix("labels-")), tests)
        broken, groups = [bool(r["label"]) for r in sides["test"]], [r["group"] for r in sides["test"]]
        made = [columns(odds["test"], broken, groups) for odds in (model[task], _fit(labels, {task: sides})[task])]
        own, its = (estimate(METRICS["auroc"], c).result for c in made)
        found[task] = own, its, difference(METRICS["auroc"], made[1], made[0], margin=MARGIN).change
    return found


def unseen_twins(out: Path) -> list[tuple[int, int, int]]:
    """(comment, flag that is set, flag that is not): every flag is set about as often as not."""
    rows = prepare.read(out / "data" / "unseen.jsonl")
    sides = [
        (i, Truths(*(tuple(f for f, flag in enumerate(prepare.UNSEEN) if row[flag] == value) for value in (1, 0))))
        for i, row in enumerate(rows)
    ]
    rng = random.Random("unseen")
    return balance(choose_twins(rng.sample(sides, len(sides)), len(sides), len(sides), rng), 0.04)


def unlabelled_scale(model: Row) -> Scale:
    """Of rules without labels, as `bessemer moderate --scale` chooses it: on rules that no training and no test has."""
    rows = model["twins"][SIDE]
    return fit_scale(np.array([r["odds"] for r in rows]), np.array([r["broken"] for r in rows]))


def unseen(odds: Sequence[Sequence[float]], out: Path, scale: Scale) -> dict[str, Row]:
    """The same comment under two rules nobody trained, both asked; `scaled`: both right on that scale."""
    twins = unseen_twins(out)
    own = [odds[i][flag] for i, *pair in twins for flag in pair]
    broken, groups = [True, False] * len(twins), [str(i) for i, *_ in twins for _ in range(2)]
    made, scaled = (columns([x / s.temperature + s.bias for x in own], broken, groups) for s in (Scale(), scale))
    return {
        "auroc": estimate(METRICS["auroc"], made).result.as_dict(),
        "both_right": estimate(METRICS["both_right"], made).result.as_dict(),
        "scaled": estimate(METRICS["both_right"], scaled).result.as_dict(),
    }


def steered(rows: Sequence[Row], truth: str, scale: Scale) -> dict[str, Row]:
    """AUROC and both-right of the twins with `code` alone for truth, or with an answer of the `log`; `scaled`: both
    right on that scale.

    Of the latter, AUROC is that of the log's answers; a comment that stands in several twins is one cluster.
    """
    asked = [r for pair in _pairs(rows, truth) for r in pair if r["truth"] == truth]
    auroc = columns([r["odds"] for r in asked], [r["broken"] for r in asked], [_comment(r) for r in asked])
    return {
        "auroc": estimate(METRICS["auroc"], auroc).result.as_dict(),
        "both_right": share(*both_right(rows, truth, Scale())).as_dict(),
        "scaled": share(*both_right(rows, truth, scale)).as_dict(),
    }


def both_right(rows: Sequence[Row], truth: str, scale: Scale) -> tuple[list[bool], list[str]]:
    """Of every pair of twins: are both answers right, and which comment it is."""
    pairs = _pairs(rows, truth)
    right = [all((scale.score(r["odds"]) > 0.5) == r["broken"] for r in pair) for pair in pairs]
    return right, [_comment(pair[0]) for pair in pairs]


def _pairs(rows: Sequence[Row], truth: str) -> list[list[Row]]:
    pairs: dict[str, list[Row]] = {}
    for row in rows:
        pairs.setdefault(row["group"], []).append(row)
    return [p for p in pairs.values() if any(r["truth"] == "log" for r in p) == (truth == "log")]


def without(part: Row, whole: Row, out: Path) -> dict[str, Interval]:
    """What leaving a part of the recipe out changes: {measure: the arm without it - the arm of the same twins}."""
    found: dict[str, Interval] = {}
    for task in prepare.TASKS:
        rows = prepare.read(out / "data" / f"{task}-test.jsonl")
        broken, groups = [bool(r["label"]) for r in rows], [r["group"] for r in rows]
        both = [columns(arm[task]["test"], broken, groups) for arm in (whole, part)]
        found[f"{task}, AUROC"] = difference(METRICS["auroc"], *both, margin=MARGIN).change
    for title, (side, truth) in STEERED.items():
        both = list[Columns]()
        for arm in (whole, part):
            right, comments = both_right(arm["twins"][side], truth, Scale())
            both.append(columns([1.0 if r else -1.0 for r in right], [True] * len(right), comments))
        found[f"{title}, both right"] = difference(METRICS["accuracy"], *both, margin=MARGIN).change
    for title, change in changes(whole["old"], part["old"]).items():
        what = "accuracy" if title == "minimal-pairs" else "bits per byte, relative"
        found[f"{title}, {what}"] = change.change
    return found


def by_rule(rows: Sequence[Row]) -> Row:
    """AUROC of every rule alone, and over all with an interval over rules: what another choice of rules might give."""
    rules = sorted({r["rule"] for r in rows})
    of = {rule: [r for r in rows if r["rule"] == rule] for rule in rules}
    alone = {
        rule: float(roc_auc_score([r["broken"] for r in own], [r["odds"] for r in own]))
        for rule, own in of.items()
        if len({r["broken"] for r in own}) == 2
    }
    made = columns([r["odds"] for r in rows], [r["broken"] for r in rows], [r["rule"] for r in rows])
    return {"alone": alone, "over_rules": estimate(METRICS["auroc"], made).result.as_dict()}


def _comment(row: Row) -> str:
    return row["group"].rpartition(":")[0]  # the rest numbers its twins


def blind(report: Row, out: Path, tests: str) -> dict[str, Row]:
    """{column of the page: {comment_only, rule_only: AUROC}}: what can be guessed without the rule, or the comment.

    Of what each column is about: of the moderators' their own answers alone, where a removed comment breaks its rule.
    """
    logged = [i for i in Source(f"dataset:{tests}/test", "chat") if i.meta["truth"] == "log"]
    said = [i.messages[1].content.partition("Comment: ")[2].partition("\nRule: ") for i in logged]
    of = {n: report["splits"][n]["blind"] for n in ("test", "new-wordings", "new-rules")}
    rows = prepare.read(out / "data" / "unseen.jsonl")
    twins = unseen_twins(out)
    texts = [rows[i]["text"] for i, *_ in twins for _ in range(2)]
    rules = [prepare.UNSEEN[flag] for _, *pair in twins for flag in pair]
    ids = [str(i) for i, *_ in twins for _ in range(2)]
    return {
        "rules it knows": of["test"],
        "new wordings": of["new-wordings"],
        "new rules": of["new-rules"],
        "a policy never seen": blind_baselines(texts, rules, [True, False] * len(twins), ids).as_dict(),
        "answers of moderators": blind_baselines(
            [comment for comment, _, _ in said],
            [rule for *_, rule in said],
            [i.messages[-1].content == "yes" for i in logged],
            [str(i.meta["comment"]) for i in logged],
        ).as_dict(),
    }


def cited(odds: Sequence[Sequence[float]], data: Path) -> Row:
    """The exact set of broken rules, of comments under twelve. Scales come from the first half of the comments."""
    policy, rows = citing(), cite_comments(data)
    truth = np.array([[families()[r.id].breaks(c["text"]) for r in policy.rules] for c in rows])
    table = np.array(odds)
    said = np.zeros((N_CITE, CITE_RULES), np.bool_)
    for r in range(CITE_RULES):
        scale = fit_scale(table[:N_CITE, r], truth[:N_CITE, r])
        said[:, r] = [scale.score(o) >= 0.5 for o in table[N_CITE:, r]]
    real = truth[N_CITE:]

    def alone(values: NDArray[np.bool_]) -> Row:
        return share(values.tolist(), list(map(str, range(len(values))))).as_dict()

    some = real.any(axis=1)
    return {
        "exact": alone((said == real).all(axis=1)),
        "exact_where_some": alone((said == real).all(axis=1)[some]),
        "nothing": float((~some).mean()),  # whoever cites nothing is right so often
        "broken": int(real.sum()),
        "found": int((said & real).sum()),
        "said": int(said.sum()),
    }


def old(name: str, address: str, out: Path, questions: str) -> Row:
    """What a model still knows: encyclopedia, minimal pairs, sums, as columns in plain data; answers are kept."""
    subject: Subject = find_subject(address)
    kept = out / "answers" / f"{name}-{subject.digest[:12]}-{questions[:12]}-old.json"
    if not kept.exists():
        tasks = [find_task(str(out / "data" / f"{n}.yaml"), "keep") for n in OLD]
        found = ask(subject, tasks, Screen(), by="example")
        prepare.write(kept, [{n: found[n].columns.as_json() for n in OLD}])
    return json.loads(kept.read_text())


def changes(before: Row, after: Row) -> dict[str, Difference]:
    """What two models still know, as `old` gives it: the change, relative for bits per byte."""
    return {
        n: difference(
            METRICS["accuracy" if n == "minimal-pairs" else "bits_per_byte"],
            Columns.from_json(before[n]), Columns.from_json(after[n]), margin=0.01, relative=n != "minimal-pairs",
        )
        for n in OLD
    }  # fmt: skip


# -- arms that were asked elsewhere -----------------------------------------------------------------------------------


def questions_digest(data: Path, out: Path, tests: str) -> str:
    """sha256 over everything that an arm is asked, with the right answers, and what the classifiers learn from."""
    held = [tasks_digest(out), *(sha256_file(out / "data" / f"{name}.jsonl") for name in ("unseen", *OLD))]
    asked = [digest_items(list(Source(f"dataset:{tests}/{side}", "chat"))) for side in TWINS]
    every = [*policies().values(), load_policy(str(prepare.POLICIES / "unseen.yaml")), citing()]
    cite = [c["text"] for c in cite_comments(data)]
    return sha256_text(canonical_json([*held, *asked, *(p.digest for p in every), *cite]))


def tasks_digest(out: Path) -> str:
    """sha256 over what classifiers and encoders of their own learn from and are asked: no twins."""
    names = [f"{task}-{side}.jsonl" for task in prepare.TASKS for side in ("train", "development", "test")]
    return sha256_text(canonical_json([sha256_file(out / "data" / name) for name in names]))


def need_seeds(arms: Sequence[Row]) -> None:
    """Raises BessemerError for seeds of an arm that are one model, or were made of other recipes or data."""
    first, last = arms[0], arms[-1]
    same = [a["name"] for a in arms[:-1] if a.get("digest", "") == last.get("digest", a["name"])]
    if same:
        raise BessemerError(f"it is the same model as {same[0]}", where=last["name"], fix="train another seed")
    if first.get("made", "") != last.get("made", ""):
        raise BessemerError(
            f"it was made by another recipe or of other data than {first['name']}: their mean says nothing of either",
            where=last["name"],
            fix="train it here, or take both from one place",
        )


def write_arm(path: Path, arm: Row) -> None:
    """One file with all that is known of an arm: whoever has the same data makes the same page of it."""
    write_bytes(path, gzip.compress(canonical_json(arm).encode(), mtime=0))


def read_arm(path: Path, questions: str) -> Row:
    """Raises BessemerError for a damaged file, and when other questions were asked."""
    try:
        arm = json.loads(gzip.decompress(path.read_bytes()))
        asked = str(arm["questions"])
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise BessemerError(f"no arm can be read ({error})", where=str(path), fix="copy the file again") from None
    if asked != questions:
        raise BessemerError(
            f"these are answers to other questions ({asked[:12]}; yours are {questions[:12]})",
            where=str(path),
            fix="take the data and the version of the code that the answers were made with, or train the arm here",
        )
    return arm
