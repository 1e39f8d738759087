"""A turn as items of the Responses API, each message with its role and parts: pure."""

from typing import Any

from clinvk.errors import BadRequestError, ContextTooLongError
from clinvk.turn import Message, Role, TextPart, Turn

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
    """Return the whole conversation, in order."""
    return [item for message in turn.messages for item in _items(message)]


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


def check_calls(turn: Turn) -> None:
    """Refuse a tool's result without a call before it, which codex would silently drop.

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


def _items(message: Message) -> list[Item]:
    if message.role is Role.TOOL:
        output = {"type": "function_call_output", "call_id": message.call_id}
        return [{**output, "output": message.text}]
    kind = "output_text" if message.role is Role.ASSISTANT else "input_text"
    content = [
        {"type": kind, "text": part.text} for part in message.parts if isinstance(part, TextPart)
    ]
    said: list[Item] = []
    if content or not message.calls:
        said.append({"type": "message", "role": _ROLES[message.role], "content": content})
    return said + [
        {
            "type": "function_call",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
        }
        for call in message.calls
    ]
