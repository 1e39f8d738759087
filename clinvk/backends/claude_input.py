"""A turn as the lines that Claude Code reads on stdin. Pure.

Owns how roles, tool calls, texts and images become messages of the CLI; knows no process.
Observed with claude 2.1.197:

- A user line with `shouldQuery: false` is remembered, and answered by an empty result that must
  be awaited: an assistant line is taken at once, while user lines queue.
- Assistant lines without distinct message ids are merged.
- A text that begins with `/` is run as a command, unless another text block is the last one; an
  empty last block is enough, and is dropped before the request upstream.
- Blank text blocks of a user are dropped too, so a blank part is joined to its neighbour.
- The address of an image is passed on as it is; an image of more than 2000 pixels is scaled down.
- Documents, PDF and text, are passed on as they are, in a tool's result too.
- A conversation cannot end with the assistant: the CLI adds a user message `(no content)`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import count, groupby
from typing import Any

from clinvk import media
from clinvk.backends import claude_schema, claude_tools
from clinvk.backends.claude_blocks import Offer
from clinvk.errors import BadRequestError, ContextTooLongError, UnsupportedError
from clinvk.turn import (
    AudioPart,
    FilePart,
    ImagePart,
    Message,
    Part,
    PriorCall,
    Role,
    TextPart,
    Turn,
)

# What the CLI itself takes for a piped prompt. Over stream-json it would take more, and no
# model would: its largest context window, a million tokens, is about 4 MB of text.
MAX_TEXT_BYTES = 10 * 1024 * 1024

Block = dict[str, Any]
Line = dict[str, Any]

_EMPTY: Block = {"type": "text", "text": ""}
_BLANK = re.compile(r"[\s\ufeff]*")  # what JavaScript trims


@dataclass(frozen=True, slots=True)
class Step:
    """A line to send; `waits` says that its result must come before the next line."""

    line: Line
    waits: bool


@dataclass(frozen=True, slots=True)
class Script:
    """A turn for the CLI.

    The system text, what was said before, and the line that asks; the definitions of the tools,
    and the schema of the answer; and what the model may do beside talking.
    """

    instructions: str
    history: tuple[Step, ...]
    query: Line
    tools: tuple[claude_tools.Definition, ...] = ()
    schema: claude_schema.Schema | None = None
    offer: Offer = Offer()  # noqa: RUF009 - it is frozen


def check(turn: Turn) -> None:
    """Refuse a turn that the CLI cannot be given.

    Raises:
        BadRequestError: naming the message, tool or parameter at fault.
        ContextTooLongError: if its text is over the CLI's limit.
    """
    _check_size(turn)
    claude_tools.check(turn)
    if turn.format is not None:
        claude_schema.answer(turn.format.schema, "response_format")
    _check_calls(turn)
    for at, message in enumerate(turn.messages):
        for position, part in enumerate(message.parts):
            _check_part(message, part, f"messages[{at}].content[{position}]")
        spoken = message.role in {Role.USER, Role.ASSISTANT}
        if spoken and message.text and _is_blank(message.text) and not _has_media(message):
            raise BadRequestError(
                "the text is blank, which Claude models take from nobody; write something",
                param=f"messages[{at}].content",
            )
    if _is_blank(turn.instructions) and not any(map(_says_something, turn.conversation)):
        raise BadRequestError("no message has any text; write something", param="messages")


def script(turn: Turn) -> Script:
    """Return the lines of a turn that `check` has passed."""
    said = _distinct_calls([m for m in turn.conversation if _says_something(m)])
    history: list[Step] = []
    numbers = count(1)
    for by_assistant, group in groupby(said, key=lambda m: m.role is Role.ASSISTANT):
        if by_assistant:
            history += [Step(_assistant_line(next(numbers), m), waits=False) for m in group]
        else:
            # The CLI joins one user's messages to one, whether they come in one line or in many.
            blocks = [block for message in group for block in _user_blocks(message)]
            history.append(Step(_user_line(blocks, asks=False), waits=True))
    if history and history[-1].waits:
        query = dict(history.pop().line)
        del query["shouldQuery"]
    else:
        query = _user_line([], asks=True)
    asked = None if turn.format is None else claude_schema.answer(turn.format.schema, "")
    tools = claude_tools.offered(turn)
    names = frozenset(tool["name"] for tool in tools)
    offer = Offer(names, turn.parallel_calls, turn.format)
    return Script(_instructions(turn), tuple(history), query, tools, asked, offer)


def question(said: Iterable[Message]) -> Line:
    """Return the line that asks what a user says next in a conversation that goes on."""
    return _user_line([block for message in said for block in _user_blocks(message)], asks=True)


def results(said: Iterable[Message]) -> dict[str, claude_tools.Content] | None:
    """Return the results of calls by their ids, for the CLI to pass on; None if it would not.

    It writes words of its own for an empty result, puts a long one in a file, and takes images
    from tools by content only, and documents only in a history.
    """
    found = {}
    for message in said:
        blocks = _blocks(message)
        text = "".join(block.get("text", "") for block in blocks)
        shown = not _is_blank(text) or _has_media(message)
        if not shown or len(text.encode("utf-16-le", "replace")) > 2 * claude_tools.MAX_RESULT:
            return None
        if any(_only_in_history(block) for block in blocks):
            return None
        found[str(message.call_id)] = [_tool_content(block) for block in blocks]
    return found


def _only_in_history(block: Block) -> bool:
    source = block.get("source", {})
    return bool(block["type"] == "document" or source.get("type") == "url")


def _tool_content(block: Block) -> Block:
    source = block.get("source")
    if source is None:
        return block
    return {"type": "image", "data": source["data"], "mimeType": source["media_type"]}


def _instructions(turn: Turn) -> str:
    texts = (turn.instructions, claude_tools.wish(turn.tool_choice))
    return "\n\n".join(text for text in texts if not _is_blank(text))


def _says_something(message: Message) -> bool:
    return bool(message.text or message.calls or message.role is Role.TOOL or _has_media(message))


def _has_media(message: Message) -> bool:
    return any(isinstance(part, ImagePart | FilePart) for part in message.parts)


def _distinct_calls(messages: list[Message]) -> list[Message]:
    """Number the calls whose id was used before, as those of the legacy function fields are."""
    used: Counter[str] = Counter()
    current: dict[str | None, str] = {}
    distinct = []
    for message in messages:
        calls = []
        for call in message.calls:
            used[call.id] += 1
            current[call.id] = call.id if used[call.id] == 1 else f"{call.id}_{used[call.id]}"
            calls.append(replace(call, id=current[call.id]))
        call_id = current.get(message.call_id, message.call_id)
        distinct.append(replace(message, calls=tuple(calls), call_id=call_id))
    return distinct


def _user_line(blocks: list[Block], *, asks: bool) -> Line:
    line: Line = {"type": "user", "message": {"role": "user", "content": [*blocks, _EMPTY]}}
    return line if asks else {**line, "shouldQuery": False}


def _user_blocks(message: Message) -> list[Block]:
    blocks = _blocks(message)
    if message.role is not Role.TOOL:
        return blocks
    plain = len(blocks) < 2 and not _has_media(message)
    content = message.text if plain else blocks
    return [{"type": "tool_result", "tool_use_id": message.call_id, "content": content}]


def _assistant_line(number: int, message: Message) -> Line:
    calls = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _arguments(call)}
        for call in message.calls
    ]
    return {
        "type": "assistant",
        "message": {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "model": "earlier",
            "content": [*_blocks(message), *calls],
            "stop_reason": "tool_use" if calls else "end_turn",
            "usage": {"input_tokens": 0, "output_tokens": 0},
        },
    }


def _blocks(message: Message) -> list[Block]:
    blocks: list[Block] = []
    for part in message.parts:
        if isinstance(part, ImagePart):
            blocks.append(_image_block(part))
        elif isinstance(part, FilePart):
            blocks.append(_document_block(part))
        elif isinstance(part, TextPart) and part.text:
            before = blocks[-1].get("text") if blocks else None
            if before is not None and (_is_blank(before) or _is_blank(part.text)):
                blocks[-1]["text"] += part.text
            else:
                blocks.append({"type": "text", "text": part.text})
    return blocks


def _image_block(part: ImagePart) -> Block:
    if media.is_remote(part):
        return {"type": "image", "source": {"type": "url", "url": part.url}}
    image = media.read_image(part, "messages")
    source = {"type": "base64", "media_type": image.media_type, "data": image.data}
    return {"type": "image", "source": source}


def _document_block(part: FilePart) -> Block:
    document = media.read_document(part, "messages")
    if document.text is None:
        source = {"type": "base64", "media_type": media.PDF_TYPE, "data": document.data}
    else:
        source = {"type": "text", "media_type": "text/plain", "data": document.text}
    block: Block = {"type": "document", "source": source}
    return {**block, "title": part.filename} if part.filename else block


def _check_part(message: Message, part: Part, param: str) -> None:
    match part:
        case TextPart():
            return
        case AudioPart():
            raise UnsupportedError("Claude Code cannot take audio; send text", param=param)
        case _ if message.role not in {Role.USER, Role.TOOL}:
            kind = type(part).__name__.removesuffix("Part").lower()
            raise UnsupportedError(
                f"Claude takes {kind}s from the user and from tools, not from the {message.role}",
                param=param,
            )
        case ImagePart():
            if not media.is_remote(part):
                media.read_image(part, param)
        case FilePart():
            media.read_document(part, param)


def _check_size(turn: Turn) -> None:
    size = sum(len(message.text.encode("utf-8", "replace")) for message in turn.messages)
    if size > MAX_TEXT_BYTES:
        raise ContextTooLongError(
            f"the messages are {size} bytes of text, and Claude Code takes {MAX_TEXT_BYTES} "
            f"(10 MB); shorten them",
            param="messages",
        )


def _check_calls(turn: Turn) -> None:
    """Refuse what the CLI would drop or mend in silence: results and calls without the other."""
    waiting: dict[str, str] = {}
    for at, message in enumerate(turn.messages):
        if message.role is Role.TOOL:
            if message.call_id is None or waiting.pop(message.call_id, None) is None:
                raise BadRequestError(
                    f"no call of the assistant message before has the id {message.call_id!r}; "
                    f"a tool message must follow its call",
                    param=f"messages[{at}].tool_call_id",
                )
        elif message.role in {Role.USER, Role.ASSISTANT}:
            _check_answered(waiting)
            waiting = {
                call.id: f"messages[{at}].tool_calls[{number}]"
                for number, call in enumerate(message.calls)
            }
            for call in message.calls:
                _check_arguments(call, waiting[call.id])
    _check_answered(waiting)


def _check_answered(waiting: dict[str, str]) -> None:
    for call_id, param in waiting.items():
        raise BadRequestError(
            f"the call {call_id!r} has no tool message with its result after it", param=param
        )


def _arguments(call: PriorCall) -> Any:  # noqa: ANN401 - JSON
    return json.loads(call.arguments or "{}")


def _check_arguments(call: PriorCall, param: str) -> None:
    try:
        arguments = _arguments(call)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise BadRequestError(
            f"the arguments of {call.name!r} must be a JSON object", param=f"{param}.arguments"
        )


def _is_blank(text: str) -> bool:
    return _BLANK.fullmatch(text) is not None
