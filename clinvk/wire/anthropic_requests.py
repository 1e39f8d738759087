"""What a request of the Anthropic Messages API asks for, as a turn; knows no backend."""

import base64
import json
from collections.abc import Iterator
from typing import assert_never

from clinvk.errors import BadRequestError
from clinvk.turn import (
    FilePart,
    ImagePart,
    Limits,
    Message,
    OutputFormat,
    Part,
    PriorCall,
    Role,
    TextPart,
    ToolChoice,
    ToolMode,
    ToolSpec,
    Turn,
)
from clinvk.wire.anthropic_types import (
    IGNORED,
    AnyToolIn,
    Base64In,
    BlocksIn,
    CountRequest,
    DocumentIn,
    FileIn,
    ImageIn,
    MessageIn,
    MessagesRequest,
    PlainTextIn,
    RedactedThinkingIn,
    ServerToolIn,
    TextIn,
    ThinkingIn,
    ToolIn,
    ToolResultIn,
    ToolUseIn,
    UrlIn,
)

_MODES = {
    "auto": ToolMode.AUTO,
    "any": ToolMode.REQUIRED,
    "tool": ToolMode.REQUIRED,
    "none": ToolMode.NONE,
}
# A turn has no other place for it, and a model must know that its call failed.
_FAILED_RESULT = TextPart("error: ")


def turn_of(request: CountRequest) -> Turn:
    """Return the turn that a request asks for.

    Raises:
        BadRequestError: if its tools, or what it says of them, contradict each other.
    """
    tools = tuple(request.tools or ())
    _require_own_names(tools)
    own = tuple(tool for tool in tools if isinstance(tool, ToolIn))
    config = request.output_config
    form = (config and config.format) or request.output_format
    choice = request.tool_choice
    return Turn(
        model=request.model,
        messages=(*_system(request), *(m for asked in request.messages for m in _messages(asked))),
        tools=tuple(
            ToolSpec(tool.name, tool.description, tool.input_schema, bool(tool.strict))
            for tool in own
        ),
        tool_choice=_tool_choice(request, {tool.name for tool in own}),
        parallel_calls=not (choice and choice.disable_parallel_tool_use),
        format=OutputFormat(form.schema_, strict=True) if form else None,
        limits=_limits(request),
        effort=_effort(request),
        ignored=_ignored(request, tools),
    )


def _system(request: CountRequest) -> Iterator[Message]:
    """A message for each block, for a turn sets its system messages apart."""
    blocks = request.system_ or ()
    texts = (blocks,) if isinstance(blocks, str) else tuple(block.text for block in blocks)
    return (Message(Role.SYSTEM, (TextPart(text),)) for text in texts)


def _limits(request: CountRequest) -> Limits:
    if not isinstance(request, MessagesRequest):
        return Limits()
    return Limits(request.max_tokens, tuple(request.stop_sequences or ()))


def _effort(request: CountRequest) -> str | None:
    if (config := request.output_config) is not None and config.effort is not None:
        return config.effort
    thinking = request.thinking
    return "none" if thinking is not None and thinking.type == "disabled" else None


def _ignored(request: CountRequest, tools: tuple[AnyToolIn, ...]) -> tuple[str, ...]:
    unknown = sorted((request.model_extra or {}).items())
    return (
        *(name for name in IGNORED if getattr(request, name, None) is not None),
        *(name for name, value in unknown if value is not None),
        *(tool.type for tool in tools if isinstance(tool, ServerToolIn)),
    )


def _require_own_names(tools: tuple[AnyToolIn, ...]) -> None:
    seen: set[str | None] = set()
    for at, tool in enumerate(tools):
        if tool.name in seen:
            raise BadRequestError(
                f"there is more than one tool {tool.name!r}; rename one", param=f"tools[{at}].name"
            )
        seen |= {tool.name} - {None}


def _tool_choice(request: CountRequest, names: set[str]) -> ToolChoice:
    choice = request.tool_choice
    if choice is None:
        return ToolChoice()
    if choice.type == "tool" and choice.name not in names:
        raise BadRequestError(
            f"there is no tool {choice.name!r} of yours among the tools", param="tool_choice.name"
        )
    if choice.type == "any" and not names:
        raise BadRequestError("there is no tool of yours to call", param="tool_choice")
    return ToolChoice(_MODES[choice.type], choice.name if choice.type == "tool" else None)


def _messages(message: MessageIn) -> Iterator[Message]:
    """What a message holds, in order: each result is a message of its own."""
    role = Role(message.role)
    if isinstance(message.content, str):
        yield Message(role, (TextPart(message.content),))
        return
    parts: list[Part] = []
    calls: list[PriorCall] = []
    results = False
    for block in message.content:
        match block:
            case ToolResultIn():
                if parts:
                    yield Message(role, tuple(parts))
                    parts = []
                results = True
                yield _result(block)
            case ToolUseIn():
                arguments = json.dumps(block.input, ensure_ascii=False)
                calls.append(PriorCall(block.id, block.name, arguments))
            case ThinkingIn() | RedactedThinkingIn():
                pass  # no turn carries it, and no CLI would take another's
            case TextIn() | ImageIn() | DocumentIn():
                parts += _parts(block)
            case _:
                assert_never(block)
    if parts or calls or not results:
        yield Message(role, tuple(parts), tuple(calls))


def _result(block: ToolResultIn) -> Message:
    content = block.content or ()
    parts: list[Part] = [_FAILED_RESULT] if block.is_error else []
    if isinstance(content, str):
        parts.append(TextPart(content))
    else:
        parts += (part for inner in content for part in _parts(inner))
    return Message(Role.TOOL, tuple(parts), call_id=block.tool_use_id)


def _parts(block: TextIn | ImageIn | DocumentIn) -> Iterator[Part]:
    match block:
        case TextIn(text=text):
            yield TextPart(text)
        case ImageIn(source=UrlIn(url=url)):
            yield ImagePart(url=url)
        case ImageIn(source=Base64In(media_type=media_type, data=data)):
            yield ImagePart(media_type=media_type, data=data)
        case DocumentIn(source=BlocksIn(content=str(text))):
            yield TextPart(text)
        case DocumentIn(source=BlocksIn(content=list(blocks))):
            for inner in blocks:
                yield from _parts(inner)
        case DocumentIn(source=Base64In(media_type=media_type, data=data), title=title):
            yield FilePart(title, media_type, data)
        case DocumentIn(source=PlainTextIn(media_type=media_type, data=text), title=title):
            yield FilePart(title, media_type, base64.b64encode(text.encode()).decode())
        case DocumentIn(source=FileIn(file_id=file_id), title=title):
            yield FilePart(title, file_id=file_id)
