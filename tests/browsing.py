"""Requests as browsers send them for their pages, and what is served to them."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import anyio
from multidict import CIMultiDictProxy
from yarl import URL

from clinvk.config import Config
from clinvk.server.app import create_app
from tests.fakes.backend import ScriptBackend, builder
from tests.serving import API, serving

CHAT = f"{API}/chat/completions"
EVIL = "https://evil.example"
TRUSTED = "https://app.example.com:8443"
CROSS = {"Sec-Fetch-Site": "cross-site"}
FETCH = {**CROSS, "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Origin": EVIL}


@dataclass
class Site:
    """A server, and what a browser would send it."""

    url: URL
    http: aiohttp.ClientSession
    backend: ScriptBackend

    async def send(
        self, method: str, path: str, headers: dict[str, str], body: Any = None, **more: Any
    ) -> tuple[int, str, CIMultiDictProxy[str]]:
        with anyio.fail_after(20):
            data = json.dumps(body).encode() if isinstance(body, dict) else body
            url = URL(f"{self.url}{path}", encoded=True)
            async with self.http.request(
                method, url, headers=headers, data=data, allow_redirects=False, **more
            ) as response:
                return response.status, await response.text(), response.headers

    @property
    def here(self) -> str:
        return f"127.0.0.1:{self.url.port}"

    @property
    def untouched(self) -> bool:
        """Whether nothing was started, and no backend looked at."""
        return self.backend.turns == [] and self.backend.looks == 0


@asynccontextmanager
async def over(config: Config) -> AsyncIterator[Site]:
    backend = ScriptBackend()
    async with (
        serving(create_app(config, build=builder(backend))) as url,
        aiohttp.ClientSession(skip_auto_headers=["Content-Type"]) as http,
    ):
        yield Site(URL(url), http, backend)


def is_unreadable(headers: CIMultiDictProxy[str]) -> bool:
    return not any(name.lower().startswith("access-control") for name in headers)


async def raw(site: Site, request: bytes) -> bytes:
    with anyio.fail_after(20):
        async with await anyio.connect_tcp("127.0.0.1", site.url.port or 0) as stream:
            await stream.send(request)
            return b"".join([chunk async for chunk in stream])
