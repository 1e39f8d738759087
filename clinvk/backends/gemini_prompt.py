"""A turn as the blocks of a prompt for Gemini CLI: pure.

Owns what the CLI needs beside the transcript: media that were checked, text files as text, and
a guard before what it would take for a command.
"""

from dataclasses import replace

from clinvk import transcript
from clinvk.errors import BadRequestError
from clinvk.media import is_remote, read_audio, read_document, read_image
from clinvk.transcript import Block
from clinvk.turn import AudioPart, FilePart, ImagePart, Part, TextPart, Turn

# gemini runs a prompt that begins with "/" or "$" as a command if it knows the word. An invisible
# block before it is no word of gemini's, and does not change what the user said.
GUARD = "\u200b"
# What JavaScript's trim takes away, gemini does before it looks.
_BLANK = " \t\n\v\f\r\u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(
    map(chr, range(0x2000, 0x200B))
)


def prompt(turn: Turn) -> tuple[Block, ...]:
    """Return the blocks of a turn's prompt.

    Raises:
        BadRequestError: if there is nothing to ask, which gemini answers as if it were asked
            about its own context, or if media are not what they should be.
    """
    blocks = transcript.blocks(_with_files_as_text(turn))
    if blocks == ("",):
        raise BadRequestError(
            "the message is empty, and gemini has no way to send that; write something",
            param=f"messages[{len(turn.messages) - 1}].content",
        )
    first = blocks[0]
    if isinstance(first, str) and first.lstrip(_BLANK).startswith(("/", "$")):
        return (GUARD, *blocks)
    return blocks


def _with_files_as_text(turn: Turn) -> Turn:
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
