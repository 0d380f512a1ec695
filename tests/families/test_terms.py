"""Licences that must be accepted: refused until then, shown from the package, remembered with the date."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bessemer.errors import BessemerError
from bessemer.families import catalogue, fetch, terms
from bessemer.families.schema import Terms, Wheel
from bessemer.files import read_json, sha256_text
from tests.cli.conftest import COMMAND, here  # noqa: F401 - a fixture
from tests.families.archives import use_index, write_wheel

TEXT = "<h1>House  Terms</h1><script>evil()</script><p>Be kind &amp; fair.</p>"
MENUS = "<nav>Docs</nav><article><nav>Models</nav><button>Send feedback</button>{}</article><footer>Imprint</footer>"
HTML = f"<html><style>p {{}}</style><body>{MENUS.format(TEXT)}</body>".encode()


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> catalogue.Entry:
    """Terms whose text comes in a package, on a checkpoint that nobody can fetch."""
    use_index(tmp_path / "index", monkeypatch)
    _, sha256 = write_wheel(tmp_path / "index", {"tinyterms/terms.html": HTML}, name="tinyterms")
    text = Wheel(name="tinyterms==1.0", sha256=sha256, file="tinyterms/terms.html")
    found = Terms(name="House Terms", url="https://example.org/terms", text=text, source="us")
    return replace(catalogue.find("gemma3-270m@pre"), terms=found)


def test_nothing_is_fetched_before_the_terms_are_accepted(bessemer_home: Path) -> None:
    with pytest.raises(BessemerError, match="comes under the Gemma Terms of Use, which nobody has accepted") as caught:
        fetch.resolve("gemma3-270m@pre")
    assert "https://ai.google.dev/gemma/terms" in caught.value.fix
    assert "bessemer families accept gemma3-270m" in caught.value.fix
    assert not (bessemer_home / "cache").exists()


def test_the_text_is_shown_without_tags_and_its_sha256_is_kept(entry: catalogue.Entry, bessemer_home: Path) -> None:
    assert entry.terms
    text = terms.text_of(entry.terms)
    assert text == terms._plain(TEXT) == "House Terms\nBe kind & fair.\n"
    with pytest.raises(BessemerError, match="nobody has accepted"):
        terms.need_accepted(entry)
    record = terms.accept(entry.terms, text)
    terms.need_accepted(entry)
    kept = read_json(record)
    assert kept["name"] == "House Terms" and kept["accepted"].endswith("Z") and kept["text_sha256"] == sha256_text(text)
    assert record.with_suffix(".txt").read_text() == text
    moved = replace(entry, terms=entry.terms.model_copy(update={"url": "https://example.org/newer"}))
    with pytest.raises(BessemerError, match="nobody has accepted"):
        terms.need_accepted(moved)  # other terms under the same name


def test_without_a_terminal_nobody_is_asked_and_the_way_out_is_told(bessemer_home: Path) -> None:
    args = [COMMAND, "families", "accept", "llama3-1b@pre"]
    done = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 4 and "nobody is here to accept them" in done.stderr and "--yes" in done.stderr
    assert not (bessemer_home / "licences").exists()


def test_the_command_asks_and_takes_no_for_an_answer(
    here: Callable[..., Any],  # noqa: F811
    bessemer_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("typer.confirm", lambda _: False)
    refused = here("families", "accept", "llama3-8b@pre")
    assert refused.code == 4 and "https://www.llama.com/llama3_1/license/" in refused.out
    assert "was not accepted" in refused.err and not (bessemer_home / "licences").exists()
    accepted = here("families", "accept", "llama3-8b", "--yes")
    assert accepted.code == 0 and (bessemer_home / "licences" / "llama-3-1-community-license.json").exists()
    assert terms.is_accepted(catalogue.find("llama3-8b@post").terms)  # type: ignore[arg-type]
    assert not terms.is_accepted(catalogue.find("llama3-1b@post").terms)  # type: ignore[arg-type]


def test_a_free_checkpoint_needs_no_acceptance(here: Callable[..., Any]) -> None:  # noqa: F811
    done = here("families", "accept", "olmo2-1b@pre")
    assert done.code == 4 and "has no terms that must be accepted" in done.err
