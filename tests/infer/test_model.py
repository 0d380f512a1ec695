"""What a model must be for packed documents and for our head: else the loss looks healthy and is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bessemer.data.items import Message
from bessemer.data.render import Example
from bessemer.errors import BessemerError
from bessemer.infer.generate import prompt_logprobs
from bessemer.infer.model import Loaded, detect_machine, load, max_positions, need_scoring_room, scoring_limit
from bessemer.infer.score import branch_logprobs, branch_odds, cut_windows, option_logprobs, window_bits
from tests.infer.conftest import MakeModel

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


@pytest.mark.parametrize("kind", ["lfm2", "qwen3_5_text", "mamba", "bloom"])
def test_a_model_that_carries_a_document_into_the_next_is_refused(kind: str, of_kind: MakeModel) -> None:
    with pytest.raises(BessemerError, match="carries what stands before a document into it"):
        load(of_kind(kind, **KINDS[kind]), dtype=torch.float32)


@pytest.mark.parametrize("kind", ["gpt_neox", "mixtral", "gemma3_text"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_of_any_kind_is_taken(kind: str, dtype: torch.dtype, of_kind: MakeModel) -> None:
    load(of_kind(kind, **KINDS[kind]), dtype=dtype)


@pytest.mark.parametrize(
    ("kind", "named"), [("gemma2", "final_logit_softcapping|soft-capping"), ("cohere", "logit_scale")]
)
def test_logits_that_are_changed_are_refused(kind: str, named: str, of_kind: MakeModel) -> None:
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


WINDOWS: dict[str, dict[str, Any]] = {
    "gemma3_text": {"sliding_window": 12, "sliding_window_pattern": 2},
    "mistral": {"sliding_window": 12},
    "phi3": {"sliding_window": 12},
    "qwen2": {"sliding_window": 12, "use_sliding_window": True, "max_window_layers": 1},
}


def hidden_of(loaded: Loaded, n: int) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.hidden(torch.arange(5, n + 5), torch.arange(n), loaded.layout([n]))


@pytest.mark.parametrize("kind", sorted(WINDOWS))
def test_what_is_scored_fits_into_the_window_that_attention_is_given(kind: str, of_kind: MakeModel) -> None:
    loaded = load(of_kind(kind, **WINDOWS[kind]), dtype=torch.float32)
    assert (scoring_limit(loaded), max_positions(loaded)) == (12, 2048)
    hidden_of(loaded, 12)
    with pytest.raises(BessemerError, match="13 tokens is longer than the model's sliding window of 12") as found:
        hidden_of(loaded, 13)
    assert "row_tokens" not in str(found.value)


def test_a_window_that_no_layer_has_limits_nothing(of_kind: MakeModel, tiny_model: Path) -> None:
    unused = load(of_kind("qwen2", sliding_window=12, use_sliding_window=False), dtype=torch.float32)
    assert scoring_limit(unused) == 2048
    hidden_of(unused, 40)
    assert scoring_limit(load(tiny_model, dtype=torch.float32)) == 2048


def test_a_text_longer_than_the_window_is_refused_before_anything_is_computed(
    of_kind: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(of_kind("gemma3_text", **WINDOWS["gemma3_text"]), dtype=torch.float32)
    monkeypatch.setattr(Loaded, "hidden", lambda *_: pytest.fail("computed"))
    ids = list(range(5, 18))
    said = "13 tokens, but the model has a sliding window, and scores at most 12"
    with pytest.raises(BessemerError, match=f"^prompt: {said}") as found:
        prompt_logprobs(loaded, ids)
    assert "row_tokens" not in str(found.value)
    with pytest.raises(BessemerError, match=f"^prompt 2: {said}"):
        branch_logprobs(loaded, [ids[:3], ids[:11]], [[[1], [2]], [[1, 2, 3], [4]]])
    with pytest.raises(BessemerError, match=f"^question 2: {said}"):
        branch_odds(loaded, [[ids[:12]], [ids[:4], ids]], (1, 2))
    with pytest.raises(BessemerError, match=r"^item x: \d\d tokens, but .* scores at most 12"):
        option_logprobs(loaded, [[Message("user", "time year people way day man")]], ["yes", "no"], names=["item x"])


def test_a_prompt_beyond_the_context_is_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions that the model never learnt give numbers, too."""
    loaded = load(tiny_model, dtype=torch.float32)
    prompts = [[Message("user", "yes"), Message("assistant", "no"), Message("user", "time " * n)] for n in (1, 2048)]
    monkeypatch.setattr(Loaded, "hidden", lambda *_: pytest.fail("computed"))
    with pytest.raises(BessemerError, match=r"^prompt 2: 2,\d\d\d tokens, but the model reads at most 2,048"):
        option_logprobs(loaded, prompts, ["yes", "no"])
    need_scoring_room(loaded, 2048)


def test_windows_of_documents_fit_into_the_model_s(of_kind: MakeModel) -> None:
    more = WINDOWS["gemma3_text"] | {"sliding_window": 20}
    loaded = load(of_kind("gemma3_text", **more), dtype=torch.float32)
    ids = np.arange(5, 66)
    windows = cut_windows(loaded, [Example("a", "", ids, np.ones(61, bool))], 1000)
    assert [len(w.ids) for w in windows] == [20, 20, 20]
    assert (window_bits(loaded, windows) > 0).all()


def test_heads_whose_values_are_narrower_are_refused(of_kind: MakeModel) -> None:
    """DeepSeek's latent attention: queries of 192 numbers, values of 128."""
    sizes = {"qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16, "kv_lora_rank": 16, "q_lora_rank": 16}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "head_dim": 8}
    folder = of_kind("deepseek_v3", **sizes, **experts, num_key_value_heads=4, moe_intermediate_size=32)
    with pytest.raises(BessemerError, match="queries of 24 numbers and values of 16") as found:
        load(folder, dtype=torch.float32)
    assert found.value.where == str(folder)


def test_weights_that_are_missing_are_not_made_up(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(BessemerError, match=r"lack 1 of the model's weights: lm_head\.weight\n") as found:
        load(folder, dtype=torch.float32)
    assert found.value.where == str(folder)


def test_memory_is_given_back() -> None:
    """The allocator is asked to keep what a step frees; another process needs it after the last one."""
    code = """
import torch
from pathlib import Path
from bessemer.infer.model import _keep_memory, give_back_memory
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])
_keep_memory()
small = [torch.ones(50_000) for _ in range(1000)]
most = resident()
del small
kept = resident()
give_back_memory()
print(most, kept, resident())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    most, kept, left = map(int, done.stdout.split())
    if kept < 0.9 * most:
        pytest.skip("this C library gives memory back by itself")
    assert left < most - 30_000  # of 4,096 bytes each
