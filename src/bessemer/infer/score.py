"""What a model thinks of given tokens: bits of documents and log-probabilities of one-token answers.

Documents are scored end to end without padding; only the positions that are asked for go through the head.
Legend: N tokens of a batch, S scored positions, V vocabulary, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from bessemer.data.items import Message
from bessemer.data.render import Example, Renderer, Tools
from bessemer.errors import BessemerError
from bessemer.files import sha256_text
from bessemer.infer.attention import FUSED_FROM
from bessemer.infer.model import Loaded, need_scoring_room, scoring_limit

BATCH_TOKENS = 2048
HEAD_ROWS = 512  # positions that go through the head together
SMALLEST = 16  # tokens of a window
SMALLEST_PREFIX = 4  # tokens that prompts must share to be worth a prefix
SMALLEST_SHARED = 8  # tokens that some of them must share to be read together
EXACT = 8  # of the likeliest tokens of a place whose logits are computed in fp32
CELLS = 1 << 24  # tokens times the shared ones before them: bounds the copies of their keys and the scores
MAX_BRANCHES = 1024  # tokens of the branches of one stem that are read together: bounds the mask
Progress = Callable[[float], None]  # share done, 0..1


@dataclass(frozen=True)
class Window:
    """A piece of a document: ids and the UTF-8 bytes that they stand for."""

    id: str
    ids: tuple[int, ...]
    n_bytes: int
    group: str = ""  # of its document, which may belong to others


def cut_windows(loaded: Loaded, examples: Sequence[Example], n_tokens: int, size: int = 256) -> list[Window]:
    """About `n_tokens` tokens in windows of at most `size` (and `scoring_limit`), from as many documents as possible.

    First one window of every document (in an order that depends on the ids only), then second windows, and so on:
    many documents make a narrower interval than many windows of one. Bytes are counted on the decoded window
    without its first token, which nothing predicts.
    """
    order = sorted(examples, key=lambda e: sha256_text(e.id))
    # The end-of-text token stands for no bytes.
    documents = [(e.id, e.group, [int(i) for i in e.ids_L[:-1]]) for e in order]
    windows: list[Window] = []
    left, size = n_tokens, min(size, scoring_limit(loaded))
    for start in range(0, max((len(ids) for *_, ids in documents), default=0), size):
        for name, group, ids in documents:
            piece = ids[start : start + min(size, left)]
            if len(piece) >= SMALLEST:
                n_bytes = len(loaded.renderer.decode(piece[1:]).encode())
                windows.append(Window(f"{name}:{start}", tuple(piece), n_bytes, group))
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
            for h, t in zip(hidden_NC[predicts_N].split(HEAD_ROWS), targets_S.split(HEAD_ROWS), strict=True)
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
    """The first token of each answer after `Renderer.answer_stem`, as it was trained.

    Raises BessemerError when two answers begin with the same token.
    """
    n = len(loaded.renderer.answer_stem)
    ids = [answer[n] for answer in loaded.renderer.answer_ids(options)]
    if len(set(ids)) < len(ids):
        raise BessemerError(f"the answers {', '.join(map(repr, options))} begin with the same token")
    return ids


def option_logprobs(
    loaded: Loaded,
    prompts: Sequence[Sequence[Message]],
    options: Sequence[str],
    progress: Progress | None = None,
    tools: Sequence[Tools] = (),
    names: Sequence[str] = (),
) -> NDArray[np.float64]:
    """Log-probability of each answer's first token after each prompt. [prompts, options]

    tools: of each prompt; none by default. names: of the prompts, for messages.
    Raises BessemerError, before anything is computed, for a prompt that is longer than the model scores.
    """
    branches = [[i] for i in option_ids(loaded, options)]
    ids = asked_ids(loaded.renderer, prompts, tools)
    for own, name in zip(ids, names or [f"prompt {n}" for n in range(1, len(ids) + 1)], strict=True):
        need_scoring_room(loaded, len(own), name)
    return np.array(branch_logprobs(loaded, ids, [branches] * len(ids), progress)).reshape(len(ids), len(options))


def asked_ids(renderer: Renderer, prompts: Sequence[Sequence[Message]], tools: Sequence[Tools] = ()) -> list[list[int]]:
    """Token ids up to the place where the answer begins to tell: behind what every answer begins with."""
    given = tools or [()] * len(prompts)
    return [[*renderer.chat_ids(p, tools=own), *renderer.answer_stem] for p, own in zip(prompts, given, strict=True)]


Branches = Sequence[Sequence[int]]
Done = Callable[[list[int], list[list[float]]], None]  # which prompts, their log-probabilities


@torch.inference_mode()
def branch_logprobs(
    loaded: Loaded,
    prompts: Sequence[Sequence[int]],
    branches: Sequence[Branches],
    progress: Progress | None = None,
    done: Done | None = None,
) -> list[list[float]]:
    """Log-probability (nats) of each continuation of each prompt, all given as token ids.

    What is shared is computed once: what all prompts begin with once a batch, what several of them begin with (a
    comment under two rules) once for these, a prompt once for all its continuations, and so is what all of these begin
    with. Only positions that predict a continuation's token go through the head. done: told of every finished batch.

    Raises BessemerError, before anything is computed, for a text that is longer than the model scores.
    """
    for n, (p, own) in enumerate(zip(prompts, branches, strict=True), 1):
        need_scoring_room(loaded, len(p) + max(map(len, own)) - 1, f"prompt {n}")  # the last token is not read
    prefix = _common_prefix(prompts)
    stems = [_stem(own) for own in branches]
    branches = [[b[len(stem) :] for b in own] for stem, own in zip(stems, branches, strict=True)]
    tails = [[len(b) - 1 for b in own] for own in branches]
    fed = [
        [*p[len(prefix) :], *stem, *(i for b in own for i in b[:-1])]
        for p, stem, own in zip(prompts, stems, branches, strict=True)
    ]
    rooms = [0 if any(tail) else len(own) - len(stem) - 1 for own, stem, tail in zip(fed, stems, tails, strict=True)]
    groups = _alike(fed, rooms)
    sizes = [n + sum(len(fed[p]) - n for p in members) for members, n in groups]
    scores: list[list[float]] = [[] for _ in prompts]
    order = sorted(range(len(groups)), key=lambda g: (sizes[g], groups[g][0][0]))
    for chunk in _chunks(order, [sizes[g] for g in order], _batch_tokens(prefix)):
        documents: list[list[int]] = []
        forks: list[list[int]] = []
        places: list[int] = []  # of the hidden states that predict, by token of every branch
        targets: list[int] = []
        asked: list[int] = []
        at = len(prefix)
        for members, n in (groups[g] for g in chunk):
            documents.append([*fed[members[0]][:n], *(i for p in members for i in fed[p][n:])])
            forks.append([len(fed[p]) - n for p in members] if n else tails[members[0]])
            at += n
            for p in members:
                at += len(fed[p]) - n - sum(tails[p])
                question = at - 1
                places += range(question - len(stems[p]), question)
                targets += stems[p]
                for branch, tail in zip(branches[p], tails[p], strict=True):
                    places += [question, *range(at, at + tail)]
                    targets += branch
                    at += tail
            asked += members
        hidden_NC, _ = _forward(loaded, documents, prefix, forks)
        found = iter(_chosen_logprobs(loaded, hidden_NC, places, targets))
        values: list[list[float]] = []
        for p in asked:
            stem = [next(found) for _ in stems[p]]
            values.append([math.fsum([*stem, *(next(found) for _ in branch)]) for branch in branches[p]])
        for p, value in zip(asked, values, strict=True):
            scores[p] = value
        if done:
            done(asked, values)
        if progress:
            progress(len(asked) / len(fed))
    return scores


def _alike(texts: Sequence[list[int]], rooms: Sequence[int]) -> list[tuple[list[int], int]]:
    """(texts, tokens that all of them begin with); a text that nothing is saved with stands alone, with 0.

    rooms: how much of each text may be shared.
    """
    groups: list[tuple[list[int], int]] = []
    for p in sorted(range(len(texts)), key=lambda p: (texts[p], p)):  # those that begin alike are neighbours
        if groups:
            before, n = groups[-1]
            shared = min(n_same(texts[p], texts[before[0]]), rooms[p], n or rooms[before[0]])
            ends = sum(len(texts[m]) - shared for m in [*before, p])
            if shared >= SMALLEST_SHARED and shared * len(before) > n * (len(before) - 1) and ends <= MAX_BRANCHES:
                groups[-1] = [*before, p], shared
                continue
        groups.append(([p], 0))
    return groups


ROUND = 32  # documents are filled up to a multiple of it: libraries keep code for every shape they have met


@torch.inference_mode()
def branch_odds(
    loaded: Loaded,
    questions: Sequence[Sequence[Sequence[int]]],
    options: tuple[int, int],
    progress: Progress | None = None,
) -> list[list[float]]:
    """Log-odds of two one-token answers after each of several prompts that begin alike. [questions][prompts]

    Prompts are token ids; log-odds are logit(first option) - logit(second). What all prompts of a question begin with
    is computed once, their rests branch off it in the same pass; what all questions of a batch begin with is computed
    once, too. Only the places that answer, and the two options, go through the head.

    Raises BessemerError, before anything is computed, for a prompt that is longer than the model scores.
    """
    for q, prompts in enumerate(questions, 1):
        need_scoring_room(loaded, max(map(len, prompts)), f"question {q}")
    stems: list[list[int]] = []
    tails: list[list[list[int]]] = []
    owner: list[tuple[int, int]] = []  # question, its first prompt in this document
    for q, prompts in enumerate(questions):
        n = _n_shared(prompts)
        for first, group in _groups([list(p[n:]) for p in prompts]):
            stems.append(list(prompts[0][:n]))
            tails.append(group)
            owner.append((q, first))
    prefix = _common_prefix(stems)
    fed = [[*stem[len(prefix) :], *(i for t in own for i in t)] for stem, own in zip(stems, tails, strict=True)]
    limit = scoring_limit(loaded)  # fillers branch off, too, and must lie within it
    idle = [min(-len(document) % ROUND, limit - len(stem)) for document, stem in zip(fed, stems, strict=True)]
    fed = [[*document, *document[:1] * n] for document, n in zip(fed, idle, strict=True)]
    rows_2C = loaded.head.weight[list(options)].float()
    bias: torch.Tensor | None = loaded.head.bias
    odds = [[0.0] * len(prompts) for prompts in questions]
    order = sorted(range(len(fed)), key=lambda d: (len(fed[d]), d))
    for chunk in _chunks(order, [len(fed[d]) for d in order], _batch_tokens(prefix)):
        forks = [[*(len(t) for t in tails[d]), idle[d]] for d in chunk]
        hidden_NC, _ = _forward(loaded, [fed[d] for d in chunk], prefix, forks)
        at = len(prefix)
        places: list[int] = []
        for d in chunk:
            at += len(stems[d]) - len(prefix)
            for tail in tails[d]:
                at += len(tail)
                places.append(at - 1)
            at += idle[d]
        logits_S2 = F.linear(hidden_NC[places].float(), rows_2C, None if bias is None else bias[list(options)].float())
        found = iter((logits_S2[:, 0] - logits_S2[:, 1]).double().cpu().tolist())
        for d in chunk:
            q, first = owner[d]
            odds[q][first : first + len(tails[d])] = [next(found) for _ in tails[d]]
        if progress:
            progress(len(chunk) / len(fed))
    return odds


def _groups(tails: Sequence[list[int]]) -> Iterator[tuple[int, list[list[int]]]]:
    """(place of the first one, neighbours that are read together)."""
    first = 0
    while first < len(tails):
        last, size = first + 1, len(tails[first])
        while last < len(tails) and size + len(tails[last]) <= MAX_BRANCHES:
            size += len(tails[last])
            last += 1
        yield first, list(tails[first:last])
        first = last


def _chosen_logprobs(
    loaded: Loaded, hidden_NC: torch.Tensor, places: Sequence[int], targets: Sequence[int]
) -> list[float]:
    """Log-probability of targets[i] at place places[i]; a place that stands twice goes through the head once.

    What is asked for is multiplied in fp32, as in `branch_odds`: two answers of nearly one logit would be equal in
    bf16, whose numbers between 16 and 32 lie an eighth apart. So are the likeliest tokens of a place, of which its sum
    is made: a token's logit would else exceed the sum that holds it, and a sure one be likelier than 1.
    """
    unique_R, rows_S = torch.tensor(places).unique(return_inverse=True)
    device, found = hidden_NC.device, list[torch.Tensor]()
    order_S = rows_S.argsort(stable=True)  # by row, so that a slice of rows is a slice of scores
    targets_S = torch.tensor(targets)[order_S]
    counts = rows_S.bincount(minlength=len(unique_R)).split(HEAD_ROWS)
    parts = targets_S.split([int(c.sum()) for c in counts])
    weight_VC, bias_V = loaded.head.weight, loaded.head.bias
    for rows_R, count_R, target_S in zip(unique_R.split(HEAD_ROWS), counts, parts, strict=True):
        hidden_RC, chosen_S = hidden_NC[rows_R.to(device)], target_S.to(device)
        logits_RV = loaded.head(hidden_RC).float()
        best_RK = logits_RV.topk(min(EXACT, logits_RV.shape[1]), dim=-1).indices
        exact_RK = (weight_VC[best_RK].float() @ hidden_RC.float()[:, :, None])[:, :, 0]
        at_S = torch.repeat_interleave(count_R).to(device)
        logits_S = (hidden_RC[at_S].float() * weight_VC[chosen_S].float()).sum(-1)
        if bias_V is not None:
            logits_S = logits_S + bias_V[chosen_S].float()
            exact_RK = exact_RK + bias_V[best_RK].float()
        logits_RV.scatter_(1, best_RK, exact_RK)
        found.append((logits_S - logits_RV.logsumexp(-1)[at_S]).double().cpu())
    logprobs_S = torch.empty(len(targets), dtype=torch.double)
    logprobs_S[order_S] = torch.cat(found)
    return logprobs_S.tolist()


def _chunks(order: list[int], lengths: list[int], size: int | None = None) -> list[list[int]]:
    """Cut a list of documents into batches of at most `size` tokens."""
    chunks: list[list[int]] = []
    size = size or BATCH_TOKENS
    tokens = size
    for item, length in zip(order, lengths, strict=True):
        if tokens + length > size:
            chunks.append([])
            tokens = 0
        chunks[-1].append(item)
        tokens += length
    return chunks


def _batch_tokens(prefix: Sequence[int]) -> int:
    """Tokens of a batch: enough to make the prefix cheap, and so few that its keys, repeated for each, have room."""
    most = max(BATCH_TOKENS, 4 * len(prefix))
    return max(256, min(most, CELLS // len(prefix))) if prefix else most


def n_same(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two texts have in common at their beginnings."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _n_shared(ids: Sequence[Sequence[int]]) -> int:
    """How many ids all texts begin with, so that each has one left."""
    first, last = min(map(list, ids)), max(map(list, ids))  # all others lie between them
    return min(n_same(first, last), *(len(i) - 1 for i in ids))


def _stem(branches: Branches) -> list[int]:
    """What all continuations of a prompt begin with; a single one needs no stem."""
    return list(branches[0][: _n_shared(branches)]) if len(branches) > 1 else []


def _common_prefix(ids: Sequence[Sequence[int]]) -> list[int]:
    """What all prompts begin with, to be computed once a batch; empty when it is short or would be a whole prompt, and
    when long prompts share little, which would read them without the fused kernel for next to nothing."""
    n, longest = _n_shared(ids) if len(ids) > 1 else 0, max(map(len, ids), default=0)
    return [] if n < SMALLEST_PREFIX or (longest >= FUSED_FROM and n < longest // 16) else list(ids[0][:n])


def _forward(
    loaded: Loaded, documents: Sequence[Sequence[int]], prefix: Sequence[int] = (), tails: Sequence[Sequence[int]] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """(last hidden states, tokens) of the prefix, where there is one, and the documents, end to end.

    tails: lengths of the pieces at each document's end that all continue what stands before them.
    """
    device = loaded.machine.device
    parts = [prefix, *documents] if prefix else documents
    tokens_N = torch.tensor([i for d in parts for i in d], device=device)
    own_tails = [(), *tails] if prefix and tails else tails or [()] * len(parts)
    positions = [
        i
        for d, (part, tail) in enumerate(zip(parts, own_tails, strict=True))
        for i in _positions(len(prefix) if prefix and d else 0, len(part), tail)
    ]
    sees = [i > 0 for i in range(len(parts))] if prefix else ()
    forks = [tail if sum(n > 0 for n in tail) > 1 else () for tail in own_tails]  # one continuation is no fork
    layout = loaded.layout([len(d) for d in parts], sees, forks if any(forks) else ())
    positions_N = torch.tensor(positions, device=device)
    return loaded.hidden(tokens_N, positions_N, layout), tokens_N


def _positions(begin: int, n: int, tail: Sequence[int]) -> Iterator[int]:
    """Where each token of a document stands in the text that it belongs to."""
    fork = begin + n - sum(tail)
    yield from range(begin, fork)
    for length in tail:
        yield from range(fork, fork + length)
