"""The calls that codex's model makes; recorded from codex 0.169.0 against a fake of its API."""

import json
from pathlib import Path

import pytest

from clinvk.backends.codex_calls import Calls
from clinvk.backends.codex_events import TurnParser
from clinvk.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCall,
    Usage,
    check_grammar,
)

TRANSCRIPTS = Path(__file__).parent.parent / "transcripts" / "codex"
ROME = ToolCall("call_resp_1_0", "get_weather", '{"city": "Rome"}')
NOW = ToolCall("call_resp_1_1", "get_time", "{}")


def replay(
    name: str, *tools: str, parallel: bool = True, retries: int = 0
) -> tuple[TurnParser, list[Event]]:
    parser = TurnParser("m", retries=retries, calls=Calls(tools, parallel=parallel))
    lines = (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines()
    return parser, [event for line in lines for event in parser.feed(json.loads(line))]


def test_calls_come_after_the_text_all_at_once_and_end_the_turn() -> None:
    parser, events = replay("calls", "get_weather", "get_time")
    assert events == [
        Started("m"),
        ReasoningDelta("Hm."),
        TextDelta("Let me"),
        TextDelta(" see."),
        ROME,
        NOW,
        Usage(11, 7),
        Finished(FinishReason.TOOL_CALLS),
    ]
    assert parser.done


@pytest.mark.parametrize(
    ("tools", "parallel", "made"),
    [
        (("get_weather", "get_time"), False, [ROME]),
        (("get_time",), True, [NOW]),
        (("get_time",), False, [NOW]),
    ],
)
def test_only_calls_that_the_caller_wants_are_passed_on(
    tools: tuple[str, ...], parallel: bool, made: list[Event]
) -> None:
    _, events = replay("calls", *tools, parallel=parallel)
    assert [event for event in events if isinstance(event, ToolCall)] == made


def test_wrong_calls_are_codexs_to_answer_and_count_as_used() -> None:
    _, events = replay("call_not_offered", "get_weather", "get_time")
    assert events == [
        Started("m"),
        ToolCall("call_resp_2_0", "get_weather", '{"city": "Oslo"}'),
        Usage(22, 14),
        Finished(FinishReason.TOOL_CALLS),
    ]


def test_calls_of_the_history_are_no_calls() -> None:
    _, events = replay("calls_then_text", "get_weather", "get_time")
    check_grammar(events)
    assert events[-1] == Finished(FinishReason.STOP)
    assert [event for event in events if isinstance(event, ToolCall)] == []


def test_a_name_that_was_changed_for_codex_is_changed_back() -> None:
    calls = Calls(["caller_mcp__a"], parallel=True)
    item = {"type": "function_call", "name": "caller_mcp__a", "arguments": "", "call_id": "c"}
    calls.feed("turn/started", {"turn": {"id": "u"}})
    assert not calls.feed("rawResponseItem/completed", {"turnId": "u", "item": item})
    assert calls.feed("rawResponse/completed", {})
    assert calls.made == [ToolCall("c", "mcp__a", "{}")]
