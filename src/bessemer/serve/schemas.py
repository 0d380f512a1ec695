"""What clients may ask. A parameter that would change the answer is implemented or refused, never ignored.

Harmless parameters (they change nothing that this server does) are accepted. `null` means: not given.
Everything else is refused by name, so that no client believes in a setting that has no effect.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    model_validator,
)

from bessemer.data.items import Message

MAX_STOPS = 16
MAX_TOP_LOGPROBS = 20
MAX_PROMPTS = 64
MAX_KEYS = 1000


def _drop_nulls(value: Any) -> Any:
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _joined(value: Any) -> Any:
    """Content parts -> text. Parts of other kinds are refused."""
    if not isinstance(value, list):
        return value
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError("only parts of the form {'type': 'text', 'text': '...'} are supported")
    return "".join(part["text"] for part in value)


def _unicode(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("the text has half of a surrogate pair, which is no character") from None
    return value


Text = Annotated[str, AfterValidator(_unicode)]


class Strict(BaseModel):
    """Unknown keys are errors; nulls count as absent."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _nulls(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MAX_KEYS:  # each unknown one would become an error of its own
            raise ValueError(f"{len(value):,} keys; at most {MAX_KEYS} are read")
        return _drop_nulls(value)


class StreamOptions(Strict):
    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False  # harmless: nothing is padded


class ChatMessage(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(_joined)]
    annotations: Annotated[list[Any], Field(max_length=0)] = []  # clients send answers back as they came
    tool_calls: Annotated[list[Any], Field(max_length=0)] = []

    def message(self) -> Message:
        return Message("system" if self.role == "developer" else self.role, self.content)


class Sampling(Strict):
    """What both endpoints share."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: StrictInt | None = None
    stop: Annotated[list[Text], BeforeValidator(_as_list), Field(max_length=MAX_STOPS)] = []
    stream: StrictBool = False
    stream_options: StreamOptions = StreamOptions()
    # Settings with one accepted value: what this server does anyway.
    n: Literal[1] = 1
    frequency_penalty: Literal[0] = 0
    presence_penalty: Literal[0] = 0
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] = {}
    # Harmless settings.
    user: str = ""

    @model_validator(mode="after")
    def _stop_strings(self) -> Sampling:
        if any(not s for s in self.stop):
            raise ValueError("stop: an empty string would stop at once")
        return self


class ChatRequest(Sampling):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1024)]
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    logprobs: StrictBool = False
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: TextFormat | None = None
    modalities: list[Literal["text"]] = ["text"]
    tools: Annotated[list[Any], Field(max_length=0)] = []
    functions: Annotated[list[Any], Field(max_length=0)] = []
    tool_choice: Literal["none", "auto"] = "none"
    parallel_tool_calls: bool = True
    store: Literal[False] = False
    metadata: dict[str, str] = {}
    service_tier: Literal["auto", "default"] = "auto"
    safety_identifier: str = ""
    prompt_cache_key: str = ""
    # Ours: the rules of a stored policy, or of one given whole, are put before the conversation.
    policy: str | dict[str, Any] | None = None

    @model_validator(mode="after")
    def _agree(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens say different things; send one")
        return self

    @property
    def limit(self) -> int | None:
        """New tokens asked for; None: as many as the model has room for."""
        return self.max_completion_tokens or self.max_tokens


class TextFormat(Strict):
    type: Literal["text"]


class CompletionRequest(Sampling):
    # Of a long list the first mistake is enough: told one by one they would fill the memory.
    prompt: (
        Text
        | Annotated[list[Text], Field(fail_fast=True)]
        | Annotated[list[StrictInt], Field(fail_fast=True)]
        | Annotated[list[Annotated[list[StrictInt], Field(fail_fast=True)]], Field(fail_fast=True)]
    )
    max_tokens: Annotated[StrictInt, Field(ge=0)] = 16
    logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: StrictBool = False
    best_of: Literal[1] = 1
    suffix: Literal[""] = ""

    @model_validator(mode="after")
    def _few(self) -> CompletionRequest:
        if not 1 <= len(self.prompts()) <= MAX_PROMPTS:
            raise ValueError(f"prompt: {len(self.prompts())} prompts; send 1 to {MAX_PROMPTS} in one request")
        return self

    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(p, int) for p in self.prompt):
            return [[p for p in self.prompt if isinstance(p, int)]]
        return [p for p in self.prompt if not isinstance(p, int)]


ChatRequest.model_rebuild()
