"""Conversations stay with the target that answered them, over backends that play scripts."""

from collections.abc import AsyncIterator

import pytest

from clinvk.conversations import Course
from clinvk.events import TextDelta, Usage
from clinvk.procs.supervisor import Supervisor
from clinvk.stream import Stream
from tests.fakes.backend import ANSWER, LiveBackend
from tests.routed import DONE, LIMITED, World, events, said


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    async with Supervisor() as running:
        yield running


@pytest.fixture
def world(supervisor: Supervisor) -> World:
    return World(supervisor)


async def test_a_conversation_stays_though_others_begin(world: World) -> None:
    service = world.route({"target": "a", "weight": 1}, {"target": "b", "weight": 1})
    first = [f"hello {number}" for number in range(6)]
    at = {}
    for text in first:
        stream = service.start(said(text), caller="me")
        await events(stream)
        at[text] = stream.backend
    assert sorted(at.values()) == ["a"] * 3 + ["b"] * 3
    for text in reversed(first):
        stream = service.start(said(text, "Hello world", "and?"), caller="me")
        await events(stream)
        assert stream.backend == at[text]


async def test_conversations_that_began_alike_part_by_their_answers(world: World) -> None:
    service = world.route({"target": "a", "weight": 1}, {"target": "b", "weight": 1})
    world.a.script, world.b.script = (TextDelta("I am a"), DONE), (TextDelta("I am b"), DONE)
    for _ in range(2):
        await events(service.start(said("hi")))
    for name in "abab":
        stream = service.start(said("hi", f"I am {name}", "and?"))
        await events(stream)
        assert stream.backend == name


async def test_a_conversation_goes_on_where_it_still_is(supervisor: Supervisor) -> None:
    scripts = [(TextDelta("yes"), DONE), (TextDelta("more"), DONE)]
    world = World(supervisor, LiveBackend(*scripts), LiveBackend(*scripts))
    service = world.route({"target": "a", "weight": 1}, {"target": "b", "weight": 1})
    backends = []
    for _ in range(2):
        stream = service.start(said("hi"))
        await events(stream)
        backends.append(stream.backend)
    assert backends == ["a", "b"]
    for _ in range(2):
        stream = service.start(said("hi", "yes", "and?"))
        assert await events(stream) == [TextDelta("more"), *(await _usage(stream)), DONE]
        assert stream.course is Course.CONTINUED
        backends.append(stream.backend)
    assert sorted(backends[2:]) == ["a", "b"]


async def _usage(stream: Stream) -> list[Usage]:
    usage = stream.asks[0].record.usage
    return [] if usage is None else [usage]


async def test_without_stickiness_each_turn_takes_its_share(world: World) -> None:
    service = world.route({"target": "a", "weight": 1}, {"target": "b", "weight": 1}, sticky=False)
    backends = []
    for _ in range(4):
        stream = service.start(said("hi", "Hello world", "and?"))
        await events(stream)
        backends.append(stream.backend)
    assert backends == ["a", "b", "a", "b"]


async def test_a_conversation_stays_where_a_failure_brought_it(world: World) -> None:
    service = world.route("a", "b", rest_s=0)
    world.a.script = (LIMITED,)
    await events(service.start(said("hi")))
    world.a.script = ANSWER
    stream = service.start(said("hi", "Hello world", "and?"))
    await events(stream)
    assert stream.backend == "b"


async def test_callers_conversations_are_their_own(world: World) -> None:
    service = world.route("a", "b", rest_s=0)
    world.a.script = (LIMITED,)
    await events(service.start(said("hi"), caller="me"))
    world.a.script = ANSWER
    stream = service.start(said("hi", "Hello world", "and?"), caller="you")
    await events(stream)
    assert stream.backend == "a"
