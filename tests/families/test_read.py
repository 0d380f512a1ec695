"""What transformers would make up, ask about or fall over is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bessemer.data.render import Renderer
from bessemer.errors import BessemerError
from bessemer.families.read import open_weights, read_config, read_model, read_tokenizer

Weights = dict[str, torch.Tensor]


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def configure(folder: Path, name: str = "config.json", **changes: Any) -> None:
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))


def rewrite(folder: Path, change: Callable[[Weights], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_a_second_name_of_a_weight_is_not_missing(folder: Path) -> None:
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    model = read_model(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    rewrite(folder, lambda w: w.update({"lm_head.weight": w.pop("model.embed_tokens.weight")}))
    assert read_model(folder).model.embed_tokens.weight.equal(model.lm_head.weight)


def test_a_head_of_its_own_must_be_there(folder: Path) -> None:
    configure(folder, tie_word_embeddings=False)
    with pytest.raises(BessemerError, match=r"the files lack 1 of the model's weights: lm_head\.weight\n"):
        read_model(folder)


def test_an_embedding_that_is_gone_is_missing_though_it_is_tied(folder: Path) -> None:
    rewrite(folder, lambda w: w.pop("model.embed_tokens.weight"))
    with pytest.raises(BessemerError, match=r"lack 2 .*: lm_head\.weight, model\.embed_tokens\.weight"):
        read_model(folder)


def test_layers_beyond_those_of_the_file_are_missing(folder: Path) -> None:
    configure(folder, num_hidden_layers=5)
    with pytest.raises(BessemerError, match=r"lack 9 .*: model\.layers\.4\.\S+, model\.layers\.4\.\S+, .*, \.\.\.\n"):
        read_model(folder)


def test_weights_of_another_shape_are_named_with_both(folder: Path) -> None:
    configure(folder, intermediate_size=128)
    said = r": the shapes of 12 weights .*: model\.layers\.0\.mlp\.down_proj\.weight is \[96, 256\], not \[96, 128\]"
    with pytest.raises(BessemerError, match=said):
        read_model(folder)


def test_an_expert_that_is_missing_is_refused(tmp_path: Path) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 3}
    MixtralForCausalLM(MixtralConfig(**sizes, **heads)).save_pretrained(tmp_path)
    read_model(tmp_path)
    rewrite(tmp_path, lambda w: w.pop("model.layers.0.block_sparse_moe.experts.1.w1.weight"))
    with pytest.raises(BessemerError, match="experts, are missing or of different shapes"):
        read_model(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_half_copied_file_is_named(folder: Path, kept: float) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    for read in (lambda: read_model(folder), lambda: open_weights(path, "numpy")):
        with pytest.raises(BessemerError, match="only a part of it was copied") as found:
            read()
        assert found.value.where == str(path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Questions that transformers asked; each is answered with no."""
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": questions.append(text) or "n")
    return questions


def test_nobody_is_asked_about_code_that_comes_with_a_model(folder: Path, asked: list[str]) -> None:
    configure(folder, model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})
    (folder / "own.py").write_text("raise SystemExit('it ran')\n")
    for read in (read_model, read_config):
        with pytest.raises(BessemerError, match="custom code .*\n.*never run"):
            read(folder)
    assert asked == []


@pytest.mark.parametrize("read", [read_tokenizer, Renderer])
def test_nobody_is_asked_about_code_that_comes_with_a_tokenizer(
    folder: Path, asked: list[str], read: Callable[[Path], Any]
) -> None:
    configure(folder, model_type="own")
    name = "tokenizer_config.json"
    configure(folder, name, auto_map={"AutoTokenizer": ["own.Words", None]}, tokenizer_class="Words")
    (folder / "own.py").write_text("raise SystemExit('it ran')\n")
    with pytest.raises(BessemerError, match="cannot load the tokenizer .*custom code") as found:
        read(folder)
    assert found.value.where == str(folder) and asked == []
