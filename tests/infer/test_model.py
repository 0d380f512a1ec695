"""What a model must be for packed documents and for our head: else the loss looks healthy and is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bessemer.errors import BessemerError
from bessemer.infer.model import detect_machine, load

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
}
KINDS: dict[str, dict[str, Any]] = {
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_5_text": {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "mamba": {},
    "bloom": {"n_layer": 2, "n_head": 4},
    "gpt_neox": {},
    "mixtral": {"num_local_experts": 4},
    "gemma2": {},
    "gemma3_text": {"sliding_window": 8},
    "cohere": {},
}


@pytest.fixture
def of_kind(tiny_model: Path, tmp_path: Path) -> Any:
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


@pytest.mark.parametrize("kind", ["lfm2", "qwen3_5_text", "mamba", "bloom"])
def test_a_model_that_carries_a_document_into_the_next_is_refused(kind: str, of_kind: Any) -> None:
    with pytest.raises(BessemerError, match="carries what stands before a document into it"):
        load(of_kind(kind, **KINDS[kind]), dtype=torch.float32)


@pytest.mark.parametrize("kind", ["gpt_neox", "mixtral", "gemma3_text"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_of_any_kind_is_taken(kind: str, dtype: torch.dtype, of_kind: Any) -> None:
    load(of_kind(kind, **KINDS[kind]), dtype=dtype)


@pytest.mark.parametrize(
    ("kind", "named"), [("gemma2", "final_logit_softcapping|soft-capping"), ("cohere", "logit_scale")]
)
def test_logits_that_are_changed_are_refused(kind: str, named: str, of_kind: Any) -> None:
    with pytest.raises(BessemerError, match=named):
        load(of_kind(kind), dtype=torch.float32)


def test_so_are_those_changed_under_a_name_nobody_knows(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def capped(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        out.logits = 0.5 * torch.tanh(out.logits / 0.5)
        return out

    load(tiny_model, dtype=torch.float32)
    monkeypatch.setattr(LlamaForCausalLM, "forward", capped)
    with pytest.raises(BessemerError, match="changes its logits behind its output layer"):
        load(tiny_model, dtype=torch.float32)


@pytest.mark.parametrize("device", ["foo", "mps:0", *([] if torch.cuda.is_available() else ["cuda"])])
def test_a_device_that_is_none_is_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BESSEMER_DEVICE", device)
    with pytest.raises(BessemerError, match="BESSEMER_DEVICE.*cannot be used"):
        detect_machine()
