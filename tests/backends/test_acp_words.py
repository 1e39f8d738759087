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
from clinvk.events import Finished, FinishReason, Usage


@pytest.mark.parametrize(
    ("code", "message", "data", "error"),
    [
        (-32603, "Internal error", {"details": "429 slow down"}, RateLimitedError),
        (-32603, "Internal error", {"a": "API Error: 529 overloaded"}, OverloadedError),
        (404, "no such model", None, ModelNotFoundError),
        (-32603, "fetch failed", None, UpstreamUnreachableError),
        (-32000, "Authentication required", None, NotLoggedInError),
        (-32603, "Internal error", None, CliProtocolError),
    ],
)
def test_errors_are_typed_by_the_status_in_their_words(
    code: int, message: str, data: object, error: type[ClinvkError]
) -> None:
    assert type(classify(code, message, data)) is error


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
    [*before, last] = AgentParser().feed({"result": {"stopReason": "end_turn", "usage": counts}})
    assert before == ([] if usage is None else [usage])
    assert last == Finished(FinishReason.STOP)


@pytest.mark.parametrize(
    "said", ["x_get_time", "mcp__x__get_time", "x/get_time", "get_time (x MCP Server): {}"]
)
def test_a_tool_of_the_callers_is_known_by_what_agents_call_it(said: str) -> None:
    assert is_tool(said, "get_time")
    assert not is_tool(f"{said}\nrm", "get_time")
    assert not is_tool("get_time", "get_time")
