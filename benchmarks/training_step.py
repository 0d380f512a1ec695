"""One sft step of ours against the usual one, on the same documents: seconds, interleaved, ratio of medians.

Peer: a plain PyTorch loop on transformers' own model, as its Trainer does it: one padded batch, bf16 autocast over
fp32 weights, the model's own loss, AdamW. Ours: documents end to end without padding, head at supervised positions
only, bf16 weights with fp32 masters. Full rank in both. Usage: training_step.py [--steps 6] [--start CHECKPOINT]
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from bessemer.data.batches import NO_TARGET, Batch
from bessemer.data.stage import build_stage, open_sources
from bessemer.families.fetch import Checkpoint, resolve
from bessemer.launch.here import quiet_libraries
from bessemer.recipe.schema import Recipe
from bessemer.train.loop import make_optimizer, train_step
from bessemer.train.weights import prepare

RULES = {"objective": "sft", "mixture": {"rules": 1}, "row_tokens": 512, "rows": 4}


def recipe(start: str) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "bench",
            "start": start,
            "sources": {"rules": {"from": "bessemer:rules/train", "kind": "chat"}},
            "stages": [RULES],
            "probes": {"topics": {"from": "bessemer:python/topics"}},
            "tasks": {"rules": {"from": "bessemer:rules/trained", "metric": "auroc"}},
        }
    )


class Peer:
    """transformers' model, padded batches, autocast."""

    def __init__(self, start: Checkpoint) -> None:
        from transformers import AutoModelForCausalLM

        self.model: Any = AutoModelForCausalLM.from_pretrained(start.path, dtype=torch.float32).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)

    def step(self, batch: Batch) -> float:
        documents = torch.from_numpy(batch.tokens_N).split(batch.lengths_D)
        targets = torch.from_numpy(batch.targets_N).split(batch.lengths_D)
        ids = torch.nn.utils.rnn.pad_sequence(list(documents), batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(d) for d in documents], batch_first=True)
        # transformers shifts labels itself: label t is what token t-1 predicts
        labels = torch.full_like(ids, NO_TARGET)
        for row, target in enumerate(targets):
            labels[row, 1 : len(target)] = target[:-1]
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--start", default="smollm2-135m@post")
    options = parser.parse_args()
    quiet_libraries()
    start, asked = resolve(options.start), recipe(options.start)
    trainable = prepare(start, None, 0.0)
    items = {name: list(source) for name, source in open_sources(asked).items()}
    data = build_stage(asked, asked.stages[0], items, trainable.loaded.renderer)
    optimizer, peer = make_optimizer(trainable, asked.stages[0]), Peer(start)
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    tokens: list[int] = []
    for n in range(options.steps + 1):
        batch = data.batch(n)
        begun = time.perf_counter()
        ours = train_step(trainable, optimizer, batch, "sft", 1e-6, 1.0)[0]
        middle = time.perf_counter()
        theirs = peer.step(batch)
        ended = time.perf_counter()
        if n:  # the first step of each touches new memory
            seconds["ours"].append(middle - begun)
            seconds["peer"].append(ended - middle)
            tokens.append(len(batch.tokens_N))
        print(f"step {n}: {len(batch.tokens_N)} tokens, loss {ours:.3f} / {theirs:.3f}", flush=True)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in median.items():
        print(f"{name}: {value:.2f} s a step, {statistics.median(tokens) / value:.0f} tokens/s")
    print(f"ratio of medians (peer / ours): {median['peer'] / median['ours']:.2f}")


if __name__ == "__main__":
    main()
