"""What cannot be done as asked is refused by name, before anything is generated."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest
from pydantic import ValidationError

from bessemer.infer.model import load
from bessemer.moderate.policy import Policy
from bessemer.serve import jobs
from bessemer.serve.jobs import completion_job
from bessemer.serve.problems import RequestError
from bessemer.serve.schemas import CompletionRequest
from tests.infer.conftest import MakeModel, of_kind
from tests.serve.conftest import DIGEST, MODEL
from tests.tiny import MAX_TOKENS

__all__ = ["of_kind"]

ASK: list[Any] = [{"role": "user", "content": "hi"}]


def _refused(http: httpx2.Client, path: str, body: Any, status: int = 400) -> dict[str, Any]:
    answer = http.post(f"/v1/{path}", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.headers["x-bessemer-digest"] == DIGEST
    return answer.json()["error"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("n", 2),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x"}}),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
        ("logit_bias", {"5": 1}),
        ("store", True),
        ("reasoning_effort", "high"),
        ("modalities", ["text", "audio"]),
        ("web_search_options", {}),
        ("temprature", 0.1),
        ("temperature", -0.1),
        ("temperature", 3),
        ("top_p", 0),
        ("top_p", 1.1),
        ("max_tokens", 0),
        ("max_tokens", "7"),
        ("seed", 1.5),
        ("stop", [""]),
        ("stop", ["x"] * 17),
        ("stream", "yes"),
        ("stream_options", {"else": 1}),
        ("top_logprobs", 21),
        ("top_logprobs", 2),
        ("logprobs", 3),
        ("messages", []),
        ("messages", "hi"),
        ("messages", [{"role": "tool", "content": "x"}]),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "user", "content": None}]),
        ("messages", [{"role": "user", "content": "x", "name": "me"}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        ("messages", [{"role": "user", "content": "\ud800"}]),
        ("messages", [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]),
        ("model", None),
        ("model", 1),
    ],
)
def test_chat_parameters(http: httpx2.Client, name: str, value: Any) -> None:
    error = _refused(http, "chat/completions", {"model": MODEL, "messages": ASK, name: value})
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or error["message"]).startswith(name)
    assert error["code"] in {"unsupported_parameter", "invalid_value", "missing_parameter"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", None),
        ("prompt", []),
        ("prompt", ["x"] * 65),
        ("prompt", [999999]),
        ("prompt", [-1]),
        ("prompt", [True]),
        ("prompt", {"a": 1}),
        ("max_tokens", -1),
        ("best_of", 3),
        ("suffix", "x"),
        ("logprobs", 21),
        ("logprobs", True),
        ("n", 2),
        ("messages", ASK),
    ],
)
def test_completion_parameters(http: httpx2.Client, name: str, value: Any) -> None:
    error = _refused(http, "completions", {"model": MODEL, "prompt": "hi", name: value})
    assert (error["param"] or error["message"]).startswith(name)


def test_text_that_is_no_unicode(http: httpx2.Client) -> None:
    half = "\ud800"
    for body in (
        {"prompt": half},
        {"prompt": [half]},
        {"prompt": "x", "stop": half},
        {"prompt": "x", half: 1},
    ):
        _refused(http, "completions", {"model": MODEL, **body})
    _refused(http, "completions", {"model": half, "prompt": "x"}, status=404)


@pytest.mark.parametrize("name", ["temperature", "top_p"])
def test_nan_is_no_setting(http: httpx2.Client, name: str) -> None:
    content = f'{{"model": "{MODEL}", "prompt": "x", "{name}": NaN}}'
    answer = http.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == name


def test_of_many_mistakes_few_are_told() -> None:
    """A million of them would take seconds and gigabytes."""
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate({"model": MODEL, "prompt": [*[5] * 1000, "x"]})
    assert caught.value.error_count() < 10
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate({"model": MODEL, "prompt": [{}] * 1000})
    assert caught.value.error_count() < 10  # whatever a list was meant to hold
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate({"model": MODEL, "prompt": [["x"] * 1000]})
    assert caught.value.error_count() < 10
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate({"model": MODEL, "prompt": "x", **{f"k{i}": 1 for i in range(2000)}})
    assert caught.value.error_count() == 1
    rule = {"id": "a", "text": "b", "includes": [5] * 5000}
    with pytest.raises(ValidationError) as caught:
        Policy.model_validate({"name": "x", "rules": [rule]})
    assert caught.value.error_count() < 3


def test_an_answer_of_too_many_numbers(http: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_TOLD", 500)
    body = {"model": MODEL, "prompt": [[5] * 10] * 4, "max_tokens": 0, "echo": True, "logprobs": 20}
    error = _refused(http, "completions", body)
    assert error["code"] == "request_too_large" and "840 numbers" in error["message"]
    assert http.post("/v1/completions", json=body | {"logprobs": 1}).status_code == 200


def test_limits_that_disagree(http: httpx2.Client) -> None:
    body = {"model": MODEL, "messages": ASK, "max_tokens": 1, "max_completion_tokens": 2}
    assert "different things" in _refused(http, "chat/completions", body)["message"]


def test_empty_prompts(http: httpx2.Client) -> None:
    for prompt in ("", [""], ["x", ""], [[]]):
        assert _refused(http, "completions", {"model": MODEL, "prompt": prompt})["code"] == "empty_prompt"


def test_the_openai_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL, messages=ASK, tools=[{"type": "function", "function": {"name": "f"}}]
        )
    assert caught.value.param == "tools"
    for call in (
        lambda: client.chat.completions.create(model="tiny@2", messages=ASK),
        lambda: client.completions.create(model="gpt-4", prompt="x"),
        lambda: client.models.retrieve("other"),
    ):
        with pytest.raises(openai.NotFoundError) as missing:
            call()
        assert missing.value.code == "model_not_found"
        assert MODEL in missing.value.message


def test_context_length(client: openai.OpenAI) -> None:
    for call in (
        lambda: client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=MAX_TOKENS),
        lambda: client.completions.create(model=MODEL, prompt=[5] * MAX_TOKENS, max_tokens=1),
        lambda: client.completions.create(model=MODEL, prompt=[5] * (MAX_TOKENS + 1), max_tokens=0, echo=True),
        lambda: client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x " * 4000}]),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            call()
        assert caught.value.code == "context_length_exceeded"
        assert str(MAX_TOKENS) in caught.value.message


def test_a_prompt_longer_than_a_sliding_window_is_read_but_not_scored(of_kind: MakeModel) -> None:
    loaded = load(of_kind("mistral", sliding_window=64))
    whole = {"model": MODEL, "prompt": [5] * 65, "max_tokens": 1}
    for more in ({}, {"echo": True}, {"logprobs": 1}, {"echo": True, "logprobs": 1, "prompt": [5] * 64}):
        job = completion_job(loaded, CompletionRequest.model_validate({**whole, **more}))
        assert list(job.run(loaded, lambda: False))
    with pytest.raises(RequestError, match="65 tokens.* sliding window, and scores at most 64") as caught:
        completion_job(loaded, CompletionRequest.model_validate({**whole, "echo": True, "logprobs": 1}))
    assert (caught.value.status, caught.value.param) == (400, "prompt")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'"x"', b"[" * 100_000, b"null", b'{"seed": NaN}'])
def test_bodies_that_are_no_request(http: httpx2.Client, content: bytes) -> None:
    answer = http.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_not_called_json(http: httpx2.Client) -> None:
    """What `curl -d` sends when no type is given."""
    content, headers = b'{"model": "tiny@1", "messages": []}', {"Content-Type": "application/x-www-form-urlencoded"}
    answer = http.post("/v1/chat/completions", content=content, headers=headers)
    assert answer.status_code == 400 and "Content-Type is not application/json" in answer.json()["error"]["message"]


def test_health_may_be_asked_for_its_head_alone(http: httpx2.Client) -> None:
    assert http.head("/health").status_code == 200


def test_a_conversation_that_the_template_refuses(
    http: httpx2.Client, monkeypatch: pytest.MonkeyPatch, loaded: Any
) -> None:
    monkeypatch.setattr(loaded.renderer.chat, "chat_template", "{{ raise_exception('roles must alternate') }}")
    error = _refused(http, "chat/completions", {"model": MODEL, "messages": ASK})
    assert error["code"] == "invalid_conversation" and "(roles must alternate)" in error["message"]
    monkeypatch.setattr(loaded.renderer.chat, "chat_template", None)
    error = _refused(http, "chat/completions", {"model": MODEL, "messages": ASK})
    assert "no chat template" in error["message"]
