"""GGUF to safetensors, once: dequantised to fp32, tokenizer and chat template included."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def convert(gguf: Path, out: Path) -> None:
    """Write a Hugging Face model folder (fp32 safetensors) from a GGUF file."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # transformers' GGUF reader asks nobody before it paints a bar
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # transformers 5 marks the dequantised model as quantised and then refuses to save it. These attributes
    # are the mark; tests/families/test_gguf.py fails when a new version moves them.
    model.hf_quantizer = None
    model.quantization_method = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)
