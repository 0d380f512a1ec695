"""The two blind baselines of a set of twins: what can be guessed without the rule, and without the comment.

TF-IDF over words and characters, logistic regression, cross-validated so that a comment is never on both sides. The
interval is that of `evaluate/stats.py`, clustered by comment. A baseline that is surely better than chance means that a
model could learn the answers without reading what it must read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bessemer.data.open import need
from bessemer.evaluate.metrics import METRICS, Columns
from bessemer.evaluate.stats import Interval, estimate
from bessemer.files import sha256_text

FOLDS = 5
ANY_WORD = r"\S+"
FEWEST = 20  # comments; below, nothing could be told


@dataclass(frozen=True)
class Blind:
    """AUROC of both baselines; None where there are too few comments to tell."""

    comment_only: Interval | None
    rule_only: Interval | None

    def leaks(self, limit: float) -> list[str]:
        """What is surely above the limit, in words."""
        named = (("the comment alone", self.comment_only), ("the rule alone", self.rule_only))
        return [f"{name} predicts the answer: AUROC {found}" for name, found in named if found and found.low > limit]

    def as_dict(self) -> dict[str, Any]:
        return {k: v.as_dict() if v else None for k, v in vars(self).items()}


def blind_baselines(
    comments: Sequence[str], rules: Sequence[str], broken: Sequence[bool], groups: Sequence[str]
) -> Blind:
    """comments, rules: the texts of each example; groups: which comment it is about."""
    if len(set(groups)) < FEWEST or len(set(broken)) < 2:
        return Blind(None, None)
    return Blind(*(_auroc(texts, broken, groups) for texts in (comments, rules)))


def _auroc(texts: Sequence[str], broken: Sequence[bool], groups: Sequence[str]) -> Interval:
    scores = _cross_validated(texts, np.array(broken, np.bool_), groups)
    logprob = np.stack([-np.logaddexp(0, -scores), -np.logaddexp(0, scores)], axis=1)
    ids = tuple(map(str, range(len(texts))))
    values: dict[str, Any] = {"label": np.where(broken, 0, 1), "logprob": logprob}
    columns = Columns("classify", ids, tuple(groups), ("",) * len(ids), values)
    return estimate(METRICS["auroc"], columns, draws=500).result


def _cross_validated(texts: Sequence[str], broken: NDArray[np.bool_], groups: Sequence[str]) -> NDArray[np.float64]:
    """Log-odds of every example from a model that saw no example of its comment."""
    need("sklearn", "data", "the blind baselines", "moderate")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_union

    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=ANY_WORD, sublinear_tf=True, max_features=50_000)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=50_000)
    features = make_union(words, characters).fit_transform(texts)  # no answers are seen here
    order = {group: i % FOLDS for i, group in enumerate(sorted(set(groups), key=sha256_text))}
    fold = np.array([order[group] for group in groups])
    scores = np.zeros(len(texts))
    for k in range(FOLDS):
        model = LogisticRegression(C=3.0, max_iter=300)
        model.fit(features[fold != k], broken[fold != k])
        scores[fold == k] = model.decision_function(features[fold == k])
    return scores
