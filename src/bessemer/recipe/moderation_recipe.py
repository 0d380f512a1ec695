"""The data recipe for moderation: logs, policies and comments -> twins. Read by `bessemer data moderation`."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bessemer.recipe.data_recipe import Moment
from bessemer.recipe.schema import Address, Name, Strict

Share = Annotated[float, Field(gt=0, lt=1)]
LogColumn = Literal[
    "id", "text", "title", "parent", "community", "policy", "rule", "action", "decision", "appeal", "time", "group"
]


class Log(Strict):
    """What moderators did. A row: a comment, the rule or reason, the action, and what became of it."""

    from_: Address = Field(alias="from", description="A file, folder, glob or URL, as in any recipe")
    columns: dict[LogColumn, str | None] = Field(
        default_factory=dict[LogColumn, str | None],
        description="Our name for a column -> the file's own: {text: body}; null where it means something else there",
    )
    community: str = Field("", description="Of rows that do not say it; default: the log's name")
    rule: str = Field("", description="Of rows that do not say it, such as a log about one rule")
    removed: list[str] = Field(
        default_factory=list[str],
        description="Values of `action` that mean removed; any other then means approved. Default: the usual words",
    )
    ignored: list[str] = Field(
        default_factory=list[str], description="Values of `action` that say nothing of the comment, such as lock"
    )
    separator: str = Field("", description="What stands between several rules of one row, such as ;")


class Comments(Strict):
    """Comments without labels: code knows the truth of computed rules; their texts are domain text."""

    from_: Address = Field(alias="from", description="A file, folder, glob or URL, as in any recipe")
    columns: dict[LogColumn, str | None] = Field(default_factory=dict[LogColumn, str | None], description="As in a log")


class Computed(Strict):
    """Rules whose truth code can compute (data/rule_families.yaml)."""

    families: list[str] = Field(default_factory=list[str], description="For training; default: all others")
    unseen: list[str] = Field(
        default_factory=lambda: ["acting", "thanks", "work", "praise", "numbers", "capitals", "sorry", "sports",
                                 "first-person", "brackets", "hashtags", "long"],
        description="Only in `new-rules`",
    )  # fmt: skip
    validation: list[str] = Field(
        default_factory=lambda: ["give", "see", "say", "every", "compare", "bad", "minutes", "ending-ed",
                                 "double-letters", "first-letter-i", "not-short", "exclamation-end"],
        description="Only in `validation-rules`, which the scale of rules without labels is chosen on",
    )  # fmt: skip
    twins: Annotated[int, Field(ge=0)] = Field(4000, description="For training, at most")
    named: Annotated[int, Field(ge=0)] = Field(
        0, description="For training, at most: twins under rules that each name one word of the comments"
    )
    held_out: Annotated[int, Field(ge=0)] = Field(300, description="For validation and for each test, at most")
    words: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = Field(
        (3, 40), description="Fewest and most words of a comment"
    )


class Parts(Strict):
    """Which comments are held out. What is like a held-out comment leaves `train`."""

    validation: Share = Field(0.1, description="Share of the comments")
    test: Share = Field(0.1, description="Share of the comments")
    by: Literal["time", "hash"] = Field("hash", description="time: the latest ones; each row of a log needs one")
    validation_from: Moment | None = Field(None, description="With `time`: where it begins, instead of a share")
    test_from: Moment | None = Field(None, description="With `time`: where it begins, instead of a share")
    communities: list[str] = Field(default_factory=list[str], description="Communities of `new-communities` only")
    jaccard: Annotated[float, Field(ge=0.4, le=1)] = Field(
        0.8, description="Overlap of word pairs that makes two alike"
    )


class ModerationRecipe(Strict):
    """A data set of twins, from logs to `name@version`."""

    name: Name = Field(description="Name of the data set")
    logs: dict[Name, Log] = Field(default_factory=dict[Name, Log])
    comments: dict[Name, Comments] = Field(default_factory=dict[Name, Comments])
    policies: list[str] = Field(
        default_factory=list[str],
        description="Files; a log's rule is looked up in the policies of its community, by id or text. Several may "
        "word one rule. A rule that none of them knows is read as it stands",
    )
    computed: Computed = Field(default_factory=lambda: Computed.model_validate({}))
    split: Parts = Field(default_factory=lambda: Parts.model_validate({}))
    others_kept: bool = Field(
        True, description="A comment that was removed for one rule keeps the others of its community"
    )
    per_comment: Annotated[int, Field(ge=1, le=10)] = Field(
        2, description="For training: twins of a removed comment, each with another kept rule"
    )
    mixed: Annotated[float, Field(ge=0, le=1)] = Field(
        0.25, description="Share of the log's comments that also stand under two computed rules"
    )
    leak: Annotated[float, Field(ge=0.5, lt=1)] = Field(
        0.55, description="A blind baseline whose whole interval of AUROC lies above this is an error"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(1, description="Of sides, pairings and wordings")

    @model_validator(mode="after")
    def _cross_check(self) -> ModerationRecipe:
        found: list[str] = []
        if not self.logs and not self.comments:
            found.append("logs: there are neither logs nor comments")
        sides = {side: set(getattr(self.computed, side)) for side in ("families", "unseen", "validation")}
        for one, other in combinations(sides, 2):
            if both := sides[one] & sides[other]:
                found.append(f"computed.{other}: {', '.join(sorted(both))} stands under {one} too")
        if self.split.by == "hash" and (self.split.test_from is not None or self.split.validation_from is not None):
            found.append("split.by: validation_from and test_from need `by: time`")
        if self.split.validation + self.split.test >= 0.9:
            found.append("split.test: too little is left for training")
        if self.computed.words[0] > self.computed.words[1]:
            found.append("computed.words: the fewest are more than the most")
        if found:
            raise ValueError("\n".join(found))
        return self
