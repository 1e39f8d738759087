"""A request in no dialect: who said what, and under which limits.

Roles and parts are kept as sent; a backend decides how to carry them, or refuses by name.
Standard library only.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from clinvk.errors import BadRequestError, UnsupportedError


class Role(StrEnum):
    """Who speaks. The legacy `function` role arrives as `TOOL`."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class TextPart:
    """Plain text, byte for byte as sent."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image by address (`url`, http or https), by content (`data`, base64) or by file id."""

    url: str | None = None
    media_type: str | None = None
    data: str | None = None
    file_id: str | None = None


@dataclass(frozen=True, slots=True)
class AudioPart:
    """Sound; `format` as the caller named it (wav, mp3), `data` base64."""

    format: str
    data: str


@dataclass(frozen=True, slots=True)
class FilePart:
    """A document by content (`data`, base64) or by the id of an uploaded file."""

    filename: str | None = None
    media_type: str | None = None
    data: str | None = None
    file_id: str | None = None


Part = TextPart | ImagePart | AudioPart | FilePart


@dataclass(frozen=True, slots=True)
class PriorCall:
    """A tool call that the assistant made earlier; `arguments` is a JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `call_id` ties a tool's result to the call it answers."""

    role: Role
    parts: tuple[Part, ...] = ()
    calls: tuple[PriorCall, ...] = ()
    call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """The text parts, joined as they stand."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A function of the caller's that the model may ask for; `parameters` is a JSON Schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False


class ToolMode(StrEnum):
    """Whether the model may, must or must not call a tool."""

    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """What the caller wants called; with `name` the mode is `REQUIRED`."""

    mode: ToolMode = ToolMode.AUTO
    name: str | None = None


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """That the answer must be JSON: of this JSON Schema, or any object if it is None."""

    schema: dict[str, Any] | None = None
    name: str = "answer"
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Where the answer is cut: at `max_tokens` tokens, or before the first of `stop`."""

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """One request for one answer.

    `model` is the id the caller asked for. `effort` is none, minimal, low, medium, high, xhigh
    or max. `choices` is how many answers the caller wants; each is a turn of its own.
    `ignored` names the request fields that were accepted and have no effect; those in `sampling`,
    which are named as in Chat Completions, have one where the backend can pass them on.
    """

    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_calls: bool = True
    format: OutputFormat | None = None
    limits: Limits = field(default_factory=Limits)
    effort: str | None = None
    choices: int = 1
    ignored: tuple[str, ...] = ()
    sampling: dict[str, float] = field(default_factory=dict, compare=False)

    @property
    def instructions(self) -> str:
        """The text of all system and developer messages, in order, a blank line between."""
        return "\n\n".join(
            message.text for message in self.messages if message.role in INSTRUCTION_ROLES
        )

    @property
    def conversation(self) -> tuple[Message, ...]:
        """All messages but the system and developer ones."""
        return tuple(m for m in self.messages if m.role not in INSTRUCTION_ROLES)


INSTRUCTION_ROLES = frozenset({Role.SYSTEM, Role.DEVELOPER})


def require_text_only(turn: Turn, backend: str) -> None:
    """Refuse what a backend that carries only text cannot represent.

    Raises:
        UnsupportedError: naming the first part or parameter at fault.
    """
    require_no_tools(turn, backend)
    if turn.format is not None:
        raise UnsupportedError(
            f"{backend!r} cannot promise JSON yet; ask for it in the prompt",
            param="response_format",
        )
    for at, message in enumerate(turn.messages):
        for position, part in enumerate(message.parts):
            if not isinstance(part, TextPart):
                kind = type(part).__name__.removesuffix("Part").lower()
                raise UnsupportedError(
                    f"{backend!r} cannot take {kind} parts yet; send text",
                    param=f"messages[{at}].content[{position}]",
                )


def require_no_tools(turn: Turn, backend: str) -> None:
    """Refuse tools, for a backend that cannot offer them.

    Raises:
        UnsupportedError: naming the parameter.
    """
    if turn.tools:
        raise UnsupportedError(f"{backend!r} cannot offer tools to its model yet", param="tools")


def require_known_calls(turn: Turn) -> None:
    """Refuse a tool's result without a call before it.

    Raises:
        BadRequestError: naming the message.
    """
    called: set[str] = set()
    for at, message in enumerate(turn.messages):
        called.update(call.id for call in message.calls)
        if message.role is Role.TOOL and message.call_id not in called:
            raise BadRequestError(
                f"no earlier message called a tool as {message.call_id!r}; send the assistant "
                "message with that call before its result",
                param=f"messages[{at}].tool_call_id",
            )
