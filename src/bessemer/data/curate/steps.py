"""What happens to one item: datatrove pipeline steps that count what they take, change and drop."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.formatters import FTFYFormatter

from bessemer.data.curate import pii, presidio, quality
from bessemer.data.curate.counts import Counts
from bessemer.data.curate.texts import n_tokens, own_text, texts_in, with_texts
from bessemer.data.items import Item
from bessemer.recipe.data_recipe import Language, Pii, Quality

_ODD = re.compile(r"[^\t\n\r -~]|&")  # plain ASCII without HTML entities cannot have been decoded wrongly


class Step(PipelineStep):
    """A step over items. `name` is its name in the recipe; `counts` and `dropped` are its record for one task."""

    type = "Bessemer"
    name = ""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts(self.name)
        self.dropped: list[dict[str, str]] = []

    def look(self, item: Item) -> Item | None:
        """The item as it goes on, or None after `self.drop`."""
        raise NotImplementedError

    def run(self, data: Iterable[Item], rank: int = 0, world_size: int = 1) -> Iterator[Item]:  # type: ignore[override]
        for item in data:
            tokens = n_tokens(item)
            self.counts.take(tokens)
            with self.track_time():
                kept = self.look(item)
            if kept is not None and kept is not item and kept.chosen and kept.chosen == kept.rejected:
                kept = self.drop(kept, "the two answers became the same")
            if kept is not None:
                self.counts.give(tokens if kept is item else n_tokens(kept))
                yield kept

    def drop(self, item: Item, reason: str, *, note: str = "", because: str = "", shown: Item | None = None) -> None:
        """because: the id of what the item is a copy of, if it is one. shown: what an example shows in its place."""
        self.counts.drop(shown or item, reason, note)
        self.dropped.append({"id": item.id, "step": self.name, "reason": reason} | ({"of": because} if because else {}))


class RepairStep(Step):
    """Undo wrong decoding with the settings of datatrove's own formatter: encoding yes, style no."""

    name = "repair"

    def __init__(self) -> None:
        super().__init__()
        self.format = FTFYFormatter().format

    def repaired(self, item: Item) -> Item:
        """The same item where nothing is to be repaired."""
        before = texts_in(item)
        after = [self.format(text) if _ODD.search(text) else text for text in before]
        return item if after == before else with_texts(item, after)

    def look(self, item: Item) -> Item | None:
        repaired = self.repaired(item)
        if repaired is item:
            return item
        before, after = texts_in(item), texts_in(repaired)
        if any(text.strip() and not better.strip() for text, better in zip(before, after, strict=True)):
            return self.drop(item, "nothing but control characters")
        self.counts.did["items repaired"] += 1
        self.counts.show_item("items repaired", repaired)
        return repaired


class LanguageStep(Step):
    """Keep some languages. The identifier says when it cannot tell; that is a reason of its own."""

    name = "language"

    def __init__(self, settings: Language) -> None:
        super().__init__()
        self.settings = settings

    def look(self, item: Item) -> Item | None:
        language, confidence = identify(own_text(item))
        if confidence < self.settings.confidence:
            self.counts.did["unsure"] += 1
            if self.settings.unsure == "keep":
                return item
            return self.drop(item, "language unsure")
        if language not in self.settings.keep:
            return self.drop(item, f"language {language}")
        return item


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def identify(text: str) -> tuple[str, float]:
    """The language of a text (ISO 639) and how sure that is, 0 to 1. Looks at the first 10,000 characters."""
    language, confidence = _identifier().classify(text[:10_000])
    return language, float(confidence)


def languages() -> list[str]:
    """All languages that can be told apart."""
    return sorted(_identifier().labels)


class QualityStep(Step):
    """Drop what breaks a rule; the first rule broken is the reason."""

    name = "quality"

    def __init__(self, rules: Quality) -> None:
        super().__init__()
        self.rules = rules

    def look(self, item: Item) -> Item | None:
        reason = next(quality.broken_rules(own_text(item), self.rules), None)
        return item if reason is None else self.drop(item, reason)


class PiiStep(Step):
    """Replace, drop or flag personal data and secrets."""

    name = "pii"

    def __init__(self, settings: Pii) -> None:
        super().__init__()
        self.names = presidio.Names(settings.presidio) if settings.presidio else None
        actions = {kind: getattr(settings, kind) for kind in pii.KINDS} | (self.names.actions if self.names else {})
        self.actions: dict[str, str] = {kind: action for kind, action in actions.items() if action != "keep"}

    def look(self, item: Item) -> Item | None:
        for name, value in item.meta.items():
            for kind in {f.kind for f in pii.find(value, self.actions)} if isinstance(value, str) else ():
                self.counts.did[f"{kind} left in the column {name}"] += 1
        texts = texts_in(item)
        found = [self.find(text) for text in texts]
        seen = Counter(f.kind for finds in found for f in finds)
        if not seen:
            return item
        masked = with_texts(item, list(map(pii.replace, texts, found)))
        for kind in seen:
            if self.actions[kind] == "drop":
                return self.drop(item, f"holds {kind}", shown=masked)
        for kind, n in seen.items():
            self.counts.did[f"{kind} {'flagged' if self.actions[kind] == 'flag' else 'replaced'}"] += n
            self.counts.show_item(kind, masked)
        if flagged := {kind: n for kind, n in seen.items() if self.actions[kind] == "flag"}:
            item = dataclasses.replace(item, meta={**item.meta, "pii": dict(sorted(flagged.items()))})
        replaced = [[f for f in finds if self.actions[f.kind] == "replace"] for finds in found]
        return with_texts(item, list(map(pii.replace, texts, replaced)))

    def mask(self, text: str) -> str:
        """The text without anything that looks like personal data, whatever this step leaves in."""
        found = pii.find(text, pii.KINDS)
        return pii.replace(text, pii.add(found, self.names.find(text), text) if self.names else found)

    def find(self, text: str) -> list[pii.Find]:
        """Shapes are surer than a model, so they come first."""
        found = pii.find(text, self.actions)
        return pii.add(found, self.names.find(text), text) if self.names else found
