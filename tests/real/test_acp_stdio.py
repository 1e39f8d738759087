"""The caller's tools over stdin and stdout: an MCP server that real agents start themselves."""

import json
from collections.abc import AsyncIterator

import anyio
import psutil
import pytest
import pytest_asyncio

from clinvk import toolbridge
from clinvk.events import Finished, FinishReason, ToolCall
from clinvk.turn import Message, Role, TextPart, ToolSpec
from tests.fakes.api import Reply
from tests.real.agents_world import (
    CALL,
    COMMANDS,
    HUNG_S,
    WEATHER,
    World,
    agent_world,
    answer,
    line,
    opened,
    rest,
    run,
    said,
    turn,
)

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

CLOCK = ToolSpec("get_time", "Tells the time.", {"type": "object", "properties": {}})
BOTH = Reply(
    text=(), tool_calls=(("mcp__x__get_weather", {"city": "Rome"}), ("mcp__x__get_time", {}))
)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(COMMANDS))
async def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    path = tmp_path_factory.mktemp("agent")
    async with agent_world(request.param, path, tools="stdio") as world:
        yield world


@pytest.fixture
def world(shared: World) -> World:
    shared.answers(Reply())
    return shared


def bridges() -> list[psutil.Process]:
    program = toolbridge.COMMAND[-1]
    return [p for p in psutil.Process().children(recursive=True) if program in line(p)]


async def no_bridge_is_left() -> None:
    with anyio.fail_after(HUNG_S):
        while bridges():  # noqa: ASYNC110 - they are the agent's children
            await anyio.sleep(0.01)


def result(call: ToolCall, text: str) -> Message:
    return Message(Role.TOOL, (TextPart(text),), call_id=call.id)


async def test_a_turn_that_calls_is_parked_and_goes_on(world: World) -> None:
    world.answers(CALL, Reply(text=("Sunny.",)), Reply(text=("Bye.",)))
    async with opened(world.backend, turn("weather?", tools=(WEATHER,))) as (live, events):
        [call] = [event for event in events if isinstance(event, ToolCall)]
        assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Rome"})
        assert events[-1] == Finished(FinishReason.TOOL_CALLS)
        assert live.waits
        [bridge] = bridges()
        assert not any(word in str(bridge.cmdline()) for word in ("http:", "Secret"))
        await live.go_on((result(call, "22 degrees"),))
        assert answer(await rest(live)) == "Sunny."
        assert "22 degrees" in json.dumps(world.turns[-1]["messages"][-1])
        await live.go_on((said("user", "Thanks."),))
        assert answer(await rest(live)) == "Bye."
    await no_bridge_is_left()


async def test_calls_that_the_model_made_at_once_are_told_one_by_one(world: World) -> None:
    world.answers(BOTH, Reply(text=("Sunny at noon.",)))
    async with opened(world.backend, turn("both?", tools=(WEATHER, CLOCK))) as (live, first):
        told, events = [], first
        while calls := [event for event in events if isinstance(event, ToolCall)]:
            told += [call.name for call in calls]
            assert live.waits
            await live.go_on(tuple(result(call, f"of {call.name}") for call in calls))
            events = await rest(live)
        assert answer(events) == "Sunny at noon."
        assert sorted(told) == ["get_time", "get_weather"]
        results = json.dumps(world.turns[-1]["messages"][-1])
        assert "of get_weather" in results
        assert "of get_time" in results
    await no_bridge_is_left()


async def test_a_call_that_nobody_answers_leaves_nothing(world: World) -> None:
    world.answers(CALL, Reply(text=("Sunny.",)))
    async with opened(world.backend, turn("weather?", tools=(WEATHER,))) as (live, _):
        assert live.waits
    await no_bridge_is_left()
    assert answer(await run(world.backend, turn("still there?"))) == "Sunny."
