"""OpenAI's and Anthropic's clients, through clinvk, at servers that are not of these tests.

One is aimock, a server of its own with OpenAI's API; the other is clinvk itself, behind another.
"""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import anyio
import openai
import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from clinvk import config
from clinvk.server.app import create_app
from tests.fakes.api import Reply
from tests.real import upstream
from tests.real.bridge import bridge
from tests.real.conftest import cli
from tests.serving import API, serving
from tests.test_media import PNG
from tests.uploads import PDF

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

HERE = Path(__file__).parent
HUNG_S = 120
MODEL = "up/gpt-4o"
PDF_URL = f"data:application/pdf;base64,{base64.b64encode(PDF).decode()}"
HELLO = "Hello! How can I help you today?"
LOOK: Any = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}


@dataclass
class World:
    """A server, and clients of the clinvk before it."""

    upstream: str
    url: str
    openai: AsyncOpenAI
    anthropic: AsyncAnthropic

    async def journal(self) -> list[dict[str, Any]]:
        """What aimock was asked, the last one last."""
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{self.upstream}/v1/_requests") as response,
        ):
            found: list[dict[str, Any]] = await response.json()
            return found


@asynccontextmanager
async def before(base_url: str, **fields: Any) -> AsyncIterator[World]:
    backend = {"kind": "openai", "base_url": base_url, "api_key": "sk-up", **fields}
    with TemporaryDirectory() as folder:
        server = {"store": {"path": ":memory:"}, "files": {"path": folder}}
        text = json.dumps({"server": server, "backends": {"up": backend}})
        app = create_app(config.parse(text, name="t", env={}))
        async with (
            serving(app) as url,
            AsyncOpenAI(base_url=url + API, api_key="unused", max_retries=0) as client,
            AsyncAnthropic(base_url=f"{url}/anthropic", api_key="unused", max_retries=0) as other,
        ):
            yield World(base_url.removesuffix("/v1"), url, client, other)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def aimock() -> AsyncIterator[str]:
    command = [cli("llmock"), "--port", "0", "--fixtures", str(HERE / "aimock.json")]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdout is not None
        said = b""
        with anyio.fail_after(HUNG_S):
            while b"listening on http" not in said or not said.endswith(b"\n"):
                said += await process.stdout.receive()
        try:
            yield said.decode().split("listening on ")[1].split()[0]
        finally:
            process.terminate()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(aimock: str) -> AsyncIterator[World]:
    async with before(f"{aimock}/v1") as made:
        yield made


async def test_a_chat_passes_with_every_parameter(world: World) -> None:
    raw = await world.openai.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": "hello"}],
        temperature=0.3,
        seed=7,
        extra_body={"top_k": 3},
    )
    assert raw.headers["x-clinvk-turn"] == "relayed"
    assert raw.parse().choices[0].message.content == HELLO
    sent = (await world.journal())[-1]["body"]
    assert (sent["model"], sent["temperature"], sent["seed"], sent["top_k"]) == (
        "gpt-4o",
        0.3,
        7,
        3,
    )


async def test_a_stream_passes_with_its_usage(world: World) -> None:
    stream = await world.openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "hello"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    said = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert "".join(said) == HELLO
    assert len(said) > 1
    assert chunks[-1].usage is not None


async def test_tools_go_round(world: World) -> None:
    messages: list[Any] = [{"role": "user", "content": "look"}]
    first = await world.openai.chat.completions.create(model=MODEL, messages=messages, tools=[LOOK])
    message = first.choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "calm"}]
    second = await world.openai.chat.completions.create(
        model=MODEL, messages=messages, tools=[LOOK]
    )
    assert second.choices[0].message.content == "The sea is calm."


async def test_an_error_passes_as_it_is(world: World) -> None:
    with pytest.raises(openai.RateLimitError, match=r"Slow down\.") as caught:
        await world.openai.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "too much"}]
        )
    headers = caught.value.response.headers
    assert (headers["retry-after"], headers["x-ratelimit-limit-requests"]) == ("1", "60")
    assert caught.value.code == "rate_limit_exceeded"


async def test_a_responses_client_is_answered_by_way_of_chat(world: World) -> None:
    tool: Any = {"type": "function", "parameters": {}, "strict": False, "name": "look"}
    first = await world.openai.responses.create(model=MODEL, input="look", tools=[tool])
    (call,) = (item for item in first.output if item.type == "function_call")
    assert (call.name, json.loads(call.arguments)) == ("look", {"at": "sea"})
    second = await world.openai.responses.create(
        model=MODEL,
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "calm"}],
        tools=[tool],
    )
    assert second.output_text == "The sea is calm."
    assert (await world.journal())[-1]["path"] == "/v1/chat/completions"


async def test_an_anthropic_client_is_answered_by_way_of_chat(world: World) -> None:
    async with world.anthropic.messages.stream(
        model=MODEL,
        max_tokens=2000,
        extra_body={"temperature": 1},
        thinking={"type": "enabled", "budget_tokens": 1024},
        messages=[{"role": "user", "content": "think"}],
    ) as stream:
        message = await stream.get_final_message()
    thought, said = message.content
    assert thought.type == "thinking"
    assert said.type == "text"
    assert (thought.thinking, said.text) == ("Let me see.", "Thought.")
    sent = (await world.journal())[-1]["body"]
    assert (sent["temperature"], sent["max_completion_tokens"]) == (1, 2000)
    with pytest.raises(Exception, match="Slow down") as caught:
        await world.anthropic.messages.create(
            model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "too much"}]
        )
    assert type(caught.value).__name__ == "RateLimitError"


async def test_every_other_endpoint_passes(world: World, tmp_path: Path) -> None:
    client, model = world.openai, MODEL
    sound = tmp_path / "speech.wav"
    sound.write_bytes(bytes(3_000_000))
    vectors = await client.embeddings.create(model=model, input="vector")
    assert vectors.data[0].embedding == [0.5, 0.25, -1]
    tokens = await client.embeddings.create(model=model, input=[[1, 2], [3]], dimensions=4)
    assert [len(row.embedding) for row in tokens.data] == [4, 4]
    assert not (await client.moderations.create(model=model, input="peace")).results[0].flagged
    images = await client.images.generate(model=model, prompt="a guinea pig")
    edited = await client.images.edit(model=model, prompt="a guinea pig", image=("a.png", b"png"))
    assert images.data is not None
    assert edited.data is not None
    assert (images.data[0].b64_json, edited.data[0].b64_json) == ("aW1n", "aW1n")
    async with client.audio.speech.with_streaming_response.create(
        model=model, input="say it", voice="alloy"
    ) as speech:
        assert await speech.read() == b"RIFF"
    heard = await client.audio.transcriptions.create(model=model, file=sound)
    with pytest.warns(DeprecationWarning, match="deprecated"):
        translated = await client.audio.translations.create(model=model, file=sound)
    assert (heard.text, translated.text) == ("heard", "translated")


async def test_a_file_that_is_kept_here_is_sent_to_the_upstream(world: World) -> None:
    file = await world.openai.files.create(file=("a.pdf", PDF), purpose="user_data")
    sent = {"filename": "a.pdf", "file_data": PDF_URL}
    hello: Any = {"type": "text", "text": "hello"}
    raw = await world.openai.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[
            {
                "role": "user",
                "content": [hello, {"type": "file", "file": {"file_id": file.id}}],
            }
        ],
    )
    assert raw.headers["x-clinvk-turn"] == "relayed"
    assert raw.parse().choices[0].message.content == HELLO
    given = [hello, {"type": "file", "file": sent}]
    assert (await world.journal())[-1]["body"]["messages"][0]["content"] == given
    response = await world.openai.responses.create(
        model=MODEL,
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "hello"},
                    {"type": "input_file", "file_id": file.id},
                ],
            }
        ],
    )
    assert response.output_text == HELLO
    assert (await world.journal())[-1]["body"]["messages"][0]["content"] == given


async def test_the_node_client_uses_every_endpoint(world: World) -> None:
    with anyio.fail_after(HUNG_S):
        done = await anyio.run_process(
            ["node", HERE / "openai_endpoints_client.mjs", world.url + API, "up"], cwd=HERE
        )
    assert json.loads(done.stdout) == {
        "chat": HELLO,
        "streamed": HELLO,
        "response": HELLO,
        "embedding": [0.5, 0.25, -1],
        "flagged": False,
        "image": "aW1n",
        "edited": "aW1n",
        "said": "RIFF",
        "heard": "heard",
        "translated": "translated",
        "file": ["a.pdf", HELLO, True],
        "error": {
            "name": "RateLimitError",
            "status": 429,
            "code": "rate_limit_exceeded",
            "retryAfter": "1",
        },
    }


async def test_clinvk_is_an_upstream_of_clinvk(home: Path) -> None:
    async with bridge("claude", home, server={"store": {"path": ":memory:"}}) as inner:
        async with before(inner.url, endpoints=["chat/completions", "responses"]) as outer:
            picture = {"url": f"data:image/png;base64,{PNG}"}
            seen: list[Any] = [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": picture},
            ]
            chat = await outer.openai.chat.completions.create(
                model="up/claude", messages=[{"role": "user", "content": seen}]
            )
            assert chat.choices[0].message.content == "Hello from the fake."
            assert PNG in set(upstream.leaves(inner.fake.requests[-1].body))

            inner.fake.answer(Reply(text=(), tool_calls=(("look", {"at": "sea"}),)), Reply())
            messages: list[Any] = [{"role": "user", "content": "look"}]
            first = await outer.openai.chat.completions.create(
                model="up/claude", messages=messages, tools=[LOOK]
            )
            assert first.choices[0].finish_reason == "tool_calls"

            inner.fake.answer(Reply())
            file = await outer.openai.files.create(file=("a.pdf", PDF), purpose="user_data")
            read: Any = [{"type": "input_file", "file_id": file.id}]
            kept = await outer.openai.responses.create(
                model="up/claude", input=[{"role": "user", "content": read}]
            )
            data = base64.b64encode(PDF).decode()
            assert data in set(upstream.leaves(inner.fake.requests[-1].body))
            after = await outer.openai.responses.create(
                model="up/claude", input="two", previous_response_id=kept.id
            )
            assert after.output_text == "Hello from the fake."
            message = await outer.anthropic.messages.create(
                model="up/claude", max_tokens=99, messages=[{"role": "user", "content": "hi"}]
            )
            assert message.content[0].type == "text"
            assert message.usage.output_tokens == 7
            with pytest.raises(openai.BadRequestError) as caught:
                await outer.openai.chat.completions.create(
                    model="up/claude", messages=[{"role": "user", "content": " "}]
                )
            assert caught.value.param == "messages[0].content"
        assert inner.courses[0] == "new"
