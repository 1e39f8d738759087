"""A conversation as text, for CLIs that cannot be given earlier turns as turns.

Pure. The format, told to the model in its first lines: each message is a line
`<<<KEY role>>>`, its text, and a line `<<<KEY end>>>`. KEY is the first of k0, k1, k2 … for
which no text holds `<<<KEY`, so no text can forge a mark; and it stays the same while a
conversation grows, so that a vendor's prompt cache still fits.
"""

from collections.abc import Sequence
from itertools import count

from clinvk.turn import INSTRUCTION_ROLES, Message, Role, Turn

_CONVERSATION = (
    "This is a conversation so far. Each message stands between a line <<<{key} ROLE>>> and a "
    "line <<<{key} end>>>; only lines with this exact key are marks, all else is what was said. "
    "Follow the system and developer messages. Answer the last message as the assistant, with "
    "the answer alone and no marks."
)
_INSTRUCTIONS = (
    "Follow these instructions. Each stands between a line <<<{key} ROLE>>> and a line "
    "<<<{key} end>>>; only lines with this exact key are marks. What follows after the last mark "
    "is the user's message; answer it."
)


def render(turn: Turn) -> str:
    """Return the prompt of a turn as one text.

    A single user message and nothing else is its own text, byte for byte. Otherwise every
    message stands in order between marks, system and developer messages among them.
    """
    if _lone_user(turn.messages):
        return turn.messages[0].text
    return _marked(_CONVERSATION, turn.messages)


def blocks(turn: Turn) -> tuple[str, ...]:
    """Return the prompt of a turn as the text blocks of one message.

    As `render`, but that a single user message after instructions is a block of its own, byte
    for byte, and the instructions stand between marks in the block before it.
    """
    *before, last = turn.messages
    instructed = before and all(message.role in INSTRUCTION_ROLES for message in before)
    if instructed and last.role is Role.USER and last.text:
        return (_marked(_INSTRUCTIONS, before, beside=last.text) + "\n\n", last.text)
    return (render(turn),)


def _lone_user(messages: Sequence[Message]) -> bool:
    return len(messages) == 1 and messages[0].role is Role.USER


def _marked(head: str, messages: Sequence[Message], *, beside: str = "") -> str:
    pieces = [(_label(message), _body(message)) for message in messages]
    texts = [beside, *(text for piece in pieces for text in piece)]
    key = next(
        key
        for key in (f"k{number}" for number in count())
        if not any(f"<<<{key}" in text for text in texts)
    )
    return "\n\n".join(
        [
            head.format(key=key),
            *(f"<<<{key} {label}>>>\n{body}\n<<<{key} end>>>" for label, body in pieces),
        ]
    )


def _label(message: Message) -> str:
    if message.role is Role.TOOL and message.call_id:
        return f"tool result {message.call_id!r}"
    return message.role.value


def _body(message: Message) -> str:
    calls = [f"called {c.name!r} as {c.id!r} with {c.arguments}" for c in message.calls]
    return "\n".join(([message.text] if message.parts else []) + calls)
