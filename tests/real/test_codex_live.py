"""The real Codex CLI in conversations that go on: its model hears then what was sent."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.backends import codex
from clinvk.backends.base import Live
from clinvk.backends.codex_server import AppServer
from clinvk.errors import (
    CliCrashedError,
    ClinvkError,
    RateLimitedError,
    UpstreamError,
    UpstreamUnreachableError,
)
from clinvk.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCall,
    Usage,
)
from clinvk.turn import (
    ImagePart,
    Message,
    OutputFormat,
    PriorCall,
    Role,
    TextPart,
    ToolChoice,
    ToolMode,
    ToolSpec,
    Turn,
)
from tests.fakes.api import Reply
from tests.real.codex_world import (
    HUNG_S,
    World,
    codex_world,
    collect,
    loaded,
    said,
    servers,
    text,
    turn,
    until,
    until_unloaded,
    watch_starts,
)
from tests.test_media import PNG

pytestmark = pytest.mark.real

TOOLS = (ToolSpec("get_weather"), ToolSpec("get_time"))
CALLS = Reply(
    text=("Let me see.",), tool_calls=(("get_weather", {"city": "Rome"}), ("get_time", {}))
)
SUNNY = Reply(text=("Sunny.",))
ODD = "\u00bd \ufb01 \u200b \x00 \x1b[0m \r\n\t$skill <turn_aborted>x</turn_aborted>"
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
# Of what is heard on a thread that went on, this alone is not heard on one that is told it all.
OWN = ("id", "status", "internal_chat_message_metadata_passthrough")


@pytest.fixture
async def world(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    async with codex_world(home, tmp_path, monkeypatch) as opened:
        yield opened


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[AppServer]:
    """The app-servers that were started, in order."""
    return watch_starts(monkeypatch)


def asked(*messages: Message | str, **more: Any) -> Turn:
    return replace(turn(*(messages or ("hi",))), **{"tools": TOOLS, **more})


def result(call_id: str, *parts: TextPart | ImagePart | str) -> Message:
    told = tuple(TextPart(part) if isinstance(part, str) else part for part in parts)
    return Message(Role.TOOL, told, call_id=call_id)


def heard(world: World, at: int = -1) -> list[dict[str, Any]]:
    """What the model heard of the conversation, but for what is codex's own."""
    items = []
    for item in world.fake.requests[at].body["input"]:
        if item["type"] == "reasoning":
            continue
        plain = {key: value for key, value in item.items() if key not in OWN}
        for key in ("content", "output"):
            if isinstance(plain.get(key), list):
                plain[key] = [
                    {k: v for k, v in part.items() if k not in ("annotations", "detail")}
                    for part in plain[key]
                ]
        items.append(plain)
    return items


def settings(world: World, at: int = -1) -> dict[str, Any]:
    """What else is asked upstream, but for the names of the thread and its turn."""
    own = ("input", "prompt_cache_key", "client_metadata")
    return {k: v for k, v in world.fake.requests[at].body.items() if k not in own}


def as_told(events: list[Event]) -> Message:
    """The reply as its caller sends it back."""
    calls = [e for e in events if isinstance(e, ToolCall)]
    words = text(events)
    return Message(
        Role.ASSISTANT,
        (TextPart(words),) if words else (),
        tuple(PriorCall(call.id, call.name, call.arguments) for call in calls),
    )


async def rest(live: AsyncIterator[Event]) -> list[Event]:
    with anyio.fail_after(HUNG_S):
        return [event async for event in live]


async def go_through(live: Live, news: tuple[Message, ...]) -> list[Event]:
    with anyio.fail_after(HUNG_S):
        await live.go_on(news)
        return [event async for event in live]


async def waiting(events: AsyncIterator[Event], reason: FinishReason) -> Live:
    """Read a turn, and return the conversation that waits after it."""
    assert (await rest(events))[-1] == Finished(reason)
    assert isinstance(events, Live)
    assert events.waits
    return events


async def parked(events: AsyncIterator[Event]) -> Live:
    return await waiting(events, FinishReason.TOOL_CALLS)


@pytest.mark.parametrize("model", ["unheard-of", "gpt-6-astra", "gpt-5.5"])
async def test_results_go_to_the_turn_that_made_the_calls(world: World, model: str) -> None:
    world.fake.answer(replace(CALLS, thinking=("Hm.",)), SUNNY)
    backend = world.backend()
    image = ImagePart(url=f"data:image/png;base64,{PNG}")
    weather = result("call_resp_1_0", "seen:", image, ODD)
    time = result("call_resp_1_1", ODD)
    async with backend.open(asked(), model) as events:
        first = await rest(events)
        assert isinstance(events, Live)
        assert events.waits
        await events.go_on((time, weather))
        assert await rest(events) == [
            Started(model),
            TextDelta("Sunny."),
            Usage(11, 7),
            Finished(FinishReason.STOP),
        ]
    assert (
        world.fake.requests[-1].body["prompt_cache_key"]
        == (world.fake.requests[0].body["prompt_cache_key"])
    )
    assert heard(world)[-2:] == [
        {
            "type": "function_call_output",
            "call_id": "call_resp_1_0",
            "output": [
                {"type": "input_text", "text": "seen:"},
                {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
                {"type": "input_text", "text": ODD},
            ],
        },
        {"type": "function_call_output", "call_id": "call_resp_1_1", "output": ODD},
    ]
    await collect(backend, asked("hi", as_told(first), weather, time), model)
    assert heard(world, -2) == heard(world)
    assert settings(world, -2) == settings(world)


@pytest.mark.parametrize(
    "parts",
    [
        (),
        ("",),
        ("", ""),
        (" \n",),
        ("x" * 2_000_000,),
        (ImagePart(data="iVBORw0KGgoAAAANSUhEUgAA"),),
    ],
    ids=["none", "empty", "twice empty", "blank", "long", "broken image"],
)
async def test_a_result_is_what_a_new_thread_would_be_told(
    world: World, parts: tuple[str | ImagePart, ...]
) -> None:
    world.fake.answer(Reply(text=(), tool_calls=(("get_time", {}),)), SUNNY)
    backend, told = world.backend(), result("call_resp_1_0", *parts)
    async with backend.open(asked(), "m") as events:
        first = await rest(events)
        assert isinstance(events, Live)
        await events.go_on((told,))
        await rest(events)
    await collect(backend, asked("hi", as_told(first), told))
    assert heard(world, -2) == heard(world)


async def test_round_after_round_and_then_the_next_question(world: World) -> None:
    again = Reply(text=("And",), tool_calls=(("get_time", {}),), input_tokens=20, cached_tokens=11)
    world.fake.answer(CALLS, again, SUNNY, Reply(text=("More", ".")))
    history: list[Message] = [said("system", "S"), said("user", "hi")]
    rounds: list[tuple[Message, ...]] = [
        (result("call_resp_1_0", "21"), result("call_resp_1_1", "noon")),
        (result("call_resp_2_0", "one"),),
        (said("user", "$skill @file /new"), said("user", "and", "more")),
    ]
    backend, told = world.backend(), []
    async with backend.open(asked(*history), "m") as events:
        assert isinstance(events, Live)
        for news in (*rounds, ()):
            told.append(await rest(events))
            assert events.waits
            history += [as_told(told[-1]), *news]
            if news:
                await events.go_on(news)
    assert told[1:] == [
        [
            Started("m"),
            TextDelta("And"),
            ToolCall("call_resp_2_0", "get_time", "{}"),
            Usage(20, 7, cached_tokens=11),
            Finished(FinishReason.TOOL_CALLS),
        ],
        [Started("m"), TextDelta("Sunny."), Usage(11, 7), Finished(FinishReason.STOP)],
        [
            Started("m"),
            TextDelta("More"),
            TextDelta("."),
            Usage(11, 7),
            Finished(FinishReason.STOP),
        ],
    ]
    assert len(world.fake.requests) == 4
    assert len({request.body["prompt_cache_key"] for request in world.fake.requests}) == 1
    await collect(backend, asked(*history[:-1]))
    assert heard(world, -2) == heard(world)
    assert settings(world, -2) == settings(world)


async def test_a_long_talk_is_told_in_order_and_once(world: World) -> None:
    world.fake.script = lambda request: Reply(text=(f"answer {len(request.body['input'])}",))
    backend = world.backend()
    history: list[Message] = [said("user", "0")]
    async with backend.open(turn(*history, effort="high"), "gpt-5.5") as events:
        for number in range(1, 6):
            told = await rest(events)
            assert isinstance(events, Live)
            assert events.waits
            history += [as_told(told), said("user", str(number))]
            await events.go_on((history[-1],))
        await rest(events)
    await collect(backend, turn(*history, effort="high"), "gpt-5.5")
    assert [item["content"][0]["text"] for item in heard(world)] == [
        *("0", "answer 1", "1", "answer 3", "2", "answer 5", "3", "answer 7", "4", "answer 9"),
        "5",
    ]
    assert heard(world, -2) == heard(world)
    assert settings(world, -2) == settings(world)


async def test_the_reasoning_is_remembered_too(world: World) -> None:
    world.fake.answer(Reply(thinking=("Hm.",)), Reply(thinking=("Aha.",)))
    async with world.backend().open(turn("hi"), "m") as events:
        live = await waiting(events, FinishReason.STOP)
        await live.go_on((said("user", "so?"),))
        told = await rest(live)
    assert [e.text for e in told if isinstance(e, ReasoningDelta)] == ["Aha."]
    kinds = [item["type"] for item in world.fake.requests[-1].body["input"]]
    assert kinds == ["message", "reasoning", "message", "message"]


async def test_leaving_a_parked_turn_interrupts_it(world: World, started: list[AppServer]) -> None:
    world.fake.answer(CALLS)
    async with world.backend().open(asked(), "m") as events:
        await parked(events)
        assert len(await loaded(started[0])) == 1
    await until_unloaded(started[0])
    assert len(world.fake.requests) == 1


async def test_leaving_an_idle_thread_drops_it(world: World, started: list[AppServer]) -> None:
    async with world.backend().open(turn("hi"), "m") as events:
        await waiting(events, FinishReason.STOP)
        assert len(await loaded(started[0])) == 1
    await until_unloaded(started[0])


@pytest.mark.parametrize("news", [said("user", "so?"), result("call_resp_1_0", "21")])
async def test_leaving_while_it_goes_on_stops_the_answer(
    world: World, started: list[AppServer], news: Message
) -> None:
    first = Reply(tool_calls=(("get_time", {}),)) if news.call_id else Reply()
    world.fake.answer(first, Reply(hold=2))
    async with world.backend().open(asked(), "m") as events:
        await rest(events)
        assert isinstance(events, Live)
        await events.go_on((news,))
        with anyio.fail_after(HUNG_S):
            assert await anext(events) == Started("m")
    await until(lambda: world.fake.aborted == 1)
    await until_unloaded(started[0])


async def test_one_thread_that_waits_holds_up_no_other(world: World) -> None:
    world.fake.answer(CALLS, Reply(), SUNNY)
    backend = world.backend()
    async with backend.open(asked(), "m") as events:
        live = await parked(events)
        assert text(await collect(backend, asked())) == "Hello from the fake."
        await live.go_on((result("call_resp_1_0", "21"), result("call_resp_1_1", "noon")))
        assert text(await rest(live)) == "Sunny."


async def test_a_server_that_has_served_long_enough_ends_with_its_last_conversation(
    world: World, started: list[AppServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codex, "RECYCLE_AFTER", 1)
    backend = world.backend()
    async with backend.open(turn("hi"), "m") as events:
        live = await waiting(events, FinishReason.STOP)
        await until(lambda: len(started) == 2)
        async with backend.open(turn("hi"), "m") as others:
            await waiting(others, FinishReason.STOP)
            assert len(await loaded(started[1])) == 1
        assert live.waits
        await live.go_on((said("user", "so?"),))
        assert text(await rest(live)) == "Hello from the fake."
        assert started[0].alive
    await until(lambda: not started[0].alive)
    assert [item["role"] for item in heard(world)] == ["user", "assistant", "user"]


@pytest.mark.parametrize("first", [CALLS, Reply()], ids=["parked", "idle"])
async def test_what_was_killed_does_not_wait(world: World, first: Reply) -> None:
    world.fake.answer(first)
    backend = world.backend()
    news = (result("call_resp_1_0", "1"), result("call_resp_1_1", "2"))
    async with backend.open(asked(), "m") as events:
        await rest(events)
        assert isinstance(events, Live)
        assert events.waits
        for server in servers():
            server.kill()
        await until(lambda: not events.waits)
        with pytest.raises(CliCrashedError):
            await go_through(events, news if first is CALLS else (said("user", "so?"),))
    assert text(await collect(backend, asked())) != ""


async def test_a_server_that_stops_keeps_nobody_waiting(world: World) -> None:
    backend = world.backend()
    async with backend.open(asked(), "m") as events:
        live = await waiting(events, FinishReason.STOP)
        backend.close()
        assert not live.waits


BROKEN: dict[str, tuple[Reply, type[ClinvkError]]] = {
    "429": (Reply(status=429, headers={"retry-after": "7"}), RateLimitedError),
    "500": (Reply(status=500), UpstreamError),
    "cut": (Reply(cut=2), UpstreamUnreachableError),
    "cut after a call": (replace(CALLS, text=(), cut=1), UpstreamUnreachableError),
    "failed": (Reply(text=(), error={"message": "x", "code": "server_error"}), UpstreamError),
}


@pytest.mark.parametrize("first", [CALLS, Reply()], ids=["parked", "idle"])
@pytest.mark.parametrize("name", BROKEN)
async def test_a_failure_is_typed_and_not_gone_on_from(
    world: World, name: str, first: Reply
) -> None:
    reply, kind = BROKEN[name]
    world.fake.answer(first, reply)
    async with world.backend().open(asked(), "m") as events:
        calls = as_told(await rest(events)).calls
        assert isinstance(events, Live)
        news = tuple(result(call.id, "1") for call in calls) or (said("user", "so?"),)
        await events.go_on(news)
        failed = (await rest(events))[-1]
        assert isinstance(failed, Failed)
        assert type(failed.error) is kind
        assert not events.waits
    if isinstance(failed.error, RateLimitedError):
        assert failed.error.retry_after_s == 7
    assert len(world.fake.requests) == 2


@pytest.mark.parametrize(
    ("more", "reply"),
    [
        ({"parallel_calls": False}, CALLS),
        ({"tools": TOOLS[:1]}, CALLS),
        ({"tool_choice": ToolChoice(ToolMode.REQUIRED)}, CALLS),
        ({}, Reply(stop="max_output_tokens")),
        ({}, Reply(stop="refusal")),
    ],
    ids=["one at a time", "one not offered", "required", "cut short", "refused"],
)
async def test_what_the_caller_was_not_told_is_not_gone_on_from(
    world: World, started: list[AppServer], more: dict[str, Any], reply: Reply
) -> None:
    world.fake.answer(reply)
    async with world.backend().open(asked(**more), "m") as events:
        await rest(events)
        assert isinstance(events, Live)
        assert not events.waits
    await until_unloaded(started[0])


@pytest.mark.parametrize("tools", [TOOLS, ()], ids=["tools", "no tools"])
async def test_a_wrong_call_that_codex_answered_is_not_gone_on_from(
    world: World, tools: tuple[ToolSpec, ...]
) -> None:
    world.fake.answer(Reply(text=(), tool_calls=(("shell", {"command": ["ls"]}),)), SUNNY)
    async with world.backend().open(asked(tools=tools), "m") as events:
        told = await rest(events)
        assert (text(told), told[-1]) == ("Sunny.", Finished(FinishReason.STOP))
        assert isinstance(events, Live)
        assert not events.waits


async def test_a_second_try_is_gone_on_from(world: World) -> None:
    world.fake.answer(Reply(status=500), Reply(), Reply(status=500), SUNNY)
    async with world.backend(retries=1).open(turn("hi"), "m") as events:
        live = await waiting(events, FinishReason.STOP)
        await live.go_on((said("user", "so?"),))
        assert text(await rest(live)) == "Sunny."
    assert len(world.fake.requests) == 4


async def test_json_is_asked_for_again_and_looked_at_again(world: World) -> None:
    world.fake.answer(
        CALLS, Reply(text=('{"n": 1}',)), Reply(text=('{"n": 2}',)), Reply(text=("no",))
    )
    form = OutputFormat(SCHEMA, strict=True)
    async with world.backend().open(asked(format=form), "m") as events:
        live = await parked(events)
        await live.go_on((result("call_resp_1_0", "21"), result("call_resp_1_1", "noon")))
        assert text(await rest(live)) == '{"n": 1}'
        await live.go_on((said("user", "so?"),))
        assert text(await rest(live)) == '{"n": 2}'
        await live.go_on((said("user", "so?"),))
        assert isinstance((await rest(live))[-1], Failed)
    formats = [request.body["text"]["format"]["schema"] for request in world.fake.requests]
    assert formats == [SCHEMA] * 4
