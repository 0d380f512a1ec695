"""/v1/moderations with the real OpenAI client, appeals, and whatever clients may send."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types.moderation import Categories

from bessemer.data.moderation import Comment, ask, clean
from bessemer.infer.model import Loaded
from bessemer.moderate import unlabelled
from bessemer.moderate.calibrate import Calibration, path_of, save
from bessemer.moderate.chain import find_entry, read_entries
from bessemer.moderate.decide import Scale
from bessemer.moderate.judge import Judge
from bessemer.moderate.policy import CATEGORIES, Policy, parse_policy, store
from bessemer.registry.store import StoredRelease
from bessemer.serve import batches, guard
from bessemer.serve.app import create_app
from bessemer.serve.guard import MAX_BATCH_BYTES
from tests.moderate.conftest import YAML
from tests.serve.attacks import attacked
from tests.serve.conftest import DIGEST, MODEL, TOKEN, Running, eventually, running
from tests.serve.test_refusals import _refused as refused

POLICY = parse_policy(YAML, where="policy.yaml")
INLINE = POLICY.model_dump(mode="json")
TEXTS = ["hello there", "buy steel at https://x.y now", "no iron today"]


@pytest.fixture
def desk(loaded: Loaded, release: StoredRelease, bessemer_home: Path) -> Iterator[Running]:
    """A server whose default policy is POLICY, in the home of this test."""
    with running(create_app(loaded, release, token=TOKEN, policy=POLICY)) as found:
        yield found


def threshold(value: float | None, bias: float = 0.0) -> None:
    """A calibration of POLICY by hand, as the server finds it on the disk."""
    rules = {r.id: {"temperature": 1.0, "bias": bias, "threshold": value} for r in POLICY.rules}
    facts = {"format": "bessemer.calibration/1", "model": DIGEST, "rules": rules, "policy": {"digest": POLICY.digest}}
    save(POLICY, Calibration(facts))


def test_openais_schema_with_the_real_client(desk: Running, loaded: Loaded) -> None:
    with desk.client() as client:
        answer = client.moderations.create(model=MODEL, input=TEXTS)
    assert answer.id.startswith("modr-") and answer.model == MODEL and len(answer.results) == 3
    raw = answer.model_dump(by_alias=True)
    assert raw["release_digest"] == DIGEST
    assert (raw["policy"], raw["policy_hash"]) == ("steel-talk@2", POLICY.digest)
    judge = Judge(loaded)
    odds = judge.odds([judge.prepare(Comment(t), POLICY) for t in TEXTS])
    for result, value in zip(answer.results, odds, strict=True):
        assert {f.alias or n for n, f in Categories.model_fields.items()} == set(CATEGORIES)
        assert isinstance(result.categories.self_harm, bool) and result.category_scores.hate == 0.0
        extra = result.model_dump(by_alias=True)
        scores = {name: rule["score"] for name, rule in extra["rules"].items()}
        assert scores == pytest.approx(
            {r.id: Scale().score(x) for r, x in zip(POLICY.rules, value, strict=True)}, abs=1e-5
        )
        assert extra["category_scores"]["illicit"] == scores["no-links"]
        assert extra["category_applied_input_types"]["illicit"] == ["text"]
        assert extra["category_applied_input_types"]["hate"] == []
        assert extra["action"] in {"queue", "allow"} and extra["decision_id"].startswith("decision-")
        assert result.flagged == bool(extra["cited_rules"])


def test_forms_of_input(desk: Running) -> None:
    with desk.client() as client:
        one: Any = client.moderations.create(input=TEXTS[0]).results
        many: Any = client.moderations.create(input=TEXTS).results
        parts: Any = client.moderations.create(input=[{"type": "text", "text": TEXTS[0]}]).results
        objects: Any = client.moderations.create(input=[{"text": t} for t in TEXTS]).results  # type: ignore[typeddict-item]
        about: Any = client.moderations.create(input=[{"text": TEXTS[0], "title": "Steel", "parent": "Why?"}]).results  # type: ignore[typeddict-item]
    assert one[0].rules == many[0].rules == parts[0].rules == objects[0].rules
    assert [r.rules for r in many] == [r.rules for r in objects]
    assert about[0].rules != one[0].rules


def test_a_calibration_on_the_disk_is_used_at_once(desk: Running) -> None:
    with desk.client() as client:

        def ask_it() -> Any:
            return client.moderations.create(input=TEXTS[1]).results[0]

        assert not any(rule["calibrated"] for rule in ask_it().rules.values())
        threshold(0.5, bias=50)
        sure = ask_it()
        assert sure.action == "remove" and sure.flagged and set(sure.cited_rules) == {"no-links", "kind"}
        assert sure.categories.illicit and not sure.categories.hate
        threshold(0.5, bias=-50)
        assert ask_it().action == "allow"
        threshold(None, bias=50)
        unsure = ask_it()
        assert unsure.action == "queue" and not unsure.flagged and unsure.rules["kind"]["decision"] == "unsure"


def test_answers_and_the_log_name_the_calibration(desk: Running, bessemer_home: Path) -> None:
    with desk.http() as http:

        def ask_it() -> str | None:
            return http.post("/v1/moderations", json={"input": TEXTS[1]}).json()["calibration"]

        named = [ask_it()]
        unlabelled.save({"model": DIGEST, "temperature": 1.0, "bias": 50.0})
        named.append(ask_it())
        threshold(0.5)
        named.append(ask_it())
        threshold(0.6)
        named.append(ask_it())
        files = [unlabelled.path_of(DIGEST), path_of(POLICY, DIGEST)]
        scale, newest = (json.loads(path.read_text())["sha256"] for path in files)
        assert named[:2] == [None, scale] and named[3] == newest and len(set(named)) == 4
        url = "/v1alpha1/comments:analyze"
        shaped = http.post(url, json={"comment": {"text": TEXTS[1]}, "requestedAttributes": {"KIND": {}}})
        assert shaped.json()["calibration"] == newest
    entries = list(read_entries(bessemer_home / "decisions", "decision"))
    assert [e["calibration"] for e in entries] == [*named, newest]


def test_a_scale_of_rules_without_labels_is_used_at_once(desk: Running) -> None:
    with desk.client() as client:

        def ask_it() -> Any:
            return client.moderations.create(input=TEXTS[1]).results[0]

        before = ask_it().rules["kind"]
        unlabelled.save({"model": DIGEST, "temperature": 1.0, "bias": 50.0})
        sure = ask_it()
        assert before["score"] < 0.999 < sure.rules["kind"]["score"] and not sure.rules["kind"]["calibrated"]
        assert sure.action == "queue" and sure.flagged
        threshold(0.5, bias=-50)
        assert ask_it().action == "allow"


def test_policies_of_a_request(desk: Running) -> None:
    other = POLICY.model_copy(update={"version": "3", "rules": POLICY.rules[1:]})
    store(Policy.model_validate(other.model_dump()))
    with desk.client() as client:

        def hash_of(policy: Any) -> tuple[str, str]:
            found: Any = client.moderations.create(input="x y", extra_body={"policy": policy})
            return found.policy, found.policy_hash

        assert hash_of(None) == ("steel-talk@2", POLICY.digest)
        assert hash_of("steel-talk@3")[0] == hash_of("steel-talk")[0] == "steel-talk@3"
        assert hash_of({**INLINE, "name": "mine"}) == ("mine@2", POLICY.digest)
        with pytest.raises(openai.NotFoundError) as missing:
            hash_of("no-such@1")
        assert missing.value.code == "policy_not_found" and "steel-talk@3" in missing.value.message


@pytest.mark.parametrize(
    ("policy", "status", "code", "what"),
    [
        ({}, 400, "invalid_policy", "name"),
        ({"name": "x", "rules": []}, 400, "invalid_policy", "rules"),
        ({"name": "x", "rules": [{"id": "a", "text": " "}]}, 400, "invalid_policy", "no text"),
        ({"name": "x", "rules": [{"id": "a", "text": "b"}] * 2}, 400, "invalid_policy", "'a' is the id of rules[0]"),
        ({"name": "x", "rules": [{"id": "a", "text": "wo rd " * 600, "includes": ["wo rd " * 600] * 3}]}, 400,
         "invalid_policy", "rules.a"),
        ({**INLINE, "confidence": 2}, 400, "invalid_policy", "confidence"),
        ({**INLINE, "confidence": "nan"}, 400, "invalid_policy", "confidence"),
        ("", 404, "policy_not_found", "''"),
        ("../../etc/passwd", 404, "policy_not_found", "passwd"),
        (5, 400, "invalid_value", "policy"),
    ],
)  # fmt: skip
def test_bad_policies(desk: Running, policy: Any, status: int, code: str, what: str) -> None:
    with desk.http() as http:
        error = refused(http, "moderations", {"input": "x", "policy": policy}, status)
    assert error["code"] == code and what in error["message"], error


def test_no_policy_at_all(http: httpx2.Client) -> None:
    error = refused(http, "moderations", {"input": "x"})
    assert error["param"] == "policy" and error["code"] == "missing_parameter"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "comment_empty"),
        (" \u200b\n", "comment_empty"),
        ("x" * 1_000_000, "comment_too_long"),
        (None, "missing_parameter"),
        (5, "invalid_value"),
        ([], "invalid_value"),
        (["x"] * 257, "invalid_value"),
        ({"text": 5}, "invalid_value"),
        ({"txet": "x"}, "invalid_value"),
        ([{"type": "image_url", "image_url": {"url": "x"}}], "invalid_value"),
        ([{"type": "text", "text": "hi", "parent": "a question"}], "invalid_value"),
        ([{"type": "text", "text": 1}], "invalid_value"),
    ],
)
def test_bad_comments_alone(desk: Running, text: Any, code: str) -> None:
    with desk.http() as http:
        error = refused(http, "moderations", {"input": text})
    assert error["code"] == code and error["type"] == "invalid_request_error"


def test_one_bad_comment_fails_no_other(desk: Running) -> None:
    bad = ["", "x" * 1_000_000, 5, None, {"text": "x", "colour": "red"}, "\u200b\u2060"]
    mixed = [TEXTS[0], *bad, TEXTS[1]]
    with desk.http() as http:
        answer = http.post("/v1/moderations", json={"input": mixed}).json()
        alone = http.post("/v1/moderations", json={"input": [TEXTS[0], TEXTS[1]]}).json()
    results = answer["results"]
    assert [results[0]["rules"], results[-1]["rules"]] == [r["rules"] for r in alone["results"]]
    assert [r["action"] for r in results[1:-1]] == ["queue"] * len(bad) and all(r["flagged"] for r in results[1:-1])
    codes = [r["error"]["code"] for r in results[1:-1]]
    assert codes == [
        "comment_empty",
        "comment_too_long",
        "invalid_value",
        "invalid_value",
        "invalid_value",
        "comment_empty",
    ]
    assert results[3]["error"]["param"] == "input.3" and set(results[2]["categories"]) == set(CATEGORIES)


@pytest.mark.parametrize(
    "text", ["a\x00b", "\ud800 half", "\u202egnihtemos\u202c", "e" + "\u0301" * 500, "東京" * 800, "😀" * 900]
)
def test_strange_characters_are_judged_as_they_are_seen(desk: Running, text: str) -> None:
    body = json.dumps({"input": [text, clean(text)]})
    with desk.http() as http:
        answer = http.post("/v1/moderations", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    strange, plain = answer.json()["results"]
    assert strange["rules"] == plain["rules"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null", b"[" * 100_000, b'{"input": NaN}'])
def test_malformed_json(desk: Running, content: bytes) -> None:
    with desk.http() as http:
        answer = http.post("/v1/moderations", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


def test_no_token_unknown_fields_and_a_huge_request(desk: Running) -> None:
    with desk.http(token=None) as http:
        answer = http.post("/v1/moderations", json={"input": "x"})
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        assert http.post("/v1/moderations?key=" + TOKEN, json={"input": "x"}).status_code == 401
    with desk.http() as http:
        assert refused(http, "moderations", {"input": "x", "polcy": "y"})["param"] == "polcy"
        assert refused(http, "moderations", {"input": "x", "model": "gpt-4"}, 404)["code"] == "model_not_found"
        huge = http.post("/v1/moderations", content=b" " * (MAX_BATCH_BYTES + 1))
        assert huge.status_code == 413 and huge.json()["error"]["code"] == "request_too_large"


def test_a_reason_is_written_only_when_asked(desk: Running) -> None:
    threshold(0.5, bias=50)
    with desk.client() as client:
        plain: Any = client.moderations.create(input=TEXTS).results
        asked: Any = client.moderations.create(input=TEXTS, extra_body={"reason": True}).results
        assert all(not hasattr(r, "reason") for r in plain) and all(isinstance(r.reason, str) for r in asked)
        assert all("\n" not in r.reason for r in asked)
        many: Any = client.moderations.create(input=["a b"] * 9, extra_body={"reason": True}).results
        assert [hasattr(r, "reason") for r in many] == [True] * 8 + [False] and all(r.flagged for r in many)
        long: Any = client.moderations.create(input="\ufdfa" * 800, extra_body={"reason": True}).results
        assert long[0].flagged  # with a reason or without one


def test_a_reason_that_cannot_be_written_takes_no_decision_back(desk: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    threshold(0.5, bias=50)
    monkeypatch.setattr("bessemer.serve.moderation.generate", generate)
    with desk.http() as http:
        answer = http.post("/v1/moderations", json={"input": TEXTS[1], "reason": True})
    assert answer.status_code == 200 and answer.json()["results"][0]["flagged"]
    assert "reason" not in answer.json()["results"][0]


def test_more_tokens_than_a_line_holds_are_refused(desk: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    import bessemer.serve.desk as module

    monkeypatch.setattr(module, "MAX_WAITING_TOKENS", 200)
    with desk.http() as http:
        error = refused(http, "moderations", {"input": TEXTS * 5}, 413)
        assert error["code"] == "request_too_large" and "under 2 rules" in error["message"]
        assert http.post("/v1/moderations", json={"input": TEXTS[0]}).status_code == 200


def test_half_a_surrogate_pair_in_a_community_fails_nobody(desk: Running, bessemer_home: Path) -> None:
    with desk.http() as http:
        answer = http.post(
            "/v1/moderations",
            content=b'{"input": ["hello", {"text": "hi \\ud800", "community": "\\ud800"}]}',
            headers={"content-type": "application/json"},
        )
    assert answer.status_code == 200 and len(answer.json()["results"]) == 2
    assert [e["community"] for e in read_entries(bessemer_home / "decisions", "decision")] == ["SteelTalk", "?"]


# -- attacks ----------------------------------------------------------------------------------------------------


def test_attacks_change_nothing_but_the_comments_own_line(loaded: Loaded) -> None:
    """Structure: no attack adds a line to the form or a token that only a template may write; every rule is asked
    in full after it. (Whether a model is persuaded is measured on a trained one; see docs/design/moderation.md.)"""
    plain = ask("plain words", POLICY.rules[0].read)[1].content.split("\n")
    template_only = loaded.renderer.special_ids
    n_special = [sum(t in template_only for t in loaded.renderer.chat_ids(ask("plain", r.read))) for r in POLICY.rules]
    for comment in attacked("see https://x.y"):
        lines = ask(comment, POLICY.rules[0].read)[1].content.split("\n")
        assert len(lines) == len(plain) and lines[1:] == plain[1:]
        assert lines[0].startswith("Comment: ")
        ids = [loaded.renderer.chat_ids(ask(comment, r.read)) for r in POLICY.rules]
        assert [sum(t in template_only for t in i) for i in ids] == n_special


def test_the_success_rate_of_attacks_is_reported(desk: Running, record_property: Any) -> None:
    """How often an attack turns a rule that was found broken into another finding. The tiny model knows no rule, so
    the number says nothing about a trained one; benchmarks/moderate.py reports it for any release."""
    from benchmarks.moderate import attack_rate

    threshold(0.5, bias=2)
    with desk.http() as http:
        found = attack_rate(http, ["see https://x.y", "buy steel now"])
    record_property("attack_success_rate", found["turned"])
    assert found["findings"] > 0 and 0 <= found["turned"] <= max(found["worst"].values()) <= 1


# -- many clients -----------------------------------------------------------------------------------------------


def test_concurrent_requests_get_their_own_answers(desk: Running) -> None:
    texts = [f"{TEXTS[i % 3]} number {i}" for i in range(40)]
    with desk.http() as http:
        alone = [http.post("/v1/moderations", json={"input": t}).json()["results"][0]["rules"] for t in texts[:6]]

        def one(text: str) -> Any:
            return http.post("/v1/moderations", json={"input": text}).json()["results"][0]["rules"]

        with ThreadPoolExecutor(16) as pool:
            together = list(pool.map(one, texts))
    for a, b in zip(alone, together, strict=False):
        assert {k: v["score"] for k, v in a.items()} == pytest.approx({k: v["score"] for k, v in b.items()}, abs=1e-4)


def test_overload_is_429_with_a_time_and_it_recovers(
    loaded: Loaded, release: StoredRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        running(create_app(loaded, release, token=TOKEN, policy=POLICY, max_comments=2)) as small,
        small.client() as client,
    ):
        with pytest.raises(openai.RateLimitError) as caught:
            client.moderations.create(input=["a b"] * 3)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert caught.value.code == "rate_limit_exceeded"
        assert client.moderations.create(input=["a b"] * 2).results
    assert batches.MAX_WAITING >= 256


# -- log, appeals, chat -----------------------------------------------------------------------------------------


def test_every_decision_is_logged_without_its_text(desk: Running, bessemer_home: Path) -> None:
    with desk.client() as client:
        ids = [r.decision_id for r in client.moderations.create(input=[TEXTS[0], ""]).results]  # type: ignore[attr-defined]
    folder = bessemer_home / "decisions"
    entries = list(read_entries(folder, "decision"))
    assert [e["id"] for e in entries] == ids
    assert (
        entries[0]["digest"] == DIGEST
        and entries[0]["policy_hash"] == POLICY.digest
        and entries[1]["error"] == "comment_empty"
    )
    assert "hello" not in "".join(p.read_text() for p in folder.iterdir())


def test_texts_are_logged_when_switched_on(loaded: Loaded, release: StoredRelease, bessemer_home: Path) -> None:
    with (
        running(create_app(loaded, release, token=TOKEN, policy=POLICY, keep_text=True)) as open_desk,
        open_desk.http() as http,
    ):
        answer = http.post("/v1/moderations", json={"input": TEXTS[0]}).json()
        entry = find_entry(bessemer_home / "decisions", answer["results"][0]["decision_id"])
        assert entry["text"] == TEXTS[0]
        private = {"comment": {"text": TEXTS[1]}, "requestedAttributes": {"TOXICITY": {}}, "doNotStore": True}
        found = http.post("/v1alpha1/comments:analyze", json=private).json()
        assert "text" not in find_entry(bessemer_home / "decisions", found["decisionId"])


def test_a_log_that_cannot_be_written_stops_decisions(
    desk: Running, bessemer_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk.http() as http:
        assert http.post("/v1/moderations", json={"input": "x"}).status_code == 200
        log = desk.app.state.served.desk.log

        def full(_: Any) -> Any:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(log, "_append", full)
        error = refused(http, "moderations", {"input": "x"}, 503)
        assert error["code"] == "log_unavailable"
        monkeypatch.undo()
        assert http.post("/v1/moderations", json={"input": "x"}).status_code == 200


def test_what_is_kept_and_cannot_be_read_is_the_servers_fault(desk: Running, bessemer_home: Path) -> None:
    """Neither a mistake of the client nor a reason to judge first and fail then."""
    threshold(0.5)
    with desk.http() as http:
        found = http.post("/v1/moderations", json={"input": "x"}).json()["results"][0]
        path = path_of(POLICY, DIGEST)
        path.write_text(path.read_text().replace("0.5", "0.6"))
        error = refused(http, "moderations", {"input": "x"}, 503)
        assert error["code"] == "log_unavailable" and str(bessemer_home) not in error["message"]
        path.unlink()
        (bessemer_home / "keys" / "decisions.key").write_text("short")
        desk.app.state.served.desk._key = b""
        body = {"decision": found["decision_id"], "outcome": "missed", "rules": ["kind"], "text": "x"}
        assert refused(http, "appeals", body, 503)["code"] == "log_unavailable"
        assert refused(http, "moderations", {"input": "x"}, 503)["code"] == "log_unavailable"


def test_appeals(desk: Running) -> None:
    threshold(0.5, bias=50)
    with desk.http() as http:
        result = http.post("/v1/moderations", json={"input": TEXTS[1]}).json()["results"][0]
        body = {"decision": result["decision_id"], "outcome": "overturned", "rules": ["kind"], "text": TEXTS[1]}
        answer = http.post("/v1/appeals", json=body)
        assert answer.status_code == 200 and answer.json()["teaches"] is True
        for wrong in ({"text": "other"}, {"rules": ["nope"]}, {"decision": "decision-1"}):
            assert refused(http, "appeals", {**body, **wrong})["code"] == "invalid_appeal"
        assert refused(http, "appeals", {**body, "outcome": "perhaps"})["param"] == "outcome"


def test_a_chat_with_the_policy_in_the_prompt(desk: Running, loaded: Loaded) -> None:
    store(POLICY)
    asked: dict[str, Any] = {"model": MODEL, "max_tokens": 3, "temperature": 0}
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    with desk.client() as client:
        named = client.chat.completions.create(messages=messages, extra_body={"policy": "steel-talk@2"}, **asked)
        by_hand = [{"role": "system", "content": f"{POLICY.as_text()}\n\nBe brief."}, messages[1]]
        same = client.chat.completions.create(messages=by_hand, **asked)  # type: ignore[arg-type]
        plain = client.chat.completions.create(messages=messages, **asked)
        assert named.choices == same.choices and named.usage == same.usage and named.usage != plain.usage
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(messages=messages, extra_body={"policy": "other"}, **asked)
    assert "no-links: Do not post links. Covered: shortened links" in POLICY.as_text()


def test_requests_together_may_hold_only_so_much(desk: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_HELD_BYTES", 1000)
    with desk.http() as http:
        assert http.post("/v1/moderations", json={"input": "x"}).status_code == 200
        full = http.post("/v1/moderations", json={"input": "x" * 2000})
        assert full.status_code == 429 and full.headers["retry-after"] == "1"
        assert full.json()["error"]["code"] == "rate_limit_exceeded"
        for _ in range(30):  # what was answered is no longer held
            assert http.post("/v1/moderations", json={"input": "x" * 300}).status_code == 200


def test_a_client_that_leaves_leaves_the_line(desk: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who time out and ask again must not multiply the load."""
    batcher = desk.app.state.served.fleet.main.batcher
    odds, go_on = batcher._judge.odds, threading.Event()

    def slow(questions: Any) -> Any:
        go_on.wait(60)
        return odds(questions)

    monkeypatch.setattr(batcher._judge, "odds", slow)
    with desk.http() as http, ThreadPoolExecutor(1) as beside:
        first = beside.submit(http.post, "/v1/moderations", json={"input": "iron"})
        eventually(lambda: len(batcher._batch) == 1)
        with pytest.raises(httpx2.ReadTimeout), desk.http() as leaving:
            leaving.post("/v1/moderations", json={"input": "steel"}, timeout=2)
        eventually(lambda: batcher.n_waiting == 0)
        go_on.set()
        assert first.result().status_code == 200


def test_a_whole_policy_is_read_beside_the_event_loop(desk: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cleaning and hashing a large one takes seconds, in which nobody else would be answered."""
    threads: list[str] = []
    real = Policy.digest.func

    def digest(self: Policy) -> str:
        threads.append(threading.current_thread().name)
        return real(self)

    watched = functools.cached_property(digest)
    watched.__set_name__(Policy, "digest")
    monkeypatch.setattr(Policy, "digest", watched)
    with desk.http() as http:
        asked = {"input": TEXTS[0], "policy": {**INLINE, "name": "other"}}
        assert http.post("/v1/moderations", json=asked).status_code == 200
    assert threads and all("asyncio" in name for name in threads)  # of the pool
