"""Families as reviewed data files: which checkpoints are known by name, what is known of each, and where it is.

`find("olmo2-1b@pre:140000")` is family olmo2, size 1b, stage pre, step 140000; without a step it is the last one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel

from bessemer.errors import BessemerError, Problem, RecipeError
from bessemer.families.schema import (
    Data,
    Family,
    Packages,
    Size,
    Stage,
    StageName,
    Terms,
    Tokenizer,
    citations,
)
from bessemer.files import home, write_text
from bessemer.recipe.load import parse

STAGES: tuple[StageName, ...] = ("pre", "mid", "post")
Model = TypeVar("Model", bound=BaseModel)
NAME = re.compile(r"^(?P<size>[a-z0-9._-]+)@(?P<stage>[a-z]+)(:(?P<step>\d+))?$")


@dataclass(frozen=True)
class Entry:
    """A checkpoint of the catalogue, and where it is: on the hub, in packages, in a folder or behind a URL.

    What nobody knows is None or empty. step: of the stage's last checkpoint where none was asked for. peak_lr: the
    highest rate until then, in earlier stages too; lr: the rate there; constant: it has not begun to fall. optimizer:
    where its state is: `included` beside the weights, `separate` in the trainer's own format, `none`.
    """

    name: str
    family: str
    size: str
    stage: str
    step: int | None
    licence: str
    parameters: int
    data_licence: str = ""
    end_of_text: str = ""
    hub: str = ""
    revision: str = ""
    package: Packages | None = None
    folder: str = ""
    url: str = ""
    digest: str = ""
    terms: Terms | None = None
    tokenizer: Tokenizer | None = None
    tokens_seen: int | None = None
    batch_tokens: int | None = None
    peak_lr: float | None = None
    lr: float | None = None
    constant: bool | None = None
    schedule: str = ""
    context: int | None = None
    optimizer: Literal["", "none", "included", "separate"] = ""
    data: Data | None = None
    note: str = ""
    sources: dict[str, str] = field(default_factory=dict, compare=False, repr=False)  # fact -> where it stands


def private_folder() -> Path:
    """Families of this machine: grown here, added by hand, or imported."""
    return home() / "families"


def families() -> list[Family]:
    """Every family file: the reviewed ones, then those of this machine. A reviewed name cannot be taken."""
    reviewed = _reviewed()
    taken = {name for family in reviewed for name in sizes_of(family)}
    private = [read(path.read_text(), where=str(path)) for path in sorted(private_folder().glob("*.yaml"))]
    return reviewed + [f for f in private if not sizes_of(f).keys() & taken]


def sizes_of(family: Family) -> dict[str, Size]:
    """{family-size: its facts}."""
    return {f"{family.family}-{size}": values for size, values in family.sizes.items()}


@cache
def _reviewed() -> list[Family]:
    found = (p for p in files("bessemer.families").iterdir() if p.name.endswith(".yaml"))
    return [read(p.read_text(), where=p.name) for p in sorted(found, key=lambda p: p.name)]


def read(text: str, *, where: str) -> Family:
    """A family file. Raises RecipeError with all mistakes: unknown keys, facts without a source, unlisted sources."""
    problems: list[Problem] = []
    family: Family | None = None
    try:
        family = parse(Family, text, where=where)
    except RecipeError as error:
        problems += error.problems
    raw = yaml.safe_load(text)
    listed = raw.get("sources") if isinstance(raw, dict) else None
    listed = listed if isinstance(listed, dict) else {}
    cited = list(citations(raw))
    for place, source in cited:
        if source not in listed:
            close = nearest(str(source), listed)
            fix = f"did you mean {close!r}?" if close else f"listed: {', '.join(listed) or 'none'}"
            problems.append(Problem(f"{place}.source", f"no source {source!r} under `sources:`", fix))
    unused = sorted(listed.keys() - {source for _, source in cited})
    problems += [Problem(f"sources.{name}", "no fact cites it") for name in unused]
    if problems or family is None:
        raise RecipeError(where, problems, of="family file")
    return family


def data_of(size: str, stage: str) -> Data | None:
    """A family's own data of a stage, for one of its sizes; or by the name of a mixture."""
    family = next(f for f in families() if size in sizes_of(f))
    known = sizes_of(family)[size].stages.get(stage)  # type: ignore[call-overload]
    return family.data.get((known.data if known else "") or stage)


def data_names(size: str) -> list[str]:
    """What `data_of` knows of a size: its stages, and the family's mixtures."""
    family = next(f for f in families() if size in sizes_of(f))
    return list(dict.fromkeys([*sizes_of(family)[size].stages, *family.data]))


def entries() -> dict[str, Entry]:
    """The last checkpoint of every stage of every size."""
    return {
        entry.name: entry
        for family in families()
        for name, size in sizes_of(family).items()
        for stage in size.stages
        for entry in [make_entry(family, name, stage, None)]
    }


def find(name: str) -> Entry:
    """A checkpoint by name. Raises BessemerError with the nearest ones when the catalogue does not have it."""
    match = NAME.match(name)
    known = {size: family for family in families() for size in sizes_of(family)}
    size = match["size"] if match else name.partition("@")[0]
    if size not in known or not match:
        raise _unknown(name, size, match["stage"] if match else "")
    family = known[size]
    stages = sizes_of(family)[size].stages
    if match["stage"] not in stages:
        close = difflib.get_close_matches(match["stage"], stages, n=1, cutoff=0.3)
        rest = f"it has {', '.join(f'{size}@{s}' for s in stages)}"
        raise BessemerError(
            f"{size} has no stage {match['stage']!r} in the catalogue",
            where="start",
            fix=f"did you mean '{size}@{close[0]}'? {rest}" if close else rest,
        )
    stage = match["stage"]
    step = int(match["step"]) if match["step"] else None
    if step is not None:
        _need_step(f"{size}@{stage}", step, stages[stage])  # type: ignore[index]
    return make_entry(family, size, stage, step)


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like it; "" when none is."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), "")


def _need_step(name: str, step: int, stage: Stage) -> None:
    steps = stage.known_steps()
    if step in steps:
        return
    if not steps:
        raise BessemerError(f"{name} has one checkpoint, without a step", where="start", fix=f"write {name}")
    near = sorted(sorted(steps, key=lambda s: abs(s - step))[:2])
    raise BessemerError(
        f"{name} has no checkpoint at step {step:,}",
        where="start",
        fix=f"the nearest: {' and '.join(f'{name}:{s}' for s in near)}; it has {len(steps)} from {steps[0]:,} to "
        f"{steps[-1]:,}",
    )


def _unknown(name: str, size: str, stage: str) -> BessemerError:
    known = entries()
    wanted = f"{size}@{stage}" if stage else name
    close = nearest(wanted, known)
    return BessemerError(
        f"{name!r} is no checkpoint of the catalogue",
        where="start",
        fix=f"did you mean {close!r}?" if close else f"known: {', '.join(known)}; or a hub id, or a folder",
    )


def make_entry(family: Family, name: str, stage_name: str, step: int | None) -> Entry:
    """What is known of one checkpoint. step: None for the stage's last one."""
    size = sizes_of(family)[name]
    stage = size.stages[stage_name]  # type: ignore[index]
    steps = stage.known_steps()
    last = steps[-1] if steps else None
    at = last if step is None else step
    terms = size.terms or family.terms
    facts: dict[str, tuple[Any, str]] = {
        "parameters": _fact(size.parameters),
        "licence": _fact((size.licence or family.licence).weights),
        "data_licence": _fact((size.licence or family.licence).data or family.licence.data),
        "end_of_text": _fact(family.end_of_text),
        "tokens_seen": _tokens_seen(stage, at, last),
        "peak_lr": _highest(size, stage_name),
        **{key: _fact(getattr(stage, key)) for key in ("batch_tokens", "context", "optimizer")},
        **_rate(stage, at, _highest(size, stage_name)[0]),
    }
    return Entry(
        name=f"{name}@{stage_name}{'' if step is None else f':{step}'}",
        family=family.family,
        size=name,
        stage=stage_name,
        step=at,
        hub=stage.hub or "",
        revision=stage.revision_of(at),
        package=stage.package,
        folder=stage.folder.replace("{step}", str(at)),
        url=stage.url,
        digest=stage.digests.get(at, stage.digest) if at is not None else stage.digest,
        terms=terms,
        tokenizer=_cited(stage.tokenizer or size.tokenizer or family.tokenizer, family),
        data=_cited(family.data.get(stage.data or stage_name), family),
        note=stage.note,
        sources={key: family.sources[source] for key, (_, source) in facts.items() if source}
        | dict.fromkeys(("hub", "revision", "package", "folder", "url", "step"), family.sources[stage.source])
        | {"terms": family.sources[terms.source] if terms else ""},
        **{key: value for key, (value, _) in facts.items() if value is not None},
    )


def _cited(value: Model | None, family: Family) -> Model | None:
    """With where each source stands instead of its short name."""

    def spell(raw: Any) -> Any:
        if isinstance(raw, dict):
            return {k: family.sources[v] if k == "source" else spell(v) for k, v in raw.items()}
        return [spell(v) for v in raw] if isinstance(raw, list) else raw

    return None if value is None else type(value).model_validate(spell(value.model_dump(by_alias=True)))


def _fact(fact: Any) -> tuple[Any, str]:
    if fact is None:
        return None, ""
    return fact.is_, fact.source


def _tokens_seen(stage: Stage, step: int | None, last: int | None) -> tuple[int | None, str]:
    """Until a step: what is said of the last one, else steps times batch, after what was seen before the stage."""
    if stage.tokens_seen and step == last:
        return _fact(stage.tokens_seen)
    if step is None or stage.batch_tokens is None:
        return None, ""
    before = stage.tokens_before.is_ if stage.tokens_before else 0
    return before + step * stage.batch_tokens.is_, stage.batch_tokens.source


def _rate(stage: Stage, step: int | None, highest: float | None) -> dict[str, tuple[Any, str]]:
    """The rate at a step, whether it has stayed at the highest one until there, and what remains of the schedule."""
    path = stage.schedule.is_ if stage.schedule else None
    share = path.share(step) if path else None
    lr, source = _fact(stage.lr)
    if stage.peak_lr and share is not None:
        lr, source = float(f"{stage.peak_lr.is_ * share:.4g}"), stage.peak_lr.source
    constant = path.stays(step) if path else None  # a fall without a known end has begun
    if constant and stage.peak_lr and highest and highest > stage.peak_lr.is_:
        constant = False  # it fell in a stage before
    return {
        "lr": (lr, source),
        "constant": (constant, ""),
        "schedule": (
            path.text(step, stage.peak_lr.is_ if stage.peak_lr else None) if path else "",
            stage.schedule.source if stage.schedule else "",
        ),
    }


def _highest(size: Size, stage: str) -> tuple[float | None, str]:
    """The highest known rate of the training up to a stage, earlier stages included."""
    until = [size.stages[s] for s in STAGES[: STAGES.index(stage) + 1] if s in size.stages]  # type: ignore[index]
    peaks = [s.peak_lr for s in until if s.peak_lr]
    return _fact(max(peaks, key=lambda fact: fact.is_)) if peaks else (None, "")


def text_of(size: str) -> str:
    """The family file that describes a size, as it was written."""
    places = [*files("bessemer.families").iterdir(), *private_folder().glob("*.yaml")]
    for path in places:
        if path.name.endswith(".yaml") and size in sizes_of(read(text := path.read_text(), where=path.name)):
            return text
    raise KeyError(size)


def write_private(family: str, parameters: int, stages: dict[str, Stage], data: dict[str, Data], run: str) -> None:
    """Put a family that was grown here into this machine's catalogue.

    family: family-size; what it was fed is told for each stage. run: that made it; facts cite it as `run`.
    """
    base, _, size = family.rpartition("-")
    values = {
        "family": base,
        "by": "this machine",
        "reviewed": datetime.now(UTC).date(),
        "sources": {"run": f"run {run} of this machine"},
        "licence": {"weights": said_by_run(f"your own (run {run})")},
        "end_of_text": said_by_run("<|endoftext|>"),
        "data": {name: _plain(mixture) for name, mixture in data.items()},
        "sizes": {
            size: {
                "parameters": said_by_run(parameters),
                "stages": {name: _plain(stage) for name, stage in stages.items()},
            }
        },
    }
    add(yaml.safe_dump(values, sort_keys=False), where=family, name=family)


def said_by_run(value: Any) -> dict[str, Any]:
    """A fact about a family that was grown here."""
    return {"is": value, "source": "run"}


def _plain(model: Stage | Data) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def need_free(sizes: Iterable[str], *, where: str) -> None:
    """Raises BessemerError when a reviewed family has one of these names."""
    reviewed = {size for known in _reviewed() for size in sizes_of(known)}
    if taken := sorted(set(sizes) & reviewed):
        raise BessemerError(
            f"{', '.join(taken)}: the catalogue that comes with Bessemer has these names",
            where=where,
            fix="give the family another name",
        )


def only(text: str, size: str, *, where: str) -> str:
    """A family file with one of its sizes. Raises BessemerError when it has no such size."""
    family = read(text, where=where)
    if size not in sizes_of(family):
        raise BessemerError(
            f"it describes {', '.join(sizes_of(family))}, not {size}", where=where, fix="export it again"
        )
    if len(family.sizes) == 1:
        return text
    raw = yaml.safe_load(text)
    own = size.removeprefix(f"{family.family}-")
    raw["sizes"] = {own: raw["sizes"][own]}
    cited = {source for _, source in citations(raw)}
    raw["sources"] = {short: source for short, source in raw["sources"].items() if short in cited}
    return yaml.safe_dump(raw, sort_keys=False)


def add(text: str, *, where: str, name: str = "") -> list[str]:
    """Check a family file and put it into this machine's catalogue; the names of its sizes.

    Raises RecipeError with all mistakes, or BessemerError when a reviewed family or another file has one of its names.
    """
    family = read(text, where=where)
    need_free(sizes_of(family), where=where)
    path = private_folder() / f"{name or family.family}.yaml"
    for other in sorted(private_folder().glob("*.yaml")):
        same = sizes_of(family).keys() & sizes_of(read(other.read_text(), where=str(other))).keys()
        if other != path and same:
            raise BessemerError(
                f"{sorted(same)[0]} is described by {other} already", where=where, fix="take it out of one of them"
            )
    write_text(path, text)
    return list(sizes_of(family))
