"""The recipe: everything a user can ask for, and nothing about hardware.

Read this file first. Every field is read somewhere; an unknown key is an error. Defaults that depend on the
checkpoint's stage (learning rate, warm-up) are `None` here and filled in by the plan, which marks them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from bessemer.errors import BessemerError
from bessemer.units import parse_count

_COUNT_SCHEMA = {
    "anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "string", "pattern": r"^\d[\d_]*(\.\d+)?[kKmMbB]?$"}]
}
Count = Annotated[int, BeforeValidator(parse_count), Field(gt=0), WithJsonSchema(_COUNT_SCHEMA)]
Share = Annotated[float, Field(gt=0, le=1)]
MAX_NAME = 64
_NAME = rf"^[a-z0-9][a-z0-9._-]{{0,{MAX_NAME - 1}}}$"
Name = Annotated[str, Field(pattern=_NAME)]


def need_name(name: str) -> None:
    """Raises BessemerError for what cannot be a folder's name in `BESSEMER_HOME`."""
    if not re.fullmatch(_NAME, name):
        fix = f"small letters, digits, and . _ - after the first, at most {MAX_NAME}"
        raise BessemerError(f"{name!r} is no name", where="--name", fix=fix)


_SECRET = re.compile(
    r"://[^/?#@]*:[^/?#]*@|[?&](?:[^=&]*(?:signature|token|secret|password|credential)|sig|(?:api_?)?key)=",
    re.IGNORECASE,
)


def _without_secrets(address: str) -> str:
    if _SECRET.search(address):
        raise PydanticCustomError(
            "secret_in_address", "holds a password or a signature, and a recipe is kept, shown and released"
        )
    return address


Address = Annotated[str, AfterValidator(_without_secrets)]
Schedule = Literal["linear", "cosine", "wsd", "constant"]
GUARDED = ("safety", "instruct")  # categories that no blend may drop silently
Column = Literal[
    "id", "group", "text", "messages", "prompt", "completion", "instruction", "input", "output", "system", "tools",
    "chosen", "rejected", "reference",
]  # fmt: skip
FAMILY = "family"  # a source that is the start's own training data (families/own_data.py)
RULES_OF_NAMES = "lower-case letters, digits, '.', '_' and '-', at most 64"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSource(Strict):
    """One stream of items: where its rows are and how they are read."""

    from_: Address = Field(
        alias="from",
        description="A file, folder or glob (.jsonl, .json, .csv, .tsv, .txt, .md, plain, .gz or .zst; .parquet, "
        ".arrow); a URL (s3://, gs://, https://); hf:owner/name[@revision][/path-or-split]; "
        "dataset:NAME@VERSION[/SPLIT]; a collection that comes with a package: bessemer:NAME "
        "(see `bessemer show sources`)",
    )
    kind: Literal["documents", "chat", "preference", "prompts"] = Field(
        "documents",
        description="documents: texts; chat: conversations that end with an answer; preference: prompt, chosen and "
        "rejected; prompts: a prompt with its reference answer",
    )
    columns: dict[Column, str] = Field(
        default_factory=dict[Column, str],
        description="Our name for a column -> the file's own: {text: body, id: post_id}; the usual names are found",
    )
    on_error: Literal["fail", "skip", "quarantine"] = Field(
        "fail",
        description="A row that cannot be read: fail stops, skip counts it, quarantine also keeps it in "
        "BESSEMER_HOME/quarantine",
    )


class Source(DataSource):
    """A stream that is trained on."""

    from_: Address = Field(
        "family",
        alias="from",
        description="As in `DataSource`; or family[:STAGE], the start's own published training data of its stage (or "
        "of pre, mid, post), which general sources are by default",
    )
    role: Literal["domain", "general"] = Field(
        "domain", description="domain: your own data; general: data that keeps old skills alive (replay)"
    )
    category: Name | None = Field(
        None, description="Category of a general source for `blend`, such as code or safety; default: its name"
    )
    weight: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Its part of its category in a `blend`, beside the others there; default: by its size"
    )
    long: Literal["split", "drop", "truncate", "fail"] | None = Field(
        None,
        description="Items longer than a row: split (default for documents), drop, truncate or fail (default for chat)",
    )
    max_lost: Annotated[float, Field(ge=0, le=1)] = Field(
        0.02, description="Largest share of its items that may be dropped or truncated"
    )
    max_epochs: Annotated[float, Field(gt=0)] = Field(
        4.0, description="How often a stage may repeat the source before that is an error"
    )


class Blend(Strict):
    """A mixture in two levels: how much domain, and which categories inside the general part."""

    domain: Annotated[float, Field(ge=0, le=1)] = Field(description="Share of the domain sources in tokens")
    general: dict[Name, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict,
        description="Shares of categories inside the general part; those not named keep their proportions in the rest",
    )
    temperature: Annotated[float, Field(ge=0.1)] = Field(
        1.0, description="Proportions are tokens ** (1 / temperature): above 1 small sources come more often"
    )
    drop: list[Name] = Field(
        default_factory=list[str], description="Safety or instruction categories that may fall to 0 (an explicit yes)"
    )


class Change(Strict):
    """Another mixture from some point of the stage on."""

    at: Annotated[float, Field(gt=0, lt=1)] = Field(description="Share of the stage's rows after which it holds")
    mixture: dict[str, Share] = Field(default_factory=dict, description="As in the stage")
    blend: Blend | None = Field(None, description="As in the stage")
    ramp: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of the stage before `at` over which the shares move there in a straight line"
    )


class Stage(Strict):
    """One training stage: an objective on a mixture."""

    objective: Literal["cpt", "sft"] = Field(
        description="cpt: learn from every token; sft: learn the answers of conversations"
    )
    mixture: dict[str, Share] = Field(
        default_factory=dict, description="Share of each source in tokens; the shares add up to 1. Or `blend`"
    )
    blend: Blend | None = Field(None, description="In place of `mixture`: a domain share and general categories")
    changes: list[Change] = Field(
        default_factory=list[Change], description="Other mixtures later in the stage, in order: steps and ramps"
    )
    tokens: Count | None = Field(None, description="Tokens to train on, e.g. 200k; default: every domain source once")
    loss_weight: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="Sources that count as a mean of their own, times this weight; "
        "the others share one mean over their supervised tokens",
    )
    general: Literal["text", "start"] = Field(
        "text",
        description="What general sources teach. text: their own words; start: what the start checkpoint "
        "predicts there (KL divergence, zero at the start: keeps more and disturbs learning less)",
    )
    lr: Annotated[float, Field(gt=0, lt=1)] | Literal["inherit"] | None = Field(
        None,
        description="Peak learning rate; default: by the checkpoint's stage and the objective; inherit: the rate at "
        "which the stage before, or the training of the start checkpoint, ended",
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="Share of the stage's tokens over which the rate rises; default: by the stage"
    )
    schedule: Schedule = Field(
        "linear",
        description="How the rate goes after the warm-up. linear, cosine: down to final_lr; wsd: stays, then falls in "
        "a straight line over the last `decay`; constant: stays",
    )
    decay: Annotated[float, Field(gt=0, le=1)] = Field(
        0.2, description="With schedule wsd: share of the stage's tokens at its end over which the rate falls"
    )
    final_lr: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Rate at the end, as a share of the peak; default: by the checkpoint's stage"
    )
    freeze: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of the lower layers kept fixed, together with the embedding"
    )
    method: Literal["full", "lora", "dora"] = Field(
        "full",
        description="full: the weights themselves; lora, dora: small matrices beside them, added to them at the end",
    )
    rank: Annotated[int, Field(ge=1, le=1024)] = Field(16, description="Rank of the adapters, with lora and dora")
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: for the matrices of the layers, AdamW for the rest; one process only"
    )
    row_tokens: Annotated[int, Field(ge=32, le=131072)] = Field(512, description="Tokens in a packed row")
    rows: Annotated[int, Field(ge=1)] = Field(4, description="Rows in one optimizer step (the global batch)")
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Decoupled (AdamW's), of matrices")
    clip: Annotated[float, Field(gt=0)] = Field(1.0, description="Largest norm of the gradient")
    z_loss: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="Weight of the squared log of the softmax' normaliser, e.g. 1e-4: logits do not drift",
    )
    skip_above: Annotated[float, Field(gt=0)] = Field(
        6.0,
        description="A step is skipped where a source's loss, or the gradient norm, lies so many standard deviations "
        "above its last 128 (of steps with the same sources); three in a row go back to the last checkpoint",
    )


class Probe(Strict):
    """A small general set, never trained on, that measures forgetting."""

    from_: Address = Field(alias="from", description="Like a source's `from`; documents only")
    tokens: Count = Field(8192, description="How much of it is measured before and after")


class Task(Strict):
    """A held-out measurement of the domain."""

    from_: Address = Field(alias="from", description="Like a source's `from`; never a file that is trained on")
    metric: Literal["auroc", "bits_per_byte"] = Field(
        description="auroc: conversations whose answer is one of two words, twins grouped by `group`; "
        "bits_per_byte: documents"
    )
    at_least: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="SHIP needs the lower end of the AUROC's interval above this"
    )

    @property
    def kind(self) -> Literal["chat", "documents"]:
        """What its items are, in a source's words."""
        return "chat" if self.metric == "auroc" else "documents"


class Recipe(Strict):
    """A run, from a start checkpoint to a release."""

    name: Name = Field(description="Name of the run and of the release")
    start: Address = Field(
        description="family@stage or family@stage:STEP of the catalogue, a hub id (owner/name, owner/name@revision), "
        "a folder, a GGUF file, or the URL of a folder (s3://...)"
    )
    chat_template: str | None = Field(
        None,
        description="How conversations are written, for a start without a template or in place of its own: the path "
        "of a Jinja file, or family, the template of the start's family (SIZE@post); default: the start's own",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(1, description="Of everything that is drawn: order, masks")
    retain: Annotated[float, Field(gt=0.5, le=1)] = Field(
        0.99, description="Retention budget: no probe may end above start bits per byte / this"
    )
    merge: Share = Field(1.0, description="How far the exported weights go from the start (0) to the trained ones (1)")
    sources: dict[Name, Source] = Field(min_length=1)
    stages: list[Stage] = Field(min_length=1)
    probes: dict[Name, Probe] = Field(min_length=1)
    probe_every: Share = Field(0.34, description="Share of a stage between two probe measurements (at least 10 steps)")
    checkpoint_every: Share = Field(0.2, description="Share of a stage between two checkpoints (at least 10 steps)")
    keep_checkpoints: Literal["newest", "all"] = Field(
        "newest",
        description="newest: two, and the one that forgot least, until the stage ends; all: every one, the last step's "
        "too, with the optimizer's state",
    )
    tasks: dict[Name, Task] = Field(min_length=1, description="Held-out tasks; the first one decides")

    def used_by(self, stage: Stage) -> list[str]:
        """The sources that a stage's mixtures draw from, in the recipe's order."""
        used: set[str] = set()
        for mixed in (stage, *stage.changes):
            used |= mixed.mixture.keys()
            if mixed.blend:
                used |= {
                    n for n, s in self.sources.items() if _readable(s, stage) and _share_of(mixed.blend, s, n) != 0
                }
        return [name for name in self.sources if name in used]

    @model_validator(mode="after")
    def _cross_check(self) -> Recipe:
        """Mistakes that need more than one field; all of them at once, one `path: what` a line."""
        found = [line for i, stage in enumerate(self.stages) for line in self._check_stage(f"stages[{i}]", stage)]
        found += self._check_held_out()
        chats = [s.objective == "sft" for s in self.stages] + [t.metric == "auroc" for t in self.tasks.values()]
        if self.chat_template is not None and not any(chats):
            found.append("chat_template: there is neither an sft stage nor an auroc task, so nothing reads it")
        used = {name for stage in self.stages for name in self.used_by(stage)}
        found += [f"sources.{name}: no stage uses this source" for name in self.sources.keys() - used]
        for name, source in self.sources.items():
            if is_family(source) and source.role != "general":
                found.append(f"sources.{name}.from: missing; only a general source may be the family's own data")
            if source.category and source.role != "general":
                found.append(f"sources.{name}.category: only for sources of role general")
            same = [s for n, s in self.sources.items() if (s.category or n) == (source.category or name)]
            if source.weight and any(s.weight is None for s in same if s.role == "general"):
                found.append(f"sources.{name}.weight: all sources of its category need one, or none")
            if source.weight and (source.role != "general" or not self.blends):
                found.append(f"sources.{name}.weight: only for general sources of a blend")
            if source.long == "split" and source.kind == "chat":
                found.append(
                    f"sources.{name}.long: a conversation cut in two loses its question; drop, truncate or fail"
                )
        if found:
            raise ValueError("\n".join(found))
        return self

    @property
    def blends(self) -> bool:
        """Whether some stage has a `blend` in place of a mixture."""
        return any(mixed.blend for stage in self.stages for mixed in (stage, *stage.changes))

    def _check_stage(self, at: str, stage: Stage) -> list[str]:
        found = self._check_mixed(at, stage, stage)
        end = 0.0
        for i, change in enumerate(stage.changes):
            where = f"{at}.changes[{i}]"
            found += self._check_mixed(where, change, stage)
            if change.at - change.ramp < end - 1e-9:
                found.append(
                    f"{where}.at: begins at {change.at - change.ramp:g}, before {end:g}, where the last one ends"
                )
            end = change.at
        names = self.used_by(stage)
        for source in stage.loss_weight:
            if source not in self.sources:
                found.append(f"{at}.loss_weight.{source}: no source of this name|{source}")
            elif source not in names:
                found.append(f"{at}.loss_weight.{source}: the stage's mixture does not use this source")
        known = [self.sources[name] for name in names]
        if stage.objective == "sft" and known and all(s.kind != "chat" and not is_family(s) for s in known):
            found.append(f"{at}.objective: sft needs a source of kind chat in its mixture")
        if stage.objective == "cpt" and any(s.kind == "chat" for s in known):
            found.append(f"{at}.objective: cpt takes documents only; conversations belong into an sft stage")
        for name in names:
            if (kind := self.sources[name].kind) in {"preference", "prompts"}:
                found.append(f"{at}.mixture.{name}: no objective reads {kind} yet, only documents and chat")
        return [*found, *self._check_unread(at, stage, known)]

    def _check_unread(self, at: str, stage: Stage, known: Sequence[Source]) -> list[str]:
        """Fields that nothing would read, and those that are missing. known: the stage's sources."""
        found: list[str] = []
        defaults = Stage.model_fields  # a recipe that was written out names them all
        if stage.rank != defaults["rank"].default and stage.method == "full":
            found.append(f"{at}.rank: only with method lora or dora")
        if stage.decay != defaults["decay"].default and stage.schedule != "wsd":
            found.append(f"{at}.decay: only with schedule wsd")
        if stage.final_lr is not None and stage.schedule == "constant":
            found.append(f"{at}.final_lr: a constant rate has no end")
        if stage.general == "start" and all(s.role == "domain" for s in known):
            found.append(f"{at}.general: start teaches general sources, and the mixture has none (role: general)")
        if stage.tokens is None and known and all(s.role == "general" for s in known):
            found.append(f"{at}.tokens: needed, because no source of the mixture is a domain source")
        return found

    def _check_mixed(self, at: str, mixed: Stage | Change, stage: Stage) -> list[str]:
        """A mixture or a blend: one of them, and in itself sound."""
        found: list[str] = []
        if bool(mixed.mixture) == (mixed.blend is not None):
            found.append(f"{at}.mixture: give either mixture or blend")
        for source in mixed.mixture:
            if source not in self.sources:
                found.append(f"{at}.mixture.{source}: no source of this name|{source}")
        total = sum(mixed.mixture.values())
        if mixed.mixture and abs(total - 1) > 1e-6:
            found.append(f"{at}.mixture: the shares add up to {total:g}, not 1")
        return found + (self._check_blend(f"{at}.blend", mixed.blend, stage) if mixed.blend else [])

    def _check_blend(self, at: str, blend: Blend, stage: Stage) -> list[str]:
        readable = {n: s for n, s in self.sources.items() if _readable(s, stage)}
        categories = list(dict.fromkeys(s.category or n for n, s in readable.items() if s.role == "general"))
        found: list[str] = []
        for name in [*blend.general, *blend.drop]:
            if name not in categories:
                found.append(f"{at}.general.{name}: no category of a general source|{name}")
        total, unnamed = sum(blend.general.values()), [c for c in categories if c not in blend.general]
        if total > 1 + 1e-6 or (blend.general and not unnamed and abs(total - 1) > 1e-6):
            found.append(f"{at}.general: the shares add up to {total:g}, not 1")
        if blend.domain > 0 and all(s.role != "domain" for s in readable.values()):
            found.append(f"{at}.domain: {blend.domain:g}, but there is no domain source for {stage.objective}")
        if blend.domain < 1 and not categories:
            found.append(f"{at}.domain: {blend.domain:g}, but there is no general source for {stage.objective}")
        for name in categories:
            falls = blend.domain == 1 or blend.general.get(name, 1 - total) < 1e-9
            if falls and name not in blend.drop and any(word in name for word in GUARDED):
                found.append(f"{at}.drop: category {name} falls to 0; say `drop: [{name}]` if that is meant")
        return found

    def _check_held_out(self) -> list[str]:
        trained = {self.sources[name].from_ for stage in self.stages for name in self.used_by(stage)}
        held_out = {f"probes.{k}": v.from_ for k, v in self.probes.items()}
        held_out |= {f"tasks.{k}": v.from_ for k, v in self.tasks.items()}
        found = [
            f"{where}.from: {address!r} is trained on; a held-out set must be another one"
            for where, address in held_out.items()
            if address in trained
        ]
        for name, task in self.tasks.items():
            if task.metric != "auroc" and task.at_least is not None:
                found.append(f"tasks.{name}.at_least: only for metric auroc")
        return found


def is_family(source: Source) -> bool:
    """Whether the source stands for the start's own training data; its parts are known when the plan is made."""
    return source.from_.partition(":")[0] == FAMILY


def _readable(source: Source, stage: Stage) -> bool:
    """Whether a stage's blend takes the source: continued pre-training reads documents only."""
    return source.kind in {"cpt": ("documents",), "sft": ("documents", "chat")}[stage.objective]


def _share_of(blend: Blend, source: Source, name: str) -> float:
    """0 when the blend leaves the source out; otherwise some positive number."""
    if source.role == "domain":
        return blend.domain
    left = 1 - sum(blend.general.values())
    return (1 - blend.domain) * blend.general.get(source.category or name, max(0.0, round(left, 9)))
