"""Next-token prediction: `cpt` learns from every token, `sft` from answers; the batch says which targets count.

Legend: N tokens, S supervised positions, A anchored positions, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bessemer.data.batch import NO_TARGET, Batch
from bessemer.train.head import Anchor, head_loss
from bessemer.train.weights import Trainable


def next_token_loss(trainable: Trainable, batch: Batch, z_loss: float = 0.0) -> tuple[Tensor, Tensor]:
    """(weighted loss, with gradients; loss in nats of each target [S], in the batch's order)."""
    loaded = trainable.loaded
    device = loaded.machine.device
    tokens_N, positions_N, targets_N, weights_N = (
        torch.from_numpy(x).to(device) for x in (batch.tokens_N, batch.positions_N, batch.targets_N, batch.weights_N)
    )
    wanted_N = targets_N != NO_TARGET
    anchor = _anchor(trainable, batch, tokens_N, positions_N, wanted_N) if trainable.anchors(batch) else None
    hidden_NC = loaded.hidden(tokens_N, positions_N, loaded.layout(batch.lengths_D, batch.sees_D, batch.branches_D))
    targets_S, weights_S = targets_N[wanted_N], weights_N[wanted_N]
    return head_loss(
        hidden_NC[wanted_N], loaded.head.weight, targets_S, weights_S, anchor, z_loss, fused=trainable.fused
    )


def _anchor(trainable: Trainable, batch: Batch, tokens_N: Tensor, positions_N: Tensor, wanted_N: Tensor) -> Anchor:
    """Run the start checkpoint on the anchored documents only."""
    lengths = torch.tensor(batch.lengths_D)
    anchored_N = torch.tensor(batch.anchored_D).repeat_interleave(lengths).to(tokens_N.device)
    own = [length for length, anchored in zip(batch.lengths_D, batch.anchored_D, strict=True) if anchored]
    layout = trainable.loaded.layout(own)
    hidden_AC, head_VC = trainable.start_hidden(tokens_N[anchored_N], positions_N[anchored_N], layout)
    return Anchor(anchored_N[wanted_N], hidden_AC[wanted_N[anchored_N]], head_VC)
