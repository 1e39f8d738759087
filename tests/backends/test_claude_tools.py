"""Tools and JSON in Claude Code's terms, and what it says of them; recorded from claude 2.1.197."""

import json
from typing import Any

import pytest

from clinvk.backends import claude_input, claude_schema, claude_tools
from clinvk.backends.claude_blocks import Offer
from clinvk.backends.claude_events import ClaudeParser
from clinvk.errors import BadRequestError, CliProtocolError, InvalidAnswerError, UpstreamError
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
    Message,
    OutputFormat,
    Role,
    TextPart,
    ToolChoice,
    ToolMode,
    ToolSpec,
    Turn,
)
from tests.backends.test_claude import OPUS, failure, replay, stream

TOOLS = Offer(frozenset({"get_weather", "now"}))
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string", "format": "date"}}}
JSON = Offer(form=OutputFormat(SCHEMA))
ASKED = (Message(Role.USER, (TextPart("hi"),)),)


def turn(*tools: ToolSpec, **fields: Any) -> Turn:
    return Turn("claude", ASKED, tools=tools, **fields)


def refusal(asked: Turn) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        claude_input.check(asked)
    return caught.value


def block(*pieces: str, **start: Any) -> list[dict[str, Any]]:
    """The messages of a streamed tool_use block."""
    deltas = ({"type": "input_json_delta", "partial_json": piece} for piece in pieces)
    opening = {"type": "tool_use", "id": "t", "name": "now", **start}
    return [
        stream(type="content_block_start", content_block=opening),
        *(stream(type="content_block_delta", delta=delta) for delta in deltas),
        stream(type="content_block_stop"),
    ]


def stop(reason: str = "tool_use") -> dict[str, Any]:
    return stream(type="message_delta", delta={"stop_reason": reason}, usage={})


def feed(offer: Offer, *messages: dict[str, Any]) -> list[Event]:
    parser = ClaudeParser(0, offer)
    return [event for message in messages for event in parser.feed(message)]


def test_calls_are_complete_and_end_the_turn() -> None:
    parser = ClaudeParser(0, TOOLS)
    assert replay("calls", parser) == [
        OPUS,
        ReasoningDelta("Hm"),
        TextDelta("Let me see."),
        ToolCall("toolu_0", "get_weather", '{"city": "Paris"}'),
        ToolCall("toolu_1", "now", "{}"),
        Usage(11, 7, reasoning_tokens=1),
        Finished(FinishReason.TOOL_CALLS),
    ]
    assert not parser.may_linger


def test_only_offered_tools_are_called() -> None:
    events = replay("call_made_up", ClaudeParser(0, Offer(frozenset({"now"}))))
    assert events[1:] == [
        ToolCall("toolu_1", "now", "{}"),
        Usage(11, 7),
        Finished(FinishReason.TOOL_CALLS),
    ]
    assert replay("call_made_up")[-1] == Finished(FinishReason.STOP)


def test_only_the_first_of_calls_that_may_not_be_parallel_is_passed_on() -> None:
    one_by_one = Offer(TOOLS.tools, parallel=False)
    calls = [e for e in replay("calls", ClaudeParser(0, one_by_one)) if isinstance(e, ToolCall)]
    assert [call.name for call in calls] == ["get_weather"]


def test_arguments_are_passed_on_as_the_model_wrote_them() -> None:
    number = '{"n": 1.0e2, '
    events = feed(TOOLS, *block("", number, '"s": "\\u00e9"}'), stop())
    assert events[0] == ToolCall("t", "now", '{"n": 1.0e2, "s": "\\u00e9"}')


def test_arguments_that_came_at_once_are_taken() -> None:
    assert feed(TOOLS, *block(input={"a": 1}))[0] == ToolCall("t", "now", '{"a": 1}')


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]"])
def test_a_call_cut_by_the_token_limit_is_no_call(arguments: str) -> None:
    assert feed(TOOLS, *block(arguments), stop("max_tokens")) == [
        Usage(0, 0),
        Finished(FinishReason.LENGTH),
    ]
    (failed,) = feed(TOOLS, *block(arguments), stop())
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, UpstreamError)
    assert "'now'" in failed.error.message


def test_tools_that_the_cli_leaves_out_are_told() -> None:
    failed = failure("calls", ClaudeParser(0, Offer(frozenset({"now", "other"}))))
    assert type(failed) is CliProtocolError
    assert failed.message.endswith(": other")


def test_json_is_the_answer_and_words_are_not() -> None:
    parser = ClaudeParser(0, JSON)
    assert replay("json", parser) == [
        OPUS,
        ReasoningDelta("Sure."),
        TextDelta('{"ans'),
        TextDelta('wer": "yes"}'),
        Usage(11, 7),
        Finished(FinishReason.STOP),
    ]
    assert parser.may_linger


def test_json_that_the_cli_refuses_is_a_failure() -> None:
    parser = ClaudeParser(0, JSON)
    failed = failure("json_other_form", parser)
    assert type(failed) is InvalidAnswerError
    assert "must have required property 'answer'" in failed.message
    assert not parser.may_linger


def test_what_the_clis_check_does_not_know_is_checked_too() -> None:
    schema = {"properties": {"answer": {"prefixItems": [{"type": "string"}]}}}
    parser = ClaudeParser(0, Offer(form=OutputFormat(schema)))
    messages = [*block('{"answer": [1]}', name="StructuredOutput"), stop()]
    messages.append({"type": "result", "is_error": False})
    last = [event for message in messages for event in parser.feed(message)][-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, InvalidAnswerError)
    assert parser.ended


def test_words_alone_are_a_failure() -> None:
    failed = failure("json_words", ClaudeParser(0, JSON))
    assert type(failed) is InvalidAnswerError
    assert "Hello from the fake." in failed.message


def test_json_asked_for_again_counts_twice() -> None:
    events = replay("json_asked_again", ClaudeParser(0, JSON))
    assert [event for event in events if isinstance(event, Started)] == [OPUS]
    assert events[-2:] == [Usage(22, 14, reasoning_tokens=1), Finished(FinishReason.STOP)]


def test_a_schema_that_the_cli_leaves_out_is_the_callers_mistake() -> None:
    failed = failure("json_no_schema", ClaudeParser(0, JSON))
    assert isinstance(failed, BadRequestError)
    assert failed.param == "response_format"


@pytest.mark.parametrize(
    ("reason", "told"),
    [("max_tokens", FinishReason.LENGTH), ("refusal", FinishReason.CONTENT_FILTER)],
)
def test_json_cut_short_is_no_stop(reason: str, told: FinishReason) -> None:
    events = feed(JSON, *block('{"a', name="StructuredOutput"), stop(reason))
    assert events[-1] == Finished(told)


def test_json_comes_once() -> None:
    answer = [*block("{}", name="StructuredOutput"), *block("[]", name="StructuredOutput", id="u")]
    assert feed(JSON, *answer) == [TextDelta("{}")]
    assert feed(JSON, *block(name="StructuredOutput")) == [TextDelta("{}")]


def test_json_lost_on_its_way_is_not_begun_again() -> None:
    begun = stream(type="message_start", message={})
    events = feed(JSON, begun, *block('{"a', name="StructuredOutput"), begun)
    assert isinstance(events[-1], Failed)
    events = feed(JSON, begun, *block("{}", name="StructuredOutput"), stop(), begun)
    assert isinstance(events[-1], Failed)


def test_other_users_lines_say_nothing() -> None:
    result = {"type": "tool_result", "tool_use_id": "other", "is_error": True}
    answer = block("{}", name="StructuredOutput")
    for content in ("text", [result, "x"], None):
        said = {"type": "user", "message": {"content": content}}
        assert feed(JSON, *answer, said) == [TextDelta("{}")]


@pytest.mark.parametrize("name", ["a.b", "", "x" * 129, "é", "a b", "ToolSearch"])
def test_names_that_the_api_cannot_take_are_refused(name: str) -> None:
    assert refusal(turn(ToolSpec("ok"), ToolSpec(name))).param == "tools[1].function.name"


def test_a_name_stands_for_one_tool() -> None:
    assert refusal(turn(ToolSpec("a"), ToolSpec("a"))).param == "tools[1].function.name"
    taken = turn(ToolSpec("StructuredOutput"), format=OutputFormat())
    assert refusal(taken).param == "tools[0].function.name"


BAD_SCHEMAS: tuple[dict[str, Any], ...] = (
    {"type": "array"},
    {"type": "objct"},
    {"type": ["object", "null"]},
    {"anyOf": [{}]},
    {"type": "object", "oneOf": [{}]},
    {"$ref": "#/$defs/A", "$defs": {"A": {"type": "string"}}},
    {"properties": []},
    {"properties": {"a": 3}},
    {"properties": {"a b": {}}},
    {"properties": {"a": {"type": 3}}},
    {"properties": {"a": {"items": {"type": "x"}}}},
    {"properties": {"a": {"enum": "x"}}},
    {"required": "a"},
    {"required": [1]},
)


@pytest.mark.parametrize("schema", BAD_SCHEMAS)
def test_schemas_that_are_none_are_refused(schema: dict[str, Any]) -> None:
    bad = turn(ToolSpec("ok"), ToolSpec("f", parameters=schema))
    assert refusal(bad).param == "tools[1].function.parameters"
    assert refusal(turn(format=OutputFormat(schema))).param == "response_format"
    claude_input.check(turn(*bad.tools, tool_choice=ToolChoice(ToolMode.NONE)))


def test_a_schema_too_deep_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(200):
        schema = {"properties": {"a": schema}}
    assert "too deep" in refusal(turn(ToolSpec("f", parameters=schema))).message


def test_a_value_that_the_cli_would_rewrite_is_refused() -> None:
    schema = {"properties": {"unit": {"enum": ["m\u00b2", "m"]}}}
    refused = refusal(turn(ToolSpec("f", parameters=schema)))
    assert "'m2'" in refused.message
    claude_input.check(turn(format=OutputFormat(schema)))


@pytest.mark.parametrize(
    "choice", [ToolChoice(ToolMode.REQUIRED, "other"), ToolChoice(ToolMode.REQUIRED)]
)
def test_a_choice_of_no_tool_is_refused(choice: ToolChoice) -> None:
    tools = () if choice.name is None else (ToolSpec("a"),)
    assert refusal(turn(*tools, tool_choice=choice)).param == "tool_choice"


def test_the_wish_for_a_call_comes_after_the_instructions() -> None:
    required = ToolChoice(ToolMode.REQUIRED, "a")
    asked = Turn(
        "claude",
        (Message(Role.SYSTEM, (TextPart("S"),)), *ASKED),
        tools=(ToolSpec("a"), ToolSpec("b")),
        tool_choice=required,
    )
    script = claude_input.script(asked)
    assert script.instructions == "S\n\nYou must answer by calling the tool a."
    assert script.offer == Offer(frozenset({"a"}))


def test_schemas_are_given_an_object_at_the_root() -> None:
    true_and_false = {"properties": {"a": True, "b": False}}
    assert claude_schema.parameters(true_and_false, "p") == {
        "type": "object",
        "properties": {"a": {}, "b": {"not": {}}},
    }
    referring = {"$ref": "#/definitions/A", "definitions": {"A": {"properties": {"x": {}}}}}
    assert claude_schema.parameters(referring, "p")["properties"] == {"x": {}}
    closed = {"$ref": "#/$defs/A", "$defs": {"A": False}}
    assert claude_schema.answer(closed, "p") == {"type": "object", **closed}


def test_what_the_check_does_not_know_is_told_in_the_description() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "properties": {
            "a": {"items": [{"format": "uri"}, True]},
            "b": {"description": "B", "x-note": "é"},
            "c": {"not": {"example": 1}},
        },
    }
    assert claude_schema.answer(schema, "p") == {
        "type": "object",
        "properties": {
            "a": {"items": [{"description": '{"format": "uri"}'}, True]},
            "b": {"description": 'B\n\n{"x-note": "é"}'},
            "c": {"not": {"description": '{"example": 1}'}},
        },
    }


@pytest.mark.parametrize("letter", ["a", "é", "😀", "a "])
def test_a_description_is_never_cut(letter: str) -> None:
    words = letter * 3000
    script = claude_input.script(turn(ToolSpec("f", words, {"description": "own"})))
    (tool,) = script.tools
    head, rest = tool["description"], tool["inputSchema"]["description"]
    assert head + rest == f"{words}\n\nown"
    assert 1000 < len(head.encode("utf-16-le")) / 2 <= claude_tools.MAX_DESCRIPTION


def test_the_clis_questions_about_tools_are_answered() -> None:
    tools = claude_tools.offered(turn(ToolSpec("f", "d")))

    def reply(method: str, **params: Any) -> Any:
        return claude_tools.reply({"method": method, "id": 7, "params": params}, tools, {})

    assert reply("initialize", protocolVersion="v")["result"]["protocolVersion"] == "v"
    assert reply("tools/list") == {"jsonrpc": "2.0", "id": 7, "result": {"tools": list(tools)}}
    assert reply("notifications/initialized")["result"] == {}
    assert reply("resources/list")["error"]["code"] == -32601
    assert reply("tools/call", name="f") is None
    json.dumps(tools)
