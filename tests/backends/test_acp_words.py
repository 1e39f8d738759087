"""What agents say of errors, of tokens and of tools, in their many ways."""

from typing import Any

import pytest

from clinvk.backends.acp_errors import classify
from clinvk.backends.acp_parser import AgentParser
from clinvk.backends.acp_session import is_tool
from clinvk.errors import (
    ClinvkError,
    CliProtocolError,
    ModelNotFoundError,
    NotLoggedInError,
    OverloadedError,
    RateLimitedError,
    UpstreamUnreachableError,
)
from clinvk.events import Failed, Finished, FinishReason, Started, TextDelta, Usage


@pytest.mark.parametrize(
    ("code", "message", "data", "error"),
    [
        (-32603, "Internal error", {"details": "429 slow down"}, RateLimitedError),
        (-32603, "Internal error", {"a": "API Error: 529 overloaded"}, OverloadedError),
        (404, "no such model", None, ModelNotFoundError),
        (-32603, "fetch failed", None, UpstreamUnreachableError),
        (-32000, "Authentication required", None, NotLoggedInError),
        (-31002, "Invalid API key (from env var KEY).", None, NotLoggedInError),
        (-32603, "Internal error", "We're currently experiencing high demand", OverloadedError),
        (-32603, "Internal error", None, CliProtocolError),
        (-32603, "failed", 'File "/x-429/a/503/b.py", line 500, in f', CliProtocolError),
        (-32603, "took 450ms of 512MB at 10.0.0.1:443", None, CliProtocolError),
        (-32603, "HTTP 429, wait", None, RateLimitedError),
    ],
)
def test_errors_are_typed_by_the_status_in_their_words(
    code: int, message: str, data: object, error: type[ClinvkError]
) -> None:
    assert type(classify(code, message, data)) is error


def chunk(**content: Any) -> dict[str, Any]:
    update = {"sessionUpdate": "agent_message_chunk", "content": content}
    return {"method": "session/update", "params": {"update": update}}


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({"inputTokens": 5, "outputTokens": 2, "totalTokens": 7}, Usage(5, 2)),
        (
            {"inputTokens": 5, "outputTokens": 2, "cachedReadTokens": 90, "totalTokens": 97},
            Usage(95, 2, 90),
        ),
        ({"inputTokens": 95, "outputTokens": 2, "cachedReadTokens": 90}, Usage(95, 2, 90)),
        ({"inputTokens": "5"}, None),
        (None, None),
    ],
)
def test_tokens_are_counted_as_the_agent_tells(counts: Any, usage: Usage | None) -> None:
    parser = AgentParser()
    parser.feed(chunk(type="text", text="Hello."))
    [*before, last] = parser.feed({"result": {"stopReason": "end_turn", "usage": counts}})
    assert before == ([] if usage is None else [usage])
    assert last == Finished(FinishReason.STOP)


@pytest.mark.parametrize(
    "said",
    [
        "x_get_time",
        "mcp__x__get_time",
        "x/get_time",
        "Tool: x/get_time",
        "get_time (x MCP Server): {}",
        'get_time: {"zone": "CET"}',
    ],
)
def test_a_tool_of_the_callers_is_known_by_what_agents_call_it(said: str) -> None:
    assert is_tool(said, "get_time")
    assert not is_tool(f"{said}\nrm", "get_time")
    assert not is_tool("get_time", "get_time")


@pytest.mark.parametrize(
    "said",
    [
        "get_time",
        "get_time; reboot",
        "rm -r: x/get_time",
        "get_time: now",
        "get_time: [1]",
        'get_time: {"zone": "$(reboot)"}',
        'get_time: {"zone": "`reboot`"}',
        'get_time: {"zone":\n"reboot"\n: 1}',
        "get_time: {}; reboot",
        "get_time: " + "[" * 100_000,
    ],
)
def test_what_a_shell_would_take_is_no_tool(said: str) -> None:
    assert not is_tool(said, "get_time")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"type": "resource_link", "uri": "file:///a", "name": "a"}, "[a](file:///a)"),
        ({"type": "resource_link", "uri": "u", "name": "a", "title": "T"}, "[T](u)"),
        ({"type": "resource", "resource": {"uri": "u", "text": "inside"}}, "inside"),
        (
            {"type": "image", "mimeType": "image/png", "data": "QQ"},
            "![image](data:image/png;base64,QQ)",
        ),
        (
            {"type": "audio", "mimeType": "audio/wav", "data": "QQ"},
            "[audio](data:audio/wav;base64,QQ)",
        ),
    ],
)
def test_what_is_no_text_is_told_as_markdown(content: dict[str, Any], text: str) -> None:
    assert AgentParser().feed(chunk(**content)) == [Started(), TextDelta(text)]


@pytest.mark.parametrize(
    "content",
    [
        {"type": "resource", "resource": {"uri": "u", "blob": "QQ"}},
        {"type": "resource", "resource": None},
        {"type": "image", "mimeType": "image/png"},
        {"type": "video", "data": "QQ"},
    ],
)
def test_what_cannot_be_told_is_left_out(content: dict[str, Any]) -> None:
    assert AgentParser().feed(chunk(**content)) == []


END = {"result": {"stopReason": "end_turn"}}


def test_an_end_without_a_word_is_no_answer() -> None:
    [last] = AgentParser().feed(END)
    assert isinstance(last, Failed)
    assert "ended its turn without an answer" in last.error.message


def test_an_end_without_a_word_is_one_after_results_or_with_tokens() -> None:
    assert AgentParser(silence_ends=True).feed(END) == [Finished(FinishReason.STOP)]
    counted = {"stopReason": "end_turn", "usage": {"inputTokens": 5, "outputTokens": 2}}
    assert AgentParser().feed({"result": counted})[-1] == Finished(FinishReason.STOP)


@pytest.mark.parametrize("reason", ["end_turn", "cancelled"])
def test_who_ends_its_turn_as_it_was_refused_something_says_what(reason: str) -> None:
    parser = AgentParser(silence_ends=True)
    parser.refused("Run reboot")
    counted = {"inputTokens": 5, "outputTokens": 2}
    [last] = parser.feed({"result": {"stopReason": reason, "usage": counted}})
    assert isinstance(last, Failed)
    assert "after it was refused 'Run reboot'" in last.error.message
