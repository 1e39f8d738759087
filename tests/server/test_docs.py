"""The description of the API: valid, complete, true of what is served, and readable offline."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from clinvk.config import StoreConfig
from clinvk.events import Finished, FinishReason, ReasoningDelta, TextDelta, ToolCall, Usage
from clinvk.server import docs
from clinvk.server.app import OPENAI_ALIASES, create_app
from tests.fakes.backend import ScriptBackend, builder, script_config
from tests.serving import serving

HERE = Path(__file__).parent
UNDESCRIBED = {"/metrics", "/openapi.json", "/docs", "/anthropic", "/anthropic/"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return docs.openapi()


@pytest.fixture
def backend() -> ScriptBackend:
    return ScriptBackend()


@pytest.fixture
async def url(backend: ScriptBackend) -> AsyncIterator[str]:
    config = script_config()
    server = config.server.model_copy(update={"store": StoreConfig(path=":memory:")})
    config = config.model_copy(update={"server": server})
    async with serving(create_app(config, build=builder(backend))) as made:
        yield made


def checker(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)
    assert document["openapi"] == "3.1.0"


def test_every_route_is_described_and_nothing_else(document: dict[str, Any]) -> None:
    app = create_app(script_config())
    served = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    aliases = tuple(f"{alias}/" for alias in OPENAI_ALIASES)
    served = {
        (method, path)
        for method, path in served
        if not path.startswith(aliases) and path not in UNDESCRIBED
    }
    described = {(method, path) for path, has in document["paths"].items() for method in has}
    assert described == served


HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
REQUESTS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("get", "/openai/v1/models", None),
    ("get", "/openai/v1/models/{id}", None),
    (
        "post",
        "/openai/v1/chat/completions",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                {"role": "assistant", "content": None, "tool_calls": []},
            ],
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "stop": ["x"],
            "temperature": 1,
        },
    ),
    ("post", "/openai/v1/completions", {"prompt": ["a", "b"]}),
    (
        "post",
        "/openai/v1/responses",
        {
            "input": [
                *HI,
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "x"},
                {"type": "reasoning", "id": "r", "summary": []},
            ],
            "tools": [TOOL, {"type": "web_search"}],
            "tool_choice": {"type": "function", "name": "f"},
        },
    ),
    ("post", "/anthropic/v1/messages", {"messages": HI, "max_tokens": 9}),
    ("post", "/anthropic/v1/messages/count_tokens", {"messages": HI}),
    ("get", "/anthropic/v1/models", None),
    ("get", "/anthropic/v1/models/{id}", None),
    ("get", "/health", None),
]


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS, ids=lambda value: str(value)[:40])
async def test_real_requests_and_replies_are_as_described(
    document: dict[str, Any],
    url: str,
    backend: ScriptBackend,
    method: str,
    path: str,
    body: dict[str, Any] | None,
) -> None:
    said = (ReasoningDelta("Hm."), TextDelta("a"))
    backend.script = (*said, Usage(1, 1), Finished(FinishReason.STOP))
    if "tools" in (body or {}):
        call = ToolCall("c1", "f", "{}")
        backend.script = (*said, call, Usage(1, 1), Finished(FinishReason.TOOL_CALLS))
    described = document["paths"][path][method]
    sent = None
    if body is not None:
        sent = {"model": "fake", **body}
        schema = described["requestBody"]["content"]["application/json"]["schema"]
        checker(document, schema).validate(sent)
    async with aiohttp.ClientSession() as http:
        async with http.request(method, url + path.replace("{id}", "fake"), json=sent) as reply:
            assert reply.status == 200, await reply.text()
            told = await reply.json()
        schema = described["responses"]["200"]["content"]["application/json"]["schema"]
        checker(document, schema).validate(told)
        if method == "get" and "{id}" not in path:
            return
        wrong = "nope" if method == "get" else None
        address = url + path.replace("{id}", "nope")
        async with http.request(method, address, json=wrong) as reply:
            assert reply.status in (400, 404)
            failed = await reply.json()
        schema = described["responses"]["default"]["content"]["application/json"]["schema"]
        checker(document, schema).validate(failed)


async def test_what_is_asked_of_a_kept_response_is_as_described(
    document: dict[str, Any], url: str
) -> None:
    async with aiohttp.ClientSession() as http:
        asked = {"model": "fake", "input": "hi"}
        async with http.post(f"{url}/openai/v1/responses", json=asked) as reply:
            ident = (await reply.json())["id"]
        for method, rest in (("get", ""), ("get", "/input_items"), ("delete", "")):
            path = f"/openai/v1/responses/{{id}}{rest}"
            async with http.request(method, url + path.replace("{id}", ident)) as reply:
                assert reply.status == 200
                told = await reply.json()
            described = document["paths"][path][method]["responses"]["200"]
            checker(document, described["content"]["application/json"]["schema"]).validate(told)


def test_the_models_of_two_dialects_are_kept_apart(document: dict[str, Any]) -> None:
    names = document["components"]["schemas"].keys()
    assert names >= {"Chat.MessageIn", "Responses.MessageIn", "Anthropic.MessageIn"}


async def test_the_page_needs_no_other_host(url: str) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/docs") as reply:
        assert (reply.status, reply.content_type) == (200, "text/html")
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        page = await reply.text()
    assert not re.search(r"https?://|(src|href)=.//|@import|\burl\(", page)


async def test_the_page_shows_every_endpoint_and_field(url: str, tmp_path: Path) -> None:
    page, spec = tmp_path / "docs.html", tmp_path / "openapi.json"
    async with aiohttp.ClientSession() as http:
        for path, file in (("/docs", page), ("/openapi.json", spec)):
            async with http.get(url + path) as reply:
                await anyio.Path(file).write_bytes(await reply.read())
    with anyio.fail_after(30):
        done = await anyio.run_process(["node", HERE / "docs_page.mjs", page, spec])
    text = done.stdout.decode()
    for path in json.loads(await anyio.Path(spec).read_text())["paths"]:
        assert path in text
    assert "curl -X POST -H 'Content-Type: application/json' -d @request.json http://here" in text
    assert "curl -X POST -F model=MODEL -F image=@IMAGE -F prompt=PROMPT http://here" in text
    for field in ("previous_response_id", "max_completion_tokens", "stop_sequences", "has_more"):
        assert field in text
    assert "required" in text
