"""A server with OpenAI's API that misbehaves as it is asked to.

What is asked names the fault, as `fault=NAME`. Owns connections and what goes wrong on them.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from tests.faults.upstream_talk import JSON, SSE, Talk, chunk, event, whole

Fault = Callable[[Talk], Awaitable[None]]


def status(code: int, body: bytes = b"", **headers: object) -> Fault:
    """Answer with a status."""
    error = json.dumps({"error": {"message": f"fake {code}", "type": "x"}}).encode()
    return lambda talk: talk.body(body or error, code, **headers)


def plain(body: bytes, **headers: object) -> Fault:
    """Answer with another body."""
    return lambda talk: talk.body(body, 200, **headers)


def then(*acts: Callable[[Talk], Any]) -> Fault:
    """Do one thing after the other."""

    async def play(talk: Talk) -> None:
        for act in acts:
            found = act(talk)
            if asyncio.iscoroutine(found):
                await found

    return play


def said(*data: bytes) -> Fault:
    """Say chunks between the first half and the rest."""

    async def play(talk: Talk) -> None:
        await talk.begin()
        await talk.say(*data)
        await talk.say(*talk.pieces[1:])
        await talk.done()

    return play


def only(*data: bytes) -> Fault:
    """Say the first half and these chunks, and end."""

    async def play(talk: Talk) -> None:
        await talk.begin()
        await talk.say(*data)
        await talk.done()

    return play


async def _byte_by_byte(talk: Talk) -> None:
    await talk.head()
    for byte in b"".join(talk.pieces):
        await talk.say(bytes([byte]))
    await talk.done()


async def _endless(talk: Talk) -> None:
    await talk.begin()
    piece = event(chunk({"content": "x" * 50_000})) if talk.stream else b"x" * 50_000
    while True:
        await talk.say(piece)


async def _waits(talk: Talk) -> None:
    """Say the rest once it is let go, if anybody is left to hear it."""
    await talk.begin()
    left = asyncio.ensure_future(talk.hang())
    released = asyncio.ensure_future(talk.release.wait())
    await asyncio.wait((left, released), return_when=asyncio.FIRST_COMPLETED)
    for each in (left, released):
        each.cancel()
    with suppress(asyncio.CancelledError):
        await left
    if talk.release.is_set():
        await talk.say(*talk.pieces[1:])
        await talk.done()


async def _drips(talk: Talk) -> None:
    await talk.begin()
    while True:
        await talk.say(event(chunk({"content": "x"})) if talk.stream else b" ")
        await asyncio.sleep(0.02)


async def _endless_calls(talk: Talk) -> None:
    await talk.begin()
    piece = {"index": 0, "function": {"arguments": "x" * 50_000}}
    while True:
        await talk.say(event(chunk({"tool_calls": [piece]})))


async def _endless_line(talk: Talk) -> None:
    await talk.begin()
    await talk.say(b'data: {"choices": "')
    while True:
        await talk.say(b"x" * 50_000)


async def _endless_body(talk: Talk) -> None:
    await talk.head(Content_Type=JSON)
    await talk.say(b"{\n")
    while True:
        await talk.say(b'"an endless body": 1,\n' * 3000)


async def _endless_head(talk: Talk) -> None:
    await talk.raw(b"HTTP/1.1 200 OK\r\n")
    while True:
        await talk.raw(b"X-Endless: " + b"x" * 4000 + b"\r\n")


async def _endless_error(talk: Talk) -> None:
    await talk.head(500)
    while True:
        await talk.say(b"x" * 50_000)


CALL = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "[" * 5000}}


async def _odd_usage(talk: Talk) -> None:
    """Count as nobody counts: in a chunk for each way, or in the body."""
    counts = {"prompt_tokens": -5, "completion_tokens": 10**400, "total_tokens": True}
    told = json.dumps({"choices": [], "usage": counts}).encode()
    if talk.stream:
        await talk.begin()
        await talk.say(b"data: %s\n\n" % told, *talk.pieces[1:])
    else:
        await talk.head()
        await talk.say(whole()[:-1] + b"," + told.partition(b", ")[2])
    await talk.done()


HTML = b"<html><body>Bad gateway</body></html>"
ERROR = event({"error": {"message": "out of memory", "type": "server_error", "code": 500}})
NOISE = (
    *(
        b": comment\n\n",
        b"event: ping\ndata:\n\n",
        b"id: 1\nretry: 5\n\n",
        b"\n\n\r\n",
        b"data\n\n",
    ),
    *(b"x: y\n\n", event({"choices": []}), event({"object": "ping"})),
)
BAD = b'data: {"choices": [{"index": 0, "delta": {"content": "\xff"}}]}\n\n'

FAULTS: dict[str, Fault] = {
    # before the head
    "die-before": then(),
    "reset-before": then(Talk.reset),
    "hang-before": then(Talk.hang),
    "half-a-head": then(lambda t: t.raw(b"HTTP/1.1 200 OK\r\nContent-"), lambda t: t.hang()),
    "cut-head": then(lambda t: t.raw(b"HTTP/1.1 200 OK\r\nContent-")),
    "no-http": then(lambda t: t.raw(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), lambda t: t.hang()),
    "endless-head": _endless_head,
    "early-hints": then(lambda t: t.raw(b"HTTP/1.1 103 Early Hints\r\n\r\n"), Talk.well),
    "switches": then(
        lambda t: t.raw(b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), Talk.hang
    ),
    # within the body
    "die-during": then(Talk.begin),
    "reset-during": then(Talk.begin, Talk.reset),
    "hang-during": then(Talk.begin, Talk.hang),
    "hang-after-head": then(lambda t: t.head(), Talk.hang),
    "no-end": then(Talk.begin, lambda t: t.say(*t.pieces[1:]), Talk.hang),
    "bad-chunk": then(Talk.begin, lambda t: t.raw(b"zz\r\nno chunk\r\n"), Talk.hang),
    "short-length": then(lambda t: t.head(Content_Length=5000), lambda t: t.raw(*t.pieces)),
    "long-body": then(
        lambda t: t.head(Content_Length=len(t.pieces[0]) + 9),
        lambda t: t.raw(*t.pieces),
    ),
    "two-lengths": then(
        lambda t: t.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 7\r\n\r\n{}"),
        Talk.hang,
    ),
    "half-an-event": only(b'data: {"choices": [{"del'),
    "unfinished": only(),
    "error-during": only(ERROR),
    "status-during": only(b"HTTP/1.1 500 Internal Server Error\r\n\r\n"),
    "dies-after": then(Talk.well, lambda t: setattr(t, "ends", True)),
    "resets-after": then(Talk.well, Talk.reset),
    "noise": said(*NOISE),
    "bad-utf8": said(BAD),
    "odd-usage": _odd_usage,
    "byte-by-byte": _byte_by_byte,
    # whole bodies
    "nothing": plain(b"", Content_Type=SSE),
    "html": plain(HTML, Content_Type="text/html"),
    "null": plain(b"null"),
    "list": plain(b"[]"),
    "empty-object": plain(b"{}"),
    "half-json": plain(whole()[:60]),
    "no-choices": plain(b'{"id": "c", "choices": []}'),
    "error-at-200": plain(b'{"error": {"message": "no", "code": 503}}'),
    "calls": only(event(chunk({"tool_calls": [CALL, CALL]}))),
    "gzip": plain(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff", Content_Encoding="gzip"),
    "deep": plain(b"[" * 100_000),
    # statuses
    "redirects": status(302, b"x", Location="/v1/chat/completions"),
    "moved": status(301, b"x", Location="http://127.0.0.1:9/"),
    "429": status(429),
    "429-and-after": status(429, Retry_After=7),
    "500": status(500),
    "500-html": status(500, HTML, Content_Type="text/html"),
    "503": status(503),
    "503-and-after": status(503, Retry_After=7),
    "999": status(999),
    "none": Talk.well,
}
# For tests of their own.
LASTING: dict[str, Fault] = {"waits": _waits, "drips": _drips}
ENDLESS: dict[str, Fault] = {
    "endless": _endless,
    "endless-line": _endless_line,
    "endless-calls": _endless_calls,
    "endless-body": _endless_body,
    "endless-error": _endless_error,
}


ALL = {**FAULTS, **LASTING, **ENDLESS}


class Upstream:
    """The server; `busy` is how many requests run, `connections` how many there are."""

    def __init__(self) -> None:
        self.port = 0
        self.busy = 0
        self.asked: list[str] = []
        self.release = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """What stands in backends.yaml."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._writers)

    async def start(self) -> None:
        """Listen, on the port of the last time if there was one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """Break every connection, and listen no more."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        self._server = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Upstream"]:
        """Listen until this is left."""
        await self.start()
        try:
            yield self
        finally:
            await self.kill()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer):
                    pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"(?i)content-length: (\d+)", head)
        body = await reader.readexactly(int(length[1])) if length else b"{}"
        fault = re.search(rb"fault=([\w-]+)", body)
        name = fault[1].decode() if fault else "none"
        self.asked.append(name)
        talk = Talk(reader, writer, self.release, stream=json.loads(body).get("stream") is True)
        self.busy += 1
        try:
            if head.startswith("GET"):
                await talk.body(b'{"data": [{"id": "m"}]}')
            else:
                await ALL[name](talk)
        finally:
            self.busy -= 1
        return not talk.ends
