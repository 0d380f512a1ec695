"""The commands as Python: what the command line does, step by step, in a program or a notebook.

>>> import bessemer
>>> recipe = bessemer.load_recipe("recipes/demo.yaml", ["seed=2"])   # doctest: +SKIP
>>> plan = recipe.plan()                                             # doctest: +SKIP
>>> result = plan.run()                                              # doctest: +SKIP
>>> result.verdict                                                   # doctest: +SKIP
'SHIP'
>>> bessemer.Release("house-rules@1").generate("What is a list?")    # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bessemer.data.items import Message
from bessemer.launch.here import quiet_libraries
from bessemer.recipe import load
from bessemer.recipe.schema import Recipe
from bessemer.registry import store
from bessemer.track.screen import Screen

if TYPE_CHECKING:
    from bessemer.infer.model import Loaded
    from bessemer.run import Result


@dataclass(frozen=True)
class LoadedRecipe:
    """A checked recipe."""

    recipe: Recipe
    quiet: bool = False

    def plan(self, *, measure: bool = False) -> LoadedPlan:
        """Resolve it and write plan.lock.json. `measure` trains a few steps on copies to know the minutes."""
        from bessemer.run import plan_run

        quiet_libraries()
        prepared = plan_run(self.recipe, Screen(quiet=self.quiet), measured=measure)
        return LoadedPlan(self, prepared.plan)


@dataclass(frozen=True)
class LoadedPlan:
    """A plan; `values` is plan.lock.json."""

    source: LoadedRecipe
    values: dict[str, Any]

    def run(self, *, restart: bool = False) -> Result:
        """Train, measure and release; continues a run that was stopped. restart: begin again, as a next version.

        Raises BessemerError.
        """
        from bessemer.run import run_recipe

        return run_recipe(self.source.recipe, Screen(quiet=self.source.quiet), restart=restart)


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, quiet: bool = False) -> LoadedRecipe:
    """Read and check a recipe file. overrides: like `--set`. Raises RecipeError with every mistake."""
    return LoadedRecipe(load.load_recipe(path, overrides), quiet)


class Release:
    """A release of the local registry: every byte is checked when it is opened; loaded when first used."""

    def __init__(self, reference: str) -> None:
        self.stored = store.open_release(reference)
        self.reference, self.digest, self.path = self.stored.reference, self.stored.digest, self.stored.path
        self.manifest = self.stored.manifest

    @cached_property
    def loaded(self) -> Loaded:
        from bessemer.infer.model import load as load_model

        quiet_libraries()
        return load_model(self.path, digest=self.digest, end_of_text=self.manifest["end_of_text"])

    def generate(
        self, prompt: str | Sequence[dict[str, str]], *, max_tokens: int = 128, temperature: float = 0.0, seed: int = 0
    ) -> str:
        """Answer a question, or a conversation given as [{"role", "content"}]. Greedy by default."""
        from bessemer.infer.generate import generate

        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        ids = self.loaded.renderer.chat_ids([Message(m["role"], m["content"]) for m in messages])
        tokens = generate(self.loaded, ids, max_tokens=max_tokens, temperature=temperature, seed=seed)
        return "".join(token.text for token in tokens)

    def score(self, prompt: Sequence[dict[str, str]], options: Sequence[str]) -> dict[str, float]:
        """Log-probability (nats) of each option's first token as the answer to a conversation."""
        from bessemer.infer.score import option_logprobs

        messages = [Message(m["role"], m["content"]) for m in prompt]
        (row,) = option_logprobs(self.loaded, [messages], options)
        return dict(zip(options, row.tolist(), strict=True))
