"""Weights in training: fp32 masters, rounded copies for computing, and which of them are trained.

Masters come from the fp32 checkpoint. Masters copied from weights already rounded to bf16 sit on bf16's grid and
lose their first updates, which shows as a slow but healthy-looking loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bessemer.errors import BessemerError
from bessemer.families.fetch import Checkpoint
from bessemer.infer.model import Loaded, detect_machine, load

Weights = dict[str, Tensor]


@dataclass
class Trainable:
    """masters[name] is fp32 and trained; params[name] is what the model computes with (the same when fp32)."""

    loaded: Loaded
    params: dict[str, nn.Parameter]
    masters: Weights

    def take_gradients(self) -> None:
        """Add the model's gradients to the masters' in fp32 and clear them."""
        for name, param in self.params.items():
            master = self.masters[name]
            if param is not master and param.grad is not None:
                grad = param.grad.float()
                master.grad = grad if master.grad is None else master.grad.add_(grad)
                param.grad = None

    @torch.no_grad()
    def round(self) -> None:
        """Copy the masters into the weights that compute."""
        for name, param in self.params.items():
            if param is not self.masters[name]:
                param.copy_(self.masters[name])


def decoder_layers(model: Any) -> nn.ModuleList:
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise BessemerError(
            f"{type(model).__name__} keeps its layers where `freeze` cannot find them",
            where="stages.freeze",
            fix="freeze: 0",
        )
    return layers


def prepare(start: Checkpoint, overlay: Path | None, freeze: float) -> Trainable:
    """Load the start checkpoint in fp32, lay the weights of earlier stages over it, choose what is trained.

    overlay: safetensors with fp32 weights by parameter name. freeze: share of the lower layers kept fixed
    together with the embedding (and a head tied to it).
    """
    loaded = load(start.path, digest=start.digest, end_of_text=start.end_of_text, dtype=torch.float32)
    model = loaded.model
    if overlay is not None:
        own = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in load_file(overlay).items():
                own[name].copy_(value)
    model.requires_grad_(True)
    if freeze > 0:
        layers = decoder_layers(model)
        for layer in layers[: round(freeze * len(layers))]:
            layer.requires_grad_(False)
        model.get_input_embeddings().requires_grad_(False)
    machine = detect_machine()
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if machine.dtype == torch.float32:
        masters: Weights = dict(params)
    else:
        masters = {name: p.detach().clone().requires_grad_(True) for name, p in params.items()}
        for p in model.parameters():  # parameters only: rotary tables stay fp32
            p.data = p.data.to(machine.dtype)
    loaded = Loaded(model, loaded.renderer, machine, start.digest, loaded.eos)
    return Trainable(loaded, params, masters)
