"""New settings for a running service: what stays, what goes, and when."""

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from clinvk.config import Config, EchoConfig
from clinvk.events import Event
from clinvk.procs.supervisor import Supervisor
from clinvk.registry import Registry, build
from clinvk.service import Service
from clinvk.stream import Stream
from clinvk.turn import Message, Role, TextPart, Turn
from tests.fakes.backend import ANSWER, LiveBackend, ScriptBackend

HELLO = (Message(Role.USER, (TextPart("hello world"),)),)


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    async with Supervisor() as running:
        yield running


async def events(stream: Stream) -> list[Event]:
    with anyio.fail_after(10):
        return [event async for _, event in stream]


class Reloaded:
    """A service whose backends are replaced: `one` stays as it is, `two` is new."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.one, self.two, self.new = (ScriptBackend(name) for name in ("one", "two", "two"))
        config = self.config(max_queue=1)
        self.service = Service(config, self.registry(config, self.two), supervisor)

    def config(self, **two: int) -> Config:
        backends = {
            "one": EchoConfig(kind="echo"),
            "two": EchoConfig.model_validate({"kind": "echo", **two}),
        }
        return Config.model_validate({"backends": backends, "aliases": {}})

    def registry(self, config: Config, two: ScriptBackend) -> Registry:
        return Registry(config, {"one": self.one, "two": two})

    def apply(self) -> None:
        config = self.config(max_queue=2)
        self.service.apply(self.registry(config, self.new))


async def test_new_settings_are_for_new_turns(supervisor: Supervisor) -> None:
    reloaded = Reloaded(supervisor)
    hold = anyio.Event()
    for backend in (reloaded.one, reloaded.two):
        backend.script = (hold, *ANSWER)
    await reloaded.service.warm()
    streams = [reloaded.service.start(Turn(name, HELLO)) for name in ("one", "two")]
    await reloaded.service.health()
    reloaded.apply()
    assert await events(reloaded.service.start(Turn("two", HELLO))) == list(ANSWER)
    assert (len(reloaded.two.turns), len(reloaded.new.turns)) == (1, 1)
    before = reloaded.two.closed
    hold.set()
    for stream in streams:
        assert await events(stream) == list(ANSWER)
    with anyio.fail_after(10):
        while not (reloaded.two.closed and reloaded.new.warmed):
            await anyio.lowlevel.checkpoint()
        await reloaded.service.health()
    assert (before, reloaded.one.closed, reloaded.new.closed) == (False, False, False)
    assert reloaded.new.looks == 1


async def test_what_a_replaced_backend_keeps_is_let_go(supervisor: Supervisor) -> None:
    reloaded = Reloaded(supervisor)
    old = LiveBackend(ANSWER)
    old.name = "two"
    config = reloaded.config(max_queue=1)
    service = Service(config, reloaded.registry(config, old), supervisor)
    await events(service.start(Turn("two", HELLO)))
    assert (old.running, service.load()["two"].idle) == (1, 1)
    service.apply(reloaded.registry(reloaded.config(), reloaded.new))
    with anyio.fail_after(10):
        while old.running or not old.closed:
            await anyio.lowlevel.checkpoint()
    assert service.load()["two"].idle == 0


def test_equal_settings_keep_their_backend() -> None:
    supervisor = Supervisor()
    before = Config.model_validate({"backends": {"a": {"kind": "echo"}, "b": {"kind": "echo"}}})
    after = Config.model_validate(
        {"backends": {"a": {"kind": "echo"}, "b": {"kind": "echo", "max_queue": 1}}}
    )
    old = build(before, supervisor)
    new = build(after, supervisor, old)
    assert new.backends["a"] is old.backends["a"]
    assert new.backends["b"] is not old.backends["b"]


async def test_a_look_at_backends_that_are_replaced_meanwhile_is_done_anew(
    supervisor: Supervisor,
) -> None:
    before, after = (
        Config.model_validate({"backends": {name: {"kind": "echo"}}}) for name in ("one", "two")
    )
    old, new = ScriptBackend("one"), ScriptBackend("two")
    old.hold = anyio.Event()
    service = Service(before, Registry(before, {"one": old}), supervisor)
    found: list[str] = []

    async def look() -> None:
        found.extend(await service.health())

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(look)
            await anyio.wait_all_tasks_blocked()
            service.apply(Registry(after, {"two": new}))
            old.hold.set()
    assert found == ["two"]
