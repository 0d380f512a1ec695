"""The learning rate over a stage: a function of the share of its rows that are done, so the same in any world."""

from __future__ import annotations

import math

from bessemer.recipe.schema import Schedule


def learning_rate(
    step: int, n_steps: int, peak: float, warmup: float, final: float, shape: Schedule = "linear", decay: float = 0.2
) -> float:
    """The rate of step `step` (from 0).

    A linear warm-up over the first `warmup` of the steps, then by shape: linear or cosine down to `final` * peak at
    the end; wsd (warm-up, stable, decay: Hu et al., arXiv 2404.06395) stays at the peak and falls linearly in the last
    `decay` of the steps; constant stays.
    """
    done = (step + 1) / n_steps
    if done <= warmup:
        return peak * done / warmup
    if shape == "constant":
        return peak
    begin = max(warmup, 1 - decay) if shape == "wsd" else warmup
    fallen = max(0.0, (done - begin) / (1 - begin))
    if shape == "cosine":
        fallen = (1 - math.cos(math.pi * fallen)) / 2
    return peak * (1 - (1 - final) * fallen)
