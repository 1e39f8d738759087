"""What codex says, as events; recorded from codex 0.169.0 against a fake of its API."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.backends.codex_events import TurnParser
from clinvk.errors import (
    ClinvkError,
    CliProtocolError,
    ContextTooLongError,
    ModelNotFoundError,
    NotLoggedInError,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    TooLargeError,
    UpstreamError,
    UpstreamRefusedError,
    UpstreamUnreachableError,
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
    Usage,
    check_grammar,
)
from clinvk.procs.lines import LineFramer

TRANSCRIPTS = Path(__file__).parent.parent / "transcripts" / "codex"
NAMES = sorted(path.stem for path in TRANSCRIPTS.glob("*.jsonl"))


def replay(name: str, *, retries: int = 0, lines: list[bytes] | None = None) -> list[Event]:
    parser = TurnParser("m", retries=retries)
    said = lines or (TRANSCRIPTS / f"{name}.jsonl").read_bytes().splitlines()
    return [event for line in said for event in parser.feed(json.loads(line))]


def deltas(*texts: str) -> list[Event]:
    return [Started("m"), *(TextDelta(text) for text in texts)]


HELLO = deltas("Hello", " from", " the", " fake", ".")
ANSWERS: dict[str, list[Event]] = {
    "text": [*HELLO, Usage(11, 7), Finished(FinishReason.STOP)],
    "thinking": [
        Started("m"),
        ReasoningDelta("Let me"),
        ReasoningDelta(" think."),
        *HELLO[1:],
        Usage(11, 7, cached_tokens=3, reasoning_tokens=2),
        Finished(FinishReason.STOP),
    ],
    "whole_message": [*deltas("whole"), Usage(11, 7), Finished(FinishReason.STOP)],
    "two_messages": [*deltas("text a", "\n\ntext b"), Usage(11, 7), Finished(FinishReason.STOP)],
    "length": [*HELLO, Usage(11, 7), Finished(FinishReason.LENGTH)],
    "length_without_text": [Started("m"), Usage(11, 7), Finished(FinishReason.LENGTH)],
    "content_filter": [*HELLO, Finished(FinishReason.CONTENT_FILTER)],
    "refusal": [Started("m"), Usage(11, 7), Finished(FinishReason.CONTENT_FILTER)],
}
FAILURES: dict[str, tuple[type[ClinvkError], str]] = {
    "400": (UpstreamRefusedError, "codex's model API says: bad thing"),
    "401": (
        NotLoggedInError,
        "codex's login was refused (Incorrect API key provided: sk-x); log in with: codex login",
    ),
    "403": (PermissionDeniedError, "codex's model API says: Country not supported"),
    "404": (
        ModelNotFoundError,
        "codex's model API says: The model `zz` does not exist or you do not have access to it",
    ),
    "413": (TooLargeError, "codex's model API says: Payload too large"),
    "429": (RateLimitedError, "codex's rate limit is used up: 429 Too Many Requests"),
    "429_quota": (
        QuotaExceededError,
        "codex's rate limit is used up: Quota exceeded. Check your plan and billing details",
    ),
    "429_usage_limit": (
        QuotaExceededError,
        (
            "codex's rate limit is used up: You\u2019ve hit your usage limit. Upgrade to Pro "
            "(https://chatgpt.com/explore/pro), visit https://chatgpt.com/settings/usage to "
            "purchase more credits or try again at 4:56 PM"
        ),
    ),
    "500": (
        UpstreamError,
        (
            "codex's model API says: We\u2019re currently experiencing high demand, which may "
            "cause temporary errors"
        ),
    ),
    "503_overloaded": (
        OverloadedError,
        "codex's model API says: Selected model is at capacity. Please try a different model",
    ),
    "529": (OverloadedError, "codex's model API says: Overloaded"),
    "context_too_long": (
        ContextTooLongError,
        "the conversation is over the model's context window: send less of it",
    ),
    "no_key": (
        NotLoggedInError,
        (
            "codex's model provider reads its key from FAKE_KEY, which is not set; set it for the "
            "server, or under `env` of the backend"
        ),
    ),
    "connection_refused": (
        UpstreamUnreachableError,
        (
            "codex lost, or never got, its connection to the model API: Connection failed: error "
            "sending request"
        ),
    ),
    "cut": (
        UpstreamUnreachableError,
        (
            "codex lost, or never got, its connection to the model API: stream disconnected before "
            "completion: Transport error: network error: error decoding response body"
        ),
    ),
    "stream_server_error": (
        UpstreamError,
        "codex's model API says: stream disconnected before completion: The server had an error",
    ),
    "stream_invalid_prompt": (
        UpstreamRefusedError,
        (
            "codex's model API says: Invalid prompt: we've limited access to this content for "
            "safety reasons"
        ),
    ),
    "interrupted": (CliProtocolError, "codex ended the turn as 'interrupted'; ask again"),
}
RETRIES = {"retried": 2, "retried_after_text": 2}


def failure(events: list[Event]) -> ClinvkError:
    assert isinstance(events[-1], Failed)
    return events[-1].error


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_its_events(name: str) -> None:
    assert replay(name) == ANSWERS[name]


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_typed(name: str) -> None:
    error = failure(replay(name))
    assert (type(error), error.message) == FAILURES[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_transcript_follows_the_grammar(name: str) -> None:
    check_grammar(replay(name, retries=RETRIES.get(name, 0)))


def test_a_rate_limit_within_the_stream_tells_when_to_ask_again() -> None:
    error = failure(replay("stream_rate_limit"))
    assert isinstance(error, RateLimitedError)
    assert error.retry_after_s == 11.054


def test_a_retry_is_not_seen() -> None:
    assert replay("retried", retries=2) == ANSWERS["text"]


def test_more_retries_than_allowed_end_the_turn() -> None:
    error = failure(replay("retried", retries=0))
    assert type(error) is UpstreamError
    assert error.message.endswith("try again")


def test_no_retry_repeats_what_was_said() -> None:
    events = replay("retried_after_text", retries=2)
    assert events[:-1] == deltas("Hello")
    assert isinstance(failure(events), UpstreamError)


@given(sizes=st.lists(st.integers(1, 400), min_size=1), name=st.sampled_from(NAMES))
def test_how_the_bytes_were_cut_does_not_matter(sizes: list[int], name: str) -> None:
    data = (TRANSCRIPTS / f"{name}.jsonl").read_bytes()
    framer = LineFramer(1_000_000)
    lines: list[bytes] = []
    at = 0
    while at < len(data):
        for size in sizes:
            lines += framer.push(data[at : at + size])
            at += size
    assert framer.flush() == b""
    assert repr(replay(name, lines=lines)) == repr(replay(name))


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"method": "item/started"},
        {"method": "item/started", "params": {"item": None}},
        {"method": "item/completed", "params": {"item": {"type": "reasoning"}}},
        {"method": "item/agentMessage/delta", "params": {"delta": ""}},
        {"method": "thread/tokenUsage/updated", "params": {"tokenUsage": {"total": None}}},
        {"method": "turn/plan/updated", "params": {"plan": []}},
        {"method": "future/event", "params": {"a": 1}},
        {"method": "error", "params": {"willRetry": False}},
    ],
)
def test_the_unknown_is_passed_over(message: dict[str, Any]) -> None:
    parser = TurnParser("m", retries=0)
    assert [e for e in parser.feed(message) if not isinstance(e, Started)] == []
    assert not parser.done


def test_a_tool_of_the_agent_is_activity_and_not_a_call() -> None:
    parser = TurnParser("m", retries=0)
    item = {"type": "commandExecution", "id": "1", "status": "inProgress"}
    started = parser.feed({"method": "item/started", "params": {"item": item}})
    item = {**item, "status": "completed"}
    ended = parser.feed({"method": "item/completed", "params": {"item": item}})
    assert started == [Started("m"), ToolActivity("commandExecution", "inProgress")]
    assert ended == [ToolActivity("commandExecution", "completed")]


def test_parts_of_a_summary_are_apart() -> None:
    parser = TurnParser("m", retries=0)
    place = {"itemId": "rs"}

    def feed(method: str, **params: Any) -> list[Event]:
        return parser.feed({"method": f"item/reasoning/{method}", "params": {**place, **params}})

    events = [
        *feed("summaryPartAdded", summaryIndex=0),
        *feed("summaryTextDelta", delta="one"),
        *feed("summaryPartAdded", summaryIndex=1),
        *feed("summaryTextDelta", delta="two"),
    ]
    assert events == [
        Started("m"),
        ReasoningDelta("one"),
        ReasoningDelta("\n\n"),
        ReasoningDelta("two"),
    ]


def test_a_summary_without_deltas_is_not_lost() -> None:
    parser = TurnParser("m", retries=0)
    item = {"type": "reasoning", "id": "rs", "summary": ["one", "two"]}
    events = parser.feed({"method": "item/completed", "params": {"item": item}})
    assert events == [Started("m"), ReasoningDelta("one\n\ntwo")]


def test_what_the_deltas_left_out_is_added_at_the_end_of_the_message() -> None:
    parser = TurnParser("m", retries=0)
    delta = {"itemId": "1", "delta": "one"}
    events = parser.feed({"method": "item/agentMessage/delta", "params": delta})
    item = {"type": "agentMessage", "id": "1", "text": "one two"}
    events += parser.feed({"method": "item/completed", "params": {"item": item}})
    assert events == deltas("one", " two")


def test_another_model_that_answers_is_named() -> None:
    parser = TurnParser("m", retries=0)
    parser.feed({"method": "model/rerouted", "params": {"fromModel": "m", "toModel": "n"}})
    delta = {"itemId": "1", "delta": "hi"}
    events = parser.feed({"method": "item/agentMessage/delta", "params": delta})
    assert events == [Started("n"), TextDelta("hi")]
