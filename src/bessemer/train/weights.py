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
from torch.func import functional_call

from bessemer.errors import BessemerError
from bessemer.families.fetch import Checkpoint
from bessemer.infer import attention
from bessemer.infer.model import Loaded, detect_machine, load

Weights = dict[str, Tensor]


@dataclass
class Trainable:
    """masters[name] is fp32 and trained; params[name] is what the model computes with (the same when fp32)."""

    loaded: Loaded
    params: dict[str, nn.Parameter]
    masters: Weights
    start: Weights  # of the start checkpoint, where they differ from the model's; empty when nothing asks for them

    def take_gradients(self) -> None:
        """Add the model's gradients to the masters' in fp32 and clear them."""
        for name, param in self.params.items():
            master = self.masters[name]
            if param is not master and param.grad is not None:
                grad = param.grad.float()
                master.grad = grad if master.grad is None else master.grad.add_(grad)
                param.grad = None

    @torch.no_grad()
    def start_hidden(self, tokens_N: Tensor, positions_N: Tensor, documents: attention.Layout) -> Tensor:
        """Last hidden states [N, C] of the start checkpoint: the same model, called with its old weights."""
        model = self.loaded.model
        prefix = model.base_model_prefix + "."
        weights = {n.removeprefix(prefix): w for n, w in self.start.items() if n.startswith(prefix)}
        inputs = {"input_ids": tokens_N[None], "position_ids": positions_N[None], "documents": documents}
        out = functional_call(model.base_model, weights, kwargs={**inputs, "use_cache": False})
        return out.last_hidden_state[0]

    @property
    def start_head(self) -> Tensor:
        """The start checkpoint's head [V, C]."""
        own = self.loaded.head.weight
        name = next(n for n, p in self.loaded.model.named_parameters() if p is own)
        return self.start.get(name, own)

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


def prepare(start: Checkpoint, overlay: Path | None, freeze: float, *, keep_start: bool = False) -> Trainable:
    """Load the start checkpoint in fp32, lay the weights of earlier stages over it, choose what is trained.

    overlay: safetensors with fp32 weights by parameter name. freeze: share of the lower layers kept fixed
    together with the embedding (and a head tied to it). keep_start: keep the start's weights for `start_hidden`.
    """
    loaded = load(start.path, digest=start.digest, end_of_text=start.end_of_text, dtype=torch.float32)
    model = loaded.model
    own = dict(model.named_parameters())
    earlier = load_file(overlay) if overlay is not None else {}
    model.requires_grad_(True)
    if freeze > 0:
        layers = decoder_layers(model)
        for layer in layers[: round(freeze * len(layers))]:
            layer.requires_grad_(False)
        model.get_input_embeddings().requires_grad_(False)
    machine = detect_machine()
    moving = {n for n, p in own.items() if p.requires_grad} | earlier.keys()
    old = {n: own[n].detach().to(machine.dtype, copy=True) for n in moving} if keep_start else {}
    with torch.no_grad():
        for name, value in earlier.items():
            own[name].copy_(value)
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if machine.dtype == torch.float32:
        masters: Weights = dict(params)
    else:
        masters = {name: p.detach().clone().requires_grad_(True) for name, p in params.items()}
        for p in model.parameters():  # parameters only: rotary tables stay fp32
            p.data = p.data.to(machine.dtype)
    loaded = Loaded(model, loaded.renderer, machine, start.digest, loaded.eos)
    return Trainable(loaded, params, masters, old)
