"""Optimizers over the fp32 masters: AdamW, or Muon for the matrices of the layers with AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from bessemer.errors import BessemerError
from bessemer.recipe.schema import Stage
from bessemer.train.weights import Trainable

BETAS = (0.9, 0.95)


class Optimizers:
    """One or two torch optimizers that step together; each master belongs to one of them."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = parts
        self._of = {id(p): o for o in parts for g in o.param_groups for p in g["params"]}

    def step(self, lr: float) -> None:
        """Apply the masters' gradients at this rate, then clear them."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()
        self.clear()

    def clear(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def get_state(self, master: Tensor) -> dict[str, Any]:
        """A master's moments; empty before the first step."""
        return dict(self._of[id(master)].state.get(master, {}))

    def set_state(self, master: Tensor, state: dict[str, Any]) -> None:
        self._of[id(master)].state[master] = state


def need_whole_matrices(stage: Stage, *, alone: bool) -> None:
    """Raises BessemerError for an optimizer that several processes cannot share."""
    if stage.optimizer == "muon" and not alone:
        raise BessemerError(
            "muon needs whole matrices, and several processes share them by rows",
            where="stages.optimizer",
            fix="optimizer: adamw, or one process",
        )


def make_optimizer(trainable: Trainable, stage: Stage) -> Optimizers:
    """The stage's optimizer; weight decay on matrices only.

    Muon (Jordan et al. 2024) orthogonalises the update of a matrix; its step is scaled to the root mean square of
    AdamW's (Liu et al., arXiv 2502.16982), so the same rate fits both. Embedding, head and vectors stay with AdamW.
    """
    masters = trainable.masters
    if stage.optimizer == "adamw":
        return Optimizers([_adamw(masters.values(), stage)])
    need_whole_matrices(stage, alone=trainable.world.alone)
    outside = {id(p) for p in (trainable.loaded.model.get_input_embeddings().weight, trainable.loaded.head.weight)}
    matrices = [m for n, m in masters.items() if m.ndim == 2 and id(trainable.params[n]) not in outside]
    rest = [m for m in masters.values() if all(m is not x for x in matrices)]
    muon = torch.optim.Muon(matrices, lr=0.0, weight_decay=stage.weight_decay, adjust_lr_fn="match_rms_adamw")
    return Optimizers([muon, *([_adamw(rest, stage)] if rest else [])])


def _adamw(masters: Iterable[Tensor], stage: Stage) -> torch.optim.AdamW:
    masters = list(masters)
    groups = [
        {"params": [m for m in masters if m.ndim >= 2], "weight_decay": stage.weight_decay},
        {"params": [m for m in masters if m.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=BETAS, fused=True)
