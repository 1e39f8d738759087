"""The real Claude Code in a home of its own, pointed at a fake of its model API."""

import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from clinvk.backends.claude import ClaudeBackend
from clinvk.config import ClaudeConfig
from clinvk.errors import ClinvkError
from clinvk.events import Event, Failed, TextDelta, check_grammar
from clinvk.procs.supervisor import Supervisor
from clinvk.turn import Message, Role, TextPart, Turn
from tests.fakes.anthropic import FakeAnthropic
from tests.real.conftest import cli

HUNG_S = 30  # a guard against hanging tests, not a measure
KEY = "sk-ant-test-key"


def said(role: str, *texts: str, **fields: Any) -> Message:
    return Message(Role(role), tuple(map(TextPart, texts)), **fields)


def turn(*messages: Message | str, **fields: Any) -> Turn:
    asked = (said("user", m) if isinstance(m, str) else m for m in messages)
    return Turn("claude", tuple(asked), **fields)


@dataclass
class World:
    """A fake API, a user's home, and backends that run in them."""

    fake: FakeAnthropic
    home: Path
    temp: Path
    supervisor: Supervisor

    def backend(self, *, retries: int = 0, command: str = "", **env: str | None) -> ClaudeBackend:
        """Make a backend; a variable that is None is left out."""
        variables: dict[str, str | None] = {
            "HOME": str(self.home),
            "ANTHROPIC_API_KEY": KEY,
            "ANTHROPIC_BASE_URL": self.fake.url,
            **env,
        }
        config = ClaudeConfig(
            kind="claude",
            command=[command or cli("claude")],
            env={name: value for name, value in variables.items() if value is not None},
            retries=retries,
        )
        return ClaudeBackend("claude", config, self.supervisor)

    def write(self, name: str, text: str) -> Path:
        """Write a file in the user's home."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def processes(self) -> list[psutil.Process]:
        """The claude processes of this world that run now."""
        found = []
        for child in psutil.Process().children(recursive=True):
            try:
                if child.environ().get("HOME") == str(self.home):
                    found.append(child)
            except psutil.Error:
                continue
        return found

    async def all_gone(self) -> None:
        """Wait for the end of every claude process of this world."""
        while self.processes():  # noqa: ASYNC110 - waiting for it would take its exit code
            await anyio.sleep(0.01)

    def asked(self) -> list[tuple[str, list[Any]]]:
        """What the last request said: roles with texts or other blocks, but the CLI's reminder."""
        messages = []
        for message in self.fake.body["messages"]:
            content = message["content"]
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            said_here = [
                block["text"] if block["type"] == "text" else without_cache(block)
                for block in blocks
                if not block.get("text", "").startswith(REMINDER)
            ]
            messages.append((message["role"], said_here))
        return messages

    def system(self) -> list[str]:
        """The system texts of the last request, but the CLI's own line."""
        texts = [block["text"] for block in self.fake.body["system"]]
        assert texts[0] == OWN_LINE
        return texts[1:]


REMINDER = "<system-reminder>\nAs you answer the user's questions"
OWN_LINE = "You are a Claude agent, built on Anthropic's Claude Agent SDK."


def without_cache(block: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in block.items() if name != "cache_control"}


@asynccontextmanager
async def make_world(path: Path) -> AsyncIterator[World]:
    """Make a world; when it is left, no process and no file of it may be left."""
    fake = FakeAnthropic()
    home, temp = path / "home", path / "temp"
    home.mkdir(exist_ok=True)
    temp.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("ANTHROPIC_", "CLAUDE", "AWS_", "GOOGLE_")):
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setattr(tempfile, "tempdir", str(temp))
        async with fake.running(), Supervisor() as supervisor:
            world = World(fake, home, temp, supervisor)
            yield world
        assert world.processes() == []
    assert list(temp.iterdir()) == []


async def run(
    backend: ClaudeBackend,
    asked: Turn,
    model: str | None = None,
    *,
    on_text: Callable[[], None] = lambda: None,
) -> list[Event]:
    """Run a turn to its end; a raised error is the last event. `on_text` is called at each text."""
    events: list[Event] = []
    with anyio.fail_after(HUNG_S):
        try:
            backend.check(asked)
            async with backend.open(asked, model) as stream:
                async for event in stream:
                    events.append(event)
                    if isinstance(event, TextDelta):
                        on_text()
        except ClinvkError as exc:
            events.append(Failed(exc))
    check_grammar(events)
    return events


async def failure(
    backend: ClaudeBackend,
    asked: Turn,
    model: str | None = None,
    *,
    on_text: Callable[[], None] = lambda: None,
) -> ClinvkError:
    """Run a turn that fails, and return its error."""
    last = (await run(backend, asked, model, on_text=on_text))[-1]
    assert isinstance(last, Failed)
    return last.error


def answer(events: list[Event]) -> str:
    """The text of an answer."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))
