"""Agents made with the protocol's own SDK, and MCP's: what they are sent is of their schemas."""

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from clinvk.backends import acp_session
from clinvk.backends.acp_agent import AcpBackend
from clinvk.backends.base import Live, State
from clinvk.capabilities import Level
from clinvk.config import AcpConfig
from clinvk.events import Event, Finished, FinishReason, TextDelta, ToolCall
from clinvk.procs.supervisor import Supervisor
from clinvk.turn import Message, Role, TextPart, ToolSpec, Turn

HUNG_S = 60
TOOLS = tuple(ToolSpec(name, "", {"type": "object"}) for name in ("one", "two"))
AGENT = Path(__file__).with_name("acp_sdk_agent.py")


@pytest.fixture
async def backend() -> AsyncIterator[AcpBackend]:
    async with Supervisor() as supervisor:
        config = AcpConfig(kind="acp", command=[sys.executable, str(AGENT)], auth="a-key")
        yield AcpBackend("a", config, supervisor)


def user(text: str) -> Message:
    return Message(Role.USER, (TextPart(text),))


async def rest(live: AsyncIterator[Event]) -> list[Event]:
    with anyio.fail_after(HUNG_S):
        return [event async for event in live]


def said(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_logins_efforts_and_conversations_are_of_the_schema(backend: AcpBackend) -> None:
    health = await backend.health()
    assert (health.state, health.version) == (State.READY, "1.0")
    asked = Turn("a", (user("who am I?"),), effort="max")
    async with backend.open(asked, None) as live:
        assert isinstance(live, Live)
        assert said(await rest(live)) == "a-key thinking=high who am I?"
        assert live.waits
        await live.go_on((user("And now?"),))
        assert said(await rest(live)) == " And now?"
    assert backend.capabilities.reasoning_effort is Level.NATIVE


async def test_calls_that_are_made_at_once_are_all_answered(
    backend: AcpBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acp_session, "LIST_S", 0.01)  # it asks once it is prompted
    async with backend.open(Turn("a", (user("Call."),), tools=TOOLS), None) as live:
        assert isinstance(live, Live)
        events = await rest(live)
        told = []
        while calls := [event for event in events if isinstance(event, ToolCall)]:
            assert events[-1] == Finished(FinishReason.TOOL_CALLS)
            told += [json.loads(call.arguments)["of"] for call in calls]
            results = [
                Message(Role.TOOL, (TextPart(f"done {call.name}"),), call_id=call.id)
                for call in calls
            ]
            await live.go_on(tuple(results))
            events = await rest(live)
        assert sorted(told) == ["one", "two"]
        assert said(events) == "done one; done two"
