"""The request types of the OpenAI Chat Completions API.

Shapes follow the published OpenAPI document of the OpenAI API, and what real clients send
beside it: a bare string for an image, the legacy function fields, unknown fields.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

PARTS = ("text", "image_url", "input_audio", "file", "refusal")
EFFORTS = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
# What pydantic adds to the location of an error in one of the unions below.
UNION_STEPS = frozenset(
    f"<{tag}>"
    for tag in (
        *("string", "parts", "words", "word", "mode", "named", "json_object", "json_schema"),
        *PARTS,
    )
)


class _In(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class TextPartIn(_In):
    """A piece of text."""

    type: Literal["text"]
    text: str


class RefusalPartIn(_In):
    """What the assistant said when it refused."""

    type: Literal["refusal"]
    refusal: str


class ImageUrlIn(_In):
    """Where an image is."""

    url: str
    detail: str | None = None


class ImagePartIn(_In):
    """An image; some clients send the address as a bare string."""

    type: Literal["image_url"]
    image_url: ImageUrlIn

    @field_validator("image_url", mode="before")
    @classmethod
    def _bare_string(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value


class InputAudioIn(_In):
    """Sound as base64."""

    data: str
    format: str


class AudioPartIn(_In):
    """A piece of sound."""

    type: Literal["input_audio"]
    input_audio: InputAudioIn


class FileIn(_In):
    """A document by content or by id."""

    filename: str | None = None
    file_data: str | None = None
    file_id: str | None = None


class FilePartIn(_In):
    """A document."""

    type: Literal["file"]
    file: FileIn


def _part_tag(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{kind}>" if kind in PARTS else None


PartIn = Annotated[
    Annotated[TextPartIn, Tag("<text>")]
    | Annotated[ImagePartIn, Tag("<image_url>")]
    | Annotated[AudioPartIn, Tag("<input_audio>")]
    | Annotated[FilePartIn, Tag("<file>")]
    | Annotated[RefusalPartIn, Tag("<refusal>")],
    Discriminator(
        _part_tag,
        custom_error_type="part_type",
        custom_error_message=f"a part must be an object whose type is one of {', '.join(PARTS)}",
    ),
]


def _content_tag(value: object) -> str | None:
    if isinstance(value, str):
        return "<string>"
    return "<parts>" if isinstance(value, list) else None


ContentIn = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[list[PartIn], Tag("<parts>")],
    Discriminator(
        _content_tag,
        custom_error_type="content_type",
        custom_error_message="content must be a string or a list of parts",
    ),
]


class FunctionCallIn(_In):
    """Which function the assistant called, and with what."""

    name: str
    arguments: str


class ToolCallIn(_In):
    """A call the assistant made."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCallIn


class MessageIn(_In):
    """One message of any role."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: ContentIn | None = None
    name: str | None = None
    tool_calls: list[ToolCallIn] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCallIn | None = None


class FunctionIn(_In):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolIn(_In):
    """A tool that the model may call."""

    type: Literal["function"]
    function: FunctionIn


class StreamOptionsIn(_In):
    """How a stream is told."""

    include_usage: bool | None = None


class JsonSchemaIn(_In):
    """A JSON Schema that the answer must meet."""

    name: str
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextFormatIn(_In):
    """Plain text, which is the default."""

    type: Literal["text"]


class JsonObjectFormatIn(_In):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormatIn(_In):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchemaIn


FORMATS = ("text", "json_object", "json_schema")


def _format_tag(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{kind}>" if kind in FORMATS else None


ResponseFormatIn = Annotated[
    Annotated[TextFormatIn, Tag("<text>")]
    | Annotated[JsonObjectFormatIn, Tag("<json_object>")]
    | Annotated[JsonSchemaFormatIn, Tag("<json_schema>")],
    Discriminator(
        _format_tag,
        custom_error_type="format_type",
        custom_error_message=f"it must be an object whose type is one of {', '.join(FORMATS)}",
    ),
]


class FunctionNameIn(_In):
    """The name of a function."""

    name: str


class NamedToolIn(_In):
    """A tool that must be called."""

    type: Literal["function"]
    function: FunctionNameIn


def _choice_tag(value: object) -> str | None:
    if isinstance(value, str):
        return "<mode>"
    return "<named>" if isinstance(value, dict | BaseModel) else None


ToolChoiceIn = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<mode>")]
    | Annotated[NamedToolIn, Tag("<named>")],
    Discriminator(
        _choice_tag,
        custom_error_type="tool_choice_type",
        custom_error_message="it must be 'none', 'auto', 'required' or name a function",
    ),
]
FunctionChoiceIn = Annotated[
    Annotated[Literal["none", "auto"], Tag("<mode>")] | Annotated[FunctionNameIn, Tag("<named>")],
    Discriminator(
        _choice_tag,
        custom_error_type="function_call_type",
        custom_error_message="it must be 'none', 'auto' or name a function",
    ),
]


def _stop_tag(value: object) -> str | None:
    if isinstance(value, str):
        return "<word>"
    return "<words>" if isinstance(value, list) else None


StopIn = Annotated[
    Annotated[str, Tag("<word>"), Field(min_length=1)]
    | Annotated[list[Annotated[str, Field(min_length=1)]], Tag("<words>"), Field(max_length=64)],
    Discriminator(
        _stop_tag,
        custom_error_type="stop_type",
        custom_error_message="stop must be a string or a list of strings",
    ),
]


class ChatRequest(BaseModel):
    """The body of `POST /chat/completions`; fields that are not named here have no effect."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    model: str = Field(min_length=1)
    messages: list[MessageIn] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptionsIn | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: StopIn | None = None
    n: int | None = Field(default=None, ge=1, le=128)
    reasoning_effort: EFFORTS | None = None
    response_format: ResponseFormatIn | None = None
    tools: list[ToolIn] | None = None
    tool_choice: ToolChoiceIn | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionIn] | None = None
    function_call: FunctionChoiceIn | None = None
    # Accepted and ignored, but a wrong type is still the caller's mistake:
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    user: str | None = None
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


IGNORED = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "user",
    "store",
    "metadata",
    "service_tier",
    "logit_bias",
    "logprobs",
    "top_logprobs",
)
