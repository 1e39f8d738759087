"""The replies of every endpoint as models, for the OpenAPI document; encoders do not use them.

A test holds real replies to these. What is not named here may come beside it.
"""

from typing import Any, Literal

from pydantic import BaseModel, Field


class ErrorObject(BaseModel):
    """What went wrong, and what to do next."""

    message: str
    type: str
    param: str | None = Field(description="the request field at fault")
    code: str | None


class Error(BaseModel):
    """A failure, as every OpenAI endpoint tells it."""

    error: ErrorObject


class Model(BaseModel):
    """A model that can be asked for."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    clinvk: dict[str, Literal["native", "emulated", "no", "reported", "estimated"]] = Field(
        description="what the model can do, by capability, and whether its CLI does it or clinvk"
    )


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"]
    data: list[Model]


class FunctionCall(BaseModel):
    """Which function to call; `arguments` is a JSON text."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call that the client must run."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class ChatMessage(BaseModel):
    """What the assistant said."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]


class CompletionUsage(BaseModel):
    """Tokens of all choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """An answer that is not streamed."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage


class CompletionChoice(BaseModel):
    """One continuation of a prompt."""

    index: int
    text: str
    logprobs: None
    finish_reason: Literal["stop", "length", "content_filter"]


class Completion(BaseModel):
    """The continuations of a prompt or of several."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage


class OutputItem(BaseModel):
    """A message, a function call, or a reasoning item; `type` says which."""

    id: str
    type: Literal["message", "function_call", "reasoning"]
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"] | None = None
    content: list[dict[str, Any]] | None = None
    summary: list[dict[str, Any]] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None


class ResponseUsage(BaseModel):
    """Tokens of the turn."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class Response(BaseModel):
    """An answer with its items, and what was asked for."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_p: float | None
    usage: ResponseUsage | None = None


class DeletedResponse(BaseModel):
    """A response that is not kept any more."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ItemList(BaseModel):
    """A page of items."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool


class File(BaseModel):
    """An uploaded file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"]


class FileList(BaseModel):
    """Uploaded files."""

    object: Literal["list"]
    data: list[File]
    first_id: str
    last_id: str
    has_more: bool


class DeletedFile(BaseModel):
    """That a file is no more."""

    id: str
    object: Literal["file"]
    deleted: bool


class AnthropicErrorObject(BaseModel):
    """What went wrong, and what to do next."""

    type: str
    message: str


class AnthropicError(BaseModel):
    """A failure, as every Anthropic endpoint tells it."""

    type: Literal["error"]
    error: AnthropicErrorObject


class AnthropicUsage(BaseModel):
    """Tokens of the turn."""

    input_tokens: int
    output_tokens: int


class AnthropicMessage(BaseModel):
    """An answer that is not streamed."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: AnthropicUsage


class AnthropicModel(BaseModel):
    """A model that can be asked for."""

    id: str
    type: Literal["model"]
    display_name: str
    created_at: str


class AnthropicModelList(BaseModel):
    """All models."""

    data: list[AnthropicModel]
    has_more: bool
    first_id: str | None
    last_id: str | None


class TokenCount(BaseModel):
    """How many input tokens a request has, about."""

    input_tokens: int


class BackendHealth(BaseModel):
    """What a backend is like."""

    state: str
    version: str | None
    reason: str | None
    fix: str | None


class Readiness(BaseModel):
    """Whether a turn could be taken now, and to who may call the state of each backend."""

    status: Literal["ready", "not_ready"]
    backends: dict[str, str] = {}


class Health(BaseModel):
    """The server is alive; to who may call, what its backends are like."""

    status: Literal["ok"]
    version: str = ""
    backends: dict[str, BackendHealth] = {}
