"""Looking at data: what the rows of a stage hold, how a mixture runs, what a source is like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bessemer.data.batch import StageData
from bessemer.data.items import Item
from bessemer.data.shards import text_hash

LANGUAGE_SAMPLE = 5000  # items whose language is told; a language model takes longer than all the rest
PARTS = 20  # of a run, in the picture of its mixture


@dataclass(frozen=True)
class Shown:
    """A document in a row: its tokens as runs of (text, whether they are targets)."""

    row: int
    source: str
    id: str
    runs: tuple[tuple[str, bool], ...]
    tokens: int
    supervised: int


def show_rows(data: StageData, decode: Any, first: int, n: int) -> list[Shown]:
    """Rows `first` to `first + n` of a stage, in the order in which they are trained. decode: ids -> text."""
    shown: list[Shown] = []
    sources = {s.name: s for s in data.sources}
    for k in range(first, min(first + n, len(data.mixture))):
        pick = data.mixture[k]
        for segment in sources[pick.source].row(pick.row):
            runs = tuple(_runs(segment.ids_L.tolist(), segment.supervised_L.tolist(), decode))
            supervised = int(segment.supervised_L.sum())
            shown.append(Shown(k, pick.source, segment.id, runs, len(segment.ids_L), supervised))
    return shown


def show_items(items: Sequence[Item], renderer: Any, source: str) -> list[Shown]:
    """Items as the model would see them, each as a row of its own."""
    shown: list[Shown] = []
    for i, e in enumerate(renderer.render(items)):
        runs = tuple(_runs(e.ids_L.tolist(), e.supervised_L.tolist(), renderer.decode_all))
        shown.append(Shown(i, source, e.id, runs, len(e.ids_L), int(e.supervised_L.sum())))
    return shown


def _runs(ids: Sequence[int], supervised: Sequence[bool], decode: Any) -> Iterable[tuple[str, bool]]:
    begin = 0
    for i in range(1, len(ids) + 1):
        if i == len(ids) or supervised[i] != supervised[begin]:
            yield decode(ids[begin:i]), supervised[begin]
            begin = i


@dataclass(frozen=True)
class Course:
    """What part of a run feeds: tokens of each source."""

    at: float  # share of the rows at its end
    tokens: dict[str, int]


def mixture_course(data: StageData, parts: int = PARTS) -> list[Course]:
    """The mixture over the run in equal parts, from the rows that really come."""
    n, course = len(data.mixture), list[Course]()
    parts = max(1, min(parts, n // (5 * len(data.sources))))  # a part of a few rows would only show their order
    per_row = {s.name: s.n_tokens / s.n_rows for s in data.sources}
    before = dict.fromkeys(per_row, 0)
    for part in range(1, parts + 1):
        taken = data.mixture.taken(k := n * part // parts)
        course.append(Course(k / n, {s: round((taken[s] - before[s]) * per_row[s]) for s in taken}))
        before = taken
    return course


@dataclass(frozen=True)
class Statistics:
    """A source in numbers."""

    items: int
    characters: int
    tokens: int | None  # None without a tokenizer
    supervised: int | None
    histogram: tuple[tuple[int, int, int], ...]  # (from, below, items) by length in the unit
    unit: str
    duplicates: int  # items whose letters and digits another item has already
    groups: int
    columns: dict[str, int]  # other columns, and how many items have them
    languages: dict[str, int]  # of the first LANGUAGE_SAMPLE items; "unsure" below a probability of .5
    personal: dict[str, int]  # personal data and secrets found, by kind


def statistics(items: Iterable[Item], renderer: Any = None, sample: int = 4096) -> Statistics:
    """Read a source once. renderer: to count tokens; without it lengths are in characters."""
    from bessemer.data.curate.pii import mask
    from bessemer.data.curate.texts import whole_text

    identify = _identifier()
    lengths: list[int] = []
    texts: Counter[int] = Counter()
    languages: Counter[str] = Counter()
    personal: Counter[str] = Counter()
    columns: Counter[str] = Counter()
    groups: set[str] = set()
    n_items = characters = supervised = 0
    batch: list[Item] = []

    def count() -> None:
        nonlocal supervised
        for example in renderer.render(batch) if renderer else ():
            lengths.append(len(example.ids_L))
            supervised += int(example.supervised_L.sum())
        batch.clear()

    for item in items:
        n_items += 1
        text = whole_text(item)
        size = len(text)
        characters += size
        personal.update(mask(text)[1])
        if languages.total() < LANGUAGE_SAMPLE and identify:
            language, sure = identify(text)
            languages[language if sure >= 0.5 else "unsure"] += 1
        texts[int(text_hash(item))] += 1
        columns.update(item.meta.keys())
        groups.add(item.cluster)
        if renderer:
            batch.append(item)
            if len(batch) >= sample:
                count()
        else:
            lengths.append(size)
    count()
    return Statistics(
        items=n_items,
        characters=characters,
        tokens=sum(lengths) if renderer else None,
        supervised=supervised if renderer else None,
        histogram=_histogram(lengths),
        unit="tokens" if renderer else "characters",
        duplicates=sum(n - 1 for n in texts.values()),
        groups=len(groups),
        columns=dict(columns),
        languages=dict(languages.most_common()),
        personal=dict(personal.most_common()),
    )


def _identifier() -> Callable[[str], tuple[str, float]] | None:
    """The language identifier; None without the extra `data`."""
    try:
        from bessemer.data.curate.steps import identify
    except ModuleNotFoundError:
        return None
    return identify


def _histogram(lengths: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Bins that double: lengths of texts spread over orders of magnitude."""
    bits = np.array([max(n, 1).bit_length() for n in lengths])
    return tuple((1 << b >> 1, 1 << b, int((bits == b).sum())) for b in range(bits.min(), bits.max() + 1))
