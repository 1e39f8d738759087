"""A client of `POST /chat/completions` on one raw connection, that notes when the text comes.

Raw, because an HTTP client's own work would be timed, too.
"""

import asyncio
import json
import re
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from benchmarks.told import Told

HUNG_S = 120.0  # for one answer
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_COURSE = re.compile(rb"\r\nx-clinvk-turn: *(\w+)", re.IGNORECASE)
_CONTENT = re.compile(rb'"content": ?"([^"\\]*)"')
_CONTENT_MARK = re.compile(rb'"content": ?"[^"]')
_LAST_CHUNK = b"\r\n0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time on it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        self._length: int | None = None
        self._head = -1
        self._done: asyncio.Future[bytes] | None = None
        self.reads = 0
        self.first = 0.0
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport; asyncio's call."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take what came, and note the first text; asyncio's call."""
        self.reads += 1
        self._data += data
        if not self.first and _CONTENT_MARK.search(self._data):
            self.first = time.perf_counter()
        if self._ended() and self._done is not None and not self._done.done():
            self._done.set_result(bytes(self._data))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits; asyncio's call."""
        self.closed = True
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError(f"the server closed the connection: {exc}"))

    async def ask(self, request: bytes) -> bytes:
        """Send a request and return the whole response, head and all."""
        assert self._transport is not None
        self._data.clear()
        self._length, self._head, self.first = None, -1, 0.0
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await asyncio.wait_for(self._done, HUNG_S)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def _ended(self) -> bool:
        if self._head < 0:
            self._head = self._data.find(_HEAD_END)
            if self._head < 0:
                return False
            found = _LENGTH.search(self._data, 0, self._head + 2)
            self._length = int(found[1]) if found else None
        if self._length is None:
            return self._data.endswith(_LAST_CHUNK)
        return len(self._data) >= self._head + len(_HEAD_END) + self._length


def place_of(url: str) -> tuple[str, int]:
    """Return the host and the port of an address."""
    address = urlsplit(url)
    return address.hostname or "", address.port or 80


def head_of(url: str) -> bytes:
    """Return the head of a chat completion request, up to the number that is its body's length."""
    address = urlsplit(url)
    return (
        f"POST {address.path}/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
        "Content-Type: application/json\r\nContent-Length: "
    ).encode()


def said(response: bytes) -> str:
    """Return the text in a response, streamed or not; it must be plain, as the fakes' is."""
    return b"".join(_CONTENT.findall(response)).decode()


class Client:
    """Asks one model at one address, one request after the other."""

    def __init__(self, url: str, model: str) -> None:
        self._url = url
        self._model = model
        self._connection: Connection | None = None

    async def ask(self, messages: Sequence[dict[str, Any]]) -> Told:
        """Ask, streamed, and return what came.

        Raises:
            ConnectionError: if the server closes the connection.
        """
        if self._connection is None or self._connection.closed:
            made = await asyncio.get_running_loop().create_connection(
                Connection, *place_of(self._url)
            )
            self._connection = made[1]
        asked = {"model": self._model, "stream": True, "messages": list(messages)}
        body = json.dumps(asked).encode()
        request = b"%b%d\r\n\r\n%b" % (head_of(self._url), len(body), body)
        began = time.perf_counter()
        response = await self._connection.ask(request)
        ended = time.perf_counter()
        course = _COURSE.search(response)
        return Told(
            (self._connection.first or ended) - began,
            ended - began,
            said(response),
            course[1].decode() if course else "",
        )

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
