"""How many tokens a process computes at once, and what happens when that was too much."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import TypeVar

import torch

from bessemer.errors import BessemerError

MICRO_TOKENS, GPU_MICRO_TOKENS = 4096, 65536  # at most; the GPU's is a guess, not measured
T = TypeVar("T")


def fitting(compute: Callable[[int], T], tokens: int, least: int, clean_up: Callable[[], None]) -> tuple[T, int]:
    """(result, tokens): compute with so many tokens at once, with half as many as long as memory does not suffice.

    least: the longest document, which cannot be cut. Raises BessemerError with the size that would fit.
    """
    while True:
        try:
            return compute(tokens), tokens
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            failure = str(error).splitlines()[0] if str(error) else type(error).__name__
        clean_up()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if tokens <= least:
            raise BessemerError(
                f"{least} tokens at once do not fit into memory ({failure})",
                where="stages.row_tokens",
                fix=f"row_tokens: {max(32, least // 2)}, raise freeze, method: lora, or more processes (--on local:N)",
            )
        tokens = max(least, tokens // 2)


def peak_memory() -> int:
    """Bytes that this process had at most: of the GPU where there is one, else of main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "memory" in text and ("alloc" in text or "enough" in text)
    )
