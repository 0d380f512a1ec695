"""A small recipe that is checked but never run, for tests of what a recipe may say."""

from __future__ import annotations

import json
from typing import Any

from bessemer.recipe.load import parse_recipe
from bessemer.recipe.schema import Recipe


def recipe_with(stage: dict[str, Any], **sources: dict[str, Any]) -> Recipe:
    """One cpt stage over sources `own` (domain) and `general`; `sources` adds to them or changes them.

    Sources that only the recipe knows are fed by a second stage, so that none is unused.
    """
    own: dict[str, dict[str, Any]] = {
        "own": {"from": "own.jsonl"},
        "general": {"from": "general.jsonl", "role": "general"},
    }
    for name, fields in sources.items():
        own[name] = own.get(name, {}) | fields
    raw: dict[str, Any] = {
        "name": "asked",
        "start": "smollm2-135m@post",
        "sources": own,
        "stages": [{"objective": "cpt", **stage}],
        "probes": {"elsewhere": {"from": "probe.jsonl"}},
        "tasks": {"held-out": {"from": "task.jsonl", "metric": "bits_per_byte"}},
    }
    if extra := [name for name in own if name not in {"own", "general"}]:
        share = 1 / len(extra)
        raw["stages"].append({"objective": "cpt", "mixture": dict.fromkeys(extra, share), "tokens": 1000})
    return parse_recipe(json.dumps(raw))
