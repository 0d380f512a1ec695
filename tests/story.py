"""A recipe on synthetic text and the tiny model: the whole story in seconds, and it learns."""

from __future__ import annotations

import json
import random
from pathlib import Path

import yaml

from tests.tiny import WORDS

NOUNS, OTHERS = WORDS[:40], WORDS[40:80]


def sentence(rng: random.Random, words: tuple[str, ...]) -> str:
    return " ".join(rng.choice(words) for _ in range(rng.randint(8, 20))) + "."


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def twins(rng: random.Random, n: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for i in range(n):
        comment = sentence(rng, NOUNS)
        present = comment.split()[0]
        absent = rng.choice([w for w in NOUNS if w not in comment])
        for word, answer in ((present, "yes"), (absent, "no")):
            rows.append({"prompt": f"{comment} {word}?", "completion": answer, "group": f"t{i}", "rule": "word"})
    return rows


def write_story(folder: Path, model: Path, **changes: object) -> Path:
    """Write data and recipe.yaml into `folder`; `changes` replace top-level fields of the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    files = {
        "own": [{"text": sentence(rng, NOUNS)} for _ in range(200)],
        "own-test": [{"text": sentence(rng, NOUNS)} for _ in range(60)],
        "general": [{"text": sentence(rng, OTHERS)} for _ in range(100)],
        "general-test": [{"text": sentence(rng, OTHERS)} for _ in range(60)],
        "rules": twins(rng, 60),
        "rules-test": twins(rng, 20),
    }
    paths = {name: str(write_jsonl(folder / f"{name}.jsonl", rows)) for name, rows in files.items()}
    recipe: dict[str, object] = {
        "name": "story",
        "start": str(model),
        "retain": 0.99,
        "checkpoint_every": 0.2,
        "sources": {
            "own": {"from": paths["own"]},
            "rules": {"from": paths["rules"], "kind": "chat"},
            "general": {"from": paths["general"], "role": "general"},
        },
        "stages": [
            {
                "objective": "cpt",
                "mixture": {"own": 0.75, "general": 0.25},
                "tokens": 5120,
                "lr": 3e-3,
                "row_tokens": 128,
                "rows": 2,
            },
            {
                "objective": "sft",
                "mixture": {"rules": 0.75, "general": 0.25},
                "tokens": 5120,
                "lr": 1e-3,
                "loss_weight": {"rules": 1, "general": 1},
                "freeze": 0.5,
                "row_tokens": 128,
                "rows": 2,
            },
        ],
        "probes": {"elsewhere": {"from": paths["general-test"], "tokens": 2000}},
        "tasks": {
            "own-texts": {"from": paths["own-test"], "metric": "bits_per_byte"},
            "rules": {"from": paths["rules-test"], "metric": "auroc"},
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | changes, sort_keys=False))
    return path
