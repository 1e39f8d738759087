"""A home, a fake of the Responses API, and the real Codex CLI between them."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from clinvk.backends import codex, codex_server
from clinvk.backends.codex import CodexBackend
from clinvk.backends.codex_server import AppServer
from clinvk.config import CodexConfig
from clinvk.errors import (
    ClinvkError,
)
from clinvk.events import (
    Event,
    Failed,
    TextDelta,
    check_grammar,
)
from clinvk.procs.supervisor import Supervisor
from clinvk.turn import Message, Role, TextPart, Turn
from tests.fakes.responses import FakeResponses
from tests.real.conftest import cli

HUNG_S = 30  # a guard against hanging tests, not a measure


def said(role: str, *texts: str) -> Message:
    return Message(Role(role), tuple(TextPart(text) for text in texts))


def turn(*messages: Message | str, effort: str | None = None) -> Turn:
    return Turn(
        "codex",
        tuple(said("user", m) if isinstance(m, str) else m for m in messages),
        effort=effort,
    )


@dataclass
class World:
    """A fake API, a user's home, a temporary folder, and backends that run in them."""

    fake: FakeResponses
    home: Path
    temporary: Path
    supervisor: Supervisor

    @property
    def codex_home(self) -> Path:
        return self.home / ".codex"

    def backend(
        self,
        *,
        command: str | None = None,
        env: dict[str, str] | None = None,
        config: dict[str, Any] | None = None,
        retries: int = 0,
    ) -> CodexBackend:
        """A backend whose model provider is the fake."""
        provider = {
            "model_provider": "fake",
            "model_providers.fake": {
                "name": "fake",
                "base_url": self.fake.base_url,
                "wire_api": "responses",
                "env_key": "FAKE_KEY",
            },
        }
        return CodexBackend(
            "codex",
            CodexConfig(
                kind="codex",
                command=[command or cli("codex")],
                env={"HOME": str(self.home), "FAKE_KEY": "sk-test"} if env is None else env,
                config=provider if config is None else config,
                retries=retries,
            ),
            self.supervisor,
        )

    def with_login(self, **more: Any) -> CodexBackend:
        """A backend on the built-in provider and the login of the home."""
        reach = {
            "openai_base_url": self.fake.base_url,
            "chatgpt_base_url": f"{self.fake.url}/backend-api/",
            "features.enable_request_compression": False,
            **more.pop("config", {}),
        }
        env = {"HOME": str(self.home), **more.pop("env", {})}
        return self.backend(env=env, config=reach, **more)

    def input(self) -> list[dict[str, Any]]:
        """The items of the last upstream request, without what codex numbers."""
        extra = ("id", "internal_chat_message_metadata_passthrough")
        items = self.fake.requests[-1].body["input"]
        return [{k: v for k, v in item.items() if k not in extra} for item in items]

    def login_with_key(self, key: str) -> None:
        """Log the user in, as the user would."""
        self.codex_home.mkdir(exist_ok=True)
        env = {"HOME": str(self.home), "PATH": os.environ["PATH"]}
        command = [cli("codex"), "login", "--with-api-key"]
        subprocess.run(command, input=key.encode(), env=env, check=True, capture_output=True)


@asynccontextmanager
async def codex_world(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    """A world that inherits nothing of the machine's, and is left without a trace."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    path = os.environ["PATH"]
    for name in list(os.environ):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    async with FakeResponses().running() as fake:
        async with Supervisor() as supervisor:
            yield World(fake, home, temporary, supervisor)
        assert list(temporary.iterdir()) == []
    assert psutil.Process().children(recursive=True) == []


async def collect(backend: CodexBackend, asked: Turn, model: str | None = "m") -> list[Event]:
    """Run a turn to its end."""
    events: list[Event] = []
    with anyio.fail_after(HUNG_S):
        async with backend.open(asked, model) as stream:
            async for event in stream:
                events.append(event)  # noqa: PERF401 - what came before a failure counts
    check_grammar(events)
    return events


async def failure(backend: CodexBackend, asked: Turn, model: str | None = "m") -> ClinvkError:
    """Run a turn that fails, and return how."""
    try:
        events = await collect(backend, asked, model)
    except ClinvkError as exc:
        return exc
    assert isinstance(events[-1], Failed)
    return events[-1].error


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def until(condition: Any) -> None:
    with anyio.fail_after(HUNG_S):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await anyio.sleep(0.005)


def watch_starts(monkeypatch: pytest.MonkeyPatch) -> list[AppServer]:
    """Return a list that the app-servers come into as they are started."""
    found: list[AppServer] = []

    async def spy(*arguments: Any) -> AppServer:
        found.append(await codex_server.launch(*arguments))
        return found[-1]

    monkeypatch.setattr(codex, "launch", spy)
    return found


async def loaded(server: AppServer) -> list[str]:
    """The threads that an app-server still has; one whose turn runs is never unloaded."""
    return list((await server.request("thread/loaded/list", {}))["data"])


async def until_unloaded(server: AppServer) -> None:
    """Wait until an app-server has no thread left."""
    with anyio.fail_after(HUNG_S):
        while await loaded(server):  # noqa: ASYNC110 - other processes set no event
            await anyio.sleep(0.05)


def servers() -> list[psutil.Process]:
    """The processes of this test's app-servers, the launcher first."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one, too
            if "app-server" in child.cmdline():
                found.append(child)
    return found
