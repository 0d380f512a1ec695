"""What the amount of data and the stage of the start speak for, each with its source. The choice is yours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bessemer.families import catalogue
from bessemer.families.catalogue import STAGES
from bessemer.families.fetch import Checkpoint
from bessemer.recipe.schema import Recipe, Stage
from bessemer.units import show_count

SMALL = 1_000_000  # domain tokens below which adapters are worth a try
MOST_EPOCHS = 4.0  # over which a source is often repeated for nothing
Plan = dict[str, Any]


def advise(recipe: Recipe, stages: list[Plan], start: Checkpoint) -> list[str]:
    """One line for each piece of advice. stages: of the plan."""
    found: list[str] = []
    for stage, planned in zip(recipe.stages, stages, strict=True):
        roles = {name: recipe.sources[name].role for name in planned["sources"]}
        domain = sum(s["tokens"] for name, s in planned["sources"].items() if roles[name] == "domain")
        if domain:
            found += [f"{planned['name']}: {line}" for line in _of_stage(recipe, stage, planned, roles, domain, start)]
    return list(dict.fromkeys(found))


def _of_stage(
    recipe: Recipe, stage: Stage, planned: Plan, roles: dict[str, str], domain: int, start: Checkpoint
) -> Iterator[str]:
    if "general" not in roles.values():
        yield (
            "no general data: 1 % of it already shields from forgetting (arXiv 2502.06042); 5 % for text near to what "
            "the model knows, 25 % for text far from it (arXiv 2403.08763)"
        )
    tuned = start.stage == "post"
    if tuned and stage.method == "full" and domain < SMALL:
        yield (
            f"{show_count(domain)} domain tokens on a finished model: `method: lora` learns a little less and forgets "
            "less (arXiv 2405.09673)"
        )
    earlier = [name for name in _earlier(start) if stage.objective == "cpt"]
    if earlier and domain >= SMALL:
        yield (
            f"{show_count(domain)} domain tokens for a {start.stage} start: data that enters before the end of the "
            f"training needs up to 1.75 times fewer tokens (arXiv 2603.16177); known here: {', '.join(earlier)}"
        )
    if tuned and stage.objective == "cpt" and all(s.objective == "cpt" for s in recipe.stages):
        yield (
            "continued pre-training of a tuned model costs skill at following instructions: train its base and tune "
            "again, or add the difference (`bessemer merge --add POST --minus BASE`, arXiv 2310.04799)"
        )
    repeated = {n: s["epochs"] for n, s in planned["sources"].items() if s["epochs"] > MOST_EPOCHS}
    for name, epochs in repeated.items():
        yield (
            f"{name} is read {epochs:.1f} times: up to 4 repetitions are as good as new text (arXiv 2305.16264), mixed "
            "with other data 15 to 20 are tolerated (arXiv 2605.12715)"
        )


def _earlier(start: Checkpoint) -> list[str]:
    """Starts of the same size that lie before this one."""
    if start.entry is None or start.stage not in STAGES:
        return []
    before = STAGES[: STAGES.index(start.stage)]
    known = catalogue.entries()
    return [name for s in before if (name := f"{start.entry.size}@{s}") in known]
