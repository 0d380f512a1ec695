"""Element-wise work of the layers and of the head's loss fused by torch.compile, where a stage is long enough for it.

Only training runs compiled. Measuring stays as transformers computes it, so that "before", probes and "after" compare.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import torch

from bessemer.errors import BessemerError
from bessemer.infer import attention
from bessemer.train.weights import Trainable, decoder_layers

WORTH_FLOPS = 1e14  # of a stage; less is done before a compiler has paid for its half minute


def is_worth(stage_flops: float) -> bool:
    """A function of the work and of this machine's compiler alone, so that a resumed run decides the same.

    BESSEMER_COMPILE: 1 always, 0 never. Raises BessemerError for 1 where nothing can compile.
    """
    wanted = os.environ.get("BESSEMER_COMPILE") or ""
    if wanted not in {"", "0", "1"}:
        raise BessemerError(f"{wanted!r} is neither 0 nor 1", where="BESSEMER_COMPILE")
    if wanted == "1" and not has_compiler():
        raise BessemerError("no C++ compiler (g++) is there", where="BESSEMER_COMPILE", fix="install it, or unset this")
    return wanted == "1" or (not wanted and stage_flops >= WORTH_FLOPS and has_compiler())


def has_compiler() -> bool:
    """g++, and the headers of this Python, which what is compiled includes."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return shutil.which(os.environ.get("CXX") or "g++") is not None and header.exists()


def compile_layers(trainable: Trainable) -> None:
    """Compile every layer and the head's loss when they are first trained; one kernel for all lengths of batches."""
    from transformers import AttentionInterface

    apart: Any = torch.compiler.disable(attention.document_attention)  # its shapes differ from batch to batch
    AttentionInterface.register(attention.NAME, apart)
    for layer in decoder_layers(trainable.loaded.model):
        layer.compile(dynamic=True)
    trainable.fused = True
