"""The real openai and anthropic packages against a server whose callers need keys."""

from collections.abc import AsyncIterator

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from clinvk.server.anthropic import PREFIX
from tests.keyed import KEYS, Served, as_, entry, keyed, over
from tests.serving import API


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    alice = entry("alice", models=["fake"])
    async with over(keyed(alice, entry("bob", requests_per_minute=1))) as made:
        yield made


def openai_with(served: Served, key: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=served.url + API, api_key=key, max_retries=0)


def anthropic_with(served: Served, key: str) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=served.url + PREFIX, api_key=key, max_retries=0)


async def complete(client: AsyncOpenAI, model: str = "fake") -> str | None:
    done = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "hi"}]
    )
    return done.choices[0].message.content


async def message(client: AsyncAnthropic, model: str = "fake") -> str:
    done = await client.messages.create(
        model=model, max_tokens=100, messages=[{"role": "user", "content": "hi"}]
    )
    assert done.content[0].type == "text"
    return done.content[0].text


async def test_a_valid_key_is_all_that_a_client_needs(served: Served) -> None:
    async with openai_with(served, KEYS["alice"]) as client:
        assert await complete(client) == "Hello world"
        response = await client.responses.create(model="fake", input="hi")
        assert (await client.responses.retrieve(response.id)).output_text == "Hello world"
        assert [model.id async for model in client.models.list()] == ["fake", "short"]
    async with anthropic_with(served, KEYS["alice"]) as claude:
        assert await message(claude) == "Hello world"
        assert [model.id async for model in claude.models.list()] == ["fake", "short"]
    token = AsyncAnthropic(base_url=served.url + PREFIX, auth_token=KEYS["alice"], max_retries=0)
    async with token as claude:
        assert await message(claude) == "Hello world"


async def test_a_wrong_key_is_the_clients_own_error_and_is_not_retried(served: Served) -> None:
    async with openai_with(served, "sk-wrong").with_options(max_retries=5) as client:
        with pytest.raises(openai.AuthenticationError) as wrong:
            await complete(client)
        assert (wrong.value.status_code, wrong.value.code) == (401, "invalid_api_key")
        assert wrong.value.request_id is not None
    async with anthropic_with(served, "sk-wrong").with_options(max_retries=5) as claude:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            await message(claude)
        assert refused.value.request_id is not None
    assert served.backend.turns == []


async def test_a_model_that_a_key_is_not_for_is_a_permission_error(served: Served) -> None:
    async with openai_with(served, KEYS["alice"]) as client:
        with pytest.raises(openai.PermissionDeniedError, match="not for the model 'fake/big'"):
            await complete(client, "fake/big")
    async with anthropic_with(served, KEYS["alice"]) as claude:
        with pytest.raises(anthropic.PermissionDeniedError, match="not for the model 'fake/big'"):
            await message(claude, "fake/big")


async def test_a_limit_that_is_reached_is_a_rate_limit_error(served: Served) -> None:
    async with openai_with(served, KEYS["bob"]) as client:
        assert await complete(client) == "Hello world"
        with pytest.raises(openai.RateLimitError) as limited:
            await complete(client)
        assert 1 <= int(limited.value.response.headers["retry-after"]) <= 60
    async with anthropic_with(served, KEYS["bob"]) as claude:
        with pytest.raises(anthropic.RateLimitError):
            await message(claude)


async def test_another_callers_response_is_not_found(served: Served) -> None:
    async with openai_with(served, KEYS["alice"]) as client:
        mine = await client.responses.create(model="fake", input="hi")
    async with served.http.get(
        f"{served.url}{API}/responses/{mine.id}", headers=as_("bob")
    ) as response:
        assert response.status == 404
