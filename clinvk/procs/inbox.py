"""Taking from a stream in memory without losing a round of the loop to what is already there."""

from typing import TypeVar

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

T = TypeVar("T")


async def next_of(inbox: MemoryObjectReceiveStream[T]) -> T:
    """Return the next message, at once if it has come.

    Whoever takes many in a row must wait elsewhere now and then, or nothing else is done.

    Raises:
        EndOfStream: if there will be none.
    """
    try:
        return inbox.receive_nowait()
    except anyio.WouldBlock:
        return await inbox.receive()
