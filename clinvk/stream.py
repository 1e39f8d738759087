"""What a reader holds of a turn that runs, or of choices that run together; owns no process."""

from collections.abc import Iterator
from typing import Self

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from clinvk.conversations import Course
from clinvk.errors import ShuttingDownError
from clinvk.events import Failed, Finished
from clinvk.routing import Way
from clinvk.telling import Ask, Item

BUFFERED_EVENTS = 64  # a reader further behind than this slows its own turn, and no other


class Stream:
    """The events of a turn as they come, each with the number of the choice it belongs to.

    Every choice ends by a `Finished` or a `Failed`. `close` stops what still runs.
    """

    def __init__(self, way: Way, choices: int, receive: MemoryObjectReceiveStream[Item]) -> None:
        self.asks: list[Ask] = []
        self._way = way
        self._open = set(range(choices))
        self._receive = receive

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        try:
            choice, event = await self._receive.receive()
        except anyio.EndOfStream:
            if not self._open:
                self._receive.close()
                raise StopAsyncIteration from None
            # Only a pump that was cancelled leaves without a word.
            choice, event = self._open.pop(), Failed(ShuttingDownError("the server is stopping"))
        if isinstance(event, Finished | Failed):
            self._open.discard(choice)
        return choice, event

    def ready(self) -> Iterator[Item]:
        """Yield what has come already, without waiting for more."""
        while True:
            try:
                choice, event = self._receive.receive_nowait()
            except (anyio.WouldBlock, anyio.EndOfStream):
                return
            if isinstance(event, Finished | Failed):
                self._open.discard(choice)
            yield choice, event

    @property
    def course(self) -> Course:
        """How the turn came about; certain once its first event has come."""
        return self.asks[0].course

    @property
    def settled(self) -> bool:
        """Whether it is certain who answers."""
        return not self._way.more or any(ask.begun or ask.ended.is_set() for ask in self.asks)

    @property
    def backend(self) -> str:
        """Who is asked; certain once `settled`. Several if choices had to part."""
        return ", ".join(dict.fromkeys(ask.backend for ask in self.asks))

    @property
    def ignored(self) -> tuple[str, ...]:
        """The request's fields that have no effect on who is asked."""
        return tuple(dict.fromkeys(name for ask in self.asks for name in ask.ignored))

    def close(self) -> None:
        """Stop every choice that still runs; returns at once."""
        for ask in self.asks:
            ask.abandon()
        self._receive.close()
