"""A home, a fake of the Gemini API, and the real Gemini CLI between them."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import psutil
import pytest

from clinvk.backends.gemini import GeminiBackend
from clinvk.config import GeminiConfig
from clinvk.errors import ClinvkError
from clinvk.events import Event, Failed, TextDelta, check_grammar
from clinvk.procs.supervisor import Supervisor
from clinvk.turn import Message, Role, TextPart, Turn
from tests.fakes.api import Reply
from tests.fakes.gemini import FakeGemini
from tests.real.conftest import cli

HUNG_S = 20  # a guard against hanging tests, not a measure
FLASH = "gemini-2.5-flash"
API_KEY_LOGIN = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
GOOGLE_LOGIN = {"security": {"auth": {"selectedType": "oauth-personal"}}}


def said(role: str, text: str) -> Message:
    return Message(Role(role), (TextPart(text),))


def turn(*messages: Message | str, effort: str | None = None) -> Turn:
    return Turn(
        "gemini",
        tuple(said("user", m) if isinstance(m, str) else m for m in messages),
        effort=effort,
    )


@dataclass
class World:
    """A fake API, a user's home, and backends that run in them."""

    fake: FakeGemini
    home: Path
    temp: Path
    supervisor: Supervisor
    made: list[GeminiBackend] = field(default_factory=list)

    def backend(
        self, *, retries: int = 0, command: str | None = None, **env: str | None
    ) -> GeminiBackend:
        """Make a backend; a variable that is None is left out."""
        variables: dict[str, str | None] = {
            "HOME": str(self.home),
            "GEMINI_API_KEY": "fake-key",
            "GOOGLE_GEMINI_BASE_URL": self.fake.url,
            **env,
        }
        config = GeminiConfig(
            kind="gemini",
            command=[command or cli("gemini")],
            env={name: value for name, value in variables.items() if value is not None},
            retries=retries,
        )
        backend = GeminiBackend("gemini", config, self.supervisor)
        self.made.append(backend)
        return backend

    def fresh(self) -> "World":
        """Return this world as if nothing had been asked in it yet."""
        self.fake.requests.clear()
        self.fake.release.clear()
        self.fake.aborted = 0
        self.fake.answer(Reply())
        return self

    def processes(self) -> list[psutil.Process]:
        """The gemini processes of this world that run now."""
        found = []
        for child in psutil.Process().children(recursive=True):
            try:
                if any(str(self.temp) in word for word in child.cmdline()):
                    found.append(child)
            except psutil.Error:
                continue
        return found

    def write(self, name: str, text: str) -> Path:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


def without_vendor_variables(patch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("GEMINI_", "GOOGLE_", "CLOUD", "GCLOUD", "OTEL")):
            patch.delenv(name)


@asynccontextmanager
async def gemini_world(path: Path) -> AsyncIterator[World]:
    """Open a world; nothing may be left in its temporary folder when it closes."""
    fake = FakeGemini()
    home, temp = path / "home", path / "temp"
    home.mkdir()
    temp.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        without_vendor_variables(patch)
        patch.setattr(tempfile, "tempdir", str(temp))
        async with fake.running(), Supervisor() as supervisor:
            world = World(fake, home, temp, supervisor)
            yield world
            for backend in world.made:
                backend.close()
    assert list(temp.iterdir()) == []


async def run(backend: GeminiBackend, asked: Turn, model: str | None = FLASH) -> list[Event]:
    """Run a turn to its end; a raised error is the last event."""
    events: list[Event] = []
    with anyio.fail_after(HUNG_S):
        try:
            backend.check(asked)
            async with backend.open(asked, model) as stream:
                events += [event async for event in stream]
        except ClinvkError as exc:
            events.append(Failed(exc))
    check_grammar(events)
    return events


async def failure(backend: GeminiBackend, asked: Turn, model: str | None = FLASH) -> ClinvkError:
    last = (await run(backend, asked, model))[-1]
    assert isinstance(last, Failed)
    return last.error


def answer(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))
