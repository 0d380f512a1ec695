"""The policy file: a community's rules as people write them, in YAML or Markdown; its hash; stored versions.

The hash covers what the model reads and what a decision depends on, after cleaning: how a file is laid out, and which
of the two forms it has, does not change it.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from bessemer.data.moderation import RuleText, clean
from bessemer.errors import BessemerError
from bessemer.files import canonical_json, exclusive, home, read_json, sha256_text, tell, write_json
from bessemer.recipe.load import parse
from bessemer.recipe.schema import Strict

FORMAT = "bessemer.policy/1"
ORDER = "order.json"
Action = Literal["remove", "queue", "flag"]
CATEGORIES = ("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent",
              "self-harm", "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence",
              "violence/graphic")  # fmt: skip
"""Of OpenAI's moderation endpoint."""
_NAME = r"^[a-z0-9][a-z0-9._-]*$"
Named = Annotated[str, Field(pattern=_NAME, max_length=80)]
Sentence = Annotated[str, Field(min_length=1, max_length=4000)]
T = TypeVar("T")
Listed = Annotated[
    list[T], Field(fail_fast=True, max_length=200)
]  # of millions of mistakes in a request the first is told


class Example(Strict):
    text: Sentence = Field(description="A comment")
    broken: bool = Field(description="Whether it breaks the rule")


class Rule(Strict):
    """One thing that the community forbids."""

    id: Named = Field(description="What answers, logs and labels call it")
    text: Sentence = Field(description="As the community reads it")
    includes: Listed[Sentence] = Field(default_factory=list[str], description="What falls under it, too")
    excludes: Listed[Sentence] = Field(default_factory=list[str], description="What does not")
    examples: Listed[Example] = Field(default_factory=list[Example])
    action: Action = Field("queue", description="Of a comment that breaks it; flag: only say so")
    precision: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        0.9, description="Wanted share of right ones among what is acted on"
    )
    category: str | None = Field(None, description="OpenAI's name for it, which clients of that endpoint look at")
    attribute: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = Field(
        None, description="Perspective's name for it, such as TOXICITY"
    )

    @field_validator("text")
    @classmethod
    def _something(cls, value: str) -> str:
        if not clean(value):
            raise ValueError("the rule has no text")
        return value

    @field_validator("category")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in CATEGORIES:
            raise ValueError(f"{value!r} is no category; known: {', '.join(CATEGORIES)}")
        return value

    @property
    def read(self) -> RuleText:
        """What the model reads."""
        breaks = [e.text for e in self.examples if e.broken]
        return RuleText(
            self.text, self.includes, self.excludes, breaks, [e.text for e in self.examples if not e.broken]
        )


def _version(value: Any) -> Any:
    if isinstance(value, float):  # of 1.10 YAML makes 1.1
        raise ValueError(f"{value} is read as a number; put the version in quotes")
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()  # as it was written
    return str(value) if type(value) is int else value


class Policy(Strict):
    """A community's rules. `name@version` is how it is asked for, `digest` what it is."""

    name: Named = Field(description="name@version is how it is asked for")
    version: Annotated[
        str, BeforeValidator(_version), Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=40)
    ] = Field("1", description="A changed policy needs a new one")
    community: str = Field("", max_length=200, description="Its name, as the model may read it with every comment")
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = Field(
        0.8, description="A rule counts as kept when it is kept with at least this probability; between: unsure"
    )
    rules: list[Rule] = Field(min_length=1, max_length=200)

    @model_validator(mode="after")
    def _cross_check(self) -> Policy:
        seen: dict[str, int] = {}
        found: list[str] = []
        for i, rule in enumerate(self.rules):
            if rule.id in seen:
                found.append(f"rules[{i}].id: {rule.id!r} is the id of rules[{seen[rule.id]}] too")
            seen.setdefault(rule.id, i)
        if found:
            raise ValueError("\n".join(found))
        return self

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.version}"

    @cached_property
    def names(self) -> dict[str, str]:
        """What a log may call a rule, in lower case -> its id: the id, else its text."""
        texts = {clean(rule.text).casefold(): rule.id for rule in reversed(self.rules)}
        return texts | {rule.id: rule.id for rule in self.rules}

    @cached_property
    def digest(self) -> str:
        """sha256 of the cleaned content; name and version are not part of it, nor is the order of the rules."""
        content = _cleaned(self.model_dump(mode="json", exclude={"name", "version"}))
        content["rules"].sort(key=lambda rule: rule["id"])
        return sha256_text(canonical_json(content))

    def as_text(self) -> str:
        """For a chat: what a system message says about it."""
        rules = "\n".join(f"- {rule.id}: " + " ".join(rule.read.lines()).removeprefix("Rule: ") for rule in self.rules)
        return f"Rules of {self.community or self.name}:\n{rules}"


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _cleaned(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_cleaned(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    return clean(value) if isinstance(value, str) else value


# -- files ------------------------------------------------------------------------------------------------------


SUFFIXES = {".yaml", ".yml", ".md", ".markdown", ".json"}


def load_policy(argument: str | Path) -> Policy:
    """A file (.yaml, .yml, .md, .markdown, .json), else a stored `name@version`, or `name` for its newest version.

    Raises BessemerError, of a file with all its mistakes.
    """
    path = Path(argument)
    if path.suffix.lower() not in SUFFIXES and not path.exists():
        return stored(str(argument))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise BessemerError(f"the policy cannot be read ({reason})", where=str(path)) from None
    return parse_policy(text, where=str(path), markdown=path.suffix.lower() in {".md", ".markdown"})


def parse_policy(text: str, *, where: str, markdown: bool = False) -> Policy:
    """Raises BessemerError with all mistakes."""
    if not text.strip():
        raise BessemerError("the policy is empty", where=where, fix="give it a name and at least one rule")
    return parse(Policy, _yaml_of(text, where) if markdown else text, where=where)


def policy_of(value: Any, where: str = "policy") -> Policy:
    """From parsed JSON, such as a request. Raises BessemerError that names the first mistake."""
    try:
        return Policy.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"]).lstrip(".")
        what = str(first["msg"]).removeprefix("Value error, ").splitlines()[0]
        raise BessemerError(
            f"{path}: {what}" if path else what, where=where, fix="see docs/design/moderation.md"
        ) from None


# -- Markdown ---------------------------------------------------------------------------------------------------

_FIELDS = "includes|excludes|breaks|keeps|action|precision|category|attribute"
_HEAD = re.compile(r"##\s+(.+)")
_FIELD = re.compile(rf"[-*+]\s+(?:\*\*|__)?({_FIELDS})(?:\*\*|__)?\s*:(?:\*\*|__)?\s*(.+)", re.IGNORECASE)
# What people may have meant as a field, or as something that is no part of any rule.
_NO_TEXT = re.compile(
    rf"[-*+]\s.*|({_FIELDS})\s*:.*|[|>].*|<!--.*|#{{2,6}}.*|#\s.*|([-*_]\s*){{3,}}|[=-]{{2,}}|```.*", re.IGNORECASE
)


def _yaml_of(text: str, where: str) -> str:
    """Markdown -> the same policy as YAML (JSON is YAML). What stands before the first rule is for people only.

    A rule is a heading `## id: text`, paragraphs that go on with its text, then a list of fields (`- Includes: ...`; a
    field may stand several times and go on in the next line). Front matter between two lines of `---` holds the
    fields of the policy. Raises BessemerError for anything else below a rule: the model would read it as the rule.
    """
    head, body = "", text
    if text.startswith("---\n"):
        head, _, body = text[4:].partition("\n---")
    rules: list[dict[str, Any]] = []
    fields: list[tuple[dict[str, Any], str, str]] = []  # rule, field, value
    place: Literal["before", "text", "field", "behind"] = "before"  # the first rule, of a rule, its fields
    for number, line in enumerate(body.splitlines(), 1):
        words = line.strip()
        if found := _HEAD.fullmatch(line.rstrip()):
            rules.append(_headed(found[1]))
            place = "text"
        elif place == "before":
            continue
        elif not words:
            place = "text" if place == "text" else "behind"
        elif found := _FIELD.fullmatch(words):
            fields.append((rules[-1], found[1].lower(), found[2].strip()))
            place = "field"
        elif _NO_TEXT.fullmatch(words) or place == "behind":
            raise BessemerError(
                f"{words[:60]!r} would be read as words of the rule {rules[-1]['id']!r}",
                where=f"{where}, line {number} after the front matter",
                fix="a rule is a heading `## id: text`, its text, then a list of fields such as `- Action: remove` "
                f"({_FIELDS.replace('|', ', ')}); all else stands before the first rule",
            )
        elif place == "field":
            fields[-1] = (*fields[-1][:2], f"{fields[-1][2]} {words}")
        else:
            rules[-1]["text"] = f"{rules[-1]['text']} {words}".strip()
    for rule, name, value in fields:
        _take(rule, name, value)
    if not rules:
        raise BessemerError("the policy has no rules", where=where, fix="write each one as a heading: ## id: text")
    return f"{head}\nrules: {canonical_json(rules)}\n"


def _headed(heading: str) -> dict[str, Any]:
    """`id: text`, or a text alone, of which an id is made."""
    name, colon, rest = heading.partition(":")
    if colon and re.fullmatch(_NAME, name.strip()):
        return {"id": name.strip(), "text": rest.strip()}
    return {"id": _slug(heading), "text": heading.strip()}


def _take(rule: dict[str, Any], name: str, value: str) -> None:
    if name in {"includes", "excludes"}:
        rule.setdefault(name, []).extend(part.strip() for part in value.split(";") if part.strip())
    elif name in {"breaks", "keeps"}:
        rule.setdefault("examples", []).append({"text": value, "broken": name == "breaks"})
    elif name == "precision":
        rule[name] = float(value) if re.fullmatch(r"0?\.\d+", value) else value
    else:
        rule[name] = value.lower() if name in {"action", "category"} else value


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80] or "rule"


# -- stored versions --------------------------------------------------------------------------------------------


def folder_of(policy: Policy) -> Path:
    return home() / "policies" / policy.name / policy.version


def store(policy: Policy) -> Path:
    """Keep a version; written once. Raises BessemerError when another content has this name and version."""
    path = folder_of(policy) / "policy.json"
    shelf = path.parent.parent
    with exclusive(shelf.with_name(f".{policy.name}.lock"), f"the policy {policy.name}", wait=tell):
        need_same(policy)
        if not path.exists():
            write_json(shelf / ORDER, [*(v for v in _order(shelf) if v != policy.version), policy.version])
            write_json(path, {"format": FORMAT, "digest": policy.digest, **policy.model_dump(mode="json")})
    return path


def need_same(policy: Policy) -> None:
    """Raises BessemerError when another content has this name and version."""
    path = folder_of(policy) / "policy.json"
    if path.exists():
        old = _read(path)
        if old.digest != policy.digest:
            raise BessemerError(
                f"{policy.reference} is stored with other content ({old.digest[:12]}..., not {policy.digest[:12]}...)",
                where=str(path),
                fix="give the changed policy a new version",
            )


def references() -> list[str]:
    """name@version of what is stored, by name, in the order in which they were stored; without reading any."""
    shelves = sorted(p for p in (home() / "policies").glob("*") if p.is_dir())
    return [f"{shelf.name}@{path.parent.name}" for shelf in shelves for path in _in_order(shelf)]


def stored(reference: str) -> Policy:
    """`name@version`, or `name` for the version stored last. Reads no other policy.

    Raises BessemerError when there is none, or it was changed.
    """
    name, _, version = reference.partition("@")
    folder = home() / "policies"
    known = _in_order(folder / name) if re.fullmatch(_NAME, name) else []
    found = [path for path in known if path.parent.name == version] if version else known[-1:]
    if not found:
        listed = ", ".join(references()) or "none yet; `bessemer policy add FILE` stores one"
        raise BessemerError(f"there is no policy {reference[:80]!r}", where=str(folder), fix=f"stored: {listed}")
    return _read(found[0])


def _order(shelf: Path) -> list[str]:
    """Versions in the order in which they were stored. No clock says it: clocks go back, and copies are new."""
    return read_json(shelf / ORDER) if (shelf / ORDER).exists() else []


def _in_order(shelf: Path) -> list[Path]:
    place = {version: n for n, version in enumerate(_order(shelf))}
    paths = [(place.get(p.parent.name, -1), p.stat().st_mtime_ns, p) for p in shelf.glob("*/policy.json")]
    return [path for *_, path in sorted(paths)]


def _read(path: Path) -> Policy:
    raw = read_json(path)
    digest, form = raw.pop("digest", ""), raw.pop("format", "")
    policy = policy_of(raw, str(path))
    if form != FORMAT or policy.digest != digest:
        raise BessemerError("its content changed since it was stored", where=str(path), fix="restore it from a copy")
    return policy
