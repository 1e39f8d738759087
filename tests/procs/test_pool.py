"""The pool: who gets which server, when one is retired, and how starts back off."""

import anyio
import anyio.lowlevel
import pytest

from clinvk.procs.backoff import StartBackoffError
from clinvk.procs.pool import BACKOFF_MAX_S, ServerPool
from clinvk.procs.process import ProcessStartError
from clinvk.procs.supervisor import Supervisor


class FakeServer:
    """A server that only remembers what was asked of it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.alive = True
        self.stopped = 0

    def stop_soon(self) -> None:
        self.alive = False
        self.stopped += 1


class Factory:
    """Starts fake servers, or fails as told; `go` holds a start back."""

    def __init__(self) -> None:
        self.servers: list[FakeServer] = []
        self.failure: Exception | None = None
        self.go = anyio.Event()
        self.go.set()
        self.now = 0.0

    async def start(self) -> FakeServer:
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        self.servers.append(FakeServer(len(self.servers)))
        return self.servers[-1]

    def clock(self) -> float:
        return self.now

    def pool(self, *, recycle_after: int | None = None) -> ServerPool[FakeServer]:
        return ServerPool(self.start, recycle_after=recycle_after, clock=self.clock)


async def test_leases_share_one_server() -> None:
    factory = Factory()
    pool = factory.pool()
    async with pool.lease() as first, pool.lease() as second:
        assert first is second
        assert (pool.running, pool.starts, pool.failures) == (1, 1, 0)
        assert repr(pool) == (
            "<ServerPool up, 2 leased, 2 served, 0 draining, 1 starts, 0 failures>"
        )
    assert first.stopped == 0


async def test_leases_that_come_during_a_start_wait_for_it() -> None:
    factory = Factory()
    factory.go = anyio.Event()
    pool = factory.pool()
    got: list[FakeServer] = []

    async def take() -> None:
        async with pool.lease() as server:
            got.append(server)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            factory.go.set()
    assert len(got) == 5
    assert len(factory.servers) == 1


async def test_warming_starts_a_server_once() -> None:
    factory = Factory()
    pool = factory.pool()
    await pool.warm()
    await pool.warm()
    async with pool.lease() as server:
        assert factory.servers == [server]


async def test_a_dead_server_is_replaced() -> None:
    factory = Factory()
    pool = factory.pool()
    async with pool.lease() as first:
        pass
    first.alive = False
    async with pool.lease() as second:
        assert second is not first
    assert first.stopped == 1


async def test_a_spent_server_ends_with_its_last_lease() -> None:
    factory = Factory()
    pool = factory.pool(recycle_after=2)
    async with pool.lease() as first:
        async with pool.lease() as again:
            assert again is first
            async with pool.lease() as second:
                assert second is not first
                assert "1 draining" in repr(pool)
        assert first.stopped == 0
    assert first.stopped == 1
    assert second.stopped == 0


async def test_a_spent_server_without_leases_is_stopped_when_the_next_is_wanted() -> None:
    factory = Factory()
    pool = factory.pool(recycle_after=1)
    async with pool.lease() as first:
        pass
    async with pool.lease() as second:
        assert first.stopped == 1
        assert second is not first


async def test_stopping_stops_leased_and_draining_servers() -> None:
    factory = Factory()
    pool = factory.pool(recycle_after=1)
    async with pool.lease() as draining, pool.lease() as current:
        pool.stop()
        assert (draining.stopped, current.stopped) == (1, 1)
    assert (draining.stopped, current.stopped) == (1, 1)
    assert "down" in repr(pool)


async def test_a_failed_start_is_not_tried_again_before_its_time() -> None:
    factory = Factory()
    pool = factory.pool()
    factory.failure = ProcessStartError("no such program")
    with pytest.raises(ProcessStartError, match="no such program"):
        async with pool.lease():
            pass
    with pytest.raises(StartBackoffError) as caught:
        await pool.warm()
    assert caught.value.cause is factory.failure
    assert caught.value.retry_after_s == 0.5
    factory.now += 0.5
    factory.failure = None
    async with pool.lease():
        assert "1 leased" in repr(pool)


async def test_starts_that_keep_failing_back_off_up_to_a_limit() -> None:
    factory = Factory()
    pool = factory.pool()
    factory.failure = ProcessStartError()
    waits = []
    for _ in range(9):
        with pytest.raises(ProcessStartError):
            await pool.warm()
        with pytest.raises(StartBackoffError) as caught:
            await pool.warm()
        waits.append(caught.value.retry_after_s)
        factory.now += caught.value.retry_after_s
    assert waits == [0.5, 1, 2, 4, 8, 16, BACKOFF_MAX_S, BACKOFF_MAX_S, BACKOFF_MAX_S]


async def test_why_nothing_is_started_is_told_until_a_try_is_due() -> None:
    factory = Factory()
    pool = factory.pool()
    factory.failure = ProcessStartError("no such program")
    before = pool.trouble
    with pytest.raises(ProcessStartError):
        await pool.warm()
    assert (before, pool.trouble) == (
        None,
        "it has failed to start once and is tried again in 1 s: no such program",
    )
    factory.now += 0.5
    assert pool.trouble is None
    factory.failure = None
    async with pool.lease():
        assert pool.trouble is None


async def test_a_dead_server_is_stopped_with_its_last_lease() -> None:
    factory = Factory()
    pool = factory.pool()
    async with pool.lease(), pool.lease() as server:
        server.alive = False
    assert server.stopped == 1
    assert "down" in repr(pool)


async def test_a_start_that_works_forgets_the_failures() -> None:
    factory = Factory()
    pool = factory.pool()
    factory.failure = ProcessStartError()
    with pytest.raises(ProcessStartError):
        await pool.warm()
    factory.now += 0.5
    factory.failure = None
    await pool.warm()
    assert "0 failures" in repr(pool)


async def test_a_cancelled_start_leaves_the_pool_usable() -> None:
    factory = Factory()
    factory.go = anyio.Event()
    pool = factory.pool()
    with anyio.move_on_after(0):
        await pool.warm()
    factory.go.set()
    with anyio.fail_after(5):
        async with pool.lease() as server:
            assert server.number == 0


async def test_a_server_serves_until_its_successor_is_ready() -> None:
    factory = Factory()
    async with Supervisor() as supervisor:
        pool = ServerPool(factory.start, recycle_after=2, background=supervisor.start)
        async with pool.lease() as first:
            factory.go = anyio.Event()
            for _ in range(3):
                async with pool.lease() as same:
                    assert same is first
            factory.go.set()
            with anyio.fail_after(10):
                while len(factory.servers) < 2:
                    await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            async with pool.lease() as second:
                assert second is factory.servers[1]
            assert first.stopped == 0
        assert first.stopped == 1


async def test_a_successor_that_does_not_come_up_leaves_the_old_one() -> None:
    factory = Factory()
    async with Supervisor() as supervisor:
        pool = ServerPool(factory.start, recycle_after=1, background=supervisor.start)
        await pool.warm()
        factory.failure = ProcessStartError("no")
        for _ in range(3):
            async with pool.lease() as server:
                assert server is factory.servers[0]
            await anyio.wait_all_tasks_blocked()
        assert server.stopped == 0


async def test_a_successor_that_comes_after_the_end_is_stopped() -> None:
    factory = Factory()
    async with Supervisor() as supervisor:
        pool = ServerPool(factory.start, recycle_after=1, background=supervisor.start)
        await pool.warm()
        factory.go = anyio.Event()
        async with pool.lease():
            await anyio.wait_all_tasks_blocked()
        pool.stop()
        factory.go.set()
        await anyio.wait_all_tasks_blocked()
        assert [server.stopped > 0 for server in factory.servers] == [True, True]


async def test_one_that_dies_meanwhile_is_replaced_at_once() -> None:
    factory = Factory()
    async with Supervisor() as supervisor:
        pool = ServerPool(factory.start, recycle_after=1, background=supervisor.start)
        async with pool.lease() as first:
            first.alive = False
            async with pool.lease() as second:
                assert second is not first
        await anyio.wait_all_tasks_blocked()
