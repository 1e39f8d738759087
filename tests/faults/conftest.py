"""A served clinvk over stand-ins that misbehave, and books that must balance after each test."""

import json
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web

from clinvk import config
from clinvk.backends import acp, codex_server, codex_turns
from clinvk.procs import process
from clinvk.server import handlers
from clinvk.server.app import SETTINGS, create_app
from clinvk.service import Service
from tests.faults.books import HUNG_S, Books, until
from tests.serving import API, serving

STANDINS = Path(__file__).parent / "standins"
ADAPTERS = ("claude", "codex", "gemini")
POOLED = (*ADAPTERS, "acp")  # those whose starts are counted, and put off when they fail
DRIVEN = (*POOLED, "command")
ONE_EACH = ("claude", "command")  # those with a process for each conversation
PATHS = {
    "text": "$.text",
    "end": "$[type=end]",
    "error": "$[type=error].error",
    "usage": {"input": "$.usage.in", "output": "$.usage.out"},
}
ANSWER = "Hello wörld 🌍"


@dataclass(frozen=True)
class Outcome:
    """How a request ended: with a whole answer, or with one error."""

    text: str
    code: str | None = None
    message: str = ""
    status: int = 200
    retry_after: str | None = None

    @property
    def right(self) -> bool:
        return self.code is None and self.text == ANSWER


@dataclass
class World:
    """A server over one stand-in."""

    adapter: str
    home: Path
    app: web.Application
    url: str
    http: aiohttp.ClientSession
    books: Books

    async def ask(
        self, text: str = "hi", *more: dict[str, str], stream: bool = False, **fields: Any
    ) -> Outcome:
        """Ask, and see that the reply has one end of one kind."""
        messages = [*more, {"role": "user", "content": text}]
        body = {"model": self.adapter, "messages": messages, "stream": stream, **fields}
        with anyio.fail_after(HUNG_S):
            async with self.http.post(f"{self.url}{API}/chat/completions", json=body) as response:
                data = await response.read()
        if response.status != 200:
            error = json.loads(data)["error"]
            after = response.headers.get("Retry-After")
            return Outcome("", error["code"], error["message"], response.status, after)
        return streamed(data.decode()) if stream else whole(json.loads(data))

    @property
    def spared(self) -> int:
        """How many processes may wait for the next request."""
        return 0 if self.adapter in ONE_EACH else 1

    @property
    def service(self) -> Service:
        return self.app[handlers.SERVICE]

    def fail_starts(self, fault: str) -> None:
        """Have every start fail from now on, until it is empty."""
        (self.home / "fault").write_text(fault)

    @property
    def starts(self) -> int:
        """How many processes were started."""
        path = self.home / "starts"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def reload(self, **limits: Any) -> None:
        """Give the server other settings, as SIGHUP does."""
        backends = {self.adapter: settings(self.adapter, self.home, **limits)}
        self.app[SETTINGS].apply(config.Config.model_validate({"backends": backends}))

    async def running(self, number: int) -> None:
        """Wait until so many turns run."""
        load = self.service.load
        await until(lambda: load()[self.adapter].running == number, load)

    async def health(self) -> dict[str, Any]:
        """What /health says of the backend."""
        async with self.http.get(f"{self.url}/health") as response:
            body = await response.json()
        found: dict[str, Any] = body["backends"][self.adapter]
        return found

    async def at_rest(self) -> None:
        await self.books.at_rest(self.app, processes=self.spared)


def whole(body: dict[str, Any]) -> Outcome:
    [choice] = body["choices"]
    assert choice["finish_reason"] == "stop"
    return Outcome(choice["message"]["content"])


def streamed(text: str) -> Outcome:
    frames = [f for f in text.split("\n\n") if f and not f.startswith(":")]
    assert all(frame.startswith("data: ") for frame in frames)
    datas = [frame.removeprefix("data: ") for frame in frames]
    errors = [json.loads(data)["error"] for data in datas if data.startswith('{"error"')]
    chunks = [json.loads(data) for data in datas if data.startswith('{"id"')]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    said = "".join(choice["delta"].get("content") or "" for choice in choices)
    ends = [c["finish_reason"] for c in choices if c["finish_reason"]]
    if errors:
        [error] = errors
        assert ends == []
        return Outcome(said, error["code"], error["message"])
    assert (ends, datas[-1]) == (["stop"], "[DONE]")
    return Outcome(said)


def standin(adapter: str) -> list[str]:
    """The command of a stand-in."""
    return [sys.executable, "-S", "-E", str(STANDINS / f"{adapter}_cli.py")]


def settings(adapter: str, home: Path, **limits: Any) -> dict[str, Any]:
    """What stands in backends.yaml for a stand-in."""
    env = {"HOME": str(home), "GEMINI_API_KEY": "test", "FAKE_KEY": "test"}
    backend = {"kind": adapter, "command": standin(adapter), "env": env, "max_idle": 0, "warm": 0}
    backend |= limits
    if adapter == "codex":
        backend["config"] = {
            "model_provider": "fake",
            "model_providers.fake.name": "fake",
            "model_providers.fake.base_url": "http://127.0.0.1:9/v1",
            "model_providers.fake.env_key": "FAKE_KEY",
        }
    if adapter == "command":
        backend = {"output": "jsonl", **PATHS, **backend}
    return backend


@asynccontextmanager
async def made(
    adapter: str,
    path: Path,
    *,
    impatient: bool = False,
    server: dict[str, Any] | None = None,
    **limits: Any,
) -> AsyncIterator[World]:
    """Serve a stand-in; when it is left, nothing may be left of it.

    Who is `impatient` waits no longer than a second or two for a CLI that hangs.
    """
    if impatient:
        limits = {"first_s": 2.5, "silence_s": 0.6, **limits}
    home, temp = path / "home", path / "temp"
    home.mkdir(exist_ok=True)
    temp.mkdir(exist_ok=True)
    backends = {adapter: settings(adapter, home, **limits)}
    parsed = config.Config.model_validate({"server": server or {}, "backends": backends})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temp))
        patch.setattr(process, "TERM_GRACE_S", 0.2)
        if impatient:
            patch.setattr(acp, "OPEN_S", 1.0)
            patch.setattr(acp, "CANCEL_S", 0.3)
            patch.setattr(codex_turns, "BEGIN_S", 1.0)
            patch.setattr(codex_server, "LEAVE_S", 0.3)
        books = Books(temp)
        app = create_app(parsed)
        async with serving(app) as url, aiohttp.ClientSession() as http:
            yield World(adapter, home, app, url, http, books)
        await books.balanced()


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> str:
    """Each adapter in turn."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _no_bugs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever goes wrong, nothing of it is a bug of clinvk's to its own log."""
    yield
    said = [record.getMessage() for record in caplog.get_records("call")]
    assert [each for each in said if "by a bug" in each or "a supervised job failed" in each] == []
