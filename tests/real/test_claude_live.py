"""The real Claude Code in conversations that go on: what it is given then is what was sent."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.backends.base import Live
from clinvk.errors import CliCrashedError
from clinvk.events import Event, Finished, FinishReason, Started, TextDelta, ToolCall, Usage
from clinvk.turn import ImagePart, Message, OutputFormat, Role, TextPart, ToolSpec, Turn
from tests.fakes.api import Reply
from tests.real.bridge import Bridge, bridge
from tests.real.claude_world import HUNG_S, World, make_world, run, said, turn, without_cache

pytestmark = pytest.mark.real

PNG = base64.b64encode(
    base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJg"
        "gg=="
    )
).decode()
TOOLS = (ToolSpec("f"), ToolSpec("g"))
CALLS = Reply(text=("Let me see.",), tool_calls=(("f", {"x": 1}), ("g", {})))
ODD = "½ ﬁ \u200b \x00 \x1b[0m \r\n\t<system-reminder>x</system-reminder>"
DONE: list[Event] = [
    Started("claude-opus-4-8"),
    TextDelta("done"),
    Usage(11, 7),
    Finished(FinishReason.STOP),
]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        yield made


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Bridge]:
    (tmp_path / "home").mkdir()
    async with bridge("claude", tmp_path / "home") as made:
        yield made


def result(number: int, *parts: TextPart | ImagePart) -> Message:
    return Message(Role.TOOL, parts, call_id=f"toolu_{number}")


async def rest(conversation: AsyncIterator[Event]) -> list[Event]:
    with anyio.fail_after(HUNG_S):
        return [event async for event in conversation]


async def parked(conversation: AsyncIterator[Event]) -> Live:
    """Read up to the calls, and return the conversation that waits for their results."""
    assert (await rest(conversation))[-1] == Finished(FinishReason.TOOL_CALLS)
    assert isinstance(conversation, Live)
    assert conversation.waits
    return conversation


async def test_results_go_to_the_turn_that_made_the_calls(world: World) -> None:
    world.fake.answer(CALLS, Reply(text=("done",)))
    image = ImagePart(url=f"data:image/png;base64,{PNG}")
    asked = turn(said("system", "S"), "hi", tools=TOOLS)
    news = (result(1, TextPart("see"), image), result(0, TextPart(ODD), TextPart("b")))
    async with world.backend().open(asked, None) as events:
        live = await parked(events)
        await live.go_on(news)
        assert await rest(live) == DONE
        assert live.waits
    assert world.asked() == [
        ("user", ["hi"]),
        (
            "assistant",
            [
                "Let me see.",
                {"type": "tool_use", "id": "toolu_0", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "toolu_1", "name": "g", "input": {}},
            ],
        ),
        (
            "user",
            [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_0",
                    "content": [{"type": "text", "text": ODD}, {"type": "text", "text": "b"}],
                },
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [
                        {"type": "text", "text": "see"},
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": PNG},
                        },
                    ],
                },
            ],
        ),
    ]
    assert world.system() == ["S"]
    assert sorted(tool["name"] for tool in world.fake.body["tools"]) == ["f", "g"]


async def test_round_after_round_goes_on(world: World) -> None:
    again = Reply(text=(), tool_calls=(("g", {"y": 2}),))
    world.fake.answer(CALLS, again, Reply(text=("done",)), Reply(text=("done",)))
    async with world.backend().open(turn("hi", tools=TOOLS), None) as events:
        live = await parked(events)
        await live.go_on((result(0, TextPart("1")), result(1, TextPart("2"))))
        assert await rest(live) == [
            DONE[0],
            ToolCall("toolu_2", "g", '{"y": 2}'),
            Usage(11, 7),
            Finished(FinishReason.TOOL_CALLS),
        ]
        await live.go_on((result(2, TextPart("3")),))
        assert await rest(live) == DONE
        await live.go_on((said("user", "/next @file"), said("user", "one")))
        assert await rest(live) == DONE
    assert [role for role, _ in world.asked()] == ["user", "assistant"] * 3 + ["user"]
    assert world.asked()[-1] == ("user", ["/next @file", "one"])
    assert len(world.fake.turns) == 4


async def test_a_continued_conversation_is_what_a_new_one_would_be_told(world: World) -> None:
    texts = ("one", " ".join(["long"] * 5000), "three")
    world.fake.script = lambda request: Reply(text=(f"answer {len(request.body['messages'])}",))
    backend = world.backend()
    history: list[Message] = [said("system", "S")]
    async with backend.open(turn(*history, texts[0]), None) as events:
        history.append(said("user", texts[0]))
        answer = await rest(events)
        for text in texts[1:]:
            told = "".join(event.text for event in answer if isinstance(event, TextDelta))
            history += [said("assistant", told), said("user", text)]
            assert isinstance(events, Live)
            await events.go_on((history[-1],))
            answer = await rest(events)
    continued = world.asked()
    await run(backend, turn(*history))
    assert world.asked() == continued
    assert world.system() == ["S"]


async def test_json_may_follow_results(world: World) -> None:
    form = OutputFormat({"type": "object", "properties": {"n": {"type": "integer"}}})
    answer = Reply(text=(), tool_calls=(("StructuredOutput", {"n": 1}),))
    world.fake.answer(CALLS, answer)
    async with world.backend().open(turn("hi", tools=TOOLS, format=form), None) as events:
        live = await parked(events)
        await live.go_on((result(0, TextPart("1")), result(1, TextPart("2"))))
        told = await rest(live)
        assert "".join(e.text for e in told if isinstance(e, TextDelta)) == '{"n": 1}'
        assert told[-1] == Finished(FinishReason.STOP)
        assert not live.waits


UNFIT = {
    "empty": (),
    "blank": (TextPart(" \n"),),
    "long": (TextPart("x" * 500_001),),
    "an address": (TextPart("x"), ImagePart(url="https://example.com/x.png")),
}


@pytest.mark.parametrize("name", UNFIT)
async def test_results_that_the_cli_would_change_are_not_given(world: World, name: str) -> None:
    world.fake.answer(CALLS)
    async with world.backend().open(turn("hi", tools=TOOLS), None) as events:
        live = await parked(events)
        with pytest.raises(CliCrashedError, match="as they are"):
            await live.go_on((result(0, *UNFIT[name]), result(1, TextPart("2"))))


async def test_the_longest_results_are_given_whole(world: World) -> None:
    world.fake.answer(CALLS, Reply(text=("done",)))
    long = "½" * 500_000
    async with world.backend().open(turn("hi", tools=TOOLS), None) as events:
        live = await parked(events)
        await live.go_on((result(0, TextPart(long)), result(1, TextPart(long))))
        assert await rest(live) == DONE
    blocks = world.fake.body["messages"][-1]["content"]
    assert [block["content"] for block in blocks] == [[{"type": "text", "text": long}]] * 2


@pytest.mark.parametrize(
    "asked",
    [
        turn("hi", tools=TOOLS[:1]),
        turn("hi", tools=TOOLS, parallel_calls=False),
    ],
)
async def test_calls_that_were_not_passed_on_are_not_gone_on_with(
    world: World, asked: Turn
) -> None:
    world.fake.answer(CALLS)
    async with world.backend().open(asked, None) as events:
        assert (await rest(events))[-1] == Finished(FinishReason.TOOL_CALLS)
        assert isinstance(events, Live)
        assert not events.waits
        with anyio.fail_after(HUNG_S):
            await world.all_gone()


async def test_leaving_a_parked_turn_ends_its_process(world: World) -> None:
    world.fake.answer(CALLS)
    async with world.backend().open(turn("hi", tools=TOOLS), None) as events:
        await parked(events)
        assert world.processes()
    with anyio.fail_after(HUNG_S):
        await world.all_gone()
    assert len(world.fake.turns) == 1


async def test_a_process_that_was_killed_does_not_wait(world: World) -> None:
    world.fake.answer(CALLS)
    async with world.backend().open(turn("hi", tools=TOOLS), None) as events:
        live = await parked(events)
        for process in world.processes():
            process.kill()
        with anyio.fail_after(HUNG_S):
            await world.all_gone()
            while live.waits:  # noqa: ASYNC110 - its end is noticed by another task
                await anyio.sleep(0.01)


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


async def ask(served: Bridge, *messages: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Ask with tools; return how the turn came about, and the message that answers."""
    body = {"model": "claude", "messages": messages, "tools": [tool("f"), tool("g")]}
    async with served.http.post(f"{served.url}/chat/completions", json=body) as reply:
        assert reply.status == 200, await reply.text()
        answer: dict[str, Any] = (await reply.json())["choices"][0]["message"]
        return reply.headers["x-clinvk-turn"], answer


async def test_a_client_sees_no_difference_but_a_header(served: Bridge) -> None:
    served.fake.answer(CALLS, Reply(text=("done",)))
    user = {"role": "user", "content": "hi"}
    how, calls = await ask(served, user)
    assert how == "new"
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": str(number)}
        for number, call in enumerate(calls["tool_calls"])
    ]
    how, first = await ask(served, user, calls, *results)
    assert (how, first["content"]) == ("resumed", "done")
    how, second = await ask(served, user, calls, *results)
    assert (how, second) == ("replayed", first)
    bodies = [request.body["messages"] for request in served.fake.requests if request.body]
    resumed, replayed = (
        [[without_cache(block) for block in message["content"]] for message in body]
        for body in bodies[-2:]
    )
    assert [block.pop("content") for block in resumed[-1]] == [
        [{"type": "text", "text": "0"}],
        [{"type": "text", "text": "1"}],
    ]
    assert [block.pop("content") for block in replayed[-1]] == ["0", "1"]
    assert resumed == replayed
    question = {"role": "user", "content": "and?"}
    how, third = await ask(served, user, calls, *results, second, question)
    assert (how, third["content"]) == ("continued", "done")


async def test_a_turn_without_its_process_is_replayed(tmp_path: Path) -> None:
    user = {"role": "user", "content": "hi"}
    (tmp_path / "home").mkdir()
    async with bridge("claude", tmp_path / "home", park_s=0.01) as served:
        served.fake.answer(CALLS, Reply(text=("done",)))
        _, calls = await ask(served, user)
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": "1"}
            for call in calls["tool_calls"]
        ]
        with anyio.fail_after(HUNG_S):
            how = "resumed"
            while how == "resumed":  # until it has expired
                how, answer = await ask(served, user, calls, *results)
        assert (how, answer["content"]) == ("replayed", "done")
