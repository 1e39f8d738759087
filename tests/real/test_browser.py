"""Pages in a real browser, on another origin and under a rebound name, against a served clinvk.

Each is tried on a server that trusts the page too, to show that it does ask what it is to ask.
"""

import json
import platform
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from anyio.abc import ByteStream, SocketAttribute

from clinvk.config import Config
from clinvk.server.app import create_app
from tests.fakes.backend import ScriptBackend, builder
from tests.keyed import HI, entry, keyed
from tests.real.browser import Page, browsing
from tests.serving import serving

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        (sys.platform, platform.machine()) != ("linux", "x86_64"),
        reason="the browser that npm ships is for Linux on x86-64",
    ),
]

ATTEMPTS = (Path(__file__).parent / "attempts.js").read_text("utf-8")


def script(target: str) -> str:
    return f"const target = {json.dumps(target)}, HI = {json.dumps(HI)}; {ATTEMPTS}"


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async with browsing(tmp_path) as made:
        yield made


@pytest.fixture
async def evil() -> AsyncIterator[str]:
    """The address of a page on another origin."""

    async def show(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><body>evil", content_type="text/html")

    app = web.Application()
    app.router.add_get("/page", show)
    async with serving(app) as url:
        yield f"{url.replace('127.0.0.1', 'evil.example')}/page"


def origin_of(url: str) -> str:
    return url.removesuffix("/page")


@asynccontextmanager
async def clinvk(config: Config, statuses: list[int]) -> AsyncIterator[tuple[str, ScriptBackend]]:
    """Serve, and note the status of every reply."""
    backend = ScriptBackend()
    app = create_app(config, build=builder(backend))

    async def note(_: web.Request, response: web.StreamResponse) -> None:
        statuses.append(response.status)

    app.on_response_prepare.append(note)
    async with serving(app) as url:
        yield url, backend


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_page_of_another_origin_reads_and_starts_nothing(
    page: Page, evil: str, host: str
) -> None:
    statuses: list[int] = []
    async with clinvk(keyed(), statuses) as (url, backend):
        await page.open(evil)
        read = await page.run(script(url.replace("127.0.0.1", host)))
    assert {name: what for name, what in read.items() if what is not None} == {}
    assert len(statuses) >= len(read) - 1  # all of it came, but what a browser keeps to itself
    assert set(statuses) == {403}
    assert backend.turns == []
    assert backend.looks == 0


async def test_a_page_that_is_trusted_reads_and_starts_what_it_may(page: Page, evil: str) -> None:
    statuses: list[int] = []
    trusting = keyed(cors_origins=[origin_of(evil)])
    async with clinvk(trusting, statuses) as (url, backend):
        await page.open(evil)
        read = await page.run(script(url))
    assert '"object": "list"' in read["models"]
    for asked in ("json", "withKey"):
        assert "Hello world" in read[asked]
    assert "data: [DONE]" in read["stream"]
    assert '"backends"' in read["health"]
    assert "unsupported_media_type" in read["text"]
    assert read["opaqueText"] is read["form"] is read["sandboxed"] is read["socket"] is None
    assert len(backend.turns) == 3
    assert 204 in statuses  # the browser did ask first


async def test_with_keys_a_page_without_one_reads_and_starts_nothing(page: Page, evil: str) -> None:
    statuses: list[int] = []
    async with clinvk(keyed(entry("alice")), statuses) as (url, backend):
        await page.open(evil)
        read = await page.run(script(url))
    assert {name: what for name, what in read.items() if what is not None} == {}
    assert set(statuses) <= {200, 401, 403}  # 200: /health, of which no page reads a word
    assert backend.turns == []
    assert backend.looks == 0


class Rebinder:
    """Stands for a name: first it is a page's own server, then it is clinvk."""

    def __init__(self, target: str) -> None:
        self._port = int(target.rpartition(":")[2])
        self.rebound = False

    async def serve(self, stream: ByteStream) -> None:
        async with stream:
            if not self.rebound:
                await stream.receive()
                body = b"<!doctype html><body>evil"
                head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
                await stream.send(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
                return
            behind = await anyio.connect_tcp("127.0.0.1", self._port)
            async with behind, anyio.create_task_group() as group:
                group.start_soon(_copy, stream, behind)
                await _copy(behind, stream)
                group.cancel_scope.cancel()


async def _copy(source: ByteStream, target: ByteStream) -> None:
    try:
        async for chunk in source:
            await target.send(chunk)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass


@asynccontextmanager
async def rebinding(target: str) -> AsyncIterator[tuple[str, Rebinder]]:
    rebinder = Rebinder(target)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, rebinder.serve)
        yield f"http://rebound.example:{port}", rebinder
        group.cancel_scope.cancel()
    await listener.aclose()


async def attack(page: Page, config: Config) -> tuple[dict[str, Any], ScriptBackend, list[int]]:
    statuses: list[int] = []
    async with clinvk(config, statuses) as (url, backend), rebinding(url) as (name, rebinder):
        await page.open(f"{name}/page")
        rebinder.rebound = True
        return await page.run(script(name)), backend, statuses


async def test_a_name_that_is_rebound_reads_and_starts_nothing(page: Page) -> None:
    read, backend, statuses = await attack(page, keyed())
    answers = {name: what for name, what in read.items() if what is not None}
    assert len(answers) > 10  # to its browser this is the page's own server
    for name, what in answers.items():
        assert "host_not_allowed" in what or what == "load", name
    assert '"list"' not in answers["models"]
    assert set(statuses) == {403}
    assert backend.turns == []
    assert backend.looks == 0


async def test_a_rebound_name_would_read_everything_if_it_were_allowed(page: Page) -> None:
    read, backend, _ = await attack(page, keyed(allowed_hosts=["rebound.example"]))
    assert '"object": "list"' in read["models"]
    assert "Hello world" in read["json"]
    assert len(backend.turns) == 3
