"""Perspective's two methods: its shapes, its errors, and the ways its clients send a key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bessemer.infer.model import Loaded
from bessemer.moderate.chain import find_entry
from bessemer.moderate.decisions import read_appeals, training_rows
from bessemer.moderate.policy import Policy, parse_policy, policy_of, store
from bessemer.registry.store import StoredRelease
from bessemer.serve.app import create_app
from tests.moderate.conftest import YAML
from tests.serve.conftest import DIGEST, TOKEN, Running, running

POLICY = parse_policy(YAML, where="policy.yaml")
JSON = {"content-type": "application/json"}
ANALYZE, SUGGEST = "/v1alpha1/comments:analyze", "/v1alpha1/comments:suggestscore"


@pytest.fixture
def desk(loaded: Loaded, release: StoredRelease, bessemer_home: Path) -> Iterator[Running]:
    with running(create_app(loaded, release, token=TOKEN, policy=POLICY)) as found:
        yield found


def body(text: str = "you are kind", **more: Any) -> dict[str, Any]:
    return {"comment": {"text": text}, "requestedAttributes": {"TOXICITY": {}}, **more}


def test_analyze(desk: Running, bessemer_home: Path) -> None:
    with desk.http() as http:
        asked = body(languages=["en"], clientToken="t1", spanAnnotations=True, communityId="forge")
        asked["requestedAttributes"] |= {"NO_LINKS": {"scoreType": "PROBABILITY"}, "KIND": {"scoreThreshold": 1.0}}
        answer = http.post(ANALYZE, json=asked)
        found = answer.json()
        same = http.post("/v1/moderations", json={"input": {"text": "you are kind", "community": "forge"}}).json()
    assert answer.status_code == 200 and answer.headers["x-bessemer-digest"] == DIGEST
    scores = {name: rule["score"] for name, rule in same["results"][0]["rules"].items()}
    toxicity = {"value": scores["kind"], "type": "PROBABILITY"}
    assert found["attributeScores"] == {
        "TOXICITY": {"summaryScore": toxicity, "spanScores": [{"begin": 0, "end": 12, "score": toxicity}]},
        "NO_LINKS": {
            "summaryScore": {"value": scores["no-links"], "type": "PROBABILITY"},
            "spanScores": [{"begin": 0, "end": 12, "score": {"value": scores["no-links"], "type": "PROBABILITY"}}],
        },
    }
    assert found["languages"] == ["en"] and found["clientToken"] == "t1"
    assert found["releaseDigest"] == DIGEST and found["policyHash"] == POLICY.digest
    assert find_entry(bessemer_home / "decisions", found["decisionId"])["community"] == "forge"


def test_an_attribute_goes_before_an_id(loaded: Loaded, release: StoredRelease, bessemer_home: Path) -> None:
    rules = [
        {"id": "spam", "text": "No adverts.", "action": "queue"},
        {"id": "ads", "text": "No offers.", "action": "queue", "attribute": "SPAM"},
    ]
    policy = policy_of({"name": "two", "rules": rules})
    with running(create_app(loaded, release, token=TOKEN, policy=policy)) as found, found.http() as http:
        asked = {"comment": {"text": "buy it"}, "requestedAttributes": {"SPAM": {}}}
        score = http.post(ANALYZE, json=asked).json()["attributeScores"]["SPAM"]["summaryScore"]["value"]
        both = http.post("/v1/moderations", json={"input": "buy it"}).json()["results"][0]["rules"]
    assert score == both["ads"]["score"] != both["spam"]["score"]


def test_half_a_surrogate_pair_is_refused(desk: Running) -> None:
    with desk.http() as http:
        for field in ("clientToken", "communityId"):
            answer = http.post(ANALYZE, content=json.dumps(body(**{field: "\ud800"})), headers=JSON)
            assert answer.status_code == 400 and "surrogate" in answer.json()["error"]["message"]


def test_nulls_count_as_absent(desk: Running) -> None:
    with desk.http() as http:
        asked = body() | {"requestedAttributes": {"TOXICITY": {"scoreThreshold": None}}}
        plain, nulls = (http.post(ANALYZE, json=x) for x in (body(), asked | {"context": None, "languages": None}))
        assert (plain.status_code, nulls.status_code) == (200, 200)
        assert plain.json()["attributeScores"] == nulls.json()["attributeScores"]
        assert http.post(ANALYZE, json=body() | {"colour": None}).status_code == 200
        assert http.post(ANALYZE, json=body() | {"colour": "red"}).status_code == 400


def test_context_is_read(desk: Running) -> None:
    contexts: list[Any] = [
        None,
        {"entries": [{"text": "first"}, {"text": "why?"}]},
        {"articleAndParentComment": {"parentComment": {"text": "why?"}}},
        {"articleAndParentComment": {"article": {"text": "steel"}, "parentComment": {"text": "why?"}}},
    ]
    with desk.http() as http:
        values = [
            http.post(ANALYZE, json=body(**({"context": c} if c else {}))).json()["attributeScores"]["TOXICITY"]
            for c in contexts
        ]
    assert values[1] == values[2] and values[0] != values[1] != values[3] != values[0]


def test_the_key_in_a_header_or_the_query(desk: Running) -> None:
    with desk.http(token=None) as http:
        assert http.post(f"{ANALYZE}?key={TOKEN}", json=body()).status_code == 200
        assert http.post(ANALYZE, json=body(), headers={"X-Goog-Api-Key": TOKEN}).status_code == 200
        for path, headers in (
            (ANALYZE, {}),
            (f"{ANALYZE}?key=wrong", {}),
            (f"{ANALYZE}?key={TOKEN}&key={TOKEN}", {}),
            (f"{ANALYZE}?key={TOKEN}", {"Authorization": "Bearer wrong"}),
            ("/v1/models?key=" + TOKEN, {}),
        ):
            answer = http.post(path, json=body(), headers=headers)
            assert answer.status_code == 401, path
        error = http.post(ANALYZE, json=body()).json()["error"]
    assert (error["code"], error["status"]) == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize(
    ("asked", "status", "kind"),
    [
        (body(""), 400, "COMMENT_EMPTY"),
        (body("\u200b"), 400, "COMMENT_EMPTY"),
        (body("x" * 50_000), 400, "COMMENT_TOO_LONG"),
        (body("x" * 1_100_000), 413, "REQUEST_TOO_LARGE"),
        ({**body(), "requestedAttributes": {"THREAT": {}}}, 400, "ATTRIBUTE_NOT_FOUND"),
        ({**body(), "requestedAttributes": {}}, 400, "INVALID_VALUE"),
        ({"comment": {"text": "x"}}, 400, "MISSING_PARAMETER"),
        ({**body(), "comment": {"text": "x", "type": "HTML"}}, 400, "INVALID_VALUE"),
        ({**body(), "colour": "red"}, 400, "UNSUPPORTED_PARAMETER"),
    ],
)
def test_errors_have_googles_shape(desk: Running, asked: Any, status: int, kind: str) -> None:
    with desk.http() as http:
        answer = http.post(ANALYZE, json=asked)
    error = answer.json()["error"]
    assert answer.status_code == error["code"] == status and error["message"]
    assert error["status"] == "INVALID_ARGUMENT"
    assert error["details"] == [
        {"@type": "type.googleapis.com/google.commentanalyzer.v1alpha1.Error", "errorType": kind}
    ]


def test_other_errors_too(desk: Running) -> None:
    with desk.http() as http:
        malformed = http.post(ANALYZE, content=b"{", headers={"Content-Type": "application/json"}).json()["error"]
        missing = http.post(f"{ANALYZE}?policy=no-such", json=body()).json()["error"]
        unknown = http.post("/v1alpha1/comments:other", json=body()).json()["error"]
    assert malformed["status"] == "INVALID_ARGUMENT" and malformed["details"][0]["errorType"] == "INVALID_JSON"
    assert (missing["status"], unknown["status"]) == ("NOT_FOUND", "NOT_FOUND")


def test_a_policy_by_name(desk: Running) -> None:
    store(
        Policy.model_validate(
            {**POLICY.model_dump(), "version": "9", "rules": [{"id": "threat", "text": "No threats."}]}
        )
    )
    asked = {"comment": {"text": "x y"}, "requestedAttributes": {"THREAT": {}}}
    with desk.http() as http:
        assert http.post(f"{ANALYZE}?policy=steel-talk@9", json=asked).json()["policy"] == "steel-talk@9"


def test_a_mistyped_query_is_refused(desk: Running) -> None:
    """`polcy=x` would be answered by the server's own policy."""
    asked = {"comment": {"text": "iron"}, "requestedAttributes": {"ORE": {}}}
    with desk.http() as http:
        answer = http.post("/v1alpha1/comments:analyze?polcy=x", json=asked)
        assert answer.status_code == 400 and "'polcy' is unknown" in answer.json()["error"]["message"]


@pytest.mark.parametrize("query", ["fields=attributeScores", "alt=media"])
def test_another_form_of_the_answer_is_refused(desk: Running, query: str) -> None:
    asked = {"comment": {"text": "iron"}, "requestedAttributes": {"TOXICITY": {}}}
    with desk.http() as http:
        assert http.post(f"{ANALYZE}?alt=json&prettyPrint=false", json=asked).status_code == 200
        answer = http.post(f"{ANALYZE}?{query}", json=asked)
        assert answer.status_code == 400 and ("'fields'" in answer.text or "'media'" in answer.text)


def test_a_score_that_is_no_number_teaches_nothing(desk: Running) -> None:
    scores = '{"comment": {"text": "x"}, "attributeScores": {"TOXICITY": {"summaryScore": {"value": NaN}}}}'
    with desk.http() as http:
        assert http.post(SUGGEST, content=scores, headers=JSON).status_code == 400
    assert not list(training_rows(read_appeals()))


def test_an_answer_may_be_sent_back_corrected(desk: Running) -> None:
    """Google's own examples change a value of an answer of `analyze`; without a summary the highest span counts."""
    with desk.http() as http:
        given = http.post(ANALYZE, json=body()).json()["attributeScores"]  # nobody asked for spans
        given["TOXICITY"]["summaryScore"]["value"] = 1.0
        low, high = ({"begin": 0, "end": 3, "score": {"value": value}} for value in (0.1, 0.7))
        alone = {"TOXICITY": {"spanScores": [low, high]}}
        for text, scores in (("you are kind", given), ("spans alone", alone)):
            assert http.post(SUGGEST, json={"comment": {"text": text}, "attributeScores": scores}).status_code == 200
        nothing = http.post(SUGGEST, json={"comment": {"text": "x"}, "attributeScores": {"TOXICITY": {}}})
        assert nothing.status_code == 400 and "summaryScore or spanScores" in nothing.text
    rows = list(training_rows(read_appeals()))
    assert [(r["text"], r["action"]) for r in rows] == [("you are kind", "removed"), ("spans alone", "removed")]


def test_googles_clients_are_told_what_there_is(desk: Running) -> None:
    with desk.http() as http:
        url, key = "/$discovery/rest?version=v1alpha1", http.headers.pop("authorization").removeprefix("Bearer ")
        assert http.get(url).status_code == 401 and http.get(f"{url}2&key={key}").status_code == 404
        found = http.get(f"{url}&key={key}").json()
        assert found["rootUrl"] == str(http.base_url).rstrip("/") + "/"
        scored = {"comment": {"text": "x"}, "attributeScores": {"KIND": {"summaryScore": {"value": 1}}}}
        for name, asked in (("analyze", body()), ("suggestscore", scored)):
            method = found["resources"]["comments"]["methods"][name]
            answer = http.request(method["httpMethod"], f"{found['rootUrl']}{method['path']}?key={key}", json=asked)
            assert answer.status_code == 200, answer.text


def test_suggested_scores_come_back_as_training_data(desk: Running) -> None:
    def suggest(http: httpx2.Client, text: str, **scores: float) -> Any:
        values = {name: {"summaryScore": {"value": v}} for name, v in scores.items()}
        return http.post(SUGGEST, json={"comment": {"text": text}, "attributeScores": values, "clientToken": "t2"})

    with desk.http() as http:
        answer = suggest(http, "you are kind", TOXICITY=0.0, NO_LINKS=1.0)
        assert answer.status_code == 200 and answer.json()["clientToken"] == "t2"
        assert suggest(http, "\u200b", TOXICITY=1.0).json()["error"]["details"][0]["errorType"] == "COMMENT_EMPTY"
        assert suggest(http, "x", OTHER=1.0).status_code == suggest(http, "x", TOXICITY=7).status_code == 400
    rows = list(training_rows(read_appeals()))
    assert [(r["text"], r["rule"], r["action"]) for r in rows] == [
        ("you are kind", "kind", "approved"),
        ("you are kind", "no-links", "removed"),
    ]
