"""A conversation of the real Codex CLI that goes on: led by a test, and heard by its model."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio

from clinvk.backends.base import Live
from clinvk.events import (
    Event,
    Finished,
    FinishReason,
    ToolCall,
)
from clinvk.turn import (
    Message,
    Part,
    PriorCall,
    Role,
    TextPart,
    ToolSpec,
    Turn,
)
from tests.fakes.api import Reply
from tests.real.codex_world import (
    HUNG_S,
    World,
    text,
    turn,
)

TOOLS = (ToolSpec("get_weather"), ToolSpec("get_time"))
CALLS = Reply(
    text=("Let me see.",), tool_calls=(("get_weather", {"city": "Rome"}), ("get_time", {}))
)
SUNNY = Reply(text=("Sunny.",))
# What the items of a response have, which those that codex was given have not, or otherwise.
OWN = ("id", "status", "internal_chat_message_metadata_passthrough")


def asked(*messages: Message | str, **more: Any) -> Turn:
    return replace(turn(*(messages or ("hi",))), **{"tools": TOOLS, **more})


def result(call_id: str, *parts: Part | str) -> Message:
    told = tuple(TextPart(part) if isinstance(part, str) else part for part in parts)
    return Message(Role.TOOL, told, call_id=call_id)


def heard(world: World, at: int = -1) -> list[dict[str, Any]]:
    """What the model heard, but for what only a thread that went on remembers."""
    items = []
    for item in world.fake.requests[at].body["input"]:
        if item["type"] == "reasoning":
            continue
        plain = {key: value for key, value in item.items() if key not in OWN}
        for key in ("content", "output"):
            if isinstance(plain.get(key), list):
                plain[key] = [
                    {k: v for k, v in part.items() if k != "annotations"} for part in plain[key]
                ]
        items.append(plain)
    return items


def settings(world: World, at: int = -1) -> dict[str, Any]:
    """What else is asked upstream, but for the names of the thread and its turn."""
    own = ("input", "prompt_cache_key", "client_metadata")
    return {k: v for k, v in world.fake.requests[at].body.items() if k not in own}


def as_told(events: list[Event]) -> Message:
    """The reply as its caller sends it back."""
    calls = [e for e in events if isinstance(e, ToolCall)]
    words = text(events)
    return Message(
        Role.ASSISTANT,
        (TextPart(words),) if words else (),
        tuple(PriorCall(call.id, call.name, call.arguments) for call in calls),
    )


async def rest(live: AsyncIterator[Event]) -> list[Event]:
    with anyio.fail_after(HUNG_S):
        return [event async for event in live]


async def go_through(live: Live, news: tuple[Message, ...]) -> list[Event]:
    with anyio.fail_after(HUNG_S):
        await live.go_on(news)
        return [event async for event in live]


async def waiting(events: AsyncIterator[Event], reason: FinishReason) -> Live:
    """Read a turn, and return the conversation that waits after it."""
    assert (await rest(events))[-1] == Finished(reason)
    assert isinstance(events, Live)
    assert events.waits
    return events


async def parked(events: AsyncIterator[Event]) -> Live:
    return await waiting(events, FinishReason.TOOL_CALLS)
