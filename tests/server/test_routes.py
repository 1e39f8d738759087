"""Models that several backends can answer for, over HTTP: upstreams, CLIs and both."""

import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import anyio
import pytest

from clinvk import config
from clinvk.errors import RateLimitedError
from clinvk.registry import Registry
from clinvk.server.app import create_app
from tests.fakes.backend import ScriptBackend
from tests.fakes.raw import Answer, RawUpstream
from tests.keyed import as_
from tests.keyed import entry as key
from tests.serving import API, serving

HUNG_S = 30
LIMITED = b'{"error": {"message": "slow down",  "type": "rate_limit_error"}}'
STREAM = {"Content-Type": "text/event-stream"}
BOTH = {"both": ["one/m", "two/m"]}
EVEN = {"both": [{"target": "one/m", "weight": 1}, {"target": "two/m", "weight": 1}]}


def dead_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
    return port


class World:
    """A clinvk before two upstreams, one that is down, a CLI that is not there, and an echo."""

    def __init__(self, one: RawUpstream, two: RawUpstream, url: str) -> None:
        self.one = one
        self.two = two
        self.url = url
        self.http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HUNG_S))

    def post(self, path: str = "chat/completions", **body: Any) -> Any:
        told = body.pop("headers", {})
        asked = {"model": "both", "messages": [{"role": "user", "content": "hi"}], **body}
        return self.http.post(f"{self.url}{API}/{path}", json=asked, headers=told)

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.one.asked), len(self.two.asked)


@asynccontextmanager
async def made(
    routes: dict[str, Any], server: dict[str, Any] | None = None, **fields: Any
) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(RawUpstream().running()) for _ in "12"]
        up: dict[str, Any] = {"kind": "openai", "retries": 0, **fields}
        backends = {
            "one": {**up, "base_url": one.url},
            "two": {**up, "base_url": two.url},
            "down": {**up, "base_url": f"http://127.0.0.1:{dead_port()}/v1"},
            "claude": {"kind": "claude", "command": "no-such-program"},
            "echo": {"kind": "echo"},
        }
        settings = {"store": {"path": ":memory:"}, **(server or {})}
        text = json.dumps({"server": settings, "backends": backends, "routes": routes})
        app = create_app(config.parse(text, name="t", env={}))
        url = await stack.enter_async_context(serving(app))
        world = World(one, two, url)
        stack.push_async_callback(world.http.close)
        yield world


async def test_a_limited_upstream_leads_to_the_next(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "clinvk.access")
    async with made(BOTH) as world:
        world.one.answer = Answer(429, pieces=(LIMITED,))
        async with world.post(temperature=0.5) as response:
            assert (response.status, await response.read()) == (200, b'{"ok": true}')
            assert response.headers["x-clinvk-backend"] == "two"
            assert response.headers["x-clinvk-turn"] == "relayed"
            assert response.headers["x-clinvk-tried"] == "one/m=rate_limit_exceeded"
        assert world.counts == (1, 1)
        assert world.one.asked[0].body == world.two.asked[0].body
        assert json.loads(world.two.asked[0].body)["temperature"] == 0.5
    assert "backend=two" in caplog.text
    assert "tried=one/m=rate_limit_exceeded" in caplog.text


@pytest.mark.parametrize("status", [401, 408, 503, 504, 529])
async def test_each_failure_of_the_server_itself_leads_on(status: int) -> None:
    async with made(BOTH) as world:
        world.one.answer = Answer(status, pieces=(b"down",))
        async with world.post() as response:
            assert response.status == 200
            assert response.headers["x-clinvk-backend"] == "two"


@pytest.mark.parametrize("status", [400, 404, 422, 500])
async def test_other_failures_pass_as_they_are(status: int) -> None:
    async with made(BOTH) as world:
        world.one.answer = Answer(status, pieces=(b'{"error":  ', b'{"message": "no"}}'))
        async with world.post() as response:
            assert (response.status, await response.read()) == (
                status,
                b'{"error":  {"message": "no"}}',
            )
            assert response.headers["x-clinvk-backend"] == "one"
        assert world.counts == (1, 0)


async def test_a_long_failure_passes_whole() -> None:
    async with made(BOTH) as world:
        pieces = tuple(bytes([97 + number]) * 50_000 for number in range(4))
        world.one.answer = Answer(400, {"Content-Type": "text/plain"}, pieces)
        async with world.post() as response:
            assert await response.read() == b"".join(pieces)


async def test_what_the_last_one_says_passes_as_it_is() -> None:
    async with made(BOTH) as world:
        world.one.answer = Answer(503, pieces=(b"one",))
        world.two.answer = Answer(429, {"Retry-After": "7"}, (LIMITED,))
        async with world.post() as response:
            assert (response.status, await response.read()) == (429, LIMITED)
            assert response.headers["Retry-After"] == "7"
            assert response.headers["x-clinvk-tried"] == "one/m=upstream_overloaded"


async def test_a_conversation_does_not_stay_where_it_only_failed() -> None:
    async with made({"both": {"targets": ["one/m", "two/m"], "rest_s": 0}}) as world:
        world.one.answer = world.two.answer = Answer(429, pieces=(LIMITED,))
        async with world.post() as response:
            assert response.headers["x-clinvk-backend"] == "two"
        world.one.answer = world.two.answer = Answer()
        said = [{"role": role, "content": "hi"} for role in ("user", "assistant", "user")]
        async with world.post(messages=said) as response:
            assert response.headers["x-clinvk-backend"] == "one"


async def test_a_server_that_is_down_leads_to_the_next() -> None:
    async with made({"both": ["down/m", "one/m"]}) as world, world.post() as response:
        assert response.headers["x-clinvk-backend"] == "one"
        assert response.headers["x-clinvk-tried"] == "down/m=upstream_unreachable"


async def test_if_all_are_down_all_is_told() -> None:
    async with made({"both": ["claude", "down/m"]}) as world:
        async with world.post() as response:
            body = await response.json()
        assert response.status == 502
        assert body["error"]["code"] == "upstream_unreachable"
        assert "asked before: claude: 'no-such-program' for backend" in body["error"]["message"]


async def test_a_failure_may_be_chosen_by_what_its_body_says() -> None:
    said = json.dumps({"error": {"message": "x", "code": "context_length_exceeded"}}).encode()
    routes = {"both": {"targets": ["one/m", "two/m"], "fallback": ["context_too_long"]}}
    async with made(routes) as world:
        world.one.answer = Answer(400, pieces=(said,))
        async with world.post() as response:
            assert response.headers["x-clinvk-backend"] == "two"
        world.one.answer = Answer(429, pieces=(LIMITED,))
        async with world.post(messages=[{"role": "user", "content": "new"}]) as response:
            assert response.status == 200  # it rests since it failed
        assert world.counts == (1, 2)


async def test_nobody_else_is_asked_once_an_answer_has_begun() -> None:
    async with made(BOTH) as world:
        world.one.answer = Answer(headers=STREAM, pieces=(b"data: 1\n\n", b""), cut=True)
        async with world.post(stream=True) as response:
            assert response.headers["x-clinvk-backend"] == "one"
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        assert world.counts == (1, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cli_may_come_after_an_upstream(stream: bool) -> None:
    async with made({"both": ["one/m", "echo"]}) as world:
        world.one.answer = Answer(503)
        async with world.post(stream=stream) as response:
            assert response.status == 200
            assert response.headers["x-clinvk-backend"] == "echo"
            assert response.headers["x-clinvk-turn"] == "new"
            assert response.headers["x-clinvk-tried"] == "one/m=upstream_overloaded"
            assert b'"hi"' in (await response.read()).replace(b'"content":"', b'"content": "')
        assert world.counts == (1, 0)


async def test_an_upstream_may_come_after_a_cli() -> None:
    async with made({"both": ["claude", "one/m"]}) as world:
        chunk = {"choices": [{"index": 0, "delta": {"content": "from one"}}]}
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        lines = "".join(f"data: {json.dumps(each)}\n\n" for each in (chunk, end))
        world.one.answer = Answer(headers=STREAM, pieces=(f"{lines}data: [DONE]\n\n".encode(),))
        async with world.post() as response:
            told = await response.json()
            assert told["choices"][0]["message"]["content"] == "from one"
            assert response.headers["x-clinvk-backend"] == "one"
            assert response.headers["x-clinvk-tried"] == "claude=cli_not_installed"


async def test_conversations_with_upstreams_stay_where_they_are() -> None:
    async with made(EVEN) as world:
        at = {}
        for number in range(4):
            said = [{"role": "user", "content": f"hello {number}"}]
            async with world.post(messages=said) as response:
                at[number] = response.headers["x-clinvk-backend"]
        assert sorted(at.values()) == ["one", "one", "two", "two"]
        for number in (3, 1, 2, 0, 0):
            said = [
                {"role": "user", "content": f"hello {number}"},
                {"role": "assistant", "content": "yes?"},
                {"role": "user", "content": "more"},
            ]
            async with world.post(messages=said) as response:
                assert response.headers["x-clinvk-backend"] == at[number]


async def test_a_kept_response_is_gone_on_with_where_it_is_kept() -> None:
    async with made(EVEN, endpoints=["responses"]) as world:
        kept = {}
        for up, name in ((world.one, "one"), (world.two, "two")):
            up.answer = Answer(pieces=(json.dumps({"id": f"resp_{name}"}).encode(),))
        for text in "abcd":
            async with world.post("responses", input=text) as response:
                kept[(await response.json())["id"]] = response.headers["x-clinvk-backend"]
        assert kept == {"resp_one": "one", "resp_two": "two"}
        for previous in ("resp_two", "resp_one", "resp_two"):
            asked = {"input": "more", "previous_response_id": previous}
            async with world.post("responses", **asked) as response:
                assert response.headers["x-clinvk-backend"] == kept[previous]


@pytest.mark.parametrize("messages", [None, "x", [1, {}], {"a": 1}])
async def test_odd_conversations_are_for_the_upstream_to_judge(messages: object) -> None:
    async with made(EVEN) as world, world.post(messages=messages) as response:
        assert response.status == 200


async def test_other_endpoints_go_to_those_that_have_them() -> None:
    routes = {"both": ["echo", "down/m", "one/m"]}
    async with made(routes) as world, world.post("embeddings", input="hi") as response:
        assert response.headers["x-clinvk-backend"] == "one"
        assert response.headers["x-clinvk-tried"] == "down/m=upstream_unreachable"


async def test_if_no_target_has_an_endpoint_who_has_it_is_told() -> None:
    async with made({"both": ["echo", "claude"]}) as world:
        async with world.post("embeddings", input="hi") as response:
            error = (await response.json())["error"]
        assert response.status == 400
        assert (error["param"], error["code"]) == ("model", "unsupported_value")
        assert "'echo', which has the model 'both', cannot do embeddings" in error["message"]


def form() -> aiohttp.FormData:
    fields = aiohttp.FormData()
    fields.add_field("file", b"sound", filename="a.wav")
    fields.add_field("model", "both")
    return fields


async def test_a_form_goes_to_the_next_while_nobody_has_read_it() -> None:
    async with made({"both": ["echo", "down/m", "one/m"]}) as world:
        url = f"{world.url}{API}/audio/transcriptions"
        async with world.http.post(url, data=form()) as response:
            assert response.status == 200
            assert response.headers["x-clinvk-backend"] == "one"
        assert b"sound" in world.one.asked[0].body


async def test_a_form_that_was_read_is_not_sent_again() -> None:
    async with made(BOTH) as world:
        world.one.answer = Answer(503, pieces=(b"full",))
        url = f"{world.url}{API}/audio/transcriptions"
        async with world.http.post(url, data=form()) as response:
            assert (response.status, await response.read()) == (503, b"full")
        assert world.counts == (1, 0)


async def test_a_key_may_be_for_a_route_or_for_all_its_targets() -> None:
    keys = [
        key("alice", models=["both"]).model_dump(),
        key("bob", models=["one/m"]).model_dump(),
        key("carol", models=["one/*", "two/m"]).model_dump(),
    ]
    async with made(BOTH, {"api_keys": keys}) as world:
        for name, status in (("alice", 200), ("bob", 403), ("carol", 200)):
            async with world.post(headers=as_(name)) as response:
                assert response.status == status, name
        async with world.http.get(f"{world.url}{API}/models", headers=as_("alice")) as response:
            listed = [row["id"] for row in (await response.json())["data"]]
            assert listed == ["both"]


async def test_routes_are_among_the_models() -> None:
    async with made({**BOTH, "any-*": ["one/{model}"]}) as world:
        async with world.http.get(f"{world.url}{API}/models") as response:
            ids = [row["id"] for row in (await response.json())["data"]]
        assert ids[0] == "both"
        assert "any-*" not in ids
        for name, status in (("both", 200), ("any-x", 200), ("nope", 404)):
            async with world.http.get(f"{world.url}{API}/models/{name}") as response:
                assert response.status == status
        async with world.post(model="any-x") as response:
            assert response.status == 200
        assert json.loads(world.one.asked[0].body)["model"] == "any-x"


async def test_a_name_that_no_header_can_carry_is_told_in_ascii() -> None:
    routes = {"*": ["down/{model}", "one/m"]}
    async with made(routes) as world, world.post(model="ünï") as response:
        assert response.status == 200
        assert response.headers["x-clinvk-tried"].isascii()


async def test_who_answers_is_told_in_a_comment_if_a_silence_was_broken_before() -> None:
    silent, able = ScriptBackend("silent"), ScriptBackend("able")
    go_on = anyio.Event()
    silent.script = (go_on, RateLimitedError("slow down"))
    text = json.dumps(
        {
            "server": {"store": {"path": ":memory:"}, "keepalive_s": 0.01},
            "backends": {"silent": {"kind": "echo"}, "able": {"kind": "echo"}},
            "routes": {"both": ["silent", "able"]},
        }
    )
    backends = {"silent": silent, "able": able}
    app = create_app(
        config.parse(text, name="t", env={}),
        build=lambda made, *_: Registry(made, dict(backends)),
    )
    body = {"model": "both", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with serving(app) as url, aiohttp.ClientSession() as http:
        with anyio.fail_after(HUNG_S):
            async with http.post(f"{url}{API}/chat/completions", json=body) as response:
                assert "x-clinvk-backend" not in response.headers
                assert await response.content.readline() == b": keep-alive\n"
                go_on.set()
                lines = (await response.read()).decode().splitlines()
    told = [line for line in lines if line.startswith(": x-")]
    assert told == [
        ": x-clinvk-backend: able",
        ": x-clinvk-turn: new",
        ": x-clinvk-tried: silent=rate_limit_exceeded",
    ]
    assert lines.index(told[0]) < next(
        at for at, line in enumerate(lines) if line.startswith("data:")
    )
