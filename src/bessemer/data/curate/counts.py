"""What a step did: items and tokens in and out, why items went, and a few examples to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bessemer.data.curate.pii import mask_all
from bessemer.data.curate.texts import whole_text
from bessemer.data.items import Item

EXAMPLES = 3  # kept for each reason
EXCERPT = 120  # characters


@dataclass
class Counts:
    """The record of one step. Records of parts add up in the order of the parts. mask: takes personal data out of
    examples."""

    step: str
    items_in: int = 0
    items_out: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    why: Counter[str] = field(default_factory=Counter[str])  # reason -> items dropped
    did: Counter[str] = field(default_factory=Counter[str])  # what was changed or marked -> times
    examples: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    mask: Callable[[str], str] = mask_all

    def take(self, tokens: int) -> None:
        self.items_in += 1
        self.tokens_in += tokens

    def give(self, tokens: int) -> None:
        self.items_out += 1
        self.tokens_out += tokens

    def drop(self, item: Item, reason: str, note: str = "") -> None:
        self.why[reason] += 1
        self.show_item(reason, item, note)

    def show_item(self, reason: str, item: Item, note: str = "") -> None:
        if len(self.examples.get(reason, ())) < EXAMPLES:  # else nobody masks what nobody sees
            self.show(reason, f"{excerpt(item, self.mask)}{note}")

    def show(self, reason: str, text: str) -> None:
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            shown.append(text)

    def add(self, other: dict[str, Any]) -> None:
        """Add the record of a further part, as written by `as_json`."""
        self.items_in += other["items_in"]
        self.items_out += other["items_out"]
        self.tokens_in += other["tokens_in"]
        self.tokens_out += other["tokens_out"]
        self.why.update(other["why"])
        self.did.update(other["did"])
        for reason, texts in other["examples"].items():
            for text in texts:
                self.show(reason, text)

    def as_json(self) -> dict[str, Any]:
        values = {name: value for name, value in vars(self).items() if name != "mask"}
        return values | {"why": dict(sorted(self.why.items())), "did": dict(sorted(self.did.items()))}


def excerpt(item: Item, mask: Callable[[str], str] = mask_all) -> str:
    """The item's first words, with personal data masked: reports are passed around more freely than data."""
    text = " ".join(mask(whole_text(item)[: 4 * EXCERPT]).split())
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"
