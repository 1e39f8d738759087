"""Two real ACP agents, Claude Code's and Qwen Code, as any agent is driven."""

import json
from collections.abc import AsyncIterator

import anyio
import pytest
import pytest_asyncio

from clinvk.backends.base import State
from clinvk.capabilities import Level
from clinvk.errors import (
    ModelNotFoundError,
    NotLoggedInError,
    UpstreamRefusedError,
)
from clinvk.events import Failed, Finished, FinishReason, TextDelta, ToolActivity, ToolCall
from clinvk.turn import FilePart, ImagePart, Message, Role, TextPart
from tests.fakes.api import Reply
from tests.real.agents_world import (
    CALL,
    COMMANDS,
    HUNG_S,
    PASS_PDF,
    SHELL,
    WEATHER,
    World,
    agent_world,
    answer,
    opened,
    rest,
    run,
    said,
    turn,
)
from tests.test_capabilities import PDF
from tests.test_media import PNG

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(COMMANDS))
async def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    async with agent_world(request.param, tmp_path_factory.mktemp("agent")) as world:
        yield world


@pytest.fixture
def world(shared: World) -> World:
    shared.fake.release.clear()
    shared.answers(Reply())
    return shared


async def test_an_answer_is_streamed_piece_by_piece(world: World) -> None:
    events = await run(world.backend, turn(said("system", "Be brief."), "What is new?"))
    pieces = [event.text for event in events if isinstance(event, TextDelta)]
    assert pieces == ["Hello", " from", " the", " fake", "."]
    assert events[-1] == Finished(FinishReason.STOP)
    asked = json.dumps(world.turns[-1]["messages"])
    assert "Be brief." in asked
    assert '"What is new?"' in asked


async def test_what_it_says_of_itself_is_what_is_claimed(world: World) -> None:
    health = await world.backend.health()
    assert (health.state, health.tested) == (State.READY, None)
    assert health.version in {"0.16.2", "0.24.4"}
    claimed = world.backend.capabilities
    assert claimed.vision is claimed.tools is Level.NATIVE
    assert (claimed.audio is Level.NATIVE) == (world.name == "qwen")


async def test_only_what_is_new_is_said_next(world: World) -> None:
    async with opened(world.backend, turn("one")) as (live, events):
        assert answer(events)
        assert live.waits
        world.answers(Reply(text=("two it is",)))
        await live.go_on((said("user", "/help me"),))
        assert answer(await rest(live)) == "two it is"
        roles = [message["role"] for message in world.turns[-1]["messages"]]
        assert roles[-3:] == ["user", "assistant", "user"]
        assert "/help me" in json.dumps(world.turns[-1]["messages"][-1])


async def test_images_reach_the_model(world: World) -> None:
    look = Message(Role.USER, (TextPart("look"), ImagePart(media_type="image/png", data=PNG)))
    assert answer(await run(world.backend, turn(look)))
    assert PNG[:60] in json.dumps(world.turns[-1]["messages"])


async def test_files_reach_the_model_as_text(world: World) -> None:
    file = Message(Role.USER, (TextPart("read"), FilePart("a.txt", data="SGVsbG8gZmlsZQ==")))
    assert answer(await run(world.backend, turn(file)))
    assert "a.txt:\\nHello file" in json.dumps(world.turns[-1]["messages"])


async def test_pdf_files_are_embedded_for_an_agent_that_passes_them_on(world: World) -> None:
    paper = Message(Role.USER, (TextPart("read"), FilePart("a b.pdf", data=PDF)))
    assert answer(await run(world.backend, turn(paper)))
    passed = PDF in json.dumps(world.turns[-1]["messages"])
    assert passed == (world.backend.capabilities.pdf is Level.NATIVE) == (world.name in PASS_PDF)


async def test_a_turn_that_calls_is_parked_and_goes_on(world: World) -> None:
    world.answers(CALL, Reply(text=("Sunny.",)))
    async with opened(world.backend, turn("weather?", tools=(WEATHER,))) as (live, events):
        [call] = [event for event in events if isinstance(event, ToolCall)]
        assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Rome"})
        assert events[-1] == Finished(FinishReason.TOOL_CALLS)
        assert not any(isinstance(event, ToolActivity) for event in events)
        assert live.waits
        await live.go_on((Message(Role.TOOL, (TextPart("22 degrees"),), call_id=call.id),))
        assert answer(await rest(live)) == "Sunny."
        assert "22 degrees" in json.dumps(world.turns[-1]["messages"][-1])
        assert live.waits


async def test_a_call_that_nobody_answers_leaves_nothing(world: World) -> None:
    world.answers(CALL, Reply(text=("Sunny.",)))
    async with opened(world.backend, turn("weather?", tools=(WEATHER,))) as (live, _):
        assert live.waits
    assert answer(await run(world.backend, turn("still there?"))) == "Sunny."


async def test_its_own_tools_are_refused(world: World) -> None:
    world.answers(Reply(text=(), tool_calls=(SHELL[world.name],)), Reply(text=("No.",)))
    async with opened(world.backend, turn("write a file")) as (live, events):
        assert any(isinstance(event, ToolActivity) for event in events)
        assert not any(isinstance(event, ToolCall) for event in events)
        assert not live.waits
    assert not (world.home / "marker").exists()


async def test_leaving_stops_the_model(world: World) -> None:
    world.answers(Reply(hold=2))
    aborted = world.fake.aborted
    with anyio.fail_after(HUNG_S):
        async with world.backend.open(turn("hi"), None) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    break
        await world.fake.idle.wait()
    assert world.fake.aborted == aborted + 1
    world.answers(Reply())
    assert answer(await run(world.backend, turn("still there?"))) == "Hello from the fake."


@pytest.mark.parametrize(
    ("status", "error"), [(400, UpstreamRefusedError), (401, NotLoggedInError)]
)
async def test_errors_of_the_model_api_are_typed(
    world: World, status: int, error: type[Exception]
) -> None:
    world.answers(Reply(status=status))
    last = (await run(world.backend, turn("hi")))[-1]
    assert isinstance(last, Failed)
    assert type(last.error) is error
    assert "fake error" in last.error.message


async def test_a_model_that_it_does_not_have_is_refused(world: World) -> None:
    last = (await run(world.backend, turn("hi"), "no-such"))[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, ModelNotFoundError)
    assert "it has: " in last.error.message


async def test_a_model_that_it_has_is_asked(world: World) -> None:
    model = {"claude-code-acp": "haiku", "qwen": "$runtime|anthropic|claude-x(anthropic)"}
    assert answer(await run(world.backend, turn("hi"), model[world.name]))
    assert {"claude-code-acp": "haiku", "qwen": "claude-x"}[world.name] in world.turns[-1]["model"]
