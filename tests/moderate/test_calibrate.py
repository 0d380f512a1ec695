"""Scales and thresholds on synthetic log-odds whose truth is known."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bessemer.data.moderation import Comment
from bessemer.errors import BessemerError
from bessemer.files import read_record
from bessemer.moderate.calibrate import (
    MIN_FLAGGED,
    Calibration,
    calibrate,
    fit_scale,
    load_calibration,
    path_of,
    pick_threshold,
    save,
)
from bessemer.moderate.decide import Known, Measured, Scale, decide
from bessemer.moderate.labelled import Row
from bessemer.moderate.policy import Policy, Rule

MODEL = "d" * 64


def two_rules(**first: Any) -> Policy:
    return Policy(name="p", rules=[Rule(id="a", text="No a.", **first), Rule(id="b", text="No b.", action="remove")])


def draws(n: int, temperature: float, bias: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds, and labels that are true with exactly the probability that the scale says."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 6, n)
    return odds, rng.random(n) < 1 / (1 + np.exp(-(odds / temperature + bias)))


def rows_of(labels: np.ndarray, ids: tuple[str, ...] = ("a", "b")) -> list[Row]:
    return [
        Row(str(i), Comment(f"comment number {i}"), {r: bool(v) for r, v in zip(ids, row, strict=True) if v >= 0})
        for i, row in enumerate(labels.tolist())
    ]


@pytest.mark.parametrize(("temperature", "bias"), [(1.0, 0.0), (3.0, -2.0), (0.5, 1.0)])
def test_a_scale_is_found_again(temperature: float, bias: float) -> None:
    odds, broken = draws(20_000, temperature, bias)
    found = fit_scale(odds, broken)
    assert found.temperature == pytest.approx(temperature, rel=0.08) and found.bias == pytest.approx(bias, abs=0.12)


def test_a_scale_stays_finite() -> None:
    odds = np.array([-50.0, -40.0, 60.0, 70.0])
    perfect, wrong = fit_scale(odds, odds > 0), fit_scale(odds, odds < 0)
    assert 0 < perfect.temperature < 100 and 0 < wrong.temperature <= 50
    assert fit_scale(np.zeros(0), np.zeros(0, bool)) == Scale(1.0, 0.0)
    assert Scale(1e-3).score(-1e6) == 0.0 and Scale(1e-3).score(1e6) == 1.0


@pytest.mark.parametrize(("broken_at", "kept_at", "share"), [(2.0, 4.0, 0.04), (6.0, 6.0, 0.1), (-3.0, 3.0, 0.3)])
def test_of_a_rule_that_is_unknown_or_read_the_wrong_way_round_scores_are_its_share(
    broken_at: float, kept_at: float, share: float
) -> None:
    """A bias found beside a slope that is then cut says something else."""
    rng = np.random.default_rng(0)
    broken = rng.random(600) < share
    odds = np.where(broken, rng.normal(broken_at, 1, 600), rng.normal(kept_at, 1, 600))
    scale = fit_scale(odds, broken)
    assert np.mean([scale.score(x) for x in odds.tolist()]) == pytest.approx(broken.mean(), abs=0.01)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=80), st.sampled_from([0.6, 0.8, 0.9, 0.95]))
@example([(1.0, False)] * 3 + [(1.0, True)] * 6 + [(5e-324, False), (0.0, False)], 0.6)  # neighbours
def test_a_threshold_reaches_the_precision_and_no_smaller_one_does(
    pairs: list[tuple[float, bool]], wanted: float
) -> None:
    scores, broken = np.array([s for s, _ in pairs]), np.array([b for _, b in pairs], bool)
    found = pick_threshold(scores, broken, wanted)

    def good(at: float) -> bool:
        taken = broken[scores >= at]
        return len(taken) >= MIN_FLAGGED and taken.mean() >= wanted - 1e-9

    reached = [s for s in scores.tolist() if good(s)]
    if found is None:
        assert not reached
    else:
        assert good(found) and min(reached) >= found
        assert {s for s in scores.tolist() if s >= found} == {s for s in scores.tolist() if s >= min(reached)}


def test_decisions() -> None:
    policy = two_rules(action="flag")
    measured = {"a": Measured(Scale(), 0.9), "b": Measured(Scale(2.0, 0.0), 0.7)}

    def words(a: float, b: float, known: Any = measured) -> tuple[Any, ...]:
        found = decide(policy, [a, b], Known(known))
        return (found.outcome, *(f.word for f in found.findings), found.cited)

    assert words(-9, -9) == ("allow", "kept", "kept", [])
    assert words(9, -9) == ("allow", "broken", "kept", ["a"])  # flag: only say so
    assert words(0, -9) == ("allow", "unsure", "kept", [])
    assert words(-9, 0) == ("queue", "kept", "unsure", [])
    assert words(9, 4) == ("remove", "broken", "broken", ["a", "b"])
    assert words(-9, 9, {}) == ("queue", "kept", "broken", ["b"])  # not measured: a person looks first
    assert words(9, 9, {"b": Measured(Scale(), None)}) == ("queue", "broken", "unsure", ["a"])
    low = decide(policy, [-9, -2.0], Known({"b": Measured(Scale(), 0.1)})).findings[1]
    assert low.word == "broken" and low.score < 0.2  # a threshold below the confidence wins


@given(st.floats(-30, 30), st.floats(-30, 30))
def test_a_higher_score_never_decides_less(a: float, b: float) -> None:
    policy = two_rules(action="remove")
    rank = {"allow": 0, "queue": 1, "remove": 2}
    measured = {"a": Measured(Scale(1.5, -1), 0.8)}
    low, high = (decide(policy, [x, -30], Known(measured)) for x in sorted((a, b)))
    assert rank[low.outcome] <= rank[high.outcome]


def test_calibration_reports_held_out_numbers_with_intervals() -> None:
    policy = two_rules(action="remove", precision=0.9)
    odds_a, broken_a = draws(3000, 2.0, -1.0, 1)
    odds_b, broken_b = draws(3000, 1.0, 0.0, 2)
    labels = np.stack([broken_a, broken_b], 1).astype(int)
    found = calibrate(policy, rows_of(labels), np.stack([odds_a, odds_b], 1).tolist(), MODEL)
    rule = found.facts["rules"]["a"]
    assert rule["temperature"] == pytest.approx(2.0, rel=0.15) and rule["calibration_error"] < 0.03
    assert 0.5 < rule["threshold"] < 0.95 and rule["n_broken"] == broken_a.sum()
    score = np.array([Scale(rule["temperature"], rule["bias"]).score(x) for x in odds_a.tolist()])
    fresh, truth = draws(200_000, 2.0, -1.0, 3)
    flagged = truth[[Scale(rule["temperature"], rule["bias"]).score(x) >= rule["threshold"] for x in fresh.tolist()]]
    assert rule["precision"]["low"] <= flagged.mean() <= rule["precision"]["high"]
    assert rule["words"]["broken"]["value"] == pytest.approx((score >= rule["threshold"]).mean(), abs=0.02)
    volumes = found.facts["volumes"]
    assert sum(v["value"] for v in volumes.values()) == pytest.approx(1.0, abs=1e-5)
    assert all(v["low"] < v["value"] < v["high"] for v in volumes.values() if 0 < v["value"] < 1)


def test_a_precision_that_is_not_reached_gives_no_threshold() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((2000, 2)) < 0.1).astype(int)  # the odds know nothing
    found = calibrate(two_rules(), rows_of(labels), rng.normal(0, 3, (2000, 2)).tolist(), MODEL)
    for rule in found.facts["rules"].values():
        assert rule["threshold"] is None and rule["why"]
        assert rule["calibration_error"] < 0.05
    assert found.facts["volumes"]["remove"]["value"] == 0


def test_what_is_said_is_what_the_threshold_does() -> None:
    """Volumes and words are those of the thresholds that are served, also where held-out comments took one away."""
    policy = two_rules(action="remove", precision=0.55)
    seen = Counter[str]()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        labels = np.stack([rng.random(1500) < 0.5, rng.random(1500) < 0.02], 1).astype(int)  # the odds know nothing
        found = calibrate(policy, rows_of(labels), rng.normal(0, 3, (1500, 2)).tolist(), MODEL).facts
        a = found["rules"]["a"]
        seen["none" if a["threshold"] is None else "some"] += 1
        if a["threshold"] is None:
            assert a["words"]["broken"]["value"] == found["volumes"]["remove"]["value"] == 0
            seen["dropped"] += "held-out" in a["why"]
        else:
            assert a["precision"] is not None and a["precision"]["high"] >= 0.55
    assert seen["dropped"] > 2


def test_few_sure_cases_keep_their_threshold_in_every_fold() -> None:
    labels = np.zeros((200, 2), int)
    labels[:11, 0] = 1
    odds = np.where(labels == 1, 6.0, -6.0) + np.linspace(0, 0.1, 200)[:, None]
    rule = calibrate(two_rules(action="remove", precision=0.95), rows_of(labels), odds.tolist(), MODEL).facts["rules"]
    assert rule["a"]["threshold"] is not None and rule["a"]["words"]["broken"]["value"] == pytest.approx(11 / 200)


def test_a_rule_with_few_labels_takes_the_scale_of_all() -> None:
    odds, broken = draws(1000, 3.0, 0.0)
    labels = np.stack([broken.astype(int), np.full(1000, -1)], 1)
    labels[:6, 1] = [1, 0, 0, 0, 0, 0]
    found = calibrate(two_rules(), rows_of(labels), np.stack([odds, odds], 1).tolist(), MODEL).facts["rules"]
    assert found["b"]["temperature"] == pytest.approx(found["a"]["temperature"], rel=0.02)
    assert found["b"]["threshold"] is None and "1 labelled comments break it" in found["b"]["why"]


def test_too_little_to_calibrate() -> None:
    with pytest.raises(BessemerError, match="too few"):
        calibrate(two_rules(), rows_of(np.ones((5, 2), int)), np.zeros((5, 2)).tolist(), MODEL)
    with pytest.raises(BessemerError, match="the same"):
        calibrate(two_rules(), rows_of(np.ones((50, 2), int)), np.zeros((50, 2)).tolist(), MODEL)


def test_it_is_kept_for_one_model_and_one_policy() -> None:
    policy = two_rules()
    odds, broken = draws(300, 1.0, 0.0)
    found = calibrate(
        policy, rows_of(np.stack([broken, broken], 1).astype(int)), np.stack([odds] * 2, 1).tolist(), MODEL
    )
    path = save(policy, found)
    again = load_calibration(policy, MODEL)
    assert again is not None and again.facts == found.facts and again.measured == found.measured
    assert json.loads(path.read_text())["sha256"] == again.digest == again.known.digest
    assert load_calibration(policy, "e" * 64) is None
    assert load_calibration(two_rules(precision=0.8), MODEL) is None
    assert path == path_of(policy, MODEL)
    changed = Calibration({**found.facts, "n_comments": 7})
    assert save(policy, changed) == path and load_calibration(policy, MODEL) == changed
    earlier = path.with_stem(f"{path.stem}-{found.digest[:16]}")
    assert read_record(earlier) == found.facts
    shutil.copy(earlier, path)  # the way back
    assert load_calibration(policy, MODEL) == found
    path.write_text(path.read_text().replace('"threshold"', '"treshold"'))
    with pytest.raises(BessemerError, match="changed"):
        load_calibration(policy, MODEL)


def test_copies_of_a_text_make_nothing_surer() -> None:
    """Eighty comments of which each came ten times are not eight hundred."""
    odds, broken = draws(80, 1.0, 0.0)
    labels = np.stack([broken, broken], 1).astype(int)
    policy, once = two_rules(precision=0.6), rows_of(labels)
    copies = [replace(row, id=f"{row.id}-{i}") for i in range(10) for row in once]
    own = calibrate(policy, once, np.stack([odds] * 2, 1).tolist(), MODEL).facts["volumes"]["queue"]
    found = calibrate(policy, copies, np.stack([np.tile(odds, 10)] * 2, 1).tolist(), MODEL).facts["volumes"]["queue"]
    assert found["high"] - found["low"] == pytest.approx(own["high"] - own["low"], rel=0.15)
    with pytest.raises(BessemerError, match=r"9 independent comments are too few \(copies"):
        calibrate(policy, [r for r in copies if int(r.id.partition("-")[0]) < 9], [[0.0, 0.0]] * 90, MODEL)


def test_the_file_holds_no_text() -> None:
    odds, broken = draws(300, 1.0, 0.0)
    rows = [Row(str(i), Comment(f"secret{i} words"), {"a": bool(b), "b": bool(b)}) for i, b in enumerate(broken)]
    found = calibrate(two_rules(), rows, np.stack([odds] * 2, 1).tolist(), MODEL)
    assert "secret" not in path_text(save(two_rules(), found))


def path_text(path: Any) -> str:
    return path.read_text()


def test_scores_are_probabilities() -> None:
    assert Scale(2.0, 0.5).score(3.0) == pytest.approx(1 / (1 + math.exp(-2.0)))
