"""The reviewed files, the loader, and what it says at any step."""

from __future__ import annotations

import math
import re
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bessemer.errors import BessemerError, RecipeError
from bessemer.families import catalogue
from bessemer.families.schema import Family, Schedule, citations

WANTED = ("olmo2", "olmo3", "smollm2", "smollm3", "pythia", "qwen2.5", "qwen3", "llama3", "gemma3")
REVIEWED = sorted(p.name for p in files("bessemer.families").iterdir() if p.name.endswith(".yaml"))
SMALL = """
family: mine
by: us
reviewed: 2026-11-25
sources: {report: https://example.org/report}
licence: {weights: {is: internal, source: report}}
sizes:
  1b:
    parameters: {is: 1000000000, source: report}
    stages:
      pre: {source: report, hub: us/mine, revision: "step{step}", steps: [10, 20, 40]}
"""


def read(text: str) -> Family:
    return catalogue.read(text, where="mine.yaml")


# -- the reviewed files ---------------------------------------------------------------------------------------


def test_every_wanted_family_is_there_and_no_name_stands_twice() -> None:
    families = catalogue.families()
    assert {f.family for f in families} == set(WANTED)
    names = [name for f in families for name in catalogue.sizes_of(f)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", REVIEWED)
def test_every_fact_of_a_reviewed_file_cites_a_source_that_is_listed(name: str) -> None:
    raw = yaml.safe_load(files("bessemer.families").joinpath(name).read_text())
    cited = [source for _, source in citations(raw)]
    assert cited and set(cited) == set(raw["sources"])
    without = [where for where, value in facts(raw) if "source" not in value]
    assert without == []


def facts(raw: object, where: str = "") -> list[tuple[str, dict[str, object]]]:
    """Every {is: ...} below."""
    if isinstance(raw, dict):
        own = [(where, raw)] if "is" in raw else []
        return own + [f for key, value in raw.items() for f in facts(value, f"{where}.{key}")]
    return [f for value in raw for f in facts(value, where)] if isinstance(raw, list) else []


def test_every_default_checkpoint_has_one_address_and_every_step_a_branch() -> None:
    for family in catalogue.families():
        for size, values in catalogue.sizes_of(family).items():
            for stage_name, stage in values.stages.items():
                entry = catalogue.find(f"{size}@{stage_name}")
                assert bool(entry.hub) + bool(entry.package) + bool(entry.folder) + bool(entry.url) == 1
                steps = stage.known_steps()
                assert entry.step == (steps[-1] if steps else None)
                branches = {stage.revision_of(step) for step in steps}
                assert len(branches) == len(steps) and not any(re.search(r"[{}* ]", b) for b in branches)
                assert not steps or all(branches)


@pytest.mark.parametrize(
    ("name", "branch"),
    [  # as the hub spells them, found in public code
        ("olmo2-1b@pre:0", "stage1-step0-tokens0B"),
        ("olmo2-1b@pre:300", "stage1-step300-tokens1B"),
        ("olmo2-1b@pre:23100", "stage1-step23100-tokens49B"),
        ("olmo2-1b@pre:140000", "stage1-step140000-tokens294B"),
        ("olmo2-1b@pre:480000", "stage1-step480000-tokens1007B"),
        ("olmo2-1b@pre:1140000", "stage1-step1140000-tokens2391B"),
        ("olmo2-1b@pre", "stage1-step1907359-tokens4001B"),
        ("olmo2-1b@mid:1000", "stage2-ingredient3-step1000-tokens3B"),
        ("olmo2-1b@mid:11000", "stage2-ingredient3-step11000-tokens24B"),
        ("olmo2-1b@mid", "stage2-ingredient3-step23852-tokens51B"),
        ("olmo2-7b@pre:467000", "stage1-step467000-tokens1959B"),
        ("olmo2-7b@pre", "stage1-step928646-tokens3896B"),
        ("olmo2-7b@mid:8000", "stage2-ingredient3-step8000-tokens34B"),
        ("olmo2-7b@mid", "stage2-ingredient3-step11931-tokens50B"),
        ("olmo2-13b@pre:1000", "stage1-step1000-tokens9B"),
        ("olmo2-13b@pre:10000", "stage1-step10000-tokens84B"),
        ("olmo2-13b@pre", "stage1-step596057-tokens5001B"),
        ("olmo2-13b@mid", "stage2-ingredient3-step11931-tokens100B"),
        ("olmo2-32b@pre:721000", "stage1-step721000-tokens6049B"),
        ("olmo2-32b@pre", "stage1-step721901-tokens6056B"),
        ("olmo2-32b@mid", "stage2-ingredient3-step35763-tokens301B"),
        ("olmo3-7b@pre", "stage1-step1413814"),
        ("olmo3-7b@mid", "stage2-step47684"),
        ("olmo3-32b@pre", "stage1-step656000"),
        ("smollm3-3b@pre:40000", "stage1-step-40000"),
        ("smollm3-3b@pre:3440000", "stage1-step-3440000"),
        ("smollm3-3b@pre:3480000", "stage2-step-3480000"),
        ("smollm3-3b@pre", "stage2-step-4200000"),
        ("smollm3-3b@mid", "stage3-step-4720000"),
        ("smollm2-135m@pre", "step-1440000"),
        ("pythia-160m@pre:512", "step512"),
        ("pythia-160m@pre:143000", "main"),
    ],
)
def test_branches_are_spelt_as_the_hub_spells_them(name: str, branch: str) -> None:
    assert catalogue.find(name).revision == branch


def test_counts_of_published_steps() -> None:
    sizes = {n: v for f in catalogue.families() for n, v in catalogue.sizes_of(f).items()}
    assert len(sizes["pythia-160m"].stages["pre"].known_steps()) == 154
    assert len(sizes["smollm3-3b"].stages["pre"].known_steps()) == 86 + 19
    assert len(sizes["smollm3-3b"].stages["mid"].known_steps()) == 13
    assert len(sizes["olmo3-7b"].stages["mid"].known_steps()) == 52 - 3  # three branches are ablations


def test_where_the_next_stage_says_its_rate_the_computed_one_agrees() -> None:
    """OLMo's anneals start at the rate that stage 1 ended with, and the configurations spell it out."""
    for size, tolerance in [("olmo2-1b", 1e-3), ("olmo2-7b", 3e-3), ("olmo2-13b", 1e-3)]:
        end = catalogue.find(f"{size}@pre").lr
        sizes = {n: v for f in catalogue.families() for n, v in catalogue.sizes_of(f).items()}
        start = sizes[size].stages["mid"].peak_lr
        assert end is not None and start is not None and math.isclose(end, start.is_, rel_tol=tolerance), size


def test_the_peak_is_that_of_the_whole_training_until_then() -> None:
    assert [catalogue.find(f"olmo2-1b@{stage}").peak_lr for stage in ("pre", "mid", "post")] == [4e-4] * 3
    assert catalogue.find("olmo2-1b@mid:1000").schedule.startswith("linear from 7.4487e-05 to 0 at step 23,852")
    assert catalogue.find("qwen3-8b@post").peak_lr is None


def test_tokens_seen_agree_with_what_the_publishers_say() -> None:
    for name, tokens in [
        ("smollm3-3b@pre:40000", 94.4e9),
        ("smollm3-3b@mid", 11.1e12),
        ("pythia-12b@pre", 299_892_736_000),
        ("olmo2-7b@pre", 3.9e12),
        ("olmo2-1b@mid", 4.05e12),
        ("olmo3-7b@pre", 5.93e12),
    ]:
        seen = catalogue.find(name).tokens_seen
        assert seen is not None and math.isclose(seen, tokens, rel_tol=0.01), name


def test_a_constant_start_is_told_from_a_falling_one_and_from_an_unknown_one() -> None:
    assert catalogue.find("smollm3-3b@pre").constant is True and catalogue.find("smollm3-3b@pre").lr == 2e-4
    assert catalogue.find("smollm3-3b@mid").constant is False and catalogue.find("smollm3-3b@mid").lr == 0.0
    assert catalogue.find("pythia-70m@pre:100000").constant is False
    # At its peak a cosine only passes through; and a rate that fell in a stage before was higher there.
    assert catalogue.find("olmo2-7b@pre:2000").constant is False and catalogue.find("olmo3-7b@mid:0").constant is False
    late = [catalogue.find(f"smollm2-1.7b@pre:{step}") for step in (125000, 4500000, 5000000)]
    assert [e.constant for e in late] == [True, True, False] and late[2].lr and late[2].lr < 2.5e-4
    assert catalogue.find("qwen3-8b@pre").constant is None and catalogue.find("qwen3-8b@pre").lr is None
    assert catalogue.find("olmo3-7b@pre").lr is None  # its schedule was stretched: nothing is computed


def test_an_entry_says_where_its_facts_stand() -> None:
    entry = catalogue.find("olmo2-1b@pre:140000")
    assert entry.data and entry.data.status == "open" and entry.data.parts[0].from_ == "hf:allenai/olmo-mix-1124/dclm"
    assert entry.data.source.startswith("https://") and entry.sources["peak_lr"].endswith("OLMo2-1B-stage1.yaml")
    assert (entry.step, entry.tokens_seen, entry.optimizer) == (140000, 293_601_280_000, "separate")


# -- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said", "fix"),
    [
        ("olmo2-1b@pre:145000", "no checkpoint at step 145,000", "olmo2-1b@pre:140000 and olmo2-1b@pre:150000"),
        ("olmo2-1b@pre:1", "no checkpoint at step 1", "olmo2-1b@pre:0 and olmo2-1b@pre:300"),
        ("pythia-160m@mid", "pythia-160m has no stage 'mid'", "it has pythia-160m@pre"),
        ("olmo2-1b@pra", "olmo2-1b has no stage 'pra'", "did you mean 'olmo2-1b@pre'?"),
        ("olmo2-2b@pre", "no checkpoint of the catalogue", "did you mean 'olmo2-"),
        ("smolm3-3b@mid", "no checkpoint of the catalogue", "did you mean 'smollm3-3b@mid'?"),
        ("smollm3-3b@post:7", "has one checkpoint, without a step", "write smollm3-3b@post"),
    ],
)
def test_what_is_not_there_is_refused_with_the_nearest(name: str, said: str, fix: str) -> None:
    with pytest.raises(BessemerError) as caught:
        catalogue.find(name)
    assert said in caught.value.what and fix in caught.value.fix


def test_all_mistakes_of_a_family_file_come_at_once() -> None:
    text = SMALL.replace("by: us", "buy: us").replace("source: report}}", "source: reprot}}")
    text = text.replace("{is: 1000000000, source: report}", "1000000000").replace('revision: "step{step}", ', "")
    with pytest.raises(RecipeError, match="5 mistakes in the family file") as caught:
        read(text)
    problems = {(p.where, p.what, p.fix) for p in caught.value.problems}
    assert ("buy", "unknown key", "did you mean 'by'?") in problems
    assert ("licence.weights.source", "no source 'reprot' under `sources:`", "did you mean 'report'?") in problems
    whats = {p.where: p.what for p in caught.value.problems}
    assert "missing" in whats["by"] and "a fact is written {is: VALUE, source: NAME}" in whats["sizes.1b.parameters"]
    assert "steps need one" in whats["sizes.1b.stages.pre.revision"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{is: internal, source: report}", "{is: internal}", "missing"),
        ("sources: {report: https", "sources: {other: https://example.org, report: https", "no fact cites it"),
        ("hub: us/mine,", "hub: us/mine, folder: /models,", "one of hub, package, folder and url"),
        ('revision: "step{step}"', 'revision: "tokens{billions}B"', "needs `batch_tokens`"),
        ("steps: [10, 20, 40]", "steps: [{first: 10, last: 45, every: 10}]", "45 is not reached"),
        ("hub: us/mine", "hub: us/mine, data: nowhere", "`data:` has no mixture"),
        ("stages:\n      pre:", "stages:\n      early:", "none of the choices"),
        ("reviewed: 2026-11-25", "reviewed: yesterday", "date"),
        ("by: us", "by: us\nby: them", "stands twice"),
    ],
)
def test_mistakes_are_named(old: str, new: str, said: str) -> None:
    assert old in SMALL
    with pytest.raises(BessemerError) as caught:
        read(SMALL.replace(old, new))
    assert said in str(caught.value)


def test_parts_of_one_mixture_have_names_of_their_own() -> None:
    for family in catalogue.families():
        for mixture in family.data.values():
            assert len({p.name for p in mixture.parts}) == len(mixture.parts), family.family
            shares = [p.share for p in mixture.parts if p.share]
            whole = len(shares) == len(mixture.parts)  # else what is left belongs to the parts without one
            assert not whole or not shares or 0.98 < sum(shares) < 1.001, family.family


def test_data_is_checked() -> None:
    def with_data(text: str) -> str:
        return SMALL.replace("sizes:", f"data:\n  pre: {text}\nsizes:")

    read(with_data("{status: none, source: report}"))
    for text, said in [
        ("{status: open, source: report}", "needs parts"),
        ("{status: none, parts: [{name: a}], source: report}", "has no parts"),
        ("{status: open, parts: [{name: a, share: 0.5}, {name: a, share: 0.5}], source: report}", "two of the name a"),
        ("{status: open, parts: [{name: a, share: 0.7}, {name: b, share: 0.4}], source: report}", "add up to 1.100"),
    ]:
        with pytest.raises(RecipeError, match=said):
            read(with_data(text))


# -- private families -----------------------------------------------------------------------------------------


def test_a_private_family_is_added_and_found(bessemer_home: Path) -> None:
    assert catalogue.add(SMALL, where="mine.yaml") == ["mine-1b"]
    entry = catalogue.find("mine-1b@pre:20")
    assert (entry.hub, entry.revision, entry.licence) == ("us/mine", "step20", "internal")
    assert "mine-1b@pre" in catalogue.entries()


def test_a_size_is_described_once(bessemer_home: Path) -> None:
    catalogue.add(SMALL, where="mine.yaml", name="mine-1b")  # as a grown family is
    with pytest.raises(BessemerError, match="mine-1b is described by .*mine-1b.yaml already"):
        catalogue.add(SMALL, where="mine.yaml")
    assert catalogue.add(SMALL, where="mine.yaml", name="mine-1b") == ["mine-1b"]  # the same file anew


def test_a_reviewed_name_cannot_be_taken(bessemer_home: Path) -> None:
    with pytest.raises(BessemerError, match="olmo2-1b: the catalogue that comes with Bessemer has these names"):
        catalogue.add(SMALL.replace("family: mine", "family: olmo2"), where="mine.yaml")
    assert not list(catalogue.private_folder().glob("*"))


def test_the_template_is_a_family_file() -> None:
    family = read(files("bessemer.families").joinpath("family_template.txt").read_text())
    assert family.sizes["1b"].stages["pre"].known_steps()[:3] == [0, 1000, 10000]


# -- schedules ------------------------------------------------------------------------------------------------


@given(
    warmup=st.integers(0, 50),
    begins=st.none() | st.integers(50, 100),
    more=st.integers(1, 100),
    final=st.floats(0, 0.99),
    shape=st.sampled_from(["linear", "cosine"]),
    step=st.integers(0, 400),
)
def test_a_schedule_rises_stays_and_falls(
    warmup: int, begins: int | None, more: int, final: float, shape: str, step: int
) -> None:
    ends = max(warmup, begins or 0) + more
    made = Schedule(shape=shape, warmup=warmup, begins=begins, ends=ends, final=final)  # type: ignore[arg-type]
    share, later = made.share(step), made.share(step + 1)
    assert share is not None and later is not None and -1e-12 <= share <= 1 + 1e-12
    if step < warmup:
        assert later >= share
    else:
        assert later <= share + 1e-12
    assert made.share(warmup) == 1.0 and math.isclose(made.share(ends) or 0.0, final, abs_tol=1e-12)
    assert begins is None or made.share(begins) == 1.0


def test_what_remains_of_a_schedule_is_said() -> None:
    made = Schedule(shape="linear", begins=80, ends=100, final=0)
    rest = "at step 100; 40 steps of it remain"
    assert made.text(60, None) == f"constant to step 80, then linear from the peak to 0% of it {rest}"
    assert made.text(60, 2e-4) == f"constant to step 80, then linear from 0.0002 to 0 {rest}"
    assert Schedule(shape="constant").text(60, 2e-4) == "constant" and Schedule(shape="constant").share(None) == 1.0
    assert Schedule(shape="cosine", warmup=10).share(20) is None  # where it ends is not known
    for wrong in ({"shape": "constant", "ends": 5, "final": 0}, {"shape": "linear", "ends": 5}, {"shape": "odd"}):
        with pytest.raises(ValueError, match="validation error"):
            Schedule.model_validate(wrong)
