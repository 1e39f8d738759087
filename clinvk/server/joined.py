"""Several turns of one request, told as one stream; owns no process."""

import asyncio
from typing import Self

from clinvk.service import Item, Service, Stream
from clinvk.wire.base import Parsed


class Joined:
    """The streams of several turns as they come, their choices numbered through.

    `close` stops what still runs, as that of a `Stream`.
    """

    def __init__(self) -> None:
        self._streams: list[Stream] = []
        self._tasks: list[asyncio.Task[None]] = []
        # One place: a slow reader slows the turns, as it does with a single one.
        self._items: asyncio.Queue[Item | None] = asyncio.Queue(1)
        self._open = 0

    @property
    def backend(self) -> str:
        """The backend of them all, for the model is one."""
        return self._streams[0].backend

    @property
    def ignored(self) -> tuple[str, ...]:
        """The ignored fields, which are those of the request."""
        return self._streams[0].ignored

    def add(self, stream: Stream, first_choice: int) -> None:
        """Take a stream in, whose choices are numbered from `first_choice`."""
        self._streams.append(stream)
        self._tasks.append(asyncio.create_task(self._forward(stream, first_choice)))
        self._open += 1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        while self._open:
            item = await self._items.get()
            if item is not None:
                return item
            self._open -= 1
        raise StopAsyncIteration

    def close(self) -> None:
        """Stop every turn that still runs; returns at once."""
        for stream in self._streams:
            stream.close()
        for task in self._tasks:
            task.cancel()

    async def _forward(self, stream: Stream, first_choice: int) -> None:
        async for choice, event in stream:
            await self._items.put((first_choice + choice, event))
        await self._items.put(None)


def start(service: Service, parsed: Parsed) -> Stream | Joined:
    """Start what a request asks for, all of it or nothing.

    Raises:
        ClinvkError: if a turn of it cannot be run.
    """
    if not parsed.more:
        return service.start(parsed.turn)
    joined = Joined()
    choices = 0
    try:
        for turn in (parsed.turn, *parsed.more):
            joined.add(service.start(turn), choices)
            choices += turn.choices
    except BaseException:
        joined.close()
        raise
    return joined
