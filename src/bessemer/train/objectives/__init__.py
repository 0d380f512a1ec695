"""Objectives: batch -> loss. A new one is a file here and a line in OBJECTIVES.

An objective gets what is trained, a part of a step's batch (whole documents; the weights of its targets are those of
the whole step, so the losses of all parts add up to the step's) and the stage's z_loss. It returns the part's loss with
gradients, and every target's own loss without, in the order of the batch's targets.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from bessemer.data.batch import Batch
from bessemer.train.objectives.next_token import next_token_loss
from bessemer.train.weights import Trainable

Objective = Callable[[Trainable, Batch, float], tuple[Tensor, Tensor]]
OBJECTIVES: dict[str, Objective] = {"cpt": next_token_loss, "sft": next_token_loss}
