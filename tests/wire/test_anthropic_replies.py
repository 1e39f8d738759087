"""Events in; Anthropic's stream and message out, and both say the same."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from clinvk.errors import OverloadedError
from clinvk.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolActivity,
    ToolCall,
    Usage,
)
from clinvk.wire import sse
from clinvk.wire.anthropic_messages import AnthropicMessages, MessageEncoder

END = Finished(FinishReason.STOP)
CALLED = Finished(FinishReason.TOOL_CALLS)


def encoder(*, show_thinking: bool = True) -> MessageEncoder:
    return MessageEncoder("m", show_thinking=show_thinking, new_id=lambda: "1")


def stream(*events: Event, show_thinking: bool = True) -> list[Any]:
    made = encoder(show_thinking=show_thinking)
    frames = [frame for event in events for frame in made.feed(event)] + made.end()
    data = [json.loads(frame.data) for frame in frames]
    assert [frame.event for frame in frames] == [event["type"] for event in data]
    return data


def whole(*events: Event, show_thinking: bool = True) -> dict[str, Any]:
    made = encoder(show_thinking=show_thinking)
    for event in events:
        made.feed(event)
    return made.result()


def test_a_stream() -> None:
    assert stream(
        Started("x"),
        ReasoningDelta("Hm"),
        ReasoningDelta("."),
        ToolActivity("shell", "completed"),
        TextDelta("H"),
        TextDelta("i"),
        Usage(9, 3, cached_tokens=4, cache_write_tokens=3, reasoning_tokens=1),
        END,
    ) == snapshot(
        [
            {
                "type": "message_start",
                "message": {
                    "id": "msg_1",
                    "type": "message",
                    "role": "assistant",
                    "model": "m",
                    "container": None,
                    "content": [],
                    "stop_reason": None,
                    "stop_sequence": None,
                    "stop_details": None,
                    "usage": {
                        "input_tokens": 0,
                        "cache_creation_input_tokens": 0,
                        "cache_read_input_tokens": 0,
                        "output_tokens": 0,
                        "output_tokens_details": {"thinking_tokens": 0},
                        "cache_creation": None,
                        "server_tool_use": None,
                        "service_tier": None,
                        "inference_geo": None,
                    },
                },
            },
            {"type": "ping"},
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "thinking", "thinking": "", "signature": ""},
            },
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "thinking_delta", "thinking": "Hm"},
            },
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "thinking_delta", "thinking": "."},
            },
            {"type": "content_block_stop", "index": 0},
            {
                "type": "content_block_start",
                "index": 1,
                "content_block": {"type": "text", "text": "", "citations": None},
            },
            {
                "type": "content_block_delta",
                "index": 1,
                "delta": {"type": "text_delta", "text": "H"},
            },
            {
                "type": "content_block_delta",
                "index": 1,
                "delta": {"type": "text_delta", "text": "i"},
            },
            {"type": "content_block_stop", "index": 1},
            {
                "type": "message_delta",
                "delta": {
                    "stop_reason": "end_turn",
                    "stop_sequence": None,
                    "stop_details": None,
                    "container": None,
                },
                "usage": {
                    "input_tokens": 2,
                    "cache_creation_input_tokens": 3,
                    "cache_read_input_tokens": 4,
                    "output_tokens": 3,
                    "output_tokens_details": {"thinking_tokens": 1},
                    "cache_creation": None,
                    "server_tool_use": None,
                    "service_tier": None,
                    "inference_geo": None,
                },
            },
            {"type": "message_stop"},
        ]
    )


def test_a_message() -> None:
    assert whole(
        ReasoningDelta("Hm."),
        TextDelta("Hi"),
        ToolCall("c1", "f", '{"a":[1.5,"é"]}'),
        Usage(9, 3),
        CALLED,
    ) == snapshot(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "container": None,
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": ""},
                {"type": "text", "text": "Hi", "citations": None},
                {
                    "type": "tool_use",
                    "id": "c1",
                    "name": "f",
                    "input": {"a": [1.5, "é"]},
                    "caller": {"type": "direct"},
                },
            ],
            "stop_reason": "tool_use",
            "stop_sequence": None,
            "stop_details": None,
            "usage": {
                "input_tokens": 9,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 3,
                "output_tokens_details": {"thinking_tokens": 0},
                "cache_creation": None,
                "server_tool_use": None,
                "service_tier": None,
                "inference_geo": None,
            },
        }
    )


def test_calls_are_blocks_whose_input_comes_as_json() -> None:
    events = stream(
        TextDelta("a"), ToolCall("c1", "f", '{"a": 1}'), ToolCall("c2", "g", ""), CALLED
    )
    assert [e for e in events if e["type"].startswith("content_block")] == snapshot(
        [
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "text", "text": "", "citations": None},
            },
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": "a"},
            },
            {"type": "content_block_stop", "index": 0},
            {
                "type": "content_block_start",
                "index": 1,
                "content_block": {
                    "type": "tool_use",
                    "id": "c1",
                    "name": "f",
                    "input": {},
                    "caller": {"type": "direct"},
                },
            },
            {
                "type": "content_block_delta",
                "index": 1,
                "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'},
            },
            {"type": "content_block_stop", "index": 1},
            {
                "type": "content_block_start",
                "index": 2,
                "content_block": {
                    "type": "tool_use",
                    "id": "c2",
                    "name": "g",
                    "input": {},
                    "caller": {"type": "direct"},
                },
            },
            {
                "type": "content_block_delta",
                "index": 2,
                "delta": {"type": "input_json_delta", "partial_json": "{}"},
            },
            {"type": "content_block_stop", "index": 2},
        ]
    )
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize("arguments", ["[1]", "{", "NaN", '{"a": NaN}', "[" * 100_000])
def test_arguments_that_are_no_object_are_told_as_they_are(arguments: str) -> None:
    block = whole(ToolCall("c", "f", arguments), CALLED)["content"][0]
    assert block["input"] == {"arguments": arguments}


def test_thinking_is_told_only_where_it_was_asked_for() -> None:
    events = (ReasoningDelta("hm"), TextDelta("a"), END)
    assert [b["type"] for b in whole(*events, show_thinking=False)["content"]] == ["text"]
    starts = [e for e in stream(*events, show_thinking=False) if "content_block" in e]
    assert [e["content_block"]["type"] for e in starts] == ["text"]


@pytest.mark.parametrize(
    ("thinking", "shown"),
    [
        (None, False),
        ({"type": "disabled"}, False),
        ({"type": "enabled", "budget_tokens": 1024}, True),
        ({"type": "adaptive"}, True),
        ({"type": "adaptive", "display": "summarized"}, True),
        ({"type": "adaptive", "display": "omitted"}, False),
    ],
)
def test_who_asks_for_thinking_gets_it(thinking: dict[str, Any] | None, shown: bool) -> None:
    messages = [{"role": "user", "content": "hi"}]
    body = {"model": "m", "max_tokens": 1, "messages": messages, "thinking": thinking}
    made = AnthropicMessages().parse(json.dumps(body).encode()).encoder
    assert bool(made.feed(ReasoningDelta("hm"))) is shown


def test_usage_that_is_known_at_the_start_is_told_at_the_start() -> None:
    start, *_ = stream(Usage(5, 2), TextDelta("a"), END)
    assert (
        start["message"]["usage"]["input_tokens"],
        start["message"]["usage"]["output_tokens"],
    ) == (
        5,
        0,
    )


def test_an_empty_answer_is_a_message_without_blocks() -> None:
    assert whole(TextDelta(""), END)["content"] == []
    kinds = [event["type"] for event in stream(TextDelta(""), END)]
    assert kinds == ["message_start", "ping", "message_delta", "message_stop"]


def test_an_estimate_is_marked() -> None:
    events = (TextDelta("a"), Usage(1, 1, estimated=True), END)
    made = encoder()
    frames = [frame for event in events for frame in made.feed(event)]
    assert made.usage_estimated
    assert made.result()["clinvk"] == {"usage": "estimated"}
    assert json.loads(frames[-2].data)["clinvk"] == {"usage": "estimated"}


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (FinishReason.STOP, "end_turn"),
        (FinishReason.LENGTH, "max_tokens"),
        (FinishReason.TOOL_CALLS, "tool_use"),
        (FinishReason.CONTENT_FILTER, "refusal"),
    ],
)
def test_stop_reasons(reason: FinishReason, told: str) -> None:
    assert whole(Finished(reason))["stop_reason"] == told
    ending = {"stop_reason": told, "stop_sequence": None}
    assert stream(Finished(reason))[-2]["delta"].items() >= ending.items()


def test_a_stop_text_that_was_met_is_named() -> None:
    events = (TextDelta("a"), Finished(FinishReason.STOP, "END"))
    ending = {"stop_reason": "stop_sequence", "stop_sequence": "END"}
    assert whole(*events).items() >= ending.items()
    assert stream(*events)[-2]["delta"].items() >= ending.items()


def test_a_failure_in_a_stream_is_an_error_and_never_a_stop() -> None:
    events = stream(TextDelta("a"), Failed(OverloadedError("try later")))
    assert events[-1] == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "try later"},
    }
    assert not {"message_delta", "message_stop"} & {event["type"] for event in events}


def test_frames_are_ascii_so_that_no_client_splits_them() -> None:
    data = sse.encode(encoder().feed(TextDelta("a\u2028b\u0085c\n\n\U0001f600")))
    assert data.isascii()
    assert data.count(b"\n\n") == data.count(b"event: ") == 4


PIECES = st.text(max_size=8)
BODY_EVENTS = st.lists(
    st.builds(TextDelta, PIECES)
    | st.builds(ReasoningDelta, PIECES)
    | st.builds(
        ToolCall,
        PIECES,
        PIECES,
        st.dictionaries(PIECES, PIECES | st.floats(allow_nan=False)).map(json.dumps) | PIECES,
    )
    | st.builds(Usage, st.integers(0, 9), st.integers(0, 9), st.integers(0, 5))
    | st.just(Started("m"))
    | st.just(ToolActivity("t", "s")),
    max_size=12,
)


@given(BODY_EVENTS, st.sampled_from(FinishReason), st.booleans())
def test_folding_the_stream_gives_the_message(
    body: list[Event], reason: FinishReason, show_thinking: bool
) -> None:
    events = (*body, Finished(reason))
    folded = fold(stream(*events, show_thinking=show_thinking))
    assert folded == whole(*events, show_thinking=show_thinking)


def fold(events: list[Any]) -> dict[str, Any]:
    """Put a stream together as a strict client does."""
    start, ping, *blocks, delta, stop = events
    assert (start["type"], ping, stop) == (
        "message_start",
        {"type": "ping"},
        {"type": "message_stop"},
    )
    message: dict[str, Any] = start["message"]
    content, pieces, at = message["content"], "", 0
    for event in blocks:
        assert event["index"] == at
        if event["type"] == "content_block_start":
            assert len(content) == at
            content.append(event["content_block"])
            pieces = ""
        elif event["type"] == "content_block_delta":
            *_, (kind, piece) = event["delta"].items()
            assert kind in {"text", "thinking", "partial_json"}
            pieces += piece
        else:
            assert event["type"] == "content_block_stop"
            block = content[-1]
            if block["type"] == "tool_use":
                block["input"] = json.loads(pieces)
            else:
                block[block["type"]] = pieces
            at += 1
    assert len(content) == at
    message["usage"] |= delta["usage"]
    return {**message, **delta["delta"]}
