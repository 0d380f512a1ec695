"""Training weights -> a Hugging Face folder that plain transformers loads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from bessemer.families.fetch import Checkpoint
from bessemer.files import new_folder
from bessemer.infer.model import detect_machine


def export_model(
    start: Checkpoint, overlay: Path | None, out: Path, share: float = 1.0, *, dtype: torch.dtype | None = None
) -> None:
    """The start checkpoint with the trained fp32 weights laid over it, in the precision it was trained to compute in.

    overlay: a safetensors file by parameter name. dtype: another precision; training goes on exactly from fp32 only.
    share: how far to go from the start (0) to the trained weights (1); a little less than all the way gives back much
    of what was forgotten for little of what was learnt (weight interpolation: Wortsman et al., arXiv 2109.01903).
    Tokenizer files are copied byte by byte. The folder appears whole or not at all.
    """
    import transformers
    from transformers import AutoModelForCausalLM

    transformers.utils.logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(start.path, dtype=torch.float32, local_files_only=True)
    if overlay is not None:
        _lay_over(dict(model.named_parameters()), overlay, share)
    model.to(dtype or detect_machine().dtype)
    model.config._name_or_path = ""
    with new_folder(out) as tmp:
        model.save_pretrained(tmp)
        for name in start.files:
            if not name.endswith((".safetensors", ".safetensors.index.json")) and not (tmp / name).exists():
                shutil.copyfile(start.path / name, tmp / name)


def _lay_over(own: dict[str, torch.nn.Parameter], overlay: Path, share: float) -> None:
    """One tensor at a time, so that there is never a second model in memory."""
    with safe_open(overlay, framework="pt") as trained, torch.no_grad():
        for name in trained.keys():  # noqa: SIM118 - no dictionary
            value = trained.get_tensor(name)
            own[name].lerp_(value, share) if share < 1 else own[name].copy_(value)
