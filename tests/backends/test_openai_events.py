"""Chunks of servers like OpenAI's, fed as they come; events out."""

import json
from typing import Any

import pytest

from clinvk.backends.openai_events import ChatEvents
from clinvk.errors import (
    ClinvkError,
    CliProtocolError,
    OverloadedError,
    UpstreamError,
    UpstreamUnreachableError,
)
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


def delta(reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "choices": [{"index": 0, "delta": fields, "finish_reason": reason}]}


def call(**fields: Any) -> dict[str, Any]:
    return delta(tool_calls=[fields])


def events(*chunks: dict[str, Any], done: bool = True) -> list[Event]:
    feed = ChatEvents()
    found = [event for chunk in chunks for event in feed.feed(json.dumps(chunk))]
    if done:
        assert feed.feed("[DONE]") == []
    found += feed.end()
    check_grammar(found)
    return found


def test_text_thinking_and_usage_come_in_order() -> None:
    spent = {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    assert events(
        delta(role="assistant", content=""),
        delta(reasoning_content="hm"),
        delta(reasoning="!"),
        delta(content="Hel"),
        delta(content="lo"),
        delta(refusal="No."),
        delta("stop"),
        {"choices": [], "usage": spent},
    ) == [
        Started("m"),
        ReasoningDelta("hm"),
        ReasoningDelta("!"),
        TextDelta("Hel"),
        TextDelta("lo"),
        TextDelta("No."),
        Usage(5, 3, cached_tokens=2, reasoning_tokens=1),
        Finished(FinishReason.STOP),
    ]


@pytest.mark.parametrize("reason", ["tool_calls", "stop"])
@pytest.mark.parametrize("indexed", [True, False])
def test_pieces_of_calls_become_whole_calls(reason: str, *, indexed: bool) -> None:
    def at(index: int) -> dict[str, Any]:
        return {"index": index} if indexed else {}

    found = events(
        call(**at(0), id="a", function={"name": "look", "arguments": ""}),
        call(**at(0), function={"arguments": '{"x"'}),
        call(**at(0), function={"arguments": ":1}"}),
        call(**at(1), id="b", function={"name": "hear"}),
        delta(reason),
    )
    assert found[1:] == [
        ToolCall("a", "look", '{"x":1}'),
        ToolCall("b", "hear", ""),
        Finished(FinishReason.TOOL_CALLS),
    ]


def test_a_call_without_an_id_gets_one() -> None:
    assert ToolCall("call_0", "look", "{}") in events(
        call(function={"name": "look", "arguments": "{}"}), delta("stop")
    )


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("length", FinishReason.LENGTH),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("tool_calls", FinishReason.STOP),  # but there is none
        ("eos", FinishReason.STOP),
    ],
)
def test_reasons_are_those_that_there_are(told: str, reason: FinishReason) -> None:
    assert events(delta(told, content="a"))[-1] == Finished(reason)


def test_an_answer_that_is_no_stream_is_taken_whole() -> None:
    message = {"role": "assistant", "content": "Hi"}
    body = {"model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}
    found = events({**body, "usage": {"prompt_tokens": 1, "completion_tokens": 1}}, done=False)
    assert found == [Started("m"), TextDelta("Hi"), Usage(1, 1), Finished(FinishReason.STOP)]


@pytest.mark.parametrize("chunks", [(), (delta(content="a"),)])
def test_a_stream_that_breaks_off_is_no_answer(chunks: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(UpstreamUnreachableError):
        events(*chunks, done=False)


def test_nothing_but_the_end_is_no_answer() -> None:
    with pytest.raises(UpstreamUnreachableError):
        events()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "no", "code": 503}, OverloadedError),
        ({"message": "no"}, UpstreamError),
        ("no", UpstreamError),
    ],
)
def test_an_error_within_a_stream_is_typed(error: Any, kind: type[ClinvkError]) -> None:
    with pytest.raises(kind, match="no"):
        ChatEvents().feed(json.dumps({"error": error}))


@pytest.mark.parametrize("data", ["{", "[]", '{"choices": 1}'])
def test_what_is_no_chunk_is_refused(data: str) -> None:
    with pytest.raises(CliProtocolError, match="no chunk"):
        ChatEvents().feed(data)


def test_arguments_without_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clinvk.events.ANSWER_CHARS", 1000)
    pieces = [call(index=0, function={"arguments": "x" * 10})] * 1000
    with pytest.raises(CliProtocolError, match="no end"):
        events(*pieces)
