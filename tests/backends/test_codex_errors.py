"""What codex says of a failure in other words, and what its log adds."""

import anyio
import pytest

from clinvk.backends.codex_errors import classify, outcome
from clinvk.backends.codex_stderr import CodexStderr
from clinvk.errors import (
    ClinvkError,
    ContextTooLongError,
    ModelNotFoundError,
    NotLoggedInError,
    OverloadedError,
    RateLimitedError,
    UpstreamError,
    UpstreamRefusedError,
    UpstreamUnreachableError,
)


@pytest.mark.parametrize(
    ("message", "info", "kind"),
    [
        ("", None, UpstreamError),
        ("x", {"a": 1, "b": 2}, UpstreamError),
        ("x", "unauthorized", NotLoggedInError),
        ("x", {"httpConnectionFailed": {"httpStatusCode": 503}}, UpstreamError),
        ("x", {"httpConnectionFailed": {"httpStatusCode": 418}}, UpstreamRefusedError),
        ("unexpected status 529 <unknown status code>: x, url: http://h/", None, OverloadedError),
        ("unexpected status 429 Too Many Requests: x", None, RateLimitedError),
        ("idle timeout waiting for SSE", "other", UpstreamUnreachableError),
        ('{"error": {"message": "maximum context length is 5 tokens"}}', "other", None),
        ('{"detail": "The \'x\' model is not supported here"}', "other", ModelNotFoundError),
        ('{"error": "no"}', "other", UpstreamRefusedError),
        ("[1]", "other", UpstreamRefusedError),
    ],
)
def test_errors_in_other_words(message: str, info: object, kind: type[ClinvkError] | None) -> None:
    assert type(classify(message, info)) is (kind or ContextTooLongError)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Please try again in 1m30.5s.", 90.5),
        ("Please try again in 250ms.", 0.25),
        ("Please try again in 2m.", 120),
        ("try again later", None),
        ("try again in a while", None),
    ],
)
def test_the_wait_in_a_rate_limits_words(text: str, seconds: float | None) -> None:
    assert classify(text, "rateLimitExceeded").retry_after_s == seconds


def test_a_failure_without_any_word_is_still_one() -> None:
    assert isinstance(outcome(None), UpstreamError)


def test_a_secret_in_an_error_does_not_pass() -> None:
    error = classify("Incorrect key sk-abcdef123456", "unauthorized")
    assert "abcdef" not in error.message


LOG = (
    "2026-11-21T16:16:57.871768Z DEBUG session_loop{thread_id=%s}:turn{turn.id=x}: "
    "codex_http_client::client: Request completed method=POST url=http://h/v1/responses "
    'status=429 Too Many Requests headers={%s"server": "x"} version=HTTP/1.1\n'
)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ('"retry-after": "77", ', 77),
        ('"retry-after-ms": "1500", ', 1.5),
        ("", None),
        ('"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT", ', None),
    ],
)
async def test_the_log_tells_when_to_ask_again(header: str, seconds: float | None) -> None:
    stderr = CodexStderr()
    stderr.expect("t-1")
    line = (LOG % ("t-1", header)).encode()
    stderr.push((LOG % ("t-2", '"retry-after": "5", ')).encode() + line[:90])
    stderr.push(line[90:])
    assert await stderr.retry_after_s("t-1") == seconds
    assert await stderr.retry_after_s("t-2") is None
    stderr.forget("t-1")
    assert await stderr.retry_after_s("t-1") is None


BREAK = (
    '2026-11-21T17:17:53.975Z  INFO codex_otel.trace_safe: event.name="codex.sse_event" '
    "event.kind=response.completed error.message=stream disconnected before completion: x y "
    "event.timestamp=2026-11-21T17:17:53.975Z conversation.id=%s app.version=0.169.0\n"
)


async def test_the_log_tells_which_response_broke_off() -> None:
    stderr = CodexStderr()
    for thread in ("t-1", "t-2"):
        stderr.expect(thread)
    stderr.push((BREAK % "t-1").encode())
    assert await stderr.broke_off("t-1")
    assert not await stderr.broke_off("t-3")
    stderr.push((BREAK % "t-2").encode() + (LOG % ("t-2", "")).encode())
    heard: dict[str, bool] = {}

    async def listen() -> None:
        heard["t-2"] = await stderr.broke_off("t-2")

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        await anyio.wait_all_tasks_blocked()
        assert heard == {}  # it was tried again
        stderr.forget("t-2")
    assert heard == {"t-2": False}
    assert stderr.text == ""


def test_only_what_is_no_mere_log_is_in_the_tail() -> None:
    stderr = CodexStderr()
    stderr.push((LOG % ("t-1", "")).encode())
    stderr.push(b"2026-11-21T16:16:57Z ERROR codex: no bubblewrap on PATH\n")
    stderr.push(b"2026-11-21T16:16:57Z ERROR codex: boom\nthread main panicked")
    assert stderr.text == "2026-11-21T16:16:57Z ERROR codex: boom\nthread main panicked"


def test_a_line_without_end_is_not_kept_for_ever() -> None:
    stderr = CodexStderr()
    for _ in range(100):
        stderr.push(b"x" * 10_000)
    assert len(stderr.text) == 8192
