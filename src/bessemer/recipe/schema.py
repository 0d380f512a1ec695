"""The recipe: everything a user can ask for, and nothing about hardware.

Read this file first. Every field is read somewhere; an unknown key is an error. Defaults that depend on the
checkpoint's stage (learning rate, warm-up) are `None` here and filled in by the plan, which marks them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from bessemer.units import parse_count

_COUNT_SCHEMA = {
    "anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "string", "pattern": r"^\d[\d_]*(\.\d+)?[kKmMbB]?$"}]
}
Count = Annotated[int, BeforeValidator(parse_count), Field(gt=0), WithJsonSchema(_COUNT_SCHEMA)]
Share = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Column = Literal[
    "id", "group", "text", "messages", "prompt", "completion", "instruction", "input", "output", "system", "tools",
    "chosen", "rejected", "reference",
]  # fmt: skip
RULES_OF_NAMES = "lower-case letters, digits, '.', '_' and '-', at most 64"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Strict):
    """One stream of documents or conversations."""

    from_: str = Field(
        alias="from",
        description="A file, folder or glob (.jsonl, .json, .csv, .tsv, .parquet, .arrow, .txt, .md; plain, .gz or .zst)"
        "; a URL (s3://, gs://, https://); hf:owner/name[@revision][/path-or-split]; dataset:NAME@VERSION[/SPLIT]; "
        "a collection that comes with a package: bessemer:NAME (see `bessemer show sources`)",
    )
    kind: Literal["documents", "chat", "preference", "prompts"] = Field(
        "documents",
        description="documents: texts; chat: conversations that end with an answer; preference: prompt, chosen and "
        "rejected; prompts: a prompt with its reference answer",
    )
    role: Literal["domain", "general"] = Field(
        "domain", description="domain: your own data; general: data that keeps old skills alive (replay)"
    )
    columns: dict[Column, str] = Field(
        default_factory=dict[Column, str],
        description="Our name for a column -> the file's own: {text: body, id: post_id}; the usual names are found",
    )
    on_error: Literal["fail", "skip", "quarantine"] = Field(
        "fail",
        description="A row that cannot be read: fail stops, skip counts it in the plan, quarantine also keeps it in "
        "BESSEMER_HOME/quarantine",
    )


class Stage(Strict):
    """One training stage: an objective on a mixture."""

    objective: Literal["cpt", "sft"] = Field(
        description="cpt: learn from every token; sft: learn the answers of conversations"
    )
    mixture: dict[str, Share] = Field(description="Share of each source in tokens; the shares add up to 1")
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
    lr: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="Peak learning rate; default: by the checkpoint's stage and the objective"
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="Share of the stage's tokens over which the rate rises; default: by the stage"
    )
    final_lr: Annotated[float, Field(ge=0, le=1)] = Field(
        0.05, description="Rate at the end, as a share of the peak (linear decay)"
    )
    freeze: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of the lower layers kept fixed, together with the embedding"
    )
    row_tokens: Annotated[int, Field(ge=32, le=131072)] = Field(512, description="Tokens in a packed row")
    rows: Annotated[int, Field(ge=1)] = Field(4, description="Rows in one optimizer step (the global batch)")
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip: Annotated[float, Field(gt=0)] = Field(1.0, description="Largest norm of the gradient")


class Probe(Strict):
    """A small general set, never trained on, that measures forgetting."""

    from_: str = Field(alias="from", description="Like a source's `from`; documents only")
    tokens: Count = Field(8192, description="How much of it is measured before and after")


class Task(Strict):
    """A held-out measurement of the domain."""

    from_: str = Field(alias="from", description="Like a source's `from`; never a file that is trained on")
    metric: Literal["auroc", "bits_per_byte"] = Field(
        description="auroc: conversations whose answer is one of two words, twins grouped by `group`; "
        "bits_per_byte: documents"
    )
    at_least: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="SHIP needs the lower end of the AUROC's interval above this"
    )


class Recipe(Strict):
    """A run, from a start checkpoint to a release."""

    name: Name = Field(description="Name of the run and of the release")
    start: str = Field(description="family@stage, a Hugging Face hub id, or a local folder")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    retain: Annotated[float, Field(gt=0.5, le=1)] = Field(
        0.99, description="Retention budget: no probe may end above start bits per byte / this"
    )
    merge: Share = Field(1.0, description="How far the exported weights go from the start (0) to the trained ones (1)")
    sources: dict[Name, Source] = Field(min_length=1)
    stages: list[Stage] = Field(min_length=1)
    probes: dict[Name, Probe] = Field(min_length=1)
    probe_every: Share = Field(0.34, description="Share of a stage between two probe measurements (at least 10 steps)")
    checkpoint_every: Share = Field(0.2, description="Share of a stage between two checkpoints (at least 10 steps)")
    tasks: dict[Name, Task] = Field(min_length=1, description="Held-out tasks; the first one decides")

    @model_validator(mode="after")
    def _cross_check(self) -> Recipe:
        """Mistakes that need more than one field; all of them at once, one `path: what` a line."""
        found = [line for i, stage in enumerate(self.stages) for line in self._check_stage(f"stages[{i}]", stage)]
        found += self._check_held_out()
        used = {s for stage in self.stages for s in stage.mixture}
        found += [f"sources.{name}: no stage uses this source" for name in self.sources.keys() - used]
        if found:
            raise ValueError("\n".join(found))
        return self

    def _check_stage(self, at: str, stage: Stage) -> list[str]:
        found: list[str] = []
        for field in ("mixture", "loss_weight"):
            for source in getattr(stage, field):
                if source not in self.sources:
                    found.append(f"{at}.{field}.{source}: no source of this name|{source}")
        for source in stage.loss_weight.keys() - stage.mixture.keys():
            found.append(f"{at}.loss_weight.{source}: the stage's mixture does not use this source")
        total = sum(stage.mixture.values())
        if abs(total - 1) > 1e-6:
            found.append(f"{at}.mixture: the shares add up to {total:g}, not 1")
        known = [self.sources[s] for s in stage.mixture if s in self.sources]
        if stage.objective == "sft" and known and all(s.kind != "chat" for s in known):
            found.append(f"{at}.objective: sft needs a source of kind chat in its mixture")
        if stage.objective == "cpt" and any(s.kind == "chat" for s in known):
            found.append(f"{at}.objective: cpt takes documents only; conversations belong into an sft stage")
        for name in stage.mixture:
            if name in self.sources and self.sources[name].kind in {"preference", "prompts"}:
                found.append(
                    f"{at}.mixture.{name}: no objective reads {self.sources[name].kind} yet, only documents and chat"
                )
        if stage.tokens is None and known and all(s.role == "general" for s in known):
            found.append(f"{at}.tokens: needed, because no source of the mixture is a domain source")
        return found

    def _check_held_out(self) -> list[str]:
        trained = {self.sources[s].from_ for stage in self.stages for s in stage.mixture if s in self.sources}
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
