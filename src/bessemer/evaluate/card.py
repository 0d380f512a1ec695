"""Results of two models -> the evaluation's scorecard: plain data, a pure function of what it is given.

`bessemer verify` computes it again from the results that lie beside the scorecard and compares, so nothing here may
depend on the time, the machine or the order of anything but its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bessemer.errors import BessemerError
from bessemer.evaluate import stats
from bessemer.evaluate.metrics import Columns, Metric, metric_named, metrics_of, rightness
from bessemer.evaluate.result import TaskResult, judge_controls
from bessemer.evaluate.tasks import METRICS_OF
from bessemer.evaluate.verdict import judge_evaluation

FORMAT = "bessemer.evaluation/1"
GAIN, KEEP = "gain", "keep"
LEAST_CLEAN = 20  # clean items below which they are not measured apart
MOST_SLICES = 60


@dataclass(frozen=True)
class Block:
    """One task as it was asked. spec: the task without items. seal: facts of the seal, empty for an open task.

    before and after: results of one or several seeds; before is empty when nothing is compared.
    """

    name: str
    role: str
    spec: Mapping[str, Any]
    before: Sequence[TaskResult]
    after: Sequence[TaskResult]
    seal: Mapping[str, Any] = field(default_factory=dict[str, Any])


def build_card(
    blocks: Sequence[Block], facts: Mapping[str, Any], probes: Mapping[str, Any], retain: float | None
) -> dict[str, Any]:
    """facts: who was measured, by whom and when; copied. probes: as a run's own scorecard has them.

    Raises BessemerError when two models were asked different items, or a metric has no interval.
    """
    names = [b.name for b in blocks]
    if len(set(names)) < len(names):
        raise BessemerError("two tasks have one name", where=", ".join(names), fix="rename one of them")
    gains = [b.name for b in blocks if b.role == GAIN and b.before]
    tasks = {b.name: _task(b, retain, len(gains)) for b in blocks}
    _adjust([tasks[name] for name in gains])
    verdict = judge_evaluation(tasks, probes, _other_than_base(facts))
    return {
        "format": FORMAT,
        "verdict": {"word": verdict.word, "reasons": verdict.reasons},
        **facts,
        "retain": retain,
        "tasks": tasks,
        "probes": dict(probes),
    }


def _other_than_base(facts: Mapping[str, Any]) -> str:
    """What the models are compared with, where it is not what all of them started from; else empty."""
    against = facts.get("against") or {}
    others = [
        m["name"] for m in facts["models"] if m.get("base_digest", against.get("digest")) != against.get("digest")
    ]
    return f"compared with {against['name']}, not with what {others[0]} started from" if against and others else ""


def order_fault(seal: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """Why the sealing does not come before the training; empty when it does.

    An opening names the digest of the weights, so it cannot come before the training ended. seal: its facts; model: as
    in the scorecard.
    """
    begun, there = model.get("begun", ""), model.get("seals", {})
    if begun and seal["name"] in there and there[seal["name"]] == seal["commitment"]:
        return ""  # whatever the clocks say: two machines, or one that was put back
    if not begun:
        return f"nobody knows whether it was sealed before {model['name']} was trained"
    if seal["created"] > begun:
        return f"it was sealed on {seal['created']}, after {model['name']} began on {begun}"
    if seal["name"] not in there:
        return f"it was not there when {model['name']} began on {begun}"
    if there[seal["name"]] != seal["commitment"]:
        return f"when {model['name']} began, another seal had this name"
    return ""


def primary_metric(spec: Mapping[str, Any]) -> Metric:
    name = spec.get("metric") or METRICS_OF[spec["kind"]][0]
    return metric_named(name, precision=spec["precision"], k=spec["k"])


def _task(block: Block, retain: float | None, n_gains: int) -> dict[str, Any]:
    spec, primary = block.spec, primary_metric(block.spec)
    after = [r.columns for r in block.after]
    before = [r.columns for r in block.before]
    margin = spec["smallest_effect"]
    if primary.name == "bits_per_byte" and retain and block.role == KEEP:
        margin = 1 / retain - 1
    relative = primary.name == "bits_per_byte"
    card: dict[str, Any] = {
        "role": block.role,
        "spec": dict(spec),
        "primary": primary.name,
        "margin": margin,
        "n_items": len(after[0]),
        "n_clusters": len(set(after[0].clusters)),
        "seal": dict(block.seal),
        "results": {"before": [r.digest for r in block.before], "after": [r.digest for r in block.after]},
        "metrics": _metrics(block, primary, before, after),
    }
    if before:
        changed = stats.difference(
            primary, before, after, margin=margin, alpha=spec["alpha"], relative=relative,
            permutations=stats.enough_permutations(n_gains, spec["alpha"]),
        )  # fmt: skip
        card["change"] = changed.as_dict() | {"relative": relative}
        card["slices"] = _slices(before[0], after[0])
        if spec["kind"] != "perplexity" and len(before) == len(after) == 1:
            card["transitions"] = stats.transitions(before[0], after[0], alpha=spec["alpha"]).as_dict()
    card["overlap"] = _overlap(block, primary, margin, relative)
    card["controls"] = [judge_controls(r) for r in block.after]
    return card


def _metrics(block: Block, primary: Metric, before: list[Columns], after: list[Columns]) -> dict[str, Any]:
    """Every metric of the kind that has an interval on these items, before and after; the primary one must have."""
    spec, found = block.spec, dict[str, Any]()
    usual = metrics_of(after[0], precision=spec["precision"], k=spec["k"])
    for metric in usual if primary.name in {m.name for m in usual} else (*usual, primary):
        try:
            sides = {"after": stats.estimate(metric, after, alpha=spec["alpha"]).as_dict()}
            if before:
                sides = {"before": stats.estimate(metric, before, alpha=spec["alpha"]).as_dict(), **sides}
        except BessemerError:
            if metric.name == primary.name:
                raise
            continue
        found[metric.name] = {"higher_is_better": metric.higher_is_better, **sides}
    return found


def _slices(before: Columns, after: Columns) -> dict[str, Any]:
    names = sorted(set(after.slices) - {""})
    if after.kind == "perplexity" or not names or len(names) > MOST_SLICES:
        return {}
    sides, slices = [rightness(c) for c in (before, after)], np.array(after.slices)
    return {
        name: {
            "n_items": int((slices == name).sum()),
            "before": round(float(sides[0][slices == name].mean()), 6),
            "after": round(float(sides[1][slices == name].mean()), 6),
        }
        for name in names
    }


def _overlap(block: Block, primary: Metric, margin: float, relative: bool) -> dict[str, Any]:
    """What of the task was fed to the model, the worst of several seeds, and the change on the rest."""
    known = all(r.fed.known for r in block.after)
    if not known:
        return {"known": False}
    worst = min(block.after, key=lambda r: int(r.clean().sum()))
    clean_I = worst.clean()
    n_hit = int((~clean_I).sum())
    found: dict[str, Any] = {
        "known": True,
        "n_documents": worst.fed.n_documents,
        "n_contaminated": n_hit,
        "share": round(n_hit / len(clean_I), 6),
        "n_untold": worst.n_untold(),
        "leaked_canaries": max(len(r.leaked) for r in block.after),
        "longest": max((f["longest"] for fields in worst.overlap.values() for f in fields.values()), default=0),
    }
    if n_hit and int(clean_I.sum()) >= LEAST_CLEAN and block.before:
        sides = [[r.columns.take(clean_I) for r in side] for side in (block.before, block.after)]
        try:
            clean = stats.difference(
                primary, *sides, margin=margin, alpha=block.spec["alpha"], relative=relative, permutations=0
            )
            found["clean"] = clean.as_dict()
        except BessemerError as error:
            found["clean_fault"] = error.what
    return found


def _adjust(tasks: Sequence[dict[str, Any]]) -> None:
    """Several tasks that are to gain decide together: their p values are adjusted by Holm's rule."""
    adjusted = stats.holm([t["change"]["p"] for t in tasks])
    for task, p in zip(tasks, adjusted, strict=True):
        change = task["change"]
        change["p_adjusted"] = round(p, 6)
        if change["answer"] in {"WIN", "LOSS"} and p > task["spec"]["alpha"]:
            change["answer"] = "INCONCLUSIVE"
