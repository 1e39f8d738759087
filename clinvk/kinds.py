"""The kinds of backends as they stand in backends.yaml, each with its settings.

Owns what may be set and what fits together; config owns the file that they stand in.
"""

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

Seconds = Annotated[float, Field(gt=0, le=86_400)]
# A step by name, by number, or a condition: $.a['b c'], $.a[0], $[-1], $[role=assistant].content
# pydantic and `re` do not mean the same by \w and \d.
_NAME = "[A-Za-z_][A-Za-z0-9_-]*"
PATH_STEP = rf"\.{_NAME}|\[-?[0-9]+\]|\['[^']*'\]|\[{_NAME}=[^\]]*\]"
JsonPath = Annotated[str, Field(pattern=rf"^\$({PATH_STEP})*$")]
ExitError = Literal[
    "bad_request", "context_too_long", "not_logged_in", "rate_limited", "overloaded", "upstream"
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BackendConfig(_Strict):
    """What every kind of backend has; times in seconds."""

    model: str | None = None
    models: list[str] = []
    max_concurrency: int = Field(default=8, ge=1, le=1024)
    max_queue: int = Field(default=64, ge=0, le=65_536)
    queue_s: Seconds = 300
    timeout_s: Seconds = 600
    first_s: Seconds = 180
    silence_s: Seconds = 180
    park_s: Seconds = 600
    max_parked: int = Field(default=8, ge=0, le=1024)
    idle_s: Seconds = 300
    max_idle: int = Field(default=4, ge=0, le=1024)
    warm: int = Field(default=1, ge=0, le=64)


class ProgramConfig(BackendConfig):
    """What every backend with a program of its own has."""

    command: list[str]
    env: dict[str, str] = {}

    @field_validator("command", mode="before")
    @classmethod
    def _command_is_words(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("command")
    @classmethod
    def _command_names_a_program(cls, value: list[str]) -> list[str]:
        if not value or not value[0]:
            raise ValueError("must name a program")
        return value


class CliConfig(ProgramConfig):
    """What every backend has that drives a CLI which clinvk knows by name."""

    retries: int = Field(default=0, ge=0, le=10)


class ClaudeConfig(CliConfig):
    """Claude Code."""

    kind: Literal["claude"]
    command: list[str] = ["claude"]
    warm_mb: int = Field(default=800, ge=0, le=1_048_576)


class CodexConfig(CliConfig):
    """Codex; `config` is passed to it as its own configuration, by dotted keys."""

    kind: Literal["codex"]
    command: list[str] = ["codex"]
    config: dict[str, Any] = {}


class GeminiConfig(CliConfig):
    """Gemini CLI."""

    kind: Literal["gemini"]
    command: list[str] = ["gemini"]


class AcpConfig(ProgramConfig):
    """Any agent that speaks the Agent Client Protocol over stdin and stdout.

    `pass_env` are names of the server's environment that it gets beside the common ones; a
    trailing `*` is a prefix. `mode` is the agent's own, if it has one of this id. `auth` is one
    of its ways to log in that asks nobody anything. After `recycle_after` conversations the
    process is replaced. `start_s` is how long its start, or the opening of a session, may take;
    null is 60 and 30.
    `pdf` embeds PDF files, for an agent that passes them on: the protocol does not tell, and some
    drop them. `tools` is how it reaches the caller's: `auto` is `http` if it says that it can,
    and else `stdio`, which every agent must.
    """

    kind: Literal["acp"]
    pass_env: list[Annotated[str, Field(min_length=1)]] = []
    mode: str | None = "default"
    auth: str | None = None
    tools: Literal["auto", "http", "stdio"] = "auto"
    pdf: bool = False
    start_s: float | None = Field(default=None, gt=0, le=3600)
    recycle_after: int = Field(default=50, ge=1, le=1_000_000)


class CountPaths(_Strict):
    """Where a program's lines hold counts of tokens."""

    input: JsonPath
    output: JsonPath
    cached: JsonPath | None = None


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as exc:
        raise ValueError(f"is no regular expression: {exc}") from exc
    return pattern


LinePattern = Annotated[str, Field(min_length=1), AfterValidator(_compiles)]


class CommandConfig(ProgramConfig):
    """Any program that answers a prompt on its stdout.

    In `command`, `{model}`, `{prompt}`, `{system}` and `{file}` are replaced. `system` is a
    template of `{system}` and `{prompt}`; with null a transcript has them all. `text`,
    `reasoning`, `end`, `error` and `usage` are of `output: jsonl` and `json`, one document, and
    say where in it they stand. `after`, `before` and `failure` are of `output: text`, and are
    looked for in each line: the answer begins after the first that `after` is in and ends before
    the next that `before` is in; one that `failure` is in, and all after it, say what went wrong.
    `exit_codes` says what a code means, by the name of an error.
    """

    kind: Literal["command"]
    pass_env: list[Annotated[str, Field(min_length=1)]] = []
    prompt: Literal["stdin", "file", "argv"] = "stdin"
    system: str | None = None
    output: Literal["text", "json", "jsonl"] = "text"
    after: LinePattern | None = None
    before: LinePattern | None = None
    failure: LinePattern | None = None
    text: JsonPath | None = None
    reasoning: JsonPath | None = None
    end: JsonPath | None = None
    error: JsonPath | None = None
    usage: CountPaths | None = None
    exit_codes: dict[int, ExitError] = {}

    @model_validator(mode="after")
    def _fits_together(self) -> "CommandConfig":
        words = " ".join(self.command)
        for needed, word in (("argv", "{prompt}"), ("file", "{file}")):
            if self.prompt == needed and word not in words:
                raise ValueError(f"with 'prompt: {needed}' a word of command must hold {word}")
            if self.prompt != needed and word in words:
                raise ValueError(f"{word} in command needs 'prompt: {needed}'")
        if "{model}" in words and self.model is None:
            raise ValueError("{model} in command needs 'model', which is used if none is named")
        if self.output != "text" and self.text is None:
            raise ValueError(f"'output: {self.output}' needs 'text', where the answer stands")
        for name in ("after", "before", "failure"):
            if self.output != "text" and getattr(self, name) is not None:
                raise ValueError(f"{name!r} is of 'output: text' alone")
        return self


class EmbeddingsConfig(BackendConfig):
    """Embeddings by the model of the extra `embeddings`; `max_concurrency` is of threads."""

    kind: Literal["embeddings"]
    max_concurrency: int = Field(default=2, ge=1, le=64)

    @model_validator(mode="after")
    def _has_one_model(self) -> "EmbeddingsConfig":
        if {self.model, *self.models} - {None, "wordllama"}:
            raise ValueError("the only model is 'wordllama', which need not be named")
        return self


class EchoConfig(BackendConfig):
    """Answers with its prompt."""

    kind: Literal["echo"]


Endpoint = Literal[
    "chat/completions",
    "completions",
    "responses",
    "embeddings",
    "moderations",
    "images/generations",
    "images/edits",
    "audio/speech",
    "audio/transcriptions",
    "audio/translations",
]
_ENDPOINTS: list[Endpoint] = [each for each in get_args(Endpoint) if each != "responses"]


class OpenAIConfig(BackendConfig):
    """A server with OpenAI's API.

    `base_url` is what OpenAI's clients take, with the version: `http://127.0.0.1:8000/v1`. With no
    `models` those that it lists are offered. `endpoints` are those that requests are passed on to
    as they are; other chats are answered by way of its chat completions. `retries` are of requests
    that it has not begun to answer. `forward_key` sends the caller's own key on, in place of
    `api_key`.
    """

    kind: Literal["openai"]
    base_url: Annotated[str, Field(pattern=r"^https?://[^\s?#@]+$")]
    api_key: str | None = None
    headers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")], str] = {}
    forward_key: bool = False
    endpoints: list[Endpoint] = _ENDPOINTS
    retries: int = Field(default=2, ge=0, le=10)
    max_concurrency: int = Field(default=64, ge=1, le=1024)


AnyBackendConfig = Annotated[
    ClaudeConfig
    | CodexConfig
    | GeminiConfig
    | AcpConfig
    | CommandConfig
    | OpenAIConfig
    | EmbeddingsConfig
    | EchoConfig,
    Field(discriminator="kind"),
]
