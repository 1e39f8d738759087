"""A web server with images on a free loopback port, and what it was asked."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from aiohttp import web

from tests.test_media import GIF, PNG

HOST = "127.0.0.1"
CONTENT = {"/a.png": base64.b64decode(PNG), "/a.gif": base64.b64decode(GIF), "/page": b"<html>"}


class Site:
    """Has the paths of `CONTENT`; `?to=` redirects there, `/hangs` never ends, `/pieces` drips.

    `held` is set when somebody waits at `/hangs`, and `gone` when they have gone.
    """

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.held = anyio.Event()
        self.gone = anyio.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Site"]:
        """Serve; `url` is where."""
        app = web.Application()
        app.router.add_get("/{rest:.*}", self._answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, HOST, 0).start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        if (to := request.query.get("to")) is not None:
            return web.Response(status=302, headers={"Location": to, "Set-Cookie": "a=b"})
        if request.path == "/hangs":
            return await self._hang(request)
        if request.path == "/pieces":
            response = web.StreamResponse()
            await response.prepare(request)
            for byte in CONTENT["/a.png"]:
                await response.write(bytes([byte]))
            return response
        body = CONTENT.get(request.path)
        return web.Response(status=404) if body is None else web.Response(body=body)

    async def _hang(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(CONTENT["/a.png"][:20])
        self.held.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.gone.set()
        return response
