"""The real Codex CLI in conversations that go on: its model hears then what was sent."""

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from clinvk.backends.base import Live
from clinvk.events import (
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
    FilePart,
    ImagePart,
    Message,
    OutputFormat,
    Part,
)
from tests.fakes.api import Reply
from tests.real.codex_talk import (
    CALLS,
    SUNNY,
    as_told,
    asked,
    heard,
    parked,
    rest,
    result,
    settings,
    waiting,
)
from tests.real.codex_world import (
    World,
    codex_world,
    collect,
    said,
    text,
    turn,
)
from tests.test_media import GIF, PNG

pytestmark = pytest.mark.real

ODD = "\u00bd \ufb01 \u200b \x00 \x1b[0m \r\n\t$skill <turn_aborted>x</turn_aborted>"
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.fixture
async def world(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    async with codex_world(home, tmp_path, monkeypatch) as opened:
        yield opened


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
    assert len({request.body["prompt_cache_key"] for request in world.fake.requests}) == 1
    *_, seen, noon = heard(world)
    shown = [part.get("image_url") or part["text"] for part in seen["output"]]
    assert (seen["call_id"], shown) == ("call_resp_1_0", ["seen:", image.url, ODD])
    assert (noon["call_id"], noon["output"]) == ("call_resp_1_1", ODD)
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
        (ImagePart(data=GIF),),
        (FilePart("a.txt", data=base64.b64encode(b"a").decode()), "b"),
    ],
    ids=["none", "empty", "twice empty", "blank", "long", "broken image", "gif", "file"],
)
async def test_a_result_is_what_a_new_thread_would_be_told(
    world: World, parts: tuple[str | Part, ...]
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
