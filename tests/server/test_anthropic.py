"""Anthropic's API over HTTP, over a backend that plays a script."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import anyio
import pytest
from yarl import URL

from clinvk.errors import (
    CliCrashedError,
    OverloadedError,
    RateLimitedError,
    UnsupportedError,
)
from clinvk.events import Finished, FinishReason, ReasoningDelta, Started, TextDelta, ToolCall
from clinvk.server.anthropic import MEDIA_TOKENS, PREFIX
from clinvk.server.app import create_app
from tests.fakes.backend import ScriptBackend, builder, script_config
from tests.serving import serving

HI = [{"role": "user", "content": "hi"}]
TOOL = {"name": "f", "description": "Adds.", "input_schema": {"type": "object"}}


@dataclass
class Served:
    url: str
    backend: ScriptBackend
    http: aiohttp.ClientSession

    async def post(self, path: str = "/v1/messages", **fields: Any) -> aiohttp.ClientResponse:
        body = {"model": "fake", "max_tokens": 100, "messages": HI, **fields}
        with anyio.fail_after(10):
            response = await self.http.post(
                f"{self.url}{path}",
                json=body,
                headers={"x-api-key": "unused", "anthropic-version": "2023-06-01"},
            )
            await response.read()
        return response

    async def count(self, **fields: Any) -> int:
        response = await self.post("/v1/messages/count_tokens", **fields)
        assert response.status == 200
        body: dict[str, int] = await response.json()
        assert set(body) == {"input_tokens"}
        return body["input_tokens"]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    backend = ScriptBackend()
    async with (
        serving(create_app(script_config(), build=builder(backend))) as url,
        aiohttp.ClientSession() as http,
    ):
        yield Served(url + PREFIX, backend, http)


async def test_an_answer_in_one_piece(served: Served) -> None:
    response = await served.post("/v1/messages?beta=true", top_k=5)
    assert response.status == 200
    assert response.headers["request-id"].startswith("req_")
    assert response.headers["x-clinvk-ignored"] == "top_k"
    body = await response.json()
    assert (body["type"], body["stop_reason"]) == ("message", "end_turn")
    assert body["content"] == [{"type": "text", "text": "Hello world", "citations": None}]
    assert (body["usage"]["input_tokens"], body["usage"]["cache_read_input_tokens"]) == (2, 3)


async def test_an_answer_in_events(served: Served) -> None:
    response = await served.post(stream=True)
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert response.headers["request-id"].startswith("req_")
    events = [block.split("\n") for block in (await response.text()).split("\n\n")[:-1]]
    assert [name for name, _ in events] == [
        "event: message_start",
        "event: ping",
        "event: content_block_start",
        "event: content_block_delta",
        "event: content_block_delta",
        "event: content_block_stop",
        "event: message_delta",
        "event: message_stop",
    ]


async def test_the_limit_that_the_api_requires_cuts_the_answer(served: Served) -> None:
    body = await (await served.post(max_tokens=1)).json()
    assert (body["content"][0]["text"], body["stop_reason"]) == ("Hello", "max_tokens")


async def test_calls_go_to_the_client_and_their_results_come_back(served: Served) -> None:
    served.backend.script = (
        TextDelta("Adding."),
        ToolCall("c1", "f", '{"a": 1}'),
        ToolCall("c2", "f", '{"a": 2}'),
        Finished(FinishReason.TOOL_CALLS),
    )
    body = await (await served.post(tools=[TOOL])).json()
    assert body["stop_reason"] == "tool_use"
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "3"}
        for block in body["content"][1:]
    ]
    again = [
        *HI,
        {"role": "assistant", "content": body["content"]},
        {"role": "user", "content": results},
    ]
    assert (await served.post(tools=[TOOL], messages=again)).status == 200
    said = served.backend.turns[-1][0].conversation
    assert [call.id for call in said[1].calls] == ["c1", "c2"]
    assert [message.call_id for message in said[2:]] == ["c1", "c2"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_delta_is_an_http_error(
    served: Served, stream: bool
) -> None:
    served.backend.script = (Started("m"), OverloadedError("try later"))
    response = await served.post(stream=stream)
    assert response.status == 529
    assert response.headers["x-should-retry"] == "true"
    assert await response.json() == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "try later"},
        "request_id": response.headers["request-id"],
    }


async def test_a_limit_says_when_to_come_back(served: Served) -> None:
    served.backend.script = (RateLimitedError("slow down", retry_after_s=6.2),)
    response = await served.post()
    assert (response.status, response.headers["Retry-After"]) == (429, "7")


async def test_a_failure_in_a_stream_ends_it_with_an_error(served: Served) -> None:
    served.backend.script = (TextDelta("a"), CliCrashedError("it died"))
    text = await (await served.post(stream=True)).text()
    name, data = text.split("\n\n")[-2].split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: ")) == {
        "type": "error",
        "error": {"type": "api_error", "message": "it died"},
    }
    assert "message_stop" not in text


async def test_what_a_backend_refuses_names_the_field(served: Served) -> None:
    served.backend.refusal = UnsupportedError("it cannot be carried", param="tools")
    error = (await (await served.post(tools=[TOOL])).json())["error"]
    assert error == {"type": "invalid_request_error", "message": "tools: it cannot be carried"}


async def test_what_a_backend_refuses_is_named_as_in_the_request(served: Served) -> None:
    served.backend.refusal = UnsupportedError("no images", param="messages[1].content[0]")
    error = (await (await served.post(system="s")).json())["error"]
    assert error["message"] == "messages[0].content: no images"


async def test_client_disconnect_stops_the_turn(served: Served) -> None:
    served.backend.script = (ReasoningDelta("hm"), anyio.Event())
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(served.post)
            await served.backend.entered.wait()
            group.cancel_scope.cancel()
        await served.backend.left.wait()
    assert served.backend.running == 0


async def test_the_models(served: Served) -> None:
    async with served.http.get(f"{served.url}/v1/models?limit=1000") as response:
        body = await response.json()
    assert [model["id"] for model in body["data"]] == ["fake", "short"]
    assert all(model["type"] == "model" for model in body["data"])
    assert body["has_more"] is False


@pytest.mark.parametrize(
    ("path", "model"),
    [("fake", "fake"), ("fake%2Fa", "fake/a"), ("alias-opus-4-1", "alias-opus-4-1")],
)
async def test_one_model(served: Served, path: str, model: str) -> None:
    async with served.http.get(URL(f"{served.url}/v1/models/{path}", encoded=True)) as response:
        assert (response.status, (await response.json())["id"]) == (200, model)


async def test_a_model_that_only_an_alias_knows_is_asked(served: Served) -> None:
    assert (await served.post(model="alias-opus-4-1")).status == 200
    assert served.backend.turns[-1][1] == "alias-opus-4-1"


async def test_a_count_grows_with_everything_that_is_sent(served: Served) -> None:
    plain = await served.count()
    assert 0 < plain < 10
    assert await served.count(system="Be brief.") > plain
    tools = await served.count(tools=[TOOL])
    assert tools > plain
    long = {"type": "text", "media_type": "text/plain", "data": "word " * 50}
    picture = {"type": "base64", "media_type": "image/png", "data": "AA=="}
    calls = {"type": "tool_use", "id": "c", "name": "f", "input": {"a": "word " * 50}}
    assert await served.count(messages=_holding("document", long)) >= 50
    assert await served.count(messages=_holding("image", picture)) == MEDIA_TOKENS
    assert await served.count(messages=[{"role": "assistant", "content": [calls]}]) >= 50
    assert served.backend.turns == []


def _holding(kind: str, source: dict[str, str]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": kind, "source": source}]}]


async def test_a_document_of_text_is_counted_as_its_text(served: Served) -> None:
    data = base64.b64encode(b"word " * 50).decode()
    source = {"type": "base64", "media_type": "text/plain", "data": data}
    assert 50 <= await served.count(messages=_holding("document", source)) < 60
    source["data"] = "no base64 é"
    assert await served.count(messages=_holding("document", source)) > 0


@pytest.mark.parametrize(
    ("path", "fields", "status", "kind"),
    [
        ("/v1/messages", {"max_tokens": None}, 400, "invalid_request_error"),
        ("/v1/messages", {"max_tokens": 0, "stream": True}, 400, "invalid_request_error"),
        ("/v1/messages", {"model": "nope"}, 404, "not_found_error"),
        ("/v1/messages/count_tokens", {"messages": []}, 400, "invalid_request_error"),
        ("/v1/messages/count_tokens", {"model": "nope"}, 404, "not_found_error"),
        ("/v1/nowhere", {}, 404, "not_found_error"),
        ("/v1/models", {}, 405, "invalid_request_error"),
    ],
)
async def test_every_mistake_has_the_shape_of_anthropic(
    served: Served, path: str, fields: dict[str, Any], status: int, kind: str
) -> None:
    response = await served.post(path, **fields)
    body = await response.json()
    assert (response.status, body["type"], body["error"]["type"]) == (status, "error", kind)
    assert body["request_id"] == response.headers["request-id"]
    assert response.headers["x-should-retry"] == "false"


async def test_the_base_address_answers_a_greeting(served: Served) -> None:
    for url in (served.url, f"{served.url}/"):
        async with served.http.head(url) as response:
            assert response.status == 200
