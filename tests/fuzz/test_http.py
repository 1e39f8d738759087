"""Raw bytes at the server's port: an answer of HTTP or the end, never a 5xx; and it lives on."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.bodies import GOOD, changed
from tests.fuzz.budget import budget
from tests.fuzz.serving import exchange, served

PATHS = {
    "chat": "/openai/v1/chat/completions",
    "completions": "/openai/v1/completions",
    "responses": "/openai/v1/responses",
    "messages": "/anthropic/v1/messages",
    "count": "/anthropic/v1/messages/count_tokens",
}
_STATUS = re.compile(rb"(?:^|\r\n\r\n|[^\r\n])HTTP/1\.[01] (\d{3}) ")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a server that, after all of it, has no descriptor more than before."""
    with served() as address:
        yield address


def statuses(received: bytes) -> list[int]:
    return [int(found) for found in _STATUS.findall(received)]


def lives(url: str) -> None:
    asked = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert statuses(exchange(url, asked)) == [200]


def post(path: str, body: bytes, *extra: bytes) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1".encode(),
        b"Host: localhost",
        b"Content-Type: application/json",
        f"Content-Length: {len(body)}".encode(),
        *extra,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = json.dumps(GOOD["chat"][-1]).encode()
CHUNKED = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)
LAST = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
QUIET_S = 0.1  # the server says nothing more
BROKEN = [
    b"",
    b"\r\n\r\n",
    b"\0" * 100,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS client
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET",
    b"GET / HTTP/1.1",
    b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"GET  /health  HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"G\xc3\x89T / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /%ff%fe%00%0d%0a HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET http://127.0.0.1:1/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET //evil/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /openai/v1/models/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /openai/v1/responses/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /openai/v1/responses/%ed%a0%80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /openai/v1/responses/x/input_items?limit=1e9&after=%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: \r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: a b\xff\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n",
    b"GET /health HTTP/1.1\r\n Host: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\nHost: localhost\n\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: \0\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nExpect: a-cake\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 100_000 + b"\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"a=b; " * 1000 + b"\r\n\r\n",
    post("/v1/chat/completions", BODY, b"Content-Length: 5"),
    post("/v1/chat/completions", BODY, b"Transfer-Encoding: chunked"),
    post("/v1/chat/completions", BODY, b"Content-Encoding: gzip"),
    post("/v1/chat/completions", BODY, b"Content-Encoding: br"),
    post("/v1/chat/completions", BODY, b"Content-Encoding: x"),
    post("/v1/chat/completions", BODY, b"Expect: 100-continue"),
    post("/v1/chat/completions", BODY, b"Origin: http://evil.example"),
    post("/v1/chat/completions", BODY)[:-5],
    post("/v1/chat/completions", BODY) + b"rest",
    post("/v1/chat/completions", BODY).replace(b"Length: ", b"Length: -"),
    post("/v1/chat/completions", BODY).replace(b"Length: ", b"Length: 9" + b"9" * 30),
    post("/v1/chat/completions", BODY).replace(b"Length: ", b"Length: +"),
    post("/v1/chat/completions", BODY).replace(b"json", b"json; charset=utf-16"),
    post("/v1/chat/completions", BODY).replace(b"json", b"json; charset=no-such"),
    post("/v1/chat/completions", BODY).replace(
        b"application/json", b"multipart/form-data; boundary=\0"
    ),
    post("/v1/chat/completions", b" " * 1_100_000),
    CHUNKED,
    CHUNKED + b"0\r\n\r\n",
    CHUNKED + b"zz\r\n",
    CHUNKED + b"-5\r\nabcde\r\n0\r\n\r\n",
    CHUNKED + b"fffffffffffffffff\r\n",
    CHUNKED + b"5\r\nabc",
    CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n",
    CHUNKED + b"3;" + b"x" * 100_000 + b"\r\n",
    CHUNKED + b"0\r\n" + b"X: a\r\n" * 1000 + b"\r\n",
    CHUNKED + (b"10000\r\n" + b" " * 65_536 + b"\r\n") * 20,
    CHUNKED + f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("at", range(len(BROKEN)))
def test_what_is_no_good_request_gets_an_answer_or_the_end(
    at: int, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    received = exchange(url, BROKEN[at], quiet_s=QUIET_S)
    assert all(status < 500 for status in statuses(received)), received[:2000]
    assert b"Traceback" not in received
    assert b"root:" not in received
    lives(url)
    assert "Traceback" not in caplog.text


def test_a_broken_request_is_not_quoted_in_the_log(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    exchange(url, b"GET / HTTP/1.1\r\nAuthorization: Bearer the-secret\0\r\n\r\n", quiet_s=QUIET_S)
    assert "no HTTP" in caplog.text
    assert "the-secret" not in caplog.text


@pytest.mark.parametrize(
    "sent",
    [
        post("/anthropic/v1/messages", BODY, b"Content-Encoding: gzip"),
        CHUNKED.replace(b"/v1/chat", b"/openai/v1/chat") + b"zz\r\n",
        CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n",
    ],
)
def test_a_body_that_cannot_be_read_is_a_400_and_the_end(sent: bytes, url: str) -> None:
    received = exchange(url, sent + GET)
    assert statuses(received) == [400]
    assert b"x-should-retry: false" in received or b"Bad Request" in received


def test_requests_in_one_piece_are_answered_in_order(url: str) -> None:
    several = GET * 3 + post("/v1/chat/completions", BODY) + post("/nowhere", b"{}") + LAST
    assert statuses(exchange(url, several)) == [200, 200, 200, 200, 404, 200]


def test_what_follows_a_broken_request_is_not_answered(url: str) -> None:
    smuggled = post("/v1/chat/completions", BODY, b"Transfer-Encoding: chunked") + GET
    assert statuses(exchange(url, smuggled)) == [400]


SOMETHING = [GET, post("/v1/chat/completions", BODY), *BROKEN[:40]]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Some requests in one piece, with bytes replaced, dropped, doubled."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(SOMETHING), min_size=1, max_size=3))))
    data = data[:5000]
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        data[at : at + draw(st.integers(0, 3))] = draw(
            st.binary(max_size=3)
            | st.sampled_from((b"\r\n", b"\n", b":", b"\0", b"\r\n\r\n", b"0"))
        )
    return bytes(data)


def test_damaged_requests_never_make_it_fail(url: str) -> None:
    @budget(150)
    @given(damaged() | st.binary(max_size=200))
    def holds(sent: bytes) -> None:
        received = exchange(url, sent, quiet_s=QUIET_S / 2)
        assert all(status < 500 for status in statuses(received)), received[:2000]

    holds()
    lives(url)


@pytest.mark.parametrize("dialect", PATHS)
def test_any_body_is_answered_in_the_words_of_its_api(dialect: str, url: str) -> None:
    @budget(80)
    @given(changed(GOOD[dialect]))
    def holds(body: dict[str, Any]) -> None:
        sent = post(PATHS[dialect], json.dumps(body).encode(), b"Connection: close")
        received = exchange(url, sent)
        (status,) = statuses(received[:100])
        assert status < 500 or status == 501, received
        head, _, content = received.partition(b"\r\n\r\n")
        if b"text/event-stream" not in head:
            answer = json.loads(content, parse_constant=pytest.fail)
            assert ("error" in answer) >= (status != 200)

    holds()


def test_no_connection_leaves_a_descriptor_behind() -> None:
    with served() as url:
        lives(url)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for sent in BROKEN:
            exchange(url, sent, quiet_s=QUIET_S)
        lives(url)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before
