from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bessemer.errors import BessemerError
from bessemer.families.fetch import resolve
from bessemer.infer.model import load
from bessemer.train.export import export_model
from tests.tiny import make_tiny_base


@pytest.mark.parametrize(("share", "expected"), [(1.0, 2.0), (0.5, 1.5), (0.25, 1.25)])
def test_exported_weights_lie_between_start_and_trained(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, expected: float
) -> None:
    """Trained weights are twice the start's; the rest of the model is the start's own."""
    monkeypatch.setenv("BESSEMER_DTYPE", "float32")
    start = resolve(str(tiny_model))
    old = load_file(tiny_model / "model.safetensors")
    name = "model.layers.3.mlp.up_proj.weight"
    save_file({name: old[name] * 2}, tmp_path / "trained.safetensors")
    export_model(start, [tmp_path / "trained.safetensors"], tmp_path / "model", share)
    new = load_file(tmp_path / "model" / "model.safetensors")
    torch.testing.assert_close(new[name], old[name] * expected)
    assert all(torch.equal(new[n], old[n]) for n in old if n != name)
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == (tiny_model / "tokenizer.json").read_bytes()


def test_a_base_with_a_chat_template_stops_where_its_answers_end(tiny_model: Path, tmp_path: Path) -> None:
    """As Qwen's come: a template is there, and every end is the end of the text."""
    base = make_tiny_base(tiny_model, tmp_path / "base")
    shutil.copyfile(tiny_model / "chat_template.jinja", base / "chat_template.jinja")
    start = resolve(str(base))
    export_model(start, [], tmp_path / "model")
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text())["eos_token_id"] == [0, 2]
    assert load(tmp_path / "model").eos == load(base).eos == {0, 2}


def test_a_config_that_names_the_end_of_an_answer_stays(tiny_model: Path, tmp_path: Path) -> None:
    export_model(resolve(str(tiny_model)), [], tmp_path / "model")
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text())["eos_token_id"] == 2


def test_a_routing_bias_is_not_rounded(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, Glm4MoeConfig

    ids = {k: v for k, v in json.loads((tiny_model / "config.json").read_text()).items() if k.endswith("_id")}
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "first_k_dense_replace": 0}
    experts = {"moe_intermediate_size": 32, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 1}
    model = AutoModelForCausalLM.from_config(
        Glm4MoeConfig(**sizes, **heads, **experts, **ids, vocab_size=512, topk_group=1)
    )
    (name,) = (n for n, _ in model.named_buffers() if n.endswith("e_score_correction_bias"))
    model.get_buffer(name).normal_()
    model.save_pretrained(tmp_path / "start")
    for path in tiny_model.glob("*token*"):
        shutil.copyfile(path, tmp_path / "start" / path.name)
    export_model(resolve(str(tmp_path / "start")), [], tmp_path / "model", dtype=torch.bfloat16)
    old, new = (load_file(tmp_path / folder / "model.safetensors") for folder in ("start", "model"))
    assert torch.equal(new[name], old[name]) and new["model.norm.weight"].dtype == torch.bfloat16
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"


def test_weights_that_are_missing_are_not_exported_as_random_ones(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "start")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(BessemerError, match=r"lack 1 of the model's weights: lm_head\.weight"):
        export_model(resolve(str(folder)), [], tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_of_several_trainings_it_is_the_mean_of_what_they_changed(tiny_model: Path, tmp_path: Path) -> None:
    start = resolve(str(tiny_model))
    own = load_file(tiny_model / "model.safetensors")
    both, alone = sorted(own)[:2]  # the second one was trained by one of them only
    changes = [{both: 1.0, alone: 3.0}, {both: -0.5}]
    files = [tmp_path / f"{n}.safetensors" for n in range(2)]
    for file, change in zip(files, changes, strict=True):
        save_file({name: own[name].float() + by for name, by in change.items()}, file)
    export_model(start, files, tmp_path / "model", 0.8, dtype=torch.float32)
    made = load_file(tmp_path / "model" / "model.safetensors")
    for name, value in own.items():
        wanted = value.float() + {both: 0.8 * 0.25, alone: 0.8 * 1.5}.get(name, 0.0)
        assert torch.allclose(made[name], wanted, atol=1e-6), name
