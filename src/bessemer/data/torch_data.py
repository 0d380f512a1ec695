"""A mixture as a plain torch data set, for TRL, the Hugging Face Trainer or a loop of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bessemer.data.batch import NO_TARGET, PackedSource
from bessemer.data.mixture import Mixture


class MixtureDataset(Dataset[dict[str, Tensor]]):
    """Row k of a mixture at index k. Read it in order (no shuffling): the order is the mixture.

    Each row is {"input_ids", "labels", "position_ids"}, each [row_tokens]. Positions begin again at every document.
    labels are -100 where nothing is learnt, as trainers expect that shift them by themselves. Places that no
    document fills hold `pad` and teach nothing.

    attention: how documents of a row are kept from seeing each other. "mask" (default) adds "attention_mask", bool
    [1, row_tokens, row_tokens], which transformers takes with sdpa as it is. "positions" adds nothing: flash attention
    recognises documents by their positions; so does sdpa, but only while no cache is made (config.use_cache = False):
    with one, transformers 5 silently lets documents see each other.

    TRL's SFTTrainer takes Hugging Face data sets only, `IterableDataset.from_generator(lambda: iter(rows))`, and with
    SFTConfig(dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False): what it takes for unused are
    positions and mask.
    """

    def __init__(
        self,
        sources: Sequence[PackedSource],
        mixture: Mixture,
        *,
        pad: int,
        attention: Literal["mask", "positions"] = "mask",
    ) -> None:
        self.sources = {s.name: s for s in sources}
        self.mixture, self.pad, self.attention = mixture, pad, attention

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, k: int) -> dict[str, Tensor]:
        pick = self.mixture[k]
        source = self.sources[pick.source]
        n = source.packed.row_tokens
        ids_N = np.full(n, self.pad, np.int64)
        labels_N = np.full(n, NO_TARGET, np.int64)
        documents_N = np.zeros(n, np.int64)  # 0: of no document
        at, positions = 0, list[np.ndarray]()
        for number, segment in enumerate(source.row(pick.row), start=1):
            end = at + len(segment.ids_L)
            ids_N[at:end] = segment.ids_L
            # The first token of a document is predicted by none: the token before it is another document's.
            learnt_L = segment.supervised_L.copy()
            learnt_L[0] = False
            labels_N[at:end][learnt_L] = segment.ids_L[learnt_L]
            positions.append(np.arange(end - at))
            documents_N[at:end] = number
            at = end
        position_ids_N = np.concatenate([*positions, np.arange(n - at)])
        rows: dict[str, np.ndarray[Any, Any]] = {"input_ids": ids_N, "labels": labels_N, "position_ids": position_ids_N}
        if self.attention == "mask":
            same_NN = documents_N[:, None] == documents_N[None, :]
            rows["attention_mask"] = np.tril(same_NN)[None]
        return {name: torch.from_numpy(row) for name, row in rows.items()}
