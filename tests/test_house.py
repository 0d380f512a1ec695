"""Rules of the house that a linter does not know."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "bessemer"
FILES = sorted(SOURCE.rglob("*.py"))
UNSAFE_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
UNSAFE_CALLS = {"eval", "exec", "compile", "torch.load", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load",
                "shutil.unpack_archive"}  # fmt: skip
UNSAFE_METHODS = {"extractall", "extract"}
UNSAFE_KEYWORDS = {"trust_remote_code", "shell", "allow_pickle"}


def findings(source: str) -> list[str]:
    """What could run code that came with data."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNSAFE_MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found += [name] if name in UNSAFE_CALLS or name.rpartition(".")[2] in UNSAFE_METHODS else []
            found += [k.arg for k in node.keywords if k.arg in UNSAFE_KEYWORDS and ast.unparse(k.value) != "False"]
            given = {k.arg for k in node.keywords}  # None: several, by **
            if name.endswith(".from_pretrained") and not given & {"trust_remote_code", None}:
                found.append("from_pretrained")  # which asks whether to run it
    return found


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("torch.load(path)", "torch.load"),
        ("tar.extractall()", "tar.extractall"),
        ("AutoModel.from_pretrained(x, trust_remote_code=True)", "trust_remote_code"),
        ("AutoModel.from_pretrained(x)", "from_pretrained"),
        ("subprocess.run(x, shell=True)", "shell"),
    ],
)
def test_the_search_finds_what_it_looks_for(source: str, what: str) -> None:
    assert findings(source) == [what]


def test_what_is_switched_off_is_not_found() -> None:
    assert findings("AutoModel.from_pretrained(x, trust_remote_code=False); subprocess.run(x, shell=False)") == []


def test_no_source_runs_code_that_came_with_data() -> None:
    assert len(FILES) > 50
    assert {p.relative_to(SOURCE).as_posix(): f for p in FILES if (f := findings(p.read_text()))} == {}


def test_files_stay_readable() -> None:
    lines = {p.relative_to(SOURCE).as_posix(): len(p.read_text().splitlines()) for p in FILES}
    assert {name: n for name, n in lines.items() if n > 600} == {}
