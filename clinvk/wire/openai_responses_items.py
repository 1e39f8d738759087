"""The items of the OpenAI Responses API: as messages of a turn, and as they are kept and listed.

Items without effect here (reasoning, calls of custom and hosted tools) become neither.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, assert_never

from clinvk.errors import BadRequestError
from clinvk.turn import AudioPart, FilePart, ImagePart, Message, Part, PriorCall, Role, TextPart
from clinvk.wire.openai_responses_names import Place
from clinvk.wire.openai_responses_types import (
    AudioPartIn,
    ContentIn,
    FilePartIn,
    FunctionCallIn,
    FunctionCallOutputIn,
    ImagePartIn,
    ItemIn,
    ItemReferenceIn,
    MessageIn,
    OtherItemIn,
    PartIn,
    RefusalPartIn,
    TextPartIn,
)

Item = dict[str, Any]


def messages_of(items: Iterable[tuple[ItemIn, str]]) -> tuple[list[Message], list[Place]]:
    """Return the messages of items, each given with its path, and where they come from.

    What the assistant said and then called, with nothing between, is one message.

    Raises:
        BadRequestError: naming the part that nothing can carry.
    """
    messages: list[Message] = []
    places: list[Place] = []
    for item, path in items:
        match item:
            case MessageIn():
                place = Place(path, f"{path}.content")
                messages.append(Message(Role(item.role), _parts(item.content, place.content)))
                places.append(place)
            case FunctionCallIn():
                call = PriorCall(item.call_id, item.name, item.arguments)
                if not (messages and messages[-1].role is Role.ASSISTANT):
                    messages.append(Message(Role.ASSISTANT))
                    places.append(Place(path, path))
                messages[-1] = replace(messages[-1], calls=(*messages[-1].calls, call))
                places[-1] = replace(places[-1], calls=(*places[-1].calls, path))
            case FunctionCallOutputIn():
                place = Place(path, f"{path}.output")
                parts = _parts(item.output, place.content)
                messages.append(Message(Role.TOOL, parts, call_id=item.call_id))
                places.append(place)
            case ItemReferenceIn() | OtherItemIn():
                pass
            case _:
                assert_never(item)
    return messages, places


def _parts(content: ContentIn, path: str) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    return tuple(_part(part, f"{path}[{at}]") for at, part in enumerate(content))


def _part(part: PartIn, path: str) -> Part:
    match part:
        case TextPartIn():
            return TextPart(part.text)
        case RefusalPartIn():
            return TextPart(part.refusal)
        case ImagePartIn(image_url=None, file_id=None):
            raise BadRequestError(
                "an image must have an image_url (an address or a data URL) or a file_id",
                param=f"{path}.image_url",
            )
        case ImagePartIn():
            return ImagePart(url=part.image_url, file_id=part.file_id)
        case FilePartIn(file_data=None, file_id=None):
            raise BadRequestError(
                "a file must have its content as file_data, or a file_id; it is not fetched",
                param=f"{path}.file_data",
            )
        case FilePartIn():
            return FilePart(part.filename, None, part.file_data, part.file_id)
        case AudioPartIn():
            return AudioPart(part.input_audio.format, part.input_audio.data)
        case _:
            assert_never(part)


def kept_items(items: Iterable[ItemIn], earlier: Iterable[Item] = ()) -> list[Item]:
    """Return the items as the API lists them, each with an id; those without effect are left out.

    What is returned can be sent again as input. An item that has no id gets one made of what it
    says, so that a history that is sent again and again is kept once; it is not that of any
    `earlier` item, nor of another of these.
    """
    taken = {item["id"] for item in earlier}
    kept: list[Item] = []
    for item in items:
        match item:
            case MessageIn():
                prefix = "msg"
                body: Item = {
                    "type": "message",
                    "status": "completed",
                    "role": item.role,
                    "content": _kept_content(item.content, item.role),
                }
            case FunctionCallIn():
                prefix = "fc"
                body = {
                    "type": "function_call",
                    "status": "completed",
                    "call_id": item.call_id,
                    "name": item.name,
                    "arguments": item.arguments,
                }
            case FunctionCallOutputIn(output=output):
                prefix = "fco"
                body = {
                    "type": "function_call_output",
                    "status": "completed",
                    "call_id": item.call_id,
                    "output": output if isinstance(output, str) else _kept_content(output, "tool"),
                }
            case ItemReferenceIn() | OtherItemIn():
                continue
            case _:
                assert_never(item)
        kept.append({"id": item.id or _new_id(prefix, body, taken), **body})
        taken.add(kept[-1]["id"])
    return kept


def _new_id(prefix: str, body: Item, taken: set[str]) -> str:
    said = hashlib.sha256(json.dumps(body, sort_keys=True).encode())
    made = f"{prefix}_{said.hexdigest()[:32]}"
    while made in taken:
        said.update(b"again")
        made = f"{prefix}_{said.hexdigest()[:32]}"
    return made


def _kept_content(content: ContentIn, role: str) -> list[Item]:
    if isinstance(content, str):
        content = [TextPartIn(type="input_text", text=content)]
    return [_kept_part(part, role) for part in content]


def _kept_part(part: PartIn, role: str) -> Item:
    match part:
        case TextPartIn(text=text) if role == "assistant":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        case TextPartIn(text=text):
            return {"type": "input_text", "text": text}
        case RefusalPartIn(refusal=text) if role != "assistant":
            return {"type": "input_text", "text": text}
        case ImagePartIn():
            return {"detail": "auto", **part.model_dump(exclude_none=True)}
        case RefusalPartIn() | FilePartIn() | AudioPartIn():
            return part.model_dump(exclude_none=True)
        case _:
            assert_never(part)
