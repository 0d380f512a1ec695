"""The README's commands, executed as they stand, and what it states, compared with the code."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bessemer.errors import EXIT_CODES
from tests.tiny import make_tiny_release

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"(?:<!-- run: (\w+) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)
TIDY = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"  # a block that fails leaves no server behind
PROGRAMS = {"sh": ["/bin/bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}


@dataclass(frozen=True)
class Block:
    run: str
    language: str
    text: str


BLOCKS = [Block(*match) for match in BLOCK.findall(README) if match[1] in PROGRAMS]


def execute(folder: Path, blocks: list[Block]) -> str:
    """One after the other in one folder that has the repository's recipes, as a reader would; returns the output."""
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    output = ""
    for block in blocks:
        text = (TIDY if block.language == "sh" else "") + block.text.replace("8765", port)
        done = subprocess.run(
            [*PROGRAMS[block.language], text],
            cwd=folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
        output += done.stdout
    return output


def test_every_block_says_whether_it_is_run() -> None:
    assert {b.run for b in BLOCKS} == {"fast", "full", "server", "never"}


def test_fast_commands_work(tmp_path: Path) -> None:
    execute(tmp_path, [b for b in BLOCKS if b.run == "fast"])
    assert (tmp_path / "furnace.yaml").exists() and (tmp_path / "recipe.schema.json").stat().st_size > 1000


def test_the_contest_is_one(tmp_path: Path) -> None:
    from bessemer.contest import Contest
    from bessemer.data.builtin import COLLECTIONS
    from bessemer.data.sources import Source
    from bessemer.recipe.load import load

    (text,) = [text for _, language, text in BLOCK.findall(README) if language == "yaml"]
    (tmp_path / "contest.yaml").write_text(text)
    contest = load(Contest, tmp_path / "contest.yaml")
    assert len(contest.contestants["rates"].trials) == 2 and contest.budget.tokens == 2_000_000
    assert all(
        Source(address, COLLECTIONS[address.removeprefix("bessemer:")][0]).files() for address in contest.data.values()
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README asks with curl, which is not installed")
def test_server_commands_work(tmp_path: Path, tiny_model: Path, bessemer_home: Path) -> None:
    """With the tiny model under the name of the demo's release."""
    make_tiny_release(tiny_model, bessemer_home, "house-rules")
    output = execute(tmp_path, [b for b in BLOCKS if b.run == "server"])
    assert '"chat.completion"' in output and "digest " in output


@pytest.mark.full
def test_all_commands_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    execute(tmp_path, [b for b in BLOCKS if b.run != "never"])


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) >= 5
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_the_tree_is_the_tree() -> None:
    tree = README.partition("## The tree")[2].partition("```text\n")[2].partition("```")[0]
    named = re.findall(r"^  ([\w/]+(?:\.py)?/?)(?: +(\d))? +\w", tree, re.MULTILINE)
    paths = [ROOT / "src" / "bessemer" / name for name, _ in named]
    assert len(paths) > 15 and [p for p in paths if not p.exists()] == []
    assert [number for _, number in named if number] == list("123456")
    floors = {p.name for p in (ROOT / "src" / "bessemer").iterdir() if (p / "__init__.py").exists()}
    assert floors <= {Path(name).parts[0] for name, _ in named}


def test_exit_codes_are_those_of_the_code() -> None:
    section = README.partition("## Exit codes")[2].partition("##")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)} == set(EXIT_CODES.values())


def test_every_variable_that_is_read_is_named() -> None:
    source = "".join(p.read_text() for p in (ROOT / "src").rglob("*.py"))
    read = set(re.findall(r'"(BESSEMER_[A-Z_]+)"', source))
    assert read and set(re.findall(r"^\| `(BESSEMER_[A-Z_]+)` \|", README, re.MULTILINE)) == read


def test_every_verb_is_shown() -> None:
    for verb in (
        "run",
        "plan",
        "serve",
        "releases",
        "runs",
        "runs stop",
        "runs resume",
        "runs logs",
        "show",
        "doctor",
        "recipe check",
        "recipe init",
        "eval",
        "eval power",
        "verdict",
        "verify",
        "contest run",
        "merge",
        "families list",
        "families grow",
        "seal create",
        "policy add",
        "data moderation",
        "moderate",
        "route",
        "review appeals",
        "review export",
        "review import",
        "review curriculum",
        "seal verify",
        "seal reveal",
    ):
        assert f"bessemer {verb}" in README
