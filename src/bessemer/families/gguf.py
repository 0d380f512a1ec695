"""GGUF to safetensors, once: dequantised to fp32, tokenizer and chat template included."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.families.read import need_all_weights
from bessemer.files import new_folder, saving_weights


def convert_into(gguf: Path, folder: Path) -> None:
    """Convert into a folder that appears whole or not at all. Raises BessemerError as `convert` does."""
    shutil.rmtree(folder, ignore_errors=True)
    with new_folder(folder) as tmp:
        convert(gguf, tmp)


def weights_bytes(gguf: Path) -> int:
    """What its tensors need in fp32. Raises BessemerError for a file that is no GGUF."""
    from gguf import GGUFReader

    try:
        return sum(int(t.n_elements) for t in GGUFReader(gguf).tensors) * 4
    except (ValueError, IndexError, OverflowError) as error:
        raise BessemerError(f"no GGUF file ({error})", where=str(gguf), fix="download it again") from None


def convert(gguf: Path, out: Path) -> None:
    """Write a Hugging Face model folder (fp32 safetensors) from a GGUF file, and from nothing that lies beside it.

    Raises BessemerError for a file that is no GGUF, whose architecture transformers cannot read, or that lacks weights.
    """
    model, tokenizer = _read(gguf)
    # transformers 5 marks the dequantised model as quantised and then refuses to save it. These attributes
    # are the mark; tests/families/test_gguf.py fails when a new version moves them.
    model.hf_quantizer = None
    model.quantization_method = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    with saving_weights(out):
        model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _read(gguf: Path) -> tuple[Any, Any]:
    """(model, tokenizer)"""
    os.environ.setdefault("TQDM_DISABLE", "1")  # transformers' GGUF reader asks nobody before it paints a bar
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as alone:  # transformers reads tokenizer, templates and adapters that lie beside
        link = Path(alone) / "model.gguf"
        link.symlink_to(gguf.absolute())
        # HF_HUB_OFFLINE would stay for all
        here: dict[str, Any] = {"gguf_file": link.name, "local_files_only": True, "trust_remote_code": False}
        whole: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(alone, **here, **whole)
            tokenizer = AutoTokenizer.from_pretrained(alone, **here)
        except MemoryError:
            raise
        except Exception as error:  # whatever a damaged file leads its readers to: tokenizers raises a bare Exception
            said = str(error).partition("\n")[0].replace(str(link), gguf.name)
            raise BessemerError(
                f"transformers cannot read it ({type(error).__name__}: {said})",
                where=str(gguf),
                fix="use a GGUF file of an architecture that transformers reads, or the model's safetensors",
            ) from None
    model, told = loaded
    need_all_weights(told, str(gguf), "take a complete file: all of its parts joined, converted for this architecture")
    return model, tokenizer
