"""`POST /embeddings`, answered by the embedded model."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web

from clinvk import config
from clinvk.backends import embedding_model
from clinvk.extras import with_embeddings
from clinvk.server import handlers
from clinvk.server.app import create_app
from tests.fakes.raw import Answer, RawUpstream
from tests.keyed import as_
from tests.keyed import entry as key
from tests.published import check
from tests.serving import API, serving

HUNG_S = 60


class World:
    """A served clinvk."""

    def __init__(self, app: web.Application, url: str, http: aiohttp.ClientSession) -> None:
        self.app = app
        self.url = url
        self.http = http

    async def ask(self, body: Any, path: str = "embeddings", **headers: str) -> tuple[int, Any]:
        async with self.http.post(f"{self.url}{API}/{path}", json=body, headers=headers) as reply:
            return reply.status, await reply.json()

    async def get(self, path: str) -> str:
        async with self.http.get(f"{self.url}{path}") as reply:
            return await reply.text()


def parsed(backends: dict[str, Any], **server: Any) -> config.Config:
    text = json.dumps({"server": {"store": {"path": ":memory:"}, **server}, "backends": backends})
    return config.parse(text, name="t", env={})


async def served(settings: config.Config) -> AsyncIterator[World]:
    app = create_app(settings)
    async with serving(app) as url:
        timeout = aiohttp.ClientTimeout(total=HUNG_S)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            yield World(app, url, http)


BOTH = {"embeddings": {"kind": "embeddings"}, "echo": {"kind": "echo"}}


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async for each in served(parsed(getattr(request, "param", BOTH))):
        yield each


@pytest.mark.parametrize(
    "model",
    ["embeddings", "embeddings/wordllama", "wordllama", "text-embedding-3-small"],
)
async def test_it_answers_by_each_of_its_names(model: str, world: World) -> None:
    url, body = f"{world.url}{API}/embeddings", {"model": model, "input": ["hi"], "user": "u"}
    async with world.http.post(url, json=body) as reply:
        told = await reply.json()
        assert (reply.status, reply.content_type) == (200, "application/json")
        assert reply.headers["x-clinvk-backend"] == "embeddings"
        assert reply.headers["x-clinvk-ignored"] == "user"
    check("openai", "CreateEmbeddingResponse", told)
    assert told["model"] == "wordllama"
    assert len(told["data"][0]["embedding"]) == 256


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "embeddings"}, 400, "input"),
        ({"model": "embeddings", "input": ["a", ""]}, 400, "input[1]"),
        ({"model": "embeddings", "input": ["a", None]}, 400, "input[1]"),
        ({"model": "embeddings", "input": [[1], [100_256]]}, 400, "input[1]"),
        ({"model": "embeddings", "input": "a", "dimensions": 1536}, 400, "dimensions"),
        ({"model": "embeddings", "input": "a " * 140_000}, 400, "input"),
        ({"model": "embeddings/other", "input": "a"}, 404, "model"),
        ({"model": "nobody", "input": "a"}, 404, "model"),
        ({"model": "echo", "input": "a"}, 400, "model"),
        ({"input": "a"}, 400, "model"),
        ([], 400, None),
    ],
)
async def test_a_mistake_is_an_error_of_openais(
    body: Any, status: int, param: str | None, world: World
) -> None:
    got, told = await world.ask(body)
    check("openai", "ErrorResponse", told)
    assert (got, told["error"]["param"]) == (status, param)


async def test_who_cannot_embed_names_who_can(world: World) -> None:
    _, told = await world.ask({"model": "echo", "input": "a"})
    assert told["error"]["message"].endswith("cannot do embeddings; embeddings can")


@pytest.mark.parametrize("world", [{"echo": {"kind": "echo"}}], indirect=True)
@pytest.mark.parametrize("model", ["echo", "text-embedding-3-small"])
async def test_where_nobody_can_it_is_said_how_somebody_could(
    model: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hint = "a backend of kind embeddings makes embeddings offline: "
    status, told = await world.ask({"model": model, "input": "a"})
    assert status in (400, 404)
    assert told["error"]["message"].endswith(hint + "add one to backends.yaml")
    monkeypatch.setitem(sys.modules, "wordllama", None)
    _, told = await world.ask({"model": model, "input": "a"})
    assert told["error"]["message"].endswith(hint + "pip install 'clinvk[embeddings]'")


async def test_without_the_extra_it_is_unavailable_and_says_how_to_get_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    status, told = await world.ask({"model": "embeddings", "input": "a"})
    assert (status, told["error"]["code"]) == (503, "cli_not_installed")
    assert "pip install 'clinvk[embeddings]'" in told["error"]["message"]
    found = json.loads(await world.get("/health"))["backends"]["embeddings"]
    assert (found["state"], found["fix"]) == ("missing", "pip install 'clinvk[embeddings]'")
    assert [row["id"] for row in json.loads(await world.get(f"{API}/models"))["data"]] == ["echo"]


CHATS = [
    (f"{API}/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    (f"{API}/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "stream": True}),
    (f"{API}/completions", {"prompt": "hi"}),
    (f"{API}/responses", {"input": "hi"}),
    ("/anthropic/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}),
]


@pytest.mark.parametrize(("path", "body"), CHATS)
async def test_a_chat_is_refused_and_told_who_can(path: str, body: Any, world: World) -> None:
    for model in ("embeddings", "text-embedding-3-small"):
        asked = {"model": model, **body}
        async with world.http.post(world.url + path, json=asked) as reply:
            told = await reply.json()
            assert reply.status == 400
            assert told["error"]["message"].endswith(
                "'embeddings' makes embeddings and answers no messages; echo can"
            )


async def test_a_model_tells_that_it_embeds(world: World) -> None:
    rows = {row["id"]: row for row in json.loads(await world.get(f"{API}/models"))["data"]}
    assert list(rows) == ["embeddings", "embeddings/wordllama", "echo"]
    assert rows["embeddings"]["owned_by"] == "wordllama"
    assert rows["embeddings"]["clinvk"]["embeddings"] == "native"
    assert rows["echo"]["clinvk"]["embeddings"] == "no"


async def test_a_request_is_counted_as_every_other(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "clinvk.access")
    await world.ask({"model": "text-embedding-3-small", "input": "hello world"})
    (line,) = [record.message for record in caplog.records if record.name == "clinvk.access"]
    for field in ("model=text-embedding-3-small", "backend=embeddings", "input_tokens=2"):
        assert field in line.split()
    metrics = await world.get("/metrics")
    assert 'clinvk_tokens_total{backend="embeddings",kind="input"} 2.0' in metrics
    assert 'clinvk_turns_running{backend="embeddings"} 0.0' in metrics


class Held:
    """The model, which waits at its first text until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = anyio.Event()
        self.go = threading.Event()
        self.pieces = 0
        real = embedding_model.load
        token = anyio.lowlevel.current_token()

        def load() -> Any:
            self.pieces += 1
            if self.pieces == 1:
                anyio.from_thread.run_sync(self.begun.set, token=token)
                assert self.go.wait(HUNG_S)
            return real()

        monkeypatch.setattr(embedding_model, "load", load)


def running(world: World) -> int:
    return world.app[handlers.SERVICE].load()["embeddings"].running


ONE = {"embeddings": {"kind": "embeddings", "max_concurrency": 1, "max_queue": 0}}


@pytest.mark.parametrize("world", [ONE], indirect=True)
async def test_places_are_bounded_and_the_loop_goes_on_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    with anyio.fail_after(HUNG_S):
        async with anyio.create_task_group() as group:
            group.start_soon(world.ask, {"model": "embeddings", "input": "a"})
            await held.begun.wait()
            assert running(world) == 1
            status, told = await world.ask({"model": "embeddings", "input": "a"})
            assert (status, told["error"]["code"]) == (429, "server_busy")
            held.go.set()
    assert (await world.ask({"model": "embeddings", "input": "a"}))[0] == 200


@pytest.mark.parametrize("world", [ONE], indirect=True)
async def test_who_leaves_ends_the_work_with_the_piece(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    body = {"model": "embeddings", "input": ["some text"] * 2000}
    with anyio.fail_after(HUNG_S):
        async with anyio.create_task_group() as group:
            group.start_soon(world.ask, body)
            await held.begun.wait()
            group.cancel_scope.cancel()
        while running(world):
            await anyio.lowlevel.checkpoint()
        held.go.set()
        assert (await world.ask({"model": "embeddings", "input": "a"}))[0] == 200
    assert held.pieces == 2


async def test_many_at_once_get_each_their_own(world: World) -> None:
    texts = [f"text number {at}" for at in range(40)]
    _, together = await world.ask({"model": "embeddings", "input": texts})
    alone: dict[int, Any] = {}

    async def one(at: int) -> None:
        _, told = await world.ask({"model": "embeddings", "input": texts[at]})
        alone[at] = told["data"][0]["embedding"]

    with anyio.fail_after(HUNG_S):
        async with anyio.create_task_group() as group:
            for at in range(len(texts)):
                group.start_soon(one, at)
    assert [alone[at] for at in range(len(texts))] == [
        each["embedding"] for each in together["data"]
    ]


async def test_keys_and_their_limits_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [key("chat", models=["echo"]), key("vectors", models=["embeddings"], max_turns=1)]
    entries = [each.model_dump(exclude_defaults=True) for each in keys]
    held = Held(monkeypatch)
    body = {"model": "text-embedding-3-small", "input": "a"}
    async for world in served(parsed(BOTH, api_keys=entries)):
        assert (await world.ask(body))[0] == 401
        assert (await world.ask(body, **as_("chat")))[0] == 403
        with anyio.fail_after(HUNG_S):
            async with anyio.create_task_group() as group:
                group.start_soon(partial(world.ask, body, **as_("vectors")))
                await held.begun.wait()
                status, told = await world.ask(body, **as_("vectors"))
                assert (status, told["error"]["code"]) == (429, "key_limit_exceeded")
                held.go.set()
        assert (await world.ask(body, **as_("vectors")))[0] == 200


async def test_an_upstream_keeps_its_own_byte_for_byte() -> None:
    body = '{"model": "up/m",  "input":["h\\u0069"], "encoding_format" : "base64","x": 1.50}'
    async with RawUpstream().running() as up:
        up.answer = Answer(
            headers={"Content-Type": "application/json"}, pieces=(b'{"b": 1,  ', b'"a": 0.10}\n')
        )
        backends = {**BOTH, "up": {"kind": "openai", "base_url": up.url, "models": ["m"]}}
        async for world in served(parsed(backends)):
            url, headers = f"{world.url}{API}/embeddings", {"Content-Type": "application/json"}
            async with world.http.post(url, data=body, headers=headers) as reply:
                assert await reply.read() == b'{"b": 1,  "a": 0.10}\n'
            status, told = await world.ask({"model": "text-embedding-3-small", "input": "a"})
            assert (status, told["error"]["code"]) == (404, "model_not_found")
            assert (await world.ask({"model": "embeddings", "input": "a"}))[0] == 200
        (asked,) = up.asked
        assert asked.body == body.replace("up/m", "m").encode()


async def test_a_route_leads_on_where_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wordllama", None)
    async with RawUpstream().running() as up:
        up.answer = Answer(pieces=(b'{"data": []}',))
        text = json.dumps(
            {
                "server": {"store": {"path": ":memory:"}},
                "backends": {**BOTH, "up": {"kind": "openai", "base_url": up.url}},
                "routes": {"v": {"targets": ["embeddings", "up/m"], "fallback": ["not_installed"]}},
            }
        )
        async for world in served(config.parse(text, name="t", env={})):
            assert await world.ask({"model": "v", "input": "a"}) == (200, {"data": []})


OFFLINE = """
import asyncio, json, os, socket, sys
def refuse(*args):
    raise AssertionError(f"the network was asked for: {args}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from clinvk.backends.embeddings import EmbeddingsBackend, Input
from clinvk.config import EmbeddingsConfig
async def main():
    backend = EmbeddingsBackend("embeddings", EmbeddingsConfig(kind="embeddings"))
    inputs = [Input("input", "hello"), Input("input", [15339])]
    made, count = await backend.embed(inputs, None, lambda _, vector: vector.hex())
    print(json.dumps([made[0] == made[1], count]))
    print(json.dumps(sorted(name for name in sys.modules if name == "wordllama")))
asyncio.run(main())
"""


def test_nothing_is_downloaded_and_nothing_written(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        capture_output=True,
        text=True,
        timeout=HUNG_S,
        check=True,
        env={**env, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
    )
    assert done.stdout.split("\n")[:2] == ["[true, 2]", "[]"]
    assert list(tmp_path.iterdir()) == []


def test_the_default_configuration_of_this_installation_has_it() -> None:
    assert "embeddings" in with_embeddings(config.default()).backends
