"""`bessemer data sample START`: general data that a model writes itself, for families whose own data is closed.

What the start checkpoint writes on its own is close to what it was trained on; trained on next to the domain it keeps
old skills alive (pseudo-rehearsal: Robins 1995; self-synthesised rehearsal: Huang et al., arXiv 2403.01244).
Documents begin with a word drawn from the model's own openings, so that it chooses what they are about; conversations
begin where a user speaks, so that it asks its own questions (Magpie: Xu et al., arXiv 2406.08464). Then the ordinary
preparation of data drops what is short, loops or repeats; the rest is a data set like any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch

from bessemer.data.curate.prepare import Prepared, prepare
from bessemer.data.items import Message
from bessemer.data.sources import Source, read_items
from bessemer.errors import BessemerError
from bessemer.families.fetch import Checkpoint, resolve
from bessemer.files import canonical_json, exclusive, home, need_writable, sha256_text, write_text
from bessemer.infer.model import Loaded, load
from bessemer.infer.sampling import Row, draw, next_logits, sample_together
from bessemer.recipe.data_recipe import DataRecipe
from bessemer.recipe.schema import need_name
from bessemer.track.screen import Screen
from bessemer.units import show_count

WORD = re.compile(r"[A-Z][a-z]*$")
OPENING = 8  # tokens of another text that a document begins with, when openings are given
ROWS = 32


@dataclass(frozen=True)
class Asked:
    """What is sampled. tokens: drawn, before anything is dropped. openings: address of documents whose first words
    begin the new ones; without them the model begins on its own."""

    kind: Literal["documents", "chat"] = "documents"
    tokens: int = 200_000
    longest: int = 256
    temperature: float = 1.0
    top_p: float = 0.95
    seed: int = 1
    openings: str = ""


def sample(start: str, name: str, asked: Asked, screen: Screen) -> Prepared:
    """Draw, filter and keep as the data set `name`. The same command continues after a kill.

    Raises BessemerError for an unknown start, or for conversations with a model that has no chat template.
    """
    need_name(name)
    if asked.tokens < 1:
        raise BessemerError(f"{asked.tokens} tokens are none", where="--tokens", fix="1 or more")
    base = resolve(start)
    facts = {"start": base.name, "digest": base.digest, **asdict(asked)}
    if asked.openings:
        facts["openings"] = Source(asked.openings, where="--openings").digest()
    folder = home() / "cache" / "samples" / sha256_text(canonical_json({**facts, "start": ""}))[:16]
    need_writable(folder)
    with exclusive(folder / ".lock", f"samples of {base.name}"):
        title = f"sample {show_count(asked.tokens)} tokens from {base.name}"
        with screen.step(title) as advance, closing(_parts(base, asked, folder)) as parts:
            drawn = 0
            while drawn < asked.tokens:
                tokens = next(parts)
                advance(min(tokens, asked.tokens - drawn) / asked.tokens, "")
                drawn += tokens
    return prepare(_filters(name, folder, asked), screen)


def _filters(name: str, folder: Path, asked: Asked) -> DataRecipe:
    """Small models fall into loops: repetition is judged more strictly than in text that people wrote."""
    quality: dict[str, Any] = {"word_repetition": 0.2, "ngram": 5, "character_repetition": None, "mean_line": None}
    quality["characters"] = 80 if asked.kind == "documents" else 20
    source = {"from": str(folder / "part-*.jsonl"), "kind": asked.kind, "on_error": "skip"}  # it may draw a NUL
    steps = {"repair": {}, "quality": quality, "duplicates": {}, "near_duplicates": {"jaccard": 0.7}}
    return DataRecipe.model_validate({"name": name, "sources": {"sampled": source}, "steps": steps})


def _parts(base: Checkpoint, asked: Asked, folder: Path) -> Generator[int]:
    """Batch after batch, a file each; yields the tokens that each one drew. What is there is not drawn again."""
    loaded: Loaded | None = None
    begin: Callable[[int], list[list[int]]] | None = None
    for n in count():
        path = folder / f"part-{n:05d}.jsonl"
        drawn = path.with_suffix(".drawn")
        empty = folder / f"empty-{n:05d}"
        if not path.exists() and not empty.exists():
            loaded = loaded or load(base.path, digest=base.digest, end_of_text=base.end_of_text)
            begin = begin or _openings(loaded, asked)
            rows = _draw(loaded, asked, asked.seed * 1_000_003 + n, begin)
            lines = "".join(_lines(loaded, base, asked, rows, n))
            write_text(drawn, str(sum(len(turn) for row in rows for turn in row.turns)))
            write_text(path if lines else empty, lines)  # a file without rows would be refused as a source
        if (tokens := int(drawn.read_text())) < 2 * ROWS:  # no more than what the documents were begun with
            raise BessemerError(
                f"{base.name} ends every text at once", where=base.name, fix="--openings FILE gives it first words"
            )
        yield tokens


def _draw(loaded: Loaded, asked: Asked, seed: int, openings: Callable[[int], list[list[int]]]) -> list[Row]:
    settings: dict[str, Any] = {
        "max_tokens": asked.longest,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "seed": seed,
    }
    if asked.kind == "chat":
        prompt, then = user_turn(loaded)
        return sample_together(loaded, [prompt] * ROWS, ends=loaded.eos, then=then, **settings)
    end = loaded.renderer.end_of_text_id
    assert end is not None
    begin = [*loaded.renderer.opening] or [end]  # as a document begins, or what stands before the next one
    prompts = [[*begin, *words] for words in openings(seed)]
    rows = sample_together(loaded, prompts, ends=loaded.eos | {end}, **settings)
    for row, prompt in zip(rows, prompts, strict=True):
        row.turns[0][:0] = prompt[len(begin) :]  # the opening is part of the document
    return rows


def _openings(loaded: Loaded, asked: Asked) -> Callable[[int], list[list[int]]]:
    """Seed -> the first tokens of the documents of one batch: a word that may begin one, or first words of given texts.

    A tuned model hardly knows documents and begins most of them alike. So the first token is drawn, at temperature 2,
    among those that are a capitalised word.
    """
    if asked.kind == "chat":
        return lambda _: []
    if not asked.openings:
        first_V = next_logits(loaded, [*loaded.renderer.opening] or [loaded.renderer.end_of_text_id or 0])
        words = [i for i in range(loaded.renderer.n_vocabulary) if WORD.match(loaded.renderer.decode([i]))]

        def word(seed: int) -> list[list[int]]:
            random = torch.Generator().manual_seed(seed)
            places_B = draw(first_V[words].expand(ROWS, -1), 2.0, 1.0, random)
            return [[words[place]] for place in places_B.tolist()]

        return word
    items = read_items(asked.openings, where="--openings")
    first = [ids[:OPENING] for ids in loaded.renderer.encode_texts([i.text[:400] for i in items])]
    first = [ids for ids in first if len(ids) == OPENING]
    if not first:
        raise BessemerError(f"no text has {OPENING} tokens", where="--openings", fix="give longer texts")
    return lambda seed: [first[(seed * ROWS + n) % len(first)] for n in range(ROWS)]


def user_turn(loaded: Loaded) -> tuple[list[int], list[int]]:
    """(ids up to where a user's words begin, ids from the end of those words to where the answer begins).

    The second part leaves out the token that ends the turn: the model draws it.
    """
    one, other = (loaded.renderer.chat_ids([Message("user", text)]) for text in ("Alpha", "zero"))
    begin = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    end = next(i for i, (a, b) in enumerate(zip(one[::-1], other[::-1], strict=False)) if a != b)
    after = one[len(one) - end :]
    if not after or after[0] not in loaded.eos:
        raise BessemerError(
            "the chat template ends a user's turn with words, so nobody can tell where a question ends",
            fix="kind: documents",
        )
    return one[:begin], after[1:]


def _lines(loaded: Loaded, base: Checkpoint, asked: Asked, rows: Sequence[Row], part: int) -> Iterator[str]:
    """A row of JSON for each sample. A document may stop at the longest length; a conversation must be whole."""
    decode = loaded.renderer.decode
    origin = {"licence": f"written by {base.name} ({base.licence})", "model": base.digest, "seed": asked.seed}
    origin |= {"temperature": asked.temperature, "top_p": asked.top_p}
    for n, row in enumerate(rows):
        texts = [decode(turn).strip() for turn in row.turns]
        fields = ("text",) if asked.kind == "documents" else ("prompt", "completion")
        whole = asked.kind == "documents" or row.finished
        if whole and len(texts) == len(fields) and all(texts):
            found = {"id": f"{base.digest[:8]}-{asked.seed}-{part}-{n}", **dict(zip(fields, texts, strict=True))}
            yield json.dumps(found | origin, ensure_ascii=False) + "\n"
