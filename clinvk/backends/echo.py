"""Answers with its prompt: for demos, the README and tests without any CLI."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.lowlevel

from clinvk.backends import claims
from clinvk.backends.base import Health, Processes, State
from clinvk.config import EchoConfig
from clinvk.events import Event, Finished, FinishReason, Started, TextDelta, Usage
from clinvk.turn import Role, Turn, require_text_only

_WORD = re.compile(r"\s*\S+|\s+")


class EchoBackend:
    """Streams the last user message back, word by word; its tokens are words."""

    kind = "echo"
    vendor = "clinvk"
    capabilities = claims.ECHO
    installed = True
    trouble = None
    processes = Processes()

    def __init__(self, name: str, config: EchoConfig) -> None:
        self.name = name
        self.config = config

    def check(self, turn: Turn) -> tuple[str, ...]:
        """Take text alone."""
        require_text_only(turn, self.name)
        return ("reasoning_effort",) if turn.effort else ()

    @asynccontextmanager
    async def open(self, turn: Turn, model: str | None) -> AsyncIterator[AsyncIterator[Event]]:
        """Answer with the text of the last user message."""
        yield _events(turn, model)

    async def health(self) -> Health:
        """Be ready."""
        return Health(State.READY)

    async def warm(self) -> None:
        """Need nothing."""

    def close(self) -> None:
        """Hold nothing."""


async def _events(turn: Turn, model: str | None) -> AsyncIterator[Event]:
    said = [message.text for message in turn.messages]
    answer = next((m.text for m in reversed(turn.messages) if m.role is Role.USER), said[-1])
    words = _WORD.findall(answer)
    yield Started(model)
    for word in words:
        await anyio.lowlevel.checkpoint()
        yield TextDelta(word)
    yield Usage(sum(len(_WORD.findall(text)) for text in said), len(words))
    yield Finished(FinishReason.STOP)
