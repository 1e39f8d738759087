"""A server whose callers need keys, and requests that show them."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import anyio
from multidict import CIMultiDictProxy

from clinvk.config import Config, KeyConfig, StoreConfig
from clinvk.keys import hash_of
from clinvk.server import auth
from clinvk.server.app import create_app
from clinvk.server.auth import Callers
from tests.fakes.backend import ScriptBackend, builder, script_config
from tests.serving import API, serving

Reply = tuple[int, dict[str, Any], CIMultiDictProxy[str]]

KEYS = {"alice": "sk-clinvk-alice", "bob": "sk-clinvk-bob"}
HI = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}


def entry(name: str, **limits: Any) -> KeyConfig:
    return KeyConfig.model_validate(
        {"name": name, "sha256": hash_of(f"sk-clinvk-{name}"), **limits}
    )


def as_(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer sk-clinvk-{name}"}


def keyed(*keys: KeyConfig, **server: Any) -> Config:
    config = script_config()
    changed = {"store": StoreConfig(path=":memory:"), "api_keys": list(keys), **server}
    return config.model_copy(update={"server": config.server.model_copy(update=changed)})


@dataclass
class Served:
    url: str
    http: aiohttp.ClientSession
    backend: ScriptBackend

    async def call(self, method: str, path: str, **options: Any) -> Reply:
        with anyio.fail_after(20):
            async with self.http.request(method, self.url + path, **options) as response:
                text = await response.text()
                body = json.loads(text) if text.startswith("{") else {"text": text}
                return response.status, body, response.headers

    async def ask(self, name: str, **fields: Any) -> Reply:
        path = f"{API}/chat/completions"
        return await self.call("POST", path, json={**HI, **fields}, headers=as_(name))


@asynccontextmanager
async def over(
    config: Config,
    backend: ScriptBackend | None = None,
    now: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Served]:
    backend = backend or ScriptBackend()
    app = create_app(config, build=builder(backend))
    app[auth.CALLERS] = Callers(now)
    async with serving(app) as url, aiohttp.ClientSession() as http:
        yield Served(url, http, backend)
