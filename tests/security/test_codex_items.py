"""With the real Codex: items that would act by themselves, not only calls of functions."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.fakes.responses import FakeResponses
from tests.real import bridge as bridges
from tests.real.bridge import Bridge, alone, bridge
from tests.security.plants import Grounds, leaked, plant

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


class ItemsApi(FakeResponses):
    """Answers the next request with `items`, and those after it with a text."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[dict[str, Any]] = []

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/responses", self._answer)
        app.router.add_route("*", "/{rest:.*}", self._nothing)

    async def _nothing(self, _: web.Request) -> web.Response:
        return web.json_response({"models": [], "data": [], "object": "list"})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        await self.capture(request)
        text = {"type": "output_text", "text": "done", "annotations": []}
        last = {"type": "message", "role": "assistant", "id": "msg_9", "content": [text]}
        items, self.items = self.items or [last], []
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        made = {"id": "resp_1", "object": "response", "status": "in_progress"}
        events: list[dict[str, Any]] = [{"type": "response.created", "response": made}]
        for at, item in enumerate(items):
            events.append({"type": "response.output_item.added", "output_index": at, "item": item})
            events.append({"type": "response.output_item.done", "output_index": at, "item": item})
        usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
        done = {**made, "status": "completed", "output": items, "usage": usage}
        events.append({"type": "response.completed", "response": done})
        for event in events:
            data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
            await response.write(data.encode())
        return response


@pytest.fixture
def grounds(home: Path, monkeypatch: pytest.MonkeyPatch) -> Grounds:
    alone(home, monkeypatch)
    return plant(home.parent, monkeypatch)


@pytest.fixture
async def codex(grounds: Grounds, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bridge]:
    monkeypatch.setattr(bridges, "FAKES", {**bridges.FAKES, "codex": ItemsApi})
    memory = {"store": {"path": ":memory:"}}
    async with bridge("codex", grounds.home, server=memory) as running:
        yield running
        for asked in running.fake.requests:
            assert leaked(asked.body, asked.headers) == []


def items(grounds: Grounds) -> list[dict[str, Any]]:
    """What a model of the Responses API can say that is no call of a function."""
    shell = ["sh", "-c", grounds.trap("item")]
    patch = f"*** Begin Patch\n*** Add File: {grounds.start}/ran-patched\n+x\n*** End Patch\n"
    secret = str(grounds.start / "secret.txt")
    acts: list[dict[str, Any]] = [
        {"type": "local_shell_call", "action": {"type": "exec", "command": shell, "env": {}}},
        {"type": "shell_call", "action": {"commands": [grounds.trap("item")]}},
        {"type": "custom_tool_call", "name": "apply_patch", "input": patch},
        {"type": "custom_tool_call", "name": "exec", "input": grounds.trap("item")},
        {"type": "custom_tool_call", "name": "js", "input": f"exec({grounds.trap('item')!r})"},
        {"type": "apply_patch_call", "operation": {"type": "create_file", "path": "ran-x"}},
        {"type": "mcp_call", "server_label": "canary", "name": "run", "arguments": "{}"},
        {
            "type": "mcp_approval_request",
            "server_label": "canary",
            "name": "run",
            "arguments": "{}",
        },
        {"type": "tool_search_call", "execution": "client", "arguments": {"query": "canary"}},
        {"type": "web_search_call", "action": {"type": "open_page", "url": f"file://{secret}"}},
        {"type": "computer_call", "action": {"type": "screenshot"}},
        {"type": "image_generation_call", "result": "aGk=", "revised_prompt": "x"},
        {"type": "function_call", "name": "shell", "namespace": "functions", "arguments": "{}"},
    ]
    common = {"id": "it_1", "call_id": "call_1", "status": "completed"}
    return [{**common, **item} for item in acts]


async def test_no_item_of_a_model_acts_on_this_machine(codex: Bridge, grounds: Grounds) -> None:
    assert isinstance(codex.fake, ItemsApi)
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    before = grounds.files()
    for item in items(grounds):
        for offered in ({}, {"tools": tools}):
            codex.fake.items = [item]
            async with codex.post(f"go {item['type']}", **offered) as response:
                got = await response.text()
                assert response.status in (200, 502), (item, got)
                assert "tool_calls" not in got
                assert leaked(got) == []
            assert grounds.sprung == [], item
    assert grounds.files() == before
    # Of some codex tells its model that they are nothing, and asks again.
    assert len(codex.fake.requests) > 2 * len(items(grounds))
