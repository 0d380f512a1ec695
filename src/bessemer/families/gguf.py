"""GGUF to safetensors, once: dequantised to fp32, tokenizer and chat template included."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.files import new_folder


def convert_into(gguf: Path, folder: Path) -> None:
    """Convert into a folder that appears whole or not at all.

    Raises BessemerError for a file that is no GGUF or whose architecture transformers cannot read.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with new_folder(folder) as tmp:
        try:
            convert(gguf, tmp)
        except (ValueError, KeyError) as error:  # how transformers refuses one
            said = str(error).partition("\n")[0]
            raise BessemerError(
                f"transformers cannot read it ({type(error).__name__}: {said})",
                where=str(gguf),
                fix="use a GGUF file of an architecture that transformers reads, or the model's safetensors",
            ) from None


def weights_bytes(gguf: Path) -> int:
    """What its tensors need in fp32. Raises BessemerError for a file that is no GGUF."""
    from gguf import GGUFReader

    try:
        return sum(int(t.n_elements) for t in GGUFReader(gguf).tensors) * 4
    except (ValueError, IndexError, OverflowError) as error:
        raise BessemerError(f"no GGUF file ({error})", where=str(gguf), fix="download it again") from None


def convert(gguf: Path, out: Path) -> None:
    """Write a Hugging Face model folder (fp32 safetensors) from a GGUF file."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # transformers' GGUF reader asks nobody before it paints a bar
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    here: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}  # HF_HUB_OFFLINE would stay for all
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **here)
    # transformers 5 marks the dequantised model as quantised and then refuses to save it. These attributes
    # are the mark; tests/families/test_gguf.py fails when a new version moves them.
    model.hf_quantizer = None
    model.quantization_method = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(gguf.parent, **here).save_pretrained(out)
