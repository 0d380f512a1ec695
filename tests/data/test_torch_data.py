"""The mixture in other people's trainers: order, and packed rows that teach what their documents teach alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.utils.data import DataLoader

from bessemer.data import Mixture, MixtureDataset, PackedSource, Packer, Renderer, batches, pack_source
from bessemer.data.batch import NO_TARGET
from bessemer.data.sources import Source
from bessemer.errors import BessemerError
from tests.story import write_story

ROW = 128


@pytest.fixture
def sources(tmp_path: Path, tiny_model: Path) -> list[PackedSource]:
    write_story(tmp_path, tiny_model)
    renderer = Renderer(tiny_model)
    own = pack_source("own", Source(str(tmp_path / "own.jsonl")), renderer, Packer(ROW))
    rules = pack_source("rules", Source(str(tmp_path / "rules.jsonl"), "chat"), renderer, Packer(ROW, "fail"))
    return [own, rules]


@pytest.fixture
def data(sources: list[PackedSource]) -> MixtureDataset:
    rows = {s.name: s.n_rows for s in sources}
    return MixtureDataset(sources, Mixture({"own": 0.7, "rules": 0.3}, rows, n_rows=24), pad=0)


def test_a_loader_with_workers_reads_the_mixture_in_order(data: MixtureDataset, sources: list[PackedSource]) -> None:
    loaded = [row for batch in DataLoader(data, batch_size=4, num_workers=2) for row in batch["input_ids"].tolist()]
    assert loaded == [data[k]["input_ids"].tolist() for k in range(24)]
    ours = [t for b in batches(sources, data.mixture, rows=4) for t in b.tokens_N.tolist()]
    assert [t for k in range(24) for t in unpadded(data[k])] == ours


def test_conversations_are_never_split(tmp_path: Path, tiny_model: Path, sources: list[PackedSource]) -> None:
    source = Source(str(tmp_path / "rules.jsonl"), "chat")
    with pytest.raises(BessemerError, match="conversations are never split") as caught:
        pack_source("rules", source, Renderer(tiny_model), Packer(ROW))
    assert caught.value.where == "rules" and "fail" in caught.value.fix


def unpadded(row: dict[str, torch.Tensor]) -> list[int]:
    ids, n = row["input_ids"].tolist(), ROW
    while n and ids[n - 1] == 0:
        n -= 1
    return ids[:n]


@pytest.mark.parametrize("attention", ["mask", "positions"])
def test_packed_rows_teach_what_their_documents_teach_alone(
    data: MixtureDataset, sources: list[PackedSource], tiny_model: Path, attention: Literal["mask", "positions"]
) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model.config.use_cache = attention == "mask"  # see the class: positions alone need it off
    data = MixtureDataset(sources, data.mixture, pad=0, attention=attention)
    by_name = {s.name: s for s in sources}
    crowded = [k for k in range(24) if len(by_name[data.mixture[k].source].packed.row(data.mixture[k].row)) > 1]
    assert len(crowded) > 5
    for k in crowded[:6]:
        row = {name: value[None] for name, value in data[k].items()}
        with torch.no_grad():
            labels = row.pop("labels")[0, 1:]
            together = model(**row).logits[0, :-1]
            wanted = labels != NO_TARGET
            packed = torch.nn.functional.cross_entropy(together[wanted], labels[wanted], reduction="sum")
            alone = torch.zeros(())
            for segment in by_name[data.mixture[k].source].row(data.mixture[k].row):
                ids = torch.from_numpy(segment.ids_L).long()
                targets = torch.where(torch.from_numpy(segment.supervised_L), ids, NO_TARGET)[1:]
                logits = model(input_ids=ids[None]).logits[0, :-1]
                alone += torch.nn.functional.cross_entropy(logits, targets, reduction="sum", ignore_index=NO_TARGET)
        assert packed.item() == pytest.approx(alone.item(), rel=1e-5)


def six_steps(folder: Path) -> dict[str, Any]:
    """Of 4 rows each, in single precision, without saving."""
    return {"output_dir": str(folder / "out"), "per_device_train_batch_size": 4, "max_steps": 6, "learning_rate": 1e-3,
            "report_to": [], "use_cpu": True, "bf16": False, "save_strategy": "no", "disable_tqdm": True}  # fmt: skip


def test_the_hugging_face_trainer_takes_it(data: MixtureDataset, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    fed: list[list[int]] = []
    model.register_forward_pre_hook(
        lambda _module, _args, kwargs: fed.extend(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    arguments = TrainingArguments(
        **six_steps(tmp_path),
        train_sampling_strategy="sequential",
    )
    losses = Trainer(model=model, args=arguments, train_dataset=data).train()
    assert fed == [data[k]["input_ids"].tolist() for k in range(24)]
    assert losses.training_loss < 8


@pytest.mark.parametrize("attention", ["mask", "positions"])
def test_trl_takes_it(
    sources: list[PackedSource], data: MixtureDataset, tiny_model: Path, tmp_path: Path, attention: Any
) -> None:
    """SFTTrainer takes Hugging Face data sets only; one of them reads the mixture as it is asked for rows."""
    trl, hub = pytest.importorskip("trl"), pytest.importorskip("datasets")
    from transformers import AutoModelForCausalLM, AutoTokenizer, default_data_collator

    data = MixtureDataset(sources, data.mixture, pad=0, attention=attention)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    fed: list[dict[str, Any]] = []
    model.register_forward_pre_hook(lambda _module, _args, kwargs: fed.append(dict(kwargs)), with_kwargs=True)
    arguments = trl.SFTConfig(
        **six_steps(tmp_path),
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,  # "unused" are masks and positions
    )
    trainer = trl.SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=hub.IterableDataset.from_generator(lambda: iter(data)),
        data_collator=default_data_collator,
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    losses = trainer.train()
    assert len([*data]) == 24
    for name in data[0]:
        rows = [row.tolist() for step in fed for row in step[name]]
        assert rows == [data[k][name].tolist() for k in range(24)], name
    assert losses.training_loss < 8
