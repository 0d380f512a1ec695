"""What the recipe says of a stage's mixture -> exact shares in tokens, then in rows, and how many rows there are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from bessemer.data import mixture
from bessemer.errors import BessemerError
from bessemer.recipe.schema import Blend, Recipe, Source, Stage
from bessemer.recipe.schema import Change as RecipeChange
from bessemer.units import show_count

Shares = dict[str, Fraction]


class Rows(Protocol):
    """What the arithmetic needs of a packed source."""

    @property
    def name(self) -> str: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def n_tokens(self) -> int: ...


@dataclass(frozen=True)
class Phase:
    """Token shares that hold from `at` (share of the stage) on; `ramp` before it they move there."""

    at: float
    ramp: float
    shares: Shares


def token_shares(recipe: Recipe, stage: Stage, n_tokens: Mapping[str, int]) -> list[Phase]:
    """Every phase of a stage. n_tokens: how much each source has, for those that keep their proportions."""
    names = recipe.used_by(stage)

    def shares(mixed: Stage | RecipeChange) -> Shares:
        if mixed.blend:
            sources = {name: recipe.sources[name] for name in names}
            return blend_shares(mixed.blend, sources, n_tokens)
        exact = {name: Fraction(str(mixed.mixture.get(name, 0))) for name in names}
        total = sum(exact.values())
        return {name: share / total for name, share in exact.items()}

    return [Phase(0.0, 0.0, shares(stage)), *(Phase(c.at, c.ramp, shares(c)) for c in stage.changes)]


def blend_shares(blend: Blend, sources: Mapping[str, Source], n_tokens: Mapping[str, int]) -> Shares:
    """Two levels to one: the domain share, then categories inside the general part, then sources in a category.

    What is not named keeps its proportions: tokens ** (1 / temperature), and inside a category the sources' weights,
    where they have some.
    """
    natural = {name: _exact(n_tokens[name] ** (1 / blend.temperature)) for name in sources}
    category = {n: s.category or n for n, s in sources.items() if s.role == "general"}
    size: Shares = {}
    for name, c in category.items():
        size[c] = size.get(c, Fraction(0)) + natural[name]
    for name, c in category.items():
        if (weight := sources[name].weight) is not None:
            weights = [s.weight or 0 for n, s in sources.items() if category.get(n) == c]
            natural[name] = size[c] * Fraction(str(weight)) / sum(Fraction(str(w)) for w in weights)
    named = {c: Fraction(str(share)) for c, share in blend.general.items()}
    left = max(Fraction(0), 1 - sum(named.values()))
    unnamed = sum((s for c, s in size.items() if c not in named), Fraction(0))
    inside = {c: named[c] if c in named else left * s / unnamed for c, s in size.items()}
    domain = sum((natural[n] for n, s in sources.items() if s.role == "domain"), Fraction(0))
    part = Fraction(str(blend.domain))
    shares = {
        name: part * natural[name] / domain
        if source.role == "domain"
        else (1 - part) * inside[category[name]] * natural[name] / size[category[name]]
        for name, source in sources.items()
    }
    total = sum(shares.values())  # 1, but for named shares that add up to 0.999999
    return {name: share / total for name, share in shares.items()}


def _exact(value: float) -> Fraction:
    return Fraction(round(value * 1000), 1000)


def row_shares(shares: Mapping[str, Fraction], packed: Sequence[Rows]) -> Shares:
    """Shares in tokens -> shares in rows. Conversations leave places of a row empty, so a source whose rows hold
    fewer tokens gets more rows; its share of the tokens is then what the recipe says."""
    per_token = {p.name: shares[p.name] * p.n_rows / p.n_tokens for p in packed}
    total = sum(per_token.values())
    return {name: share / total for name, share in per_token.items()}


def mean_shares(phases: Sequence[Phase]) -> Shares:
    """Shares over the whole stage: what each source gets of all rows."""
    total = dict.fromkeys(phases[0].shares, Fraction(0))
    for i, phase in enumerate(phases):
        then = phases[i + 1] if i + 1 < len(phases) else None
        end = Fraction(str(then.at)) if then else Fraction(1)
        ramp = Fraction(str(then.ramp)) if then else Fraction(0)
        flat = end - ramp - Fraction(str(phase.at))
        for name, share in phase.shares.items():
            total[name] += share * flat + ((share + then.shares[name]) / 2 * ramp if then else 0)
    return total


def make_mixture(
    recipe: Recipe, stage: Stage, packed: Sequence[Rows], *, where: str, number: int = 0
) -> tuple[mixture.Mixture, list[Phase]]:
    """The stage's order of rows, and its phases in shares of tokens. number: of the stage, from 0; each has an order of
    its own, so that a source used by several is not read from the same beginning.

    Raises BessemerError when a source would be repeated more often than it may.
    """
    phases = token_shares(recipe, stage, {p.name: p.n_tokens for p in packed})
    in_rows = [Phase(p.at, p.ramp, row_shares(p.shares, packed)) for p in phases]
    mean = mean_shares(in_rows)
    n_steps = math.ceil(_n_rows(stage, recipe, packed, mean) / stage.rows)
    n_rows = n_steps * stage.rows
    _refuse_repetition(recipe, packed, mean, n_rows, stage, where)
    changes: list[mixture.Change] = []
    for phase in in_rows[1:]:
        at, last = max(1, round(phase.at * n_rows)), changes[-1].at if changes else 0
        start = max(last, round((phase.at - phase.ramp) * n_rows))  # rounded as the change that it may begin at
        changes.append(mixture.Change(at, phase.shares, max(0, at - start)))
    seed = recipe.seed + (number << 32)
    mixed = mixture.Mixture(
        in_rows[0].shares, {p.name: p.n_rows for p in packed}, changes=changes, n_rows=n_rows, seed=seed
    )
    return mixed, phases


def _n_rows(stage: Stage, recipe: Recipe, packed: Sequence[Rows], mean: Shares) -> int:
    """Rows of the stage: the tokens asked for, or as many as feed every domain source once."""
    if stage.tokens is not None:
        return math.ceil(stage.tokens / sum(float(mean[p.name]) * p.n_tokens / p.n_rows for p in packed))
    own = (p for p in packed if recipe.sources[p.name].role == "domain" and mean[p.name])
    return max(math.ceil(p.n_rows / mean[p.name]) for p in own)


def _refuse_repetition(
    recipe: Recipe, packed: Sequence[Rows], mean: Shares, n_rows: int, stage: Stage, where: str
) -> None:
    """Two remedies with numbers: fewer tokens in all, or a smaller share of the scarce source."""
    per_row = sum(float(mean[p.name]) * p.n_tokens / p.n_rows for p in packed)
    worst: tuple[float, Rows] | None = None
    for p in packed:
        epochs, cap = float(mean[p.name]) * n_rows / p.n_rows, recipe.sources[p.name].max_epochs
        # The last step is filled up to whole rows; that alone is no repetition too many.
        slack = (float(mean[p.name]) * stage.rows + 1) / p.n_rows
        if epochs > cap + slack and (worst is None or epochs / cap > worst[0]):
            worst = (epochs / cap, p)
    if worst is None:
        return
    p, cap = worst[1], recipe.sources[worst[1].name].max_epochs
    epochs = float(mean[p.name]) * n_rows / p.n_rows
    best = cap * p.n_rows / float(mean[p.name]) * per_row
    share = float(mean[p.name]) * (p.n_tokens / p.n_rows) / per_row
    raise BessemerError(
        f"{show_count(round(n_rows * per_row))} tokens at a share of {share:.3g} would repeat source {p.name} "
        f"({show_count(p.n_tokens)} tokens) {epochs:.1f} times; at most {cap:g} times are allowed, which is reached at "
        f"{show_count(round(best))} tokens",
        where=where,
        fix=f"tokens: {max(1, int(best) - 1)}; or a share of {share * cap / epochs:.3g} for {p.name}; "
        f"or sources.{p.name}.max_epochs: {math.ceil(epochs)} if so much repetition is meant",
    )
