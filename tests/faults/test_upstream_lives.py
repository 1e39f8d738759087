"""Upstreams whose clients leave, that are killed, reloaded and shut down while requests run."""

import asyncio
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from clinvk.server.app import SETTINGS
from tests.faults.books import HUNG_S, until
from tests.faults.conftest import Outcome
from tests.faults.test_cancel import cancelled_everywhere
from tests.faults.test_lives import rest
from tests.faults.test_load import connected
from tests.faults.test_upstreams import wrong
from tests.faults.upstream_world import (
    BROKEN,
    CUT,
    LATE,
    LOST,
    WAYS,
    World,
    made,
    settings,
)
from tests.serving import API

LEAVES = ("hang-before", "half-a-head", "hang-after-head", "hang-during", "endless", "waits")


class Asking:
    """Requests that run beside the test, one in each way, and their outcomes."""

    def __init__(self, world: World, fault: str) -> None:
        self.tasks = {way: asyncio.ensure_future(world.ask(way, fault)) for way in WAYS}

    def leave(self) -> None:
        """Have every client go away."""
        for task in self.tasks.values():
            task.cancel()

    async def outcomes(self) -> dict[str, Outcome]:
        """Wait for them all."""
        with anyio.fail_after(HUNG_S):
            await asyncio.gather(*self.tasks.values())
        return {way: task.result() for way, task in self.tasks.items()}


async def test_clients_that_leave_at_any_stage_end_their_requests(tmp_path: Path) -> None:
    async with made(tmp_path) as world:
        for fault in LEAVES:
            asking = Asking(world, fault)
            await until(lambda: world.up.busy == 4, lambda: world.up.busy)
            asking.leave()
            await world.at_rest()
        assert wrong(await world.in_every_way("none")) == []
        await world.at_rest()


async def test_a_server_killed_under_several_requests_is_one_error_each(tmp_path: Path) -> None:
    async with made(tmp_path, retries=1) as world:
        for _ in range(2):
            assert wrong(await world.in_every_way("none")) == []
            asking = Asking(world, "waits")
            await until(lambda: world.up.busy == 4, lambda: world.up.busy)
            await world.up.kill()
            for way, outcome in (await asking.outcomes()).items():
                assert outcome.code in BROKEN[way.startswith("translated")], (way, outcome)
            for way in WAYS:  # while nobody listens
                found = await world.ask(way)
                assert found.code in LOST[way.startswith("translated")], found
                assert found.message.endswith("connection refused")
            assert (await world.health())["state"] == "failing"
            await world.up.start()
        assert wrong(await world.in_every_way("none")) == []
        await world.at_rest()


async def test_new_settings_leave_running_requests_alone(tmp_path: Path) -> None:
    async with made(tmp_path) as world:
        asking = Asking(world, "waits")
        await until(lambda: world.up.busy == 4, lambda: world.up.busy)
        world.app[SETTINGS].apply(settings(world.up, max_queue=7))
        assert wrong(await world.in_every_way("none")) == []
        world.up.release.set()
        assert all(outcome.right for outcome in (await asking.outcomes()).values())
        await world.at_rest()


async def test_a_server_that_stops_tells_who_still_waits(tmp_path: Path) -> None:
    async with made(tmp_path) as world:
        asking = {fault: Asking(world, fault) for fault in ("hang-before", "hang-during")}
        await until(lambda: world.up.busy == 8, lambda: world.up.busy)
        with anyio.fail_after(HUNG_S):
            await world.service.drain(0.1)
        for fault, each in asking.items():
            for way, outcome in (await each.outcomes()).items():
                late = way.startswith("passed") and fault == "hang-during"
                assert outcome.code == CUT if late else "stopping" in outcome.message, outcome


async def test_who_reads_nothing_is_cut_off_and_the_request_ended(tmp_path: Path) -> None:
    async with made(tmp_path, server={"send_s": 0.3}) as world:
        messages = [{"role": "user", "content": "fault=endless"}]
        body = {"model": "up/m", "messages": messages, "stream": True}
        for path in (f"{API}/chat/completions", "/anthropic/v1/messages"):
            with connected(world.url, {**body, "max_tokens": 10**9}, path) as sock:
                await until(lambda: world.up.busy == 1, lambda: world.up.busy)
                await world.at_rest()
                last = await anyio.to_thread.run_sync(partial(rest, sock))
                assert not last.endswith(b"0\r\n\r\n")
        assert wrong(await world.in_every_way("none")) == []


async def test_an_answer_that_drips_has_the_time_of_a_turn(tmp_path: Path) -> None:
    async with made(tmp_path, first_s=5, silence_s=5, timeout_s=0.5) as world:
        for way, outcome in (await Asking(world, "drips").outcomes()).items():
            assert outcome.code in LATE[way.startswith("translated")], outcome
        await world.at_rest()


async def test_a_turn_cancelled_at_any_wait_leaves_nothing(tmp_path: Path) -> None:
    async with made(tmp_path) as world:
        assert await cancelled_everywhere(world.service, "up", "up/m") > 3
        await world.at_rest()
