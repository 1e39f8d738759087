"""LLMock as an upstream: a server of its own with OpenAI's API, that breaks on demand.

It judges its client, too: whether it waited as long as it was asked to, repeated what it must not,
or took half an answer for a whole one.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import openai
import pytest
import pytest_asyncio
from anthropic import APIStatusError

from tests.real.test_upstreams import World, before

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

HERE = Path(__file__).parent
PROGRAM = HERE / ".venv/bin/llmock"
HUNG_S = 120
MODEL = "up/gpt-4o"
ASKED: list[Any] = [{"role": "user", "content": "look at the sea"}]
PARAMETERS = {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}
TOOL: Any = {"type": "function", "function": {"name": "look", "parameters": PARAMETERS}}


@dataclass
class Mock:
    """A running LLMock."""

    url: str
    http: aiohttp.ClientSession

    async def post(self, path: str, body: Any = None) -> Any:
        async with self.http.post(f"{self.url}/_llmock/{path}", json=body) as response:
            assert response.ok, await response.text()
            return await response.json()

    async def does(self, **behaviour: Any) -> None:
        """Have it behave so with the next request, and forget what was before."""
        await self.post("reset")
        await self.post("scenario", {"behaviors": [behaviour]})

    async def faults(self) -> list[str]:
        """What it says that its client did wrong."""
        async with self.http.get(f"{self.url}/_llmock/verdict") as response:
            return [each["code"] for each in (await response.json())["findings"]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mock() -> AsyncIterator[Mock]:
    assert PROGRAM.exists(), "llmock is missing: run `make test`, which installs it"
    command = [str(PROGRAM), "serve", "--port", "0", "--rpm", "100000"]
    async with await anyio.open_process(command, stdout=None) as process:
        assert process.stderr is not None
        said = b""
        with anyio.fail_after(HUNG_S):
            while b"running on http" not in said or not said.endswith(b"\n"):
                said += await process.stderr.receive()
        try:
            async with aiohttp.ClientSession() as http:
                yield Mock(said.decode().split("running on ")[1].split()[0], http)
        finally:
            process.terminate()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(mock: Mock) -> AsyncIterator[World]:
    async with before(f"{mock.url}/v1") as made:
        yield made


async def told(world: World, way: str) -> str:
    """Ask for a stream by a client of one API, and return the whole text."""
    if way == "chat":
        chunks = await world.openai.chat.completions.create(
            model=MODEL, messages=ASKED, stream=True
        )
        return "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])
    if way == "responses":
        async with world.openai.responses.stream(model=MODEL, input="look at the sea") as events:
            return (await events.get_final_response()).output_text
    async with world.anthropic.messages.stream(
        model=MODEL, max_tokens=99, messages=ASKED
    ) as stream:
        return await stream.get_final_text()


WAYS = ["chat", "responses", "anthropic"]


@pytest.mark.parametrize("way", WAYS)
async def test_who_asks_for_a_wait_is_given_it(way: str, world: World, mock: Mock) -> None:
    await mock.does(type="fail", status=503, retry_after=0.6, times=2)
    assert "sea" in await told(world, way)
    assert await mock.faults() == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429])
async def test_what_must_not_be_repeated_is_not(
    way: str, status: int, world: World, mock: Mock
) -> None:
    await mock.does(type="fail", status=status, times=None)
    with pytest.raises((openai.APIStatusError, APIStatusError)):
        await told(world, way)
    async with mock.http.get(f"{mock.url}/_llmock/requests") as response:
        assert len((await response.json())["requests"]) == 1
    assert "retried_non_retryable" not in await mock.faults()


@pytest.mark.parametrize("way", ["responses", "anthropic"])
@pytest.mark.parametrize("kind", ["disconnect", "truncate", "malformed"])
async def test_half_an_answer_is_told_as_a_failure(
    way: str, kind: str, world: World, mock: Mock
) -> None:
    await mock.does(type="stream_fault", kind=kind, after_chunks=3)
    with pytest.raises((openai.APIError, APIStatusError, RuntimeError)):
        await told(world, way)


async def test_a_relayed_stream_breaks_off_where_the_upstream_does(
    world: World, mock: Mock
) -> None:
    await mock.does(type="stream_fault", kind="disconnect", after_chunks=3)
    with pytest.raises(openai.APIConnectionError):
        await told(world, "chat")


async def test_both_clients_use_what_it_has(mock: Mock) -> None:
    await mock.post("reset")
    endpoints = ["chat/completions", "responses", "embeddings", "images/generations"]
    async with before(f"{mock.url}/v1/", endpoints=endpoints) as world:
        client = world.openai
        listed = [model.id async for model in client.models.list()]
        assert {MODEL, "up/text-embedding-3-small"} <= set(listed)
        raw = await client.chat.completions.with_raw_response.create(model=MODEL, messages=ASKED)
        assert raw.headers["x-ratelimit-limit-requests"] == "100000"
        assert "sea" in (raw.parse().choices[0].message.content or "")
        first = await client.chat.completions.create(
            model=MODEL, messages=ASKED, tools=[TOOL], tool_choice="required"
        )
        assert first.choices[0].message.tool_calls is not None
        (call,) = first.choices[0].message.tool_calls
        assert call.type == "function"
        assert call.function.name == "look"
        response = await client.responses.create(model=MODEL, input="hello")
        assert "hello" in response.output_text
        vectors = await client.embeddings.create(model=MODEL, input=["a", "b"], dimensions=8)
        assert len(vectors.data) == 2
        picture = await client.images.generate(model=MODEL, prompt="a guinea pig")
        assert picture.data is not None
        with anyio.fail_after(HUNG_S):
            done = await anyio.run_process(
                ["node", HERE / "openai_upstream_client.mjs", str(client.base_url), MODEL], cwd=HERE
            )
    seen = json.loads(done.stdout)
    assert "sea" in seen.pop("chat")
    assert seen == {
        "listed": True,
        "model": MODEL,
        "limit": "100000",
        "called": ["look", ["at"]],
        "last": "response.completed",
        "vectors": [1536, 1536],
        "picture": True,
    }
