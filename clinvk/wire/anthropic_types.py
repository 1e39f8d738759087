"""The request types of the Anthropic Messages API.

Shapes follow the types that Anthropic publishes in its SDKs, and what real clients send beside
them: tools without a type, nulls, fields of betas.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

_RESULT_BLOCKS = ("text", "image", "document")
_BLOCKS = (*_RESULT_BLOCKS, "tool_use", "tool_result", "thinking", "redacted_thinking")
_IMAGE_SOURCES = ("base64", "url", "file")
_DOCUMENT_SOURCES = ("base64", "text", "content", "file")
# What pydantic adds to the location of an error in one of the unions below.
UNION_STEPS = frozenset(
    f"<{tag}>"
    for tag in ("string", "list", "own", "server", *_BLOCKS, *_IMAGE_SOURCES, *_DOCUMENT_SOURCES)
)


class _In(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


def _kind(value: object) -> object:
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


def _by_type(what: str, kinds: Iterable[str]) -> Discriminator:
    known = tuple(kinds)

    def tag(value: object) -> str | None:
        kind = _kind(value)
        return f"<{kind}>" if kind in known else None

    return Discriminator(
        tag,
        custom_error_type="block_type",
        custom_error_message=f"{what} must be an object whose type is one of {', '.join(known)}",
    )


def _string_or_list(what: str) -> Discriminator:
    return Discriminator(
        _string_or_list_tag,
        custom_error_type="content_type",
        custom_error_message=f"it must be a string or a list of {what}",
    )


def _string_or_list_tag(value: object) -> str | None:
    if isinstance(value, str):
        return "<string>"
    return "<list>" if isinstance(value, list) else None


class TextIn(_In):
    """A piece of text."""

    type: Literal["text"]
    text: str


class Base64In(_In):
    """The content of an image or of a document."""

    type: Literal["base64"]
    media_type: str
    data: str


class UrlIn(_In):
    """Where an image is."""

    type: Literal["url"]
    url: str


class PlainTextIn(_In):
    """The text of a document, as it stands."""

    type: Literal["text"]
    data: str
    media_type: str = "text/plain"


class FileIn(_In):
    """The id of an uploaded file."""

    type: Literal["file"]
    file_id: str


class ImageIn(_In):
    """An image."""

    type: Literal["image"]
    source: Annotated[
        Annotated[Base64In, Tag("<base64>")]
        | Annotated[UrlIn, Tag("<url>")]
        | Annotated[FileIn, Tag("<file>")],
        _by_type("the source of an image", _IMAGE_SOURCES),
    ]


class BlocksIn(_In):
    """A document that is made of blocks."""

    type: Literal["content"]
    content: Annotated[
        Annotated[str, Tag("<string>")]
        | Annotated[
            list[
                Annotated[
                    Annotated[TextIn, Tag("<text>")] | Annotated[ImageIn, Tag("<image>")],
                    _by_type("a block of a document", ("text", "image")),
                ]
            ],
            Tag("<list>"),
        ],
        _string_or_list("blocks"),
    ]


class DocumentIn(_In):
    """A document."""

    type: Literal["document"]
    title: str | None = None
    source: Annotated[
        Annotated[Base64In, Tag("<base64>")]
        | Annotated[PlainTextIn, Tag("<text>")]
        | Annotated[BlocksIn, Tag("<content>")]
        | Annotated[FileIn, Tag("<file>")],
        _by_type("the source of a document", _DOCUMENT_SOURCES),
    ]


class ToolUseIn(_In):
    """A call that the assistant made."""

    type: Literal["tool_use"]
    id: str = Field(min_length=1)
    name: str
    input: dict[str, Any]


ResultBlockIn = Annotated[
    Annotated[TextIn, Tag("<text>")]
    | Annotated[ImageIn, Tag("<image>")]
    | Annotated[DocumentIn, Tag("<document>")],
    _by_type("a block of a result", _RESULT_BLOCKS),
]


class ToolResultIn(_In):
    """What a call gave."""

    type: Literal["tool_result"]
    tool_use_id: str = Field(min_length=1)
    content: (
        Annotated[
            Annotated[str, Tag("<string>")] | Annotated[list[ResultBlockIn], Tag("<list>")],
            _string_or_list("blocks"),
        ]
        | None
    ) = None
    is_error: bool | None = None


class ThinkingIn(_In):
    """What the assistant thought; its signature is another server's business."""

    type: Literal["thinking"]
    thinking: str


class RedactedThinkingIn(_In):
    """What the assistant thought, sealed."""

    type: Literal["redacted_thinking"]
    data: str


BlockIn = Annotated[
    Annotated[TextIn, Tag("<text>")]
    | Annotated[ImageIn, Tag("<image>")]
    | Annotated[DocumentIn, Tag("<document>")]
    | Annotated[ToolUseIn, Tag("<tool_use>")]
    | Annotated[ToolResultIn, Tag("<tool_result>")]
    | Annotated[ThinkingIn, Tag("<thinking>")]
    | Annotated[RedactedThinkingIn, Tag("<redacted_thinking>")],
    _by_type("a block", _BLOCKS),
]


class MessageIn(_In):
    """One message; newer clients also send the role system here."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[
        Annotated[str, Tag("<string>")] | Annotated[list[BlockIn], Tag("<list>")],
        _string_or_list("blocks"),
    ]


class ToolIn(_In):
    """A tool of the caller's."""

    type: Literal["custom"] | None = None
    name: str = Field(min_length=1)
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class ServerToolIn(_In):
    """A tool that Anthropic's servers would run, of any type."""

    type: str
    name: str | None = None


def _tool_tag(value: object) -> str | None:
    if not isinstance(value, dict | BaseModel):
        return None
    return "<own>" if _kind(value) in (None, "custom") else "<server>"


AnyToolIn = Annotated[
    Annotated[ToolIn, Tag("<own>")] | Annotated[ServerToolIn, Tag("<server>")],
    Discriminator(
        _tool_tag, custom_error_type="tool", custom_error_message="a tool must be an object"
    ),
]


class ToolChoiceIn(_In):
    """Whether a tool may, must or must not be called, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfigIn(_In):
    """Whether the thinking is to be shown; how long it may be is the CLI's own business."""

    type: Literal["enabled", "adaptive", "disabled"]
    display: str | None = None


class OutputFormatIn(_In):
    """A JSON Schema that the answer must meet."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfigIn(_In):
    """How much work the answer is worth, and its form."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormatIn | None = None


class CountRequest(BaseModel):
    """The body of `POST /messages/count_tokens`; fields that are not named have no effect."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    model: str = Field(min_length=1)
    messages: list[MessageIn] = Field(min_length=1)
    system_: (
        Annotated[
            Annotated[str, Tag("<string>")] | Annotated[list[TextIn], Tag("<list>")],
            _string_or_list("text blocks"),
        ]
        | None
    ) = Field(default=None, alias="system")
    tools: list[AnyToolIn] | None = None
    tool_choice: ToolChoiceIn | None = None
    thinking: ThinkingConfigIn | None = None
    output_config: OutputConfigIn | None = None
    output_format: OutputFormatIn | None = None


class MessagesRequest(CountRequest):
    """The body of `POST /messages`; fields that are not named here have no effect."""

    max_tokens: int = Field(ge=1)
    stream: bool | None = None
    stop_sequences: list[Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, max_length=64
    )
    # Refused by name:
    thread: dict[str, Any] | None = None
    # Accepted and ignored, but a wrong type is still the caller's mistake:
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None


IGNORED = ("temperature", "top_p", "top_k", "metadata", "service_tier")
