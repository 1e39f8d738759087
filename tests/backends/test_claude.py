"""What Claude Code says, as events; recorded from claude 2.1.197 against a fake of its API."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.backends.claude_errors import Complaint, classify
from clinvk.backends.claude_events import ClaudeParser
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
    Usage,
    check_grammar,
)
from clinvk.procs.lines import LineFramer

TRANSCRIPTS = Path(__file__).parent.parent / "transcripts" / "claude"
NAMES = sorted(path.stem for path in TRANSCRIPTS.glob("*.jsonl"))
HELLO = tuple(map(TextDelta, ("Hello", " from", " the", " fake", ".")))
OPUS = Started("claude-opus-4-8")


def lines(name: str) -> list[bytes]:
    return (TRANSCRIPTS / f"{name}.jsonl").read_bytes().split(b"\n")[:-1]


def replay(name: str, parser: ClaudeParser | None = None) -> list[Event]:
    parser = parser or ClaudeParser()
    return [event for line in lines(name) for event in parser.feed(json.loads(line))]


def failure(name: str, parser: ClaudeParser | None = None) -> ClinvkError:
    last = replay(name, parser)[-1]
    assert isinstance(last, Failed)
    return last.error


def comparable(events: list[Event]) -> list[Any]:
    return [
        (type(event.error), event.error.message) if isinstance(event, Failed) else event
        for event in events
    ]


def stream(**event: Any) -> dict[str, Any]:
    return {"type": "stream_event", "event": event, "parent_tool_use_id": None}


@pytest.mark.parametrize("name", NAMES)
def test_every_recording_ends_once(name: str) -> None:
    check_grammar(replay(name))


@given(data=st.data(), name=st.sampled_from(NAMES))
def test_recordings_cut_anywhere_give_the_same_events(data: st.DataObject, name: str) -> None:
    raw = b"\n".join([*lines(name), b""])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    framer, parser, events = LineFramer(1 << 20), ClaudeParser(), list[Event]()
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        for line in framer.push(raw[start:end]):
            events += parser.feed(json.loads(line))
    assert comparable(events) == comparable(replay(name))


def test_text_comes_as_it_was_sent() -> None:
    assert replay("text") == [
        OPUS,
        *HELLO,
        Usage(input_tokens=16, output_tokens=7, cached_tokens=5),
        Finished(FinishReason.STOP),
    ]


def test_no_character_is_lost() -> None:
    texts = [event.text for event in replay("unicode") if isinstance(event, TextDelta)]
    assert texts == ["é😀\u2028x", "\n", " 漢字 \u0000 end"]


def test_thinking_is_reasoning_and_counted() -> None:
    assert replay("thinking") == [
        OPUS,
        ReasoningDelta("Let me "),
        ReasoningDelta("see."),
        TextDelta("42"),
        Usage(input_tokens=11, output_tokens=7, reasoning_tokens=3),
        Finished(FinishReason.STOP),
    ]


def test_earlier_turns_leave_no_trace() -> None:
    assert replay("history") == [OPUS, *HELLO, Usage(11, 7), Finished(FinishReason.STOP)]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("length", FinishReason.LENGTH),
        ("window", FinishReason.LENGTH),
        ("stop_sequence", FinishReason.STOP),
    ],
)
def test_the_stop_reason_is_the_models(name: str, reason: FinishReason) -> None:
    assert replay(name) == [OPUS, *HELLO, Usage(11, 7), Finished(reason)]


@pytest.mark.parametrize("name", ["length", "window", "empty", "thinking_only", "made_up_call"])
def test_what_the_cli_asks_by_itself_is_not_the_answer(name: str) -> None:
    parser = ClaudeParser()
    events = replay(name, parser)
    assert TextDelta("more") not in events
    assert not parser.may_linger


@pytest.mark.parametrize("name", ["text", "thinking", "refusal", "stop_sequence"])
def test_a_finished_cli_may_end_by_itself(name: str) -> None:
    parser = ClaudeParser()
    replay(name, parser)
    assert parser.ended
    assert parser.may_linger


def test_an_empty_answer_is_an_answer() -> None:
    assert replay("empty") == [OPUS, Usage(11, 7), Finished(FinishReason.STOP)]


def test_a_call_of_no_tool_ends_the_answer() -> None:
    assert replay("made_up_call") == [
        OPUS,
        TextDelta("Let me look."),
        Usage(11, 7),
        Finished(FinishReason.STOP),
    ]


@pytest.mark.parametrize(("name", "texts"), [("refusal", ["I can"]), ("refusal_silent", [])])
def test_a_refusal_is_content_filter(name: str, texts: list[str]) -> None:
    assert replay(name) == [
        OPUS,
        *map(TextDelta, texts),
        Usage(11, 7),
        Finished(FinishReason.CONTENT_FILTER),
    ]


def test_a_refusal_told_only_by_the_result_is_content_filter() -> None:
    events = ClaudeParser().feed({"type": "result", "is_error": True, "stop_reason": "refusal"})
    assert events == [Usage(0, 0), Finished(FinishReason.CONTENT_FILTER)]


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("error_400", UpstreamRefusedError, "400: fake error 400"),
        ("error_401", NotLoggedInError, "claude auth login"),
        ("error_403", PermissionDeniedError, "fake error 403"),
        ("error_404", ModelNotFoundError, "(claude-opus-4-8[1m])"),
        ("error_413", TooLargeError, "32MB"),
        ("error_429", RateLimitedError, "429"),
        ("error_429_long", RateLimitedError, "fake error 429"),
        ("error_500", UpstreamError, "500"),
        ("error_529", OverloadedError, "529"),
        ("error_bad_key", NotLoggedInError, "Invalid API key"),
        ("error_credit", QuotaExceededError, "Credit balance is too low"),
        ("error_too_long", ContextTooLongError, "context window"),
        ("error_overloaded_event", OverloadedError, "overloaded"),
        ("cut", UpstreamUnreachableError, "ECONNRESET"),
        ("cut_first", UpstreamUnreachableError, "ECONNRESET"),
        ("no_end", UpstreamUnreachableError, "Stream ended"),
        ("unreachable", UpstreamUnreachableError, "ConnectionRefused"),
        ("not_logged_in", NotLoggedInError, "claude auth login"),
        ("subscription_limit", QuotaExceededError, "hit your session limit"),
        ("subscription_busy", RateLimitedError, "not your usage limit"),
    ],
)
def test_failures_are_typed(name: str, error: type[ClinvkError], words: str) -> None:
    failed = failure(name)
    assert type(failed) is error
    assert words in failed.message
    assert "API Error" not in failed.message


def test_the_apis_wish_to_wait_is_passed_on() -> None:
    assert failure("error_429_retry_after").retry_after_s == 2
    assert failure("error_429").retry_after_s is None


def test_a_used_up_subscription_says_when_it_is_back() -> None:
    parser = ClaudeParser(clock=lambda: 2_000_000_000 - 90.0)
    assert failure("subscription_limit", parser).retry_after_s == 90


def test_a_subscriptions_account_is_not_an_event() -> None:
    assert replay("subscription") == [OPUS, *HELLO, Usage(11, 7), Finished(FinishReason.STOP)]


def test_a_retry_that_is_allowed_is_waited_for() -> None:
    assert replay("retried", ClaudeParser(retries=1))[-1] == Finished(FinishReason.STOP)
    assert isinstance(failure("retried", ClaudeParser(retries=0)), UpstreamError)


def test_text_before_a_cut_is_kept() -> None:
    assert replay("cut")[:3] == [OPUS, TextDelta("Hello"), TextDelta(" from")]


def test_an_answer_begun_twice_is_a_lost_one() -> None:
    parser = ClaudeParser()
    start = stream(type="message_start", message={"model": "m"})
    parser.feed(start)
    assert parser.feed(start) == []
    parser.feed(stream(type="content_block_delta", delta={"type": "text_delta", "text": "a"}))
    (failed,) = parser.feed(start)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, UpstreamUnreachableError)


def test_an_answer_of_the_cli_itself_is_not_the_models() -> None:
    said = {"type": "result", "is_error": False, "result": "Unknown command: /foo"}
    (failed,) = ClaudeParser().feed(said)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, CliProtocolError)
    assert "/foo" in failed.error.message


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"type": None},
        {"type": "news"},
        {"type": "system"},
        {"type": "system", "subtype": "thinking_tokens", "estimated_tokens_delta": "x"},
        {"type": "system", "subtype": "api_retry"},
        {"type": "assistant"},
        {"type": "rate_limit_event", "rate_limit_info": []},
        {"type": "stream_event"},
        {"type": "stream_event", "event": []},
        stream(type="content_block_delta"),
        stream(type="content_block_delta", delta={"text": 3, "thinking": None}),
        stream(type="content_block_delta", delta={"type": "signature_delta", "signature": "x"}),
        stream(type="message_delta", delta=None, usage=7),
        {**stream(type="message_start", message={}), "parent_tool_use_id": "toolu_1"},
    ],
)
def test_what_is_not_known_is_skipped(message: dict[str, Any]) -> None:
    parser = ClaudeParser()
    assert parser.feed(message) == []
    assert not parser.ended


def test_nothing_comes_after_the_end() -> None:
    parser = ClaudeParser()
    before = replay("text", parser)
    assert isinstance(before[-1], Finished)
    assert replay("text", parser) == []


def test_usage_only_known_at_the_start_is_kept() -> None:
    parser = ClaudeParser()
    usage = {"input_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 5}
    parser.feed(stream(type="message_start", message={"usage": usage}))
    stop = {"stop_reason": "end_turn"}
    events = parser.feed(stream(type="message_delta", delta=stop, usage={"output_tokens": 6}))
    assert events[0] == Usage(12, 6, cached_tokens=4, cache_write_tokens=5)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (Complaint("max turns"), CliProtocolError),
        (Complaint("API Error: boom", kind="unknown"), UpstreamError),
        (Complaint("API Error: 408 slow", 408), UpstreamError),
        (Complaint("too many", kind="rate_limit"), RateLimitedError),
        (Complaint("Prompt is too long", reason="blocking_limit"), ContextTooLongError),
        (Complaint("no", kind="oauth_org_not_allowed"), NotLoggedInError),
    ],
)
def test_rarer_complaints(said: Complaint, error: type[ClinvkError]) -> None:
    assert type(classify(said)) is error


def test_no_secret_is_repeated() -> None:
    failed = classify(Complaint("API Error: 400 bad header x-api-key: sk-ant-api03-abcdef", 400))
    assert "abcdef" not in failed.message


def test_results_with_errors_in_a_list_are_quoted() -> None:
    said = {"type": "result", "is_error": True, "errors": ["Reached", "limit"]}
    (failed,) = ClaudeParser().feed(said)
    assert isinstance(failed, Failed)
    assert "Reached; limit" in failed.error.message
    (silent,) = ClaudeParser().feed({"type": "result", "subtype": "error_during_execution"})
    assert isinstance(silent, Failed)
    assert "error_during_execution" in silent.error.message
