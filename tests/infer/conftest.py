"""Small random models of many architectures, with the tokenizer of the tiny one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
}
MakeModel = Callable[..., Path]


@pytest.fixture
def of_kind(tiny_model: Path, tmp_path: Path) -> MakeModel:
    """of_kind(model_type, **config) -> the folder of a new model, always with the same weights."""

    def made(kind: str, **more: Any) -> Path:
        from transformers import CONFIG_MAPPING, AutoModelForCausalLM

        old = json.loads((tiny_model / "config.json").read_text())
        ids = {key: old[key] for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
        folder = tmp_path / kind
        shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**SIZES | ids | more)).save_pretrained(folder)
        return folder

    return made
