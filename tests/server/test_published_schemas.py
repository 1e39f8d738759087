"""Whatever goes wrong before a turn, the reply is the vendor's error by its published schema."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from clinvk.config import ServerConfig
from clinvk.server.app import create_app
from tests.fakes.backend import ScriptBackend, builder, script_config
from tests.published import check
from tests.serving import serving

HI: list[Any] = [{"role": "user", "content": "hi"}]
OPENAI = ("/openai/v1", "/v1", "/v1-openai")
MISTAKES: list[tuple[str, str, Any, int]] = [
    ("POST", "/chat/completions", {"model": "fake"}, 400),
    ("POST", "/chat/completions", {"model": "nope", "messages": HI}, 404),
    ("POST", "/chat/completions", {"model": "fake", "messages": HI, "n": "x", "stream": True}, 400),
    ("POST", "/chat/completions", [], 400),
    ("POST", "/chat/completions", "x" * 600_000, 413),
    ("POST", "/completions", {"model": "fake", "prompt": [1, 2]}, 400),
    ("POST", "/responses", {"model": "fake", "input": "hi", "previous_response_id": "r"}, 400),
    ("GET", "/responses/r", None, 404),
    ("DELETE", "/responses/r", None, 404),
    ("GET", "/models/nope", None, 404),
    ("GET", "/nowhere", None, 404),
    ("GET", "/chat/completions", None, 405),
]
ANTHROPIC: list[tuple[str, str, Any, int]] = [
    ("POST", "/messages", {"model": "fake", "messages": HI}, 400),
    ("POST", "/messages", {"model": "nope", "messages": HI, "max_tokens": 1}, 404),
    ("POST", "/messages/count_tokens", {}, 400),
    ("GET", "/models/nope", None, 404),
    ("GET", "/nowhere", None, 404),
    ("GET", "/messages", None, 405),
]


@pytest.fixture
async def url() -> AsyncIterator[str]:
    server = ServerConfig.model_validate({"max_body_mb": 0.5, "store": {"path": ":memory:"}})
    config = script_config().model_copy(update={"server": server})
    async with serving(create_app(config, build=builder(ScriptBackend()))) as made:
        yield made


async def failure(url: str, method: str, body: Any, status: int) -> Any:
    async with aiohttp.ClientSession() as http, http.request(method, url, json=body) as reply:
        assert (reply.status, reply.content_type) == (status, "application/json")
        return await reply.json()


@pytest.mark.parametrize(("method", "path", "body", "status"), MISTAKES)
async def test_a_mistake_is_an_error_of_openais(
    url: str, method: str, path: str, body: Any, status: int
) -> None:
    for prefix in OPENAI:
        told = await failure(url + prefix + path, method, body, status)
        check("openai", "ErrorResponse", told)


@pytest.mark.parametrize(("method", "path", "body", "status"), ANTHROPIC)
async def test_a_mistake_is_an_error_of_anthropics(
    url: str, method: str, path: str, body: Any, status: int
) -> None:
    told = await failure(f"{url}/anthropic/v1{path}", method, body, status)
    check("anthropic", "ErrorResponse", told)
    assert told["request_id"].startswith("req_")
