"""The tools over stdin and stdout, as an agent starts them: a real process at a real server."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from queue import Queue
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from clinvk import toolbridge
from clinvk.procs.supervisor import Supervisor
from clinvk.toolserver import Call, Offer, Tool, ToolServer

HUNG_S = 30  # a guard against hanging tests, not a measure
TOOL = Tool("f", "does f", {"type": "object", "properties": {}})


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    async with Supervisor() as running:
        yield running


class Agent:
    """What an agent does with its MCP server."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._in = process.stdin
        self._out = BufferedByteReceiveStream(process.stdout)

    async def say(self, line: bytes) -> None:
        await self._in.send(line + b"\n")

    async def ask(self, method: str, number: int | str | None = 1, **params: Any) -> None:
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
        await self.say(
            json.dumps(message if number is None else {**message, "id": number}).encode()
        )

    async def call(self, number: int | str) -> None:
        await self.ask("tools/call", number, name="f", arguments={"x": number})

    async def hear(self) -> Any:
        with anyio.fail_after(HUNG_S):
            return json.loads(await self._out.receive_until(b"\n", 1_000_000))

    async def leave(self) -> None:
        await self._in.aclose()

    async def ended(self) -> int:
        with anyio.fail_after(HUNG_S):
            return await self.process.wait()


@asynccontextmanager
async def bridged(offer: Offer) -> AsyncIterator[Agent]:
    command, env = offer.bridge
    assert not any(secret in word for secret in env.values() for word in command)
    async with await anyio.open_process(command, env=env, stderr=None) as process:
        try:
            yield Agent(process)
        finally:
            if process.returncode is None:
                process.kill()


class Held:
    """The calls that came, for a test to wait for."""

    def __init__(self) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[Call](10)

    def __call__(self, call: Call) -> None:
        self._send.send_nowait(call)

    async def next(self) -> Call:
        with anyio.fail_after(HUNG_S):
            return await self._receive.receive()

    def close(self) -> None:
        self._send.close()
        self._receive.close()


@pytest.fixture
async def held() -> AsyncIterator[Held]:
    calls = Held()
    yield calls
    calls.close()


async def test_an_agent_gets_over_stdio_what_was_offered(
    supervisor: Supervisor, held: Held
) -> None:
    async with ToolServer(supervisor).offer([TOOL], held) as offer, bridged(offer) as agent:
        await agent.ask("initialize", "a", protocolVersion="2025-06-18")
        hello = await agent.hear()
        assert (hello["id"], hello["result"]["protocolVersion"]) == ("a", "2025-06-18")
        await agent.ask("notifications/initialized", None)
        await agent.say(b"")
        await agent.ask("tools/list", 2)
        listed = await agent.hear()
        assert (listed["id"], listed["result"]["tools"][0]["name"]) == (2, "f")
        await agent.leave()
        assert await agent.ended() == 0


async def test_calls_are_held_side_by_side(supervisor: Supervisor, held: Held) -> None:
    server = ToolServer(supervisor, heartbeat_s=0.01)
    async with server.offer([TOOL], held) as offer, bridged(offer) as agent:
        await agent.call(1)
        first = await held.next()
        await agent.call("1")
        second = await held.next()
        second.answer([{"type": "text", "text": "two\nlines ½"}])
        content = [{"type": "text", "text": "two\nlines ½"}]
        assert await agent.hear() == {"jsonrpc": "2.0", "id": "1", "result": {"content": content}}
        first.answer([])
        assert await agent.hear() == {"jsonrpc": "2.0", "id": 1, "result": {"content": []}}


async def test_a_call_that_is_given_up_is_never_answered(
    supervisor: Supervisor, held: Held
) -> None:
    server = ToolServer(supervisor, heartbeat_s=0.01)
    async with server.offer([TOOL], held) as offer, bridged(offer) as agent:
        await agent.call(1)
        call = await held.next()
        await agent.ask("notifications/cancelled", None, requestId=1)
        await agent.ask("notifications/cancelled", None, requestId=99)
        with anyio.fail_after(HUNG_S):
            while not call.gone:  # noqa: ASYNC110 - its end is noticed by another task
                await anyio.sleep(0.001)
        call.answer([])
        await agent.ask("ping", 2)
        assert (await agent.hear())["id"] == 2


async def test_it_ends_with_the_offer_though_the_agent_forgets_it(
    supervisor: Supervisor, held: Held
) -> None:
    server = ToolServer(supervisor)
    async with anyio.create_task_group() as group:
        async with server.offer([TOOL], held) as offer:
            agent = await group.start(_forgetful, offer)
            await agent.call(1)
            await held.next()
        assert await agent.ended() == 0
        group.cancel_scope.cancel()


async def _forgetful(offer: Offer, *, task_status: anyio.abc.TaskStatus[Agent]) -> None:
    async with bridged(offer) as agent:
        task_status.started(agent)
        await anyio.sleep_forever()


async def test_it_ends_with_the_server(held: Held) -> None:
    async with anyio.create_task_group() as group:
        async with Supervisor() as supervisor, ToolServer(supervisor).offer([TOOL], held) as offer:
            agent = await group.start(_forgetful, offer)
            await agent.ask("ping", 1)
            await agent.hear()
        assert await agent.ended() == 0
        group.cancel_scope.cancel()


async def test_its_stdin_ends_it_whatever_is_held(supervisor: Supervisor, held: Held) -> None:
    async with ToolServer(supervisor).offer([TOOL], held) as offer, bridged(offer) as agent:
        await agent.call(1)
        call = await held.next()
        await agent.leave()
        assert await agent.ended() == 0
        assert call.content is None


async def test_what_is_no_message_is_answered_as_such(supervisor: Supervisor, held: Held) -> None:
    async with ToolServer(supervisor).offer([TOOL], held) as offer, bridged(offer) as agent:
        await agent.say(b"[1]")
        assert "a JSON object is needed" in (await agent.hear())["error"]["message"]
        await agent.say(b"{")
        assert "a JSON object is needed" in (await agent.hear())["error"]["message"]


async def test_where_nobody_is_a_request_is_refused(free_tcp_port: int) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as heard, os.fdopen(write, "wb") as out:
        bridge = toolbridge.Bridge(f"http://127.0.0.1:{free_tcp_port}/x", "s", out)
        bridge.forward(b'{"id": 1, "method": "ping"}')
        bridge.forward(b'{"method": "ping"}')
        bridge.wait()
        assert json.loads(heard.readline())["error"]["message"].startswith("the tools are gone")


async def test_all_of_it_in_this_process(supervisor: Supervisor, held: Held) -> None:
    (to_read, to_write), (read, write) = os.pipe(), os.pipe()
    ended: Queue[int] = Queue()
    lines, out = os.fdopen(to_read, "rb"), os.fdopen(write, "wb")
    with os.fdopen(to_write, "wb", buffering=0) as told, os.fdopen(read, "rb") as heard:
        async with anyio.create_task_group() as group:
            async with ToolServer(supervisor).offer([TOOL], held) as offer:
                _, env = offer.bridge
                serve = partial(toolbridge.serve, lines, out, env, ended.put)
                group.start_soon(to_thread.run_sync, serve)
                told.write(
                    json.dumps({"id": 1, "method": "tools/call", "params": {"name": "f"}}).encode()
                )
                told.write(b"\n\n")
                call = await held.next()
                told.write(
                    json.dumps({"id": 2, "method": "tools/call", "params": {"name": "f"}}).encode()
                )
                told.write(b"\n")
                second = await held.next()
                cancelled = {"method": "notifications/cancelled", "params": {"requestId": 1}}
                told.write(json.dumps(cancelled).encode() + b"\n")
                second.answer([])
                with anyio.fail_after(HUNG_S):
                    answer = json.loads(await to_thread.run_sync(heard.readline))
                assert (answer["id"], answer["result"]) == (2, {"content": []})
            with anyio.fail_after(HUNG_S):
                assert await to_thread.run_sync(ended.get) == 0
            told.close()
    assert call.content is None
    lines.close()
    out.close()
