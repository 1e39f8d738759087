"""What the three fakes of model APIs share: a scripted reply, captured requests, a real server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True)
class Reply:
    """How the fake answers one request.

    A `status` other than 200 sends `error` (the vendor's own error body) with `headers`. `cut`
    closes the connection after that many text chunks; `hold` waits after that many until
    `FakeApi.release` is set. `stop` is the vendor's own stop reason; None is its normal one.
    """

    text: tuple[str, ...] = ("Hello", " from", " the", " fake", ".")
    thinking: tuple[str, ...] = ()
    delay_s: float = 0.0
    first_delay_s: float = 0.0
    status: int = 200
    error: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    hold: int | None = None
    stop: str | None = None
    input_tokens: int = 11
    output_tokens: int = 7
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    tool_calls: tuple[tuple[str, dict[str, Any]], ...] = ()


@dataclass(frozen=True)
class Captured:
    """A request that the CLI made upstream."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


Script = Callable[[Captured], Reply]


class FakeApi:
    """A local model API: answers by script, remembers every request.

    A vendor's fake sets the routes in `add_routes` and streams in its own grammar. `open` is how
    many streams run now, `holding` how many wait for `release`, `aborted` how many the CLI closed
    before their end.
    """

    def __init__(self) -> None:
        self.requests: list[Captured] = []
        self.script: Script = lambda _: Reply()
        self.open = 0
        self.aborted = 0
        self.release = asyncio.Event()
        self.holding = 0
        self.url = ""

    def answer(self, *replies: Reply) -> None:
        """Answer the coming requests by these replies in turn; the last one stays."""
        left = list(replies)
        self.script = lambda _: left.pop(0) if len(left) > 1 else left[0]

    def add_routes(self, app: web.Application) -> None:
        """Add the vendor's routes."""
        raise NotImplementedError

    async def capture(self, request: web.Request) -> Captured:
        """Remember a request."""
        raw = await request.read()
        captured = Captured(
            request.method,
            request.path_qs,
            {name.lower(): value for name, value in request.headers.items()},
            json.loads(raw) if raw else None,
        )
        self.requests.append(captured)
        return captured

    @asynccontextmanager
    async def stream(self, request: web.Request, reply: Reply) -> AsyncIterator[web.StreamResponse]:
        """Open a server-sent event stream, and count it while it lives; the handler returns it."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", **reply.headers}
        )
        await response.prepare(request)
        self.open += 1
        try:
            yield response
        except (asyncio.CancelledError, ConnectionError):
            self.aborted += 1
            raise
        finally:
            self.open -= 1

    async def pace(self, reply: Reply, chunk: int, request: web.Request) -> None:
        """Wait before text chunk number `chunk`, or hold or cut the stream there.

        Raises:
            ConnectionResetError: where the script cuts.
        """
        if reply.cut == chunk:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError
        if reply.hold == chunk:
            self.holding += 1
            await self.release.wait()
            self.holding -= 1
        delay_s = reply.first_delay_s if chunk == 0 else reply.delay_s
        if delay_s:
            await asyncio.sleep(delay_s)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Serve on a free loopback port; `url` is where."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        self.add_routes(app)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}"
        try:
            yield self
        finally:
            self.release.set()
            await runner.cleanup()
