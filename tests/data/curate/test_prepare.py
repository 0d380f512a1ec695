"""The whole way, from files to a data set, as a user goes it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bessemer.data.curate import feed, stages
from bessemer.data.curate.parts import read_part, write_part
from bessemer.data.curate.prepare import Prepared, ingredients_of, prepare
from bessemer.data.curate.texts import answer_of, texts_in, with_texts
from bessemer.data.items import Item, Message, ToolCall
from bessemer.data.sources import Source
from bessemer.errors import BessemerError, RecipeError
from bessemer.files import canonical_json, check_files, digest_files, sha256_file
from bessemer.recipe.data_recipe import DataRecipe
from bessemer.recipe.load import parse
from bessemer.track.screen import Screen

WORDS = [
    "river",
    "stone",
    "cloud",
    "market",
    "window",
    "garden",
    "letter",
    "mountain",
    "bridge",
    "silver",
    "engine",
    "paper",
    "winter",
    "coffee",
    "music",
]


def sentence(draw: random.Random, n: int = 14) -> str:
    return " ".join(draw.choices(WORDS, k=n)).capitalize() + "."


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two sources with known faults, an evaluation set, and a recipe that does everything."""
    draw = random.Random(7)
    posts = [
        {"id": f"p{i}", "text": sentence(draw), "thread": f"t{i // 4}", "at": 1_700_000_000 + i * 3600}
        for i in range(200)
    ]
    held_out = [{"id": f"e{i}", "text": sentence(draw, 30)} for i in range(5)]
    posts += [
        {"id": "same", "text": posts[3]["text"].upper(), "thread": "t0", "at": 1_700_000_000},
        {"id": "near", "text": posts[5]["text"] + " Again", "thread": "t1", "at": 1_700_000_000},
        {"id": "seen", "text": "As they say: " + held_out[2]["text"], "thread": "t9", "at": 1_700_000_000},
        {"id": "mail", "text": "Write to jane@example.org: " + sentence(draw), "thread": "t8", "at": 1_700_000_000},
        {"id": "short", "text": "Yes.", "thread": "t8", "at": 1_700_000_000},
        {"id": "broken", "text": "The cafÃ© is open: " + sentence(draw), "thread": "t8", "at": 1_700_000_000},
    ]
    write_rows(tmp_path / "posts" / "a.jsonl", posts[:90])
    write_rows(tmp_path / "posts" / "b.jsonl", posts[90:])
    write_rows(
        tmp_path / "other" / "a.jsonl", [{"text": sentence(draw)} for _ in range(60)] + [{"text": posts[8]["text"]}]
    )
    write_rows(tmp_path / "test.jsonl", held_out)
    return tmp_path


def recipe(data: Path, *overrides: str) -> DataRecipe:
    text = f"""
name: talk
sources:
  posts: {{from: {data}/posts}}
  other: {{from: {data}/other/a.jsonl}}
steps:
  repair: {{}}
  quality: {{characters: 10}}
  pii: {{}}
  decontaminate: {{against: {{test: {{from: {data}/test.jsonl}}}}}}
  duplicates: {{}}
  near_duplicates: {{}}
split: {{shares: {{train: 0.8, test: 0.2}}}}
"""
    return parse(DataRecipe, text, where="data.yaml", overrides=overrides)


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tasks from little data, so that there is something to share out and to interrupt."""
    monkeypatch.setattr(feed, "GROUP_BYTES", 1)
    monkeypatch.setattr(stages, "PART_ITEMS", 25)


def make(recipe: DataRecipe, workers: int = 1) -> Prepared:
    return prepare(recipe, Screen(quiet=True), workers=workers)


def contents(made: Prepared) -> dict[str, Any]:
    return digest_files(made.folder)


def items(made: Prepared) -> dict[str, list[Item]]:
    return {
        side: [i for part in sorted((made.folder / side).glob("*.parquet")) for i in read_part(part)]
        for side in made.manifest["splits"]
    }


def test_from_files_to_a_data_set(data: Path) -> None:
    made = make(recipe(data))
    steps = {s["step"]: s for s in made.manifest["steps"]}
    assert list(steps) == ["read", "repair", "quality", "decontaminate", "pii", "duplicates", "near_duplicates"]
    assert steps["read"]["items_in"] == 206 + 61
    assert steps["repair"]["did"] == {"items repaired": 1}
    assert steps["quality"]["why"] == {"shorter than 10 characters": 1}
    assert steps["decontaminate"]["why"] == {"test: 13 words in a row": 1}
    assert steps["pii"]["did"] == {"email replaced": 1}
    assert steps["duplicates"]["why"] == {"same text as an earlier item": 2}  # within a source and across sources
    assert steps["near_duplicates"]["why"] == {"near-duplicate of an earlier item": 1}
    for before, after in zip(list(steps.values()), list(steps.values())[1:], strict=False):
        assert after["items_in"] == before["items_out"] and after["tokens_in"] == before["tokens_out"]
    dropped = {d["id"]: d.get("of") for d in map(json.loads, (made.folder / "dropped.jsonl").read_text().splitlines())}
    assert dropped == {
        "posts/short": None,
        "posts/seen": "test/e2",
        "posts/same": "posts/p3",
        "posts/near": "posts/p5",
        "other/a.jsonl:61": "posts/p8",
    }
    found = items(made)
    assert {side: len(x) for side, x in found.items()} == {k: v["items"] for k, v in made.manifest["splits"].items()}
    everything = {i.id: i for side in found.values() for i in side}
    assert len(everything) == 267 - len(dropped) == steps["near_duplicates"]["items_out"]
    assert everything["posts/mail"].text.startswith("Write to [email]:")
    assert everything["posts/p9"].meta["thread"] == "t2"
    check_files(made.folder, made.manifest["files"], fix="")
    assert set(made.manifest["files"]) == set(contents(made)) - {"manifest.json"}
    assert not list(made.folder.parent.glob(".work-*"))


def test_items_come_back_as_they_were(tmp_path: Path) -> None:
    user, yes = Message("user", "q"), Message("assistant", "yes", reasoning="since")
    call = Message("assistant", "", tool_calls=(ToolCall("find", {"q": "x", "n": 1}, "c1"),))
    tools = ({"type": "function", "function": {"name": "find", "parameters": {"a": None}}},)
    written = [
        Item("a", "text\n \u2028 😂", group="g", meta={"n": 1, "deep": {"x": [None, 1.5]}, "ü": "é"}),
        Item("b", messages=(Message("system", "s"), user, Message("assistant", "ja"))),
        Item("c", messages=(user, call, Message("tool", "3", name="find", call_id="c1"), yes), tools=tools),
        Item("d", messages=(user,), chosen=(yes,), rejected=(Message("assistant", "no"),)),
        Item("e", messages=(user,), reference="42"),
    ]
    write_part(tmp_path / "x.parquet", written)
    assert list(read_part(tmp_path / "x.parquet")) == written
    for item in written:
        texts = texts_in(item)
        assert with_texts(item, texts) == item
        assert texts_in(with_texts(item, [f"<{t}>" for t in texts])) == [f"<{t}>" for t in texts]
    (tmp_path / "x.parquet").write_bytes((tmp_path / "x.parquet").read_bytes()[:-20])
    with pytest.raises(BessemerError, match="no part of a data set"):
        list(read_part(tmp_path / "x.parquet"))


def test_one_and_four_workers_make_the_same_bytes(
    data: Path, small_tasks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make(recipe(data))
    assert len(list((one.folder / "train").iterdir())) > 5  # many tasks, or this would prove nothing
    monkeypatch.setenv("BESSEMER_HOME", str(data / "home-4"))
    four = make(recipe(data), workers=4)
    assert one.folder != four.folder and contents(one) == contents(four)


def test_parts_do_not_change_what_is_kept(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ids(made: Prepared) -> dict[str, list[str]]:
        return {side: [i.id for i in found] for side, found in items(made).items()}

    whole = ids(make(recipe(data)))
    monkeypatch.setenv("BESSEMER_HOME", str(data / "home-2"))
    monkeypatch.setattr(stages, "PART_ITEMS", 10)
    assert ids(make(recipe(data))) == whole


def test_versions_and_what_changed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make(recipe(data))
    before = sha256_file(first.folder / "manifest.json")
    again = prepare(recipe(data), Screen())
    assert not again.new and again.folder == first.folder
    assert "talk@1 is made of exactly this" in capsys.readouterr().err
    second = prepare(recipe(data, "steps.quality.characters=3"), Screen())
    assert second.reference == "talk@2"
    assert "changed since talk@1: steps.quality.characters: 10 -> 3" in capsys.readouterr().err
    with (data / "other" / "a.jsonl").open("a") as file:
        file.write('{"text": "One more line of text for the other source."}\n')
    third = prepare(recipe(data, "steps.quality.characters=3", "steps.pii="), Screen())
    said = capsys.readouterr().err
    assert third.reference == "talk@3"
    assert "changed since talk@2: sources.other: holds other data" in said and "steps.pii: on -> off" in said
    assert make(recipe(data, "steps.quality.characters=3")).reference == "talk@4"  # the file changed: not talk@2
    assert sha256_file(first.folder / "manifest.json") == before


def test_a_moved_file_is_the_same_data(data: Path) -> None:
    first = make(recipe(data))
    (data / "elsewhere").mkdir()
    (data / "test.jsonl").rename(data / "elsewhere" / "test.jsonl")
    at = f"steps.decontaminate.against.test.from={data}/elsewhere/test.jsonl"
    assert make(recipe(data, at)).folder == first.folder


def test_a_training_recipe_reads_what_was_prepared(data: Path) -> None:
    made = make(recipe(data))
    source = Source(f"dataset:{made.reference}/train")
    assert list(source) == items(made)["train"]
    part = next((made.folder / "train").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(BessemerError, match="its bytes changed"):
        list(Source(f"dataset:{made.reference}/train"))


def test_bad_rows_follow_the_policy_of_their_source(data: Path) -> None:
    with (data / "other" / "a.jsonl").open("a") as file:
        file.write('{"text": \n')
    with pytest.raises(BessemerError, match=r"a\.jsonl:62"):
        make(recipe(data))
    made = make(recipe(data, "sources.other.on_error=skip"))
    (refused,) = made.manifest["steps"][0]["did"].items()
    assert refused[0].startswith("rows refused: ") and refused[1] == 1


# -- splits ---------------------------------------------------------------------------------------------------------


def test_a_random_split_of_near_duplicates_is_refused_with_the_count(data: Path) -> None:
    rows = [{"id": f"x{i}", "text": f"{sentence(random.Random(i // 10), 20)} {i}"} for i in range(100)]
    write_rows(data / "other" / "a.jsonl", rows)
    plain = ["steps.near_duplicates=", "steps.duplicates=", "split.by=random"]
    with pytest.raises(BessemerError, match=r"\d\d of 30\d items have a near-duplicate .*on another side") as caught:
        make(recipe(data, *plain))
    assert "steps.near_duplicates: {}" in caught.value.fix and "split.by: cluster" in caught.value.fix
    kept = make(recipe(data, *plain[:2]))  # by cluster
    side_of = {i.id: side for side, found in items(kept).items() for i in found}
    for start in range(0, 100, 10):
        assert len({side_of[f"other/x{i}"] for i in range(start, start + 10)}) == 1
    assert len(set(side_of.values())) == 2
    assert make(recipe(data, "steps.duplicates=", "split.by=random")).new  # removed: nothing can straddle


def test_groups_stay_together(data: Path) -> None:
    made = make(recipe(data, "split.by=group", "split.column=thread", f"sources.other.from={data}/posts/a.jsonl",
                       f"sources.posts.from={data}/posts/b.jsonl"))  # fmt: skip
    sides: dict[str, set[str]] = {}
    for side, found in items(made).items():
        for item in found:
            sides.setdefault(item.meta["thread"], set()).add(side)
    assert all(len(s) == 1 for s in sides.values()) and len(sides) >= 50


def test_a_group_stays_together_in_every_split(data: Path) -> None:
    """Texts of one thread need not be alike."""
    grouped = ["sources.posts.columns={group: thread}", "sources.other="]
    sides: dict[str, set[str]] = {}
    for side, found in items(make(recipe(data, *grouped))).items():
        for item in found:
            sides.setdefault(item.group, set()).add(side)
    assert len(sides) >= 50 and all(len(s) == 1 for s in sides.values())
    with pytest.raises(BessemerError, match="or an item of their group on another side of the split"):
        make(recipe(data, *grouped, "split.by=random"))


def test_answers_to_one_question_stay_together(tmp_path: Path) -> None:
    """Samples of one prompt are not alike, and whoever has seen one of them knows the question."""
    draw = random.Random(3)
    rows = [
        {"prompt": f"Question {q}: {sentence(random.Random(q), 5)}", "completion": sentence(draw, 60)}
        for q in range(60)
        for _ in range(4)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = f"name: talks\nsources:\n  a: {{from: {tmp_path}/rows.jsonl, kind: chat}}\nsplit: {{}}\n"
    sides: dict[str, set[str]] = {}
    for side, found in items(make(parse(DataRecipe, text, where="talks"))).items():
        for item in found:
            sides.setdefault(item.messages[0].content, set()).add(side)
    assert len(sides) == 60 and all(len(s) == 1 for s in sides.values()) and len(set.union(*sides.values())) > 1


def test_a_system_message_is_no_contamination(tmp_path: Path) -> None:
    policy = sentence(random.Random(1), 40)

    def row(seed: int) -> dict[str, str]:
        draw = random.Random(seed)
        return {"system": policy, "prompt": sentence(draw, 30), "completion": sentence(draw, 30)}

    for name, seeds in (("rows", range(30)), ("test", range(100, 103))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row(s)) + "\n" for s in seeds))
    text = f"name: talks\nsources:\n  a: {{from: {tmp_path}/rows.jsonl, kind: chat}}\n"
    text += f"steps:\n  decontaminate:\n    against:\n      t: {{from: {tmp_path}/test.jsonl, kind: chat}}\n"
    assert len(items(make(parse(DataRecipe, text, where="talks")))["train"]) == 30


def test_what_is_repaired_is_compared_with_what_is_repaired(data: Path) -> None:
    line = json.dumps({"id": "html", "text": "I don&#39;t like the old mill &amp; never did"}) + "\n"
    for name in ("posts/a.jsonl", "test.jsonl"):
        with (data / name).open("a") as file:
            file.write(line)
    made = make(recipe(data))
    dropped = [json.loads(line) for line in (made.folder / "dropped.jsonl").read_text().splitlines()]
    assert {"decontaminate"} == {d["step"] for d in dropped if d["id"] == "posts/html"}


def test_an_instruction_that_all_begin_with_does_not_make_them_alike(tmp_path: Path) -> None:
    draw = random.Random(3)
    policy = sentence(draw, 200)
    rows = [
        {"messages": [{"role": "system", "content": policy}, {"role": "user", "content": sentence(draw, 12)},
                      {"role": "assistant", "content": "yes"}]}
        for _ in range(40)
    ]  # fmt: skip
    write_rows(tmp_path / "chat.jsonl", rows)
    text = (
        f"name: chat\nsources: {{c: {{from: {tmp_path}/chat.jsonl, kind: chat}}}}\nsteps: {{near_duplicates: {{}}}}\n"
    )
    assert len(items(make(parse(DataRecipe, text, where="x")))["train"]) == 40


def test_answers_that_masking_makes_equal_teach_nothing(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Who wrote letter {n}?", "chosen": f"Ask {who}@example.org.", "rejected": "Ask zoe@example.org."}
        for n, who in enumerate(("jane", "zoe.b", "nobody at all, not even "))
    ]
    write_rows(tmp_path / "pairs.jsonl", rows)
    text = f"name: pairs\nsources: {{p: {{from: {tmp_path}/pairs.jsonl, kind: preference}}}}\nsteps: {{pii: {{}}}}\n"
    made = make(parse(DataRecipe, text, where="x"))
    assert len(items(made)["train"]) == 1
    assert "the two answers became the same" in (made.folder / "dropped.jsonl").read_text()


def test_a_split_by_time(data: Path) -> None:
    cut = 1_700_000_000 + 150 * 3600
    made = make(recipe(data, "split.by=time", "split.column=at", f"split.cuts={{late: {cut}}}", "sources.other="))
    found = items(made)
    assert len(found["late"]) == 50
    assert all(i.meta["at"] >= cut for i in found["late"]) and all(i.meta["at"] < cut for i in found["train"])


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (
            ["split.by=time", "split.column=at", "split.cuts={late: 2023-12-01}"],
            "other/a.jsonl:1 has nothing in column 'at'",
        ),
        (["split.by=time", "split.column=text", "split.cuts={late: 2023-12-01}"], "has nothing in column 'text'"),
        (
            ["split.by=time", "split.column=thread", "split.cuts={late: 2023-12-01}", "sources.other="],
            "'t0' is no time",
        ),
        (["split.by=time", "split.column=at", "split.cuts={late: soon}", "sources.other="], "'soon' is no time"),
        (["split.by=group"], "no item has a group"),
        (["split.shares={train: 0.999999, test: 0.000001}"], "the side 'test' of the split is empty"),
        (["steps.quality.characters=100000"], "nothing is left after step"),
        (["sources.other.from=nowhere.jsonl"], "does not exist"),
        (["sources.other.columns={text: body}"], "no column 'body'"),
        (["sources.other.kind=chat"], r"a.jsonl:1"),
    ],
)
def test_what_cannot_be_made_is_one_clear_error(
    data: Path, bessemer_home: Path, overrides: list[str], match: str
) -> None:
    with pytest.raises(BessemerError, match=match):
        make(recipe(data, *overrides))
    assert not [p for p in (bessemer_home / "datasets" / "talk").glob("*") if p.name.isdigit()]


def test_an_unknown_language_and_a_place_that_is_none(data: Path) -> None:
    with pytest.raises(RecipeError, match="no such language: english"):
        make(recipe(data, "steps.language={keep: [english]}"))
    for place in ("local:2", "slrum", "k8s"):
        with pytest.raises(BessemerError, match="is no place to run"):
            prepare(recipe(data), Screen(quiet=True), on=place)


def test_twice_the_same_id_is_refused(data: Path) -> None:
    write_rows(
        data / "posts" / "c.jsonl", [{"id": "p3", "text": "A rather different text with the id of another one."}]
    )
    with pytest.raises(BessemerError, match="1 items have an id that another item has too, e.g. 'posts/p3'"):
        make(recipe(data))


def test_twins_of_a_group_stay_and_other_answers_are_told(data: Path) -> None:
    question = sentence(random.Random(3), 30)
    rows = [
        {"id": "a", "group": "g", "prompt": f"Rule one. {question}", "completion": "yes"},
        {"id": "b", "group": "g", "prompt": f"Rule two. {question}", "completion": "no"},
        {"id": "c", "prompt": f"Rule one. {question}", "completion": "no"},
        {"id": "d", "prompt": f"Rule one. {question}!", "completion": "yes"},
        *({"id": f"z{i}", "prompt": sentence(random.Random(i)), "completion": "maybe"} for i in range(40)),
    ]
    write_rows(data / "chat.jsonl", rows)
    asked = recipe(data, f"sources={{chat: {{from: {data}/chat.jsonl, kind: chat}}}}", "split=")
    made = make(asked)
    ids = {i.id for i in items(made)["train"]}
    assert {"chat/a", "chat/b"} <= ids and not {"chat/c", "chat/d"} & ids
    assert made.manifest["steps"][-1]["why"] == {
        "near-duplicate of an earlier item": 1,
        "near-duplicate of an earlier item, but with another answer": 1,
    }
    strict = make(recipe(data, f"sources={{chat: {{from: {data}/chat.jsonl, kind: chat}}}}", "split=",
                         "steps.near_duplicates.same_group=drop"))  # fmt: skip
    assert "chat/b" not in {i.id for i in items(strict)["train"]}


# -- kills and full disks ---------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
from bessemer.data.curate import feed, stages
from bessemer.data.curate.prepare import prepare
from bessemer.track.screen import Screen
from tests.data.curate.test_prepare import recipe
feed.GROUP_BYTES, stages.PART_ITEMS = 1, 25
if __name__ == "__main__":
    prepare(recipe(Path(sys.argv[1])), Screen(), workers=int(sys.argv[2]))
"""


def command(data: Path, workers: int) -> subprocess.Popen[str]:
    """A process group of its own, so that a kill takes the workers too, as a lost machine does."""
    root = Path(__file__).parents[3]
    env = {**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}"}
    script = data / "make.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, script, str(data), str(workers)],
        env=env,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def kill_in(process: subprocess.Popen[str], shelf: Path, sign: str) -> bool:
    """kill -9 as soon as the sign of a stage appears below the work folder; False when it ended before."""
    while process.poll() is None:
        if any(shelf.glob(f".work-*/{sign}")):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return not any(p.name.isdigit() for p in shelf.iterdir())
        time.sleep(0.001)
    return False


SIGNS = {
    "read": "read/*",
    "read, a task done": "logs/read/completions/*",
    "clean": "clean/.tmp-*",
    "clean, a task done": "logs/clean/completions/*",
    "match": ".tmp-*-match",
    "match, done": "match",
    "write": "out/*/.tmp-*",
    "write, a task done": "logs/write/completions/*",
    "end": "out/report.json",
}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.full)])
def test_kill_9_in_every_stage_and_run_again(
    data: Path, small_tasks: None, bessemer_home: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One home is killed in one stage after the other and goes on; another one is never killed."""
    shelf = bessemer_home / "datasets" / "talk"
    killed = [name for name, sign in SIGNS.items() if kill_in(command(data, workers), shelf, sign)]
    assert {"read", "clean", "write, a task done"} <= set(killed) and len(killed) >= 5, killed
    assert list(shelf.glob(".work-*/clean/*"))
    done = command(data, workers)
    assert done.wait() == 0, done.communicate()
    (finished,) = [
        Prepared(p, json.loads((p / "manifest.json").read_text()), True) for p in shelf.iterdir() if p.is_dir()
    ]
    monkeypatch.setenv("BESSEMER_HOME", str(data / "home-never-killed"))
    assert contents(make(recipe(data))) == contents(finished)


def test_finished_tasks_are_skipped(
    data: Path, small_tasks: None, monkeypatch: pytest.MonkeyPatch, bessemer_home: Path
) -> None:
    from bessemer.data.curate import prepare as module

    with monkeypatch.context() as patch:
        patch.setattr(module, "_finish", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make(recipe(data))
    (work,) = (bessemer_home / "datasets" / "talk").glob(".work-*")
    (work / "logs" / "clean" / "completions" / "00002").unlink()
    looked: list[int] = []
    original = stages.CleanStage.do
    monkeypatch.setattr(
        stages.CleanStage, "do", lambda self, data, rank: (looked.append(rank), original(self, data, rank))
    )
    make(recipe(data))
    assert looked == [2]


def test_a_killed_worker_is_an_error_and_not_an_endless_wait(data: Path, small_tasks: None) -> None:
    running = command(data, 2)
    worker = 0
    while not worker and running.poll() is None:
        for pid in _descendants(running.pid):
            with contextlib.suppress(OSError):
                if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes() and _descendants(pid):
                    worker = _descendants(pid)[0]
    assert worker
    os.kill(worker, signal.SIGKILL)
    out, err = running.communicate(timeout=120)
    assert running.returncode != 0 and "a worker was killed" in err, out + err
    assert command(data, 2).wait() == 0


def _descendants(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(c) for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()]
    return []


def test_a_full_disk_leaves_what_is_finished_valid(
    data: Path, small_tasks: None, disk_of: Callable[[str], Path]
) -> None:
    small_disk = disk_of("3m")
    asked = recipe(data, "steps.decontaminate=")
    first = make(asked)
    filler = small_disk / "filler"
    room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
    filler.write_bytes(b"x" * (room - 100_000))
    with pytest.raises((BessemerError, OSError), match="No space left"):
        make(recipe(data, "steps.decontaminate=", "steps.quality.characters=3"))
    check_files(first.folder, first.manifest["files"], fix="")
    assert not make(asked).new
    filler.unlink()
    second = make(recipe(data, "steps.decontaminate=", "steps.quality.characters=3"))
    assert second.reference == "talk@2"
    check_files(second.folder, second.manifest["files"], fix="")


def test_a_part_of_which_nothing_is_left(data: Path, small_tasks: None) -> None:
    write_rows(data / "posts" / "0-first.jsonl", [{"text": "No."} for _ in range(30)])
    write_rows(data / "posts" / "z-last.jsonl", [{"text": "Yes."} for _ in range(30)])
    made = make(recipe(data))
    assert made.manifest["steps"][2]["why"] == {"shorter than 10 characters": 61}
    assert sum(side["items"] for side in made.manifest["splits"].values()) == 262


def test_the_order_of_sources_and_of_shares_is_an_ingredient(data: Path) -> None:
    """The first of two copies stays, and the shares are cut one after the other."""
    given = recipe(data)
    turned = given.model_copy(update={"sources": dict(reversed(given.sources.items()))})
    assert given.split
    shares = dict(reversed(given.split.shares.items()))
    cut = given.model_copy(update={"split": given.split.model_copy(update={"shares": shares})})
    assert len({canonical_json(ingredients_of(r)) for r in (given, turned, cut)}) == 3


def test_calls_of_other_tools_are_no_copies() -> None:
    def item(name: str, days: int, tools: tuple[dict[str, Any], ...] = ()) -> Item:
        call = Message("assistant", "", (ToolCall(name, {"city": "Paris", "days": days}, "id"),))
        return Item("x", messages=(Message("user", "Paris?"), call), tools=tools)

    items = [item("get", 1), item("delete", 1), item("get", 2), item("get", 1, ({"name": "get"},))]
    assert len({stages._exact_form(i) for i in items}) == 4
    assert len({answer_of(i) for i in items}) == 3
    assert stages._exact_form(item("get", 1)) == stages._exact_form(item("get", 1))
