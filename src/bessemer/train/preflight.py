"""Is the first step sound? Looked at before anything moves; the worst faults look like a healthy loss curve later."""

from __future__ import annotations

import math

import numpy as np

from bessemer.data.batch import NO_TARGET, Batch
from bessemer.errors import BessemerError
from bessemer.train.weights import Trainable

WORSE_THAN_GUESSING = 1.0  # nats above ln(vocabulary)


def check_first_step(
    name: str,
    trainable: Trainable,
    batch: Batch,
    loss: float,
    norm: float,
    per_source: dict[int, tuple[float, int]],
    *,
    untouched: bool,
) -> None:
    """Raises BessemerError with the observed numbers when the first step's loss or gradients cannot be right.

    Labels are there; the loss is finite and not far worse than guessing (a wrong tokenizer, shifted labels or foreign
    weights show here); every weight that is trained has a gradient, and no other has. untouched: the weights are the
    start checkpoint's; an earlier stage may have narrowed the model so that other text is worse than guessing.
    """
    where = f"{name}, first batch ({batch.ids[0]} ...)"
    n_targets = int((batch.targets_N != NO_TARGET).sum())
    if n_targets == 0:
        raise BessemerError(
            "no target in the batch: every label is masked", where=where, fix="bessemer data show --mask"
        )
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise BessemerError(
            f"the untouched model's loss is {loss:g}, its gradient's norm {norm:g}",
            where=where,
            fix="check the start checkpoint's weights; BESSEMER_DTYPE=float32 rules out the precision",
        )
    guessing = math.log(trainable.loaded.head.weight.shape[0])
    learnt = [found for source, found in per_source.items() if source not in _anchored(batch)] or per_source.values()
    mean = sum(total for total, _ in learnt) / max(1, sum(n for _, n in learnt))
    if untouched and mean > guessing + WORSE_THAN_GUESSING:
        raise BessemerError(
            f"the untouched model's loss is {mean:.2f} nats a token; guessing would be {guessing:.2f}",
            where=where,
            fix="tokenizer, template and weights must belong together: bessemer data show RECIPE --mask",
        )
    _check_gradients(trainable, batch, where)


def _anchored(batch: Batch) -> set[int]:
    """Sources whose targets are the start's own predictions: there its loss is zero, whatever the tokens mean."""
    begins_D = np.cumsum([0, *batch.lengths_D[:-1]])
    return {int(batch.sources_N[at]) for at, kept in zip(begins_D, batch.anchored_D, strict=True) if kept}


def _check_gradients(trainable: Trainable, batch: Batch, where: str) -> None:
    without = [n for n, m in trainable.masters.items() if m.grad is None]
    if without:
        raise BessemerError(
            f"{len(without)} of {len(trainable.masters)} trained weights get no gradient, first {without[0]}",
            where=where,
            fix="the architecture may not use them; freeze them, or report the model",
        )
    # Where the start teaches every document, it is right in everything and nothing flows.
    # An adapter's first matrix has a zero gradient as long as its second one is zero, which it is at the start.
    # A sum and no maximum: a process may have no row of a weight.
    zero = [
        n
        for n, m in trainable.masters.items()
        if m.grad is not None and "lora_A" not in n and float(m.grad.abs().sum()) == 0
    ]
    if zero and not all(batch.anchored_D):
        raise BessemerError(
            f"{len(zero)} of {len(trainable.masters)} trained weights have a gradient of exactly zero, first {zero[0]}",
            where=where,
            fix="something cuts the graph or every label is masked: bessemer data show RECIPE --mask",
        )
    frozen = [n for n, p in trainable.loaded.model.named_parameters() if not p.requires_grad and p.grad is not None]
    if frozen:
        raise BessemerError(f"a frozen weight has a gradient: {frozen[0]}", where=where)
