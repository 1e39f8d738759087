"""A codex thread turn after turn; recorded from codex 0.169.0 against a fake of its API."""

import json
from pathlib import Path
from typing import Any

import pytest

from clinvk.backends.codex_calls import Calls
from clinvk.backends.codex_events import TurnParser
from clinvk.backends.codex_items import result_content
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
from clinvk.turn import ImagePart, Message, Role, TextPart

TRANSCRIPTS = Path(__file__).parent.parent / "transcripts" / "codex"
TOOLS = ("get_weather", "get_time")
PNG = "iVBORw0KGgo="


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines()]


def parser(*tools: str, retries: int = 0, parallel: bool = True) -> TurnParser:
    return TurnParser("m", retries=retries, calls=Calls(tools, parallel=parallel))


def parts(parsed: TurnParser, said: list[dict[str, Any]]) -> list[list[Event]]:
    """The events of each turn; a turn begins where the recording has gone on."""
    turns: list[list[Event]] = [[]]
    for message in said:
        if "go_on" in message:
            assert parsed.waits
            parsed.go_on()
            turns.append([])
        turns[-1] += parsed.feed(message)
    return turns


def until_done(parsed: TurnParser, name: str) -> list[dict[str, Any]]:
    """Feed a recording up to its last event, and return what was told after it."""
    said = lines(name)
    while not parsed.done:
        parsed.feed(said.pop(0))
    return said


def used(total: int) -> dict[str, Any]:
    tokens = {"total": {"inputTokens": total, "outputTokens": 1}}
    return {"method": "thread/tokenUsage/updated", "params": {"tokenUsage": tokens}}


def message(item: str, text: str, *, method: str = "completed") -> dict[str, Any]:
    said = {"type": "agentMessage", "id": item, "text": text}
    return {"method": f"item/{method}", "params": {"item": said}}


def raw(name: str, ident: str = "c", **item: Any) -> dict[str, Any]:
    call = {"type": "function_call", "name": name, "arguments": "{}", "call_id": ident, **item}
    return {"method": "rawResponseItem/completed", "params": {"turnId": "u", "item": call}}


COMPLETED = {"method": "turn/completed", "params": {"turn": {"status": "completed"}}}
BEGUN = {"method": "turn/started", "params": {"turn": {"id": "u"}}}
RESPONSE = {"method": "rawResponse/completed", "params": {"usage": {"inputTokens": 1}}}
RETRY = {"method": "error", "params": {"willRetry": True, "error": {"message": "x"}}}


def test_each_turn_has_its_own_events_and_its_own_usage() -> None:
    parsed = parser(*TOOLS)
    assert parts(parsed, lines("goes_on")) == [
        [
            Started("m"),
            ReasoningDelta("Hm."),
            TextDelta("Let me"),
            TextDelta(" see."),
            ToolCall("call_resp_1_0", "get_weather", '{"city": "Rome"}'),
            ToolCall("call_resp_1_1", "get_time", "{}"),
            Usage(11, 7),
            Finished(FinishReason.TOOL_CALLS),
        ],
        [
            Started("m"),
            TextDelta("And"),
            ToolCall("call_resp_2_0", "get_time", "{}"),
            Usage(20, 3),
            Finished(FinishReason.TOOL_CALLS),
        ],
        [
            Started("m"),
            TextDelta("Sunny"),
            TextDelta("."),
            Usage(30, 2, cached_tokens=20),
            Finished(FinishReason.STOP),
        ],
        [Started("m"), TextDelta("More"), Usage(40, 1), Finished(FinishReason.STOP)],
    ]
    assert (parsed.done, parsed.ended, parsed.waits) == (True, True, True)


def test_a_turn_that_waits_for_results_has_not_ended() -> None:
    parsed = parser(*TOOLS)
    rest = until_done(parsed, "calls")
    assert (parsed.ended, parsed.waits) == (False, True)
    for said in rest:  # where it was interrupted
        assert parsed.feed(said) == []
    assert (parsed.ended, parsed.waits) == (True, False)


@pytest.mark.parametrize(
    "told",
    [
        COMPLETED,
        {"method": "thread/closed", "params": {}},
        {"method": "error", "params": {"willRetry": False}},
        {"method": "item/completed", "params": {"item": {"type": "dynamicToolCall"}}},
    ],
    ids=["ended", "closed", "failed", "answered"],
)
def test_what_happens_to_a_held_call_ends_the_wait(told: dict[str, Any]) -> None:
    parsed = parser(*TOOLS)
    until_done(parsed, "calls")
    parsed.feed({"method": "item/completed", "params": {"item": {"type": "agentMessage"}}})
    assert parsed.waits
    assert parsed.feed(told) == []
    assert not parsed.waits


@pytest.mark.parametrize(("tools", "parallel"), [(TOOLS, False), (("get_time",), True)])
def test_a_call_that_was_not_passed_on_cannot_be_answered(
    tools: tuple[str, ...], parallel: bool
) -> None:
    parsed = parser(*tools, parallel=parallel)
    until_done(parsed, "calls")
    assert not parsed.waits


def test_two_calls_of_one_id_cannot_be_answered_apart() -> None:
    parsed = parser("f")
    for said in (BEGUN, raw("f"), raw("f"), RESPONSE):
        parsed.feed(said)
    assert (parsed.done, parsed.waits) == (True, False)


@pytest.mark.parametrize("kind", ["custom_tool_call", "local_shell_call"])
def test_what_else_the_model_did_is_not_known_to_the_caller(kind: str) -> None:
    parsed = parser("f")
    for said in (BEGUN, raw("f"), raw("x", "d", type=kind), RESPONSE):
        parsed.feed(said)
    assert (parsed.done, parsed.waits) == (True, False)


def test_what_codex_answered_itself_is_not_known_to_the_caller() -> None:
    parsed = parser(*TOOLS)
    until_done(parsed, "call_not_offered")
    assert not parsed.waits
    parsed = parser()
    for said in (message("1", "a"), used(1), message("2", "b"), used(2), COMPLETED):
        parsed.feed(said)
    assert (parsed.done, parsed.waits) == (True, False)


@pytest.mark.parametrize("name", ["text", "thinking", "two_messages", "whole_message"])
def test_an_answer_can_be_gone_on_from(name: str) -> None:
    parsed = parser()
    until_done(parsed, name)
    assert parsed.waits


@pytest.mark.parametrize(
    "name", ["length", "content_filter", "refusal", "400", "cut", "interrupted", "retried"]
)
def test_what_was_no_whole_answer_cannot(name: str) -> None:
    parsed = parser()
    until_done(parsed, name)
    assert not parsed.waits


def test_a_text_that_is_not_what_was_told_cannot() -> None:
    parsed = parser()
    delta = {"method": "item/agentMessage/delta", "params": {"itemId": "1", "delta": "one"}}
    for said in (delta, message("1", "two"), used(1), COMPLETED):
        parsed.feed(said)
    assert (parsed.done, parsed.waits) == (True, False)


def test_what_the_agent_did_itself_cannot() -> None:
    parsed = parser()
    item = {"method": "item/started", "params": {"item": {"type": "contextCompaction"}}}
    for said in (item, message("1", "a"), used(1), COMPLETED):
        parsed.feed(said)
    assert (parsed.done, parsed.waits) == (True, False)


def test_a_second_try_can_if_the_first_had_not_begun() -> None:
    parsed = parser(retries=1)
    until_done(parsed, "retried")
    assert parsed.waits


def test_a_second_try_cannot_if_the_first_may_be_remembered() -> None:
    parsed = parser(retries=1)
    begun = message("1", "", method="started")
    events = [
        event
        for said in (begun, RETRY, message("2", "b"), used(1), COMPLETED)
        for event in parsed.feed(said)
    ]
    assert events == [Started("m"), TextDelta("b"), Usage(1, 1), Finished(FinishReason.STOP)]
    assert not parsed.waits


def test_every_turn_has_its_own_tries() -> None:
    parsed = parser(retries=1)
    for _ in range(2):
        for said in (RETRY, message("1", "a"), used(1), COMPLETED):
            parsed.feed(said)
        assert parsed.waits
        parsed.go_on()
    parsed.feed(RETRY)
    [failed] = parsed.feed(RETRY)
    assert isinstance(failed, Failed)


def test_a_result_is_its_parts_and_never_empty() -> None:
    image = ImagePart(data=PNG)
    told = Message(Role.TOOL, (TextPart("a"), image, TextPart("b")), call_id="c")
    assert result_content(told) == [
        {"type": "inputText", "text": "a"},
        {"type": "inputImage", "imageUrl": f"data:image/png;base64,{PNG}"},
        {"type": "inputText", "text": "b"},
    ]
    assert result_content(Message(Role.TOOL)) == [{"type": "inputText", "text": ""}]
