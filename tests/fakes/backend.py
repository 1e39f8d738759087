"""A backend that plays a script, for tests of everything above backends."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio

from clinvk.backends import claims
from clinvk.backends.base import Health, Live, Processes, State
from clinvk.capabilities import Level
from clinvk.config import Config, EchoConfig
from clinvk.errors import ClinvkError
from clinvk.events import Event, Finished, FinishReason, Started, TextDelta, Usage
from clinvk.procs.supervisor import Supervisor
from clinvk.registry import Registry
from clinvk.turn import Message, Turn

Step = Event | anyio.Event | Exception

ANSWER: tuple[Event, ...] = (
    Started("m"),
    TextDelta("Hello"),
    TextDelta(" world"),
    Usage(5, 2, cached_tokens=3),
    Finished(FinishReason.STOP),
)


class ScriptBackend:
    """Plays `script`: an event is given, an exception raised, an anyio.Event awaited."""

    kind = "script"
    vendor = "tests"
    capabilities = replace(claims.CLAUDE, audio=Level.NATIVE, files=Level.NATIVE, pdf=Level.NATIVE)
    installed = True

    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.script: tuple[Step, ...] = ANSWER
        self.refusal: ClinvkError | None = None
        self.ignores: tuple[str, ...] = ()
        self.turns: list[tuple[Turn, str | None]] = []
        self.running = 0
        self.entered = anyio.Event()
        self.left = anyio.Event()
        self.found = Health(State.READY, "1.0")
        self.warmed = 0
        self.closed = False
        self.looks = 0
        self.trouble: str | None = None
        self.processes = Processes(running=2, spares=1, starts=5, failures=3)
        self.hold: anyio.Event | None = None

    def check(self, turn: Turn) -> tuple[str, ...]:
        if self.refusal is not None:
            raise self.refusal
        return self.ignores

    @asynccontextmanager
    async def open(self, turn: Turn, model: str | None) -> AsyncIterator[AsyncIterator[Event]]:
        self.turns.append((turn, model))
        self.running += 1
        self.entered.set()
        try:
            yield self._play()
        finally:
            self.running -= 1
            self.left.set()

    async def _play(self) -> AsyncIterator[Event]:
        for step in self.script:
            if (event := await played(step)) is not None:
                yield event

    async def health(self) -> Health:
        self.looks += 1
        if self.hold is not None:
            await self.hold.wait()
        return self.found

    async def warm(self) -> None:
        self.warmed += 1

    def close(self) -> None:
        self.closed = True


async def played(step: Step) -> Event | None:
    """Give an event, raise an exception, or wait."""
    if isinstance(step, anyio.Event):
        await step.wait()
        return None
    if isinstance(step, Exception):
        raise step
    return step


class Conversation(Live):
    """Plays one script a turn; `news` is what it was told between them."""

    def __init__(self, scripts: list[tuple[Step, ...]]) -> None:
        self.news: list[tuple[Message, ...]] = []
        self.alive = True
        self.refusal: ClinvkError | None = None
        self._scripts = scripts
        self._steps = list(scripts.pop(0))

    @property
    def waits(self) -> bool:
        return self.alive

    async def __anext__(self) -> Event:
        while self._steps:
            if (event := await played(self._steps.pop(0))) is not None:
                return event
        raise StopAsyncIteration

    async def go_on(self, news: tuple[Message, ...]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.news.append(news)
        self._steps = list(self._scripts.pop(0))


class LiveBackend(ScriptBackend):
    """Takes its scripts from `scripts` in turn, whichever conversation asks."""

    def __init__(self, *scripts: tuple[Step, ...]) -> None:
        super().__init__()
        self.scripts = list(scripts)
        self.conversations: list[Conversation] = []

    @asynccontextmanager
    async def open(self, turn: Turn, model: str | None) -> AsyncIterator[AsyncIterator[Event]]:
        self.turns.append((turn, model))
        self.running += 1
        self.conversations.append(Conversation(self.scripts))
        try:
            yield self.conversations[-1]
        finally:
            self.running -= 1


def script_config(**limits: float) -> Config:
    """A configuration with one backend, `fake`, and these limits."""
    return Config(
        backends={"fake": EchoConfig.model_validate({"kind": "echo", **limits})},
        aliases={"alias-*": "fake/{model}", "short": "fake"},
    )


def builder(backend: ScriptBackend) -> Callable[[Config, Supervisor, Registry | None], Registry]:
    """What `create_app` calls to make its backends."""
    return lambda config, *_: Registry(config, {backend.name: backend})
