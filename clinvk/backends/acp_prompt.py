"""A turn as the blocks of a prompt for any agent of the Agent Client Protocol: pure.

Owns what an agent needs beside the transcript: media that were checked, text files as text, and
a guard before what it would take for a command.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clinvk import transcript
from clinvk.errors import BadRequestError
from clinvk.media import is_remote, read_audio, read_document, read_image
from clinvk.transcript import Block
from clinvk.turn import AudioPart, FilePart, ImagePart, Message, Part, TextPart, Turn

# Agents run a prompt that begins with "/" (gemini also "$") as a command if they know the word.
# An invisible block before it is no word of theirs, and does not change what the user said.
GUARD = "\u200b"
# What JavaScript's trim takes away, they do before they look.
_BLANK = " \t\n\v\f\r\u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(
    map(chr, range(0x2000, 0x200B))
)

_MARK = re.compile(r"between a line (<<<k\d+) ROLE>>>")


def prompt(turn: Turn, agent: str) -> tuple[Block, ...]:
    """Return the blocks of a turn's prompt; `agent` is what messages call the agent.

    Raises:
        BadRequestError: if there is nothing to ask, which agents answer as if they were asked
            about their own context, or if media are not what they should be.
    """
    blocks = transcript.blocks(with_files_as_text(turn))
    if blocks == ("",):
        raise BadRequestError(
            f"the message is empty, and {agent} has no way to send that; write something",
            param=f"messages[{len(turn.messages) - 1}].content",
        )
    return _guarded(blocks)


def mark_of(blocks: tuple[Block, ...]) -> str | None:
    """Return what every mark of a transcript begins with, None if the blocks are none."""
    found = _MARK.search(blocks[0]) if isinstance(blocks[0], str) else None
    return None if found is None else found[1]


def said_since(messages: Sequence[Message]) -> tuple[Block, ...] | None:
    """Return the blocks of what a user says in a session that goes on.

    None if there is nothing in it; a transcript can say that, a prompt cannot.
    """
    blocks: list[Block] = []
    for message in messages:
        said = transcript.blocks(with_files_as_text(Turn("", (message,))))
        if said == ("",):
            return None
        blocks += ["\n\n", *said] if blocks else said
    return _guarded(tuple(blocks))


def result_content(message: Message, forbidden: str | None = None) -> list[dict[str, Any]] | None:
    """Return a tool's result as MCP content, None if it holds what cannot be passed on as it is.

    No text may hold `forbidden`.
    """
    content: list[dict[str, Any]] = []
    [told] = with_files_as_text(Turn("", (message,))).messages
    for part in told.parts:
        match part:
            case TextPart(text):
                if forbidden is not None and forbidden in text:
                    return None
                if content and content[-1]["type"] == "text":
                    content[-1]["text"] += text
                else:
                    content.append({"type": "text", "text": text})
            case ImagePart():
                image = read_image(part, "")
                content.append({"type": "image", "mimeType": image.media_type, "data": image.data})
            case _:
                return None
    return content


def may_be_command(block: Block) -> bool:
    """Whether an agent may take a block for a command of its own."""
    return isinstance(block, str) and block.lstrip(_BLANK).startswith(("/", "$"))


def _guarded(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    return (GUARD, *blocks) if may_be_command(blocks[0]) else blocks


def with_files_as_text(turn: Turn) -> Turn:
    """Check all media, and put the text of text files where they stand."""
    messages = []
    for at, message in enumerate(turn.messages):
        parts = [
            _checked(part, f"messages[{at}].content[{position}]")
            for position, part in enumerate(message.parts)
        ]
        messages.append(replace(message, parts=tuple(parts)))
    return replace(turn, messages=tuple(messages))


def _checked(part: Part, param: str) -> Part:
    match part:
        case ImagePart():
            if not is_remote(part):  # those are fetched before the turn is opened
                read_image(part, param)
        case AudioPart():
            read_audio(part, param)
        case FilePart():
            text = read_document(part, param).as_text
            if text is not None:
                return TextPart(text)
        case TextPart():
            pass
    return part
