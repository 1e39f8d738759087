"""Images by address with the real CLIs: in what the user says and in what tools give."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.api import Reply
from tests.real import upstream
from tests.real.bridge import Bridge, alone, bridge
from tests.sites import HOST, Site
from tests.test_media import PNG

pytestmark = pytest.mark.real

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
SERVER = {"fetch": {"allow_private": [HOST]}, "store": {"path": ":memory:"}}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site().running() as running:
        yield running


@pytest.fixture(params=["claude", "codex", "gemini"])
async def served(
    request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bridge]:
    alone(home, monkeypatch)
    async with bridge(request.param, home, server=SERVER) as running:
        yield running


async def asked(served: Bridge, *messages: Any) -> tuple[str, dict[str, Any]]:
    """Return how the turn came about, and what the assistant said."""
    body = {"model": served.name, "messages": messages, "tools": TOOLS}
    async with served.http.post(f"{served.url}/chat/completions", json=body) as response:
        got = await response.json()
        assert response.status == 200, got
        return response.headers["x-clinvk-turn"], got["choices"][0]["message"]


def seen(served: Bridge, url: str) -> int:
    """How often the last request shows the image, by content or by address."""
    leaves = upstream.leaves(served.fake.requests[-1].body)
    return sum(isinstance(leaf, str) and (leaf.endswith(PNG) or leaf == url) for leaf in leaves)


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


async def test_one_in_a_result_is_seen_by_the_turn_that_called(served: Bridge, site: Site) -> None:
    url = f"{site.url}/a.png"
    name = "mcp_x_look" if served.name == "gemini" else "look"
    served.fake.answer(Reply(text=(), tool_calls=((name, {}),)), Reply())
    question = {"role": "user", "content": [{"type": "text", "text": "see"}, image(url)]}
    _, called = await asked(served, question)
    (call,) = called["tool_calls"]
    result = {"role": "tool", "tool_call_id": call["id"], "content": [image(url)]}
    course, said = await asked(served, question, called, result)
    assert said["content"] == "Hello from the fake."
    assert seen(served, url) == 2
    # Claude Code takes images from tools by content only, so it is told the whole history.
    assert course == ("replayed" if served.name == "claude" else "resumed")


async def test_a_conversation_goes_on_with_one(served: Bridge, site: Site) -> None:
    url = f"{site.url}/a.png"
    question = {"role": "user", "content": "hi"}
    _, said = await asked(served, question)
    course, _ = await asked(served, question, said, {"role": "user", "content": [image(url)]})
    assert (course, seen(served, url)) == ("continued", 1)
