"""Requests that pass to an upstream of the same API, and what passes back."""

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web

from clinvk import config
from clinvk.server import handlers
from clinvk.server.app import create_app
from tests.fakes.raw import Answer, RawUpstream
from tests.keyed import as_
from tests.keyed import entry as key
from tests.serving import API, serving

HUNG_S = 30
BODY = (
    '{"model": "up/m",\n "messages":[{"role":"user","content":"h\\u0069"}], '
    '"temperature": 1.50, "x_new": []}'
)
SENT = BODY.replace("up/m", "m").encode()
STREAM = {"Content-Type": "text/event-stream"}


class World:
    """A clinvk before one upstream."""

    def __init__(self, up: RawUpstream, app: web.Application, url: str) -> None:
        self.up = up
        self.app = app
        self.url = url
        self.http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HUNG_S))

    def post(self, path: str = "chat/completions", body: Any = BODY, **headers: str) -> Any:
        sent = {"Content-Type": "application/json", **headers}
        return self.http.post(f"{self.url}{API}/{path}", data=body, headers=sent)


def settings(up: RawUpstream, server: dict[str, Any] | None = None, **fields: Any) -> config.Config:
    backends = {
        "up": {"kind": "openai", "base_url": up.url, "api_key": "sk-up", **fields},
        "echo": {"kind": "echo"},
    }
    text = json.dumps(
        {"server": {"store": {"path": ":memory:"}, **(server or {})}, "backends": backends}
    )
    return config.parse(text, name="t", env={})


@pytest.fixture
async def up() -> AsyncIterator[RawUpstream]:
    async with RawUpstream().running() as up:
        yield up


async def served(config: config.Config, up: RawUpstream) -> AsyncIterator[World]:
    app = create_app(config)
    async with serving(app) as url:
        world = World(up, app, url)
        yield world
        await world.http.close()


@pytest.fixture
async def world(up: RawUpstream, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    fields = getattr(request, "param", {})
    async for each in served(settings(up, **fields), up):
        yield each


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
async def test_bytes_pass_both_ways_but_for_the_model(path: str, world: World) -> None:
    world.up.answer = Answer(pieces=(b'{"b": 1,  ', b'"a": 0.10}\n'))
    async with world.post(path) as response:
        assert (response.status, await response.read()) == (200, b'{"b": 1,  "a": 0.10}\n')
        assert response.headers["x-clinvk-backend"] == "up"
        assert response.headers["x-clinvk-turn"] == "relayed"
        assert response.headers["x-request-id"].startswith("req_")
    (asked,) = world.up.asked
    assert (asked.path, asked.body) == (path, SENT)


async def test_a_stream_passes_as_it_comes(world: World) -> None:
    world.up.answer = Answer(headers=STREAM, pieces=(b"data: 1\n\n", b"data: 2\n\n"), hold=True)
    async with world.post() as response:
        assert await response.content.readany() == b"data: 1\n\n"
        world.up.release.set()
        assert await response.content.read() == b"data: 2\n\n"
        assert response.content_type == "text/event-stream"


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
async def test_errors_and_limits_pass_as_they_are(status: int, world: World) -> None:
    limits = {
        "Content-Type": "application/json",
        "Retry-After": "7",
        "x-ratelimit-remaining-requests": "0",
        "x-request-id": "theirs",
        "Set-Cookie": "a=b",
        "Connection": "x-hop",
        "x-hop": "1",
    }
    world.up.answer = Answer(status, limits, (b'{"error": {"message": "no"}}',))
    async with world.post() as response:
        assert response.status == status
        assert await response.read() == b'{"error": {"message": "no"}}'
        assert response.headers["Retry-After"] == "7"
        assert response.headers["x-ratelimit-remaining-requests"] == "0"
        assert response.headers["x-upstream-request-id"] == "theirs"
        assert not {"Set-Cookie", "x-hop"} & set(response.headers)


async def test_headers_pass_that_are_for_the_upstream_and_no_others(world: World) -> None:
    mine = {
        "Authorization": "Bearer sk-mine",
        "X-Api-Key": "sk-mine",
        "Cookie": "a=b",
        "X-Internal": "secret",
        "OpenAI-Organization": "org",
        "OpenAI-Beta": "new=1",
        "X-Stainless-Lang": "python",
        "Idempotency-Key": "once",
        "Connection": "keep-alive, te",
    }
    async with world.post(**mine) as response:
        assert response.status == 200
    sent = world.up.asked[0].headers
    assert sent["Authorization"] == "Bearer sk-up"
    assert (sent["OpenAI-Beta"], sent["X-Stainless-Lang"]) == ("new=1", "python")
    assert sent["Idempotency-Key"] == "once"
    assert not {"X-Api-Key", "Cookie", "X-Internal", "OpenAI-Organization", "TE"} & set(sent)


@pytest.mark.parametrize("world", [{"forward_key": True}], indirect=True)
async def test_the_callers_key_passes_where_that_is_configured(world: World) -> None:
    async with world.post(Authorization="Bearer sk-mine", **{"OpenAI-Organization": "org"}):
        pass
    async with world.post():
        pass
    first, second = (asked.headers for asked in world.up.asked)
    assert (first["Authorization"], first["OpenAI-Organization"]) == ("Bearer sk-mine", "org")
    assert second["Authorization"] == "Bearer sk-up"


async def test_a_key_of_clinvk_never_passes(up: RawUpstream) -> None:
    server = {"api_keys": [key("alice").model_dump(exclude_defaults=True)]}
    async for world in served(settings(up, server, forward_key=True), up):
        async with world.post(**as_("alice")) as response:
            assert response.status == 200
        async with world.post(**as_("alice"), **{"X-Api-Key": "sk-mine"}):
            pass
        async with world.post() as response:
            assert response.status == 401
    assert [a.headers["Authorization"] for a in up.asked] == ["Bearer sk-up", "Bearer sk-mine"]


async def test_the_limits_of_a_key_hold(up: RawUpstream) -> None:
    limited = key("alice", models=["up/m"], max_turns=1).model_dump(exclude_defaults=True)
    async for world in served(settings(up, {"api_keys": [limited]}), up):
        async with world.post(body=BODY.replace("up/m", "up/x"), **as_("alice")) as response:
            assert response.status == 403
        up.answer = Answer(headers=STREAM, pieces=(b"data: 1\n\n", b"data: 2\n\n"), hold=True)
        async with world.post(**as_("alice")) as response:
            await response.content.readany()
            async with world.post(**as_("alice")) as second:
                assert second.status == 429
            up.release.set()
            await response.read()
        async with world.post(**as_("alice")) as response:
            assert response.status == 200


@pytest.mark.parametrize("world", [{"max_concurrency": 1, "max_queue": 0}], indirect=True)
async def test_there_are_no_more_places_than_for_turns(world: World) -> None:
    world.up.answer = Answer(headers=STREAM, pieces=(b"data: 1\n\n", b"data: 2\n\n"), hold=True)
    async with world.post() as response:
        await response.content.readany()
        async with world.post() as second:
            assert (second.status, (await second.json())["error"]["code"]) == (429, "server_busy")
        assert world.app[handlers.SERVICE].load()["up"].running == 1
        world.up.release.set()
        await response.read()
    while world.app[handlers.SERVICE].load()["up"].running:
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("world", [{"max_concurrency": 1, "queue_s": 0.05}], indirect=True)
async def test_the_wait_for_a_place_has_an_end(world: World) -> None:
    world.up.answer = Answer(headers=STREAM, pieces=(b"data: 1\n\n", b"data: 2\n\n"), hold=True)
    async with world.post() as response:
        await response.content.readany()
        async with world.post() as second:
            assert (second.status, "queue_s" in await second.text()) == (429, True)


@pytest.mark.parametrize("world", [{"timeout_s": 0.2}, {"silence_s": 0.2}], indirect=True)
async def test_a_request_has_its_time(world: World) -> None:
    world.up.answer = Answer(headers=STREAM, pieces=(b"data: 1\n\n", b"data: 2\n\n"), hold=True)
    async with world.post() as response:
        assert await response.content.readany() == b"data: 1\n\n"
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    while world.up.open:
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("world", [{"first_s": 0.2}], indirect=True)
async def test_a_stream_that_does_not_begin_is_an_error_and_a_long_answer_is_none(
    world: World,
) -> None:
    world.up.answer = Answer(headers=STREAM, hold=True, late=True)
    async with world.post(body=BODY[:-1] + ', "stream": true}') as response:
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (504, "timeout")
    assert "the upstream did not begin for 0.2 s; raise first_s of backend 'up'" in error["message"]
    async with anyio.create_task_group() as group:
        group.start_soon(_release_later, world)
        async with world.post() as response:
            assert response.status == 200


async def _release_later(world: World) -> None:
    while len(world.up.asked) < 2:  # noqa: ASYNC110 - a request has no event
        await anyio.sleep(0.01)
    await anyio.sleep(0.3)  # longer than a stream may take to begin
    world.up.release.set()


@pytest.mark.parametrize("world", [{"silence_s": 1.5}], indirect=True)
async def test_a_reply_may_last_longer_than_a_silence(world: World) -> None:
    world.up.answer = Answer(headers=STREAM, pieces=(b"data: 1\n\n",) * 6, pace_s=0.4)
    async with world.post() as response:
        assert await response.read() == b"data: 1\n\n" * 6


async def test_a_client_that_leaves_ends_the_request(world: World) -> None:
    world.up.answer = Answer(headers=STREAM, pieces=(b"data: 1\n\n", b"data: 2\n\n"), hold=True)
    async with world.post() as response:
        await response.content.readany()
        response.close()
    while world.up.open:
        await anyio.lowlevel.checkpoint()
    assert world.up.aborted == 1


async def test_an_upstream_that_breaks_off_gives_no_whole_answer(world: World) -> None:
    world.up.answer = Answer(headers=STREAM, pieces=(b"data: 1\n\n", b""), hold=True, cut=True)
    async with world.post() as response:
        assert await response.content.readany() == b"data: 1\n\n"
        world.up.release.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_an_upstream_that_is_not_there_is_an_error_of_the_dialect(up: RawUpstream) -> None:
    gone = settings(up, base_url="http://127.0.0.1:1/v1", retries=0)
    async for world in served(gone, up):
        async with world.post() as response:
            assert response.status == 502
            assert (await response.json())["error"]["code"] == "upstream_unreachable"


async def test_a_server_that_stops_leaves_no_answer_whole(world: World) -> None:
    world.up.answer = Answer(headers=STREAM, pieces=(b"data: 1\n\n", b"data: 2\n\n"), hold=True)
    async with world.post() as response:
        await response.content.readany()
        await world.app[handlers.SERVICE].drain(0.01)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
        async with world.post() as second:
            assert second.status == 503


async def test_a_request_is_one_record(world: World, caplog: pytest.LogCaptureFixture) -> None:
    told = b'{"usage": {"prompt_tokens": 5, "completion_tokens": 3}}'
    world.up.answer = Answer(pieces=(told,))
    with caplog.at_level(logging.INFO, logger="clinvk.access"):
        async with world.post() as response:
            await response.read()
        world.up.answer = Answer(429)
        async with world.post() as response:
            await response.read()
        world.up.answer = Answer(headers={"Content-Type": "audio/mp3"}, pieces=(told,))
        async with world.post() as response:
            await response.read()
        while len(caplog.records) < 3:
            await anyio.lowlevel.checkpoint()
    first, second, third = (record.__dict__["clinvk"] for record in caplog.records[:3])
    assert (first["model"], first["backend"], first["turn"]) == ("up/m", "up", "relayed")
    assert (first["input_tokens"], first["output_tokens"]) == (5, 3)
    assert (first["outcome"], second["outcome"]) == ("relayed", "status_429")
    assert "input_tokens" not in third
    async with world.http.get(f"{world.url}/metrics") as response:
        metrics = await response.text()
    assert 'clinvk_turns_total{backend="up",course="relayed",outcome="relayed"} 2.0' in metrics
    assert 'clinvk_tokens_total{backend="up",kind="input"} 5.0' in metrics


@pytest.mark.parametrize("world", [{"endpoints": []}], indirect=True)
async def test_an_endpoint_that_it_has_not_is_answered_by_way_of_chat(world: World) -> None:
    chunk = {"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}
    told = f"data: {json.dumps(chunk)}\n\n".encode()
    world.up.answer = Answer(headers=STREAM, pieces=(told, b"data: [DONE]\n\n"))
    async with world.post("responses", '{"model": "up/m", "input": "hi"}') as response:
        assert response.headers["x-clinvk-turn"] == "new"
        assert (await response.json())["output"][0]["content"][0]["text"] == "Hi"
    assert world.up.asked[0].path == "chat/completions"


@pytest.mark.parametrize("world", [{"endpoints": ["responses"]}], indirect=True)
async def test_responses_pass_where_that_is_configured(world: World) -> None:
    async with world.post("responses", '{"model": "m", "input": "hi"}') as response:
        assert response.headers["x-clinvk-turn"] == "relayed"
    assert world.up.asked[0].path == "responses"


async def test_a_model_is_found_once_the_upstream_lists_it(world: World) -> None:
    bare = BODY.replace("up/m", "m")
    async with world.post(body=bare) as response:
        assert response.status == 200
    async with world.post(body=bare.replace('"m"', '"none"')) as response:
        assert response.status == 404
    async with world.http.get(f"{world.url}{API}/models") as response:
        assert [row["id"] for row in (await response.json())["data"]] == ["up", "up/m", "echo"]
    async with world.http.get(f"{world.url}/anthropic/v1/models") as response:
        assert [row["id"] for row in (await response.json())["data"]] == ["up", "up/m", "echo"]


@pytest.mark.parametrize("body", ["{", '{"model": 1}', BODY.replace("up/m", "echo")])
async def test_what_is_for_others_is_left_to_them(body: str, world: World) -> None:
    async with world.post(body=body) as response:
        assert response.status == (200 if "echo" in body else 400)
    assert world.up.asked == []


async def test_a_default_that_there_is_not_is_said(world: World) -> None:
    world.up.models = ["m", "n"]
    async with world.http.get(f"{world.url}{API}/models") as response:
        assert [row["id"] for row in (await response.json())["data"]] == ["up/m", "up/n", "echo"]
    async with world.post(body=BODY.replace("up/m", "up")) as response:
        assert response.status == 404
        assert "up/m, up/n" in await response.text()


async def test_a_client_that_takes_nothing_is_cut_off(up: RawUpstream) -> None:
    async for world in served(settings(up, {"send_s": 0.2}), up):
        up.answer = Answer(headers=STREAM, pieces=(bytes(1 << 20),) * 64)
        async with world.post() as response:
            while up.open:
                await anyio.lowlevel.checkpoint()
            with pytest.raises(aiohttp.ClientError):
                await response.read()
