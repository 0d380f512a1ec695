"""bessemer moderate: judge files of comments, choose thresholds, see what a policy would do or whether data moved."""

from __future__ import annotations

import json as jsonlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bessemer.cli.options import Json, print_json, print_table

if TYPE_CHECKING:
    from bessemer.moderate.dry_run import Judged
    from bessemer.moderate.judge import Judge
    from bessemer.moderate.policy import Policy

File = Annotated[Path | None, typer.Option(help="A file of comments.")]


def moderate(
    model: Annotated[str, typer.Option(help="The release: name@version.")],
    policy: Annotated[str, typer.Option(help="A policy file (.yaml, .md), or a stored name@version.")] = "",
    comments: Annotated[
        Path | None, typer.Argument(help="Judge these; one JSON object a comment on stdout.", metavar="COMMENTS")
    ] = None,
    dry_run: Annotated[
        Path | None, typer.Option(help="What the policy would do to these, and its likely false positives.")
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="Choose scales and thresholds on these labelled comments, drawn at random.")
    ] = None,
    drift: Annotated[Path | None, typer.Option(help="Whether these are still like the calibration's.")] = None,
    scale: Annotated[
        str,
        typer.Option(metavar="DATASET", help="One for all policies without a calibration; from what trained it."),
    ] = "",
    column: Annotated[
        list[str] | None, typer.Option(metavar="OURS=THEIRS", help="The file's own name of a column; repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """One of COMMENTS, --dry-run, --calibrate, --drift and --scale. Exit code 2: --drift found a move."""
    from bessemer.errors import EXIT_CODES, BessemerError

    given = {"judge": comments, "dry_run": dry_run, "calibrate": calibrate, "drift": drift, "scale": scale or None}
    asked = [(verb, path) for verb, path in given.items() if path is not None]
    if len(asked) != 1:
        raise BessemerError(
            f"{len(asked)} things to do",
            where="moderate",
            fix="give COMMENTS, --dry-run, --calibrate, --drift or --scale",
        )
    verb, path = asked[0]
    if bool(policy) == (verb == "scale"):
        raise BessemerError(
            "a scale holds for all rules without labels, whatever their policy" if policy else "no policy is given",
            where="--policy", fix="leave it out" if policy else "a file (.yaml, .md), or a stored name@version",
        )  # fmt: skip
    if isinstance(path, str):
        if column:
            raise BessemerError("a data set has no columns to map", where="--column", fix="leave it out")
        return _scale(path, model, json)
    judge, rules, judged = judge_file(path, policy, model, columns_of(column), verb)
    doing = {"judge": _judge, "dry_run": _dry_run, "calibrate": _calibrate, "drift": _drift}[verb]
    if doing(judge, rules, judged, json):
        raise typer.Exit(EXIT_CODES["hold"])


def columns_of(given: list[str] | None) -> dict[str, str | None]:
    """`OURS=THEIRS` -> a mapping; without THEIRS the file's column of our name is not read. Raises BessemerError."""
    from bessemer.errors import BessemerError
    from bessemer.moderate.labelled import COLUMNS

    found = {ours: theirs or None for c in given or [] for ours, _, theirs in [c.partition("=")]}
    wrong = [c for c in given or [] if "=" not in c]
    if unknown := [*wrong, *(ours for ours in found if ours not in COLUMNS)]:
        raise BessemerError(
            f"{unknown[0]!r} {'maps no column' if wrong else 'is no column that is read'}", where="--column",
            fix=f"such as --column text=body; ours: {', '.join(COLUMNS)}",
        )  # fmt: skip
    return found


def judge_file(
    path: Path, policy: str, model: str, columns: dict[str, str | None], verb: str = "judge"
) -> tuple[Judge, Policy, Judged]:
    """Every comment of a file, by every rule. What `calibrate` and `drift` need is looked at before the judging."""
    from bessemer.errors import BessemerError
    from bessemer.launch.here import quiet_libraries
    from bessemer.moderate.calibrate import need_calibration, need_labels
    from bessemer.moderate.dry_run import judge_rows
    from bessemer.moderate.judge import CommentError, Judge
    from bessemer.moderate.labelled import read_rows
    from bessemer.moderate.policy import load_policy, need_same
    from bessemer.serve.server import open_model
    from bessemer.track.screen import Screen

    quiet_libraries()
    screen, rules = Screen(), load_policy(policy)
    skipped = Counter[str]()
    rows = read_rows(str(path), rules, columns, labels=verb == "calibrate", skipped=skipped)
    for reason, n in skipped.items():
        screen.say(f"left out: {n} ({reason})")
    if verb == "calibrate":
        need_labels(rules, rows)
        need_same(rules)
    with screen.step(f"model {model}"):
        judge = Judge(open_model(model)[0])
    if verb == "drift":
        need_calibration(rules, judge.loaded.digest)
    if verb == "calibrate":
        for row in rows:  # one that cannot be judged is said before hours of judging
            try:
                judge.prepare(row.comment, rules)
            except CommentError as error:
                raise BessemerError(error.what, where=row.id, fix="repair the comment or leave it out") from None
    with screen.step(f"{len(rows)} comments judged by {len(rules.rules)} rules") as advance:
        return judge, rules, judge_rows(judge, rules, rows, lambda share: advance(share, ""))


def _judge(judge: Judge, policy: Policy, judged: Judged, json: bool) -> bool:
    from bessemer.moderate.decide import decide
    from bessemer.moderate.unlabelled import known_of

    known = known_of(policy, judge.loaded.digest)
    pinned = {
        "release_digest": judge.loaded.digest, "policy": policy.reference, "policy_hash": policy.digest,
        "calibration": known.digest or None,
    }  # fmt: skip
    for row, odds in zip(judged.rows, judged.odds, strict=True):
        decision = decide(policy, odds, known)
        rules = {f.rule: f.as_dict() for f in decision.findings}
        answer = {"id": row.id, "action": decision.outcome, "cited_rules": decision.cited, "rules": rules, **pinned}
        print(jsonlib.dumps(answer, ensure_ascii=False))
    for row, why in judged.refused:
        print(jsonlib.dumps({"id": row.id, "action": "queue", "error": why, **pinned}, ensure_ascii=False))
    return False


def _dry_run(judge: Judge, policy: Policy, judged: Judged, json: bool) -> bool:
    from bessemer.moderate.dry_run import dry_run
    from bessemer.moderate.unlabelled import known_of

    found = dry_run(policy, judged, known_of(policy, judge.loaded.digest))
    if json:
        print_json(found)
        return False
    print_table(
        f"{policy.reference} on {found['n_comments']} comments ({len(found['refused'])} could not be judged)",
        ["outcome", "comments", "share"],
        [[name, str(v["n"]), _percent(v)] for name, v in found["volumes"].items()],
        right=[1, 2],
    )
    table = [
        [
            name,
            rule["action"],
            f"{rule['threshold']:.3f}" if rule["threshold"] is not None else "none",
            "yes" if rule["calibrated"] else "no",
            str(rule["words"]["broken"]["n"]),
            _percent(rule["words"]["broken"]),
            str(rule["words"]["unsure"]["n"]),
            f"{rule['expected_false_positives']:.1f}",
            str(rule["approved_by_moderators"]),
        ]
        for name, rule in found["rules"].items()
    ]
    columns = [
        "rule",
        "action",
        "threshold",
        "calibrated",
        "broken",
        "share",
        "unsure",
        "expected wrong",
        "approved by people",
    ]
    print_table("", columns, table, right=[2, 4, 5, 6, 7, 8])
    for name, rule in found["rules"].items():
        if rule["likely_false_positives"]:
            print(f"\n{name}: likely false positives")
        for case in rule["likely_false_positives"]:
            mark = "approved, " if case["approved_by_moderators"] else ""
            print(f"  {mark}{case['score']:.3f}  {case['id']}: {case['text']!r}")
    if not all(rule["calibrated"] for rule in found["rules"].values()):
        print("\nnot calibrated rules never remove; their numbers mean little: bessemer moderate --calibrate LABELLED")
    return False


def _calibrate(judge: Judge, policy: Policy, judged: Judged, json: bool) -> bool:
    from bessemer.moderate.calibrate import calibrate, save

    found = calibrate(policy, judged.rows, judged.odds, judge.loaded.digest)
    path = save(policy, found)
    if json:
        print_json({**found.facts, "reference": None, "file": str(path)})
        return False
    table = [
        [
            name,
            f"{rule['n_broken']} of {rule['n_labelled']}",
            f"{rule['temperature']:.2f}, {rule['bias']:+.2f}",
            f"{rule['threshold']:.3f}" if rule["threshold"] is not None else "none",
            f"{rule['wanted_precision']:g}",
            _shown(rule["precision"]),
            _shown(rule["recall"]),
            _percent(rule["words"]["broken"]),
            _percent(rule["words"]["unsure"]),
        ]
        for name, rule in found.facts["rules"].items()
    ]
    columns = ["rule", "broken", "scale", "threshold", "wanted", "precision", "recall", "acted on", "unsure"]
    print_table(f"{policy.reference} on {judge.loaded.digest[:12]}, held-out numbers", columns, table, right=[3, 4])
    for rule in policy.rules:
        if why := found.facts["rules"][rule.id].get("why"):
            print(f"{rule.id} {'acts on nothing' if rule.action == 'flag' else 'only queues'}: {why}")
    print("of all comments: " + ", ".join(f"{o} {_percent(v)}" for o, v in found.facts["volumes"].items()))
    print(f"kept in {path}")
    return False


def _drift(judge: Judge, policy: Policy, judged: Judged, json: bool) -> bool:
    from bessemer.data.moderation import clean
    from bessemer.moderate.calibrate import need_calibration
    from bessemer.moderate.drift import drift

    known = need_calibration(policy, judge.loaded.digest)
    odds = {rule.id: [o[r] for o in judged.odds] for r, rule in enumerate(policy.rules)}
    moves = drift(known.reference, odds, [clean(row.comment.text) for row in judged.rows])
    if json:
        print_json({"moves": [m.as_dict() for m in moves], "refused": len(judged.refused)})
    else:
        table = [[m.what, f"{m.gap:.3f}", f"{m.p:.2g}", "moved" if m.moved else ""] for m in moves]
        print_table("Against the calibration's comments", ["what", "largest gap", "p (Holm)", ""], table, right=[1, 2])
        if judged.refused:
            print(f"{len(judged.refused)} comments could not be judged and are not among these numbers")
        if any(m.moved for m in moves):
            print("thresholds may no longer hold: label a sample of these comments and calibrate again")
    return any(m.moved for m in moves)


def _scale(data: str, model: str, json: bool) -> None:
    """data: a data set of moderation, name@version."""
    from itertools import groupby

    from bessemer.data.sources import Source
    from bessemer.launch.here import quiet_libraries
    from bessemer.moderate.judge import Judge
    from bessemer.moderate.unlabelled import CONFIDENCE, SIDE, measure_scale, need_rules, save
    from bessemer.serve.server import open_model
    from bessemer.track.screen import Screen

    quiet_libraries()
    screen, source = Screen(), f"dataset:{data.removeprefix('dataset:')}/{SIDE}"
    items = list(Source(source, "chat"))
    need_rules(items, source)
    groups = [list(own) for _, own in groupby(items, lambda item: item.cluster)]
    with screen.step(f"model {model}"):
        judge = Judge(open_model(model)[0])
    with screen.step(f"{len(groups)} twins judged") as advance:
        odds = [o for own in judge.twins(groups, lambda share: advance(share, "")) for o in own]
    found = measure_scale(items, odds, judge.loaded.digest, source)
    path = save(found)
    if json:
        return print_json({**found, "file": str(path)})
    words = [(side, word) for side in ("broken", "kept") for word in ("broken", "unsure", "kept")]
    rows = [
        [title, scale, _shown(of["both_right"]), *(f"{of[side][word]:.2f}" for side, word in words)]
        for title, scale, of in (
            ("as the model says it", "1.00, +0.00", found["without"]),
            ("on its scale", f"{found['temperature']:.2f}, {found['bias']:+.2f}", found["with"]),
        )
    ]
    head = ["", "scale", "both right", *(f"{'broke' if side == 'broken' else 'kept'}: {word}" for side, word in words)]
    n_rules, n_twins = len(found["rules"]), found["n_twins"]
    print_table(
        f"{n_rules} rules of {source}, {n_twins} twins; each on a scale of other rules; surely from {CONFIDENCE:g}",
        head, rows, right=range(2, 9),
    )  # fmt: skip
    print(f"kept in {path}; policies that were not calibrated for this model have it from now on")


def _percent(interval: dict[str, float]) -> str:
    return f"{interval['value']:.1%} [{interval['low']:.1%}, {interval['high']:.1%}]"


def _shown(interval: dict[str, float] | None) -> str:
    return "too few" if interval is None else f"{interval['value']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"
