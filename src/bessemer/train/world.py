"""The processes that train one stage together. Alone, nothing of this costs anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

PATIENCE = timedelta(minutes=30)  # a collective may wait so long: rank 0 measures and writes while others wait


@dataclass(frozen=True)
class World:
    """Who this process is among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def total(self, numbers: Sequence[float]) -> list[float]:
        """The sum of each number over all processes, in double precision; every process gets the same."""
        if self.alone:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64, device=_device())
        dist.all_reduce(sums)
        return sums.tolist()

    def wait(self) -> None:
        """Until all have come here."""
        if not self.alone:
            dist.barrier()


def open_world() -> World:
    """The world that torchrun, srun or Ray announce by RANK and WORLD_SIZE; a world of one without them."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if gpu else "gloo", timeout=PATIENCE)
    return World(dist.get_rank(), size)


def close_world() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
