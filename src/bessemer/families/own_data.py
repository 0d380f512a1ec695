"""`from: family`: the general data that a family was itself trained on, as ordinary sources of the recipe.

A source `replay: {from: "family:pre", role: general}` becomes one source for each part of the family's published
mixture for that stage, `replay-PART`, and its share of a mixture is divided by the published weights. The plan shows
the recipe after that, so every part has its own digest, tokens and epochs.
"""

from __future__ import annotations

import re

import yaml

from bessemer.errors import BessemerError
from bessemer.families import catalogue, hub
from bessemer.families.schema import Data, Part
from bessemer.recipe.load import parse_recipe
from bessemer.recipe.schema import Recipe, is_family

BYTES_PER_TOKEN = 6  # of text; more than any family's tokenizer needs, so that a sample of files is large enough


def with_family_data(recipe: Recipe) -> Recipe:
    """The recipe with every `from: family[:STAGE]` written out.

    Raises BessemerError when the start is not in the catalogue, or its data is not known or closed.
    """
    asked = {name: s for name, s in recipe.sources.items() if is_family(s)}
    if not asked:
        return recipe
    values = recipe.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for name, source in asked.items():
        where = f"sources.{name}.from"
        data = _data(recipe.start, source.from_.partition(":")[2], where)
        shares = _shares(data)
        if taken := sorted(values["sources"].keys() & {f"{name}-{part}" for part in shares}):
            raise BessemerError(
                f"its parts become sources of their own, but there is already a source {', '.join(taken)}",
                where=where,
                fix="give one of them another name",
            )
        kept = {k: v for k, v in values["sources"].pop(name).items() if k not in {"from", "kind"}}
        for part in (p for p in data.parts if p.name in shares):
            text = {"from": _address(part, _tokens(recipe, name) * shares[part.name], where), "kind": part.kind}
            weight = {"weight": kept.get("weight", 1) * shares[part.name]} if recipe.blends else {}
            values["sources"][f"{name}-{part.name}"] = {"category": name} | kept | weight | text
        for stage in values["stages"]:
            for mixed in (stage, *stage.get("changes", [])):
                if (share := mixed.get("mixture", {}).pop(name, None)) is not None:
                    mixed["mixture"] |= {f"{name}-{part}": share * of for part, of in shares.items()}
            if (weight := stage.get("loss_weight", {}).pop(name, None)) is not None:
                stage["loss_weight"] |= {f"{name}-{part}": weight * of for part, of in shares.items()}
    return parse_recipe(yaml.safe_dump(values, sort_keys=False), where=f"{recipe.name}, with the family's own data")


def _data(start: str, stage: str, where: str) -> Data:
    entry = catalogue.find(start) if "@" in start and "/" not in start else None
    if entry is None:
        raise BessemerError(
            f"{start} is no checkpoint of the catalogue, so nobody knows what it was trained on",
            where=where,
            fix="name a source of your own, or let the start write one: bessemer data sample START --name NAME",
        )
    if stage and stage not in (names := catalogue.data_names(entry.size)):
        raise BessemerError(
            f"{entry.family} has no stage or mixture {stage!r}", where=where, fix=f"known: {', '.join(names)}"
        )
    data = entry.data if not stage else catalogue.data_of(entry.size, stage)
    if data is None or data.status == "none":
        known = "closed" if data else "not known"
        raise BessemerError(
            f"the data of {entry.family} for the stage {stage or entry.stage} is {known}",
            where=where,
            fix=f"let the start write general data: bessemer data sample {start} --name replay, then "
            "from: dataset:replay@1/train",
        )
    if missing := [p.name for p in data.parts if not p.from_]:
        raise BessemerError(
            f"nobody knows where {', '.join(missing)} of it can be read", where=where, fix="name sources of your own"
        )
    return data


def _shares(data: Data) -> dict[str, float]:
    """Of each part; those without a published weight share what is left equally."""
    known = {p.name: p.share for p in data.parts if p.share is not None}
    unknown = len(data.parts) - len(known)
    rest = max(0.0, 1 - sum(known.values())) / unknown if unknown else 0.0
    shares = {p.name: known.get(p.name, rest) for p in data.parts}
    return {name: share / sum(shares.values()) for name, share in shares.items() if share > 0}


def _tokens(recipe: Recipe, name: str) -> float:
    """How many tokens of a source the stages may take; 0 when a stage's length follows from its domain data."""
    total = 0.0
    for stage in recipe.stages:
        mixtures = (stage, *stage.changes)
        share = max(1 - m.blend.domain if m.blend else m.mixture.get(name, 0.0) for m in mixtures)
        if share and not stage.tokens:
            return 0
        total += share * (stage.tokens or 0)
    return total


def _address(part: Part, tokens: float, where: str) -> str:
    """Of a hub repository only as many files as are needed: some of them hold terabytes."""
    if not part.from_.startswith("hf:"):
        return part.from_
    if tokens:
        return f"{part.from_}?bytes={round(tokens * BYTES_PER_TOKEN)}"
    repository = re.match(r"hf:([\w.-]+/[\w.-]+)", part.from_)
    if repository and hub.mirror(repository[1]):
        return part.from_
    raise BessemerError(
        f"how much of {part.from_} is needed is not known, and it may hold terabytes",
        where=where,
        fix="say how long the stages are (stages.tokens), or keep a copy of your own below BESSEMER_MIRROR",
    )
