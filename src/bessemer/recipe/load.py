"""From YAML and `--set` to a checked recipe; every mistake is reported, with its place and a suggestion."""

# PyYAML's types say nothing about its loaders.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError

from bessemer.errors import BessemerError, Problem, RecipeError
from bessemer.recipe.schema import RULES_OF_NAMES, Recipe

MAX_BYTES = 1_000_000
Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Safe YAML that also refuses duplicate keys and aliases, and reads 3e-4 as a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed in a recipe")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.YAMLError(f"a key must be text, {key!r} is not (line {key_node.start_mark.line + 1})")
            if key in seen:
                raise yaml.YAMLError(f"key {key!r} stands twice (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _number(loader: _Loader, node: yaml.ScalarNode) -> int:
    """YAML 1.1 reads 010 as 8 and 1:30 as 90; nobody who writes a recipe means that."""
    if re.fullmatch(r"[-+]?0[0-9_]+", node.value) or ":" in node.value:
        raise yaml.YAMLError(
            f"{node.value} is no decimal number; as text it needs quotes (line {node.start_mark.line + 1})"
        )
    return loader.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _number)
# YAML 1.1 takes 3e-4 (no dot) for text; every user of a learning rate means the number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _parse_yaml(text: str, where: str) -> Any:
    if len(text.encode()) > MAX_BYTES:
        raise BessemerError(f"larger than {MAX_BYTES} bytes", where=where, fix="a recipe is a page of text")
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # a value: such as the 30th of February
        raise BessemerError(f"no valid YAML ({' '.join(str(error).split())})", where=where) from None


def _keys_at(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The names that are allowed where `path` ends, for suggestions."""
    for part in path:
        field = {f.alias or name: f for name, f in model.model_fields.items()}.get(str(part))
        model = next(_models_in(field.annotation), model) if field else model
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The model classes that a field's type names: list[Stage], dict[Name, Source], Blend | None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _suggest(word: str, allowed: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, allowed, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(allowed)}"


def _show_path(path: Sequence[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _member(item: Any) -> str:
    """Of which member of a union of number and word an error tells; empty for errors elsewhere."""
    last = str(item["loc"][-1]) if item["loc"] else ""
    return "number" if last == "constrained-float" else "word" if last.startswith("literal[") else ""


def _problems(error: ValidationError, raw: Mapping[str, Any], model: type[BaseModel]) -> list[Problem]:
    found: list[Problem] = []
    items = error.errors(include_url=False)
    # A number or a word (`lr: inherit`) fails twice: said once, as a bad number unless it is none at all.
    numbers = {item["loc"][:-1] for item in items if _member(item) == "number" and item["type"] != "float_parsing"}
    for item in items:
        if (_member(item) == "word" and item["loc"][:-1] in numbers) or (
            _member(item) == "number" and item["loc"][:-1] not in numbers
        ):
            continue
        path = [p for p in (item["loc"][:-1] if _member(item) else item["loc"]) if p != "[key]"]
        where = _show_path(path)
        match item["type"]:
            case "extra_forbidden":
                allowed = _keys_at(model, path[:-1])
                found.append(Problem(where, "unknown key", _suggest(str(path[-1]), allowed)))
            case "value_error" if not path or str(item.get("ctx", {}).get("error")).startswith("."):
                for line in str(item.get("ctx", {}).get("error")).splitlines():  # of a whole model: `place: what|word`
                    text, _, word = line.partition("|")
                    place, _, what = text.partition(": ")
                    place = where + place
                    fix = _suggest(word, list(cast(dict[str, Any], raw.get("sources") or {}))) if word else ""
                    found.append(Problem(place, what, fix))
            case "missing":
                found.append(Problem(where, "missing"))
            case "literal_error":
                choices = re.findall(r"'([^']+)'", item["msg"])
                found.append(
                    Problem(
                        where,
                        f"{item['input']!r} is none of the choices",
                        _suggest(str(item["input"]), choices),
                    )
                )
            case "secret_in_address":  # it is not said again
                found.append(Problem(where, item["msg"], "let the driver read it from its own files or environment"))
            case "string_pattern_mismatch":
                found.append(Problem(where, f"{item['input']!r} is no name", RULES_OF_NAMES))
            case _:
                found.append(Problem(where, f"{item['msg'].removeprefix('Value error, ')} (it is {item['input']!r})"))
    return found


def _independent_cross_checks(raw: Mapping[str, Any], failed: set[str]) -> list[Problem]:
    """Cross-field mistakes that can still be found when single fields are wrong: mixtures and their names."""
    sources, stages = raw.get("sources"), raw.get("stages")
    if not isinstance(sources, Mapping) or not isinstance(stages, list):
        return []
    found: list[Problem] = []
    for i, stage in enumerate(cast(list[Any], stages)):
        mixture = cast(Any, stage).get("mixture") if isinstance(stage, Mapping) else None
        if not isinstance(mixture, Mapping) or any(w.startswith(f"stages[{i}].mixture") for w in failed):
            continue
        shares = cast(Mapping[str, Any], mixture)
        names = [str(n) for n in cast(Mapping[str, Any], sources)]
        for name in shares:
            if name not in names:
                found.append(Problem(f"stages[{i}].mixture.{name}", "no source of this name", _suggest(name, names)))
        total = sum(float(v) for v in shares.values())
        if abs(total - 1) > 1e-6:
            found.append(Problem(f"stages[{i}].mixture", f"the shares add up to {total:g}, not 1"))
    return found


_PLACE = re.compile(
    r"""(?:^|\.)(?P<key>[^.\[\]"'=]+)|\[(?P<index>\d+)\]|\[(?P<quote>["'])(?P<name>[^"']+)(?P=quote)\]"""
)


def _parts_of(path: str) -> list[str | int]:
    """`stages[0].lr` -> stages, 0, lr; nothing for what is no path. Names with dots stand in ["..."]."""
    parts: list[str | int] = []
    at = 0
    while at < len(path):
        found = _PLACE.match(path, at)
        if found is None or (at == 0 and found["key"] is None):
            return []
        parts.append(int(found["index"]) if found["index"] else found["key"] or found["name"])
        at = found.end()
    return parts


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> list[Problem]:
    """Put `a.b=c` and `stages[0].lr=3e-4` into the raw recipe; values are YAML, so they have types.

    Returns the mistakes; a path must name a mapping key or an existing list index.
    """
    problems: list[Problem] = []
    for text in overrides:
        path_text, equals, value_text = text.partition("=")
        parts = _parts_of(path_text)
        if not equals or not parts:
            fix = 'such as stages[0].lr=1e-4; names with dots in quotes: sources["wiki-1.0"].max_epochs=2'
            problems.append(Problem(f"--set {text}", "not of the form key=value", fix))
            continue
        node: Any = raw
        try:
            for part in parts[:-1]:
                node = cast(list[Any], node)[int(part)] if isinstance(node, list) else node.setdefault(part, {})
            value = _parse_yaml(value_text, f"--set {path_text}")
            if not value_text.strip() and isinstance(node, dict):
                node.pop(parts[-1], None)  # `--set stages[0].tokens=` takes the key out: back to the default
            else:
                node[parts[-1] if isinstance(node, dict) else int(parts[-1])] = value
        except BessemerError as error:
            problems.append(Problem(f"--set {text}", error.what, error.fix))
        except (IndexError, ValueError, TypeError, AttributeError):
            problems.append(Problem(f"--set {text}", f"the recipe has no place {path_text}"))
    return problems


def parse(model: type[Model], text: str, *, where: str, overrides: Sequence[str] = ()) -> Model:
    """A recipe of any kind. Raises RecipeError with all mistakes, or BessemerError when the text is no YAML mapping."""
    raw = _parse_yaml(text, where)
    if not isinstance(raw, dict):
        fix = "bessemer recipe init" if model is Recipe else ""
        raise BessemerError("it is no mapping of keys to values", where=where, fix=fix)
    recipe_raw = cast(dict[str, Any], raw)
    problems = apply_overrides(recipe_raw, overrides)
    try:
        recipe = model.model_validate(recipe_raw)
    except ValidationError as error:
        problems += _problems(error, recipe_raw, model)
        if model is Recipe and any(p.where for p in problems):
            known = {(p.where, p.what) for p in problems}
            extra = _independent_cross_checks(recipe_raw, {p.where for p in problems})
            problems += [p for p in extra if (p.where, p.what) not in known]
        raise RecipeError(where, problems) from None
    problems += _booleans_for_numbers(recipe_raw, recipe.model_dump(by_alias=True))
    if problems:
        raise RecipeError(where, problems)
    return recipe


def _booleans_for_numbers(raw: Any, read: Any, at: str = "") -> list[Problem]:
    """`seed: yes` would be read as 1. read: the same places after reading."""
    pairs: list[tuple[Any, Any, str]] = []
    if isinstance(raw, dict) and isinstance(read, dict):
        inner = cast(dict[str, Any], read)
        asked = cast(dict[str, Any], raw).items()
        pairs = [(value, inner[key], f"{at}.{key}" if at else key) for key, value in asked if key in inner]
    elif isinstance(raw, list) and isinstance(read, list | tuple):
        both = zip(cast(list[Any], raw), cast(Sequence[Any], read), strict=False)
        pairs = [(value, found, f"{at}[{i}]") for i, (value, found) in enumerate(both)]
    elif isinstance(raw, bool) and isinstance(read, int | float) and not isinstance(read, bool):
        return [Problem(at, f"{'yes (true)' if raw else 'no (false)'} is no number")]
    return [problem for pair in pairs for problem in _booleans_for_numbers(*pair)]


def parse_recipe(text: str, *, where: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """A training recipe. Raises as `parse` does."""
    return parse(Recipe, text, where=where, overrides=overrides)


def load(model: type[Model], path: str | Path, overrides: Sequence[str] = ()) -> Model:
    """Read a recipe file of any kind. Raises RecipeError or BessemerError."""
    path = Path(path)
    try:
        text = path.read_text()
    except OSError as error:
        raise BessemerError(f"it cannot be read ({error.strerror})", where=str(path)) from None
    except UnicodeDecodeError:
        raise BessemerError("it is no UTF-8 text", where=str(path)) from None
    return parse(model, text, where=str(path), overrides=overrides)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a training recipe. Raises as `load` does."""
    return load(Recipe, path, overrides)


def dump_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data with every default filled in."""
    return recipe.model_dump(by_alias=True, mode="json")
