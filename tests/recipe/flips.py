"""A field that changes nothing is a bug: what the tests that flip every field of a recipe share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel

Models = Mapping[str, type[BaseModel]]  # name of a section -> its model


@dataclass(frozen=True)
class Case:
    """Set `path` to `value` (text: a file of the story is meant by its name) and look at `where`.

    given: overrides that hold before and after, for fields that mean something only beside others.
    """

    path: str
    value: Any
    where: Callable[[Any], Any]
    given: tuple[str, ...] = ()


def fields(models: Models) -> set[str]:
    """Every field that holds a value, as `section.field`; those that hold further models are walked, not flipped."""
    return {
        f"{section}.{field.alias or name}".strip(".")
        for section, model in models.items()
        for name, field in model.model_fields.items()
        if not _holds_models(get_type_hints(model)[name], models)
    }


def _holds_models(annotation: Any, models: Models) -> bool:
    return annotation in models.values() or any(_holds_models(a, models) for a in get_args(annotation))
