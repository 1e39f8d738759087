"""Taking what has come."""

import anyio
import pytest

from clinvk.procs.inbox import next_of


async def test_what_has_come_is_taken_and_what_has_not_is_waited_for() -> None:
    send, receive = anyio.create_memory_object_stream[int](2)
    with send, receive:
        send.send_nowait(1)
        with anyio.CancelScope() as scope:
            scope.cancel()
            assert await next_of(receive) == 1  # without a wait
        async with anyio.create_task_group() as group:
            group.start_soon(send.send, 2)
            assert await next_of(receive) == 2
        send.close()
        with pytest.raises(anyio.EndOfStream):
            await next_of(receive)
