"""Server-sent events as bytes (WHATWG HTML, section 9.2)."""

import json
from collections.abc import Iterable, Mapping

from clinvk.wire.base import Frame

# A comment: every client ignores it, while any data that is not JSON breaks them.
KEEP_ALIVE = b": keep-alive\n\n"
DONE = Frame("[DONE]")

_encode = json.JSONEncoder(separators=(",", ":")).encode


def encode(frames: Iterable[Frame]) -> bytes:
    """Return the frames as they go on the wire; their data must not hold newlines."""
    return "".join(
        f"event: {frame.event}\ndata: {frame.data}\n\n"
        if frame.event
        else f"data: {frame.data}\n\n"
        for frame in frames
    ).encode()


def comments(headers: Mapping[str, str]) -> bytes:
    """Return as comments what came too late for the headers."""
    return "".join(f": {name}: {value}\n\n" for name, value in headers.items()).encode()


def dumps(value: object) -> str:
    """Return a value as the JSON of a frame, without a space.

    It is ASCII only: U+2028 and its like split lines in clients that use str.splitlines.
    """
    return _encode(value)
