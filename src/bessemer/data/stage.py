"""A recipe's stage -> the data it feeds, exactly: rendered, packed and mixed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from bessemer.data.batches import StageData
from bessemer.data.items import Item
from bessemer.data.mixture import Mixture
from bessemer.data.pack import PackedSource, pack_documents, pack_groups
from bessemer.data.render import Renderer
from bessemer.data.sources import Source
from bessemer.recipe.schema import Recipe, Stage


def open_sources(recipe: Recipe) -> dict[str, Source]:
    return {
        name: Source(s.from_, s.kind, {str(k): v for k, v in s.columns.items()}, s.on_error, f"sources.{name}.from")
        for name, s in recipe.sources.items()
    }


def build_stage(recipe: Recipe, stage: Stage, items: dict[str, list[Item]], renderer: Renderer) -> StageData:
    """Deterministic in recipe, items and tokenizer. Raises BessemerError for data that cannot be packed."""
    packed: list[PackedSource] = []
    for name in stage.mixture:
        examples = renderer.render(items[name])
        pack = pack_groups if recipe.sources[name].kind == "chat" else pack_documents
        packed.append(pack(name, examples, stage.row_tokens, recipe.seed))
    shares = row_shares(stage.mixture, packed)
    n_steps = math.ceil(_n_rows(stage, packed, shares, recipe) / stage.rows)
    mixture = Mixture(
        names=tuple(shares),
        shares=tuple(shares.values()),
        n_rows_of=tuple(len(p.rows) for p in packed),
        n_rows=n_steps * stage.rows,
        seed=recipe.seed,
    )
    anchored = frozenset(n for n in stage.mixture if stage.general == "start" and recipe.sources[n].role == "general")
    return StageData(tuple(packed), mixture, stage.rows, dict(stage.loss_weight), anchored)


def row_shares(mixture: Mapping[str, float], packed: Sequence[PackedSource]) -> dict[str, Fraction]:
    """Shares in tokens -> shares in rows. Conversations leave places of a row empty, so a source whose rows hold
    fewer tokens gets more rows; its share of the tokens is then what the recipe says."""
    per_token = {p.name: Fraction(str(mixture[p.name])) * len(p.rows) / p.n_tokens for p in packed}
    total = sum(per_token.values())
    return {name: share / total for name, share in per_token.items()}


def _n_rows(stage: Stage, packed: Sequence[PackedSource], shares: Mapping[str, Fraction], recipe: Recipe) -> int:
    """Rows of the stage: the tokens asked for, or as many as feed every domain source once."""
    if stage.tokens is not None:
        tokens_per_row = sum(float(shares[p.name]) * p.n_tokens / len(p.rows) for p in packed)
        return math.ceil(stage.tokens / tokens_per_row)
    return max(math.ceil(len(p.rows) / shares[p.name]) for p in packed if recipe.sources[p.name].role == "domain")
