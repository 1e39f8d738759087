"""The real Codex CLI with tools of the caller's: what the model is offered, and what it calls."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.backends.codex_tools import demand
from clinvk.errors import ClinvkError, UpstreamError, UpstreamUnreachableError
from clinvk.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCall,
    Usage,
)
from clinvk.turn import (
    Message,
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
    failure,
    said,
    text,
    turn,
    until,
)

pytestmark = pytest.mark.real

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Name, in English"}},
    "required": ["city"],
    "additionalProperties": False,
}
Made = tuple[tuple[str, dict[str, Any]], ...]
WEATHER = ToolSpec("get_weather", "The weather in a city, \u4e16", CITY)
TIME = ToolSpec("get-time")
UPSTREAM = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "The weather in a city, \u4e16",
        "strict": False,
        "parameters": CITY,
    },
    {
        "type": "function",
        "name": "get-time",
        "description": "",
        "strict": False,
        "parameters": {"type": "object", "properties": {}},
    },
]


@pytest.fixture
async def world(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    async with codex_world(home, tmp_path, monkeypatch) as opened:
        yield opened


def asked(*messages: Message | str, **more: Any) -> Turn:
    return replace(turn(*(messages or ("hi",))), **{"tools": (WEATHER, TIME), **more})


def calls(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.name, event.arguments) for event in events if isinstance(event, ToolCall)]


def offered(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The tools of a request; newer models are given them in an item before the conversation."""
    found: list[dict[str, Any]] = list(body.get("tools", []))
    for item in body["input"]:
        for space in item.get("tools", []) if item["type"] == "additional_tools" else []:
            found += space["tools"]
    return found


@pytest.mark.parametrize("model", [None, "gpt-6-astra", "gpt-5.5", "unheard-of"])
async def test_the_model_is_offered_the_tools_and_nothing_else(
    world: World, model: str | None
) -> None:
    await collect(world.backend(), asked(), model)
    body = world.fake.requests[-1].body
    assert offered(body) == UPSTREAM
    rest = [item for item in world.input() if item["type"] != "additional_tools"]
    hi = [{"type": "input_text", "text": "hi"}]
    assert rest == [{"type": "message", "role": "user", "content": hi}]
    assert len(json.dumps(body)) < 2700
    assert (world.fake.other, len(world.fake.requests)) == ([], 1)


async def test_of_a_schema_the_outlines_arrive_and_nothing_wrong(world: World) -> None:
    properties: dict[str, Any] = {
        "id": {"type": "integer", "minimum": 1, "description": "d"},
        "kind": {"const": 5},
        "any": True,
        "list": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/A"}},
        "pair": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}]},
        "either": {"anyOf": [{"type": "string", "pattern": "^a"}, {"type": "null"}]},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
    }
    defs = {"A": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}}
    schema = {"type": "object", "properties": properties, "required": ["id"], "$defs": defs}
    await collect(world.backend(), asked(tools=(ToolSpec("f", None, schema),)))
    [tool] = offered(world.fake.requests[-1].body)
    assert tool["parameters"] == {
        **schema,
        "properties": {
            **properties,
            "id": {"type": "integer", "description": "d"},
            "kind": {"type": "integer", "enum": [5]},
            "any": {},
            "pair": {"type": "array", "items": {"anyOf": properties["pair"]["prefixItems"]}},
            "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "map": {"type": "object", "properties": {}, "additionalProperties": {"type": "string"}},
        },
    }


async def test_one_tool_costs_no_more_than_itself(world: World) -> None:
    backend = world.backend()
    await collect(backend, asked(tools=()))
    await collect(backend, asked(tools=(WEATHER,)))
    without, with_tool = (len(json.dumps(r.body)) for r in world.fake.requests)
    assert with_tool - without < len(json.dumps(UPSTREAM[0])) + 20


@pytest.mark.parametrize("model", ["unheard-of", "gpt-6-astra"])
async def test_a_call_ends_the_turn_and_nothing_is_answered(world: World, model: str) -> None:
    world.fake.answer(
        Reply(
            text=("Let me", " see."),
            thinking=("Hm.",),
            tool_calls=(("get_weather", {"city": "R\u00f6m"}),),
            cached_tokens=3,
        )
    )
    events = await collect(world.backend(), asked(), model)
    assert events == [
        Started(model),
        ReasoningDelta("Hm."),
        TextDelta("Let me"),
        TextDelta(" see."),
        ToolCall("call_resp_1_0", "get_weather", json.dumps({"city": "R\u00f6m"})),
        Usage(11, 7, cached_tokens=3),
        Finished(FinishReason.TOOL_CALLS),
    ]
    assert text(await collect(world.backend(), asked())) == "Let me see."
    assert len(world.fake.requests) == 2


async def test_calls_made_at_once_come_all_and_in_order(world: World) -> None:
    made: Made = (
        ("get_weather", {"city": "Rome"}),
        ("get-time", {}),
        ("get_weather", {"city": "Oslo"}),
        ("get_weather", {"city": "x" * 100_000}),
    )
    world.fake.answer(Reply(text=(), tool_calls=made))
    events = await collect(world.backend(), asked())
    assert calls(events) == [(name, json.dumps(arguments)) for name, arguments in made]
    ids = [event.id for event in events if isinstance(event, ToolCall)]
    assert ids == [f"call_resp_1_{n}" for n in range(4)]
    assert len(world.fake.requests) == 1


async def test_a_call_waits_for_those_that_the_model_is_still_making(world: World) -> None:
    made: Made = (("get_weather", {"city": "Rome"}), ("get-time", {}))
    world.fake.answer(Reply(text=("ok",), tool_calls=made, hold=2))
    backend, events = world.backend(), []
    with anyio.fail_after(HUNG_S):
        async with backend.open(asked(), "m") as stream, anyio.create_task_group() as group:

            async def read() -> None:
                events.extend([event async for event in stream])

            group.start_soon(read)
            await until(lambda: world.fake.holding)
            assert calls(events) == []
            world.fake.release.set()
    assert [name for name, _ in calls(events)] == ["get_weather", "get-time"]
    assert len(world.fake.requests) == 1


async def test_without_parallel_calls_only_the_first_is_passed_on(world: World) -> None:
    made: Made = (("get_weather", {"city": "Rome"}), ("get-time", {}))
    world.fake.answer(Reply(text=(), tool_calls=made))
    events = await collect(world.backend(), asked(parallel_calls=False))
    assert calls(events) == [("get_weather", '{"city": "Rome"}')]
    assert events[-1] == Finished(FinishReason.TOOL_CALLS)


@pytest.mark.parametrize(
    "wrong",
    [("shell", {"command": ["touch", "ran"]}), ("exec_command", {"cmd": "touch ran"})],
)
async def test_a_tool_that_was_not_offered_runs_nothing(
    world: World, wrong: tuple[str, dict[str, Any]]
) -> None:
    world.fake.answer(Reply(text=(), tool_calls=(wrong,)), Reply())
    events = await collect(world.backend(), asked())
    assert (calls(events), text(events)) == ([], "Hello from the fake.")
    assert Usage(22, 14) in events
    assert "unsupported call" in world.input()[-1]["output"]


async def test_a_call_that_is_no_json_is_told_to_the_model(world: World) -> None:
    broken: Any = ("get-time", "not json")
    good: Made = (("get-time", {}),)
    world.fake.answer(Reply(text=(), tool_calls=(broken,)), Reply(text=(), tool_calls=good))
    events = await collect(world.backend(), asked())
    assert calls(events) == [("get-time", "{}")]
    assert Usage(22, 14) in events
    assert "failed to parse" in world.input()[-1]["output"]


async def test_no_tool_is_offered_where_none_may_be_called(world: World) -> None:
    await collect(world.backend(), asked(tool_choice=ToolChoice(ToolMode.NONE)))
    assert offered(world.fake.requests[-1].body) == []


@pytest.mark.parametrize("name", [None, "get-time"])
async def test_a_call_that_must_be_made_is_asked_for_in_one_sentence(
    world: World, name: str | None
) -> None:
    choice = ToolChoice(ToolMode.REQUIRED, name)
    await collect(world.backend(), asked(tool_choice=choice))
    assert offered(world.fake.requests[-1].body) == (UPSTREAM[1:] if name else UPSTREAM)
    content = [{"type": "input_text", "text": demand(choice)}]
    assert world.input()[1:] == [{"type": "message", "role": "developer", "content": content}]


async def test_a_name_that_codex_keeps_for_itself_is_the_callers_all_the_same(
    world: World,
) -> None:
    tool = ToolSpec("mcp__files__read", "Reads", CITY)
    history = (
        "q",
        Message(Role.ASSISTANT, (), (PriorCall("c1", "mcp__files__read", "{}"),)),
        Message(Role.TOOL, (TextPart("r"),), call_id="c1"),
    )
    made: Made = (("caller_mcp__files__read", {"city": "x"}),)
    world.fake.answer(Reply(text=(), tool_calls=made))
    events = await collect(world.backend(), asked(*history, tools=(tool,)))
    assert calls(events) == [("mcp__files__read", '{"city": "x"}')]
    assert offered(world.fake.requests[-1].body)[0]["name"] == "caller_mcp__files__read"
    assert world.input()[1]["name"] == "caller_mcp__files__read"


@pytest.mark.parametrize("model", ["unheard-of", "gpt-6-astra"])
async def test_the_results_go_back_as_items_and_the_model_goes_on(world: World, model: str) -> None:
    made: Made = (("get_weather", {"city": "Rome"}), ("get-time", {}))
    world.fake.answer(Reply(text=("Let me see.",), tool_calls=made), Reply(text=("Sunny.",)))
    backend = world.backend()
    events = await collect(backend, asked("q"), model)
    called = tuple(PriorCall(e.id, e.name, e.arguments) for e in events if isinstance(e, ToolCall))
    answers = [
        Message(Role.TOOL, (TextPart("21"), TextPart("C")), call_id=called[0].id),
        Message(Role.TOOL, (TextPart("noon"),), call_id=called[1].id),
    ]
    asking = Message(Role.ASSISTANT, (TextPart("Let me see."),), called)
    follow_up = asked("q", asking, *answers)
    assert text(await collect(backend, follow_up, model)) == "Sunny."
    items = [item for item in world.input() if item["type"] != "additional_tools"]
    assert items[1]["content"][0]["text"] == "Let me see."
    assert items[2:] == [
        {
            "type": "function_call",
            "call_id": called[0].id,
            "name": "get_weather",
            "arguments": '{"city": "Rome"}',
        },
        {"type": "function_call", "call_id": called[1].id, "name": "get-time", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": called[0].id,
            "output": [
                {"type": "input_text", "text": "21"},
                {"type": "input_text", "text": "C"},
            ],
        },
        {"type": "function_call_output", "call_id": called[1].id, "output": "noon"},
    ]
    assert offered(world.fake.requests[-1].body) == UPSTREAM


async def test_calls_in_the_history_are_not_taken_for_new_ones(world: World) -> None:
    history = (
        said("user", "q"),
        Message(Role.ASSISTANT, (), (PriorCall("c1", "get-time", "{}"),)),
        Message(Role.TOOL, (TextPart("noon"),), call_id="c1"),
    )
    events = await collect(world.backend(), asked(*history))
    assert (calls(events), text(events)) == ([], "Hello from the fake.")
    assert events[-1] == Finished(FinishReason.STOP)


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(cut=1), UpstreamUnreachableError),
        (Reply(error={"message": "x", "code": "server_error"}), UpstreamError),
    ],
    ids=["cut", "failed"],
)
async def test_a_response_that_breaks_off_after_a_call_is_a_failure(
    world: World, reply: Reply, kind: type[ClinvkError], retries: int
) -> None:
    made: Made = (("get_weather", {"city": "Rome"}), ("get-time", {}))
    world.fake.answer(replace(reply, text=(), tool_calls=made), Reply())
    error = await failure(world.backend(retries=retries), asked())
    assert type(error) is kind
    assert len(world.fake.requests) == 1


async def test_a_response_that_is_cut_short_after_a_call_says_so(world: World) -> None:
    made: Made = (("get-time", {}),)
    world.fake.answer(Reply(text=("Let",), tool_calls=made, stop="max_output_tokens"), Reply())
    events = await collect(world.backend(), asked())
    assert (text(events), calls(events)) == ("Let", [])
    assert events[-1] == Finished(FinishReason.LENGTH)


async def test_a_call_of_a_second_try_is_passed_on(world: World) -> None:
    world.fake.answer(Reply(cut=0), Reply(text=(), tool_calls=(("get-time", {}),)))
    events = await collect(world.backend(retries=1), asked())
    assert calls(events) == [("get-time", "{}")]
    assert len(world.fake.requests) == 2
