"""A served clinvk before a server that misbehaves, and what its clients get, in four ways.

A request is passed on, for a client of the same API, or translated, for one of Anthropic's;
streamed or whole.
"""

import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web

from clinvk import config
from clinvk.backends import openai_http
from clinvk.server import handlers
from clinvk.server.app import create_app
from clinvk.service import Service
from tests.faults.books import HUNG_S, Books, until
from tests.faults.conftest import Outcome, streamed, whole
from tests.faults.upstream import Upstream
from tests.serving import API, serving

WAYS = ("passed streamed", "passed whole", "translated streamed", "translated whole")
BUG = "its log says why"
CUT = "cut"  # the connection ended within the reply
PASSED = "passed"  # what the server said was told, and is no right answer
RIGHT: set[str] = set()
OWN, GONE = {PASSED}, {"api_error"}
LOST = ({"upstream_unreachable", "upstream_error"}, GONE)
BROKEN = ({CUT, "upstream_unreachable"}, GONE)  # by whether the head was seen before
LATE = ({CUT, "timeout"}, {"timeout_error"})


@dataclass
class World:
    """A clinvk before one such server."""

    up: Upstream
    app: web.Application
    url: str
    http: aiohttp.ClientSession
    books: Books

    @property
    def service(self) -> Service:
        return self.app[handlers.SERVICE]

    async def ask(self, way: str, fault: str = "none") -> Outcome:
        """Ask in one of the ways, and see that the reply has one end of one kind."""
        passed, stream = way.startswith("passed"), way.endswith("streamed")
        path = f"{API}/chat/completions" if passed else "/anthropic/v1/messages"
        messages = [{"role": "user", "content": f"fault={fault}"}]
        body = {"model": "up/m", "messages": messages, "stream": stream, "max_tokens": 10**9}
        with anyio.fail_after(HUNG_S):
            async with self.http.post(self.url + path, json=body) as response:
                try:
                    data = await response.read()
                except aiohttp.ClientPayloadError:
                    return Outcome("", CUT)
        read = passed_on if passed else translated
        return read(response, data, stream=stream)

    async def in_every_way(self, *faults: str) -> dict[tuple[str, str], Outcome]:
        """Ask for faults in all ways at once."""
        found: dict[tuple[str, str], Outcome] = {}

        async def ask(fault: str, way: str) -> None:
            found[fault, way] = await self.ask(way, fault)

        async with anyio.create_task_group() as group:
            for fault in faults:
                for way in WAYS:
                    group.start_soon(partial(ask, fault, way))
        return found

    async def health(self) -> dict[str, Any]:
        """What /health says of the backend, looked at now."""
        found = await self.service.health(fresh=True)
        return asdict(found["up"])

    async def at_rest(self) -> None:
        """Wait until nothing runs, on either side."""
        await until(lambda: not self.up.busy, lambda: self.up.asked)
        await self.books.at_rest(self.app, processes=0)


def passed_on(response: aiohttp.ClientResponse, data: bytes, *, stream: bool) -> Outcome:
    """What a client of the same GONE has got."""
    after = response.headers.get("Retry-After")
    if response.headers.get("x-clinvk-turn") != "relayed":
        error = json.loads(data)["error"]
        return Outcome("", error["code"], error["message"], response.status, after)
    with suppress(ValueError, AssertionError, LookupError, TypeError, RecursionError):
        found = streamed(data.decode()) if stream else whole(json.loads(data))
        if found.right and response.status == 200:
            return found
    return Outcome("", PASSED, data.decode("utf-8", "replace"), response.status, after)


def translated(response: aiohttp.ClientResponse, data: bytes, *, stream: bool) -> Outcome:
    """What a client of Anthropic's has got."""
    if response.status != 200:
        error = json.loads(data)["error"]
        after = response.headers.get("Retry-After")
        return Outcome("", error["type"], error["message"], response.status, after)
    if not stream:
        told = json.loads(data)
        assert told["stop_reason"] == "end_turn"
        return Outcome("".join(block["text"] for block in told["content"]))
    lines = [line for line in data.decode().splitlines() if line.startswith("data: ")]
    frames = [json.loads(line.removeprefix("data: ")) for line in lines]
    deltas = [f["delta"] for f in frames if f["type"] == "content_block_delta"]
    text = "".join(delta["text"] for delta in deltas)
    ends = [f["type"] for f in frames if f["type"] in ("message_stop", "error")]
    assert ends == [frames[-1]["type"]]
    if ends == ["error"]:
        return Outcome(text, frames[-1]["error"]["type"], frames[-1]["error"]["message"])
    return Outcome(text)


def settings(up: Upstream, server: dict[str, Any] | None = None, **limits: Any) -> config.Config:
    """What stands in backends.yaml for such a server."""
    backend = {"kind": "openai", "base_url": up.url, "api_key": "sk-up", **limits}
    return config.Config.model_validate({"server": server or {}, "backends": {"up": backend}})


@asynccontextmanager
async def made(
    path: Path, *, server: dict[str, Any] | None = None, **limits: Any
) -> AsyncIterator[World]:
    """Serve such a server; when it is left, nothing may be left of it."""
    (path / "temp").mkdir(exist_ok=True)
    async with Upstream().running() as up:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(path / "temp"))
            patch.setattr(openai_http, "RETRY_S", 0.01)
            books = Books(path / "temp")
            app = create_app(settings(up, server, **limits))
            async with serving(app) as url, aiohttp.ClientSession() as http:
                yield World(up, app, url, http, books)
            await until(lambda: not up.connections, lambda: up.connections)
            await books.balanced()
