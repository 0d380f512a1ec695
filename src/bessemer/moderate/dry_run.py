"""What a policy would do to past comments, before it is switched on: volumes, disagreements, likely false positives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bessemer.errors import BessemerError
from bessemer.evaluate.stats import Interval, shares
from bessemer.infer.score import Progress
from bessemer.moderate.calibrate import OUTCOMES, WORDS
from bessemer.moderate.decide import Decision, Known
from bessemer.moderate.decide import decide as decide_one
from bessemer.moderate.judge import Judge
from bessemer.moderate.labelled import Row, clusters
from bessemer.moderate.policy import Policy

BATCH = 64  # comments
LISTED = 10  # likely false positives of a rule
SHOWN = 160  # characters of a comment


@dataclass(frozen=True)
class Judged:
    """Comments that could be judged, with their log-odds, and those that could not, with the reason."""

    rows: list[Row]
    odds: list[list[float]]
    refused: list[tuple[Row, str]]


def judge_rows(judge: Judge, policy: Policy, rows: Sequence[Row], progress: Progress | None = None) -> Judged:
    """One bad comment stops nothing. Raises BessemerError when the policy itself cannot be asked."""
    judge.check(policy)
    found = Judged([], [], [])
    for start in range(0, len(rows), BATCH):
        questions = []
        for row in rows[start : start + BATCH]:
            try:
                questions.append(judge.prepare(row.comment, policy))
            except BessemerError as error:
                found.refused.append((row, error.what))
            else:
                found.rows.append(row)
        found.odds.extend(judge.odds(questions))
        if progress:
            progress(min(BATCH, len(rows) - start) / len(rows))
    return found


def dry_run(policy: Policy, judged: Judged, known: Known) -> dict[str, Any]:
    """Raises BessemerError when fewer than two independent comments could be judged."""
    rows = judged.rows
    everyone = clusters([*rows, *(row for row, _ in judged.refused)])
    groups = everyone[: len(rows)]
    if len(set(groups)) < 2:
        raise BessemerError(
            f"{len(set(groups))} independent comments could be judged (copies, and those of one group, count once)",
            where="--dry-run",
            fix="give two or more",
        )
    decisions = [decide_one(policy, odds, known) for odds in judged.odds]
    outcomes = [*(d.outcome for d in decisions), *("queue" for _ in judged.refused)]  # nobody could judge those
    volumes = shares(np.array([[outcome == o for o in OUTCOMES] for outcome in outcomes], np.float64), everyone)
    words_IRW = np.array([[[f.word == w for w in WORDS] for f in d.findings] for d in decisions], np.float64)
    words = iter(shares(words_IRW.reshape(len(rows), -1), groups))
    return {
        "policy": {"reference": policy.reference, "digest": policy.digest},
        "calibration": known.digest or None,
        "n_comments": len(rows) + len(judged.refused),
        "refused": [{"id": row.id, "why": why} for row, why in judged.refused],
        "volumes": {o: {"n": outcomes.count(o), **v.as_dict()} for o, v in zip(OUTCOMES, volumes, strict=True)},
        "rules": {
            rule.id: _rule(policy, r, rows, decisions, {w: next(words) for w in WORDS}, known)
            for r, rule in enumerate(policy.rules)
        },
    }


def _rule(
    policy: Policy, r: int, rows: Sequence[Row], decisions: Sequence[Decision], words: Mapping[str, Interval],
    known: Known,
) -> dict[str, Any]:  # fmt: skip
    rule = policy.rules[r]
    found = [d.findings[r] for d in decisions]
    broken = [i for i, f in enumerate(found) if f.word == "broken"]
    approved = [i for i in broken if rows[i].removed is False or rows[i].labels.get(rule.id) is False]
    stood = set(approved)
    # First those that moderators let stand, then those that the rule is least sure of.
    doubtful = sorted(broken, key=lambda i: (i not in stood, found[i].score))
    return {
        "action": rule.action,
        "calibrated": rule.id in known.rules,
        "threshold": found[0].threshold,
        "words": {w: {"n": sum(f.word == w for f in found), **share.as_dict()} for w, share in words.items()},
        "expected_false_positives": round(sum(1 - found[i].score for i in broken), 2),
        "approved_by_moderators": len(approved),
        "likely_false_positives": [
            {
                "id": rows[i].id,
                "score": round(found[i].score, 4),
                "approved_by_moderators": i in stood,
                "text": rows[i].comment.text[:SHOWN],
            }
            for i in doubtful[:LISTED]
        ],
    }
