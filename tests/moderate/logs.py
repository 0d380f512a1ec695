"""Synthetic moderation logs: what is removed holds a word of the rule."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.tiny import WORDS

RULES = {"iron": "no-iron", "steel": "no-steel", "coal": "no-coal", "slag": "no-slag"}
FILLER = [w for w in WORDS if w not in {"steel", "iron"}]
MARKS = ["!", "?", ".", "...", " :)", " #wow", " 12345", " @bob", ""]


def sentence(rng: random.Random, *words: str) -> str:
    chosen = [*rng.sample(FILLER, rng.randint(6, 12)), *words]
    rng.shuffle(chosen)
    return (" ".join(chosen).capitalize() if rng.random() < 0.5 else " ".join(chosen)) + rng.choice(MARKS)


def log_rows(n: int, seed: int = 1) -> list[dict[str, Any]]:
    """Two communities; a third of the comments is removed, some removals are overturned."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for i in range(n):
        community = "forge" if i % 3 else "mill"
        word = rng.choice([*RULES])
        row: dict[str, Any] = {
            "id": i,
            "community": community,
            "time": f"2026-{1 + 11 * i // n:02d}-15",
            "group": f"t{i // 2}",
        }
        if rng.random() < 0.4:
            row |= {"body": sentence(rng, word), "reason": RULES[word], "action": "removecomment"}
        elif rng.random() < 0.2:
            row |= {"body": sentence(rng), "reason": RULES[word], "action": "remove", "appeal": "overturned"}
        else:
            row |= {"body": sentence(rng), "reason": "", "action": "approvecomment"}
        rows.append(row)
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_recipe(folder: Path, n: int = 500) -> Path:
    """Logs, comments, a policy and the recipe, in `folder`."""
    write_rows(folder / "log.jsonl", log_rows(n))
    rng = random.Random(5)
    write_rows(folder / "comments.jsonl", [{"text": sentence(rng)} for _ in range(n)])
    rules = "".join(f"  - {{id: {rule}, text: Nothing about {word}.}}\n" for word, rule in RULES.items())
    (folder / "policy.yaml").write_text(f"name: forge\ncommunity: forge\nrules:\n{rules}")
    path = folder / "recipe.yaml"
    path.write_text(f"""
name: forge-rules
logs:
  log: {{from: {folder}/log.jsonl, columns: {{text: body, rule: reason}}}}
comments:
  more: {{from: {folder}/comments.jsonl}}
policies: [{folder}/policy.yaml]
computed: {{twins: 200, held_out: 60}}
""")
    return path
