"""What a request of the Anthropic Messages API asks for, as a turn; knows no backend."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
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
from clinvk.wire.anthropic_names import Names, Place
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
from clinvk.wire.body import sampling

_MODES = {
    "auto": ToolMode.AUTO,
    "any": ToolMode.REQUIRED,
    "tool": ToolMode.REQUIRED,
    "none": ToolMode.NONE,
}
_Placed = tuple[Message, Place]
_PlacedPart = tuple[Part, str]

# A turn has no other place for it, and a model must know that its call failed.
_FAILED_RESULT = TextPart("error: ")


def understand(request: CountRequest) -> tuple[Turn, Names]:
    """Return the turn that a request asks for, and what the turn's parts are called in it.

    Raises:
        BadRequestError: if its tools, or what it says of them, contradict each other.
    """
    tools = tuple(request.tools or ())
    _require_own_names(tools)
    own = {at: tool for at, tool in enumerate(tools) if isinstance(tool, ToolIn)}
    config = request.output_config
    form = (config and config.format) or request.output_format
    choice = request.tool_choice
    placed = list(_system(request))
    for at, asked in enumerate(request.messages):
        placed += _messages(asked, f"messages[{at}]")
    turn = Turn(
        model=request.model,
        messages=tuple(message for message, _ in placed),
        tools=tuple(
            ToolSpec(tool.name, tool.description, tool.input_schema, bool(tool.strict))
            for tool in own.values()
        ),
        tool_choice=_tool_choice(request, {tool.name for tool in own.values()}),
        parallel_calls=not (choice and choice.disable_parallel_tool_use),
        format=OutputFormat(form.schema_, strict=True) if form else None,
        limits=_limits(request),
        effort=_effort(request),
        ignored=_ignored(request, tools),
        sampling=sampling(request),
    )
    old = request.output_format is not None and not (config and config.format)
    named_form = "output_format" if old else "output_config.format"
    return turn, Names(tuple(place for _, place in placed), tuple(own), named_form)


def _system(request: CountRequest) -> Iterator[_Placed]:
    """A message for each block, for a turn sets its system messages apart."""
    blocks = request.system_ or ()
    if isinstance(blocks, str):
        yield _text_message(Role.SYSTEM, blocks, "system", "system")
        return
    for at, block in enumerate(blocks):
        yield _text_message(Role.SYSTEM, block.text, f"system[{at}]", f"system[{at}].text")


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


def _text_message(role: Role, text: str, path: str, content: str) -> _Placed:
    return Message(role, (TextPart(text),)), Place(path, content, (content,))


def _messages(message: MessageIn, path: str) -> Iterator[_Placed]:
    """What a message holds, in order: each result is a message of its own."""
    role, inside = Role(message.role), f"{path}.content"
    if isinstance(message.content, str):
        yield _text_message(role, message.content, path, inside)
        return
    parts: list[_PlacedPart] = []
    calls: dict[str, PriorCall] = {}
    results = False
    for at, block in enumerate(message.content):
        here = f"{inside}[{at}]"
        match block:
            case ToolResultIn():
                if parts:
                    yield _with_parts(role, parts, Place(path, inside))
                    parts = []
                results = True
                yield _result(block, here)
            case ToolUseIn():
                arguments = json.dumps(block.input, ensure_ascii=False)
                calls[here] = PriorCall(block.id, block.name, arguments)
            case ThinkingIn() | RedactedThinkingIn():
                pass  # no turn carries it, and no CLI would take another's
            case TextIn() | ImageIn() | DocumentIn():
                parts += _parts(block, here)
            case _:
                assert_never(block)
    if parts or calls or not results:
        place = Place(path, inside, calls=tuple(calls))
        yield _with_parts(role, parts, place, calls=tuple(calls.values()))


def _with_parts(
    role: Role,
    parts: list[_PlacedPart],
    place: Place,
    *,
    calls: tuple[PriorCall, ...] = (),
    call_id: str | None = None,
) -> _Placed:
    message = Message(role, tuple(part for part, _ in parts), calls, call_id=call_id)
    return message, replace(place, parts=tuple(path for _, path in parts))


def _result(block: ToolResultIn, path: str) -> _Placed:
    content, inside = block.content or (), f"{path}.content"
    parts: list[_PlacedPart] = [(_FAILED_RESULT, path)] if block.is_error else []
    if isinstance(content, str):
        parts.append((TextPart(content), inside))
    else:
        for at, inner in enumerate(content):
            parts += _parts(inner, f"{inside}[{at}]")
    return _with_parts(Role.TOOL, parts, Place(path, inside), call_id=block.tool_use_id)


def _parts(block: TextIn | ImageIn | DocumentIn, path: str) -> Iterator[_PlacedPart]:
    match block:
        case TextIn(text=text):
            yield TextPart(text), path
        case ImageIn(source=UrlIn(url=url)):
            yield ImagePart(url=url), path
        case ImageIn(source=FileIn(file_id=file_id)):
            yield ImagePart(file_id=file_id), path
        case ImageIn(source=Base64In(media_type=media_type, data=data)):
            yield ImagePart(media_type=media_type, data=data), path
        case DocumentIn(source=BlocksIn(content=str(text))):
            yield TextPart(text), f"{path}.source.content"
        case DocumentIn(source=BlocksIn(content=list(blocks))):
            for at, inner in enumerate(blocks):
                yield from _parts(inner, f"{path}.source.content[{at}]")
        case DocumentIn(source=Base64In(media_type=media_type, data=data), title=title):
            yield FilePart(title, media_type, data), path
        case DocumentIn(source=PlainTextIn(media_type=media_type, data=text), title=title):
            data = base64.b64encode(text.encode()).decode()
            yield FilePart(title, media_type, data), path
        case DocumentIn(source=FileIn(file_id=file_id), title=title):
            yield FilePart(title, file_id=file_id), path
