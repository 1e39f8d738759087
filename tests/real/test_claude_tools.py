"""The real Claude Code with tools of the caller's: what the model is offered, and what it calls."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from clinvk.events import Event, Finished, FinishReason, Started, TextDelta, ToolCall, Usage
from clinvk.turn import PriorCall, ToolChoice, ToolMode, ToolSpec
from tests.fakes.api import Reply
from tests.real.claude_world import World, answer, make_world, run, said, turn

pytestmark = pytest.mark.real

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "format": "x", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = ToolSpec("get_weather", "The weather, now: ½ °C steps.", CITY)
NOW = ToolSpec("now")
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (("get_weather", {"city": "Paris"}), ("now", {}))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        yield made


def tools(world: World) -> dict[str, dict[str, Any]]:
    """The definitions of the last request, by name."""
    return {tool["name"]: tool for tool in world.fake.body["tools"]}


def calls(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.name, event.arguments) for event in events if isinstance(event, ToolCall)]


async def test_tools_are_offered_and_their_calls_come_back(world: World) -> None:
    world.fake.answer(Reply(text=("Let me", " see."), tool_calls=CALLS), Reply())
    events = await run(world.backend(), turn(said("system", "S"), "hi", tools=(WEATHER, NOW)))
    assert events == [
        Started("claude-opus-4-8"),
        TextDelta("Let me"),
        TextDelta(" see."),
        ToolCall("toolu_0", "get_weather", '{"city": "Paris"}'),
        ToolCall("toolu_1", "now", "{}"),
        Usage(11, 7),
        Finished(FinishReason.TOOL_CALLS),
    ]
    assert tools(world) == {
        "get_weather": {
            "name": "get_weather",
            "description": "The weather, now: 1\u20442 °C steps.",
            "input_schema": CITY,
        },
        "now": {
            "name": "now",
            "description": "",
            "input_schema": {"type": "object", "properties": {}},
        },
    }
    assert world.asked() == [("user", ["hi"])]
    assert world.system() == ["S"]
    assert len(world.fake.turns) == 1


async def test_what_a_tool_adds_is_its_definition(world: World) -> None:
    backend = world.backend()
    await run(backend, turn("hi"))
    await run(backend, turn("hi", tools=(NOW,)))
    without, with_tool = (int(t.headers["content-length"]) for t in world.fake.turns)
    assert with_tool - without < 100


async def test_results_go_back_as_results(world: World) -> None:
    prior = (
        PriorCall("call_1", "get_weather", '{"city": "Paris"}'),
        PriorCall("call_2", "now", "{}"),
    )
    events = await run(
        world.backend(),
        turn(
            "hi",
            said("assistant", "Let me see.", calls=prior),
            said("tool", "noon", call_id="call_2"),
            said("tool", "sun", "shine", call_id="call_1"),
            tools=(WEATHER, NOW),
        ),
    )
    assert answer(events) == "Hello from the fake."
    assert list(tools(world)) == ["get_weather", "now"]
    several = [{"type": "text", "text": "sun"}, {"type": "text", "text": "shine"}]
    assert world.asked() == [
        ("user", ["hi"]),
        (
            "assistant",
            [
                "Let me see.",
                {
                    "type": "tool_use",
                    "id": "call_1",
                    "name": "get_weather",
                    "input": {"city": "Paris"},
                },
                {"type": "tool_use", "id": "call_2", "name": "now", "input": {}},
            ],
        ),
        (
            "user",
            [
                {"type": "tool_result", "tool_use_id": "call_2", "content": "noon"},
                {"type": "tool_result", "tool_use_id": "call_1", "content": several},
            ],
        ),
    ]
    assert len(world.fake.turns) == 1


AGENTS_OWN = (
    *("Agent", "AskUserQuestion", "Bash", "BashOutput", "CronCreate", "Edit", "EnterPlanMode"),
    *("EnterWorktree", "ExitPlanMode", "Glob", "Grep", "LSP", "ListMcpResourcesTool", "Monitor"),
    *("NotebookEdit", "Read", "SendMessage", "SendUserMessage", "Skill", "SlashCommand"),
    *("StructuredOutput", "Task", "TaskCreate", "TaskList", "TaskOutput", "TaskUpdate"),
    *("TodoWrite", "WebFetch", "WebSearch", "Workflow", "Write", "mcp__x__y"),
    "mcp__z",
)


async def test_tools_named_as_the_agents_own_are_the_callers(world: World) -> None:
    canary = world.home / "canary"
    world.fake.answer(Reply(tool_calls=(("Bash", {"command": f"touch {canary}"}),)), Reply())
    conversation = [said(role, "x") for _ in range(12) for role in ("user", "assistant")]
    asked = turn(*conversation, "hi", tools=tuple(map(ToolSpec, AGENTS_OWN)))
    events = await run(world.backend(), asked)
    assert calls(events) == [("Bash", f'{{"command": "touch {canary}"}}')]
    assert set(tools(world)) == set(AGENTS_OWN)
    assert {tuple(sorted(tool)) for tool in tools(world).values()} == {
        ("description", "input_schema", "name")
    }
    assert world.asked() == [*((m.role.value, ["x"]) for m in conversation), ("user", ["hi"])]
    assert not canary.exists()
    assert len(world.fake.turns) == 1


async def test_a_tool_that_was_not_offered_runs_nothing(world: World) -> None:
    canary = world.home / "canary"
    made_up = ("Bash", {"command": f"touch {canary}"})
    backend = world.backend()
    world.fake.answer(Reply(tool_calls=(made_up,)))
    events = await run(backend, turn("hi", tools=(NOW,)))
    assert calls(events) == []
    assert events[-1] == Finished(FinishReason.STOP)
    world.fake.answer(Reply(tool_calls=(made_up, CALLS[1])))
    events = await run(backend, turn("hi", tools=(NOW,)))
    assert calls(events) == [("now", "{}")]
    assert events[-1] == Finished(FinishReason.TOOL_CALLS)
    assert not canary.exists()


async def test_without_parallel_calls_only_the_first_counts(world: World) -> None:
    world.fake.answer(Reply(tool_calls=CALLS), Reply())
    asked = turn("hi", tools=(WEATHER, NOW), parallel_calls=False)
    assert calls(await run(world.backend(), asked)) == [("get_weather", '{"city": "Paris"}')]


@pytest.mark.parametrize(
    ("choice", "offered", "told"),
    [
        (ToolChoice(ToolMode.NONE), [], []),
        (ToolChoice(ToolMode.AUTO), ["get_weather", "now"], []),
        (
            ToolChoice(ToolMode.REQUIRED),
            ["get_weather", "now"],
            ["You must answer by calling at least one of your tools."],
        ),
        (
            ToolChoice(ToolMode.REQUIRED, "now"),
            ["now"],
            ["You must answer by calling the tool now."],
        ),
    ],
)
async def test_the_choice_of_tool_reaches_the_model(
    world: World, choice: ToolChoice, offered: list[str], told: list[str]
) -> None:
    await run(world.backend(), turn("hi", tools=(NOW, WEATHER), tool_choice=choice))
    assert list(tools(world)) == offered
    assert world.system() == told


async def test_long_names_and_descriptions_arrive_whole(world: World) -> None:
    name, words = "n" * 128, " ".join(f"word{number}" for number in range(1000))
    await run(world.backend(), turn("hi", tools=(ToolSpec(name, words, {"title": "T"}),)))
    sent = tools(world)[name]
    assert sent["description"] + sent["input_schema"]["description"] == words
    assert "truncated" not in str(sent)


async def test_many_tools_are_not_hidden_behind_a_search(world: World) -> None:
    many = tuple(ToolSpec(f"tool_{number:03}", "x" * 900) for number in range(128))
    await run(world.backend(ENABLE_TOOL_SEARCH="true"), turn("hi", tools=many))
    assert list(tools(world)) == [tool.name for tool in many]


async def test_the_token_limit_is_told_even_after_a_call(world: World) -> None:
    world.fake.answer(Reply(tool_calls=CALLS[1:], stop="max_tokens"), Reply())
    events = await run(world.backend(), turn("hi", tools=(NOW,)))
    assert calls(events) == [("now", "{}")]
    assert events[-1] == Finished(FinishReason.LENGTH)
