"""The real openai package, sync and async, against a served clinvk."""

from collections.abc import AsyncIterator

import anyio
import openai
import pytest
from openai import AsyncOpenAI

from clinvk.errors import CliCrashedError, NotLoggedInError, RateLimitedError
from clinvk.events import Finished, FinishReason, ReasoningDelta, TextDelta, Usage
from clinvk.server.app import create_app
from tests.fakes.backend import ScriptBackend, builder, script_config
from tests.serving import API, serving


@pytest.fixture
def backend() -> ScriptBackend:
    return ScriptBackend()


@pytest.fixture
async def client(backend: ScriptBackend) -> AsyncIterator[AsyncOpenAI]:
    async with (
        serving(create_app(script_config(), build=builder(backend))) as url,
        AsyncOpenAI(base_url=url + API, api_key="unused", max_retries=2) as client,
    ):
        yield client


async def test_a_completion(client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "hi"}]
    )
    choice = completion.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Hello world", "stop")
    assert completion.usage is not None
    assert completion.usage.total_tokens == 7
    assert completion._request_id is not None


async def test_a_stream_with_usage(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="fake",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello world"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens_details is not None
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 3


async def test_the_stream_helper_builds_the_whole_completion(
    client: AsyncOpenAI, backend: ScriptBackend
) -> None:
    backend.script = (
        ReasoningDelta("hm"),
        TextDelta("a"),
        TextDelta("b"),
        Usage(1, 1),
        Finished(FinishReason.LENGTH),
    )
    async with client.chat.completions.stream(
        model="fake", messages=[{"role": "user", "content": "hi"}]
    ) as stream:
        await stream.until_done()
        completion = stream.current_completion_snapshot
    assert completion.choices[0].message.content == "ab"
    assert completion.choices[0].finish_reason == "length"


async def test_several_choices(client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "hi"}], n=3
    )
    assert [c.index for c in completion.choices] == [0, 1, 2]


async def test_the_models(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["fake", "short"]
    assert (await client.models.retrieve("fake/a/b")).id == "fake/a/b"


async def test_a_mistake_is_the_clients_own_exception(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="fake", messages=[])
    assert caught.value.param == "messages"
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(
            model="nope", messages=[{"role": "user", "content": "hi"}]
        )
    assert missing.value.code == "model_not_found"
    assert missing.value.request_id is not None


async def test_a_lasting_failure_is_not_retried(
    client: AsyncOpenAI, backend: ScriptBackend
) -> None:
    backend.script = (NotLoggedInError("log in"),)
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(
            model="fake", messages=[{"role": "user", "content": "hi"}]
        )
    assert len(backend.turns) == 1


async def test_a_passing_failure_is_retried_by_the_client(
    client: AsyncOpenAI, backend: ScriptBackend
) -> None:
    backend.script = (RateLimitedError("slow down", retry_after_s=0.1),)
    with pytest.raises(openai.RateLimitError):
        await client.with_options(max_retries=1).chat.completions.create(
            model="fake", messages=[{"role": "user", "content": "hi"}]
        )
    assert len(backend.turns) == 2


async def test_a_failure_in_the_stream_raises(client: AsyncOpenAI, backend: ScriptBackend) -> None:
    backend.script = (TextDelta("a"), CliCrashedError("it died"))
    stream = await client.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    with pytest.raises(openai.APIError, match="it died"):
        _ = [chunk async for chunk in stream]


async def test_closing_the_stream_stops_the_turn(
    client: AsyncOpenAI, backend: ScriptBackend
) -> None:
    backend.script = (TextDelta("a"), anyio.Event())
    stream = await client.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    with anyio.fail_after(5):
        await anext(aiter(stream))
        await stream.close()
        await backend.left.wait()
    assert backend.running == 0
