"""What is told of a connection to an upstream that fails: why, in words."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import anyio
import pytest

from clinvk import config
from clinvk.server.app import create_app
from tests.serving import API, serving

HUNG_S = 30


@asynccontextmanager
async def upstream(reply: bytes) -> AsyncIterator[int]:
    """A server that answers every connection with these bytes and hangs up; gives its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def refused(port: int) -> tuple[int, dict[str, str]]:
    text = json.dumps(
        {
            "server": {"store": {"path": ":memory:"}},
            "backends": {
                "up": {
                    "kind": "openai",
                    "base_url": f"http://127.0.0.1:{port}/v1",
                    "retries": 0,
                    "models": ["m"],
                    "endpoints": [],
                }
            },
        }
    )
    body = {"model": "up/m", "messages": [{"role": "user", "content": "hi"}]}
    app = create_app(config.parse(text, name="t", env={}))
    async with serving(app) as url, aiohttp.ClientSession() as http:
        with anyio.fail_after(HUNG_S):
            async with http.post(f"{url}{API}/chat/completions", json=body) as response:
                return response.status, (await response.json())["error"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"", "it hung up"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "its reply is no HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\nda",
            "its reply broke off",
        ),
    ],
)
async def test_why_a_connection_failed_is_told(reply: bytes, reason: str) -> None:
    async with upstream(reply) as port:
        status, error = await refused(port)
    assert (status, error["code"]) == (502, "upstream_unreachable")
    assert error["message"] == f"the connection of backend 'up' to its server failed: {reason}"


async def test_a_server_that_is_not_there_is_told_as_the_system_says_it() -> None:
    async with upstream(b"") as port:
        pass
    status, error = await refused(port)
    assert status == 502
    assert error["message"].endswith("to its server failed: connection refused")
