"""The Responses API over a backend that plays a script: streams, the store, what goes wrong."""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from openai.types.responses import ResponseItemList

from clinvk.config import Config, StoreConfig
from clinvk.errors import CliCrashedError, UnsupportedError
from clinvk.events import (
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    Usage,
)
from clinvk.server.app import create_app
from clinvk.turn import Message, PriorCall, Role, TextPart
from tests.fakes.backend import ScriptBackend, builder, script_config
from tests.fakes.openai_types import check_response, check_stream, fold
from tests.serving import API, serving

HI = Message(Role.USER, (TextPart("hi"),))
HELLO = Message(Role.ASSISTANT, (TextPart("Hello world"),))


@dataclass
class Served:
    url: str
    backend: ScriptBackend
    http: aiohttp.ClientSession

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        with anyio.fail_after(10):
            async with self.http.request(method, f"{self.url}{API}{path}", **options) as response:
                assert response.headers["x-request-id"].startswith("req_")
                return response.status, await response.json()

    async def ask(self, **fields: Any) -> dict[str, Any]:
        status, body = await self.call(
            "POST", "/responses", json={"model": "fake", "input": "hi", **fields}
        )
        assert status == 200, body
        check_response(body)
        return dict(body)

    async def refused(self, **fields: Any) -> tuple[int, str | None, str | None]:
        status, body = await self.call(
            "POST", "/responses", json={"model": "fake", "input": "hi", **fields}
        )
        return status, body["error"]["code"], body["error"]["param"]

    async def stream(self, **fields: Any) -> list[dict[str, Any]]:
        body = {"model": "fake", "input": "hi", "stream": True, **fields}
        with anyio.fail_after(10):
            async with self.http.post(f"{self.url}{API}/responses", json=body) as response:
                assert response.content_type == "text/event-stream"
                text = await response.text()
        blocks = [block.split("\n") for block in text.split("\n\n") if block]
        told = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
        assert [name for name, _ in blocks] == [f"event: {event['type']}" for event in told]
        check_stream(told)
        return told


def config(path: Path | str = ":memory:") -> Config:
    made = script_config()
    server = made.server.model_copy(update={"store": StoreConfig(path=str(path))})
    return made.model_copy(update={"server": server})


@asynccontextmanager
async def over(path: Path | str = ":memory:") -> AsyncIterator[Served]:
    backend = ScriptBackend()
    async with (
        serving(create_app(config(path), build=builder(backend))) as url,
        aiohttp.ClientSession() as http,
    ):
        yield Served(url, backend, http)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with over() as made:
        yield made


async def test_an_answer_in_one_piece(served: Served) -> None:
    body = await served.ask(temperature=1, metadata={"a": "b"})
    assert body["status"] == "completed"
    assert body["output"][0]["content"][0]["text"] == "Hello world"
    assert body["usage"]["input_tokens_details"] == {"cached_tokens": 3, "cache_write_tokens": 0}
    assert (body["temperature"], body["metadata"], body["store"]) == (1, {"a": "b"}, True)
    assert served.backend.turns[0][0].messages == (HI,)


async def test_what_has_no_effect_is_named_in_a_header(served: Served) -> None:
    body = {"model": "fake", "input": "hi", "top_p": 1, "tools": [{"type": "web_search"}]}
    async with served.http.post(f"{served.url}{API}/responses", json=body) as response:
        assert response.headers["x-clinvk-ignored"] == "top_p, tools.web_search"


async def test_a_stream_is_the_answer_in_pieces(served: Served) -> None:
    served.backend.script = (
        ReasoningDelta("Hm."),
        TextDelta("a"),
        TextDelta("b"),
        ToolCall("c1", "f", "{}"),
        Usage(1, 2),
        Finished(FinishReason.TOOL_CALLS),
    )
    told = await served.stream()
    response = told[-1]["response"]
    assert fold(told) == response["output"]
    assert [item["type"] for item in response["output"]] == [
        "reasoning",
        "message",
        "function_call",
    ]
    assert await served.call("GET", f"/responses/{response['id']}") == (200, response)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_conversation_goes_on_by_the_id_of_the_last_response(
    served: Served, *, stream: bool
) -> None:
    first = await served.ask(instructions="not carried over")
    if stream:
        second = (await served.stream(previous_response_id=first["id"]))[-1]["response"]
    else:
        second = await served.ask(previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    await served.ask(previous_response_id=second["id"], input="more")
    more = Message(Role.USER, (TextPart("more"),))
    assert served.backend.turns[-1][0].messages == (HI, HELLO, HI, HELLO, more)


async def test_the_result_of_a_call_needs_no_history(served: Served) -> None:
    served.backend.script = (ToolCall("c1", "f", "{}"), Finished(FinishReason.TOOL_CALLS))
    first = await served.ask(tools=[{"type": "function", "name": "f"}])
    result = {"type": "function_call_output", "call_id": "c1", "output": "done"}
    await served.ask(previous_response_id=first["id"], input=[result])
    assert served.backend.turns[-1][0].messages == (
        HI,
        Message(Role.ASSISTANT, calls=(PriorCall("c1", "f", "{}"),)),
        Message(Role.TOOL, (TextPart("done"),), call_id="c1"),
    )


async def test_a_conversation_survives_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "r.sqlite3"
    async with over(file) as first:
        said = await first.ask()
    async with over(file) as again:
        assert await again.call("GET", f"/responses/{said['id']}") == (200, said)
        await again.ask(previous_response_id=said["id"])
        assert again.backend.turns[0][0].messages == (HI, HELLO, HI)


async def test_a_history_that_is_sent_again_is_kept_once(tmp_path: Path) -> None:
    file = tmp_path / "r.sqlite3"
    hi = {"role": "user", "content": "hi"}
    async with over(file) as served:
        first = await served.ask(input=[hi])
        await served.ask(input=[hi, *first["output"], hi])
    db = sqlite3.connect(file)
    (items,) = db.execute("SELECT count(*) FROM items").fetchone()
    db.close()
    assert items == 4  # two that were said, two that were answered


async def test_an_item_is_referred_to_by_its_id(served: Served) -> None:
    first = await served.ask()
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    await served.ask(input=[reference, {"role": "user", "content": "hi"}])
    assert served.backend.turns[-1][0].messages == (HELLO, HI)
    assert await served.refused(input=[{"type": "item_reference", "id": "msg_0"}]) == (
        400,
        "invalid_value",
        "input[0].id",
    )


async def test_a_response_that_is_not_kept_cannot_be_referred_to(served: Served) -> None:
    unkept = await served.ask(store=False)
    assert unkept["store"] is False
    assert (await served.call("GET", f"/responses/{unkept['id']}"))[0] == 404
    for name in (unkept["id"], "resp_nope", ""):
        assert await served.refused(previous_response_id=name) == (
            400,
            "previous_response_not_found",
            "previous_response_id",
        )
    assert len(served.backend.turns) == 1


async def test_a_deleted_response_is_gone(served: Served) -> None:
    first = await served.ask()
    second = await served.ask(previous_response_id=first["id"])
    deleted = {"id": first["id"], "object": "response", "deleted": True}
    path = f"/responses/{first['id']}"
    assert await served.call("DELETE", path) == (200, deleted)
    for method in ("GET", "DELETE"):
        status, body = await served.call(method, path)
        assert (status, body["error"]["param"]) == (404, "id")
    await served.ask(previous_response_id=second["id"])
    assert served.backend.turns[-1][0].messages == (HI, HELLO, HI, HELLO, HI)


async def test_the_input_items_are_listed_in_pages(served: Served) -> None:
    asked = [{"role": "user", "content": text} for text in "abc"]
    first = await served.ask(input=asked)
    path = f"/responses/{first['id']}/input_items"

    async def page(**query: Any) -> tuple[str, bool]:
        status, body = await served.call("GET", path, params=query)
        assert status == 200
        ResponseItemList.model_validate(body)
        data = body["data"]
        ids = (data[0]["id"], data[-1]["id"]) if data else ("", "")
        assert (body["first_id"], body["last_id"]) == ids
        return "".join(item["content"][0]["text"] for item in data), body["has_more"]

    assert await page() == ("cba", False)
    assert await page(order="asc", limit=2) == ("ab", True)
    _, whole = await served.call("GET", path, params={"order": "asc"})
    ids = [item["id"] for item in whole["data"]]
    assert await page(order="asc", limit=2, after=ids[1]) == ("c", False)
    assert await page(order="desc", limit=1, after=ids[2]) == ("b", True)
    assert await page(after=ids[0]) == ("", False)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"order": "random"}, "order"),
        ({"after": "msg_0"}, "after"),
    ],
)
async def test_a_mistake_in_a_query_is_named(
    served: Served, query: dict[str, str], param: str
) -> None:
    first = await served.ask()
    status, body = await served.call("GET", f"/responses/{first['id']}/input_items", params=query)
    assert (status, body["error"]["param"]) == (400, param)


async def test_only_a_background_response_could_be_cancelled(served: Served) -> None:
    first = await served.ask()
    path = f"/responses/{first['id']}"
    status, body = await served.call("POST", f"{path}/cancel")
    assert status == 400
    assert body["error"]["message"].startswith("cannot cancel a synchronous response")
    assert (await served.call("POST", "/responses/resp_0/cancel"))[0] == 404
    assert (await served.call("GET", "/responses/resp_0/input_items"))[0] == 404
    status, body = await served.call("GET", path, params={"stream": "true"})
    assert (status, body["error"]["param"]) == (400, "stream")


async def test_a_failure_before_the_first_event_is_an_http_error(served: Served) -> None:
    served.backend.script = (CliCrashedError("it died"),)
    for stream in (True, False):
        assert await served.refused(stream=stream) == (502, "cli_crashed", None)


async def test_what_a_backend_refuses_is_named_as_in_the_request(served: Served) -> None:
    served.backend.refusal = UnsupportedError("no images", param="messages[1].content[0]")
    assert await served.refused(
        input=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    ) == (400, "unsupported_value", "input[1].content[0]")


async def test_a_failed_turn_is_told_and_not_kept(served: Served) -> None:
    served.backend.script = (TextDelta("a"), CliCrashedError("it died"))
    told = await served.stream()
    assert told[-1]["type"] == "response.failed"
    assert told[-1]["response"]["error"]["message"] == "it died"
    assert (await served.call("GET", f"/responses/{told[-1]['response']['id']}"))[0] == 404


async def test_a_client_that_leaves_stops_the_turn_and_nothing_is_kept(served: Served) -> None:
    served.backend.script = (TextDelta("a"), anyio.Event())
    body = {"model": "fake", "input": "hi", "stream": True}
    with anyio.fail_after(10):
        async with served.http.post(f"{served.url}{API}/responses", json=body) as response:
            await response.content.readline()
            created = json.loads((await response.content.readline()).removeprefix(b"data: "))
            response.close()
        await served.backend.left.wait()
    assert served.backend.running == 0
    assert (await served.call("GET", f"/responses/{created['response']['id']}"))[0] == 404


async def test_a_cut_answer_is_incomplete(served: Served) -> None:
    body = await served.ask(max_output_tokens=1)
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["output"][0]["content"][0]["text"] == "Hello"
    assert (await served.call("GET", f"/responses/{body['id']}"))[1] == body


async def test_a_store_that_fails_costs_no_answer(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    async with over(tmp_path / "folder") as served:
        body = await served.ask()
        assert body["store"] is False
        assert (await served.stream())[-1]["response"]["store"] is False
        assert await served.refused(previous_response_id="r") == (500, "internal_error", None)
        assert (await served.call("GET", f"/responses/{body['id']}"))[0] == 500


async def test_concurrent_responses_are_all_kept(served: Served) -> None:
    ids: list[str] = []

    async def one() -> None:
        ids.append((await served.ask())["id"])

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(one)
    for ident in ids:
        assert (await served.call("GET", f"/responses/{ident}"))[0] == 200


ROUTES: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "/models", None),
    ("GET", "/models/fake%2Fa", None),
    ("POST", "/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ("POST", "/completions", {"prompt": "hi"}),
    ("POST", "/responses", {"input": "hi"}),
]


@pytest.mark.parametrize("prefix", ["/v1", "/v1-openai"])
@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_every_route_has_its_aliases(
    served: Served, prefix: str, method: str, path: str, body: dict[str, Any] | None
) -> None:
    url = f"{served.url}{prefix}{path}"
    sent = None if body is None else {"model": "fake", **body}
    async with served.http.request(method, url, json=sent) as response:
        assert response.status == 200, await response.text()
