"""A recipe's stage -> the data it feeds, exactly: token sets, packed and mixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bessemer.data import columns, encode, fast, formats, items, render, shards, sources, template
from bessemer.data.batch import PackedSource, StageData
from bessemer.data.pack import Packer
from bessemer.data.render import Renderer
from bessemer.data.shards import TokenSet
from bessemer.data.shares import make_mixture
from bessemer.data.sources import Source
from bessemer.errors import BessemerError
from bessemer.files import sha256_file, sha256_text
from bessemer.recipe.schema import Recipe, Stage
from bessemer.recipe.schema import Source as RecipeSource

Say = Callable[[str], None]


def tokenise(recipe: Recipe, renderer: Renderer, say: Say = lambda _: None) -> dict[str, TokenSet]:
    """The token set of every source of a recipe, made where it is not there yet."""
    return {
        name: tokenise_source(f"{recipe.name}.{name}", source, renderer, say)
        for name, source in open_sources(recipe).items()
    }


def open_sources(recipe: Recipe) -> dict[str, Source]:
    return {name: Source.of(asked, f"sources.{name}") for name, asked in recipe.sources.items()}


def tokenise_source(name: str, source: Source, renderer: Renderer, say: Say = lambda _: None) -> TokenSet:
    """The token set of a source, `name@version`. What the source refused is in its manifest."""
    reading = {"data": source.digest(), "on_error": source.on_error}
    ingredients = {**reading, **renderer.ingredients(source.kind), "code": _code()}

    def report() -> dict[str, Any]:
        if source.digest() != reading["data"]:
            raise BessemerError(
                "it changed while it was read", where=source.where, fix="run it again when nobody writes to it"
            )
        return {"refused": {"n": source.refused.n, "reasons": source.refused.reasons}}

    return shards.open_or_build(name, lambda: source, renderer, ingredients, report=report, say=say)


def pack_source(name: str, source: Source, renderer: Renderer, packer: Packer) -> PackedSource:
    """A source as rows, without recipe or plan. Groups of conversations lie in one row.

    Raises BessemerError for conversations that would be cut apart: an answer without its question teaches nothing.
    """
    if source.kind != "documents" and packer.long == "split":
        fix = f'Packer({packer.row_tokens}, "fail"), or "drop"'
        raise BessemerError("conversations are never split", where=name, fix=fix)
    tokens = tokenise_source(name, source, renderer)
    return PackedSource(name, tokens, tokens.pack(packer, grouped=source.kind != "documents", where=name))


def _code() -> str:
    """What turns rows into items and these into ids: a change of it makes other tokens."""
    modules = (columns, formats, items, sources, encode, fast, render, template, shards)
    return sha256_text(" ".join(sha256_file(Path(module.__file__ or "")) for module in modules))


def build_stage(recipe: Recipe, number: int, sets: Mapping[str, TokenSet], *, order: int | None = None) -> StageData:
    """Deterministic in recipe and token sets. Raises BessemerError for data that cannot be packed or mixed."""
    stage = recipe.stages[number]
    packed = [_pack(name, recipe.sources[name], sets[name], stage, recipe.seed) for name in recipe.used_by(stage)]
    order = number if order is None else order
    mixture, phases = make_mixture(recipe, stage, packed, where=f"stages[{number}]", number=order)
    anchored = frozenset(
        p.name for p in packed if stage.general == "start" and recipe.sources[p.name].role == "general"
    )
    return StageData(tuple(packed), mixture, stage.rows, dict(stage.loss_weight), anchored, tuple(phases))


def _pack(name: str, source: RecipeSource, tokens: TokenSet, stage: Stage, seed: int) -> PackedSource:
    long = source.long or ("fail" if source.kind == "chat" else "split")
    packer = Packer(stage.row_tokens, long, seed)
    packed = tokens.pack(packer, grouped=source.kind == "chat", where=f"sources.{name}")
    lost = packed.counts.dropped + packed.counts.truncated
    if lost > source.max_lost * packed.counts.items:
        raise BessemerError(
            f"{lost} of {packed.counts.items} items are longer than a row of {stage.row_tokens} tokens and would be "
            f"dropped or truncated ({packed.counts.lost} tokens lost); at most {source.max_lost:.1%} of them may be",
            where=f"sources.{name}",
            fix=f"raise row_tokens, or set max_lost: {lost / packed.counts.items:.3f} if that is meant",
        )
    return PackedSource(name, tokens, packed)
