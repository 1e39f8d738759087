"""A turn as items of the Responses API, each message with its role and parts: pure."""

from collections.abc import Iterable
from typing import Any

from clinvk.backends.codex_tools import demand, inner_name
from clinvk.errors import ContextTooLongError, UnsupportedError
from clinvk.media import is_remote, read_document, read_image
from clinvk.turn import FilePart, ImagePart, Message, Part, Role, TextPart, Turn

# What codex takes as one input (observed with codex 0.169.0: -32602, input_too_large).
MAX_INPUT_CHARS = 1_048_576

Item = dict[str, Any]

_ROLES = {
    Role.SYSTEM: "developer",  # codex drops an item with the role system
    Role.DEVELOPER: "developer",
    Role.USER: "user",
    Role.ASSISTANT: "assistant",
}


def items(turn: Turn) -> list[Item]:
    """Return the whole conversation, in order, and last what codex can only tell in words."""
    told = message_items(turn.messages)
    if demanded := demand(turn.tool_choice):
        told.append(_message("developer", [_text("input_text", demanded)]))
    return told


def message_items(messages: Iterable[Message]) -> list[Item]:
    """Return some of a conversation, in order."""
    return [item for message in messages for item in _items(message)]


def result_content(message: Message) -> list[Item]:
    """Return a tool's result as the answer to codex's `item/tool/call`."""
    content: list[Item] = []
    for part in message.parts or (TextPart(""),):
        if isinstance(part, TextPart | FilePart):
            content.append({"type": "inputText", "text": _text_of(part)})
        elif isinstance(part, ImagePart):
            content.append({"type": "inputImage", "imageUrl": read_image(part, "").url})
    return content


def check_parts(turn: Turn) -> None:
    """Refuse content that codex cannot carry.

    Raises:
        BadRequestError: naming the part.
    """
    for at, message in enumerate(turn.messages):
        for position, part in enumerate(message.parts):
            where = f"messages[{at}].content[{position}]"
            if isinstance(part, TextPart):
                continue
            if isinstance(part, FilePart) and read_document(part, where).text is not None:
                continue
            if not isinstance(part, ImagePart):
                kind = "PDF" if isinstance(part, FilePart) else "audio"
                raise UnsupportedError(
                    f"codex cannot take {kind}; send text, text files or images", param=where
                )
            if message.role not in (Role.USER, Role.TOOL):
                raise UnsupportedError(
                    f"codex takes no images in {message.role} messages; send them as the user",
                    param=where,
                )
            if not is_remote(part):  # those are fetched before the turn is opened
                read_image(part, where)


def check_size(turn: Turn) -> None:
    """Refuse a prompt that codex would refuse.

    Raises:
        ContextTooLongError: naming the limit.
    """
    at = len(turn.messages) - 1
    if turn.messages and turn.messages[at].role is Role.USER:
        size = len(turn.messages[at].text)
        if size > MAX_INPUT_CHARS:
            raise ContextTooLongError(
                f"codex takes at most {MAX_INPUT_CHARS} characters of input; the last message "
                f"has {size}",
                param=f"messages[{at}].content",
            )


def _items(message: Message) -> list[Item]:
    if message.role is Role.TOOL:
        output = {"type": "function_call_output", "call_id": message.call_id}
        if all(isinstance(part, TextPart) for part in message.parts) and len(message.parts) < 2:
            return [{**output, "output": message.text}]
        return [{**output, "output": _content("input_text", message.parts)}]
    kind = "output_text" if message.role is Role.ASSISTANT else "input_text"
    content = _content(kind, message.parts)
    said: list[Item] = []
    # Clients send an empty text beside calls.
    if not message.calls or any(item.get("text") != "" for item in content):
        said.append(_message(_ROLES[message.role], content))
    return said + [
        {
            "type": "function_call",
            "call_id": call.id,
            "name": inner_name(call.name),
            "arguments": call.arguments,
        }
        for call in message.calls
    ]


def _message(role: str, content: list[Item]) -> Item:
    return {"type": "message", "role": role, "content": content}


def _content(kind: str, parts: tuple[Part, ...]) -> list[Item]:
    content: list[Item] = []
    for part in parts:
        if isinstance(part, TextPart | FilePart):
            content.append(_text(kind, _text_of(part)))
        elif isinstance(part, ImagePart):
            content.append({"type": "input_image", "image_url": read_image(part, "").url})
    return content


def _text_of(part: TextPart | FilePart) -> str:
    """A text, or a text file as one: to codex 0.169.0 an `input_file` is an unknown variant."""
    return part.text if isinstance(part, TextPart) else read_document(part, "").as_text or ""


def _text(kind: str, text: str) -> Item:
    return {"type": kind, "text": text}
