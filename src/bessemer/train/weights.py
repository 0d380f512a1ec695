"""Weights in training: fp32 masters, rounded copies for computing, adapters, shards, and which of them are trained.

Masters come from the fp32 checkpoint. Masters copied from weights already rounded to bf16 sit on bf16's grid and
lose their first updates, which shows as a slow but healthy-looking loss.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from bessemer.data.batch import Batch
from bessemer.errors import BessemerError
from bessemer.families.fetch import Checkpoint
from bessemer.infer import attention
from bessemer.infer.model import Loaded, detect_machine, load
from bessemer.recipe.schema import Stage
from bessemer.train.world import World

Weights = dict[str, Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class Trained:
    """Which weights are trained, and how.

    freeze: share of the lower layers kept fixed together with the embedding (and a head tied to it).
    method: full: the weights themselves; lora, dora: adapters of this rank beside every matrix of the layers (Hu et
    al., arXiv 2106.09685; Liu et al., arXiv 2402.09353), scaled by 2 (alpha = 2 * rank).
    """

    freeze: float = 0.0
    method: Literal["full", "lora", "dora"] = "full"
    rank: int = 16
    seed: int = 1


def what_is_trained(stage: Stage, seed: int) -> Trained:
    return Trained(stage.freeze, stage.method, stage.rank, seed)


class Root(nn.Module):
    """Runs a function as its forward pass; while it runs, weights outside the layers are whole, also when sharded."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[..., T], *inputs: Any) -> T:
        return compute(*inputs)


@dataclass
class Trainable:
    """masters[name] is fp32 and trained; params[name] is what the model computes with (the same when fp32 or sharded).

    In a world of several processes each has some rows of every master (DTensor), and FSDP2 gathers them layer by layer
    in the computing precision: the same arithmetic as masters and rounded copies here.
    """

    loaded: Loaded
    root: Root
    params: dict[str, nn.Parameter]
    masters: Weights
    start: Weights  # of the start checkpoint, where they differ from the model's; empty when nothing asks for them
    start_model: Loaded | None = None  # the start checkpoint itself; only in a world of several processes
    world: World = World()  # noqa: RUF009 - frozen
    fused: bool = False  # whether layers and loss are compiled: see compiled.py

    def clip(self, most: float) -> float:
        """The norm of the gradient before it was scaled down to norm `most`; a smaller one is left as it is."""
        from torch.distributed.tensor import DTensor

        masters = list(self.masters.values())
        norm = torch.nn.utils.get_total_norm([m.grad for m in masters if m.grad is not None], foreach=True)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if float(norm) > most:
            torch.nn.utils.clip_grads_with_norm_(masters, most, norm, foreach=True)
        return float(norm)

    def whole_masters(self) -> Weights:
        """The masters in main memory; in a world, gathered by all processes together."""
        from torch.distributed.tensor import DTensor

        gathered = {n: m.full_tensor() if isinstance(m, DTensor) else m for n, m in self.masters.items()}
        return {n: m.detach().cpu() for n, m in gathered.items()}

    def clear_gradients(self) -> None:
        """As if the step had not been begun."""
        for tensor in (*self.params.values(), *self.masters.values()):
            tensor.grad = None

    def as_written(self) -> AbstractContextManager[Any]:
        """Inside, compiled layers run as transformers wrote them: for measuring, and for the weights of the start."""
        return torch.compiler.set_stance("force_eager") if self.fused else nullcontext()

    def anchors(self, batch: Batch) -> bool:
        return any(batch.anchored_D)

    @torch.no_grad()
    def start_hidden(self, tokens_N: Tensor, positions_N: Tensor, documents: attention.Layout) -> tuple[Tensor, Tensor]:
        """(last hidden states [N, C], head [V, C]) of the start checkpoint: the same model with its old weights."""
        if self.start_model is not None:
            return self.start_model.hidden(tokens_N, positions_N, documents), self.start_model.head.weight
        model = self.loaded.model
        prefix = model.base_model_prefix + "."
        weights = {n.removeprefix(prefix): w for n, w in self.start.items() if n.startswith(prefix)}
        inputs = {"input_ids": tokens_N[None], "position_ids": positions_N[None], "documents": documents}
        with self.as_written():
            out = functional_call(model.base_model, weights, kwargs={**inputs, "use_cache": False})
        own = self.loaded.head.weight
        name = next(n for n, p in model.named_parameters() if p is own)
        return out.last_hidden_state[0], self.start.get(name, own)

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
            f"{type(model).__name__} keeps its layers where `freeze`, adapters and sharding cannot find them",
            where="stages",
            fix="freeze: 0, method: full, one process",
        )
    return layers


def prepare(
    start: Checkpoint,
    overlay: Path | None,
    trained: Trained = Trained(),
    *,
    keep_start: bool = False,
    world: World = World(),  # noqa: B008 - frozen
) -> Trainable:
    """Load the start checkpoint in fp32, lay the weights of earlier stages over it, choose what is trained.

    overlay: safetensors with fp32 weights by parameter name. keep_start: keep the start's weights for `start_hidden`.
    """
    loaded = load(start.path, digest=start.digest, end_of_text=start.end_of_text, dtype=torch.float32)
    model = loaded.model
    if loaded.head.bias is not None:
        raise BessemerError("the model's head has a bias, which training does not support", where=str(start.path))
    own = dict(model.named_parameters())
    earlier = load_file(overlay) if overlay is not None else {}
    if keep_start and earlier and trained.method == "dora":
        raise BessemerError(
            "general: start compares with the start checkpoint, whose lengths dora does not keep after a stage that "
            "changed them",
            where="method",
            fix="use lora, or train this stage first",
        )
    before = {n: own[n].detach().clone() for n in earlier} if keep_start and world.alone else {}
    with torch.no_grad():
        for name, value in earlier.items():
            own[name].copy_(value)
    choose_trained(model, trained)
    model.get_input_embeddings().padding_idx = None  # rows hold no padding, and this token ends turns: it must learn
    machine = detect_machine()
    loaded = Loaded(model, loaded.renderer, machine, start.digest, loaded.eos)
    if not world.alone:
        same = load(start.path, digest=start.digest, end_of_text=start.end_of_text) if keep_start else None
        return _sharded(loaded, same, world)
    names = {id(p): n for n, p in model.named_parameters()}  # adapters put their matrices under longer names
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    old: Weights = {}
    if keep_start:
        old = {n: p.detach().to(machine.dtype, copy=True) for n, p in params.items()}
        old |= {names[id(own[n])]: value.to(machine.dtype) for n, value in before.items()}
    if machine.dtype == torch.float32:
        masters: Weights = dict(params)
    else:
        masters = {name: p.detach().clone().requires_grad_(True) for name, p in params.items()}
        for p in model.parameters():  # parameters only: rotary tables stay fp32
            p.data = p.data.to(machine.dtype)
        for name, p in params.items():
            p.register_post_accumulate_grad_hook(_give_gradient_to(masters[name]))
    return Trainable(loaded, Root(model), params, masters, old)


def _give_gradient_to(master: Tensor) -> Callable[[Tensor], None]:
    """A weight's gradient goes to its master in fp32 as soon as it is known: never are there two of all weights."""

    def give(param: Tensor) -> None:
        assert param.grad is not None
        grad, param.grad = param.grad.float(), None
        master.grad = grad if master.grad is None else master.grad.add_(grad)

    return give


def choose_trained(model: Any, trained: Trained) -> None:
    """Set `requires_grad` on exactly what is trained, after adding adapters where they are asked for."""
    if trained.method == "full":
        model.requires_grad_(True)
        if trained.freeze > 0:
            layers = decoder_layers(model)
            for layer in layers[: round(trained.freeze * len(layers))]:
                layer.requires_grad_(False)
            model.get_input_embeddings().requires_grad_(False)
        return
    from peft import LoraConfig, inject_adapter_in_model

    layers = decoder_layers(model)
    matrices = {n.rpartition(".")[2] for n, m in layers.named_modules() if isinstance(m, nn.Linear)}
    if round(trained.freeze * len(layers)) == len(layers):  # an empty list would mean all of them
        raise BessemerError(
            f"freeze {trained.freeze:g} leaves none of {len(layers)} layers to adapters", where="freeze", fix="lower it"
        )
    config = LoraConfig(
        r=trained.rank,
        lora_alpha=2 * trained.rank,
        use_dora=trained.method == "dora",
        target_modules=sorted(matrices),
        layers_to_transform=list(range(round(trained.freeze * len(layers)), len(layers))),
    )
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trained.seed)
        inject_adapter_in_model(config, model)


def merged(start: Checkpoint, overlay: Path | None, trained: Trained, masters: Weights) -> Weights:
    """What a stage changed, in fp32, by the names of the start checkpoint: adapters are added to their matrices."""
    if trained.method == "full":
        return masters
    from peft.tuners.lora import LoraLayer

    model = load(start.path, end_of_text=start.end_of_text, dtype=torch.float32).model
    own = dict(model.named_parameters())
    matrices = {id(p): n for n, p in own.items()}
    with torch.no_grad():
        for name, value in (load_file(overlay) if overlay is not None else {}).items():
            own[name].copy_(value)
        choose_trained(model, trained)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(masters[name])
        changed: Weights = {}
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.merge(safe_merge=True)
                weight: Tensor = module.get_base_layer().weight  # type: ignore[assignment]
                changed[matrices[id(weight)]] = weight.detach()
    return changed


def _sharded(loaded: Loaded, start_model: Loaded | None, world: World) -> Trainable:
    """Every layer a unit of its own, the rest one more; rows of every weight are spread over the processes."""
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    half = None if loaded.machine.dtype == torch.float32 else loaded.machine.dtype
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
    root = Root(loaded.model)
    for layer in decoder_layers(loaded.model):
        fully_shard(layer, mp_policy=policy)
    fully_shard(root, mp_policy=policy, reshard_after_forward=False)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            # The loss is divided by the targets of the global batch already: gradients are summed, not averaged.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    params = {name: p for name, p in loaded.model.named_parameters() if p.requires_grad}
    return Trainable(loaded, root, params, dict(params), {}, start_model, world)
