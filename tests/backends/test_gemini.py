"""What gemini says, as events; recorded from gemini 0.61.0 against a fake of its API."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.backends.gemini_api import (
    GeminiParser,
    Recordings,
    parse_record,
)
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

TRANSCRIPTS = Path(__file__).parent.parent / "transcripts" / "gemini"
NAMES = sorted(
    path.name.removesuffix(".jsonl")
    for path in TRANSCRIPTS.glob("*.jsonl")
    if ".responses" not in path.name
)


def replay(name: str, lines: list[bytes] | None = None) -> list[Event]:
    """Feed a transcript, with its recorded response, as the driver does."""
    parser = GeminiParser()
    responses = TRANSCRIPTS / f"{name}.responses.jsonl"
    recordings = Recordings(responses) if responses.exists() else None
    events: list[Event] = []
    for line in lines or (TRANSCRIPTS / f"{name}.jsonl").read_bytes().splitlines():
        message = json.loads(line)
        if "result" in message and recordings is not None:
            parser.record = recordings.claim(parser.text)
        events += parser.feed(message)
    return events


def deltas(*texts: str) -> list[Event]:
    return [Started(), *(TextDelta(text) for text in texts)]


ANSWERS: dict[str, list[Event]] = {
    "text": [
        *deltas("Hello", " from", " the", " fake", "."),
        Usage(11, 7),
        Finished(FinishReason.STOP),
    ],
    "thinking": [
        Started(),
        ReasoningDelta("**Weighing it**\nFirst this."),
        ReasoningDelta("\n\n**Deciding**\nThen that."),
        ReasoningDelta("\n\nA thought without a subject."),
        TextDelta("Yes"),
        TextDelta(", it is."),
        Usage(11, 12, cached_tokens=3, reasoning_tokens=5),
        Finished(FinishReason.STOP),
    ],
    "length": [*deltas("cut ", "off he"), Usage(11, 7), Finished(FinishReason.LENGTH)],
    "length_in_thought": [
        Started(),
        ReasoningDelta("**Long**\nthought"),
        Usage(11, 9, reasoning_tokens=9),
        Finished(FinishReason.LENGTH),
    ],
    "safety": [*deltas("I "), Usage(11, 7), Finished(FinishReason.CONTENT_FILTER)],
    "blocked": [Usage(11, 0), Finished(FinishReason.CONTENT_FILTER)],
}

FAILURES: dict[str, tuple[type[ClinvkError], str]] = {
    "empty": (UpstreamError, "empty answer"),
    "malformed_call": (UpstreamError, "MALFORMED_FUNCTION_CALL"),
    "unknown_tool": (UpstreamError, "tools"),
    "overflow": (ContextTooLongError, "context window"),
    "cancelled": (CliProtocolError, "'cancelled'"),
    "cut": (UpstreamUnreachableError, "terminated"),
    "error_400": (UpstreamRefusedError, "fake error 400"),
    "error_401": (NotLoggedInError, "run `gemini`"),
    "error_403": (PermissionDeniedError, "fake error 403"),
    "error_404": (UpstreamError, "fake error 404"),  # told from a 500 by the error report alone
    "error_413": (TooLargeError, "fake error 413"),
    "error_429": (RateLimitedError, "fake error 429"),
    "error_429_daily": (QuotaExceededError, "daily quota"),
    "error_429_retry": (RateLimitedError, "exceeded your current quota"),
    "error_500": (UpstreamError, "fake error 500"),
    "error_503": (OverloadedError, "fake error 503"),
    "error_529": (OverloadedError, "fake error 529"),
    "error_bad_key": (NotLoggedInError, "API key not valid"),
    "error_model": (ModelNotFoundError, "models/foo is not found"),
    "error_too_long": (ContextTooLongError, "1200000"),
}


def test_every_transcript_is_expected() -> None:
    assert sorted({*ANSWERS, *FAILURES}) == NAMES


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_an_answer_ends_as_the_model_ended_it(name: str) -> None:
    assert replay(name) == ANSWERS[name]


@pytest.mark.parametrize("name", sorted(FAILURES))
def test_a_failure_is_typed(name: str) -> None:
    *body, last = replay(name)
    assert not any(isinstance(event, Failed) for event in body)
    error, words = FAILURES[name]
    assert isinstance(last, Failed)
    assert type(last.error) is error
    assert words in last.error.message
    assert last.error.message[0].islower()


@pytest.mark.parametrize("name", NAMES)
def test_every_transcript_keeps_the_grammar(name: str) -> None:
    check_grammar(replay(name))


@given(name=st.sampled_from(NAMES), cuts=st.lists(st.integers(0, 10_000), max_size=20))
def test_how_the_bytes_are_cut_changes_nothing(name: str, cuts: list[int]) -> None:
    raw = (TRANSCRIPTS / f"{name}.jsonl").read_bytes()
    at = sorted({cut % len(raw) for cut in cuts})
    framer = LineFramer(1 << 20)
    lines: list[bytes] = []
    for begin, end in zip([0, *at], [*at, len(raw)], strict=True):
        lines += framer.push(raw[begin:end])
    assert repr(replay(name, lines)) == repr(replay(name))


def test_byte_by_byte_changes_nothing() -> None:
    framer = LineFramer(1 << 20)
    raw = (TRANSCRIPTS / "thinking.jsonl").read_bytes()
    lines = [line for byte in raw for line in framer.push(bytes([byte]))]
    assert replay("thinking", lines) == ANSWERS["thinking"]


def test_a_retry_hint_reaches_the_caller() -> None:
    failed = replay("error_429_retry")[-1]
    assert isinstance(failed, Failed)
    assert failed.error.retry_after_s == 17


# --- the end of a turn ---------------------------------------------------------------------


def ended(record: Any, *shown: str, reason: str = "end_turn", quota: Any = None) -> list[Event]:
    parser = GeminiParser()
    for text in shown:
        parser.feed(
            {
                "method": "session/update",
                "params": {
                    "update": {
                        "sessionUpdate": "agent_message_chunk",
                        "content": {"type": "text", "text": text},
                    }
                },
            }
        )
    if record is not None:
        parser.record = parse_record(json.dumps(record).encode())
    return parser.feed({"result": {"stopReason": reason, "_meta": {"quota": quota}}})


def response(*chunks: dict[str, Any]) -> dict[str, Any]:
    return {"method": "generateContentStream", "response": list(chunks)}


def part(text: str, reason: str | None = None) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": reason}],
        "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 2},
    }


def test_without_a_record_the_replys_own_counts_are_used() -> None:
    quota = {"token_count": {"input_tokens": 5, "output_tokens": 6}}
    assert ended(None, "hi", quota=quota) == [Usage(5, 6), Finished(FinishReason.STOP)]
    assert ended(None, "hi") == [Finished(FinishReason.STOP)]
    assert ended(None, "hi", quota={"token_count": {"input_tokens": "?"}}) == [
        Finished(FinishReason.STOP)
    ]


@pytest.mark.parametrize(
    "reason", ["SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "OTHER"]
)
def test_every_refusal_is_a_content_filter(reason: str) -> None:
    assert ended(response(part("I", reason)), "I")[-1] == Finished(FinishReason.CONTENT_FILTER)
    assert ended(response(part("", reason)))[-1] == Finished(FinishReason.CONTENT_FILTER)


def test_an_answer_without_an_end_is_not_an_answer() -> None:
    (failed,) = ended(response(part("half")), "half")
    assert isinstance(failed, Failed)
    assert type(failed.error) is UpstreamUnreachableError


def test_nothing_at_all_is_not_an_answer() -> None:
    (failed,) = ended(response())
    assert isinstance(failed, Failed)
    assert type(failed.error) is UpstreamUnreachableError


def test_an_answer_that_the_cli_began_again_is_not_whole() -> None:
    (failed,) = ended(response(part("whole", "STOP")), "who", "whole")
    assert isinstance(failed, Failed)
    assert "began again" in failed.error.message
