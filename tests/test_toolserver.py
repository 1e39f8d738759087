"""The server of a caller's tools: who may see them, and how a call is held."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
import pytest

from clinvk.procs.supervisor import Supervisor
from clinvk.toolbridge import SECRET_HEADER
from clinvk.toolserver import Call, Offer, Tool, ToolServer

HUNG_S = 10  # a guard against hanging tests, not a measure
TOOL = Tool("f", "does f", {"type": "object", "properties": {}})
OTHER = Tool("g", "does g", {"type": "object"})


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    async with Supervisor() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=HUNG_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield session


def asking(method: str, number: int | None = 1, **params: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    return message if number is None else {**message, "id": number}


CALL = asking("tools/call", 7, name="f", arguments={"x": 1})


async def post(http: aiohttp.ClientSession, offer: Offer, message: dict[str, Any]) -> Any:
    async with http.post(offer.url, json=message, headers=offer.headers) as reply:
        assert reply.status == 200
        assert reply.content_type == "application/json"
        return json.loads(await reply.read())


class Held:
    """The calls that came, for a test to wait for."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._came = anyio.Event()

    def __call__(self, call: Call) -> None:
        self.calls.append(call)
        self._came.set()

    async def first(self) -> Call:
        with anyio.fail_after(HUNG_S):
            await self._came.wait()
        return self.calls[0]


@asynccontextmanager
async def calling(
    http: aiohttp.ClientSession, offer: Offer, message: dict[str, Any]
) -> AsyncIterator[list[Any]]:
    """Call while the block runs; the reply is in the list afterwards."""
    replies: list[Any] = []

    async def call() -> None:
        replies.append(await post(http, offer, message))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        yield replies


async def test_a_client_gets_what_was_offered_to_it(
    supervisor: Supervisor, http: aiohttp.ClientSession
) -> None:
    async with ToolServer(supervisor).offer([TOOL], print) as offer:
        hello = await post(http, offer, asking("initialize", protocolVersion="2025-06-18"))
        assert hello["result"]["protocolVersion"] == "2025-06-18"
        assert hello["result"]["capabilities"] == {"tools": {}}
        assert await post(http, offer, asking("tools/list", 3)) == {
            "jsonrpc": "2.0",
            "id": 3,
            "result": {
                "tools": [{"name": "f", "description": "does f", "inputSchema": TOOL.schema}]
            },
        }
        assert offer.listed
        assert (await post(http, offer, asking("ping")))["result"] == {}
        assert (await post(http, offer, asking("prompts/list")))["error"]["code"] == -32601


async def test_a_call_is_held_until_it_is_answered(
    supervisor: Supervisor, http: aiohttp.ClientSession
) -> None:
    held = Held()
    async with ToolServer(supervisor).offer([TOOL], held) as offer:
        async with calling(http, offer, CALL) as replies:
            call = await held.first()
            assert (call.name, call.arguments, call.gone) == ("f", {"x": 1}, False)
            call.answer([{"type": "text", "text": "½"}])
        content = [{"type": "text", "text": "½"}]
        assert replies == [{"jsonrpc": "2.0", "id": 7, "result": {"content": content}}]
        assert not call.gone


async def test_a_held_call_is_kept_alive_by_blanks(
    supervisor: Supervisor, http: aiohttp.ClientSession
) -> None:
    held = Held()
    server = ToolServer(supervisor, heartbeat_s=0.001)
    async with (
        server.offer([TOOL], held) as offer,
        http.post(offer.url, json=CALL, headers=offer.headers) as reply,
    ):
        assert await reply.content.readexactly(5) == b"     "
        held.calls[0].answer([])
        assert json.loads(await reply.read())["result"] == {"content": []}


async def test_leaving_ends_the_held_calls_and_the_address(
    supervisor: Supervisor, http: aiohttp.ClientSession
) -> None:
    held = Held()
    server = ToolServer(supervisor)
    async with anyio.create_task_group() as group, server.offer([TOOL], held) as offer:
        replies: list[Any] = []

        async def call() -> None:
            replies.append(await post(http, offer, CALL))

        group.start_soon(call)
        await held.first()
    assert "has left" in replies[0]["error"]["message"]
    async with http.post(offer.url, json=CALL, headers=offer.headers) as reply:
        assert reply.status == 404


async def test_a_call_that_comes_while_the_offer_ends_is_not_held(supervisor: Supervisor) -> None:
    held = Held()
    body = json.dumps(CALL).encode()
    async with ToolServer(supervisor).offer([TOOL], held) as offer:
        url = urlsplit(offer.url)
        client = await anyio.connect_tcp(str(url.hostname), int(url.port or 0))
        lines = [f"POST {url.path} HTTP/1.1", f"Host: {url.netloc}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in offer.headers.items()]
        await client.send("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body[:9])
        async with aiohttp.ClientSession() as http:  # once it is answered, the other is being read
            await post(http, offer, asking("ping"))
    async with client:
        await client.send(body[9:])
        with anyio.fail_after(HUNG_S):
            reply = b"".join([piece async for piece in client])
    assert b"the caller has left" in reply
    assert held.calls == []


async def test_a_client_that_hangs_up_is_noticed(
    supervisor: Supervisor, http: aiohttp.ClientSession
) -> None:
    held = Held()
    server = ToolServer(supervisor, heartbeat_s=0.001)
    async with server.offer([TOOL], held) as offer:
        async with http.post(offer.url, json=CALL, headers=offer.headers):
            call = await held.first()
        with anyio.fail_after(HUNG_S):
            while not call.gone:  # noqa: ASYNC110 - its end is noticed by another task
                await anyio.sleep(0.001)


async def test_a_client_that_gives_a_call_up_is_noticed(
    supervisor: Supervisor, http: aiohttp.ClientSession
) -> None:
    held = Held()
    async with (
        ToolServer(supervisor).offer([TOOL], held) as offer,
        http.post(offer.url, json=CALL, headers=offer.headers),
    ):
        call = await held.first()
        for number, gone in ((8, False), (7, True)):
            message = asking("notifications/cancelled", None, requestId=number)
            async with http.post(offer.url, json=message, headers=offer.headers) as reply:
                assert reply.status == 202
            assert call.gone is gone


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({}, "", 403),
        ({SECRET_HEADER: "wrong"}, "", 403),
        ({SECRET_HEADER: "½"}, "", 403),
        (None, "x", 404),
        (None, "/tools", 404),
        ({"Host": "example.com"}, "", 404),
    ],
)
async def test_who_does_not_know_the_address_and_the_secret_gets_nothing(
    supervisor: Supervisor,
    http: aiohttp.ClientSession,
    headers: dict[str, str] | None,
    path: str,
    status: int,
) -> None:
    async with ToolServer(supervisor).offer([TOOL], print) as offer:
        sent = offer.headers if headers is None else headers
        if "Host" in sent:
            sent = {**offer.headers, **sent}
        async with http.post(offer.url + path, json=asking("tools/list"), headers=sent) as reply:
            assert reply.status == status
            assert b"does f" not in await reply.read()
        assert not offer.listed


async def test_no_offer_opens_another(supervisor: Supervisor, http: aiohttp.ClientSession) -> None:
    server = ToolServer(supervisor)
    held = Held()
    async with server.offer([TOOL], held) as one, server.offer([OTHER], held) as two:
        assert one.url != two.url
        assert one.url.rpartition("/")[0] == two.url.rpartition("/")[0]
        async with http.post(one.url, json=CALL, headers=two.headers) as reply:
            assert reply.status == 403
        answer = await post(http, one, asking("tools/call", name="g"))
        assert "no tool 'g'" in answer["error"]["message"]
        [tool] = (await post(http, two, asking("tools/list")))["result"]["tools"]
        assert tool["name"] == "g"
    assert held.calls == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_there_is_no_stream_and_no_session_to_end(
    supervisor: Supervisor, http: aiohttp.ClientSession, method: str
) -> None:
    async with (
        ToolServer(supervisor).offer([TOOL], print) as offer,
        http.request(method, offer.url, headers=offer.headers) as reply,
    ):
        assert reply.status == 405


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 100_000])
async def test_what_is_no_message_is_refused(
    supervisor: Supervisor, http: aiohttp.ClientSession, body: bytes
) -> None:
    async with (
        ToolServer(supervisor).offer([TOOL], print) as offer,
        http.post(offer.url, data=body, headers=offer.headers) as reply,
    ):
        assert reply.status == 400


async def test_a_notification_is_taken_without_a_word(
    supervisor: Supervisor, http: aiohttp.ClientSession
) -> None:
    async with ToolServer(supervisor).offer([TOOL], print) as offer:
        message = asking("notifications/initialized", None)
        async with http.post(offer.url, json=message, headers=offer.headers) as reply:
            assert (reply.status, await reply.read()) == (202, b"")


async def test_the_server_ends_with_its_supervisor(http: aiohttp.ClientSession) -> None:
    async with Supervisor() as supervisor, ToolServer(supervisor).offer([TOOL], print) as offer:
        await post(http, offer, asking("ping"))
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.post(offer.url)
