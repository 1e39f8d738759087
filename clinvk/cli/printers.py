"""An answer on stdout for a program: plain text or JSON. For a person, see markdown.py."""

import os
import select
import stat
import sys
from typing import Protocol

import anyio

from clinvk.cli.common import as_json
from clinvk.events import Event, TextDelta
from clinvk.wire.openai_chat import ChatEncoder


class Printer(Protocol):
    """Shows a turn's events."""

    async def show(self, event: Event) -> None:
        """Take the next event.

        Raises:
            BrokenPipeError: if nobody reads stdout any more.
        """

    async def end(self, *, complete: bool) -> None:
        """Finish what was shown; `complete` is false if the turn failed or was interrupted."""


class PlainPrinter:
    """The answer's text and nothing else, as it comes or (`stream` false) once it is complete."""

    def __init__(self, *, stream: bool) -> None:
        self._stream = stream
        self._held: list[str] = []
        self._last = "\n"

    async def show(self, event: Event) -> None:
        """Write the text of an event, if it has any."""
        if isinstance(event, TextDelta) and event.text:
            self._last = event.text[-1]
            if self._stream:
                await write(event.text)
            else:
                self._held.append(event.text)

    async def end(self, *, complete: bool) -> None:
        """Write what was held back, and a newline if the text has none at its end."""
        newline = "" if self._last == "\n" else "\n"
        if self._stream:
            await write(newline)
        elif complete:
            await write("".join([*self._held, newline]))


class JsonPrinter:
    """The `chat.completion` object, once it is complete."""

    def __init__(self, model: str) -> None:
        self._encoder = ChatEncoder(model)

    async def show(self, event: Event) -> None:
        """Take the event into the object."""
        self._encoder.feed(event)

    async def end(self, *, complete: bool) -> None:
        """Write the object."""
        if complete:
            await write(as_json(self._encoder.result()) + "\n")


async def write(text: str) -> None:
    """Write UTF-8 text to stdout, at once.

    A pipe is waited for, not blocked on: signals must still be heard while its reader is slow.

    Raises:
        BrokenPipeError: if nobody reads stdout any more.
    """
    data = memoryview(text.encode("utf-8", "replace"))
    pipe = _stdout_pipe()
    if pipe is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    while data:
        await anyio.wait_writable(pipe)
        # A writable pipe takes this many bytes without blocking.
        data = data[os.write(pipe, data[: select.PIPE_BUF]) :]


def _stdout_pipe() -> int | None:
    try:
        number = sys.stdout.fileno()
        mode = os.fstat(number).st_mode
    except OSError:
        return None
    return number if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None
