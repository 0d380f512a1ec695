"""The data recipe: what a data set is made of and how it is cleaned. Made once, trained on often.

A step is done when it is named; `quality: {}` means its published thresholds. The order of the steps is fixed (see
`Steps`), so two recipes that name the same steps mean the same thing. Nothing here says where it runs.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from bessemer.errors import BessemerError
from bessemer.recipe.schema import DataSource, Name, Share, Strict
from bessemer.units import parse_time

Action = Literal["replace", "drop", "flag", "keep"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Length = Annotated[int, Field(ge=1)]


def _date_as_text(value: Any) -> Any:
    """YAML reads 2025-06-01 as a date."""
    return value.isoformat() if isinstance(value, date) else value


Moment = Annotated[str | float, BeforeValidator(_date_as_text)]


class Repair(Strict):
    """Text that was decoded wrongly is repaired (ftfy); spelling, quotes and widths stay."""


class Language(Strict):
    """Only these languages stay. A text that is too short to tell follows `unsure`."""

    keep: list[str] = Field(min_length=1, description="ISO 639 codes, e.g. [en, de]")
    confidence: Fraction = Field(0.5, description="Below this probability the language counts as unsure")
    unsure: Literal["keep", "drop"] = Field("keep", description="What happens to short or mixed texts")


class Quality(Strict):
    """Rules with published thresholds; null switches one off. They are made for documents, not for short comments."""

    url_share: Fraction | None = Field(0.2, description="Largest share of the characters in URLs")
    alphanumeric_share: Fraction | None = Field(0.25, description="Smallest share of letters and digits")
    word_repetition: Fraction | None = Field(0.5, description="Largest share of word n-grams that occur again")
    character_repetition: Fraction | None = Field(0.5, description="Largest share of the commonest character n-grams")
    ngram: Annotated[int, Field(ge=2, le=50)] = Field(10, description="Length of those n-grams")
    characters: Length | None = Field(50, description="Fewest characters")
    mean_line: Length | None = Field(10, description="Smallest mean length of a line, in characters")


class Decontaminate(Strict):
    """Items that hold an evaluation item are dropped, and the report says which item of which set."""

    against: dict[Name, DataSource] = Field(min_length=1, description="Evaluation sets, each like a source")
    ngram: Annotated[int, Field(ge=2, le=100)] = Field(13, description="One shared run of so many words is a hit")
    coverage_ngram: Annotated[int, Field(ge=2, le=100)] = Field(8, description="Length of the runs for `coverage`")
    coverage: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="Also a hit: so large a share of the evaluation item's runs is in the item"
    )


class Presidio(Strict):
    """What only a language model finds, such as names of people and places. Needs the extra `presidio`."""

    model: str = Field(
        min_length=1, description="A spaCy model: the name of an installed one, e.g. en_core_web_lg, or its folder"
    )
    language: str | None = Field(None, description="ISO 639 code of the texts; default: the model's own")
    entities: dict[str, Action] = Field(
        min_length=1, description="Presidio's names and what happens to each: {PERSON: replace, LOCATION: flag}"
    )
    score: Fraction = Field(0.5, description="Smallest confidence that counts; a model's own names have 0.85")


class Pii(Strict):
    """Personal data and secrets. replace: by a placeholder; drop: the item; flag: note it in `meta`; keep: skip."""

    email: Action = Field("replace", description="Addresses of e-mail")
    phone: Action = Field("replace", description="Telephone numbers")
    ip: Action = Field("replace", description="IPv4 and IPv6, public addresses only")
    card: Action = Field("replace", description="Card numbers whose Luhn check digit is right")
    iban: Action = Field("replace", description="Bank accounts whose check digits (modulo 97) are right")
    secret: Action = Field("replace", description="Private keys, API keys and tokens of known shapes")
    user: Action = Field("replace", description="Mentions such as u/name and /u/name")
    presidio: Presidio | None = Field(None, description="Names and the like, in what the kinds above left over")


class Duplicates(Strict):
    """Items whose text is the same but for case, width and white space: the first one stays."""


class NearDuplicates(Strict):
    """Items whose sets of word n-grams overlap: the first one of each cluster stays, across all sources."""

    jaccard: Annotated[float, Field(ge=0.4, le=1)] = Field(0.8, description="Smallest overlap that counts")
    words: Annotated[int, Field(ge=1, le=20)] = Field(3, description="Length of the n-grams; 2 or 3 suit comments")
    same_group: Literal["keep", "drop"] = Field(
        "keep", description="Items of one group are often alike on purpose (twins); keep leaves them all"
    )


class Steps(Strict):
    """What is done, in this order."""

    repair: Repair | None = None
    language: Language | None = None
    quality: Quality | None = None
    decontaminate: Decontaminate | None = Field(None, description="Before pii: placeholders would hide an overlap")
    pii: Pii | None = None
    duplicates: Duplicates | None = None
    near_duplicates: NearDuplicates | None = None


class Split(Strict):
    """Parts of the data set that share nothing. An item's side follows from a hash of its id, or of the earliest id
    among those that must stay together."""

    by: Literal["cluster", "group", "time", "random"] = Field(
        "cluster",
        description="cluster: near-duplicates, items of a group and answers to one question stay together; group: "
        "near-duplicates and what shares a value of `column`; time: by `column` and `cuts`; random: refused, as time "
        "is, when near-duplicates or items of a group would be parted",
    )
    shares: dict[Name, Share] = Field(
        default_factory=lambda: {"train": 0.9, "validation": 0.05, "test": 0.05},
        description="Expected share of the items; not used by time",
    )
    column: str | None = Field(None, description="by time: the column with the time; by group: default `group`")
    cuts: dict[Name, Moment] = Field(
        default_factory=dict,
        description="by time: where each later part begins (ISO 8601, or seconds since 1970); before that is `train`",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(1, description="Of the hash that chooses an item's side")

    @model_validator(mode="after")
    def _cross_check(self) -> Split:
        found: list[str] = []
        if self.by == "time":
            if not self.column:
                found.append(".column: by time needs the column that holds the time")
            if not self.cuts:
                found.append(".cuts: by time needs at least one cut, e.g. {test: 2025-06-01}")
            for name, cut in self.cuts.items():
                try:
                    parse_time(cut, "")
                except BessemerError as error:
                    found.append(f".cuts.{name}: {error.what}; {error.fix}")
            if "train" in self.cuts:
                found.append(".cuts.train: train is what comes before the first cut")
        else:
            total = sum(self.shares.values())
            if self.cuts:
                found.append(f".cuts: only by time, not by {self.by}")
            if self.column and self.by != "group":
                found.append(f".column: only by group or time, not by {self.by}")
            if abs(total - 1) > 1e-6:
                found.append(f".shares: the shares add up to {total:g}, not 1")
        if found:
            raise ValueError("\n".join(found))
        return self


class DataRecipe(Strict):
    """A data set, from raw files to `name@version`."""

    name: Name = Field(description="Name of the data set")
    sources: dict[Name, DataSource] = Field(min_length=1)
    steps: Steps = Field(default_factory=lambda: Steps.model_validate({}))
    split: Split | None = Field(None, description="Default: everything is `train`")

    @model_validator(mode="after")
    def _cross_check(self) -> DataRecipe:
        """Mistakes that need more than one field, one `path: what` a line."""
        found: list[str] = []
        if self.steps.decontaminate:
            trained = {s.from_ for s in self.sources.values()}
            found += [
                f"steps.decontaminate.against.{name}.from: {e.from_!r} is a source too; everything would be dropped"
                for name, e in self.steps.decontaminate.against.items()
                if e.from_ in trained
            ]
        if found:
            raise ValueError("\n".join(found))
        return self
