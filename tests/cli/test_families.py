"""`bessemer families`: what stands on the screen, what programs read, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bessemer.families.catalogue import private_folder


def test_list_shows_every_family_and_what_needs_no_hub(here: Callable[..., Any]) -> None:
    done = here("families", "list")
    assert done.code == 0
    for family in ("olmo2", "olmo3", "smollm2", "smollm3", "pythia", "qwen2.5", "qwen3", "llama3", "gemma3"):
        assert f"\n{family} " in done.out
    assert "pre, mid, post" in done.out and "smollm2-135m@post" in done.out and "gemma3-270m@pre" in done.out
    entries = json.loads(here("families", "list", "--json").out)
    assert entries["olmo2-1b@mid"]["hub"] == "allenai/OLMo-2-0425-1B" and len(entries) > 80


def test_show_a_checkpoint_with_the_source_beside_each_fact(here: Callable[..., Any]) -> None:
    done = here("families", "show", "olmo2-1b@pre:140000")
    lines = {line.split("  ")[0].strip(): line for line in done.out.splitlines()}
    assert "293,601,280,000" in lines["tokens_seen"] and "https://github.com/allenai/OLMo" in lines["tokens_seen"]
    assert "0.0003971" in lines["lr"] and "2,244,185 steps of it remain" in lines["schedule"]
    assert "hf:allenai/olmo-mix-1124/dclm" in lines["data: dclm"] and "not known" in lines["end_of_text"]
    facts = json.loads(here("families", "show", "olmo2-1b@pre:140000", "--json").out)
    assert facts["lr"] == 0.0003971 and facts["data"]["parts"][0]["share"] == 0.9511 and facts["terms"] is None


@pytest.mark.parametrize("name", ["smollm3", "smollm3-3b"])
def test_show_a_family_or_a_size(here: Callable[..., Any], name: str) -> None:
    done = here("families", "show", name)
    assert done.code == 0 and "105 steps, 40,000 to 4,200,000; 9,909,043,200,000 tokens seen" in done.out
    assert "licence of the weights" in done.out and "pre: data: fineweb-edu" in done.out
    assert json.loads(here("families", "show", name, "--json").out)


@pytest.mark.parametrize(
    ("name", "said"),
    [("smolm3", "did you mean 'smollm3'"), ("zzz", "families: gemma3, llama3"), ("olmo2-1b@pre:5", "the nearest")],
)
def test_show_what_is_not_there(here: Callable[..., Any], name: str, said: str) -> None:
    done = here("families", "show", name)
    assert done.code == 4 and said in done.err


def test_add_checks_and_the_template_passes(here: Callable[..., Any], tmp_path: Path) -> None:
    template = here("families", "add", "--template").out
    path = tmp_path / "my.yaml"
    path.write_text(template.replace("source: report}", "source: nobody}", 1))
    refused = here("families", "add", str(path))
    assert refused.code == 4 and "no source 'nobody' under `sources:`" in refused.err
    assert not list(private_folder().glob("*"))
    path.write_text(template)
    assert "mine-1b" in here("families", "add", str(path)).out
    assert "\nmine " in here("families", "list").out
    assert here("families", "show", "mine-1b@pre:20000").code == 0


def test_add_without_a_file_says_how(here: Callable[..., Any]) -> None:
    assert "families add --template" in here("families", "add").err
    assert "cannot be read" in here("families", "add", "/nowhere.yaml").err


def test_export_and_import(here: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = here("families", "export", str(tiny_model), "--out", str(out))
    assert done.code == 0 and str(out) in done.out and "families import" in done.out
    brought = here("families", "import", str(out))
    assert brought.code == 0 and f"start: {tiny_model}" in brought.out
    assert here("families", "export", str(tiny_model), "--out", str(out)).code == 4
    assert "checkpoint.json is missing" in here("families", "import", str(tmp_path)).err
