from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.data import shards
from bessemer.data.items import Item, Message
from bessemer.data.pack import Packer
from bessemer.data.render import Renderer
from bessemer.data.shards import TokenSet, hash64, open_or_build, text_hash
from bessemer.data.sources import Source
from bessemer.data.stage import tokenise_source
from bessemer.errors import BessemerError
from bessemer.files import digest_files, read_json, write_json


@pytest.fixture
def renderer(tiny_model: Path) -> Renderer:
    return Renderer(tiny_model)


def documents(n: int) -> list[Item]:
    return [
        Item(f"d{i}", f"Sentence {i} about iron. " * (1 + i % 7), meta={"licence": "MIT", "i": i}) for i in range(n)
    ]


def chats(n: int) -> list[Item]:
    return [
        Item(f"c{i}", messages=(Message("user", f"q {i}?"), Message("assistant", "yes")), group=f"g{i // 2}")
        for i in range(n)
    ]


def build(items: list[Item], renderer: Renderer, name: str = "set", **ingredients: str) -> TokenSet:
    return open_or_build(name, lambda: items, renderer, {"data": "x", **ingredients})


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "PART_TOKENS", 300)
    monkeypatch.setattr(shards, "BATCH_ITEMS", 16)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("make", [documents, chats])
def test_a_token_set_holds_what_the_renderer_said(make: Any, renderer: Renderer) -> None:
    items = make(100)
    tokens = build(items, renderer)
    assert tokens.n_items == 100 and len(tokens.manifest["parts"]) > 3
    for i, example in enumerate(renderer.render(items)):
        got = tokens.segment(i)
        assert (got.id, got.ids_L.tolist()) == (example.id, example.ids_L.tolist())
        assert got.supervised_L.tolist() == example.supervised_L.tolist()
        middle = tokens.segment(i, 2, 3)
        assert middle.ids_L.tolist() == example.ids_L[2:5].tolist()
        assert middle.supervised_L.tolist() == example.supervised_L[2:5].tolist()
    assert tokens.lengths().tolist() == [len(e.ids_L) for e in renderer.render(items)]
    assert tokens.n_supervised == sum(int(e.supervised_L.sum()) for e in renderer.render(items))
    assert [tokens.find(i.id) for i in items] == [[n] for n in range(100)] and tokens.find("nobody") == []
    assert tokens.about(7)["meta"] == dict(items[7].meta)
    groups = tokens.groups()
    assert all((groups[a] == groups[b]) == (items[a].cluster == items[b].cluster) for a in range(6) for b in range(6))


def test_a_second_opening_builds_nothing(renderer: Renderer) -> None:
    first = build(documents(5), renderer)
    again = open_or_build("set", lambda: pytest.fail("read again"), renderer, {"data": "x"})  # type: ignore[arg-type]
    assert again.reference == first.reference == "set@1"


def test_a_changed_ingredient_makes_a_new_version_and_is_named(renderer: Renderer) -> None:
    build(documents(5), renderer, tokenizer="aaaa")
    said: list[str] = []
    second = open_or_build("set", lambda: documents(6), renderer, {"data": "x", "tokenizer": "bbbb"}, say=said.append)
    assert second.reference == "set@2"
    assert said == ["set@2: tokens are made again; changed since set@1: tokenizer (aaaa -> bbbb)"]
    assert build(documents(5), renderer, tokenizer="aaaa").reference == "set@1"


@pytest.mark.usefixtures("small_parts")
def test_held_out_texts_are_found_whatever_their_spaces_and_case(renderer: Renderer) -> None:
    tokens = build(documents(100), renderer)
    asked = [Item("h0", "nowhere"), Item("h1", documents(100)[42].text.upper().replace(" ", "\n"))]
    assert tokens.same_texts(np.array([text_hash(i) for i in asked], np.uint64)) == [(1, 42)]
    long = "word " * 5000
    assert text_hash(Item("a", long)) != text_hash(Item("b", long + "x"))


@given(st.text() | st.text(st.characters(max_codepoint=127)))
def test_letters_and_digits_are_those_of_python(text: str) -> None:
    assert shards._letters_and_digits(text) == "".join(c for c in text.lower() if c.isalnum())


@pytest.mark.usefixtures("small_parts")
def test_an_error_in_the_middle_keeps_finished_parts_and_the_next_build_goes_on(renderer: Renderer) -> None:
    items = documents(100)

    def breaks() -> Any:
        yield from items[:60]
        raise BessemerError("bad line", where="file:61")

    with pytest.raises(BessemerError, match="bad line"):
        open_or_build("set", breaks, renderer, {"data": "x"})
    rendered: list[str] = []
    whole = renderer.render

    class Watched:
        n_vocabulary, engine = renderer.n_vocabulary, renderer.engine

        def render(self, batch: Any) -> Any:
            rendered.extend(i.id for i in batch)
            return whole(batch)

        check_rendered = staticmethod(renderer.check_rendered)

    tokens = open_or_build("set", lambda: items, Watched(), {"data": "x"})
    assert 0 < len(rendered) < 100 and rendered[-1] == "d99"
    straight = open_or_build("other", lambda: items, renderer, {"data": "x"})
    assert tokens.digest() == straight.digest()


CHILD = """
import sys
from collections.abc import Callable
from pathlib import Path
from bessemer.data import shards
from bessemer.data.render import Renderer
from tests.data.test_shards import documents
shards.PART_TOKENS, shards.BATCH_ITEMS = 300, 16
made = 0
write = shards._Build._write
def counted(self):
    global made
    write(self)
    made += 1
    print(made, flush=True)
shards._Build._write = counted
shards.open_or_build("set", lambda: documents(400), Renderer(Path(sys.argv[1])), {"data": "x"})
"""


def test_killed_at_any_part_the_same_bytes_come_out(
    tiny_model: Path, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", CHILD, str(tiny_model)]

    def run(stop_after: int | None) -> None:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for line in child.stdout:
            if stop_after is not None and int(line) >= stop_after:
                os.kill(child.pid, signal.SIGKILL)
                break
        child.wait()
        child.stdout.close()

    for stop_after in (1, 2, 4, None):
        run(stop_after)
    killed = digest_files(bessemer_home / "tokens" / "set" / "1")
    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path / "straight"))
    run(None)
    assert digest_files(tmp_path / "straight" / "tokens" / "set" / "1") == killed


@pytest.mark.usefixtures("small_parts")
def test_a_full_disk_keeps_finished_parts_and_a_larger_one_goes_on(
    disk_of: Callable[[str], Path], renderer: Renderer
) -> None:
    small_disk = disk_of("300k")
    items = documents(600)
    with pytest.raises(OSError, match="No space left"):
        build(items, renderer)
    (building,) = (small_disk / "tokens" / "set").glob(".building-*")
    parts = {p.name: digest_files(p) for p in sorted(building.glob("part-*"))}
    assert parts and not list(building.glob(".tmp-*"))
    subprocess.run(["/bin/mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    tokens = build(items, renderer)
    assert {name: digest_files(tokens.folder / name) for name in parts} == parts
    assert tokens.n_items == 600


def test_a_flipped_bit_is_refused_when_its_part_is_touched(renderer: Renderer) -> None:
    tokens = build(documents(20), renderer)
    path = tokens.folder / "part-00000" / "ids.npy"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(BessemerError, match=r"bytes changed"):
        TokenSet(tokens.folder, read_json(tokens.folder / "manifest.json")).segment(3)


def test_rows_are_made_once_and_kept(renderer: Renderer) -> None:
    tokens = build(chats(40), renderer)
    packed = tokens.pack(Packer(64, "fail", 1), grouped=True)
    assert tokens.pack(Packer(64, "fail", 1), grouped=True).digest == packed.digest
    assert [p.name for p in tokens.folder.glob("rows*")] == ["rows2-64-fail-1-grouped"]
    for i in range(0, 40, 2):
        assert packed.rows_of(i) == packed.rows_of(i + 1)


def test_a_source_that_changes_while_it_is_read_leaves_no_set(
    renderer: Renderer, tmp_path: Path, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digest would be of other rows than the set has."""
    file = tmp_path / "log.jsonl"
    file.write_text("".join(json.dumps({"text": f"Sentence {i} about iron."}) + "\n" for i in range(40)))
    source = Source(str(file))
    real = Source.__iter__

    def grows(self: Source) -> Iterator[Item]:
        yield from real(self)
        with file.open("a") as more:
            more.write(json.dumps({"text": "One more."}) + "\n")

    monkeypatch.setattr(Source, "__iter__", grows)
    with pytest.raises(BessemerError, match="it changed while it was read"):
        tokenise_source("grows", source, renderer)
    assert [p.name for p in (bessemer_home / "tokens" / "grows").iterdir()] == [".lock"]
    monkeypatch.setattr(Source, "__iter__", real)
    assert tokenise_source("grows", Source(str(file)), renderer).n_items == 41


def test_an_empty_source_is_refused(renderer: Renderer) -> None:
    with pytest.raises(BessemerError, match="has no items"):
        build([], renderer)


def test_large_vocabularies_take_four_bytes(renderer: Renderer) -> None:
    class Large:
        n_vocabulary, engine = 100_000, renderer.engine
        render = staticmethod(renderer.render)
        check_rendered = staticmethod(renderer.check_rendered)

    tokens = open_or_build("large", lambda: documents(3), Large(), {"data": "x"})
    assert np.load(tokens.folder / "part-00000" / "ids.npy").dtype == np.uint32
    assert build(documents(3), renderer).segment(1).ids_L.tolist() == tokens.segment(1).ids_L.tolist()
    assert hash64("a") != hash64("b")


PACKS = """
import sys
from bessemer.data.pack import Packer
from bessemer.data.shards import open_tokens
tokens = open_tokens("set@1")
print("ready", flush=True)
for seed in map(int, sys.stdin.readline().split()):
    print(tokens.pack(Packer(64, "split", seed), grouped=False).digest, flush=True)
"""


def test_processes_that_pack_the_same_rows_wait_for_each_other(renderer: Renderer) -> None:
    build(documents(400), renderer)
    pipe, command = subprocess.PIPE, [sys.executable, "-c", PACKS]
    racers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
    for racer in racers:
        assert racer.stdout and racer.stdout.readline() == "ready\n", racer.communicate()
    said = []
    for racer in racers:
        assert racer.stdin
        racer.stdin.write(" ".join(map(str, range(30))) + "\n")
        racer.stdin.flush()
    for racer in racers:
        out, err = racer.communicate()
        assert racer.returncode == 0, err
        said.append(out)
    assert said[0] == said[1] == said[2] and len(set(said[0].split())) == 30


def test_rows_that_lack_an_array_are_refused(renderer: Renderer) -> None:
    tokens = build(documents(20), renderer)
    tokens.pack(Packer(64), grouped=False)
    (folder,) = tokens.folder.glob("rows*")
    about = read_json(folder / "packed.json")
    del about["files"]["starts.npy"]
    write_json(folder / "packed.json", about)
    (folder / "starts.npy").unlink()
    with pytest.raises(BessemerError, match="starts.npy is missing"):
        tokens.pack(Packer(64), grouped=False)


def test_texts_without_letters_are_not_all_the_same() -> None:
    hashes = {int(text_hash(Item("x", text))) for text in ("\U0001f44d", "\U0001f621 !!!", "???", "\U0001f621!!! ")}
    assert len(hashes) == 3
    assert text_hash(Item("x", "Yes!")) == text_hash(Item("y", "yes"))


def test_a_full_disk_under_large_arrays_is_a_full_disk(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("8388608 requested and 4096 written")  # numpy's words, without the error's number

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(OSError, match="No space left") as failed:
            build(documents(3), renderer)
        assert failed.value.errno == errno.ENOSPC and failed.value.filename
    assert build(documents(3), renderer).manifest["items"] == 3
