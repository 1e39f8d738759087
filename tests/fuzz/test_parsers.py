"""Whatever a CLI says: events in their grammar or one of our errors, and nothing else."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.backends import claude_errors, codex_errors, gemini_api
from clinvk.backends.claude_blocks import Offer
from clinvk.backends.claude_events import ClaudeParser
from clinvk.backends.codex_calls import Calls as CodexCalls
from clinvk.backends.codex_events import TurnParser
from clinvk.backends.gemini_api import GeminiParser, parse_record, quota
from clinvk.errors import ClinvkError
from clinvk.events import Event, Failed, Finished, TextDelta, ToolCall, Usage, check_grammar
from clinvk.procs.lines import LineFramer, LineTooLongError
from clinvk.procs.tail import StderrTail, scrub
from clinvk.schema import answer_fault, schema_fault
from clinvk.turn import OutputFormat
from clinvk.wire import sse
from clinvk.wire.anthropic_messages import AnthropicMessages
from clinvk.wire.base import Encoder, Frame
from clinvk.wire.openai_chat import OpenAIChat
from clinvk.wire.openai_completions import OpenAICompletions
from clinvk.wire.openai_responses import OpenAIResponses
from tests.fuzz import messages
from tests.fuzz.bodies import SCHEMA, changed, values
from tests.fuzz.budget import budget

Feed = Callable[[dict[str, Any]], list[Event]]

CALLING = Offer(frozenset({"f", "StructuredOutput"}), parallel=False)
CLAUDE: list[dict[str, Any]] = [
    {"type": "system", "subtype": "init", "tools": ["f"]},
    {"type": "rate_limit_event", "rate_limit_info": {"resetsAt": 1_900_000_000}},
    {"type": "system", "subtype": "thinking_tokens", "estimated_tokens_delta": 3},
    {
        "type": "system",
        "subtype": "api_retry",
        "attempt": 2,
        "error_status": 429,
        "error": "rate_limit",
        "retry_delay_ms": 2000,
    },
    {
        "type": "stream_event",
        "event": {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
        },
    },
    {
        "type": "stream_event",
        "event": {"type": "content_block_delta", "delta": {"partial_json": '{"a": 1}'}},
    },
    {"type": "stream_event", "event": {"type": "content_block_stop"}},
    {"type": "user", "message": {"content": [{"tool_use_id": "t", "is_error": True}]}},
    {
        "type": "stream_event",
        "event": {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}},
    },
]
CLAUDE_PARSERS: list[Callable[[], ClaudeParser]] = [
    ClaudeParser,
    lambda: ClaudeParser(1, CALLING),
    lambda: ClaudeParser(0, Offer(form=OutputFormat(SCHEMA))),
]
PARSERS: dict[str, Callable[[int], Feed]] = {
    "claude": lambda kind: CLAUDE_PARSERS[kind % 3]().feed,
    "codex": lambda kind: (
        TurnParser("m", retries=kind % 2, calls=CodexCalls(("f",), parallel=kind > 1)).feed
    ),
    "gemini": lambda _: _gemini(),
}
MADE_UP = {"claude": CLAUDE}


def _gemini() -> Feed:
    parser = GeminiParser()
    parser.record = parse_record(
        json.dumps(
            {"method": "generateContentStream", "response": [{"candidates": [], "a": 1}]}
        ).encode()
    )
    return parser.feed


def up_to_the_end(feed: Feed, said: Iterable[dict[str, Any]]) -> list[Event]:
    """The events of a turn, as its reader gets them; the reader goes after the last."""
    events: list[Event] = []
    for message in said:
        try:
            events += feed(message)
        except ClinvkError as exc:
            events.append(Failed(exc))
        if any(isinstance(event, Finished | Failed) for event in events):
            break
    return events


@pytest.mark.parametrize("cli", PARSERS)
def test_whatever_a_cli_says_is_a_turn_up_to_its_end(cli: str) -> None:
    said = messages.conversation(cli, MADE_UP.get(cli, []))

    @budget(300)
    @given(st.integers(0, 2), said | st.lists(messages.anything, max_size=4))
    def holds(kind: int, told: list[dict[str, Any]]) -> None:
        events = up_to_the_end(PARSERS[cli](kind), told)
        ended = bool(events) and isinstance(events[-1], Finished | Failed)
        check_grammar(events if ended else [*events, Failed(ClinvkError("the CLI has left"))])
        for event in events:
            well_typed(event)
        told_in_every_dialect(events)

    holds()


def well_typed(event: Event) -> None:
    match event:
        case TextDelta(text=text):
            assert isinstance(text, str)
            assert text
        case ToolCall():
            assert isinstance(json.loads(event.arguments), dict)
        case Usage():
            assert all(isinstance(getattr(event, name), int) for name in Usage.__slots__)
        case Failed(error=error):
            assert isinstance(error, ClinvkError)
            assert error.retry_after_s is None or error.retry_after_s >= 0


ENCODERS: dict[str, Callable[[], Encoder]] = {
    "chat": lambda: OpenAIChat().parse(_body(messages=[{"role": "user", "content": "a"}])).encoder,
    "completions": lambda: OpenAICompletions().parse(_body(prompt="a")).encoder,
    "responses": lambda: OpenAIResponses().parse(_body(input="a")).encoder,
    "messages": lambda: (
        AnthropicMessages()
        .parse(_body(max_tokens=9, messages=[{"role": "user", "content": "a"}]))
        .encoder
    ),
}


def _body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def told_in_every_dialect(events: list[Event]) -> None:
    """Every event has its frames, each JSON of its own and one line; a whole answer its body."""
    for dialect, make in ENCODERS.items():
        if dialect == "completions" and any(isinstance(event, ToolCall) for event in events):
            continue  # it offers no tools
        encoder = make()
        frames = [frame for event in events for frame in encoder.feed(event)]
        if events and isinstance(events[-1], Finished):
            json.dumps(encoder.result(), allow_nan=False)
            frames += encoder.end()
        for frame in frames:
            assert whole(frame)


def whole(frame: Frame) -> bool:
    sent = sse.encode([frame])
    assert sent.count(b"\n") == (3 if frame.event else 2)
    return frame == sse.DONE or isinstance(json.loads(frame.data, parse_constant=refuse), dict)


def refuse(constant: str) -> None:
    raise ValueError(constant)


RECORDS = [
    json.loads(line)
    for path in sorted((messages.TRANSCRIPTS / "gemini").glob("*.responses.jsonl"))
    for line in path.read_bytes().splitlines()
]


@budget(300)
@given(changed(RECORDS) | messages.limits(RECORDS))
def test_a_record_of_gemini_is_read_or_left(record: dict[str, Any]) -> None:
    found = parse_record(json.dumps(record).encode())
    parser = GeminiParser()
    parser.record = found
    for event in parser.ended("end_turn", {}):
        well_typed(event)


@budget(200)
@given(changed([{"_meta": {"quota": {"token_count": {"input_tokens": 3, "output_tokens": 4}}}}]))
def test_the_counts_of_gemini_are_counts_or_none(result: dict[str, Any]) -> None:
    found = quota(result)
    assert found is None or found.input_tokens > 0


SAID = [
    *(
        "retry after 1.2.3s",
        "Retry in ..ms",
        "try again in 5m3s",
        "try again in 99999m",
        "[" * 5000,
    ),
    *('{"error": {"message": "[1]", "code": 5}}', '{"error": [1]}', "null", '"a"', "[[]]", "1e999"),
    *("Incomplete response returned, reason: x", "unexpected status 999", "last status: 000 a"),
    *("model x does not exist", "429 Too Many Requests", "quota_exhausted", "API Error: 999 "),
]
texts = st.sampled_from(SAID) | st.text() | st.lists(st.sampled_from(SAID)).map(" ".join)


@budget(300)
@given(texts, values, st.integers(-5, 700))
def test_whatever_is_wrong_upstream_is_one_of_our_errors(said: str, info: Any, status: int) -> None:
    errors = [
        claude_errors.classify(claude_errors.Complaint(said, status)),
        claude_errors.classify(claude_errors.Complaint(said, None, "rate_limit", "x", 1.0)),
        codex_errors.classify(said, info),
        codex_errors.classify(said, {"x": {"httpStatusCode": status}}),
        codex_errors.outcome({"message": said, "codexErrorInfo": info}),
        codex_errors.outcome(info),
        gemini_api.classify(status, said),
    ]
    for error in errors:
        if isinstance(error, ClinvkError):
            assert error.message
            assert error.status >= 400
            well_typed(Failed(error))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of what `re` means to read otherwise
@budget(300)
@given(changed([SCHEMA]), values | changed([{"a": "x", "b": [1, 2]}]))
def test_an_answer_keeps_to_any_schema_or_is_told_why_not(
    schema: dict[str, Any], value: Any
) -> None:
    if schema_fault(schema) is None:
        fault = answer_fault(json.dumps(value), schema)
        assert fault is None or fault


@budget(300)
@given(st.lists(st.binary(max_size=20) | st.sampled_from((b"\n", b"\r\n", b"\n\n")), max_size=12))
def test_lines_are_what_stands_between_newlines(chunks: list[bytes]) -> None:
    framer = LineFramer(30)
    whole = b"".join(chunks)
    lines: list[bytes] = []
    try:
        for chunk in chunks:
            lines += framer.push(chunk)
    except LineTooLongError:
        assert any(len(line) > 30 for line in whole.split(b"\n"))
        return
    *expected, rest = whole.split(b"\n")
    assert lines == [line.removesuffix(b"\r") for line in expected]
    assert framer.flush() == rest


SECRETS = (
    "sk-ant-api03-abcdefgh",
    "AIzaSyA1234567890123",
    "Bearer abcdefgh12345",
    "ghp_abcdefghijkl",
)


@budget(200)
@given(st.lists(st.binary(max_size=300), max_size=8), st.sampled_from(SECRETS), st.integers(0, 99))
def test_no_bytes_on_stderr_bring_a_secret_along(chunks: list[bytes], secret: str, at: int) -> None:
    tail = StderrTail()
    said = b" ".join([*chunks[: at % 9], b" ", secret.encode(), b" ", *chunks[at % 9 :]])
    for start in range(0, len(said), 7):
        tail.push(said[start : start + 7])
    assert secret not in tail.text
    assert secret not in scrub(said.decode("utf-8", "replace"))


def test_the_transcripts_are_there() -> None:
    assert Path(messages.TRANSCRIPTS).is_dir()
    assert RECORDS


UNHEARD_OF: dict[str, list[dict[str, Any]]] = {
    "claude": [
        {"type": "rate_limit_event", "rate_limit_info": {"resetsAt": float("inf")}},
        {"type": "rate_limit_event", "rate_limit_info": {"resetsAt": 10**400}},
        {"type": "result", "is_error": True, "api_error_status": 429, "result": "no"},
    ],
    "codex": [
        {"method": "turn/started", "params": {"turn": {"id": "t"}}},
        {"method": "rawResponseItem/completed", "params": {"turnId": "t", "item": {"type": []}}},
        {"method": "item/completed", "params": {"item": {"type": "reasoning", "summary": 5}}},
        {"method": "error", "params": {"error": {"message": "[" * 100_000}, "willRetry": True}},
    ],
    "gemini": [
        {"method": "session/update", "params": {"update": {"sessionUpdate": ["x"]}}},
        {"error": {"code": 429, "message": "retry in 1.2.3s"}},
    ],
}


@pytest.mark.parametrize("cli", UNHEARD_OF)
def test_what_no_cli_has_said_yet_is_an_error_too(cli: str) -> None:
    *_, last = up_to_the_end(PARSERS[cli](0), UNHEARD_OF[cli])
    assert isinstance(last, Failed)


def test_a_record_and_counts_that_are_none_are_left() -> None:
    odd = {"method": "generateContentStream", "response": [{"usageMetadata": "x"}]}
    assert parse_record(json.dumps(odd).encode()) is None
    counts = {"input_tokens": float("inf"), "output_tokens": 1}
    assert quota({"_meta": {"quota": {"token_count": counts}}}) is None
