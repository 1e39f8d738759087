"""Turns with tools on the real Gemini CLI: a way to open them, and to go on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio

from clinvk.backends.base import Live
from clinvk.backends.gemini import GeminiBackend
from clinvk.events import Event, ToolCall, check_grammar
from clinvk.turn import AudioPart, ImagePart, Message, Role, TextPart, ToolSpec, Turn
from tests.fakes.api import Reply
from tests.fakes.gemini import FakeGemini
from tests.real.gemini_world import FLASH, HUNG_S, turn

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = ToolSpec("get_weather", "Tells the weather.", CITY)
TIME = ToolSpec("get_time")
TOOLS = (WEATHER, TIME)
SEEN = {"get_weather": "mcp_x_get_weather", "get_time": "mcp_x_get_time"}
BOTH = Reply(
    text=("Let me", " see."),
    tool_calls=((SEEN["get_weather"], {"city": "Rome"}), (SEEN["get_time"], {})),
)
ONE = Reply(text=(), tool_calls=((SEEN["get_weather"], {"city": "Rome"}),))
DONE = Reply(text=("Sunny.",))


def asked(*messages: Message | str, **more: Any) -> Turn:
    return replace(turn(*(messages or ("hi",))), **{"tools": TOOLS, **more})


def result(call: ToolCall, *parts: TextPart | ImagePart | AudioPart | str) -> Message:
    told = tuple(TextPart(part) if isinstance(part, str) else part for part in parts)
    return Message(Role.TOOL, told, call_id=call.id)


def calls_in(events: list[Event]) -> list[ToolCall]:
    return [event for event in events if isinstance(event, ToolCall)]


async def rest(live: AsyncIterator[Event]) -> list[Event]:
    with anyio.fail_after(HUNG_S):
        events = [event async for event in live]
    check_grammar(events)
    return events


@asynccontextmanager
async def opened(
    backend: GeminiBackend, whole: Turn, model: str = FLASH
) -> AsyncIterator[tuple[Live, list[Event]]]:
    """Open a turn and give its events up to its end."""
    backend.check(whole)
    async with backend.open(whole, model) as live:
        assert isinstance(live, Live)
        yield live, await rest(live)


async def go_through(live: Live, *news: Message) -> list[Event]:
    assert live.waits
    with anyio.fail_after(HUNG_S):
        await live.go_on(news)
    return await rest(live)


def parts(fake: FakeGemini, role: str, at: int = -1) -> list[dict[str, Any]]:
    """The parts of the last content of a role in one request, without their ids."""
    contents = [c for c in fake.turns[at].body["contents"] if c["role"] == role]
    found: list[dict[str, Any]] = contents[-1]["parts"]
    for part in found:
        part.pop("thoughtSignature", None)
        for kind in ("functionCall", "functionResponse"):
            part.get(kind, {}).pop("id", None)
    return found


def declared(fake: FakeGemini, at: int = -1) -> list[dict[str, Any]]:
    [tools] = fake.turns[at].body["tools"]
    found: list[dict[str, Any]] = tools["functionDeclarations"]
    return found
