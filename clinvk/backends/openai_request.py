"""A turn as the body of a Chat Completions request; pure, and knows no server."""

from collections.abc import Iterable, Iterator
from typing import Any

from clinvk.media import PDF_TYPE, read_document
from clinvk.turn import (
    AudioPart,
    FilePart,
    ImagePart,
    Message,
    OutputFormat,
    Part,
    Role,
    TextPart,
    ToolChoice,
    ToolSpec,
    Turn,
)

# What every server knows; only some know the newer name of the same role.
_ROLES = {Role.DEVELOPER: "system"}


def chat_body(turn: Turn, model: str) -> dict[str, Any]:
    """Return the body that asks for a turn's answer as a stream with usage."""
    body: dict[str, Any] = {
        "model": model,
        "messages": list(_messages(turn.messages)),
        "stream": True,
        "stream_options": {"include_usage": True},
        **turn.sampling,
    }
    if turn.tools:
        body["tools"] = [_tool(tool) for tool in turn.tools]
        body["tool_choice"] = _choice(turn.tool_choice)
        if not turn.parallel_calls:
            body["parallel_tool_calls"] = False
    if turn.format is not None:
        body["response_format"] = _format(turn.format)
    if turn.limits.max_tokens is not None:
        body["max_completion_tokens"] = turn.limits.max_tokens
    if turn.effort is not None:
        body["reasoning_effort"] = turn.effort
    return body


def _messages(messages: Iterable[Message]) -> Iterator[dict[str, Any]]:
    shown: list[Part] = []  # by tools, whose messages can hold text alone
    for message in messages:
        if message.role is Role.TOOL:
            shown += [part for part in message.parts if not isinstance(part, TextPart)]
        elif shown:
            yield {"role": "user", "content": [_part(part) for part in shown]}
            shown = []
        yield _message(message)
    if shown:
        yield {"role": "user", "content": [_part(part) for part in shown]}


def _message(message: Message) -> dict[str, Any]:
    told: dict[str, Any] = {"role": _ROLES.get(message.role, message.role.value)}
    plain = message.role is not Role.USER or all(isinstance(p, TextPart) for p in message.parts)
    if (plain and len(message.parts) <= 1) or message.role is Role.TOOL:
        told["content"] = message.text
    else:
        told["content"] = [_part(part) for part in message.parts]
    if message.role is Role.TOOL:
        told["tool_call_id"] = message.call_id
    elif message.name is not None:
        told["name"] = message.name
    if message.calls:
        told["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.calls
        ]
        told["content"] = told["content"] or None
    return told


def _part(part: Part) -> dict[str, Any]:
    match part:
        case TextPart(text=text):
            return {"type": "text", "text": text}
        case ImagePart(url=str(url)):
            return {"type": "image_url", "image_url": {"url": url}}
        case ImagePart(media_type=media_type, data=data):
            url = f"data:{media_type or 'image/png'};base64,{data}"
            return {"type": "image_url", "image_url": {"url": url}}
        case AudioPart(format=form, data=data):
            return {"type": "input_audio", "input_audio": {"data": data, "format": form}}
        case FilePart():
            return _file(part)


def _file(part: FilePart) -> dict[str, Any]:
    if part.data is None:
        return {"type": "file", "file": {"file_id": part.file_id}}
    document = read_document(part, "messages")
    if document.as_text is not None:  # OpenAI's own server takes PDF alone
        return {"type": "text", "text": document.as_text}
    data = f"data:{PDF_TYPE};base64,{document.data}"
    return {"type": "file", "file": {"filename": document.name, "file_data": data}}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _choice(choice: ToolChoice) -> str | dict[str, Any]:
    if choice.name is not None:
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode.value


def _format(form: OutputFormat) -> dict[str, Any]:
    if form.schema is None:
        return {"type": "json_object"}
    schema = {"name": form.name, "schema": form.schema}
    return {
        "type": "json_schema",
        "json_schema": {**schema, "strict": True} if form.strict else schema,
    }
