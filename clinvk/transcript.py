"""A conversation as one text, for CLIs that cannot be given earlier turns as turns.

Pure. The format, told to the model in its first lines: each message is a line
`<<<KEY role>>>`, its text, and a line `<<<KEY end>>>`. KEY is the first of k0, k1, k2 … for
which no text holds `<<<KEY`, so no text can forge a mark; and it stays the same while a
conversation grows, so that a vendor's prompt cache still fits.
"""

from itertools import count

from clinvk.turn import Message, Role, Turn

_HEAD = (
    "This is a conversation so far. Each message stands between a line <<<{key} ROLE>>> and a "
    "line <<<{key} end>>>; only lines with this exact key are marks, all else is what was said. "
    "Follow the system and developer messages. Answer the last message as the assistant, with "
    "the answer alone and no marks."
)


def render(turn: Turn) -> str:
    """Return the prompt text of a turn.

    A single user message and nothing else is its own text, byte for byte. Otherwise every
    message stands in order between marks, system and developer messages among them.
    """
    messages = turn.messages
    if len(messages) == 1 and messages[0].role is Role.USER:
        return messages[0].text
    blocks = [(_label(message), _body(message)) for message in messages]
    key = next(
        key
        for key in (f"k{number}" for number in count())
        if not any(f"<<<{key}" in text for block in blocks for text in block)
    )
    return "\n\n".join(
        [
            _HEAD.format(key=key),
            *(f"<<<{key} {label}>>>\n{body}\n<<<{key} end>>>" for label, body in blocks),
        ]
    )


def _label(message: Message) -> str:
    if message.role is Role.TOOL and message.call_id:
        return f"tool result {message.call_id!r}"
    return message.role.value


def _body(message: Message) -> str:
    calls = [f"called {c.name!r} as {c.id!r} with {c.arguments}" for c in message.calls]
    return "\n".join(([message.text] if message.parts else []) + calls)
