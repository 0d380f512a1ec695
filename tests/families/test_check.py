from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bessemer.errors import BessemerError
from bessemer.families.check import check_tokenizer


@pytest.fixture
def model(tmp_path: Path, tiny_model: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def test_the_model_s_own_tokenizer_belongs(model: Path) -> None:
    check_tokenizer(model)


def test_ids_beyond_the_embedding(model: Path) -> None:
    change(model / "config.json", lambda c: c.update(vocab_size=300))
    with pytest.raises(BessemerError, match=r"largest id is \d+, the embedding has 300 rows"):
        check_tokenizer(model)


def test_far_fewer_ids_than_rows(model: Path) -> None:
    change(model / "config.json", lambda c: c.update(vocab_size=49152))
    with pytest.raises(BessemerError, match="ids for 49152 embedding rows"):
        check_tokenizer(model)


def test_rows_padded_a_little_are_fine(model: Path) -> None:
    rows = json.loads((model / "config.json").read_text())["vocab_size"]
    change(model / "config.json", lambda c: c.update(vocab_size=rows + 16))
    check_tokenizer(model)


@pytest.mark.parametrize("ends", [7, [7, 8]])
def test_another_end_token(model: Path, ends: int | list[int]) -> None:
    change(model / "config.json", lambda c: c.update(eos_token_id=ends))
    with pytest.raises(BessemerError, match=r"end token '<\|im_end\|>' has id 2") as caught:
        check_tokenizer(model)
    assert caught.value.fix and str(model) in caught.value.where


def test_one_of_several_end_tokens_is_enough(model: Path) -> None:
    change(model / "config.json", lambda c: c.update(eos_token_id=[0, 2]))
    check_tokenizer(model)


@pytest.mark.parametrize("broken", [{}, {"model": {"vocab": 3}}, {"model": []}])
def test_a_tokenizer_file_of_another_shape(model: Path, broken: dict[str, Any]) -> None:
    (model / "tokenizer.json").write_text(json.dumps(broken))
    with pytest.raises(BessemerError, match="not as transformers writes it"):
        check_tokenizer(model)


@pytest.mark.parametrize(("special", "n", "fine"), [(True, 1, True), (True, 17, False), (False, 1, False)])
def test_special_tokens_of_larger_models_may_lie_beyond_the_rows(
    model: Path, special: bool, n: int, fine: bool
) -> None:
    """Gemma 3's text models have the tokenizer of those that see images, with one token more than rows."""
    rows = json.loads((model / "config.json").read_text())["vocab_size"]
    more = [{"id": rows + i, "content": f"<image {i}>", "special": special} for i in range(n)]
    change(model / "tokenizer.json", lambda t: t["added_tokens"].extend(more))
    if fine:
        check_tokenizer(model)
    else:
        with pytest.raises(BessemerError, match=f"largest id is {rows + n - 1}"):
            check_tokenizer(model)
