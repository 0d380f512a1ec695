"""How much of what the machine can do a step uses."""

from __future__ import annotations

import time
from functools import cache

import torch

from bessemer.infer.model import Machine
from bessemer.train.weights import Trainable

# Side of the square matrices that are multiplied to see the peak: an H200 does 89 TFLOP/s at 1024, 794 at 8192.
SIDE, GPU_SIDE = 1024, 8192


@cache
def peak_flops(machine: Machine) -> float:
    """Floating point operations a second of this process's device in its precision, from a few large products."""
    side = GPU_SIDE if machine.device.type == "cuda" else SIDE
    a = torch.randn(side, side, device=machine.device, dtype=machine.dtype)
    best = 0.0
    for _ in range(8):
        if machine.device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(4):
            torch.mm(a, a)
        if machine.device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 4 * 2 * side**3 / (time.perf_counter() - begun))
    return best


def flops(trainable: Trainable, n_tokens: int, n_targets: int) -> float:
    """Of the matrix products of a step, without attention: 2 for each weight and token forward, 2 for the gradient of
    what flows through, 2 for that of a weight that is trained. The head works at targets only."""
    total = 0.0
    head = trainable.loaded.head.weight
    for name, parameter in trainable.loaded.model.named_parameters():
        if parameter.ndim != 2 or "lora_" in name:
            continue
        layer_moves = parameter.requires_grad or "base_layer" in name  # an adapter stands beside it
        each = 2 + (2 if layer_moves or parameter is head else 0) + (2 if parameter.requires_grad else 0)
        if parameter is head:
            total += each * parameter.numel() * n_targets
        elif parameter is not trainable.loaded.model.get_input_embeddings().weight:
            total += each * parameter.numel() * n_tokens
    return total
