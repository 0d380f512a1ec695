"""A recipe's stage -> the data it feeds, exactly: rendered, packed and mixed."""

from __future__ import annotations

import math

from bessemer.data.batches import StageData
from bessemer.data.items import Item
from bessemer.data.mixture import Mixture, exact_shares
from bessemer.data.pack import PackedSource, pack_documents, pack_groups
from bessemer.data.render import Renderer
from bessemer.recipe.schema import Recipe, Stage


def read_sources(recipe: Recipe) -> dict[str, list[Item]]:
    from bessemer.data.sources import read_items

    return {
        name: read_items(s.from_, kind=s.kind, text=s.text, where=f"sources.{name}.from")
        for name, s in recipe.sources.items()
    }


def build_stage(
    recipe: Recipe, stage: Stage, items: dict[str, list[Item]], renderer: Renderer
) -> StageData:
    """Deterministic in recipe, items and tokenizer. Raises BessemerError for data that cannot be packed."""
    packed: list[PackedSource] = []
    for name in stage.mixture:
        examples = renderer.render(items[name])
        pack = pack_groups if recipe.sources[name].kind == "chat" else pack_documents
        packed.append(pack(name, examples, stage.row_tokens, recipe.seed))
    shares = exact_shares(stage.mixture)
    n_steps = math.ceil(_n_rows(recipe, stage, packed) / stage.rows)
    mixture = Mixture(
        names=tuple(shares),
        shares=tuple(shares.values()),
        n_rows_of=tuple(len(p.rows) for p in packed),
        n_rows=n_steps * stage.rows,
        seed=recipe.seed,
    )
    return StageData(tuple(packed), mixture, stage.rows, dict(stage.loss_weight))


def _n_rows(recipe: Recipe, stage: Stage, packed: list[PackedSource]) -> int:
    """Rows of the stage: the tokens asked for, or as many as feed every domain source once."""
    if stage.tokens is not None:
        return math.ceil(stage.tokens / stage.row_tokens)
    return max(
        math.ceil(len(p.rows) / stage.mixture[p.name]) for p in packed if recipe.sources[p.name].role == "domain"
    )
