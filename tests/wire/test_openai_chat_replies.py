"""Events in; chunks and body out, and both say the same."""

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
from clinvk.wire.base import Frame
from clinvk.wire.openai_chat import ChatEncoder, OpenAIChat

END = Finished(FinishReason.STOP)


def encoder(*, include_usage: bool = False) -> ChatEncoder:
    return ChatEncoder(
        "m", include_usage=include_usage, new_id=lambda: "1", now=lambda: 1_700_000_000.9
    )


def stream(events: list[Event], *, include_usage: bool = False) -> list[Any]:
    made = encoder(include_usage=include_usage)
    frames: list[Frame] = []
    for event in events:
        frames += made.feed(event)
    frames += made.end()
    assert frames[-1] == sse.DONE
    return [json.loads(frame.data) for frame in frames[:-1]]


def test_a_stream() -> None:
    events: list[Event] = [
        Started("x"),
        ReasoningDelta("Hm."),
        ToolActivity("shell", "completed"),
        TextDelta("Hi"),
        Usage(5, 3, cached_tokens=2, reasoning_tokens=1),
        END,
    ]
    head = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "m",
    }
    chunks = stream(events, include_usage=True)
    assert all(chunk.items() >= head.items() for chunk in chunks)
    assert [chunk["choices"] for chunk in chunks] == snapshot(
        [
            [
                {
                    "index": 0,
                    "delta": {"role": "assistant", "content": ""},
                    "logprobs": None,
                    "finish_reason": None,
                }
            ],
            [
                {
                    "index": 0,
                    "delta": {"reasoning_content": "Hm."},
                    "logprobs": None,
                    "finish_reason": None,
                }
            ],
            [{"index": 0, "delta": {"content": "Hi"}, "logprobs": None, "finish_reason": None}],
            [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}],
            [],
        ]
    )
    assert [chunk["usage"] for chunk in chunks] == snapshot(
        [
            None,
            None,
            None,
            None,
            {
                "prompt_tokens": 5,
                "completion_tokens": 3,
                "total_tokens": 8,
                "prompt_tokens_details": {"cached_tokens": 2},
                "completion_tokens_details": {"reasoning_tokens": 1},
            },
        ]
    )


def test_without_include_usage_no_chunk_has_it() -> None:
    chunks = stream([TextDelta("Hi"), Usage(1, 1), END])
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


def test_a_body() -> None:
    made = encoder()
    for event in (ReasoningDelta("Hm."), TextDelta("H"), TextDelta("i"), Usage(5, 3), END):
        made.feed(event)
    assert made.result() == snapshot(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1700000000,
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": "Hi",
                        "refusal": None,
                        "annotations": [],
                        "reasoning_content": "Hm.",
                    },
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 5,
                "completion_tokens": 3,
                "total_tokens": 8,
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0},
            },
        }
    )


def test_calls_have_an_index_an_id_and_a_string_of_arguments() -> None:
    events: list[Event] = [
        ToolCall("c1", "f", '{"a":1}'),
        ToolCall("c2", "g", "{}"),
        Finished(FinishReason.TOOL_CALLS),
    ]
    deltas = [chunk["choices"][0]["delta"] for chunk in stream(events)]
    assert deltas == snapshot(
        [
            {"role": "assistant", "content": ""},
            {
                "tool_calls": [
                    {
                        "index": 0,
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "f", "arguments": '{"a":1}'},
                    }
                ]
            },
            {
                "tool_calls": [
                    {
                        "index": 1,
                        "id": "c2",
                        "type": "function",
                        "function": {"name": "g", "arguments": "{}"},
                    }
                ]
            },
            {},
        ]
    )
    made = encoder()
    for event in events:
        made.feed(event)
    message = made.result()["choices"][0]["message"]
    assert message["content"] is None
    assert [call["id"] for call in message["tool_calls"]] == ["c1", "c2"]


def test_choices_are_told_apart_and_their_usage_summed() -> None:
    made = encoder(include_usage=True)
    frames = [
        f for i in (1, 0) for e in (TextDelta(f"t{i}"), Usage(2, 1), END) for f in made.feed(e, i)
    ]
    indexes = [json.loads(frame.data)["choices"][0]["index"] for frame in frames]
    assert indexes == [1, 1, 1, 0, 0, 0]
    assert [c["message"]["content"] for c in made.result()["choices"]] == ["t0", "t1"]
    assert json.loads(made.end()[0].data)["usage"]["total_tokens"] == 6


def test_an_estimate_is_marked() -> None:
    made = encoder(include_usage=True)
    for event in (TextDelta("a"), Usage(1, 1, estimated=True), END):
        made.feed(event)
    assert made.usage_estimated
    assert made.result()["clinvk"] == {"usage": "estimated"}
    assert json.loads(made.end()[0].data)["clinvk"] == {"usage": "estimated"}


def test_a_failure_in_a_stream_is_an_error_and_never_a_stop() -> None:
    chunks = stream(
        [TextDelta("a"), Failed(OverloadedError("try later", param="p"))], include_usage=True
    )
    assert chunks[-1] == {
        "error": {
            "message": "try later",
            "type": "server_error",
            "param": "p",
            "code": "upstream_overloaded",
        }
    }
    assert all(c["choices"][0]["finish_reason"] is None for c in chunks[:-1])


def test_an_error_body_has_all_four_keys() -> None:
    status, body = OpenAIChat().error(OverloadedError("x"))
    assert status == 502
    assert body == {
        "error": {
            "message": "x",
            "type": "server_error",
            "param": None,
            "code": "upstream_overloaded",
        }
    }


def test_frames_are_ascii_so_that_no_client_splits_them() -> None:
    data = sse.encode(encoder().feed(TextDelta("a\u2028b\u0085c\n\n\U0001f600")))
    assert data.isascii()
    assert data.count(b"\n\n") == 2
    assert sse.encode([Frame("{}", "named")]) == b"event: named\ndata: {}\n\n"


BODY_EVENTS = st.lists(
    st.builds(TextDelta, st.text(max_size=8))
    | st.builds(ReasoningDelta, st.text(max_size=8))
    | st.builds(ToolCall, st.text(max_size=4), st.text(max_size=4), st.just("{}"))
    | st.builds(Usage, st.integers(0, 9), st.integers(0, 9))
    | st.just(Started("m"))
    | st.just(ToolActivity("t", "s")),
    max_size=12,
)


@given(BODY_EVENTS, st.sampled_from(FinishReason))
def test_folding_the_chunks_gives_the_body(body: list[Event], reason: FinishReason) -> None:
    events = [*body, Finished(reason)]
    made = encoder()
    for event in events:
        made.feed(event)
    whole = made.result()
    chunks = stream(events, include_usage=True)
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    assert deltas[0]["role"] == "assistant"
    assert sum("role" in delta for delta in deltas) == 1
    message = whole["choices"][0]["message"]
    assert "".join(d.get("content", "") for d in deltas) == (message["content"] or "")
    assert "".join(d.get("reasoning_content", "") for d in deltas) == message.get(
        "reasoning_content", ""
    )
    calls = [call for d in deltas for call in d.get("tool_calls", [])]
    assert [call.pop("index") for call in calls] == list(range(len(calls)))
    assert calls == message.get("tool_calls", [])
    finishes = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]]
    assert finishes == [None] * (len(finishes) - 1) + [whole["choices"][0]["finish_reason"]]
    assert chunks[-1]["usage"] == whole["usage"]


def test_a_result_of_no_event_has_no_choice() -> None:
    assert encoder().result()["choices"] == []
    assert encoder(include_usage=True).end() == [sse.DONE]


@pytest.mark.parametrize("reason", list(FinishReason))
def test_finish_reasons_are_those_of_the_api(reason: FinishReason) -> None:
    assert reason.value in {"stop", "length", "tool_calls", "content_filter"}
