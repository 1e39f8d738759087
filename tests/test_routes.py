"""Turns of models that several backends can answer for, over backends that play scripts."""

import logging
from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import pytest

from clinvk.capabilities import Level
from clinvk.errors import (
    BadRequestError,
    ClinvkError,
    NotInstalledError,
    NotLoggedInError,
    OverloadedError,
    RateLimitedError,
    ShuttingDownError,
    UnsupportedError,
)
from clinvk.events import Failed, Started, TextDelta, ToolActivity
from clinvk.procs.supervisor import Supervisor
from clinvk.registry import Registry
from clinvk.turn import ImagePart, Message, Role, Turn
from tests.fakes.backend import ANSWER, LiveBackend, ScriptBackend
from tests.routed import DONE, LIMITED, World, events, fails, said, user

PIXEL = ImagePart(media_type="image/png", data="aGk=")


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    async with Supervisor() as running:
        yield running


@pytest.fixture
def world(supervisor: Supervisor) -> World:
    return World(supervisor)


async def test_the_first_answers_if_it_can(world: World) -> None:
    stream = world.route("a", "b").start(said("hi"))
    assert await events(stream) == list(ANSWER)
    assert stream.backend == "a"
    assert world.b.turns == []


@pytest.mark.parametrize(
    "error",
    [
        NotLoggedInError("log in"),
        LIMITED,
        OverloadedError("full"),
    ],
)
async def test_the_next_answers_for_one_that_fails_at_once(
    world: World, error: ClinvkError
) -> None:
    world.a.script = (error,)
    stream = world.route("a", "b").start(said("hi"))
    assert await events(stream) == list(ANSWER)
    assert stream.backend == "b"
    assert [turn for turn, _ in world.b.turns] == [said("hi")]
    assert world.observed == [("a", error.code), ("b", "stop")]
    assert world.a.running == 0


async def test_who_is_not_installed_is_passed_over(world: World) -> None:
    world.a.refusal = NotInstalledError("install it")
    stream = world.route("a", "b").start(said("hi"))
    assert await events(stream) == list(ANSWER)
    assert world.a.turns == []


async def test_signs_of_life_are_no_answer(world: World) -> None:
    world.a.script = (Started("x"), ToolActivity("look", "done"), Failed(LIMITED))
    stream = world.route("a", "b").start(said("hi"))
    told = await events(stream)
    assert told[-len(ANSWER) :] == list(ANSWER)
    assert stream.backend == "b"


async def test_nobody_else_is_asked_once_there_was_text(world: World) -> None:
    world.a.script = (Started("x"), TextDelta("Hel"), LIMITED)
    stream = world.route("a", "b").start(said("hi"))
    assert await events(stream) == [Started("x"), TextDelta("Hel"), Failed(LIMITED)]
    assert world.b.turns == []


async def test_a_failure_that_is_not_chosen_is_told(world: World) -> None:
    world.a.script = (OverloadedError("full"),)
    service = world.route("a", "b", fallback=["rate_limited"])
    assert (await fails(service.start(said("hi")))).message == "full"
    assert world.b.turns == []


async def test_if_all_fail_all_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world.a.script = (LIMITED,)
    world.b.refusal = NotInstalledError("install it")
    world.c.script = (OverloadedError("full"),)
    stream = world.route("a", "b", "c").start(said("hi"))
    error = await fails(stream)
    assert isinstance(error, OverloadedError)
    assert error.message == "c: full; asked before: a: slow down; b: install it"
    assert world.observed == [("a", "rate_limit_exceeded"), ("c", "upstream_overloaded")]
    assert "a failed with rate_limit_exceeded, so c is asked" in caplog.text


async def test_if_nobody_can_be_asked_the_request_is_refused(world: World) -> None:
    world.a.refusal = NotInstalledError("install a")
    world.b.refusal = NotInstalledError("install b")
    with pytest.raises(NotInstalledError, match="b: install b; asked before: a: install a"):
        world.route("a", "b").start(said("hi"))


async def test_a_next_that_cannot_be_asked_leaves_the_first_failure(world: World) -> None:
    world.a.script = (LIMITED,)
    world.b.refusal = UnsupportedError("no tools")
    error = await fails(world.route("a", "b").start(said("hi")))
    assert (type(error), error.message) == (RateLimitedError, "slow down")


async def test_who_cannot_take_a_part_is_passed_over(world: World) -> None:
    world.a.capabilities = replace(world.a.capabilities, vision=Level.NO)
    seen = Turn("r", (Message(Role.USER, (PIXEL,)),))
    stream = world.route("a", "b").start(seen)
    assert await events(stream) == list(ANSWER)
    assert stream.backend == "b"


async def test_a_wrong_request_is_wrong_for_all(world: World) -> None:
    world.a.refusal = BadRequestError("wrong", param="messages")
    with pytest.raises(BadRequestError, match="wrong"):
        world.route("a", "b").start(said("hi"))
    assert world.b.turns == []


async def test_a_full_backend_leads_to_the_next(world: World) -> None:
    world.a.script = (anyio.Event(),)
    service = world.route("a", "b", limits={"max_concurrency": 1, "max_queue": 0})
    first = service.start(said("hi"))
    second = service.start(said("hi"))
    assert await events(second) == list(ANSWER)
    assert second.backend == "b"
    first.close()


async def test_the_shares_are_of_those_with_a_place_free(world: World) -> None:
    world.a.script = (anyio.Event(),)
    both = [{"target": name, "weight": 1} for name in "ab"]
    service = world.route(*both, limits={"max_concurrency": 1})
    first = service.start(said("hi"))
    for _ in range(3):
        stream = service.start(said("hi"))
        assert await events(stream) == list(ANSWER)
        assert stream.backend == "b"
    first.close()


async def test_a_time_limit_leads_to_the_next(world: World) -> None:
    world.a.script = (Started("x"), anyio.Event())
    service = world.route("a", "b", limits={"silence_s": 0.05})
    stream = service.start(said("hi"))
    assert (await events(stream))[-len(ANSWER) :] == list(ANSWER)
    assert world.a.running == 0


async def test_each_has_the_fields_that_it_ignores(world: World) -> None:
    world.a.script, world.a.ignores = (LIMITED,), ("tools",)
    world.b.ignores = ("reasoning_effort",)
    stream = world.route("a", "b").start(Turn("r", (user("hi"),), ignored=("seed",)))
    await events(stream)
    assert stream.ignored == ("seed", "reasoning_effort")


async def test_it_is_settled_who_answers_once_something_is_told(world: World) -> None:
    hold = anyio.Event()
    world.a.script = (hold, *ANSWER)
    stream = world.route("a", "b").start(said("hi"))
    assert not stream.settled
    hold.set()
    await events(stream)
    assert stream.settled


async def test_it_is_settled_who_answers_where_there_is_one(world: World) -> None:
    stream = world.route("a").start(said("hi"))
    assert stream.settled
    await events(stream)


async def test_choices_are_of_one_backend_and_part_only_before_the_first_word(
    world: World,
) -> None:
    world.a.script = (LIMITED,)
    stream = world.route("a", "b").start(replace(said("hi"), choices=3))
    told = await events(stream)
    assert told.count(DONE) == 3
    assert (len(world.a.turns), len(world.b.turns)) == (3, 3)
    assert stream.backend == "b"


async def test_no_choice_goes_elsewhere_after_another_has_begun(supervisor: Supervisor) -> None:
    later = anyio.Event()
    world = World(supervisor, LiveBackend((TextDelta("one"), later, DONE), (later, LIMITED)))
    stream = world.route("a", "b").start(replace(said("hi"), choices=2))
    with anyio.fail_after(10):
        assert await anext(stream) == (0, TextDelta("one"))
        later.set()
        told = [each async for each in stream]
    assert (1, Failed(LIMITED)) in told
    assert (0, DONE) in told
    assert world.b.turns == []


async def test_who_leaves_while_one_fails_has_nobody_else_asked(world: World) -> None:
    stopped = anyio.Event()
    world.a.script = (stopped, LIMITED)
    stream = world.route("a", "b").start(said("hi"))
    with anyio.fail_after(10):
        await world.a.entered.wait()
        stream.close()
        stopped.set()
        await world.a.left.wait()
        for ask in stream.asks:
            await ask.told.wait()
    assert world.b.turns == []


async def test_a_server_that_stops_asks_nobody_else(world: World) -> None:
    held = anyio.Event()
    world.a.script = (held, LIMITED)
    service = world.route("a", "b")
    stream = service.start(said("hi"))
    with anyio.fail_after(10):
        await world.a.entered.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(service.drain, 5.0)
            while not service.stopping:
                await anyio.lowlevel.checkpoint()
            held.set()
        assert await fails(stream) is LIMITED
    assert world.b.turns == []


async def test_a_backend_that_was_replaced_meanwhile_is_not_asked(world: World) -> None:
    held = anyio.Event()
    world.a.script = (held, LIMITED)
    service = world.route("a", "b")
    stream = service.start(said("hi"))
    await world.a.entered.wait()
    config = service.registry.config
    service.apply(Registry(config, {**world.all, "b": ScriptBackend("b")}))
    held.set()
    error = await fails(stream)
    assert isinstance(error, ShuttingDownError)
    assert "backend 'b' was just replaced" in error.message


async def test_who_is_meant_alone_is_asked_alone(world: World) -> None:
    service = world.route("b")
    way = service.way_of(service.registry.backend_alone("a"))
    world.a.script = (LIMITED,)
    error = await fails(service.start(Turn("a", (user("hi"),)), way=way))
    assert (type(error), error.message) == (RateLimitedError, "slow down")
