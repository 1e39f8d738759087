"""A served clinvk over one real CLI and a fake of its model API, with a home of its own."""

import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from clinvk import config
from clinvk.server.app import create_app
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.api import FakeApi
from tests.fakes.chat import FakeChat
from tests.fakes.gemini import FakeGemini
from tests.fakes.responses import FakeResponses
from tests.real.conftest import cli
from tests.serving import API, serving


class NoApi(FakeApi):
    """Of a backend that asks nobody."""

    def add_routes(self, app: web.Application) -> None:
        pass


FAKES: Mapping[str, type[FakeApi]] = {
    "claude": FakeAnthropic,
    "codex": FakeResponses,
    "gemini": FakeGemini,
    "openai": FakeChat,
    "embeddings": NoApi,
    "echo": NoApi,
}


def settings(name: str, fake: FakeApi, home: Path) -> dict[str, Any]:
    """What a user writes in backends.yaml to point a CLI at another model API."""
    if name in ("echo", "embeddings"):
        return {"kind": name}
    if name == "openai":  # chats by way of events, as for the other dialects
        upstream = {"base_url": f"{fake.url}/v1", "api_key": "sk-test", "model": "m"}
        return {"kind": name, "endpoints": ["embeddings"], **upstream}
    backend: dict[str, Any] = {"kind": name, "command": cli(name), "env": {"HOME": str(home)}}
    if name == "claude":
        backend["env"] |= {"ANTHROPIC_BASE_URL": fake.url, "ANTHROPIC_API_KEY": "sk-ant-test"}
    elif name == "codex":
        backend["env"] |= {"FAKE_KEY": "sk-test"}
        backend["config"] = {
            "model_provider": "fake",
            "model_providers.fake.name": "fake",
            "model_providers.fake.base_url": f"{fake.url}/v1",
            "model_providers.fake.wire_api": "responses",
            "model_providers.fake.env_key": "FAKE_KEY",
        }
    else:
        backend["env"] |= {"GOOGLE_GEMINI_BASE_URL": fake.url, "GEMINI_API_KEY": "test"}
    return backend


@dataclass
class Bridge:
    """A CLI, its fake, and the address of the clinvk in front of it.

    `courses` is what its clients were told of how each turn came about.
    """

    name: str
    fake: FakeApi
    url: str
    http: aiohttp.ClientSession
    courses: list[str]

    def post(self, text: str = "hi", **fields: Any) -> Any:
        """Ask; an aiohttp request to enter or await."""
        messages = [{"role": "user", "content": text}]
        body = {"model": self.name, "messages": messages, **fields}
        return self.http.post(f"{self.url}/chat/completions", json=body)


@asynccontextmanager
async def bridge(
    name: str, home: Path, *, server: dict[str, Any] | None = None, **limits: Any
) -> AsyncIterator[Bridge]:
    """Serve one CLI; its environment holds nothing of the machine's but PATH."""
    async with FAKES[name]().running() as fake:
        backend = {**settings(name, fake, home), **limits}
        text = yaml.safe_dump({"server": server or {}, "backends": {name: backend}})
        parsed = config.parse(text, name="test", env={})
        courses: list[str] = []

        async def remember(_: web.Request, response: web.StreamResponse) -> None:
            courses.extend(response.headers.getall("x-clinvk-turn", ()))

        app = create_app(parsed)
        app.on_response_prepare.append(remember)
        async with serving(app) as url, aiohttp.ClientSession() as http:
            yield Bridge(name, fake, url + API, http, courses)


def alone(home: Path, patch: pytest.MonkeyPatch) -> None:
    """Inherit nothing of the machine's environment, and keep temporary files in the test's."""
    clean = clean_environment(home)
    for name in os.environ:
        if not name.startswith(("PYTEST_", "COV")):
            patch.delenv(name)
    for name, value in clean.items():
        patch.setenv(name, value)
    (home.parent / "tmp").mkdir()
    patch.setattr(tempfile, "tempdir", clean["TMPDIR"])


def clean_environment(home: Path) -> dict[str, str]:
    """The whole environment a test gives to what it starts."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home.parent / "tmp")}
