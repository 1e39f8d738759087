"""A conversation as text, for CLIs that cannot be given earlier turns as turns.

Pure. The format, told to the model in its first lines: each message is a line
`<<<KEY role>>>`, its text, and a line `<<<KEY end>>>`. KEY is the first of k0, k1, k2 … for
which no text holds `<<<KEY`, so no text can forge a mark; and it stays the same while a
conversation grows, so that a vendor's prompt cache still fits.
"""

from collections.abc import Sequence
from itertools import count

from clinvk.turn import (
    INSTRUCTION_ROLES,
    AudioPart,
    FilePart,
    ImagePart,
    Message,
    Role,
    TextPart,
    Turn,
)

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


Media = ImagePart | AudioPart | FilePart
Block = str | Media


def render(turn: Turn) -> str:
    """Return the text of the prompt of a turn.

    A single user message and nothing else is its own text, byte for byte. Otherwise every
    message stands in order between marks, system and developer messages among them.
    """
    return "".join(block for block in _whole(turn) if isinstance(block, str))


def blocks(turn: Turn) -> tuple[Block, ...]:
    """Return the prompt of a turn as the blocks of one message: texts, and media in their place.

    As `render`, but that a single user message after instructions has blocks of its own, byte
    for byte, and the instructions stand between marks in the block before them.
    """
    *before, last = turn.messages
    instructed = before and all(message.role in INSTRUCTION_ROLES for message in before)
    if instructed and last.role is Role.USER and (said := _body(last)) != [""]:
        return (*_marked(_INSTRUCTIONS, before, "\n\n", beside=last.text), *said)
    return tuple(_whole(turn))


def _whole(turn: Turn) -> list[Block]:
    if len(turn.messages) == 1 and turn.messages[0].role is Role.USER:
        return _body(turn.messages[0])
    return _marked(_CONVERSATION, turn.messages)


def _marked(
    head: str, messages: Sequence[Message], end: str = "", *, beside: str = ""
) -> list[Block]:
    pieces = [(_label(message), _body(message)) for message in messages]
    texts = [beside, *(label for label, _ in pieces)]
    texts += [block for _, body in pieces for block in body if isinstance(block, str)]
    key = next(
        key
        for key in (f"k{number}" for number in count())
        if not any(f"<<<{key}" in text for text in texts)
    )
    found: list[Block] = [head.format(key=key)]
    for label, body in pieces:
        found += [f"\n\n<<<{key} {label}>>>\n", *body, f"\n<<<{key} end>>>"]
    return _merged([*found, end])


def _label(message: Message) -> str:
    if message.role is Role.TOOL and message.call_id:
        return f"tool result {message.call_id!r}"
    return message.role.value


def _body(message: Message) -> list[Block]:
    said: list[Block] = [p.text if isinstance(p, TextPart) else p for p in message.parts]
    calls = [f"called {c.name!r} as {c.id!r} with {c.arguments}" for c in message.calls]
    between = "\n" if message.parts and calls else ""
    return _merged([*said, between + "\n".join(calls)])


def _merged(found: list[Block]) -> list[Block]:
    """Join texts that stand side by side; no text is empty, unless it is the only block."""
    merged: list[Block] = []
    for block in found:
        if isinstance(block, str) and merged and isinstance(merged[-1], str):
            merged[-1] += block
        else:
            merged.append(block)
    return [block for block in merged if block != ""] or [""]
