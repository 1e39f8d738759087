"""Events in; the API's events and the response out, and both say the same."""

import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from clinvk.errors import (
    CliCrashedError,
    ClinvkError,
    ContextTooLongError,
    RateLimitedError,
)
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
from clinvk.wire.openai_responses import OpenAIResponses
from clinvk.wire.openai_responses_encoder import ResponsesEncoder
from tests.fakes.openai_types import check_response, check_stream, fold

END = Finished(FinishReason.STOP)
SETTINGS: dict[str, Any] = {
    "model": "m",
    "instructions": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "store": True,
    "temperature": None,
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
}


def encoder() -> ResponsesEncoder:
    ids = map(str, count(1))
    return ResponsesEncoder(SETTINGS, new_id=lambda: next(ids), now=lambda: 1_700_000_000.9)


def stream(events: list[Event], made: ResponsesEncoder | None = None) -> list[dict[str, Any]]:
    made = made or encoder()
    frames = [frame for event in events for frame in made.feed(event)]
    frames += made.end()
    told = [json.loads(frame.data) for frame in frames]
    assert [frame.event for frame in frames] == [event["type"] for event in told]
    check_stream(told)
    return told


def test_a_stream() -> None:
    told = stream(
        [
            Started("x"),
            ReasoningDelta("Hm."),
            ToolActivity("shell", "completed"),
            TextDelta("H"),
            TextDelta("i"),
            Usage(5, 3, cached_tokens=2, cache_write_tokens=1, reasoning_tokens=1),
            END,
        ]
    )
    assert [event["type"].removeprefix("response.") for event in told] == snapshot(
        [
            "created",
            "in_progress",
            "output_item.added",
            "reasoning_summary_part.added",
            "reasoning_summary_text.delta",
            "reasoning_summary_text.done",
            "reasoning_summary_part.done",
            "output_item.done",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed",
        ]
    )
    assert told[3:6:2] == snapshot(
        [
            {
                "type": "response.reasoning_summary_part.added",
                "sequence_number": 3,
                "item_id": "rs_2",
                "output_index": 0,
                "summary_index": 0,
                "part": {"type": "summary_text", "text": ""},
            },
            {
                "type": "response.reasoning_summary_text.done",
                "sequence_number": 5,
                "item_id": "rs_2",
                "output_index": 0,
                "summary_index": 0,
                "text": "Hm.",
            },
        ]
    )
    assert told[9:12:2] == snapshot(
        [
            {
                "type": "response.content_part.added",
                "sequence_number": 9,
                "item_id": "msg_3",
                "output_index": 1,
                "content_index": 0,
                "part": {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
            },
            {
                "type": "response.output_text.delta",
                "sequence_number": 11,
                "item_id": "msg_3",
                "output_index": 1,
                "content_index": 0,
                "delta": "i",
                "logprobs": [],
            },
        ]
    )
    assert told[-1]["response"] == snapshot(
        {
            "id": "resp_1",
            "object": "response",
            "created_at": 1700000000,
            "completed_at": 1700000000,
            "status": "completed",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": "m",
            "instructions": None,
            "metadata": {},
            "parallel_tool_calls": True,
            "store": True,
            "temperature": None,
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
            "output": [
                {
                    "id": "rs_2",
                    "type": "reasoning",
                    "status": "completed",
                    "summary": [{"type": "summary_text", "text": "Hm."}],
                },
                {
                    "id": "msg_3",
                    "type": "message",
                    "status": "completed",
                    "content": [
                        {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}
                    ],
                    "role": "assistant",
                },
            ],
            "usage": {
                "input_tokens": 5,
                "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 1},
                "output_tokens": 3,
                "output_tokens_details": {"reasoning_tokens": 1},
                "total_tokens": 8,
            },
        }
    )
    begun = {**told[-1]["response"], "status": "in_progress", "completed_at": None, "output": []}
    del begun["usage"]  # its schema knows no null
    assert told[0]["response"] == begun


def test_calls_are_items_of_their_own() -> None:
    told = stream(
        [
            TextDelta("wait"),
            ToolCall("c1", "f", '{"a":1}'),
            ToolCall("c2", "g", "{}"),
            Finished(FinishReason.TOOL_CALLS),
        ]
    )
    assert told[8:12] == snapshot(
        [
            {
                "type": "response.output_item.added",
                "sequence_number": 8,
                "output_index": 1,
                "item": {
                    "id": "fc_3",
                    "type": "function_call",
                    "status": "in_progress",
                    "call_id": "c1",
                    "name": "f",
                    "arguments": "",
                },
            },
            {
                "type": "response.function_call_arguments.delta",
                "sequence_number": 9,
                "item_id": "fc_3",
                "output_index": 1,
                "delta": '{"a":1}',
            },
            {
                "type": "response.function_call_arguments.done",
                "sequence_number": 10,
                "item_id": "fc_3",
                "output_index": 1,
                "name": "f",
                "arguments": '{"a":1}',
            },
            {
                "type": "response.output_item.done",
                "sequence_number": 11,
                "output_index": 1,
                "item": {
                    "id": "fc_3",
                    "type": "function_call",
                    "status": "completed",
                    "call_id": "c1",
                    "name": "f",
                    "arguments": '{"a":1}',
                },
            },
        ]
    )
    assert [item["type"] for item in told[-1]["response"]["output"]] == [
        "message",
        "function_call",
        "function_call",
    ]
    assert told[-1]["type"] == "response.completed"


def test_nothing_is_told_before_the_model_says_something() -> None:
    made = encoder()
    assert made.feed(Started("x")) == made.feed(ToolActivity("a", "b")) == []


def test_an_empty_answer_has_no_items() -> None:
    told = stream([Usage(1, 0), END])
    assert [event["type"] for event in told] == [
        "response.created",
        "response.in_progress",
        "response.completed",
    ]
    assert "usage" not in told[0]["response"]


@pytest.mark.parametrize(
    ("reason", "detail"),
    [
        (FinishReason.LENGTH, "max_output_tokens"),
        (FinishReason.CONTENT_FILTER, "content_filter"),
    ],
)
def test_a_cut_answer_is_incomplete(reason: FinishReason, detail: str) -> None:
    told = stream([TextDelta("a"), Usage(1, 1), Finished(reason)])
    assert told[-1]["type"] == "response.incomplete"
    response = told[-1]["response"]
    assert response["incomplete_details"] == {"reason": detail}
    assert response["output"][0]["status"] == "incomplete"
    assert response["completed_at"] is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CliCrashedError("it died"), "server_error"),
        (RateLimitedError("it died"), "rate_limit_exceeded"),
        (ContextTooLongError("it died"), "invalid_prompt"),
    ],
)
@pytest.mark.parametrize("said", [[], [TextDelta("a")], [ReasoningDelta("a")]])
def test_a_failure_is_the_last_event(error: ClinvkError, code: str, said: list[Event]) -> None:
    told = stream([*said, Failed(error)])
    assert told[-1]["type"] == "response.failed"
    response = told[-1]["response"]
    assert (response["error"]["code"], response["error"]["message"]) == (code, "it died")
    assert response["clinvk"] == {"error_code": error.code}
    assert [item["status"] for item in response["output"]] == ["incomplete"] * len(said)


def test_an_estimate_is_marked() -> None:
    made = encoder()
    told = stream([TextDelta("a"), Usage(1, 1, estimated=True), END], made)
    assert made.usage_estimated
    assert told[-1]["response"]["clinvk"] == {"usage": "estimated"}
    assert "clinvk" not in told[0]["response"]


def test_what_could_not_be_stored_says_so() -> None:
    made = encoder()
    made.feed(END)
    made.forget()
    assert made.result()["store"] is False


def test_data_is_ascii() -> None:
    made = encoder()
    frames = [*made.feed(TextDelta("\u2028é")), *made.feed(END), *made.end()]
    assert all(frame.data.isascii() for frame in frames)


def test_the_settings_of_a_request_come_back() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    body = {
        "model": "m",
        "input": "hi",
        "instructions": "be brief",
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "max_output_tokens": 9,
        "parallel_tool_calls": False,
        "store": False,
        "tools": [tool, {"type": "web_search"}],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": schema},
        "reasoning": {"effort": "low", "summary": "auto"},
    }
    made = OpenAIResponses().parse(json.dumps(body).encode()).encoder
    made.feed(END)
    response = made.result()
    check_response(response)
    same = ["model", "instructions", "metadata", "temperature", "max_output_tokens"]
    same += ["parallel_tool_calls", "store", "tool_choice", "text", "reasoning"]
    assert {name: response[name] for name in same} == {name: body[name] for name in same}
    assert response["tools"] == [{**tool, "description": None}]


BODY = st.one_of(
    st.builds(TextDelta, st.text()),
    st.builds(ReasoningDelta, st.text()),
    st.builds(ToolCall, st.text(min_size=1), st.text(min_size=1), st.just('{"a": 1}')),
    st.builds(Usage, st.integers(0, 9), st.integers(0, 9)),
    st.just(Started()),
    st.just(ToolActivity("a", "b")),
)
ENDS = st.builds(Finished, st.sampled_from(FinishReason))


@given(st.lists(BODY, max_size=12), ENDS)
def test_the_events_add_up_to_the_response(body: list[Event], end: Event) -> None:
    made = encoder()
    told = stream([*body, end], made)
    result = made.result()
    check_response(result)
    assert told[-1]["response"] == result
    assert fold(told) == result["output"]
    said = "".join(event.text for event in body if isinstance(event, TextDelta))
    texts = [i["content"][0]["text"] for i in result["output"] if i["type"] == "message"]
    assert "".join(texts) == said
