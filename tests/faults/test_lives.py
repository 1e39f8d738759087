"""Agents and commands whose clients leave, that are killed, reloaded, and shut down in mid-turn."""

import asyncio
import socket
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import psutil
import pytest

from clinvk.backends import acp
from tests.faults.books import HUNG_S, children, until
from tests.faults.conftest import Outcome, World, made
from tests.faults.test_load import connected

HANGS = ("hang-before", "hang-during", "hang-stubborn", "no-end", "drips", "endless")
WAITS = "fault=waits"


@pytest.fixture(params=["acp", "command"])
def adapter(request: pytest.FixtureRequest) -> str:
    """Each kind that knows no program by name."""
    return str(request.param)


class Asking:
    """Requests that run beside the test, and their outcomes."""

    def __init__(self, world: World, *texts: str) -> None:
        self.tasks = [
            asyncio.ensure_future(world.ask(text, stream=stream))
            for text in texts
            for stream in (True, False)
        ]

    def leave(self) -> None:
        """Have every client go away."""
        for task in self.tasks:
            task.cancel()

    async def outcomes(self) -> list[Outcome]:
        """Wait for them all."""
        with anyio.fail_after(HUNG_S):
            return await asyncio.gather(*self.tasks)


async def test_clients_that_leave_at_any_stage_free_everything(
    adapter: str, tmp_path: Path
) -> None:
    async with made(adapter, tmp_path, impatient=True, first_s=20, silence_s=20) as world:
        for fault in HANGS:
            asking = Asking(world, f"fault={fault}")
            await world.running(2)
            # The first of an agent may have come up by now, or not.
            await until(lambda: bool(children()), children)
            asking.leave()
            await world.at_rest()
            assert (await world.ask()).right, fault
        await world.at_rest()


async def test_a_program_killed_under_several_turns_is_one_error_each(
    adapter: str, tmp_path: Path
) -> None:
    async with made(adapter, tmp_path) as world:
        processes = 1 if adapter == "acp" else 4
        for _ in range(2):
            assert (await world.ask()).right  # so that none is killed while it starts
            asking = Asking(world, WAITS, WAITS)
            await world.running(4)
            await until(lambda: len(children()) == processes, children)
            for child in children():
                child.kill()
            found = await asking.outcomes()
            assert [outcome.code for outcome in found] == ["cli_crashed"] * 4, found
        assert (await world.ask()).right
        await world.at_rest()


async def test_new_settings_leave_running_turns_alone(adapter: str, tmp_path: Path) -> None:
    async with made(adapter, tmp_path) as world:
        asking = Asking(world, WAITS)
        await world.running(2)
        await until(lambda: bool(children()), children)
        old = children()
        world.reload(max_queue=7)
        assert (await world.ask()).right
        assert all(child.is_running() for child in old)
        (world.home / "go").touch()
        assert all(outcome.right for outcome in await asking.outcomes())
        await until(lambda: not any(map(psutil.Process.is_running, old)), lambda: old)
        await world.at_rest()


@pytest.mark.parametrize("grace_s", [0.0, 0.3])
async def test_a_server_that_stops_tells_who_still_waits(
    adapter: str, grace_s: float, tmp_path: Path
) -> None:
    async with made(adapter, tmp_path, impatient=True, first_s=20, silence_s=20) as world:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(acp, "OPEN_S", 20.0)  # or who waits behind one that hangs gives up
            asking = Asking(world, *(f"fault={fault}" for fault in HANGS[:4]))
            await world.running(8)
            await until(lambda: bool(children()), children)
            with anyio.fail_after(HUNG_S):
                await world.service.drain(grace_s)
            found = await asking.outcomes()
        assert {outcome.code for outcome in found} == {"server_shutting_down"}, found
        assert (await world.ask()).code == "server_shutting_down"


async def test_who_reads_nothing_is_cut_off_and_the_program_stopped(
    adapter: str, tmp_path: Path
) -> None:
    async with made(adapter, tmp_path, impatient=True, server={"send_s": 0.3}) as world:
        messages = [{"role": "user", "content": "fault=endless"}]
        body = {"model": adapter, "messages": messages, "stream": True}
        with connected(world.url, body) as sock:
            await world.running(1)
            await world.running(0)
            # The end of the connection, but not of the answer.
            assert not (await anyio.to_thread.run_sync(partial(rest, sock))).endswith(b"0\r\n\r\n")
        await world.at_rest()
        assert (await world.ask()).right


def rest(sock: socket.socket) -> bytes:
    """The last that comes before a connection ends."""
    last = b""
    sock.settimeout(HUNG_S)
    while data := sock.recv(1_000_000):
        last = (last + data)[-100:]
    return last


async def test_an_answer_that_drips_has_the_time_of_a_turn(adapter: str, tmp_path: Path) -> None:
    async with made(adapter, tmp_path, impatient=True, timeout_s=1.0) as world:
        for outcome in await Asking(world, "fault=drips").outcomes():
            assert (outcome.code, "timeout_s" in outcome.message) == ("timeout", True), outcome
        assert (await world.ask()).right
        await world.at_rest()
