"""Several pinned releases behind one name: promoting, a canary, going back, and who pinned an old one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bessemer.errors import BessemerError
from bessemer.infer.model import Loaded
from bessemer.moderate.chain import read_entries
from bessemer.moderate.policy import parse_policy
from bessemer.registry.routes import path_of, promote, read_route, roll_back, set_canary
from bessemer.registry.store import MANIFEST, StoredRelease, open_release, sign_release
from bessemer.serve.app import create_app
from bessemer.serve.fleet import KEPT, Backend, Fleet
from bessemer.serve.problems import RequestError
from bessemer.serve.server import open_model
from tests.cli.conftest import Done, here
from tests.moderate.conftest import YAML
from tests.serve.conftest import TOKEN, Running, eventually, running
from tests.test_signatures import write_keys
from tests.tiny import make_tiny_model, make_tiny_release

POLICY = parse_policy(YAML, where="policy.yaml")
__all__ = ["here"]


def make_versions(tiny_model: Path, home: Path, tmp_path: Path, n: int) -> None:
    """tiny@1 .. tiny@n with weights of their own."""
    from bessemer.files import digest_files, read_json, write_json

    first = make_tiny_release(tiny_model, home)
    for version in range(2, n + 1):
        folder = first.parent / str(version)
        make_tiny_model(folder, seed=version)
        facts = {**read_json(first / MANIFEST), "version": version}
        write_json(folder / MANIFEST, {**facts, "files": digest_files(folder)})


@pytest.fixture
def fleet(tiny_model: Path, bessemer_home: Path, tmp_path: Path) -> Iterator[Running]:
    """A server of `tiny` that follows the route; tiny@1 is stable, tiny@2 and tiny@3 are there."""
    make_versions(tiny_model, bessemer_home, tmp_path, 3)
    promote("tiny@1")
    loaded, release = open_model("tiny@1")
    with running(create_app(loaded, release, token=TOKEN, policy=POLICY, open_release=open_model)) as found:
        yield found


def ask(http: Any, text: str = "hello there", model: str = "tiny") -> tuple[str, str, Any]:
    answer = http.post("/v1/moderations", json={"input": text, "model": model})
    assert answer.status_code == 200, answer.text
    raw = answer.json()
    assert raw["release_digest"] == answer.headers["x-bessemer-digest"]
    return raw["model"], raw["release_digest"], raw["results"][0]["rules"]


def test_promote_and_go_back_without_a_restart(fleet: Running) -> None:
    digests = {v: open_release(f"tiny@{v}").digest for v in (1, 2)}
    with fleet.http() as http:
        first = ask(http)
        assert first[:2] == ("tiny@1", digests[1])
        promote("tiny@2")
        eventually(lambda: ask(http)[0] == "tiny@2")
        second = ask(http)
        assert second[1] == digests[2] and second[2] != first[2]
        assert (
            ask(http, model="tiny@1") == ask(http, model=digests[1]) == ask(http, model=f"sha256:{digests[1]}") == first
        )
        assert http.get("/health").json()["digest"] == digests[2]
        assert {m["id"] for m in http.get("/v1/models").json()["data"]} == {"tiny@1", "tiny@2"}
        roll_back("tiny")
        eventually(lambda: ask(http)[0] == "tiny@1")
        assert ask(http) == first and ask(http, model="tiny@2") == second


def test_a_canary_gets_its_share_always_the_same_texts(fleet: Running, bessemer_home: Path) -> None:
    set_canary("tiny@2", 0.3)
    texts = [f"comment number {n}" for n in range(150)]
    with fleet.http() as http:
        eventually(lambda: "tiny@2" in {ask(http, t)[0] for t in texts[:30]})
        once, again = ([ask(http, t)[0] for t in texts] for _ in range(2))
        assert once == again and 25 <= once.count("tiny@2") <= 65
        n_before = len(list(read_entries(bessemer_home / "decisions", "decision")))
        name = ask(http, texts[0])[0]
        entry = list(read_entries(bessemer_home / "decisions", "decision"))[n_before]
        assert entry["canary"] == (name == "tiny@2") and entry["release"] == name
        roll_back("tiny")  # ends the canary
        eventually(lambda: {ask(http, t)[0] for t in texts[:30]} == {"tiny@1"})


def test_chat_follows_the_route_too(fleet: Running) -> None:
    promote("tiny@3")
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    with fleet.client() as client:

        def answer(model: str = "tiny") -> Any:
            return client.chat.completions.create(model=model, messages=messages, max_tokens=3, temperature=0)

        eventually(lambda: answer().model == "tiny@3")
        assert answer().system_fingerprint == open_release("tiny@3").digest
        assert answer("tiny@1").system_fingerprint == open_release("tiny@1").digest
        raw = client.chat.completions.with_raw_response.create(model="tiny@1", messages=messages, max_tokens=1)
        assert raw.headers["x-bessemer-digest"] == open_release("tiny@1").digest


def test_a_release_that_cannot_be_loaded_changes_nothing(fleet: Running, bessemer_home: Path) -> None:
    damaged = bessemer_home / "releases" / "tiny" / "2" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    for change in (lambda: promote("tiny@2"), lambda: set_canary("tiny@2", 0.5)):
        with pytest.raises(BessemerError, match="its bytes changed"):
            change()
    route = json.loads(path_of("tiny").read_text())
    path_of("tiny").write_text(json.dumps(route | {"before": [2]}))
    with pytest.raises(BessemerError, match="its bytes changed"):
        roll_back("tiny")
    path_of("tiny").write_text(json.dumps(route | {"name": "other"}))
    with pytest.raises(BessemerError, match="it is that of other"):
        read_route("tiny")
    path_of("tiny").write_text(json.dumps(route | {"stable": 2, "before": [1]}))  # damaged after it was promoted
    served = fleet.app.state.served.fleet
    served._seen = None
    served.look()
    with fleet.http() as http:
        assert ask(http)[0] == "tiny@1"
    roll_back("tiny")


def test_a_model_that_finds_no_memory_does_not_end_following(
    tiny_model: Path, bessemer_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_versions(tiny_model, bessemer_home, tmp_path, 3)
    promote("tiny@1")
    loaded, release = open_model("tiny@1")
    tried: list[str] = []

    def opener(reference: str) -> Any:
        tried.append(reference)
        if reference == "tiny@2" and len(tried) == 1:
            raise RuntimeError("CUDA out of memory")
        return open_model(reference)

    with running(create_app(loaded, release, token=TOKEN, policy=POLICY, open_release=opener)) as found:
        fleet = found.app.state.served.fleet
        promote("tiny@2")
        eventually(lambda: tried == ["tiny@2"])
        assert fleet.main.release.version == 1
        fleet.look()
        assert tried == ["tiny@2"]  # not at once again
        promote("tiny@3")
        eventually(lambda: fleet.main.release.version == 3)
        roll_back("tiny")
        eventually(lambda: fleet.main.release.version == 2)
        roll_back("tiny")
        eventually(lambda: fleet.main.release.version == 1)
        tried.clear()
        path_of("tiny").write_text("[]")
        eventually(lambda: fleet._retry_at > 0)
        monkeypatch.setattr(fleet, "_retry_at", 1e-9)  # a minute later
        fleet.look()
        assert fleet._retry_at > 1 and fleet.main.release.version == 1


def test_a_route_to_what_the_trusted_key_did_not_sign_is_not_followed(
    tiny_model: Path, bessemer_home: Path, tmp_path: Path
) -> None:
    make_versions(tiny_model, bessemer_home, tmp_path, 3)
    private, public = write_keys(tmp_path)
    for version in (1, 3):
        sign_release(f"tiny@{version}", private)
    promote("tiny@1")
    opened = partial(open_model, trusted=public)
    with running(create_app(*opened("tiny@1"), token=TOKEN, policy=POLICY, open_release=opened)) as found:
        fleet = found.app.state.served.fleet
        promote("tiny@2")
        eventually(lambda: fleet._retry_at > 0)
        assert fleet.main.release.version == 1
        assert 2 * fleet._try_again() == fleet._try_again() and [fleet._try_again() for _ in range(9)][-1] == 3600
        promote("tiny@3")
        eventually(lambda: fleet.main.release.version == 3)


def test_memory_holds_only_so_many_models(tiny_model: Path, bessemer_home: Path, tmp_path: Path) -> None:
    make_versions(tiny_model, bessemer_home, tmp_path, 6)
    promote("tiny@1")
    loaded, release = open_model("tiny@1")
    with running(create_app(loaded, release, token=TOKEN, policy=POLICY, open_release=open_model)) as found:
        fleet = found.app.state.served.fleet
        for version in range(2, 7):
            promote(f"tiny@{version}")
            fleet.look()
            assert fleet.main.release.version == version
        names = [b.release.reference for b in fleet.backends]
        assert len(names) == KEPT and {"tiny@6", "tiny@5"} <= set(names)
        with pytest.raises(RequestError):
            fleet.pick("tiny@1", "")


def test_who_pinned_an_earlier_version_finds_it_after_a_restart(
    tiny_model: Path, bessemer_home: Path, tmp_path: Path
) -> None:
    make_versions(tiny_model, bessemer_home, tmp_path, 6)
    for version in range(1, 7):
        promote(f"tiny@{version}")
    (bessemer_home / "releases" / "tiny" / "4" / MANIFEST).unlink()
    loaded, release = open_model("tiny@6")
    with running(create_app(loaded, release, token=TOKEN, policy=POLICY, open_release=open_model)) as found:
        fleet = found.app.state.served.fleet
        eventually(lambda: len(fleet.backends) == KEPT)
        assert {b.release.version for b in fleet.backends} == {6, 5, 3, 2}  # what cannot be opened stops nobody else
        assert fleet.main.release.version == 6 and fleet.pick("tiny@3", "").release.version == 3


def test_others_are_served_to_those_who_pin_them(
    loaded: Loaded, release: StoredRelease, tiny_model: Path, bessemer_home: Path, tmp_path: Path
) -> None:
    make_versions(tiny_model, bessemer_home, tmp_path, 2)
    more = [open_model("tiny@2")]
    with running(create_app(loaded, release, token=TOKEN, policy=POLICY, others=more)) as found, found.http() as http:
        assert ask(http)[0] == "tiny@1" and ask(http, model="tiny@2")[0] == "tiny@2"


def test_the_stable_one_stays_for_who_pinned_it_with_also(
    tiny_model: Path, bessemer_home: Path, tmp_path: Path
) -> None:
    make_versions(tiny_model, bessemer_home, tmp_path, 6)
    promote("tiny@1")
    app = create_app(*open_model("tiny@1"), token=TOKEN, policy=POLICY, stays=["tiny@1"], open_release=open_model)
    with running(app) as found:
        fleet = found.app.state.served.fleet
        for version in range(2, 7):
            promote(f"tiny@{version}")
            fleet.look()
        assert fleet.pick("tiny@1", "").release.version == 1


def test_those_that_it_was_started_with_stay(tiny_model: Path, bessemer_home: Path, tmp_path: Path) -> None:
    make_versions(tiny_model, bessemer_home, tmp_path, 6)
    promote("tiny@1")
    first, *others = [open_model(f"tiny@{v}") for v in (1, 2)]
    with running(create_app(*first, token=TOKEN, policy=POLICY, others=others, open_release=open_model)) as found:
        fleet = found.app.state.served.fleet
        for version in range(3, 7):
            promote(f"tiny@{version}")
            fleet.look()
        assert fleet.pick("tiny@2", "").release.version == 2 and len(fleet.backends) == KEPT + 1


def test_routes(tiny_model: Path, bessemer_home: Path, tmp_path: Path, here: Callable[..., Done]) -> None:
    assert here("route", "tiny").code == 4 and read_route("tiny") is None
    make_versions(tiny_model, bessemer_home, tmp_path, 3)
    assert here("route", "tiny@1").out == "tiny: stable 1\n"
    assert here("route", "tiny@2").code == here("route", "tiny@3").code == 0
    shown = json.loads(here("route", "tiny@2", "--canary", "0.05", "--json").out)
    assert (shown["stable"], shown["canary"], shown["share"], shown["before"]) == (3, 2, 0.05, [2, 1])
    assert here("route", "tiny", "--rollback").out == "tiny: stable 3, before that 2, 1\n"
    assert here("route", "tiny", "--rollback").out == "tiny: stable 2, before that 1\n"
    assert here("route", "tiny", "--rollback").code == 0
    assert "nothing to go back to" in here("route", "tiny", "--rollback").err
    for wrong in (("tiny@9",), ("tiny@1", "--canary", "0.1"), ("tiny@2", "--canary", "2"), ("other", "--rollback")):
        assert here("route", *wrong).code == 4, wrong
    for content in ('{"name": "tiny", "colour": 1}', "[]"):
        path_of("tiny").write_text(content)
        with pytest.raises(BessemerError, match="no route"):
            read_route("tiny")


def test_going_back_waits_for_no_other_model(
    tiny_model: Path, bessemer_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one might go back to next is loaded when clients are answered again; there may be no room for it."""
    make_versions(tiny_model, bessemer_home, tmp_path, 3)
    for version in (1, 2, 3):
        promote(f"tiny@{version}")
    loaded, release = open_model("tiny@3")
    tried: list[tuple[str, int]] = []

    def opener(reference: str) -> Any:
        tried.append((reference, fleet.main.release.version))
        return open_model(reference)

    fleet = Fleet([Backend(loaded, release, 8)])
    fleet._open, room = opener, [False]
    monkeypatch.setattr(Fleet, "_has_room", lambda _: room[0])
    roll_back("tiny")
    fleet.look()
    assert tried == [("tiny@2", 3)] and fleet.main.release.version == 2
    room[0], fleet._seen = True, None
    fleet.look()
    assert tried[1:] == [("tiny@1", 2)]
    fleet.close()
    promote("tiny@3")
    fleet = Fleet([Backend(*open_model("tiny@3"), 8)])
    fleet._open = opener
    tried.clear()
    roll_back("tiny")
    fleet.look()
    assert tried == [("tiny@2", 3), ("tiny@1", 2)]  # the bad one answers no longer than it must
    fleet.close()


def test_a_route_that_changes_while_a_model_loads_is_read_again(
    tiny_model: Path, bessemer_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_versions(tiny_model, bessemer_home, tmp_path, 3)
    promote("tiny@1")
    loaded, release = open_model("tiny@1")
    answered: list[int] = []

    def opener(reference: str) -> Any:
        found = open_model(reference)
        if reference == "tiny@2":
            roll_back("tiny")  # somebody thinks better of it
        return found

    fleet = Fleet([Backend(loaded, release, 8)])
    fleet._open = opener
    publish = fleet._publish

    def note(*args: Any) -> None:
        publish(*args)
        answered.append(fleet.main.release.version)

    monkeypatch.setattr(fleet, "_publish", note)
    promote("tiny@2")
    fleet.look()
    fleet.look()
    assert set(answered) == {1} and fleet.main.release.version == 1  # the other one never answered
    fleet.close()
