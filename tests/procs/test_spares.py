"""How many processes are started ahead, and for how long they wait."""

import anyio
import anyio.lowlevel
import pytest

from clinvk.procs.spares import AFFORD_S, BACKOFF_FIRST_S, CALM_S, Limits, Spares
from clinvk.procs.supervisor import Supervisor

HUNG_S = 10  # a guard against hanging tests, not a measure


class Spare:
    def __init__(self, key: str) -> None:
        self.key = key
        self.alive = True
        self.stopped = False

    def stop_soon(self) -> None:
        self.alive = False
        self.stopped = True


class World:
    """Spares with a clock of their own; a step is done when the test says so."""

    def __init__(self, *, least: int = 1, most: int = 4, **limits: float) -> None:
        self.now = 0.0
        self.made: list[Spare] = []
        self.taken: list[Spare] = []
        self.fault: Exception | None = None
        self.rich = True
        self.spares: Spares[str, Spare] = Spares(
            self._start,
            Limits(least, most, **limits),
            afford=lambda: self.rich,
            clock=lambda: self.now,
        )

    async def _start(self, key: str) -> Spare:
        if self.fault is not None:
            raise self.fault
        self.made.append(Spare(key))
        return self.made[-1]

    @property
    def waiting(self) -> list[str]:
        return [s.key for s in self.made if not s.stopped and s not in self.taken]

    async def take(self, key: str = "a") -> Spare | None:
        spare = await self.spares.take(key)
        self.taken += [] if spare is None else [spare]
        return spare

    async def settle(self) -> float:
        """Step until nothing is left to do; return when to look again."""
        for _ in range(20):
            plan = await self.spares.step()
            if plan.start is None or self.fault is not None:
                return plan.look_in_s
        raise AssertionError("it never settles")


async def test_a_kind_that_is_expected_has_its_spare() -> None:
    world = World()
    assert await world.take() is None
    world.spares.expect("a")
    assert await world.settle() == 1800
    assert world.waiting == ["a"]
    assert repr(world.spares) == "<Spares 1/4 waiting, 1 kinds>"
    assert await world.take() is world.made[0]
    await world.settle()
    assert world.waiting == ["a"]


async def test_who_asks_for_the_unknown_starts_nothing() -> None:
    world = World()
    await world.take("made up by a client")
    await world.settle()
    assert world.made == []
    assert repr(world.spares) == "<Spares 0/4 waiting, 0 kinds>"


async def test_a_burst_makes_for_more_and_calm_for_fewer() -> None:
    world = World()
    world.spares.expect("a")
    await world.settle()
    for _ in range(3):
        await world.take()
    assert await world.settle() == CALM_S
    assert world.waiting == ["a"] * 3
    for expected in (2, 1):
        world.now += CALM_S
        await world.settle()
        assert world.waiting == ["a"] * expected


async def test_no_more_than_the_bound_wait() -> None:
    world = World(most=2)
    world.spares.expect("a")
    for _ in range(5):
        await world.take()
    await world.settle()
    assert world.waiting == ["a", "a"]


async def test_of_several_kinds_the_one_asked_for_last_has_its_spare() -> None:
    world = World(most=1)
    for key in ("a", "b"):
        world.now += 1
        world.spares.expect(key)
        await world.settle()
        assert world.waiting == [key]
    world.now += 1
    await world.take("a")
    world.spares.expect("a")
    await world.settle()
    assert world.waiting == ["a"]


async def test_a_kind_that_has_all_makes_room_for_no_more_of_its_own() -> None:
    world = World(most=2)
    for key in ("a", "b"):
        world.spares.expect(key)
        await world.settle()
    world.now += 1
    await world.take("b")
    await world.take("b")
    await world.settle()
    assert sorted(world.waiting) == ["a", "b"]


async def test_who_died_is_not_handed_out() -> None:
    world = World()
    world.spares.expect("a")
    await world.settle()
    world.made[0].alive = False
    assert await world.take() is None
    await world.settle()
    assert len(world.waiting) == 2
    world.made[1].alive = False
    await world.settle()
    assert world.made[1].stopped
    assert len(world.waiting) == 2


async def test_a_spare_does_not_grow_old() -> None:
    world = World(max_age_s=10)
    world.spares.expect("a")
    assert await world.settle() == 10
    world.now = 10
    await world.settle()
    assert [spare.stopped for spare in world.made] == [True, False]


async def test_a_kind_nobody_asks_for_is_forgotten() -> None:
    world = World(forget_s=5)
    world.spares.expect("a")
    assert await world.settle() == 5
    world.now = 5
    assert await world.settle() == float("inf")
    assert world.waiting == []
    assert repr(world.spares) == "<Spares 0/4 waiting, 0 kinds>"


async def test_a_start_that_fails_is_tried_less_and_less() -> None:
    world = World()
    world.fault = OSError("no")
    world.spares.expect("a")
    for failures in range(3):
        await world.spares.step()
        plan = await world.spares.step()
        assert plan.start is None
        assert plan.look_in_s == BACKOFF_FIRST_S * 2**failures
        world.now += plan.look_in_s
    world.fault = None
    await world.settle()
    assert world.waiting == ["a"]


async def test_nothing_is_started_without_memory() -> None:
    world = World()
    world.rich = False
    world.spares.expect("a")
    assert await world.settle() == AFFORD_S
    assert world.made == []


async def test_a_keeper_works_until_it_is_closed() -> None:
    world = World()
    async with Supervisor() as supervisor:
        job = supervisor.start(world.spares.keep)
        world.spares.expect("a")
        with anyio.fail_after(HUNG_S):
            while world.waiting != ["a"]:
                await anyio.lowlevel.checkpoint()
            world.spares.close()
            await job.wait()
    assert world.waiting == []
    world.spares.expect("a")
    assert await world.take() is None


class Slow:
    """Starts one spare, when told to."""

    def __init__(self) -> None:
        self.started = anyio.Event()
        self.go = anyio.Event()
        self.spare = Spare("a")
        self.spares: Spares[str, Spare] = Spares(self._start, Limits(1, 1))

    async def _start(self, _: str) -> Spare:
        self.started.set()
        await self.go.wait()
        return self.spare


async def test_one_that_comes_up_too_late_is_stopped() -> None:
    slow = Slow()
    async with Supervisor() as supervisor:
        job = supervisor.start(slow.spares.keep)
        slow.spares.expect("a")
        with anyio.fail_after(HUNG_S):
            await slow.started.wait()
            slow.spares.close()
            slow.go.set()
            await job.wait()
    assert slow.spare.stopped


@pytest.mark.parametrize("alive", [True, False])
async def test_who_asks_during_a_start_waits_for_it(*, alive: bool) -> None:
    slow = Slow()
    got: list[Spare | None] = []

    async def take() -> None:
        got.append(await slow.spares.take("a"))

    slow.spares.expect("a")
    with anyio.fail_after(HUNG_S):
        async with anyio.create_task_group() as group:
            group.start_soon(slow.spares.step)
            await slow.started.wait()
            group.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            assert await slow.spares.take("a") is None
            slow.spare.alive = alive
            slow.go.set()
    assert got == [slow.spare if alive else None]
    assert repr(slow.spares) == "<Spares 0/1 waiting, 1 kinds>"


@pytest.mark.parametrize("came_up", [True, False])
async def test_one_that_nobody_waits_for_any_more_is_kept(*, came_up: bool) -> None:
    slow = Slow()
    slow.spares.expect("a")
    with anyio.fail_after(HUNG_S):
        async with anyio.create_task_group() as group:
            group.start_soon(slow.spares.step)
            await slow.started.wait()
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as inner:
                    inner.start_soon(slow.spares.take, "a")
                    await anyio.wait_all_tasks_blocked()
                    if came_up:
                        slow.go.set()
                    scope.cancel()
            slow.go.set()
    assert await slow.spares.take("a") is slow.spare
