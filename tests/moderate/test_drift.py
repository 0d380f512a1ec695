from __future__ import annotations

import numpy as np
import pytest

from bessemer.errors import BessemerError
from bessemer.moderate.drift import FEWEST, GAP, Reference, drift, ks_test
from tests.tiny import WORDS


def texts(n: int, seed: int, words: list[str] | None = None, length: int = 8) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words or list(WORDS), max(1, int(rng.poisson(length))))) for _ in range(n)]


def test_the_test_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    for shift, n, m in ((0.0, 200, 300), (0.3, 200, 300), (0.1, 2000, 1500), (1.0, 60, 60)):
        a, b = rng.normal(0, 1, n), rng.normal(shift, 1, m).round(1)
        theirs = stats.ks_2samp(a, b, method="asymp")
        gap, p = ks_test(a, b)
        assert gap == pytest.approx(theirs.statistic)
        assert p == pytest.approx(theirs.pvalue, rel=0.5, abs=0.02)


def test_it_is_quiet_without_a_move_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    p = [ks_test(rng.exponential(1, 400), rng.exponential(1, 300))[1] for _ in range(400)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.08


def test_moves_of_scores_and_texts() -> None:
    rng = np.random.default_rng(3)
    reference = Reference.of({"a": rng.normal(0, 1, 1500), "b": rng.normal(0, 1, 1500)}, texts(1500, 1))
    reference = Reference.from_json(reference.as_json())
    same = drift(reference, {"a": rng.normal(0, 1, 900), "b": rng.normal(0, 1, 900)}, texts(900, 2))
    assert [m.what for m in same if m.moved] == [] and len(same) == 4
    scores = drift(reference, {"a": rng.normal(0.6, 1, 900), "b": rng.normal(0, 1, 900)}, texts(900, 2))
    assert [m.what for m in scores if m.moved] == ["score of a"] and scores[0].gap > GAP
    odds = {"a": rng.normal(0, 1, 900), "b": rng.normal(0, 1, 900)}
    assert "share of new words" in {m.what for m in drift(reference, odds, texts(900, 2, ["brand", "new"])) if m.moved}
    assert [m.what for m in drift(reference, odds, texts(900, 2, length=20)) if m.moved] == ["length of the texts"]


def test_a_small_gap_is_no_move_however_many_comments() -> None:
    rng = np.random.default_rng(4)
    reference = Reference.of({"a": rng.normal(0, 1, 20_000)}, texts(100, 1))
    found = drift(reference, {"a": rng.normal(0.08, 1, 200_000)}, texts(100, 2))
    score = next(m for m in found if m.what == "score of a")
    assert score.p < 0.01 and not score.moved


def test_equal_values_are_equal_however_many_digits_are_kept() -> None:
    """Shares of words are thirds, and a text that is sent again and again has one log-odds."""
    odds, same = np.full(200, 1 / 3), texts(200, 1)
    reference = Reference.from_json(Reference.of({"a": odds}, same).as_json())
    score = next(m for m in drift(reference, {"a": odds}, same) if m.what == "score of a")
    assert score.gap == 0


def test_too_few() -> None:
    reference = Reference.of({"a": [0.0] * 60}, texts(60, 1))
    with pytest.raises(BessemerError, match="too few"):
        drift(reference, {"a": [0.0] * (FEWEST - 1)}, texts(FEWEST - 1, 1))
