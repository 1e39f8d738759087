"""Asks a server as many clients would, and times it: a process of its own, lean, and exact.

Each client keeps one connection open and asks `N TOKEN` of `benchmarks.fake_codex` with a token
that nobody else has. An answer is right if it is that text, whole and alone. Raw sockets, because
an HTTP client's own work would be timed, too.

    a Job as JSON on stdin -> a Heard as JSON on stdout, for each line
"""

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import count
from urllib.parse import urlsplit

from benchmarks.fake_codex import expected

HUNG_S = 120.0  # for one answer
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CONTENT = re.compile(rb'"content": ?"([^"\\]*)"')
_CONTENT_MARK = re.compile(rb'"content": ?"[^"]')
_LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Job:
    """How many requests to make of a server, `streams` of them at once, `deltas` in each answer."""

    url: str
    requests: int
    streams: int = 1
    deltas: int = 5
    stream: bool = True
    model: str = "codex"


@dataclass(slots=True)
class Heard:
    """What came of a job: times in seconds; `reads` are how often a socket had something."""

    wall_s: float = 0.0
    right: int = 0
    reads: int = 0
    first_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class _Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time on it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        self._length: int | None = None
        self._head = -1
        self._done: asyncio.Future[bytes] | None = None
        self.reads = 0
        self.first = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.reads += 1
        self._data += data
        if not self.first and _CONTENT_MARK.search(self._data):
            self.first = time.perf_counter()
        if self._ended() and self._done is not None and not self._done.done():
            self._done.set_result(bytes(self._data))

    def connection_lost(self, exc: Exception | None) -> None:
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


def body_of(job: Job, asked: str) -> bytes:
    """Return the body of a chat completion request."""
    messages = [{"role": "user", "content": asked}]
    return json.dumps({"model": job.model, "stream": job.stream, "messages": messages}).encode()


def said(response: bytes) -> str:
    """Return the text in a response, streamed or not."""
    return b"".join(_CONTENT.findall(response)).decode()


async def run(job: Job, *, report: Callable[[int], object] = lambda _: None) -> Heard:
    """Do a job; `report` is told each number of answers."""
    heard = Heard()
    numbers = count()
    address = urlsplit(job.url)
    host, port = address.hostname or "", address.port or 80
    head = (
        f"POST {address.path}/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
        "Content-Type: application/json\r\nContent-Length: "
    ).encode()

    async def client() -> None:
        connected = await asyncio.get_running_loop().create_connection(_Connection, host, port)
        connection = connected[1]
        while (number := next(numbers)) < job.requests:
            asked = f"{job.deltas} token-{number}"
            body = body_of(job, asked)
            request = b"%b%d\r\n\r\n%b" % (head, len(body), body)
            started = time.perf_counter()
            try:
                response = await connection.ask(request)
            except (ConnectionError, TimeoutError) as exc:
                heard.wrong.append(f"{asked}: {exc!r}")
                return
            heard.whole_s.append(time.perf_counter() - started)
            heard.first_s.append((connection.first or time.perf_counter()) - started)
            if said(response) == expected(asked):
                heard.right += 1
            else:
                heard.wrong.append(f"{asked}: {response[-300:]!r}")
            report(len(heard.whole_s))
        heard.reads += connection.reads
        connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(job.streams)))
    heard.wall_s = time.perf_counter() - started
    return heard


def main() -> None:
    """Do the jobs that come on stdin, one a line."""
    for line in sys.stdin:
        print(json.dumps(asdict(asyncio.run(run(Job(**json.loads(line)))))), flush=True)


if __name__ == "__main__":
    main()
