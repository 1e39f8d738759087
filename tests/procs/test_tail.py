"""The last of stderr, without secrets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.procs.tail import TAIL_BYTES, StderrTail, remember, scrub


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Authorization: Bearer abc.def-123456", "[removed]"),
        ("basic dXNlcjpwYXNz", "[removed]"),
        ("key sk-ant-api03-abcdef given", "key [removed] given"),
        ("x-goog-api-key: AIzaSyA1234567890", "x-goog-[removed]"),
        ("token ya29.a0AfH6SMB", "token [removed]"),
        ("jwt eyJhbGciOiJI.eyJzdWIi.c2ln", "jwt [removed]"),
        ("ghp_abcdefghij0123", "[removed]"),
        ("OPENAI_API_KEY=hunter2222 next", "OPENAI_[removed] next"),
        ('{"refresh_token": "1//0abcdef", "a": 1}', '{"refresh_[removed]", "a": 1}'),
        ("password = 'swordfish'", "[removed]'"),
        ("http://user:pass@host/path", "http://[removed]@host/path"),
        ("\x1b[31mred\x1b[0m \x1b]0;title\x07text", "red text"),
        ("nothing to hide: 3 tokens used", "nothing to hide: 3 tokens used"),
    ],
)
def test_secrets_and_escapes_are_taken_out(text: str, clean: str) -> None:
    assert scrub(text) == clean


@pytest.mark.parametrize("unit", ["a-", "_-", "token ", "eyJ", "://a:", "\x1b]", "bearer ", "=:"])
def test_no_text_takes_long_to_scrub(unit: str) -> None:
    # A pattern that backtracks would hold the event loop for seconds here.
    assert isinstance(scrub(unit * 30_000), str)


@given(st.lists(st.binary(max_size=5000), max_size=6))
def test_the_tail_is_bounded_and_holds_the_end(chunks: list[bytes]) -> None:
    tail = StderrTail()
    for chunk in chunks:
        tail.push(chunk)
    tail.push(b"\nthe end\n\n")
    assert tail.text.endswith("the end")
    assert len(tail.text) <= TAIL_BYTES


def test_the_oldest_is_forgotten() -> None:
    tail = StderrTail()
    tail.push(b"first\n" + b"x" * 100_000)
    tail.push(b"\nlast")
    assert "first" not in tail.text
    assert tail.text.endswith("\nlast")


@pytest.mark.parametrize("back", [1, 4, 10, 20, 40])
def test_a_secret_at_the_edge_of_the_tail_does_not_leak(back: int) -> None:
    tail = StderrTail()
    secret = b"sk-ant-api03-0123456789abcdefghij"
    tail.push(b"." * 5000 + b" " + secret + b" ")
    tail.push(b"." * (TAIL_BYTES - len(secret) + back - 1))
    assert "abcdefghij" not in tail.text


def test_broken_utf8_is_shown_as_such() -> None:
    tail = StderrTail()
    tail.push(b"ok \xff\xfe")
    assert tail.text == "ok \ufffd\ufffd"


def test_what_a_child_was_given_in_secret_is_taken_out_however_it_looks() -> None:
    remember({"MY_API_KEY": "correct horse", "DB_PASSWORD": "correct horse battery", "A": "staple"})
    remember({"SHORT_TOKEN": "abc", "MAX_TOKENS": "1000000000"})
    said = "correct horse battery, correct horse; staple, abc, 1000000000"
    assert scrub(said) == "[removed], [removed]; staple, abc, 1000000000"


def test_of_what_was_given_the_oldest_is_forgotten() -> None:
    remember({"A_KEY": "the oldest of all"})
    for number in range(256):
        remember({"A_KEY": f"number {number:03}"})
    assert scrub("the oldest of all, number 000") == "the oldest of all, [removed]"
