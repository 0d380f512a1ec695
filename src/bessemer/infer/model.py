"""A model in memory: transformers' own code, our document attention, the precision this machine is fast in."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bessemer.data.render import Renderer, eos_ids
from bessemer.errors import BessemerError
from bessemer.infer import attention


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
    device = torch.device(os.environ.get("BESSEMER_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu"))
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


def load(folder: Path, *, digest: str = "", end_of_text: str = "", dtype: torch.dtype | None = None) -> Loaded:
    """Load a Hugging Face folder in this machine's precision (or `dtype`).

    Raises BessemerError for an architecture that transformers lacks or whose attention cannot be replaced.
    """
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    attention.register()
    machine = detect_machine()
    if dtype is not None:
        machine = Machine(machine.device, dtype, machine.name)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=machine.dtype, attn_implementation=attention.NAME, local_files_only=True
        )
    except (ValueError, KeyError, OSError) as error:
        raise BessemerError(
            f"transformers cannot load the model ({(str(error).splitlines() or [type(error).__name__])[0]})",
            where=str(folder),
            fix="check the folder; a newer transformers may know the architecture",
        ) from None
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise BessemerError(
                f"the model rescales its logits ({name}), which is not supported yet", where=str(folder)
            )
    model.to(machine.device).eval().requires_grad_(False)
    renderer = Renderer(folder, end_of_text)
    generation = model.generation_config.to_dict() if model.generation_config else {}
    return Loaded(model, renderer, machine, digest, frozenset(eos_ids(renderer, generation)))
