"""What programs print around their answers, and in place of them."""

import json
import os
import random
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from clinvk.backends.command_output import LINE_CHARS, JsonParser, LineParser, TextParser, look
from clinvk.config import ConfigError, parse
from clinvk.errors import (
    CliCrashedError,
    ClinvkError,
    CliProtocolError,
    NotLoggedInError,
    UpstreamError,
    UpstreamRefusedError,
    UpstreamUnreachableError,
)
from clinvk.events import Event, TextDelta, Usage
from clinvk.kinds import CommandConfig
from clinvk.procs.supervisor import Supervisor
from tests.backends.test_command import Make, failure, made_by, told

# As aider 0.86.2 prints it.
AIDER = """\x1b[?25lAider v0.86.2\r
Main model: openai/gpt-4o with ask edit format\r
Git repo: none
Repo-map: disabled


https://aider.chat/HISTORY.html#release-notes

The sea is blue.

Tokens: of salt.

Tokens: 236 sent, 34 received. Cost: $0.00093 message, $0.00093 session.
"""
AIDER_SETTINGS = {
    "after": "^(Repo-map:|https://aider.chat/HISTORY)",
    "before": r"^Tokens: \d",
    "failure": r"^litellm\.\w+Error",
}


def config(**settings: Any) -> CommandConfig:
    return CommandConfig(kind="command", command=["x"], **settings)


def fed(parser: TextParser | JsonParser, output: str, pieces: int = 1) -> list[Event]:
    data = output.encode()
    cuts = sorted(random.Random(pieces).sample(range(len(data)), pieces - 1))
    found: list[Event] = []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        found += parser.feed(data[start:end])
    return found + parser.finish()


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with Supervisor() as supervisor:
        yield made_by(supervisor)


@pytest.mark.parametrize("pieces", [1, 2, 9, 60])
def test_banners_around_an_answer_are_cut_off(pieces: int) -> None:
    parser = TextParser(config(**AIDER_SETTINGS))
    found = text(fed(parser, AIDER, pieces))
    assert (
        found
        == "https://aider.chat/HISTORY.html#release-notes\n\nThe sea is blue.\n\nTokens: of salt."
    )
    assert (parser.ended, parser.error) == (True, None)


def test_an_answer_begins_after_the_first_line_and_ends_before_the_next() -> None:
    def cut(output: str, **settings: str) -> str:
        return text(fed(TextParser(config(**settings)), output))

    assert cut("a\n=\n\nb\n=\n", after="^=") == "b\n="
    assert cut("a\n=\nb", before="=") == "a"
    assert cut("=\na\n=\nb\n=\n", after="=", before="=") == "a"
    assert cut("\r| wait\r/ wait\rdone\r\n\rnext", before="never") == "done\nnext"
    assert cut("a\n\n\n", failure="never") == "a"
    assert cut("a\r\nb\r", failure="never") == "a\nb"
    long = "x" * (LINE_CHARS + 1)
    parser = TextParser(config(before="never"))
    assert text(parser.feed(long.encode())) == long
    assert text([*parser.feed(b"y\nz"), *parser.finish()]) == "y\nz"


def test_an_answer_streams_line_by_line_between_its_banners() -> None:
    parser = TextParser(config(after="^=", before="^="))
    assert parser.feed(b"hello\n=\n\none") == []
    assert text(parser.feed(b" line\ntwo")) == "one line"
    assert text(parser.finish()) == "\ntwo"


async def test_a_banner_that_does_not_come_is_told_with_what_came(make: Make) -> None:
    error = await failure(make("print('usage: aider [-h]')", after="^Repo-map:"))
    assert type(error) is CliProtocolError
    assert "`after`" in error.message
    assert "usage: aider" in error.message


async def test_a_failure_that_is_printed_as_if_it_were_an_answer_is_one(make: Make) -> None:
    said = (
        "Repo-map: none\n\nlitellm.AuthenticationError: OpenAI -\nError code: 401 - Unauthorized."
    )
    error = await failure(make(f"print({said!r})", **AIDER_SETTINGS))
    assert type(error) is NotLoggedInError
    assert "Unauthorized." in error.message
    error = await failure(make(f"print({said!r})", after="never", exit_codes={}))
    assert type(error) is NotLoggedInError


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (
            "  File \"a.py\", line 457, in <module>\nModuleNotFoundError: No module named 'x'",
            CliCrashedError,
        ),
        ("FileNotFoundError: [Errno 2] No such file: 'x'", CliCrashedError),
        ("TypeError: x\n    at main (/a/b.js:404:12)", CliCrashedError),
        ("out of memory: 512 MB are not enough for 450 tokens", CliCrashedError),
        ("listening on port 443", CliCrashedError),
        ("getaddrinfo ENOTFOUND api.example.com", UpstreamUnreachableError),
        ("connect ECONNREFUSED 127.0.0.1:443", UpstreamUnreachableError),
        ("Error: 400 status code (no body)", UpstreamRefusedError),
        ("openai.InternalServerError: Error code: 500 - {'error': 1}", UpstreamError),
    ],
)
async def test_a_crash_is_not_taken_for_the_model_api(
    said: str, kind: type[ClinvkError], make: Make
) -> None:
    for stream in ("stdout", "stderr"):
        error = await failure(make(f"import sys; sys.{stream}.write({said!r}); sys.exit(1)"))
        assert type(error) is kind
        assert said.strip() in error.message


async def test_lines_that_are_no_json_are_told_of_a_failure(make: Make) -> None:
    settings = {"output": "jsonl", "text": "$.text", "end": "$.done"}
    script = "import sys; print('{\"text\": \"a\"}'); print('\\x1b[31mOops\\x1b[0m'); sys.exit"
    for code, kind in ((1, CliCrashedError), (0, CliProtocolError)):
        error = await failure(make(f"{script}({code})", **settings))
        assert type(error) is kind
        assert "Oops" in error.message
        assert "\x1b" not in error.message


async def test_server_sent_events_are_lines_too(make: Make) -> None:
    script = """print('event: x\\ndata: {"text": "a"}\\n\\ndata:{"text": "b"}\\n\\ndata: [DONE]')"""
    assert await told(make(script, output="jsonl", text="$.text"), "hi") == "ab"


DOCUMENT = {
    "response": "Hi\nthere",
    "stats": {"in": 7, "out": 3},
    "messages": [{"role": "user"}, {"role": "assistant", "content": "Hi"}],
}
COUNTS = {"input": "$.stats.in", "output": "$.stats.out"}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "before", ["", "Loaded cached credentials.\n", "\n\n", "[INFO] {x}\n[1]\n{\n"]
)
def test_an_answer_is_found_in_a_document(indent: int | None, before: str) -> None:
    parser = JsonParser(config(output="json", text="$.response", usage=COUNTS))
    found = fed(parser, before + json.dumps(DOCUMENT, indent=indent) + "\n", 5)
    assert text(found) == "Hi\nthere"
    assert found[-1] == Usage(7, 3)
    assert parser.ended


def test_a_place_may_be_counted_from_the_end() -> None:
    assert look(DOCUMENT, "$.messages[-1][role=assistant].content") == "Hi"
    assert look(DOCUMENT, "$.messages[-2].role") == "user"
    assert look(DOCUMENT, "$.messages[-3]") is None
    assert look([], "$[-1]") is None


async def test_a_document_may_tell_a_failure_or_be_none(make: Make) -> None:
    settings = {
        "output": "json",
        "text": "$.response",
        "error": "$.error.message",
        "end": "$.stats",
    }
    told_error = json.dumps({"error": {"message": "API error 500: tired"}}, indent=1)
    error = await failure(make(f"print({told_error!r})", **settings))
    assert type(error) is UpstreamError
    assert "tired" in error.message
    error = await failure(make("print('Usage: x [-h]')", **settings))
    assert type(error) is CliProtocolError
    assert "Usage: x [-h]" in error.message
    answer = json.dumps(DOCUMENT, indent=1)
    assert await told(make(f"print({answer!r})", **settings), "hi") == "Hi\nthere"


def test_a_line_of_events_has_no_tail_of_its_own() -> None:
    parser = LineParser(config(output="jsonl", text="$.text"))
    assert parser.feed(b'{"other": 1}') == []
    assert parser.tail == ""


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ('after: "("', "is no regular expression"),
        ('output: jsonl, text: $.a, after: "x"', "'after' is of 'output: text'"),
        ('output: json, text: $.a, failure: "x"', "'failure' is of 'output: text'"),
        ("output: json", "'output: json' needs 'text'"),
    ],
)
def test_settings_that_do_not_fit_together_are_named(settings: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=r"b\.yaml:2: backends\.c") as caught:
        parse(
            f"backends:\n  c: {{kind: command, command: [a], {settings}}}\n",
            name="b.yaml",
            env=os.environ,
        )
    assert fault in str(caught.value)
