from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bessemer as package
from bessemer.cli.options import print_table
from bessemer.cli.recipe import FILES
from bessemer.errors import EXIT_CODES
from bessemer.files import write_json
from bessemer.recipe.schema import Blend, Change, Probe, Recipe, Source, Stage, Task
from bessemer.track.runs import PLAN
from tests.cli.conftest import COMMAND, Done, bessemer
from tests.story import sentence, write_jsonl, write_story

VERBS = ("run", "plan", "serve", "releases", "runs", "show", "doctor", "recipe", "seal")
HEAVY = ("torch", "numpy", "transformers", "tokenizers", "safetensors", "huggingface_hub", "gguf", "fastapi", "uvicorn",
         "pydantic", "yaml", "jinja2", "asyncio", "httpx", "pip")  # fmt: skip
FIVE_MISTAKES = """
name: House Rules
strat: smollm2-135m@post
sources:
  own: {from: own.jsonl, knid: chat}
  general: {from: general.jsonl, role: general}
stages:
  - {objective: ctp, mixture: {onw: 0.75, general: 0.25}}
probes: {p: {from: probe.jsonl}}
tasks: {t: {from: test.jsonl, metric: bits_per_byte}}
"""


@pytest.fixture
def story(tmp_path: Path, tiny_model: Path) -> Path:
    return write_story(tmp_path / "story", tiny_model)


# -- help and usage -------------------------------------------------------------------------------------------


def loads(args: list[str]) -> set[str]:
    """The heavy modules that a command loads."""
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('LOADED', *sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr))\n"
        f"sys.argv = ['bessemer', *{args!r}]\n"
        "from bessemer.cli.main import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout
    first, *found = done.stderr.split()
    assert first == "LOADED"
    return set(found)


@pytest.mark.parametrize("args", [["--help"], ["--version"]])
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    assert not loads(args)


@pytest.mark.parametrize("verb", ["runs", "releases", "families list", "policy list", "seal list", "contest list"])
def test_lists_load_no_torch(verb: str) -> None:
    assert not loads(verb.split()) & {"torch", "transformers", "tokenizers"}


@pytest.mark.parametrize(
    ("verb", "papers", "content"),
    [
        ("runs", ["runs/{}/plan.lock.json", "runs/{}/error.json"], "{"),
        ("releases", ["releases/{}/1/manifest.json"], "{"),
        ("releases", ["releases/{}/1/manifest.json"], "[]"),
        ("policy list", ["policies/{}/1/policy.json"], "{"),
        ("seal list", ["seals/{}/commitment.json"], "[]"),
        ("contest list", ["contests/{}/contest.json"], '{"name": 1}'),
    ],
)
def test_what_is_damaged_hides_no_others(bessemer_home: Path, verb: str, papers: list[str], content: str) -> None:
    for name in ("first", "second"):
        for paper in papers:
            path = bessemer_home / paper.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    done = bessemer(*verb.split())
    assert done.code == 0 and done.out.count("DAMAGED") == 2 and "second" in done.out, done
    told = json.loads(bessemer(*verb.split(), "--json").out)
    assert [bool(entry["fault"]["what"]) for entry in told] == [True, True]


@pytest.mark.parametrize("line", [b"x", b"[1]", b"\0" * 40])
def test_a_damaged_line_of_metrics_hides_no_other_run(bessemer_home: Path, line: bytes) -> None:
    for name in ("first", "second"):
        write_json(bessemer_home / "runs" / name / PLAN, {"stages": []})
    (bessemer_home / "runs/first/metrics.jsonl").write_bytes(b'{"event": "step"}\n' + line + b"\n")
    done = bessemer("runs")
    assert done.code == 0 and done.out.count("DAMAGED") == 1 and "second" in done.out, done
    shown = bessemer("runs", "show", "first")
    assert shown.code == EXIT_CODES["user"] and "metrics.jsonl: the line is no event" in shown.err


def test_all_that_a_recipe_names_and_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    """`recipe check` looks for it, so that nobody learns of the second mistake by repairing the first."""
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: x\nstart: smollm3-9b@post\n"
        "sources:\n  own: {from: nowhere/*.jsonl, kind: chat}\n"
        "  known: {from: 'bessemer:python/docstring', role: general}\n  far: {from: 'hf:nobody/none'}\n"
        "stages: [{objective: sft, mixture: {own: .8, known: .1, far: .1}, tokens: 10k, lr: 1e-4}]\n"
        "probes: {old: {from: 'dataset:house@3'}}\ntasks: {new: {from: held.jsonl, metric: auroc}}\n"
    )
    for verb in (["recipe", "check"], ["plan"]):
        done = bessemer(*verb, path)
        assert done.code == EXIT_CODES["user"] and "5 mistakes" in done.err, done
        for place in ("start", "sources.own.from", "sources.known.from", "probes.old.from", "tasks.new.from"):
            assert f"  {place}: " in done.err
    assert "smollm3-3b" in done.err and "bessemer:python/docstrings" in done.err


def test_without_stdout_and_stderr_it_works_all_the_same() -> None:
    command = f"exec {shlex.quote(str(COMMAND))} runs >&- 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command], check=False).returncode == 0


@pytest.mark.parametrize(("package", "extra"), [("sklearn", "moderate"), ("lm_eval", "lm-eval"), ("ray.train", "ray")])
def test_a_missing_package_is_told_with_its_extra(package: str, extra: str) -> None:
    program = (
        "import sys\nfrom bessemer.cli import main\n"
        f"def app(**_): raise ModuleNotFoundError(name={package!r})\nmain.app = app\nmain.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 4 and f"pip install 'bessemer[{extra}]'" in done.stderr


def test_the_package_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "bessemer", "runs", "show", "none"], capture_output=True, check=False)
    assert done.returncode == EXIT_CODES["user"] and done.stderr.startswith(b"error: ")


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = f"import sys, bessemer; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_verb_is_explained() -> None:
    top = bessemer("--help")
    assert top.code == 0
    for verb in VERBS:
        assert f"\n  {verb} " in top.out
        shown = bessemer(verb, "--help")
        assert shown.code == 0 and f"Usage: bessemer {verb}" in shown.out and not shown.err
    for part in ("schema", "check", "init"):
        assert bessemer("recipe", part, "--help").code == 0


def test_the_version_is_the_package_s() -> None:
    assert bessemer("--version").out.strip() == package.__version__


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["run", "r.yaml", "--fast"], "No such option: --fast"),
        (["run"], "Missing argument 'RECIPE'"),
        (["recipe", "chekc", "x"], "No such command 'chekc'"),
        (["serve", "a@1", "--port", "99999999"], "Invalid value for '--port'"),
    ],
)
def test_wrong_usage_is_one_clear_line(args: list[str], what: str) -> None:
    done = bessemer(*args)
    assert done.code == 4 and done.out == "" and "Traceback" not in done.err
    (line,) = [x for x in done.err.splitlines() if x.startswith("Error:")]
    assert what in line


# -- recipes --------------------------------------------------------------------------------------------------


def test_the_schema_describes_every_field() -> None:
    schema = json.loads(bessemer("recipe", "schema").out)
    parts = {m.__name__: m for m in (Source, Stage, Blend, Change, Probe, Task)}
    assert schema["$defs"].keys() == parts.keys()
    for described, model in [(schema, Recipe), *((schema["$defs"][n], m) for n, m in parts.items())]:
        assert described["type"] == "object" and described["additionalProperties"] is False
        fields = {f.alias or name: f for name, f in model.model_fields.items()}
        assert described["properties"].keys() == fields.keys()
        assert set(described.get("required", [])) == {n for n, f in fields.items() if f.is_required()}
    for ref in references(schema):
        assert ref.removeprefix("#/$defs/") in parts


@pytest.mark.parametrize("of", FILES)
def test_every_field_of_every_file_is_explained(of: str) -> None:
    schema = json.loads(bessemer("recipe", "schema", of).out)
    assert "name" in schema["properties"] and schema["additionalProperties"] is False
    silent = [
        f"{title}.{name}"
        for title, part in [(of, schema), *schema.get("$defs", {}).items()]
        for name, field in part.get("properties", {}).items()
        if not field.get("description") and "$ref" not in json.dumps(field)  # those are explained themselves
    ]
    assert silent == []


def test_a_schema_of_nothing_is_refused() -> None:
    done = bessemer("recipe", "schema", "tasks")
    assert done.code == 4 and "one of recipe, data, moderation, policy, task, contest" in done.err


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [v for k, v in node.items() if k == "$ref"] + [r for v in node.values() for r in references(v)]
    return [r for v in node for r in references(v)] if isinstance(node, list) else []


def test_the_schema_allows_counts_with_units() -> None:
    """An editor must not mark `tokens: 10k` as wrong."""
    schema = json.loads(bessemer("recipe", "schema").out)
    for described in (schema["$defs"]["Stage"], schema["$defs"]["Probe"]):
        text = json.dumps(described["properties"]["tokens"])
        assert '"integer"' in text and '"string"' in text


def test_five_mistakes_are_five_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(FIVE_MISTAKES)
    done = bessemer("recipe", "check", path)
    assert done.code == 4 and done.out == "" and "Traceback" not in done.err
    for where, hint in {
        "name": "lower-case letters",
        "strat": "did you mean 'start'?",
        "sources.own.knid": "did you mean 'kind'?",
        "stages[0].objective": "did you mean 'cpt'?",
        "stages[0].mixture.onw": "did you mean 'own'?",
    }.items():
        (line,) = [x for x in done.err.splitlines() if x.startswith(f"  {where}: ")]
        assert hint in line
    asked = bessemer("recipe", "check", path, "--json")
    found = json.loads(asked.out)["error"]
    assert asked.code == 4 and {p["where"] for p in found["problems"]} >= {"name", "strat", "stages[0].objective"}


def test_a_recipe_made_from_files_is_fine(tmp_path: Path) -> None:
    import random

    rng = random.Random(1)
    write_jsonl(tmp_path / "posts.jsonl", [{"text": sentence(rng, ("steel", "iron", "mill"))} for _ in range(60)])
    made = bessemer("recipe", "init", "posts.jsonl", "--name", "mine", cwd=tmp_path)
    assert made.code == 0 and "recipe written to recipe.yaml" in made.out
    checked = bessemer("recipe", "check", "recipe.yaml", cwd=tmp_path)
    assert (checked.code, checked.out) == (0, "recipe.yaml: fine (mine)\n")
    again = bessemer("recipe", "init", "posts.jsonl", cwd=tmp_path)
    assert again.code == 4 and "the file exists" in again.err
    values = json.loads(bessemer("recipe", "check", "recipe.yaml", "--set", "retain=0.95", "--json", cwd=tmp_path).out)
    assert values["retain"] == 0.95 and values["seed"] == 1


# -- looking around -------------------------------------------------------------------------------------------


def test_an_empty_home_has_nothing_and_says_what_makes_it() -> None:
    for verb in ("releases", "runs"):
        shown, listed = bessemer(verb), bessemer(verb, "--json")
        assert shown.code == listed.code == 0 and "bessemer run RECIPE" in shown.out
        assert json.loads(listed.out) == []


def test_what_is_not_there_is_refused() -> None:
    done, listed = bessemer("show", "nothing"), bessemer("show", "nothing@1", "--json")
    assert done.code == listed.code == 4
    assert done.err.splitlines()[0] == "error: there is no release or run 'nothing'"
    assert json.loads(listed.out)["error"]["what"] == "there is no release or run 'nothing@1'"


def test_collections_and_checkpoints_are_listed() -> None:
    assert "bessemer:comments" in bessemer("show", "sources").out
    found = json.loads(bessemer("families", "list", "--json").out)
    assert found["smollm2-135m@post"]["licence"] == "Apache-2.0"


def test_a_closed_pipe_is_no_defect() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"'{COMMAND}' recipe schema | true"], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


# -- doctor ---------------------------------------------------------------------------------------------------


def test_doctor_examines_this_machine(here: Callable[..., Done]) -> None:
    found = json.loads((done := here("doctor", "--json")).out)
    assert {"Python", "cores", "memory", "cache", "disk", "torch", "device", "bf16"} <= {f["what"] for f in found}
    assert done.code == (0 if all(f["ok"] for f in found) else 4)
    assert all(f["fix"] for f in found if not f["ok"])
    assert "Doctor" in here("doctor").out


def test_doctor_says_what_to_do_about_a_home_that_cannot_be_written(
    here: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path / "file" / "home"))
    done = here("doctor", "--json")
    (cache,) = [f for f in json.loads(done.out) if f["what"] == "cache"]
    assert done.code == 4 and not cache["ok"] and "BESSEMER_HOME" in cache["fix"]
    assert "PROBLEM" in here("doctor").out


# -- plan -----------------------------------------------------------------------------------------------------


def test_a_plan_shows_what_was_chosen_and_what_is_a_default(
    story: Path, here: Callable[..., Done], bessemer_home: Path
) -> None:
    done = here("plan", story)
    assert done.code == 0, done.err
    for expected in ("01-cpt", "02-sft", "own", "general", "75.0%", "supervised", "rules", "elsewhere", "warmup",
                     "default", "memory ", "disk ", "measured step", "next: bessemer run"):  # fmt: skip
        assert expected in done.out
    written = json.loads((bessemer_home / "runs" / "story" / PLAN).read_text())
    assert written["identity"][:12] in done.out
    again = json.loads(here("plan", story, "--no-measure", "--json").out)
    assert again["estimate"] == written["estimate"]  # what was measured is kept while nothing changed
    assert "stages[0].clip" in written["defaults"] and "stages[0].lr" not in written["defaults"]


def test_a_plan_s_next_line_runs_that_plan(story: Path, here: Callable[..., Done]) -> None:
    done = here("plan", story, "--no-measure", "--set", "seed=7", "--set", "stages[0].lr=0.001")
    told = done.out.splitlines()[-1].removeprefix("next: ")
    assert shlex.split(told) == ["bessemer", "run", str(story), "--set=seed=7", "--set=stages[0].lr=0.001"]


def test_a_plan_as_json_is_what_is_written(story: Path, here: Callable[..., Done], bessemer_home: Path) -> None:
    done = here("plan", story, "--no-measure", "--json", "--set", "stages[0].lr=")
    made = json.loads(done.out)
    assert made == json.loads((bessemer_home / "runs" / "story" / PLAN).read_text())
    assert made["stages"][0]["why"]["lr"] and "lr" not in made["stages"][1]["why"]
    assert [s["steps"] for s in made["stages"]] == [21, 26] and "minutes" not in made["estimate"]
    assert "stages[0].lr" in made["defaults"]


def test_changed_data_is_a_new_plan_until_the_run_has_started(
    story: Path, here: Callable[..., Done], bessemer_home: Path
) -> None:
    first = json.loads(here("plan", story, "--no-measure", "--json").out)
    assert json.loads(here("plan", story, "--no-measure", "--json").out)["identity"] == first["identity"]
    data = story.parent / "own.jsonl"
    data.write_text(data.read_text() + json.dumps({"text": "one more line about steel"}) + "\n")
    second = json.loads(here("plan", story, "--no-measure", "--json").out)
    assert second["identity"] != first["identity"] and second["sources"]["own"]["items"] == 201

    folder = bessemer_home / "runs" / "story"
    (folder / "metrics.jsonl").touch()  # the run has started
    data.write_text("\n".join(data.read_text().splitlines()[1:]) + "\n")
    before = (folder / PLAN).read_text()
    for verb in (["plan", "--no-measure"], ["run"]):
        done = here(verb[0], story, *verb[1:])
        assert done.code == 4 and "Traceback" not in done.err
        assert "something changed since this run's plan was made" in done.err
        assert "sources.own.items: 201 -> 200" in done.err and "sources.own.digest: " in done.err
        assert "--restart" in done.err and "--set name=" in done.err
    assert (folder / PLAN).read_text() == before
    assert here("plan", story, "--no-measure", "--set", "name=other").code == 0


def test_a_run_that_does_not_fit_is_refused_with_numbers(
    story: Path, here: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, bessemer_home: Path
) -> None:
    monkeypatch.setenv("BESSEMER_MEMORY_LIMIT", "1000")
    for verb in ("plan", "run"):
        done = here(verb, story)
        assert done.code == 4 and " of memory, 1000 B are available" in done.err and "fix: " in done.err
    assert not (bessemer_home / "runs" / "story").exists()
    monkeypatch.setenv("BESSEMER_MEMORY_LIMIT", "lots")
    done = here("plan", story, "--json")
    assert done.code == 4 and json.loads(done.out)["error"]["where"] == "BESSEMER_MEMORY_LIMIT"


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ("sources.own.from=/none.jsonl", "sources.own.from", "does not exist"),
        ("sources.own.columns.text=body", "own.jsonl:1", "no column 'body'"),
        ("sources.own.columns.messages=body", "sources.own.from", "none of the choices"),
        ("sources.rules.from=bessemer:rulez", "sources.rules.from", "is no collection"),
        ("start=smolm2-135m@post", "start", "did you mean 'smollm2-135m@post'"),
        ("stages[1].row_tokens=32", "sources.rules", "longer than a row of 32 tokens"),
        ("tasks.own-texts.from=GENERAL", "held-out set own-texts", "also in the training data"),
    ],
)
def test_what_would_fail_later_is_refused_now(
    story: Path, here: Callable[..., Done], change: str, where: str, what: str, tmp_path: Path, bessemer_home: Path
) -> None:
    if change.endswith("GENERAL"):  # another file with the same words
        copy = tmp_path / "copy.jsonl"
        copy.write_text((story.parent / "general.jsonl").read_text())
        change = change.replace("GENERAL", str(copy))
    done = here("plan", story, "--json", "--set", change)
    error = json.loads(done.out)["error"]
    assert done.code == 4 and where in error["where"] and what in error["what"] + error["fix"]
    assert not (bessemer_home / "runs").exists() or not any((bessemer_home / "runs").glob("*/*"))


def test_a_home_that_cannot_be_written_is_one_clear_error(
    story: Path, here: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path / "file" / "home"))
    for verb in ("plan", "run"):
        done = here(verb, story)
        assert done.code == 4 and "cannot be written" in done.err and "BESSEMER_HOME" in done.err


def test_no_command_leaves_traces_in_the_working_folder(tmp_path: Path) -> None:
    bessemer("releases", cwd=tmp_path)
    bessemer("families", "list", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


# -- output that nobody reads, places that cannot be written ----------------------------------------------------


def test_a_closed_stdout_is_no_defect() -> None:
    done = subprocess.run(
        ["/bin/bash", "-c", f"{COMMAND} recipe schema | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "141\n" and not done.stderr


def test_a_run_goes_on_when_nobody_looks_any_more(story: Path, tmp_path: Path) -> None:
    """`bessemer run ... 2>&1 | head -2`, a terminal that is gone."""
    home = tmp_path / "home"
    done = subprocess.run(
        ["/bin/bash", "-c", f"{COMMAND} run {shlex.quote(str(story))} 2>&1 | head -2; echo ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True, check=False, env={**os.environ, "BESSEMER_HOME": str(home)},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] in {"0", "141"}, done.stdout
    assert json.loads((home / "runs" / "story" / "result.json").read_text())["release"] == "story@1"


@pytest.mark.parametrize("args", ["recipe init rows.jsonl --out file/r.yaml", "policy add p.yaml"])
def test_a_place_that_cannot_be_written_is_no_traceback(args: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", ({"text": f"iron and steel {n}"} for n in range(60)))
    (tmp_path / "p.yaml").write_text("name: steel\ncommunity: iron\nrules:\n  - {id: ore, text: No ore.}\n")
    (tmp_path / "file").write_text("")
    done = bessemer(*args.split(), cwd=tmp_path, BESSEMER_HOME=str(tmp_path / "file"))
    assert done.code == EXIT_CODES["user"] and "Traceback" not in done.err and "file" in done.err, done.err


@pytest.mark.parametrize("args", [["run"], ["data", "show", "--first", "x", "rows.jsonl"], ["recipe", "nothing"]])
def test_usage_errors_are_json_too(args: list[str]) -> None:
    done = bessemer(*args, "--json")
    assert done.code == EXIT_CODES["user"] and json.loads(done.out)["error"]["what"]


@pytest.mark.parametrize("name", ["../x", "/tmp/abs", "Bad Name", ""])
def test_a_name_that_is_no_name_writes_nowhere(name: str, tmp_path: Path) -> None:
    home = {"BESSEMER_HOME": str(tmp_path / "home")}
    curriculum = bessemer("review", "curriculum", "bessemer:rules/trained", "--model", "x@1", "--name", name, **home)
    sample = bessemer("data", "sample", "smollm2-135m@post", "--name", name, **home)
    for done in (curriculum, sample):
        assert done.code == EXIT_CODES["user"] and "is no name" in done.err, done.err
    assert not list(tmp_path.rglob("*.parquet"))


def test_cells_of_a_table_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[/x] a[train] :fire: [bold]b"
    print_table(text, [text], [[text]])
    assert capsys.readouterr().out.count(text) == 3


def test_what_people_wrote_into_is_not_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text("answers")
    for args in (
        ["review", "export", str(mine), "--policy", "p", "--model", "m@1", "--out", str(mine)],
        ["review", "import", str(mine), "--out", str(mine)],
    ):
        done = bessemer(*args)
        assert done.code == 4 and "the file exists" in done.err and mine.read_text() == "answers", done


def test_a_way_back_names_no_version(bessemer_home: Path) -> None:
    for more in (["x@1"], ["x", "--canary", "0.1"]):
        done = bessemer("route", *more, "--rollback")
        assert done.code == 4 and "--rollback goes to the version before" in done.err, done
    done = bessemer("runs", "--json", "show", "x")
    assert done.code == 4 and "bessemer runs show ... --json" in done.err, done


def test_a_short_answer_into_a_closed_pipe_is_no_defect(bessemer_home: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from bessemer.cli.main import main; main()", "releases", "--json"]
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=buffered)
    os.close(write)
    assert done.returncode == 128 + signal.SIGPIPE and done.stderr == "", done
