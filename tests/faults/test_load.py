"""Limits under load: of the queue, of readers that do not read, of bodies, of idle connections."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import anyio.lowlevel
import anyio.to_thread
import psutil
import pytest
from aiohttp import web
from yarl import URL

from clinvk.events import Event, Finished, FinishReason, Started, TextDelta
from clinvk.server import handlers
from clinvk.server.app import create_app
from tests.fakes.backend import ANSWER, ScriptBackend, builder, script_config
from tests.serving import API, serving

HUNG_S = 30  # a guard against hanging tests, not a measure
HI = [{"role": "user", "content": "hi"}]


class World:
    def __init__(self, app: web.Application, url: str, backend: ScriptBackend) -> None:
        self.app = app
        self.url = url
        self.backend = backend

    def load(self) -> tuple[int, int]:
        """How many turns run and wait."""
        load = self.app[handlers.SERVICE].load()["fake"]
        return load.running, load.waiting

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(HUNG_S):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await anyio.sleep(0.005)


@asynccontextmanager
async def served(server: dict[str, Any] | None = None, **limits: float) -> AsyncIterator[World]:
    backend = ScriptBackend()
    config = script_config(**limits)
    config = config.model_copy(update={"server": config.server.model_copy(update=server or {})})
    app = create_app(config, build=builder(backend))
    async with serving(app) as url:
        yield World(app, url, backend)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def error_of(response: aiohttp.ClientResponse) -> tuple[int, str, str]:
    async with response:
        error = (await response.json())["error"]
    return response.status, error["code"], error["message"]


def post(http: aiohttp.ClientSession, world: World, **fields: Any) -> Any:
    body = {"model": "fake", "messages": HI, **fields}
    return http.post(f"{world.url}{API}/chat/completions", json=body)


async def test_who_waits_too_long_in_the_queue_is_told_so(http: aiohttp.ClientSession) -> None:
    async with served(max_concurrency=1, queue_s=0.1) as world:
        hold = anyio.Event()
        world.backend.script = (hold, *ANSWER)
        with anyio.fail_after(HUNG_S):
            async with anyio.create_task_group() as group:
                group.start_soon(post(http, world).__aenter__)
                await world.until(lambda: world.load() == (1, 0))
                response = await post(http, world)
                assert int(response.headers["Retry-After"]) >= 1
                assert response.headers["x-should-retry"] == "true"
                status, code, message = await error_of(response)
                assert (status, code) == (429, "server_busy")
                assert message.startswith("no place was free for 0.1 s: backend 'fake' runs 1")
                assert world.load() == (1, 0)
                hold.set()
        await world.until(lambda: world.load() == (0, 0))


async def test_a_client_that_leaves_the_queue_frees_its_place(http: aiohttp.ClientSession) -> None:
    async with served(max_concurrency=1, max_queue=1) as world:
        hold = anyio.Event()
        world.backend.script = (hold, *ANSWER)
        with anyio.fail_after(HUNG_S):
            async with anyio.create_task_group() as group:
                group.start_soon(post(http, world).__aenter__)
                await world.until(lambda: world.load() == (1, 0))
                waiting = asyncio.ensure_future(post(http, world).__aenter__())
                await world.until(lambda: world.load() == (1, 1))
                assert (await error_of(await post(http, world)))[:2] == (429, "server_busy")
                waiting.cancel()
                await world.until(lambda: world.load() == (1, 0))
                hold.set()
        assert len(world.backend.turns) == 1


@pytest.mark.parametrize(
    ("limit", "begun", "said"),
    [
        ("first_s", (), "the CLI and its model did not begin for 0.1 s"),
        ("silence_s", (Started("m"),), "the CLI was silent for 0.1 s"),
        ("timeout_s", (Started("m"),), "the turn took longer than 0.1 s"),
    ],
    ids=["first", "silence", "turn"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_each_limit_has_its_own_words(
    http: aiohttp.ClientSession, limit: str, begun: tuple[Event, ...], said: str, *, stream: bool
) -> None:
    limits: dict[str, Any] = {limit: 0.1}
    async with served(**limits) as world:
        world.backend.script = (*begun, anyio.Event())
        with anyio.fail_after(HUNG_S):
            async with post(http, world, stream=stream) as response:
                text = await response.text()
        last = [line for line in text.split("\n\n") if line][-1].removeprefix("data: ")
        error = json.loads(last)["error"]
        assert error["message"].startswith(said)
        assert f"raise {limit} of" in error["message"]
        assert error["code"] == "timeout"
        await world.until(lambda: world.load() == (0, 0))


async def test_the_time_to_the_first_event_is_not_the_silence_after_it(
    http: aiohttp.ClientSession,
) -> None:
    async with served(first_s=20, silence_s=0.05) as world:
        hold = anyio.Event()
        world.backend.script = (hold, *ANSWER)
        with anyio.fail_after(HUNG_S):
            asked = asyncio.ensure_future(post(http, world).__aenter__())
            await world.until(lambda: world.load() == (1, 0))
            await anyio.sleep(0.1)
            hold.set()
            response = await asked
        assert response.status == 200
        response.release()


def endless() -> tuple[Event, ...]:
    return (Started("m"), *(TextDelta("x" * 100_000) for _ in range(400)))


def connected(
    url: str, body: dict[str, Any], path: str = f"{API}/chat/completions"
) -> socket.socket:
    """Send a request from a socket that takes in next to nothing."""
    address = URL(url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((address.host, address.port))
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address.host}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    sock.sendall(head.encode() + data)
    return sock


async def test_a_reader_that_does_not_read_is_cut_off_and_its_turn_stopped(
    http: aiohttp.ClientSession,
) -> None:
    async with served({"send_s": 0.3}, max_concurrency=1) as world:
        world.backend.script = endless()
        body = {"model": "fake", "messages": HI, "stream": True}
        with connected(world.url, body) as sock:
            await world.until(lambda: world.load() == (1, 0))
            # Who waits behind it gets its place.
            world.backend.script = ANSWER
            with anyio.fail_after(HUNG_S):
                async with post(http, world) as response:
                    assert response.status == 200
            await world.until(lambda: world.load() == (0, 0))
            assert world.backend.running == 0

            def rest() -> bytes:
                seen = b""
                while data := sock.recv(1_000_000):
                    seen += data
                return seen

            # The end of the connection, but not of the answer.
            assert not (await anyio.to_thread.run_sync(rest)).endswith(b"0\r\n\r\n")


async def test_a_slow_reader_that_reads_gets_it_all() -> None:
    async with served({"send_s": 10.0}) as world:
        world.backend.script = (*endless()[:12], Finished(FinishReason.STOP))
        body = {"model": "fake", "messages": HI, "stream": True}
        with connected(world.url, body) as sock:

            def read() -> bytes:
                seen = b""
                while b"[DONE]" not in seen[-100:]:
                    seen += sock.recv(50_000)
                return seen

            with anyio.fail_after(HUNG_S):
                assert len(await anyio.to_thread.run_sync(read)) > 1_000_000


async def test_a_body_over_the_limit_is_refused_while_it_is_sent(
    http: aiohttp.ClientSession,
) -> None:
    async with served({"max_body_mb": 1.0}) as world:
        sent = 0
        taken = anyio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal sent
            for _ in range(100_000):
                sent += 100_000
                yield b"x" * 100_000
                await anyio.lowlevel.checkpoint()
            taken.set()

        headers = {"Content-Type": "application/json"}
        with anyio.fail_after(HUNG_S):
            try:
                async with http.post(
                    f"{world.url}{API}/chat/completions", data=chunks(), headers=headers
                ) as response:
                    status, code, _ = await error_of(response)
                    assert (status, code) == (413, "request_too_large")
            except aiohttp.ClientConnectionError:
                pass  # the connection may be closed before the answer is read
        assert not taken.is_set()
        assert sent < 100_000_000
        assert world.load() == (0, 0)
        assert world.backend.turns == []


IDLE = 500
MOST_BYTES = 250_000  # for both ends of a connection, generously


async def test_idle_connections_cost_little_and_leave_nothing(
    http: aiohttp.ClientSession,
) -> None:
    process = psutil.Process()
    async with served() as world:
        address = URL(world.url)
        with anyio.fail_after(HUNG_S):
            async with post(http, world) as response:
                await response.read()
        descriptors, memory = process.num_fds(), process.memory_info().rss
        writers = []
        with anyio.fail_after(HUNG_S):
            for _ in range(IDLE):
                _, writer = await asyncio.open_connection(address.host, address.port)
                writers.append(writer)
            await world.until(lambda: process.num_fds() >= descriptors + 2 * IDLE)
            # Each has asked once, so that the server holds all that it ever does for one.
            for writer in writers:
                writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            async with post(http, world) as response:
                assert response.status == 200
            spent = process.memory_info().rss - memory
            for writer in writers:
                writer.close()
                await writer.wait_closed()
            await world.until(lambda: process.num_fds() <= descriptors)
        assert spent < IDLE * MOST_BYTES
