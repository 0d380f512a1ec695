"""The scale of rules that nobody labelled: found again where it is known, used by every decision, kept as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bessemer.data.items import Item
from bessemer.data.moderation import example
from bessemer.errors import BessemerError
from bessemer.moderate.calibrate import Calibration
from bessemer.moderate.calibrate import save as save_calibration
from bessemer.moderate.decide import Known, Measured, Scale, decide
from bessemer.moderate.policy import Policy, Rule
from bessemer.moderate.unlabelled import known_of, load_scale, measure_scale, path_of, save, scaled_by_others

MODEL = "a" * 64


def twins(n: int, n_rules: int = 10, shift: float = 0.0, stretch: float = 1.0) -> tuple[list[Item], list[float]]:
    """Twins whose log-odds say what is true, `stretch` times as surely and `shift` too low."""
    rng = np.random.default_rng(1)
    items, odds = list[Item](), list[float]()
    for i in range(n):
        rules = rng.choice(n_rules, 2, replace=False)
        true = np.sort(rng.normal(0, 2, 2))[::-1]  # the broken rule's first, then they are drawn again by their odds
        for rule, x in zip(rules, true, strict=True):
            broken = bool(rng.random() < 1 / (1 + np.exp(-x)))
            meta = {"rule": f"rule {rule}", "comment": f"c{i // 2}"}
            items.append(Item(f"{i}:{rule}", messages=example("words", "rule", broken), group=f"g{i}", meta=meta))
            odds.append(float(stretch * x - shift))
    return items, odds


def test_a_known_scale_is_found_again() -> None:
    items, odds = twins(2000, shift=3.0, stretch=2.0)
    found = measure_scale(items, odds, MODEL, "dataset:x@1/validation-rules")
    assert found["temperature"] == pytest.approx(2.0, abs=0.15) and found["bias"] == pytest.approx(1.5, abs=0.15)
    assert found["n_twins"] == 2000 and len(found["rules"]) == 10
    without, with_ = found["without"], found["with"]
    assert with_["both_right"]["low"] > without["both_right"]["high"]
    assert all(sum(of[side].values()) == pytest.approx(1) for of in (without, with_) for side in ("broken", "kept"))
    assert with_["broken"]["broken"] > without["broken"]["broken"] and with_["kept"]["kept"] < without["kept"]["kept"]
    true = [(x + 3) / 2 for x, item in zip(odds, items, strict=True) if item.messages[-1].content == "yes"]
    sure = np.mean([x >= np.log(4) for x in true])
    assert with_["broken"]["broken"] == pytest.approx(sure, abs=0.03)


def test_where_nothing_is_wrong_nothing_is_won() -> None:
    items, odds = twins(2000)
    found = measure_scale(items, odds, MODEL, "x")
    assert found["temperature"] == pytest.approx(1, abs=0.1) and found["bias"] == pytest.approx(0, abs=0.1)
    both = [found[side]["both_right"]["value"] for side in ("with", "without")]
    assert both[0] == pytest.approx(both[1], abs=0.01)


def test_a_rule_tells_nothing_about_its_own_twins() -> None:
    items, odds = twins(300)
    rules = [str(item.meta["rule"]) for item in items]
    broken = np.array([item.messages[-1].content == "yes" for item in items])
    own = np.array([rule == "rule 3" for rule in rules])
    found, turned = (scaled_by_others(rules, np.array(odds), b) for b in (broken, broken ^ own))
    assert (found[own] == turned[own]).all() and (found != turned).mean() > 0.7


def test_few_rules_tell_nothing_about_others() -> None:
    items, odds = twins(100, n_rules=4)
    with pytest.raises(BessemerError, match="4 rules are too few.*\n.*5 or more"):
        measure_scale(items, odds, MODEL, "dataset:x@1/validation-rules")


def known(scale: Scale, **rules: Measured) -> Known:
    return Known(rules, scale)


def test_only_rules_without_labels_have_it() -> None:
    policy = Policy(name="p", rules=[Rule(id=name, text=name, action="remove") for name in ("a", "b")])
    found = decide(policy, [-1.0, -1.0], known(Scale(1.0, 3.0), b=Measured(Scale(), 0.9)))
    a, b = found.findings
    assert (a.word, a.action, a.calibrated) == ("broken", "queue", False) and a.score == pytest.approx(0.881, abs=1e-3)
    assert (b.word, b.calibrated) == ("unsure", True) and b.score == pytest.approx(0.269, abs=1e-3)


def test_the_file(bessemer_home: Path) -> None:
    policy = Policy(name="p", rules=[Rule(id="a", text="a"), Rule(id="b", text="b")])
    assert known_of(policy, MODEL) == Known({}, Scale(), digest="")
    items, odds = twins(300, shift=3.0)
    facts = measure_scale(items, odds, MODEL, "x")
    path = save(facts)
    assert path == path_of(MODEL)
    scale = Scale(facts["temperature"], facts["bias"])
    digest = json.loads(path.read_text())["sha256"]
    save({**facts, "n_twins": 1})
    shutil.copy(path.with_stem(f"{path.stem}-{digest[:16]}"), path)  # the way back
    assert known_of(policy, MODEL) == Known({}, scale, digest) and scale != Scale()
    assert load_scale("b" * 64) == Known()
    assert load_scale(MODEL[:32] + "c" * 32) == Known()  # of another model whose digest begins so
    rule = {"temperature": 2.0, "bias": 0.5, "threshold": 0.7}
    own: dict[str, Any] = {"model": MODEL, "rules": {"a": rule}, "policy": {"digest": policy.digest}}
    save_calibration(policy, Calibration(own))
    path.write_text(json.dumps({**json.loads(path.read_text()), "bias": 9.0}))
    found = known_of(policy, MODEL)
    assert found == Known({"a": Measured(Scale(2.0, 0.5), 0.7)}, digest=Calibration(own).digest)  # it needs no scale
    with pytest.raises(BessemerError, match="changed since it was written(.|\n)*--scale DATASET"):
        known_of(policy.model_copy(update={"version": "2"}), MODEL)
