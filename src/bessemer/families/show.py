"""What `bessemer families list` and `show` put on the screen: facts with their sources."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import BaseModel

from bessemer.errors import BessemerError
from bessemer.families import catalogue
from bessemer.families.catalogue import Entry
from bessemer.families.schema import Data, Fact, Family, Packages, Size, Terms, Tokenizer
from bessemer.units import show_count

Row = list[str]  # fact, value, source
UNKNOWN = "not known"


def family_rows() -> list[Row]:
    """One line a family: sizes, stages, licences, what is known of its training data."""
    found: dict[str, list[Family]] = {}
    for family in catalogue.families():
        found.setdefault(family.family, []).append(family)
    return [
        [
            name,
            ", ".join(size for f in files for size in f.sizes),
            ", ".join(dict.fromkeys(stage for f in files for s in f.sizes.values() for stage in s.stages)),
            ", ".join(dict.fromkeys(x for f in files for x in _licences(f))),
            ", ".join(dict.fromkeys(d.status for f in files for d in f.data.values())) or UNKNOWN,
        ]
        for name, files in found.items()
    ]


def local_rows() -> list[Row]:
    """Checkpoints that come from the package index, a folder or a URL."""
    found = [e for e in catalogue.entries().values() if not e.hub]
    return [
        [e.name, show_count(e.parameters), _shown(e.package) if e.package else e.folder or e.url, e.note] for e in found
    ]


def _licences(family: Family) -> list[str]:
    return [family.licence.weights.is_, *(s.licence.weights.is_ for s in family.sizes.values() if s.licence)]


def find_any(name: str) -> Entry | Family | tuple[Family, str]:
    """A checkpoint, a family, or (family, size). Raises BessemerError."""
    if "@" in name:
        return catalogue.find(name)
    for family in catalogue.families():
        if name == family.family:
            return family
        if name in catalogue.sizes_of(family):
            return family, name
    known = [n for f in catalogue.families() for n in (f.family, *catalogue.sizes_of(f))]
    close = catalogue.nearest(name, known)
    raise BessemerError(
        f"{name!r} is no family, size or checkpoint of the catalogue",
        where="families show",
        fix=f"did you mean {close!r}?" if close else f"families: {', '.join(f.family for f in catalogue.families())}",
    )


def terms_of(name: str) -> Terms:
    """Of a family, size or checkpoint. Raises BessemerError when its licence needs no acceptance."""
    found = find_any(name)
    if isinstance(found, tuple):
        family, size = found
        terms = catalogue.sizes_of(family)[size].terms or family.terms
    else:
        terms = found.terms
    if terms is None:
        raise BessemerError(f"{name} has no terms that must be accepted", where="families accept")
    return terms


def facts_of(found: Entry | Family | tuple[Family, str]) -> list[Row]:
    """Rows of a table."""
    if isinstance(found, Entry):
        return _of_entry(found)
    if isinstance(found, Family):
        sizes = [row for name, size in catalogue.sizes_of(found).items() for row in _of_size(found, name, size)]
        return [*_of_family(found), *sizes]
    family, name = found
    return [*_of_family(family), *_of_size(family, name, catalogue.sizes_of(family)[name])]


def _of_entry(entry: Entry) -> list[Row]:
    plain = {"name", "family", "size", "stage", "sources"}
    rows = [["family", entry.family, ""], ["stage", entry.stage, ""]]
    places = {"hub", "revision", "package", "folder", "url", "digest", "terms", "note"}  # shown where there is one
    for field in dataclasses.fields(entry):
        value = getattr(entry, field.name)
        if field.name in plain or (field.name in places and not value):
            continue
        if isinstance(value, Data):
            rows += _of_data(value, entry.sources)
        elif isinstance(value, Tokenizer):
            rows += _of_tokenizer(value, entry.sources)
        else:
            rows.append([field.name, _shown(value), entry.sources.get(field.name, "")])
    return rows


def _of_family(family: Family) -> list[Row]:
    rows = [
        ["by", family.by, ""],
        ["reviewed", str(family.reviewed), ""],
        ["licence of the weights", *_fact(family, family.licence.weights)],
        ["licence of the data", *_fact(family, family.licence.data)],
        ["end_of_text", *_fact(family, family.end_of_text)],
    ]
    if family.terms:
        rows.append(["terms", _shown(family.terms), family.sources[family.terms.source]])
    if family.tokenizer:
        rows += _of_tokenizer(family.tokenizer, family.sources)
    for name, data in family.data.items():
        rows += [[f"{name}: {row[0]}", *row[1:]] for row in _of_data(data, family.sources)]
    if family.note:
        rows.append(["note", family.note, ""])
    return rows


def _of_size(family: Family, name: str, size: Size) -> list[Row]:
    rows = [[f"{name} parameters", *_fact(family, size.parameters)]]
    if size.licence:
        rows.append([f"{name} licence", *_fact(family, size.licence.weights)])
    for stage_name, stage in size.stages.items():
        entry = catalogue.make_entry(family, name, stage_name, None)
        steps = stage.known_steps()
        known = f"{len(steps)} steps, {steps[0]:,} to {steps[-1]:,}; " if len(steps) > 1 else ""
        seen = f"{entry.tokens_seen:,} tokens seen" if entry.tokens_seen else f"tokens seen: {UNKNOWN}"
        rate = f"rate there {entry.lr:g}" if entry.lr is not None else f"rate there: {UNKNOWN}"
        rows.append([f"{name}@{stage_name}", f"{known}{seen}; {rate}", entry.sources.get("tokens_seen", "")])
    return rows


def _of_data(data: Data, sources: dict[str, str]) -> list[Row]:
    source = sources.get(data.source, data.source)
    rows = [["data", data.status + (f": {data.note}" if data.note else ""), source]]
    if data.tokens:
        rows.append(["data tokens", f"{data.tokens.is_:,}", sources.get(data.tokens.source, data.tokens.source)])
    for part in data.parts:
        share = f"{part.share:.4g} of the tokens" if part.share else f"share: {UNKNOWN}"
        rows.append([f"data: {part.name}", "; ".join(filter(None, [share, part.from_, part.licence])), source])
    return rows


def _of_tokenizer(tokenizer: Tokenizer, sources: dict[str, str]) -> list[Row]:
    facts: dict[str, Fact[Any] | None] = {
        "rows of the embedding": tokenizer.rows,
        "tokenizer ids sha256": tokenizer.ids_sha256,
        "tokenizer.json sha256": tokenizer.file_sha256,
    }
    return [
        [name, _shown(fact.is_) if fact else UNKNOWN, sources.get(fact.source, fact.source) if fact else ""]
        for name, fact in facts.items()
    ]


def _fact(family: Family, fact: Any) -> Row:
    return [_shown(fact.is_), family.sources[fact.source]] if fact else [UNKNOWN, ""]


def _shown(value: Any) -> str:
    match value:
        case None | "":
            text = UNKNOWN
        case bool():
            text = "yes" if value else "no"
        case int():
            text = f"{value:,}"
        case float():
            text = f"{value:g}"
        case Packages():
            text = value.parts[0].name + (f" and {len(value.parts) - 1} more" if len(value.parts) > 1 else "")
        case Terms():
            text = f"{value.name}, which must be accepted: {value.url}"
        case _:
            text = str(value)
    return text


def as_json(found: Entry | Family | tuple[Family, str]) -> dict[str, Any]:
    """The same facts for programs; unknown is null."""
    if isinstance(found, tuple):
        family, name = found
        size = catalogue.sizes_of(family)[name]
        return {"name": name, "family": family.family, **size.model_dump(mode="json", by_alias=True)}
    if isinstance(found, Family):
        return found.model_dump(mode="json", by_alias=True)
    values = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    return {
        key: value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else value
        for key, value in values.items()
    }
