"""What gemini recorded of the model API, and what its errors mean."""

import json
from pathlib import Path
from typing import Any

import pytest

from clinvk.backends.gemini_api import (
    Recordings,
    api_message,
    classify,
    estimate_tokens,
    parse_record,
)
from clinvk.errors import (
    ClinvkError,
    CliProtocolError,
    ModelNotFoundError,
    NotLoggedInError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    UpstreamError,
    UpstreamRefusedError,
    UpstreamUnreachableError,
)
from clinvk.events import Usage


def response(*chunks: dict[str, Any]) -> dict[str, Any]:
    return {"method": "generateContentStream", "response": list(chunks)}


def part(text: str, reason: str | None = None) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": reason}],
        "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 2},
    }


# --- recorded responses --------------------------------------------------------------------


def line(text: str, reason: str = "STOP") -> bytes:
    return json.dumps(response(part(text, reason))).encode() + b"\n"


def test_each_turn_gets_the_record_of_its_own_text(tmp_path: Path) -> None:
    path = tmp_path / "responses"
    path.write_bytes(line("one") + line("two", "MAX_TOKENS") + line("three"))
    recordings = Recordings(path)
    two = recordings.claim("two")
    assert two is not None
    assert two.reason == "MAX_TOKENS"
    assert recordings.claim("two") is None
    assert recordings.claim("four") is None
    with path.open("ab") as file:
        file.write(line("four")[:-9])
    assert recordings.claim("four") is None
    with path.open("ab") as file:
        file.write(line("four")[-9:])
    assert recordings.claim("four") is not None
    assert recordings.claim("three") is not None
    assert recordings.claim("one") is not None


def test_the_same_text_twice_is_two_records(tmp_path: Path) -> None:
    path = tmp_path / "responses"
    path.write_bytes(line("same") * 2)
    recordings = Recordings(path)
    assert recordings.claim("same") is not None
    assert recordings.claim("same") is not None
    assert recordings.claim("same") is None


def calling(text: str, *calls: tuple[str, int], reason: str | None = "STOP") -> bytes:
    """A recorded response with calls of `f`, each by its id and its argument."""
    chunk = part(text, reason)
    chunk["candidates"][0]["content"]["parts"] += [
        {"functionCall": {"id": ident, "name": "f", "args": {"x": x}}} for ident, x in calls
    ]
    return json.dumps(response(chunk)).encode() + b"\n"


def test_a_response_with_calls_is_found_by_the_id_of_any(tmp_path: Path) -> None:
    path = tmp_path / "responses"
    path.write_bytes(calling("", ("a", 1), ("b", 2)) + line(""))
    recordings = Recordings(path)
    record = recordings.claim_calls("b")
    assert record is not None
    assert [(call.id, call.name, call.arguments) for call in record.calls] == [
        ("a", "f", {"x": 1}),
        ("b", "f", {"x": 2}),
    ]
    assert record.spent == Usage(4, 2)
    assert recordings.claim_calls("a") is None
    assert recordings.claim("") is not None


def test_an_answer_is_no_response_with_calls(tmp_path: Path) -> None:
    path = tmp_path / "responses"
    path.write_bytes(calling("same", ("a", 1)) + line("same", "MAX_TOKENS"))
    record = Recordings(path).claim("same")
    assert record is not None
    assert record.reason == "MAX_TOKENS"


def test_calls_that_may_be_of_another_session_are_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "responses"
    path.write_bytes(calling("", ("a", 1), ("b", 2)) + calling("", ("a", 1), ("c", 3)))
    assert Recordings(path).claim_calls("a") is None
    path.write_bytes(calling("", ("a", 1)) * 2)
    recordings = Recordings(path)
    assert recordings.claim_calls("a") == recordings.claim_calls("a")
    assert recordings.claim_calls("a") is None


def test_a_cleared_file_is_empty_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "responses"
    path.write_bytes(line("one"))
    recordings = Recordings(path)
    recordings.claim("other")
    recordings.clear()
    assert path.read_bytes() == b""
    path.write_bytes(line("two"))
    assert recordings.claim("one") is None
    assert recordings.claim("two") is not None


def test_a_file_that_is_gone_has_no_records(tmp_path: Path) -> None:
    recordings = Recordings(tmp_path / "gone")
    assert recordings.claim("x") is None
    recordings.clear()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"[" * 100_000,
        b'{"method": "countTokens", "response": {"totalTokens": 3}}',
        b'{"method": "generateContentStream"}',
        b'{"method": "generateContentStream", "response": [3]}',
        b'{"method": "generateContentStream", "response": [{"candidates": [3]}]}',
    ],
)
def test_a_line_that_is_no_answer_is_no_record(raw: bytes) -> None:
    assert parse_record(raw) is None


def test_thoughts_and_oddities_are_not_text() -> None:
    record = parse_record(
        json.dumps(
            response(
                {"candidates": None},
                {"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}]}}]},
                {"candidates": [{"content": {}}]},
                {"candidates": [{"content": {"parts": [{"functionCall": {}}, {"text": "a"}]}}]},
                {"usageMetadata": {"promptTokenCount": 3, "trafficType": "ON_DEMAND"}},
            )
        ).encode()
    )
    assert record is not None
    assert record.text == "a"
    assert record.usage == {"promptTokenCount": 3}


# --- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message", "error"),
    [
        (500, "fetch failed", UpstreamUnreachableError),
        (500, "exception TypeError: fetch failed sending request", UpstreamUnreachableError),
        (500, "connect ECONNREFUSED 127.0.0.1:1", UpstreamUnreachableError),
        (500, "Requested entity was not found.", ModelNotFoundError),
        (500, '{"error": {"code": 500, "message": "network trouble"}}', UpstreamError),
        (502, "bad gateway", UpstreamError),
        (403, "API key not found. Please pass a valid API key.", NotLoggedInError),
        (403, "no", PermissionDeniedError),
        (400, '{"error": {"status": "API_KEY_INVALID", "message": "x"}}', NotLoggedInError),
        (418, "teapot", UpstreamRefusedError),
        (429, "no quota: limit: 0, model: x", QuotaExceededError),
        (429, "limit: 10", RateLimitedError),
        (-32603, "Internal error", CliProtocolError),
    ],
)
def test_errors_are_typed(code: int, message: str, error: type[ClinvkError]) -> None:
    assert type(classify(code, message)) is error


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Suggested retry after 60s.", 60),
        ("Please retry in 250ms", 0.25),
        ("Please retry in 12.5s.", 12.5),
        ("please wait", None),
    ],
)
def test_a_retry_time_is_read_from_the_text(message: str, seconds: float | None) -> None:
    assert classify(429, message).retry_after_s == seconds


def test_geminis_own_class_of_error_tells_a_404() -> None:
    assert type(classify(500, "nope", "ModelNotFoundError")) is ModelNotFoundError
    assert type(classify(500, "nope", "Error")) is UpstreamError


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("plain", "plain"),
        ('{"error": {"message": "inner"}}', "inner"),
        ('[{"error": {"message": "listed"}}]', "listed"),
        ('{"error": {"message": "{\\"error\\": {\\"message\\": \\"deep\\"}}"}}', "deep"),
        ('{"message": "flat"}', "flat"),
        ('{"error": {"message": ""}}', '{"error": {"message": ""}}'),
        ("[]", "[]"),
        ("3", "3"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_the_innermost_message_is_what_was_said(body: str, said: str) -> None:
    assert api_message(body) == said


# --- the size of a prompt ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "tokens"),
    [
        ((), 0),
        (("abcd" * 10, "abcd"), 11),
        (("ä" * 10,), 15),
        (("aaaaä",), 2),
        (("\U0001f600" * 2,), 6),
        (("ä" * 200_000,), 50_000),
    ],
)
def test_tokens_are_estimated_as_gemini_does(texts: tuple[str, ...], tokens: int) -> None:
    assert estimate_tokens(texts) == tokens
