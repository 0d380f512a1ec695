"""A model in memory: transformers' own code, our document attention, the precision this machine is fast in."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bessemer.data.render import Renderer, eos_ids
from bessemer.errors import BessemerError
from bessemer.families.read import read_model
from bessemer.infer import attention

RESCALES = (  # names under which models keep a change of their logits
    "final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap", "logits_scaling", "logit_scale",
    "lm_head_multiplier", "output_multiplier",
)  # fmt: skip
SAME = {torch.float32: 1e-5, torch.bfloat16: 0.05}  # relative: experts compute in other groups, hence round otherwise


@dataclass(frozen=True)
class Machine:
    """Where and how tensors are computed. Never part of a run's identity."""

    device: torch.device
    dtype: torch.dtype
    name: str


def detect_machine() -> Machine:
    """A GPU where there is one; bf16 where the hardware multiplies it natively, else fp32.

    BESSEMER_DEVICE and BESSEMER_DTYPE (float32, bfloat16) override the choice.
    """
    device = _device(os.environ.get("BESSEMER_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        native, name = torch.cuda.is_bf16_supported(including_emulation=False), torch.cuda.get_device_name()
    else:
        flags = _cpu_flags()
        native, name = bool(flags & {"avx512_bf16", "amx_bf16"}), "cpu"
        _keep_memory()
    wanted = os.environ.get("BESSEMER_DTYPE")
    if wanted not in {None, "", "float32", "bfloat16"}:
        raise BessemerError(f"{wanted!r} is no precision", where="BESSEMER_DTYPE", fix="float32 or bfloat16")
    dtype = getattr(torch, wanted) if wanted else torch.bfloat16 if native else torch.float32
    return Machine(device, dtype, name)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    known = device is not None and device.type in {"cpu", "cuda"}
    if device is None or not known or (device.type == "cuda" and not torch.cuda.is_available()):
        why = "this torch sees no GPU" if known else "cpu, cuda or cuda:N"
        raise BessemerError(f"{name!r} cannot be used: {why}", where="BESSEMER_DEVICE", fix="cpu, or leave it empty")
    return device


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    return {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()}


def _keep_memory() -> None:
    """Ask glibc to keep freed blocks: a training step frees and takes the same gigabytes again and again."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # another C library; only speed is lost
    trim_threshold, mmap_max = -1, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)


def give_back_memory() -> None:
    """Give what freed tensors left behind back to the system (or the GPU), where another process needs it next."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@dataclass(frozen=True)
class Loaded:
    """A causal language model with its renderer. `digest` pins the bytes it was loaded from."""

    model: Any  # PreTrainedModel: transformers' types do not describe its keyword arguments
    renderer: Renderer
    machine: Machine
    digest: str
    eos: frozenset[int]

    def hidden(self, tokens_N: Tensor, positions_N: Tensor, documents: attention.Layout) -> Tensor:
        """Last hidden states [N, C] of documents laid end to end."""
        out = self.model.base_model(
            input_ids=tokens_N[None], position_ids=positions_N[None], documents=documents, use_cache=False
        )
        return out.last_hidden_state[0]

    @property
    def head(self) -> nn.Linear:
        return self.model.get_output_embeddings()

    def layout(
        self, lengths_D: Sequence[int], sees_D: Sequence[bool] = (), branches_D: Sequence[Sequence[int]] = ()
    ) -> attention.Layout:
        """sees_D: which documents continue the first one; branches_D: their branching ends; see make_layout."""
        machine = self.machine
        return attention.make_layout(
            lengths_D, dtype=machine.dtype, device=machine.device, sees=sees_D, branches=branches_D
        )


def max_positions(loaded: Loaded) -> int:
    """The longest sequence of tokens that the model reads."""
    return int(getattr(_text_config(loaded), "max_position_embeddings", 0) or 1 << 30)


def scoring_limit(loaded: Loaded) -> int:
    """The longest sequence of tokens that is scored.

    Generation keeps to a sliding window; documents that are packed must fit into it.
    """
    return min(max_positions(loaded), sliding_window_of(_text_config(loaded)) or 1 << 30)


def sliding_window_of(config: Any) -> int | None:
    """How many tokens the layers that see fewest see, of a transformers text config; None where all see everything."""
    window: int | None = getattr(config, "sliding_window", None)
    kinds: Sequence[str] | None = getattr(config, "layer_types", None)
    return None if kinds is not None and not any("sliding" in kind for kind in kinds) else window or None


def need_scoring_room(loaded: Loaded, n_tokens: int, where: str = "") -> None:
    """Raises BessemerError for a text of so many tokens that is longer than `scoring_limit`."""
    limit = scoring_limit(loaded)
    if n_tokens > limit:
        read = "reads at most" if limit == max_positions(loaded) else "has a sliding window, and scores at most"
        raise BessemerError(f"{n_tokens:,} tokens, but the model {read} {limit:,}", where=where, fix="shorten it")


def _text_config(loaded: Loaded) -> Any:
    return loaded.model.config.get_text_config(decoder=True)


def load(folder: Path, *, digest: str = "", end_of_text: str = "", dtype: torch.dtype | None = None) -> Loaded:
    """Load a Hugging Face folder in this machine's precision (or `dtype`).

    Raises BessemerError for an architecture that transformers lacks or whose attention cannot be replaced, and for
    weights that are damaged, missing or of another shape.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    attention.register()
    machine = detect_machine()
    if dtype is not None:
        machine = Machine(machine.device, dtype, machine.name)
    model = read_model(folder, dtype=machine.dtype, attn_implementation=attention.NAME)
    config = model.config.get_text_config(decoder=True)
    for name in RESCALES:
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise BessemerError(
                f"the model rescales its logits ({name}), which is not supported yet", where=str(folder)
            )
    if getattr(config, "attn_temperature_tuning", False):  # Llama 4
        raise BessemerError(
            "the model scales its attention by the place in a row, which packed documents do not keep",
            where=str(folder),
        )
    model.to(machine.device).eval().requires_grad_(False)
    renderer = Renderer(folder, end_of_text)
    generation = model.generation_config.to_dict() if model.generation_config else {}
    loaded = Loaded(model, renderer, machine, digest, frozenset(eos_ids(renderer, generation)))
    try:
        _check_as_packed(loaded, folder)
    except BessemerError as error:  # attention does not know whose it is
        raise error if error.where else BessemerError(error.what, where=str(folder), fix=error.fix) from None
    return loaded


@torch.no_grad()
def _check_as_packed(loaded: Loaded, folder: Path) -> None:
    """Refuse a model whose layers see past a document's beginning, or whose logits are not its head's own.

    Packed rows are right only where every layer mixes tokens through our attention: convolutions, recurrences and state
    spaces would carry one document into the next, with a healthy loss. A list of architectures would be out of date, so
    a short document of random ids is read behind two different ones.
    """
    model, device = loaded.model, loaded.machine.device
    n_ids, n, tokens = model.get_input_embeddings().weight.shape[0], 8, torch.Generator().manual_seed(0)
    first_L, other_L, then_L = (torch.randint(n_ids, (n,), generator=tokens).to(device) for _ in range(3))
    positions_N, layout = torch.arange(n, device=device).repeat(2), loaded.layout([n, n])
    rows_NC = [loaded.hidden(torch.cat([before_L, then_L]), positions_N, layout) for before_L in (first_L, other_L)]
    alone_LC, moved_LC = (row_NC[n:].float() for row_NC in rows_NC)
    kind = type(model).__name__
    if not (moved_LC - alone_LC).norm() <= SAME[loaded.machine.dtype] * alone_LC.norm():
        raise BessemerError(
            f"{kind} carries what stands before a document into it (its last hidden states change by "
            f"{float((moved_LC - alone_LC).norm() / alone_LC.norm()):.1%}), so documents cannot be packed",
            where=str(folder),
            fix="take one whose layers mix tokens by transformers' attention alone; no hybrid or recurrent one is",
        )
    logits_NV = model(
        input_ids=torch.cat([other_L, then_L])[None], position_ids=positions_N[None], documents=layout, use_cache=False
    ).logits[0]
    own_NV = loaded.head(rows_NC[1][None])[0]
    if not (logits_NV - own_NV).float().norm() <= SAME[loaded.machine.dtype] * own_NV.float().norm():
        raise BessemerError(
            f"{kind} changes its logits behind its output layer, which is not supported yet", where=str(folder)
        )
