"""Before a run: how small a change can this task show, and how many items would a wanted change need?

An effect is detectable when it is z(1 - alpha / 2) + z(power) standard errors large, 2.80 for alpha 5 % and power 80 %.
The standard error of a paired change falls with the square root of the items; what remains is the spread of one item,
the only thing that has to be known or assumed. Two models that disagree on a share d of the items: sqrt(d). Clusters
multiply the variance by their design effect. Source: Miller, "Adding error bars to evals" (arXiv 2411.00640), power.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from bessemer.errors import BessemerError
from bessemer.evaluate import stats
from bessemer.evaluate.metrics import Columns, Metric

ALPHA, POWER = 0.05, 0.8
DISAGREEMENT = 0.2  # of two models on the items of one task; 10 to 30 % is usual
CORRELATION = 0.5  # of two models' errors on one item; Miller saw 0.3 to 0.7
AUROC = 0.8
SHARES = ("accuracy", "accuracy_norm", "exact_match", "pass_at_k", "both_right", "score")


@dataclass(frozen=True)
class Noise:
    """spread: standard error of a change x sqrt(items), design effect included. basis: where it is from, in words."""

    spread: float
    design_effect: float
    basis: str


def noise_of_shares(disagreement: float = DISAGREEMENT, *, design_effect: float = 1.0) -> Noise:
    """Of metrics that count right answers. disagreement: share of items that just one of two models gets right."""
    _need(0 < disagreement <= 1, f"a disagreement of {disagreement:g}", "a share above 0, at most 1")
    _need(design_effect > 0, f"a design effect of {design_effect:g}", "1 for items without groups")
    spread = math.sqrt(disagreement * design_effect)
    return Noise(spread, design_effect, f"two models that disagree on {disagreement:.0%} of the items")


def noise_of_auroc(
    positive_share: float, *, auroc: float = AUROC, correlation: float = CORRELATION, design_effect: float = 1.0
) -> Noise:
    """Of AUROC before anything was measured; the two areas correlate as `correlation` says.

    The variance is Hanley and McNeil's (1982, doi 10.1148/radiology.143.1.7063747) for many items and normal scores;
    their exponential ones made it a third too large for the skewed classes of the tests.
    """
    _need(0 < positive_share < 1, f"a share of positives of {positive_share:g}", "both classes")
    _need(0 < auroc < 1, f"an AUROC of {auroc:g}", "between 0 and 1")
    _need(-1 <= correlation < 1, f"a correlation of {correlation:g}", "below 1")
    _need(design_effect > 0, f"a design effect of {design_effect:g}", "1 for items without groups")
    variance = _placement_variance(auroc) * (1 / positive_share + 1 / (1 - positive_share))
    spread = math.sqrt(variance * 2 * (1 - correlation) * design_effect)
    basis = f"AUROC {auroc:g} with {positive_share:.0%} positives, two models that correlate {correlation:g}"
    return Noise(spread, design_effect, basis)


def _placement_variance(auroc: float) -> float:
    """Variance, over items of one class, of the share of the other class that they are told from.

    P(one item beats two of the other class) - auroc^2. Two such events are normals that correlate 1/2, whose joint
    probability is auroc - 2 T(z, 1 / sqrt(3)) with Owen's T (1956), integrated here.
    """
    z = NormalDist().inv_cdf(auroc)
    slope = np.linspace(0, 1 / math.sqrt(3), 201)
    height = np.exp(-(z**2) * (1 + slope**2) / 2) / (1 + slope**2)
    owen = float(np.trapezoid(height, slope)) / (2 * math.pi)
    return auroc - 2 * owen - auroc**2


def noise_of_columns(
    metric: Metric,
    before: Columns,
    after: Columns | None = None,
    *,
    relative: bool = False,
    correlation: float = CORRELATION,
    draws: int = stats.DRAWS,
    seed: int = 0,
) -> Noise:
    """Measured on a sample, by the clustered bootstrap: of any metric.

    With two models the spread of their change; with one its own spread, and `correlation` says how alike another model
    answers. relative: of after / before - 1. Raises BessemerError where the sample shows no spread.
    """
    if after is None:
        one = stats.estimate(metric, before, draws=draws, seed=seed)
        scale = one.result.value if relative else 1.0
        error, effect = one.error * math.sqrt(2 * (1 - correlation)) / scale, one.design_effect
        basis = f"{metric.name} measured on {len(before)} items, another model that correlates {correlation:g}"
    else:
        both = stats.difference(
            metric, before, after, margin=0.0, relative=relative, permutations=0, draws=draws, seed=seed
        )
        error, effect = both.error, both.design_effect
        basis = f"two models measured on {len(before)} items"
    _need(error > 0, f"{metric.name} does not vary on {len(before)} items", "more items, or two models that differ")
    return Noise(error * math.sqrt(len(before)), effect, basis)


def assumed_noise(metric: Metric, *, positive_share: float = 0.5, design_effect: float = 1.0) -> Noise:
    """Without any measurement. Raises BessemerError for metrics whose spread nobody can guess."""
    if metric.name in SHARES:
        return noise_of_shares(design_effect=design_effect)
    _need(metric.name == "auroc", f"the spread of {metric.name} has no formula", "measure one model on the task first")
    return noise_of_auroc(positive_share, design_effect=design_effect)


def smallest_effect(noise: Noise, n_items: int, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest true change that n_items show as WIN or LOSS with this power."""
    _need(n_items > 0, f"{n_items} items", "at least one")
    return _errors(alpha, power) * noise.spread / math.sqrt(n_items)


def items_needed(noise: Noise, effect: float, *, alpha: float = ALPHA, power: float = POWER) -> int:
    """The fewest items whose smallest effect is at most `effect`."""
    _need(effect > 0, f"an effect of {effect:g}", "above 0")
    exact = (_errors(alpha, power) * noise.spread / effect) ** 2
    return max(1, math.ceil(exact * (1 - 1e-12)))  # a whole number that rounding lifted stays what it is


def _errors(alpha: float, power: float) -> float:
    """How many standard errors large a change must be."""
    _need(0 < alpha < 1 and 0 < power < 1, f"alpha {alpha:g} and power {power:g}", "both between 0 and 1")
    normal = NormalDist()
    return normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)


def _need(holds: bool, what: str, fix: str) -> None:
    if not holds:
        raise BessemerError(what, where="power", fix=fix)
