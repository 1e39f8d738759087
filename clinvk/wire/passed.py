"""What must be known of a request and a reply that pass untouched: the model, the tokens. Pure."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clinvk.events import Usage

TAIL_BYTES = 64 * 1024  # of a reply that are looked through for its usage
LOOKS = 8  # at what may be it, the last first

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_USAGE = re.compile(rb'"usage"\s*:\s*(?={)')  # never within a text, where quotes are escaped


@dataclass(frozen=True, slots=True)
class Named:
    """A JSON body, the model that it asks for, and whether for a stream."""

    model: str
    streams: bool
    _text: str
    _spans: tuple[tuple[int, int], ...]

    def renamed(self, model: str) -> bytes:
        """Return the body with another model, and every other byte as it is."""
        pieces, at = [], 0
        for start, end in self._spans:
            pieces += [self._text[at:start], json.dumps(model, ensure_ascii=False)]
            at = end
        return "".join([*pieces, self._text[at:]]).encode()

    def conversation(self, caller: str) -> tuple[tuple[bytes, ...], bool]:
        """Return by what the conversation of a caller is known, and whether it was answered in.

        The closest comes first: all up to the first answer, and all up to just before. Of a
        Responses request that goes on with a kept one it is that one's id.
        """
        body = json.loads(self._text)
        if isinstance(previous := body.get("previous_response_id"), str):
            return (response_key(previous, caller),), True
        said = body.get("messages", body.get("input"))
        said = said if isinstance(said, list) else [said]
        first = next((at for at, item in enumerate(said) if _is_answer(item)), None)
        parts = [said] if first is None else [said[: first + 1], said[:first]]
        settings = body.get("instructions")
        return tuple(_digest(caller, settings, part) for part in parts), first is not None


def response_key(response_id: str, caller: str) -> bytes:
    """Return by what the conversation of a caller is known that goes on with a response."""
    return _digest(caller, "response", response_id)


def _is_answer(item: Any) -> bool:  # noqa: ANN401 - JSON
    if not isinstance(item, dict):
        return False
    return item.get("role") == "assistant" or item.get("type") in ("function_call", "reasoning")


def _digest(*whole: Any) -> bytes:  # noqa: ANN401 - JSON
    text = json.dumps(whole, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=32).digest()


_RESPONSE_ID = re.compile(rb'"id"\s*:\s*"(resp_[\w-]{1,200})"')


def response_id(begun: bytes) -> str | None:
    """Return the id of a response in the first bytes of a reply, None if there is none."""
    found = _RESPONSE_ID.search(begun)
    return None if found is None else found[1].decode()


def named(body: bytes) -> Named | None:
    """Return a body with its model; None if it is no JSON object that has one."""
    try:
        text = body.decode()
        members = [member for member in _members(text) if member[0] in ("model", "stream")]
    except (ValueError, IndexError, RecursionError):
        return None
    told = {key: value for key, value, _ in members}
    if not isinstance(model := told.get("model"), str):
        return None
    spans = tuple(span for key, _, span in members if key == "model")
    return Named(model, told.get("stream") is True, text, spans)


def _members(text: str) -> Iterator[tuple[str, Any, tuple[int, int]]]:
    """Yield each member of the object that a text is, with the place of its value.

    Raises:
        ValueError: if it is none.
        IndexError: if it ends early.
    """
    at = _expect(text, 0, "{")
    while text[at] != "}":
        if text[at] != '"':
            raise ValueError(at)
        key, at = _DECODER.raw_decode(text, at)
        start = _expect(text, at, ":")
        value, end = _DECODER.raw_decode(text, start)
        yield key, value, (start, end)
        at = _skip(text, end)
        if text[at] != "}":
            at = _expect(text, at, ",")
            if text[at] == "}":
                raise ValueError(at)
    if _skip(text, at + 1) != len(text):
        raise ValueError(at)


def _expect(text: str, at: int, mark: str) -> int:
    at = _skip(text, at)
    if text[at] != mark:
        raise ValueError(at)
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


class UsageTail:
    """Finds the usage of a reply in the last of its bytes, of whichever of OpenAI's endpoints."""

    def __init__(self) -> None:
        self._tail = bytearray()

    def push(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._tail += piece
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]

    def usage(self) -> Usage | None:
        """Return the last usage that was told, if any was."""
        found = [match.end() for match in _USAGE.finditer(self._tail)]
        for start in found[: -LOOKS - 1 : -1]:
            try:
                told, _ = _DECODER.raw_decode(self._tail[start:].decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                continue
            return _usage(told)
        return None


def _usage(told: Mapping[str, Any]) -> Usage:
    def count(group: Any, *names: str) -> int:  # noqa: ANN401 - JSON
        told = group if isinstance(group, dict) else {}
        values = (told.get(name) for name in names)
        return next((value for value in values if type(value) is int and value >= 0), 0)

    taken = told.get("prompt_tokens_details") or told.get("input_tokens_details")
    given = told.get("completion_tokens_details") or told.get("output_tokens_details")
    return Usage(
        count(told, "prompt_tokens", "input_tokens"),
        count(told, "completion_tokens", "output_tokens"),
        cached_tokens=count(taken, "cached_tokens"),
        reasoning_tokens=count(given, "reasoning_tokens"),
    )
