"""The real Claude Code when JSON is asked for: the schema goes up, the JSON alone comes back."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from clinvk.errors import BadRequestError, InvalidAnswerError
from clinvk.events import (
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCall,
    Usage,
)
from clinvk.turn import OutputFormat, ToolSpec
from tests.fakes.api import Reply
from tests.real.claude_world import World, answer, failure, make_world, run, turn

pytestmark = pytest.mark.real

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}
FORM = OutputFormat(SCHEMA)


def filled(**answer: object) -> tuple[tuple[str, dict[str, Any]], ...]:
    return (("StructuredOutput", answer),)


YES = Reply(text=(), tool_calls=filled(answer="yes"))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        yield made


async def test_the_json_alone_is_the_answer_and_streams(world: World) -> None:
    world.fake.answer(Reply(text=("Sure.",), tool_calls=filled(answer="yes")), Reply())
    events = await run(world.backend(), turn("hi", format=FORM))
    assert events == [
        Started("claude-opus-4-8"),
        ReasoningDelta("Sure."),
        TextDelta('{"ans'),
        TextDelta('wer": "yes"}'),
        Usage(11, 7),
        Finished(FinishReason.STOP),
    ]
    (tool,) = world.fake.body["tools"]
    assert tool["input_schema"] == SCHEMA
    assert world.asked() == [("user", ["hi"])]
    assert len(world.fake.turns) == 1


async def test_any_object_will_do_without_a_schema(world: World) -> None:
    world.fake.answer(Reply(text=(), tool_calls=filled(a=[1], b={"c": None})))
    events = await run(world.backend(), turn("hi", format=OutputFormat()))
    assert answer(events) == '{"a": [1], "b": {"c": null}}'
    assert world.fake.body["tools"][0]["input_schema"] == {"type": "object"}


RICH = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$ref": "#/$defs/Visit",
    "$defs": {
        "Visit": {
            "properties": {
                "at": {"type": "string", "format": "date-time", "description": "When."},
                "who": {"anyOf": [{"$ref": "#/$defs/Cat"}, {"type": "null"}]},
                "pair": {"type": "array", "prefixItems": [{"type": "string"}]},
            },
        },
        "Cat": {"type": "object", "x-order": 1, "properties": {"kind": {"const": "cat"}}},
    },
}


async def test_a_schema_beyond_the_clis_check_is_told_in_descriptions(world: World) -> None:
    world.fake.answer(Reply(text=(), tool_calls=filled(at="now", who={"kind": "cat"}, pair=["x"])))
    events = await run(world.backend(), turn("hi", format=OutputFormat(RICH)))
    assert events[-1] == Finished(FinishReason.STOP)
    sent = world.fake.body["tools"][0]["input_schema"]
    assert sent["type"] == "object"
    assert sent["properties"] == {
        "at": {"type": "string", "description": 'When.\n\n{"format": "date-time"}'},
        "who": {"anyOf": [{"$ref": "#/$defs/Cat"}, {"type": "null"}]},
        "pair": {"type": "array", "description": '{"prefixItems": [{"type": "string"}]}'},
    }


async def test_words_are_asked_for_again_and_are_no_answer(world: World) -> None:
    world.fake.answer(Reply(), YES)
    events = await run(world.backend(), turn("hi", format=FORM))
    assert answer(events) == '{"answer": "yes"}'
    assert events[-2:] == [Usage(22, 14), Finished(FinishReason.STOP)]
    world.fake.answer(Reply())
    failed = await failure(world.backend(), turn("hi", format=FORM))
    assert type(failed) is InvalidAnswerError
    assert "Hello from the fake." in failed.message


async def test_json_of_another_form_is_a_failure(world: World) -> None:
    world.fake.answer(Reply(text=(), tool_calls=filled(nswer="yes")), YES)
    failed = await failure(world.backend(), turn("hi", format=FORM))
    assert type(failed) is InvalidAnswerError
    assert "must have required property 'answer'" in failed.message


@pytest.mark.parametrize(
    ("stop", "reason"),
    [("max_tokens", FinishReason.LENGTH), ("refusal", FinishReason.CONTENT_FILTER)],
)
async def test_json_cut_short_is_no_stop(world: World, stop: str, reason: FinishReason) -> None:
    world.fake.answer(Reply(text=("I",), stop=stop), Reply())
    events = await run(world.backend(), turn("hi", format=FORM))
    assert events[-1] == Finished(reason)


async def test_a_tool_may_be_called_before_the_json(world: World) -> None:
    world.fake.answer(Reply(text=(), tool_calls=(("now", {}),)), YES)
    asked = turn("hi", format=FORM, tools=(ToolSpec("now"),))
    events = await run(world.backend(), asked)
    assert events[1:] == [
        ToolCall("toolu_0", "now", "{}"),
        Usage(11, 7),
        Finished(FinishReason.TOOL_CALLS),
    ]
    assert answer(await run(world.backend(), asked)) == '{"answer": "yes"}'
    assert {tool["name"] for tool in world.fake.body["tools"]} == {"now", "StructuredOutput"}


async def test_a_call_of_no_tool_is_a_failure(world: World) -> None:
    world.fake.answer(Reply(text=(), tool_calls=(("Bash", {"command": "ls"}),)), YES)
    failed = await failure(world.backend(), turn("hi", format=FORM))
    assert type(failed) is InvalidAnswerError


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array"},
        {"type": "object", "properties": {"a": {"type": "strin"}}},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?i)x"}}},
    ],
)
async def test_a_schema_that_cannot_be_asked_for_is_refused(
    world: World, schema: dict[str, Any]
) -> None:
    world.fake.answer(Reply(hold=0))
    refused = await failure(world.backend(), turn("hi", format=OutputFormat(schema)))
    assert type(refused) is BadRequestError
    assert refused.param == "response_format"
