"""The request types of the OpenAI Responses API.

Shapes follow the published OpenAPI document of the OpenAI API, and what real clients send
beside it: messages without a type, unknown tools and items, unknown fields.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

PARTS = ("input_text", "output_text", "text", "refusal", "input_image", "input_file", "input_audio")
ITEMS = ("message", "function_call", "function_call_output", "item_reference")
FORMATS = ("text", "json_object", "json_schema")
# What pydantic adds to the location of an error in one of the unions below.
UNION_STEPS = frozenset(
    f"<{tag}>"
    for tag in (
        *("string", "items", "parts", "other", "mode", "function", "allowed_tools"),
        *PARTS,
        *ITEMS,
        *FORMATS,
    )
)


class _In(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


def _type_of(value: object) -> object:
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


class TextPartIn(_In):
    """A piece of text."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class RefusalPartIn(_In):
    """What the assistant said when it refused."""

    type: Literal["refusal"]
    refusal: str


class ImagePartIn(_In):
    """An image by address, or by content as a data URL; some send it as Chat Completions does."""

    type: Literal["input_image"]
    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None

    @field_validator("image_url", mode="before")
    @classmethod
    def _object(cls, value: object) -> object:
        return value["url"] if isinstance(value, dict) and "url" in value else value


class FilePartIn(_In):
    """A document by content, by id or by address."""

    type: Literal["input_file"]
    filename: str | None = None
    file_data: str | None = None
    file_id: str | None = None
    file_url: str | None = None


class InputAudioIn(_In):
    """Sound as base64."""

    data: str
    format: str


class AudioPartIn(_In):
    """A piece of sound."""

    type: Literal["input_audio"]
    input_audio: InputAudioIn


def _part_tag(value: object) -> str | None:
    kind = _type_of(value)
    return f"<{kind}>" if kind in PARTS else None


PartIn = Annotated[
    Annotated[TextPartIn, Tag("<input_text>")]
    | Annotated[TextPartIn, Tag("<output_text>")]
    | Annotated[TextPartIn, Tag("<text>")]
    | Annotated[RefusalPartIn, Tag("<refusal>")]
    | Annotated[ImagePartIn, Tag("<input_image>")]
    | Annotated[FilePartIn, Tag("<input_file>")]
    | Annotated[AudioPartIn, Tag("<input_audio>")],
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
        custom_error_message="it must be a string or a list of parts",
    ),
]


class MessageIn(_In):
    """One message; `type` may be missing."""

    type: Literal["message"] = "message"
    id: str | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: ContentIn


class FunctionCallIn(_In):
    """A call the assistant made."""

    type: Literal["function_call"]
    id: str | None = None
    call_id: str = Field(min_length=1)
    name: str
    arguments: str


class FunctionCallOutputIn(_In):
    """What a call came back with."""

    type: Literal["function_call_output"]
    id: str | None = None
    call_id: str = Field(min_length=1)
    output: ContentIn


class ItemReferenceIn(_In):
    """An item that the server keeps; `type` may be missing."""

    type: Literal["item_reference"] = "item_reference"
    id: str


class OtherItemIn(_In):
    """An item that has no effect here: reasoning, calls of custom and hosted tools, new kinds."""

    type: str


def _item_tag(value: object) -> str | None:
    kind = _type_of(value)
    if isinstance(kind, str):
        return f"<{kind}>" if kind in ITEMS else "<other>"
    if not isinstance(value, dict) or kind is not None:
        return None
    if "role" in value:
        return "<message>"
    return "<item_reference>" if set(value) - {"type"} == {"id"} else None


ItemIn = Annotated[
    Annotated[MessageIn, Tag("<message>")]
    | Annotated[FunctionCallIn, Tag("<function_call>")]
    | Annotated[FunctionCallOutputIn, Tag("<function_call_output>")]
    | Annotated[ItemReferenceIn, Tag("<item_reference>")]
    | Annotated[OtherItemIn, Tag("<other>")],
    Discriminator(
        _item_tag,
        custom_error_type="item_type",
        custom_error_message="an item must be an object with a type, or a message with a role",
    ),
]


def _input_tag(value: object) -> str | None:
    if isinstance(value, str):
        return "<string>"
    return "<items>" if isinstance(value, list) else None


InputIn = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[list[ItemIn], Tag("<items>"), Field(min_length=1)],
    Discriminator(
        _input_tag,
        custom_error_type="input_type",
        custom_error_message="input must be a string or a list of items",
    ),
]


class FunctionToolIn(_In):
    """A function that the model may call."""

    type: Literal["function"]
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class OtherToolIn(_In):
    """A tool that has no effect here: those the API itself hosts, custom ones, new kinds."""

    type: str


def _tool_tag(value: object) -> str | None:
    kind = _type_of(value)
    if not isinstance(kind, str):
        return None
    return "<function>" if kind == "function" else "<other>"


ToolIn = Annotated[
    Annotated[FunctionToolIn, Tag("<function>")] | Annotated[OtherToolIn, Tag("<other>")],
    Discriminator(
        _tool_tag,
        custom_error_type="tool_type",
        custom_error_message="a tool must be an object with a type",
    ),
]


class NamedToolIn(_In):
    """A function that must be called."""

    type: Literal["function"]
    name: str


class AllowedToolsIn(_In):
    """The tools that may be called, out of those that are offered."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


def _choice_tag(value: object) -> str | None:
    if isinstance(value, str):
        return "<mode>"
    kind = _type_of(value)
    if not isinstance(kind, str):
        return None
    return f"<{kind}>" if kind in ("function", "allowed_tools") else "<other>"


ToolChoiceIn = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<mode>")]
    | Annotated[NamedToolIn, Tag("<function>")]
    | Annotated[AllowedToolsIn, Tag("<allowed_tools>")]
    | Annotated[OtherToolIn, Tag("<other>")],
    Discriminator(
        _choice_tag,
        custom_error_type="tool_choice_type",
        custom_error_message="it must be 'none', 'auto', 'required' or an object with a type",
    ),
]


class TextFormatIn(_In):
    """Plain text, which is the default."""

    type: Literal["text"]


class JsonObjectFormatIn(_In):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormatIn(_In):
    """JSON of a schema."""

    type: Literal["json_schema"]
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


def _format_tag(value: object) -> str | None:
    kind = _type_of(value)
    return f"<{kind}>" if kind in FORMATS else None


FormatIn = Annotated[
    Annotated[TextFormatIn, Tag("<text>")]
    | Annotated[JsonObjectFormatIn, Tag("<json_object>")]
    | Annotated[JsonSchemaFormatIn, Tag("<json_schema>")],
    Discriminator(
        _format_tag,
        custom_error_type="format_type",
        custom_error_message=f"it must be an object whose type is one of {', '.join(FORMATS)}",
    ),
]


class TextIn(_In):
    """The form of the answer."""

    format: FormatIn | None = None
    verbosity: str | None = None


class ReasoningIn(_In):
    """How hard to think, and whether to tell; a summary is told in any case."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class ResponsesRequest(BaseModel):
    """The body of `POST /responses`; fields that are not named here have no effect."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    model: str = Field(min_length=1)
    input: InputIn
    instructions: str | None = None
    stream: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    metadata: dict[str, str] | None = None
    tools: list[ToolIn] | None = None
    tool_choice: ToolChoiceIn | None = None
    parallel_tool_calls: bool | None = None
    text: TextIn | None = None
    reasoning: ReasoningIn | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    # Refused by name:
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    # Accepted and ignored, but a wrong type is still the caller's mistake:
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    max_tool_calls: int | None = None
    include: list[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    stream_options: dict[str, Any] | None = None
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    client_metadata: dict[str, Any] | None = None


IGNORED = (
    "temperature",
    "top_p",
    "top_logprobs",
    "max_tool_calls",
    "include",
    "truncation",
    "stream_options",
    "service_tier",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "client_metadata",
)
