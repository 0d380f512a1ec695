"""Data set repositories: what a configuration and a split mean, from the hub (a real client) and as a local clone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bessemer.data.hub import _fits, _split_of, choose, names_in_clone
from bessemer.data.sources import Source, read_items
from bessemer.errors import BessemerError
from tests.hub import NEW, OLD, Hub, serve

REPO = "tests/posts"
PROGRAM = """
import sys
from bessemer.data.sources import Source
from bessemer.errors import BessemerError
try:
    source = Source(sys.argv[1])
    print([i.text for i in source])
    print([i.id for i in source])
    print(source.digest())
except BessemerError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def rows(*texts: str) -> bytes:
    return "".join(json.dumps({"text": t}) + "\n" for t in texts).encode()


FILES = {
    "README.md": b"---\nlicense: mit\n---\n# Posts\n",
    "data/train-00000-of-00002.jsonl": rows("a"),
    "data/train-00001-of-00002.jsonl": rows("b"),
    "data/test[1].jsonl": rows("c"),
    "loader.py": b"raise SystemExit",
    "dataset_infos.json": b"{}",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    moved = {**FILES, "data/train-00000-of-00002.jsonl": rows("moved")}
    with serve(Hub(REPO, "datasets", commits={OLD: FILES, NEW: moved})) as found:
        yield found


def read(url: str, address: str, *, offline: bool = False, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    settings = {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "1" if offline else "0", "HF_HUB_DISABLE_XET": "1"}
    settings |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-c", program, address]
    return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False, timeout=120)


def test_a_split_is_fetched_alone_pinned_to_its_commit_and_read_offline(hub: Hub) -> None:
    first = read(hub.url, f"hf:{REPO}/train")
    assert first.returncode == 0, first.stdout + first.stderr
    texts, ids, digest = first.stdout.splitlines()
    assert texts == "['a', 'b']"
    assert ids == "['data/train-00000-of-00002.jsonl:1', 'data/train-00001-of-00002.jsonl:1']"
    assert not any("loader.py" in path or "test" in path.rpartition("/")[2] for path in hub.asked)

    hub.main = NEW  # the branch moves; what was resolved once stays
    assert read(hub.url, f"hf:{REPO}/train").stdout.splitlines()[2] == digest
    assert read("http://127.0.0.1:9", f"hf:{REPO}/train", offline=True).stdout == first.stdout
    assert read(hub.url, f"hf:{REPO}@{NEW}/train").stdout.splitlines()[0] == "['moved', 'b']"


def test_a_sample_of_files_is_chosen_by_their_names_and_only_they_are_fetched(hub: Hub) -> None:
    one = read(hub.url, f"hf:{REPO}/train?bytes=1")
    assert one.returncode == 0, one.stdout
    texts = one.stdout.splitlines()[0]
    assert texts in {"['a']", "['b']"}
    fetched = {p.rpartition("/")[2] for p in hub.asked if "/resolve/" in p and "train-" in p}
    assert len(fetched) == 1
    assert read(hub.url, f"hf:{REPO}/train?bytes=10000").stdout.splitlines()[0] == "['a', 'b']"
    assert read(hub.url, f"hf:{REPO}/train?bytes=0").stdout.splitlines()[0] == texts
    assert "is no repository" in read(hub.url, f"hf:{REPO}/train?bytes=many").stdout


def test_a_mirror_stands_for_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, data in FILES.items():
        path = tmp_path / REPO / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    monkeypatch.setenv("BESSEMER_MIRROR", str(tmp_path))
    nowhere = "http://127.0.0.1:9"
    assert read(nowhere, f"hf:{REPO}/train").stdout.splitlines()[0] == "['a', 'b']"
    assert len(read(nowhere, f"hf:{REPO}/train?bytes=1").stdout.splitlines()[0]) == len("['a']")
    assert read(nowhere, "hf:tests/other/train").returncode == 4


@pytest.mark.parametrize(
    ("rest", "texts"),
    [("test", "['c']"), ("data/test[1].jsonl", "['c']"), ("data/*-00001-*", "['b']"), ("data", "['c', 'a', 'b']")],
)
def test_paths_and_splits(hub: Hub, rest: str, texts: str) -> None:
    found = read(hub.url, f"hf:{REPO}/{rest}")
    assert found.stdout.splitlines()[0] == texts, found.stdout + found.stderr


@pytest.mark.parametrize(
    ("address", "what"),
    [
        (f"hf:{REPO}", f"hf:{REPO} has the splits train, test\n  fix: say which one: hf:{REPO}/train"),
        (f"hf:{REPO}/dev", "has no dev\n  fix: it has default/train, default/test"),
        ("hf:tests/none/train", "the hub could not deliver it"),
        (f"hf:{REPO}@{'c' * 40}/train", "the hub could not deliver it"),
        ("hf:posts", "is no repository"),
    ],
)
def test_what_the_hub_does_not_have_is_one_clear_error(hub: Hub, address: str, what: str) -> None:
    found = read(hub.url, address)
    assert found.returncode == 4, found.stderr
    assert what in found.stdout


# -- configurations and splits ----------------------------------------------------------------------------------

NAMES = ["en/train.parquet", "en/test.parquet", "de/train.parquet", "extra/notes.csv", "README.md", "state.json"]
CONFIGS = {
    "configs": [
        {
            "config_name": "en",
            "data_files": [{"split": "train", "path": "en/train*"}, {"split": "test", "path": "en/te*"}],
        },
        {"config_name": "de", "data_files": "de/*.parquet"},
        {"config_name": "all", "data_files": [{"split": "train", "path": ["en/train.parquet", "**/train.parquet"]}]},
    ]
}


@pytest.mark.parametrize(
    ("meta", "rest", "names"),
    [
        (CONFIGS, "de", ["de/train.parquet"]),
        (CONFIGS, "de/train", ["de/train.parquet"]),
        (CONFIGS, "en/test", ["en/test.parquet"]),
        (CONFIGS, "all", ["de/train.parquet", "en/train.parquet"]),
        (CONFIGS, "extra", ["extra/notes.csv"]),
        (CONFIGS, "extra/notes.csv", ["extra/notes.csv"]),
        ({"configs": [CONFIGS["configs"][1] | {"default": True}, CONFIGS["configs"][0]]}, "", ["de/train.parquet"]),
        ({"configs": [{"config_name": "x", "data_dir": "de"}]}, "", ["de/train.parquet"]),
        ({}, "test", ["en/test.parquet"]),
        ({}, "train", ["de/train.parquet", "en/train.parquet"]),
    ],
)
def test_configurations_and_splits(meta: dict[str, object], rest: str, names: list[str]) -> None:
    assert choose(NAMES, meta, rest, f"hf:a/b/{rest}", "") == names


@pytest.mark.parametrize(
    ("meta", "rest", "match"),
    [
        (CONFIGS, "", "has the configurations en, de, all\n  fix: say which one: hf:a/b/en"),
        (CONFIGS, "en", "has the splits train, test\n  fix: say which one: hf:a/b/en/train"),
        (  # the name of the default one is a name all the same
            {"configs": [CONFIGS["configs"][0] | {"default": True}, CONFIGS["configs"][1]]},
            "en",
            "has the splits train, test\n  fix: say which one: hf:a/b/en/train",
        ),
        (CONFIGS, "fr", "has no fr\n  fix: it has en/train, en/test, de/train, all/train"),
        ({}, "", "has the splits train, test"),
        (
            CONFIGS | {"configs": [{"config_name": "x", "data_files": [{"split": "test", "path": "en/te*"}]}]},
            "",
            "has the split test\n  fix: say which one: hf:a/b/test",
        ),
    ],
)
def test_a_choice_that_must_be_made(meta: dict[str, object], rest: str, match: str) -> None:
    with pytest.raises(BessemerError, match=match):
        choose(NAMES, meta, rest, f"hf:a/b/{rest}" if rest else "hf:a/b", "")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train_test_split/test.parquet", "test"),
        ("train_test_split/train.parquet", "train"),
        ("train/eval.jsonl", "test"),
        ("train_dev.jsonl", "validation"),
        ("test/data.jsonl", "test"),
        ("data/rows.jsonl", ""),
    ],
)
def test_of_two_splits_in_a_path_the_nearest_counts_then_the_one_that_is_held_out(name: str, split: str) -> None:
    assert _split_of(name) == split


def test_a_folder_of_a_clone_that_is_a_configuration_has_its_splits(tmp_path: Path) -> None:
    card = yaml.safe_dump(CONFIGS)
    for name in ("en/train.jsonl", "en/test.jsonl", "de/train.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}) + "\n")
    (tmp_path / "README.md").write_text(f"---\n{card.replace('.parquet', '.jsonl')}---\n")
    with pytest.raises(BessemerError, match="has the splits train, test"):
        read_items(str(tmp_path / "en"))
    assert [i.text for i in read_items(str(tmp_path / "de"))] == ["de/train.jsonl"]
    assert [i.text for i in read_items(str(tmp_path / "en" / "train"))] == ["en/train.jsonl"]


def test_files_that_name_no_split_are_not_left_out_beside_files_that_do() -> None:
    for named in ("test.jsonl", "train.jsonl"):
        names = ["reddit.jsonl", named]
        with pytest.raises(BessemerError, match=r"has the splits t\w+, unnamed"):
            choose(names, {}, "", "hf:a/b", "")
        assert choose(names, {}, "unnamed", "hf:a/b/unnamed", "") == ["reddit.jsonl"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("data/*", ["data/x.csv"]),
        ("data/**", ["data/eval/test.csv", "data/x.csv"]),
        ("**/test.csv", ["data/eval/test.csv", "test.csv"]),
        ("*", ["test.csv"]),
        ("data/[a-x].???", ["data/x.csv"]),
        ("data/[!a-x].csv", []),
    ],
)
def test_only_two_stars_reach_into_folders(pattern: str, names: list[str]) -> None:
    meta = {"configs": [{"config_name": "x", "data_files": pattern}]}
    every = ["data/eval/test.csv", "data/x.csv", "test.csv"]
    if names:
        assert choose(every, meta, "x/train", "hf:a/b/x/train", "") == names
    else:
        with pytest.raises(BessemerError, match="has no x/train"):
            choose(every, meta, "x/train", "hf:a/b/x/train", "")


def clone(folder: Path, readme: str) -> Path:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "README.md").write_text(readme)
    return folder


def test_a_local_clone_has_the_same_splits_and_no_readme_among_its_documents(tmp_path: Path) -> None:
    patterns = "configs:\n- config_name: default\n  data_files:\n  - {split: train, path: data/train-*}\n"
    folder = clone(tmp_path / "posts", f"---\n{patterns}  - {{split: test, path: data/test*}}\n---\n# Posts\n")
    for rest in ("train", "default/train"):
        assert [i.text for i in read_items(str(folder / rest))] == ["a", "b"]
    assert [i.text for i in read_items(str(folder / "test"))] == ["c"]
    with pytest.raises(BessemerError, match="has the splits train, test"):
        read_items(str(folder))
    with pytest.raises(BessemerError, match="has no dev"):
        read_items(str(folder / "dev"))
    one = clone(tmp_path / "one", f"---\n{patterns}---\n")
    assert [i.text for i in read_items(str(one))] == ["a", "b"]


@pytest.mark.parametrize("front", ["date: 2024-02-30", "configs: true", "configs: {a: 1}", "license: [mit"])
def test_front_matter_that_means_nothing_stops_nobody(tmp_path: Path, front: str) -> None:
    folder = clone(tmp_path / "posts", f"---\n{front}\n---\n# Posts\n")
    assert len(Source(str(folder / "data")).files()) == 3
    assert len(names_in_clone(folder, "train", "")) == (2 if "configs" in front else 0)


def test_a_pattern_that_is_none_is_a_name() -> None:
    assert not _fits("data/part-1.jsonl", "data/part-[9-1]*") and _fits("a[9-1]", "a[9-1]")


def test_a_folder_whose_readme_says_nothing_is_a_folder(tmp_path: Path) -> None:
    folder = clone(tmp_path / "posts", "# Posts\n")
    names = [f.name for f in Source(str(folder)).files()]
    assert "README.md" in names and "data/test[1].jsonl" in names


def test_two_refs_of_one_repository_are_pinned_apart(hub: Hub) -> None:
    """Their names have a slash in them: refs/convert/parquet."""
    hub.branches = {"refs/pr/1": OLD, "refs/pr/2": NEW}
    found = [read(hub.url, f"hf:{REPO}@refs/pr/{n}/train").stdout.splitlines()[0] for n in (1, 2)]
    assert found == ["['a', 'b']", "['moved', 'b']"]


def test_the_size_is_said_and_a_full_disk_is_refused_before_anything_is_fetched(hub: Hub, tmp_path: Path) -> None:
    found = read(hub.url, f"hf:{REPO}/train")
    assert f"hf:{REPO}: fetching " in found.stderr
    assert "fetching" not in read(hub.url, f"hf:{REPO}/train").stderr  # it is here
    hub.asked.clear()
    small = "import shutil\nfrom collections import namedtuple\nfull = namedtuple('Disk', 'free')(1)\n"
    small += "shutil.disk_usage = lambda _: full\n" + PROGRAM
    refused = read(hub.url, f"hf:{REPO}@{NEW}/train", program=small)
    assert refused.returncode == 4 and "of disk, 1 B are free" in refused.stdout, refused.stdout + refused.stderr
    assert not any("/resolve/" in path for path in hub.asked)


@pytest.mark.parametrize(
    ("front", "saved"), [("license: mit\n", ""), ("dataset_info: {features: []}\n", ""), ("", "state.json")]
)
def test_a_clone_that_lists_no_files_has_splits_all_the_same(tmp_path: Path, front: str, saved: str) -> None:
    """Most front matter holds a licence and tags; what save_to_disk() leaves has none."""
    folder = clone(tmp_path / "posts", f"---\n{front}---\n# Posts\n" if front else "# Posts\n")
    if saved:
        (folder / saved).write_text("{}")
    with pytest.raises(BessemerError, match="has the splits train, test"):
        read_items(str(folder))
    assert [i.text for i in read_items(str(folder / "test"))] == ["c"]


def test_a_folder_of_notes_with_front_matter_is_a_folder(tmp_path: Path) -> None:
    for name in ("README.md", "one.md"):
        (tmp_path / name).write_text("---\ntags: [a]\n---\nText.\n")
    assert [f.name for f in Source(str(tmp_path)).files()] == ["README.md", "one.md"]
