"""A service whose model `r` several scripted backends can answer for."""

from typing import Any

import anyio

from clinvk.config import Config, EchoConfig
from clinvk.errors import ClinvkError, RateLimitedError
from clinvk.events import Event, Failed, Finished, FinishReason
from clinvk.procs.supervisor import Supervisor
from clinvk.registry import Registry
from clinvk.routes import RouteConfig
from clinvk.service import Service
from clinvk.stream import Stream
from clinvk.turn import Message, Role, TextPart, Turn
from tests.fakes.backend import ScriptBackend

LIMITED = RateLimitedError("slow down")
DONE = Finished(FinishReason.STOP)


def user(text: str) -> Message:
    return Message(Role.USER, (TextPart(text),))


def assistant(text: str) -> Message:
    return Message(Role.ASSISTANT, (TextPart(text),))


def said(*texts: str) -> Turn:
    """A conversation of the user and the model in turns, with the user last."""
    speakers = (user, assistant)
    return Turn("r", tuple(speakers[at % 2](text) for at, text in enumerate(texts)))


class World:
    """A service with the backends a, b and c and a route `r` to some of them."""

    def __init__(self, supervisor: Supervisor, *backends: ScriptBackend) -> None:
        self.supervisor = supervisor
        self.all: dict[str, ScriptBackend] = {}
        for name, backend in zip(
            "abc", [*backends, *(ScriptBackend() for _ in "abc")], strict=False
        ):
            backend.name = name
            self.all[name] = backend
        self.a, self.b, self.c = self.all.values()
        self.observed: list[tuple[str, str]] = []

    def route(self, *targets: object, limits: dict[str, Any] | None = None, **set_: Any) -> Service:
        config = Config(
            backends={
                name: EchoConfig.model_validate({"kind": "echo", **(limits or {})})
                for name in self.all
            },
            routes={"r": RouteConfig.model_validate({"targets": list(targets), **set_})},
        )
        service = Service(config, Registry(config, dict(self.all)), self.supervisor)
        service.observers.append(lambda name, ask: self.observed.append((name, ask.record.outcome)))
        return service


async def events(stream: Stream) -> list[Event]:
    with anyio.fail_after(10):
        return [event async for _, event in stream]


async def fails(stream: Stream) -> ClinvkError:
    *_, last = await events(stream)
    assert isinstance(last, Failed)
    return last.error
