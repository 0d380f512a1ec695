"""What a model thinks of given tokens: bits of documents and log-probabilities of one-token answers.

Documents are scored end to end without padding; only the positions that are asked for go through the head.
Legend: N tokens of a batch, S scored positions, V vocabulary, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from bessemer.data.items import Message
from bessemer.data.render import Example
from bessemer.errors import BessemerError
from bessemer.files import sha256_text
from bessemer.infer.model import Loaded

BATCH_TOKENS = 2048
SMALLEST = 16  # tokens of a window
SMALLEST_PREFIX = 4  # tokens that prompts must share to be worth a prefix
Progress = Callable[[float], None]  # share done, 0..1


@dataclass(frozen=True)
class Window:
    """A piece of a document: ids and the UTF-8 bytes that they stand for."""

    id: str
    ids: tuple[int, ...]
    n_bytes: int


def cut_windows(loaded: Loaded, examples: Sequence[Example], n_tokens: int, size: int = 256) -> list[Window]:
    """About `n_tokens` tokens in windows of at most `size`, from as many documents as possible.

    First one window of every document (in an order that depends on the ids only), then second windows, and so on:
    many documents make a narrower interval than many windows of one. Bytes are counted on the decoded window
    without its first token, which nothing predicts.
    """
    order = sorted(examples, key=lambda e: sha256_text(e.id))
    documents = [(e.id, [int(i) for i in e.ids_L[:-1]]) for e in order]  # the end-of-text token stands for no bytes
    windows: list[Window] = []
    left = n_tokens
    for start in range(0, max((len(ids) for _, ids in documents), default=0), size):
        for name, ids in documents:
            piece = ids[start : start + min(size, left)]
            if len(piece) >= SMALLEST:
                n_bytes = len(loaded.renderer.decode(piece[1:]).encode())
                windows.append(Window(f"{name}:{start}", tuple(piece), n_bytes))
                left -= len(piece)
            if left < SMALLEST:
                return windows
    return windows


@torch.no_grad()  # not inference_mode: what FSDP2 gathers in it could not be trained on afterwards
def window_bits(loaded: Loaded, windows: Sequence[Window], progress: Progress | None = None) -> NDArray[np.float64]:
    """Bits needed for each window: minus log2 of the probability of its tokens, the first one given. [W]"""
    bits = np.zeros(len(windows))
    order = sorted(range(len(windows)), key=lambda w: (len(windows[w].ids), w))
    for chunk in _chunks(order, [len(windows[w].ids) for w in order]):
        lengths = [len(windows[w].ids) for w in chunk]
        hidden_NC, tokens_N = _forward(loaded, [windows[w].ids for w in chunk])
        predicts_N = torch.ones(len(tokens_N), dtype=torch.bool, device=tokens_N.device)
        predicts_N[torch.tensor(lengths).cumsum(0) - 1] = False  # the last token of a window predicts nothing
        targets_S = tokens_N.roll(-1)[predicts_N]
        losses = [
            F.cross_entropy(loaded.head(h).float(), t, reduction="none")
            for h, t in zip(hidden_NC[predicts_N].split(512), targets_S.split(512), strict=True)
        ]
        per_document = torch.cat(losses).split([n - 1 for n in lengths])
        for w, loss in zip(chunk, per_document, strict=True):
            bits[w] = loss.double().sum().item() / math.log(2)
        if progress:
            progress(len(chunk) / len(windows))
    return bits


def bits_per_byte(bits: NDArray[np.float64], windows: Sequence[Window]) -> float:
    return float(bits.sum() / sum(w.n_bytes for w in windows))


def option_ids(loaded: Loaded, options: Sequence[str]) -> list[int]:
    """The first token of each answer. Raises BessemerError when two answers begin with the same token."""
    ids = [loaded.renderer.encode_texts([o])[0][0] for o in options]
    if len(set(ids)) < len(ids):
        raise BessemerError(f"the answers {', '.join(map(repr, options))} begin with the same token")
    return ids


@torch.inference_mode()
def option_logprobs(
    loaded: Loaded,
    prompts: Sequence[Sequence[Message]],
    options: Sequence[str],
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Log-probability of each answer's first token after each prompt. [prompts, options]"""
    wanted = torch.tensor(option_ids(loaded, options), device=loaded.machine.device)
    ids = [loaded.renderer.chat_ids(prompt) for prompt in prompts]
    prefix = _common_prefix(ids)
    ids = [i[len(prefix) :] for i in ids]
    scores = np.zeros((len(prompts), len(options)))
    order = sorted(range(len(ids)), key=lambda p: (len(ids[p]), p))
    for chunk in _chunks(order, [len(ids[p]) for p in order]):
        hidden_NC, _ = _forward(loaded, [ids[p] for p in chunk], prefix)
        last = len(prefix) + torch.tensor([len(ids[p]) for p in chunk]).cumsum(0) - 1
        logprobs_PV = F.log_softmax(loaded.head(hidden_NC[last]).float(), dim=-1)
        scores[chunk] = logprobs_PV[:, wanted].double().cpu().numpy()
        if progress:
            progress(len(chunk) / len(ids))
    return scores


def _chunks(order: list[int], lengths: list[int]) -> list[list[int]]:
    """Cut a list of documents into batches of at most BATCH_TOKENS tokens."""
    chunks: list[list[int]] = []
    tokens = BATCH_TOKENS
    for item, length in zip(order, lengths, strict=True):
        if tokens + length > BATCH_TOKENS:
            chunks.append([])
            tokens = 0
        chunks[-1].append(item)
        tokens += length
    return chunks


def _common_prefix(ids: Sequence[list[int]]) -> list[int]:
    """What all prompts begin with, to be computed once a batch; empty when it is short or would be a whole prompt."""
    first, last = min(ids), max(ids)  # all others lie between them
    n = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    n = min(n, *(len(i) - 1 for i in ids), len(first) - 1)
    return list(first[:n]) if n >= SMALLEST_PREFIX and len(ids) > 1 else []


def _forward(
    loaded: Loaded, documents: Sequence[Sequence[int]], prefix: Sequence[int] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """(last hidden states, tokens) of the prefix, where there is one, and the documents, end to end."""
    device = loaded.machine.device
    parts = [prefix, *documents] if prefix else documents
    tokens_N = torch.tensor([i for d in parts for i in d], device=device)
    begins = [0, *(len(prefix) for _ in documents)] if prefix else [0] * len(documents)
    positions_N = torch.cat([torch.arange(b, b + len(d)) for b, d in zip(begins, parts, strict=True)]).to(device)
    layout = loaded.layout([len(d) for d in parts], [i > 0 for i in range(len(parts))] if prefix else ())
    return loaded.hidden(tokens_N, positions_N, layout), tokens_N
