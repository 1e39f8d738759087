"""Images by address, from each dialect's request to the backend."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import anyio
import pytest

from clinvk.capabilities import Level
from clinvk.config import Config
from clinvk.server.app import create_app
from clinvk.turn import ImagePart, Message, Role, TextPart
from tests.fakes.backend import LiveBackend, builder, script_config
from tests.serving import serving
from tests.sites import HOST, Site
from tests.test_going_on import CALLED, MORE, SAID
from tests.test_media import PNG

SEEN = ImagePart(media_type="image/png", data=PNG)


@dataclass
class Served:
    """A server whose backend fetches no images, and a site that has some."""

    url: str
    backend: LiveBackend
    http: aiohttp.ClientSession
    site: Site

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        with anyio.fail_after(30):
            async with self.http.post(
                f"{self.url}{path}", json={"model": "fake", **body}
            ) as response:
                if response.content_type != "application/json":
                    return response.status, await response.text()
                return response.status, await response.json()

    async def chat(self, *messages: dict[str, Any], **fields: Any) -> tuple[int, Any]:
        return await self.post("/v1/chat/completions", {"messages": messages, **fields})

    @property
    def seen(self) -> tuple[Message, ...]:
        """The messages that the backend was last given."""
        return self.backend.turns[-1][0].messages


def with_fetch(**fields: Any) -> Config:
    config = script_config()
    fetch = config.server.fetch.model_copy(update={"allow_private": [HOST], **fields})
    return config.model_copy(update={"server": config.server.model_copy(update={"fetch": fetch})})


def backend(level: Level, *scripts: Any) -> LiveBackend:
    made = LiveBackend(*scripts)
    made.capabilities = replace(made.capabilities, image_urls=level)
    return made


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made = backend(Level.EMULATED, SAID, SAID, SAID)
    async with (
        Site().running() as site,
        serving(create_app(with_fetch(), build=builder(made))) as url,
        aiohttp.ClientSession() as http,
    ):
        yield Served(url, made, http, site)


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


@pytest.mark.parametrize("form", ["string", "object", "detail"])
async def test_a_chat_message_shows_it_in_any_form(served: Served, form: str) -> None:
    url = f"{served.site.url}/a.png"
    given = {"string": url, "object": {"url": url}, "detail": {"url": url, "detail": "low"}}[form]
    text = {"type": "text", "text": "see"}
    status, body = await served.chat(user(text, {"type": "image_url", "image_url": given}))
    assert (status, body["choices"][0]["message"]["content"]) == (200, "yes")
    assert served.seen == (Message(Role.USER, (TextPart("see"), SEEN)),)


async def test_a_tools_result_shows_it(served: Served) -> None:
    image = {"type": "image_url", "image_url": f"{served.site.url}/a.png"}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    result = {"role": "tool", "tool_call_id": "c", "content": [image]}
    status, _ = await served.chat(user(image), {"role": "assistant", "tool_calls": [call]}, result)
    assert status == 200
    assert [message.parts for message in served.seen] == [(SEEN,), (), (SEEN,)]
    assert len(served.site.asked) == 1


@pytest.mark.parametrize("form", ["string", "object", "detail"])
async def test_a_response_shows_it_in_any_form(served: Served, form: str) -> None:
    url = f"{served.site.url}/a.png"
    given: dict[str, Any] = {"image_url": {"url": url} if form == "object" else url}
    if form == "detail":
        given["detail"] = "high"
    asked = [{"role": "user", "content": [{"type": "input_image", **given}]}]
    status, body = await served.post("/v1/responses", {"input": asked})
    assert (status, served.seen) == (200, (Message(Role.USER, (SEEN,)),))
    async with served.http.get(f"{served.url}/v1/responses/{body['id']}/input_items") as response:
        (item,) = (await response.json())["data"]
    assert item["content"][0]["image_url"] == url


async def test_a_messages_request_shows_it(served: Served) -> None:
    source = {"type": "url", "url": f"{served.site.url}/a.png"}
    body = {"messages": [user({"type": "image", "source": source})], "max_tokens": 9}
    assert (await served.post("/anthropic/v1/messages", body))[0] == 200
    assert served.seen == (Message(Role.USER, (SEEN,)),)


@pytest.mark.parametrize("stream", [True, False])
async def test_one_that_cannot_be_had_is_a_400_by_its_place(served: Served, stream: bool) -> None:
    url = f"{served.site.url}/none"
    text = {"type": "text", "text": "see"}
    status, body = await served.chat(
        user(text), user(text, {"type": "image_url", "image_url": url}), stream=stream
    )
    assert (status, body["error"]["code"]) == (400, "invalid_value")
    assert body["error"]["param"] == "messages[1].content[1]"
    assert "status 404" in body["error"]["message"]
    asked = [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
    status, body = await served.post("/v1/responses", {"input": asked, "stream": stream})
    assert (status, body["error"]["param"]) == (400, "input[0].content[0]")
    assert served.backend.turns == []


async def test_a_client_that_leaves_stops_the_fetch(served: Served) -> None:
    image = {"type": "image_url", "image_url": f"{served.site.url}/hangs"}
    async with anyio.create_task_group() as group:
        group.start_soon(served.chat, user(image))
        with anyio.fail_after(30):
            await served.site.held.wait()
            group.cancel_scope.cancel()
    with anyio.fail_after(30):
        await served.site.gone.wait()


async def test_a_conversation_goes_on_with_an_image(served: Served) -> None:
    served.backend.scripts = [SAID, MORE, CALLED, MORE]
    url = f"{served.site.url}/a.png"
    history = [
        user({"type": "image_url", "image_url": url}),
        {"role": "assistant", "content": "yes"},
    ]
    assert (await served.chat(history[0]))[0] == 200
    assert (await served.chat(*history, user({"type": "image_url", "image_url": url})))[0] == 200
    assert served.backend.conversations[0].news == [(Message(Role.USER, (SEEN,)),)]
    assert len(served.backend.turns) == 1


async def test_what_a_conversation_cannot_go_on_with_is_named_by_its_place(served: Served) -> None:
    url = f"{served.site.url}/none"
    text = {"type": "text", "text": "see"}
    assert (await served.chat(user(text)))[0] == 200
    status, body = await served.chat(
        user(text),
        {"role": "assistant", "content": "yes"},
        user(text, {"type": "image_url", "image_url": url}),
    )
    assert (status, body["error"]["param"]) == (400, "messages[2].content[1]")


async def test_a_backend_that_fetches_gets_the_address() -> None:
    made = backend(Level.NATIVE, SAID)
    async with (
        Site().running() as site,
        serving(create_app(with_fetch(), build=builder(made))) as url,
        aiohttp.ClientSession() as http,
    ):
        served = Served(url, made, http, site)
        image = {"type": "image_url", "image_url": f"{site.url}/a.png"}
        assert (await served.chat(user(image)))[0] == 200
    assert served.seen == (Message(Role.USER, (ImagePart(url=f"{site.url}/a.png"),)),)
    assert site.asked == []


async def test_where_nothing_is_fetched_who_can_is_named() -> None:
    made = backend(Level.EMULATED, SAID)
    async with (
        Site().running() as site,
        serving(create_app(with_fetch(enabled=False), build=builder(made))) as url,
        aiohttp.ClientSession() as http,
    ):
        served = Served(url, made, http, site)
        image = {"type": "image_url", "image_url": f"{site.url}/a.png"}
        status, body = await served.chat(user(image))
        async with http.get(f"{url}/v1/models/fake") as response:
            assert (await response.json())["clinvk"]["image_urls"] == "no"
    assert (status, body["error"]["param"]) == (400, "messages[0].content[0]")
    assert "'fake' cannot take images by address; claude" in body["error"]["message"]
    assert site.asked == []
