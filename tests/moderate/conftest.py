"""A policy, comments and the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bessemer.infer.model import Loaded, load
from bessemer.moderate.judge import Judge
from bessemer.moderate.policy import Policy, parse_policy
from tests.tiny import SPECIAL

YAML = """
name: steel-talk
version: 2
community: SteelTalk
rules:
  - id: no-links
    text: Do not post links.
    includes: [shortened links]
    excludes: [links to the wiki]
    examples: [{text: "see https://x.y", broken: true}, {text: "see the wiki", broken: false}]
    action: remove
    precision: 0.95
    category: illicit
  - {id: kind, text: Be kind., attribute: TOXICITY}
"""
MARKDOWN = """---
name: steel-talk
version: 2
community: SteelTalk
---
# Our rules

Read them before you write.

## no-links: Do not
post links.
- Includes: shortened links
- Excludes: links to the wiki
- Breaks: see https://x.y
- Keeps: see the wiki
- Action: remove
- Precision: 0.95
- Category: illicit

## kind: Be kind.
- Attribute: TOXICITY
"""


@pytest.fixture
def policy() -> Policy:
    return parse_policy(YAML, where="policy.yaml")


@pytest.fixture(scope="session")
def tiny(tiny_model: Path) -> Loaded:
    return load(tiny_model, digest="d" * 64, end_of_text=SPECIAL[0], dtype=torch.float32)


@pytest.fixture(scope="session")
def judge(tiny: Loaded) -> Judge:
    return Judge(tiny)
