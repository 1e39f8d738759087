"""An upstream that answers by script with any bytes, and remembers what came, byte for byte."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from aiohttp import web
from multidict import CIMultiDictProxy


@dataclass
class Answer:
    """A reply; `hold` waits before the last piece, `cut` leaves it out and drops the connection.

    `early` answers without having read the request; `pace_s` passes after each piece.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    pieces: tuple[bytes, ...] = (b'{"ok": true}',)
    hold: bool = False
    early: bool = False
    late: bool = False
    cut: bool = False
    pace_s: float = 0.0


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    path: str
    headers: CIMultiDictProxy[str]
    body: bytes


class RawUpstream:
    """Any `POST` under `/v1`, and `GET /v1/models`; `open` is how many requests run now.

    `received` and `sent` count bytes of bodies; `on_piece` is called with each that comes.
    """

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.answer = Answer()
        self.models = ["m"]
        self.release = anyio.Event()
        self.open = 0
        self.aborted = 0
        self.keeps_bodies = True
        self.received = 0
        self.sent = 0
        self.on_piece: Callable[[], object] = lambda: None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["RawUpstream"]:
        """Serve on a free loopback port; `url` has the version."""
        app = web.Application()
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/{rest:.*}", self._handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        try:
            yield self
        finally:
            self.release.set()
            await runner.cleanup()

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": model} for model in self.models]})

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = bytearray()
        self.open += 1
        try:
            while not self.answer.early and (piece := await request.content.readany()):
                self.received += len(piece)
                self.on_piece()
                if self.keeps_bodies:
                    body += piece
            path = request.path_qs.removeprefix("/v1/")
            self.asked.append(Asked(path, request.headers, bytes(body)))
            return await self._tell(request, self.answer)
        except BaseException:
            self.aborted += 1
            raise
        finally:
            self.open -= 1

    async def _tell(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        if answer.late:
            await self.release.wait()
        await response.prepare(request)
        for piece in answer.pieces[:-1]:
            await response.write(piece)
            self.sent += len(piece)
            if answer.pace_s:
                await anyio.sleep(answer.pace_s)
        if answer.hold:
            await self.release.wait()
        if answer.cut and request.transport is not None:
            request.transport.abort()
            return response
        await response.write(answer.pieces[-1])
        await response.write_eof()
        return response
