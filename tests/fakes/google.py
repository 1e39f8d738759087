"""A stand-in for Google's login and for the API that a login with Google uses.

gemini asks fixed https addresses there. They are reached through a proxy on loopback, which leads
every address to this fake; a certificate made for the occasion, whose authority the child alone
trusts, makes it googleapis.com.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import trustme
from aiohttp import web

from tests.fakes.gemini import FakeGemini

HOSTS = ("googleapis.com", "*.googleapis.com")


class FakeGoogle(FakeGemini):
    """Logs anyone in whose refresh token is `REFRESH`, and answers `v1internal` calls."""

    REFRESH = "the-refresh-token"

    def __init__(self) -> None:
        super().__init__()
        self.proxy = ""
        self._authority = trustme.CA()
        self._trusted = ""

    @property
    def env(self) -> dict[str, Any]:
        """What makes a child come here."""
        return {
            "HTTPS_PROXY": self.proxy,
            "NO_PROXY": "127.0.0.1",
            "NODE_EXTRA_CA_CERTS": self._trusted,
        }

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/token", self._token)
        app.router.add_post("/tokeninfo", self._info)
        app.router.add_get("/oauth2/v2/userinfo", self._info)
        app.router.add_post("/v1internal:{method}", self._internal)

    def wrap(self, chunk: dict[str, Any]) -> dict[str, Any]:
        return {"response": chunk, "traceId": "fake"}

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        if form["refresh_token"] != self.REFRESH:
            return web.json_response({"error": "invalid_grant"}, status=400)
        fresh = {"access_token": "fresh", "expires_in": 3600, "token_type": "Bearer"}
        return web.json_response(fresh)

    async def _info(self, _: web.Request) -> web.Response:
        known = {"email": "someone@example.com", "expires_in": 3600, "scope": "openid"}
        return web.json_response(known)

    async def _internal(self, request: web.Request) -> web.StreamResponse:
        captured = await self.capture(request)
        if request.match_info["method"] == "loadCodeAssist":
            tier = {"id": "standard-tier", "name": "Standard"}
            return web.json_response({"currentTier": tier, "cloudaicompanionProject": "fake"})
        if request.match_info["method"] == "streamGenerateContent":
            return await self.stream_reply(self.script(captured), request)
        return web.json_response({})

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FakeGoogle"]:
        """Serve behind a proxy on loopback; `proxy` is where."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        self.add_routes(app)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*HOSTS).configure_cert(context)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        port = runner.addresses[0][1]

        async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
            back, forth = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            with suppress(ConnectionError):
                await asyncio.gather(_pour(reader, forth), _pour(back, writer))

        proxy = await asyncio.start_server(tunnel, "127.0.0.1", 0)
        self.proxy = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        try:
            with self._authority.cert_pem.tempfile() as self._trusted:
                yield self
        finally:
            self.release.set()
            proxy.close()
            await runner.cleanup()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
