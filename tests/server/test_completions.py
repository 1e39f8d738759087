"""The Completions API over HTTP: several prompts of one request are told as one answer."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import pytest

from clinvk import config
from clinvk.errors import CliCrashedError, UnsupportedError
from clinvk.events import Event, Started, TextDelta
from clinvk.server.app import create_app
from tests.fakes.backend import ScriptBackend, builder, script_config
from tests.serving import API, serving

ECHO = config.parse("backends:\n  echo: {kind: echo}\n", name="t", env={})


@asynccontextmanager
async def asking(app: Any, **fields: Any) -> AsyncIterator[aiohttp.ClientResponse]:
    async with serving(app) as url, aiohttp.ClientSession() as http:
        with anyio.fail_after(10):
            async with http.post(f"{url}{API}/completions", json=fields) as response:
                await response.read()
                yield response


async def test_each_prompt_is_answered_as_often_as_asked() -> None:
    prompts = ["one two", "three"]
    async with asking(create_app(ECHO), model="echo", prompt=prompts, n=2, echo=True) as response:
        body = await response.json()
    assert response.headers["x-clinvk-backend"] == "echo"
    assert [(c["index"], c["text"], c["finish_reason"]) for c in body["choices"]] == [
        (0, "one twoone two", "stop"),
        (1, "one twoone two", "stop"),
        (2, "threethree", "stop"),
        (3, "threethree", "stop"),
    ]
    assert body["object"] == "text_completion"
    assert body["usage"] == {"prompt_tokens": 6, "completion_tokens": 6, "total_tokens": 12}


async def test_each_prompt_is_streamed_under_its_index() -> None:
    asked = {"model": "echo", "prompt": ["a b", "c"], "stream": True, "user": "u"}
    options = {"include_usage": True}
    async with asking(create_app(ECHO), **asked, stream_options=options) as response:
        assert response.headers["x-clinvk-ignored"] == "user"
        *data, done = (await response.text()).removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    *chunks, usage = [json.loads(text.removeprefix("data: ")) for text in data]
    texts = {0: "", 1: ""}
    for chunk in chunks:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == {0: "a b", 1: "c"}
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 6)


async def test_turns_of_one_request_run_at_once() -> None:
    both, begun = anyio.Event(), 0

    class Counting(ScriptBackend):
        async def _play(self) -> AsyncIterator[Event]:
            nonlocal begun
            begun += 1
            if begun == 2:
                both.set()
            async for event in super()._play():
                yield event

    backend = Counting()
    backend.script = (both, *backend.script)
    app = create_app(script_config(), build=builder(backend))
    async with asking(app, model="fake", prompt=["a", "b"]) as response:
        assert [c["text"] for c in (await response.json())["choices"]] == ["Hello world"] * 2


@pytest.mark.parametrize("prompt", ["a", ["a", "b"]])
async def test_a_failure_of_any_turn_is_the_answer(prompt: Any) -> None:
    backend = ScriptBackend()
    backend.script = (TextDelta("a"), CliCrashedError("it died"))
    app = create_app(script_config(), build=builder(backend))
    async with asking(app, model="fake", prompt=prompt) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (502, "cli_crashed")
    assert backend.running == 0


async def test_what_cannot_be_run_as_a_whole_is_not_run() -> None:
    backend = ScriptBackend()
    backend.script = (anyio.Event(),)
    app = create_app(script_config(max_concurrency=1, max_queue=1), build=builder(backend))
    async with asking(app, model="fake", prompt=["a", "b", "c"]) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (429, "server_busy")
    assert backend.running == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_client_disconnect_stops_every_turn(stream: bool) -> None:
    backend = ScriptBackend()
    backend.script = (Started(), anyio.Event())
    app = create_app(script_config(), build=builder(backend))
    body = {"model": "fake", "prompt": ["a", "b"], "stream": stream}
    with anyio.fail_after(5):
        async with serving(app) as url:
            async with aiohttp.ClientSession() as gone, anyio.create_task_group() as group:
                group.start_soon(_post, gone, f"{url}{API}/completions", body)
                await backend.entered.wait()
                group.cancel_scope.cancel()
            while backend.running:
                backend.left = anyio.Event()
                await backend.left.wait()
    assert len(backend.turns) in {1, 2}


async def _post(http: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> None:
    async with http.post(url, json=body) as response:
        await response.read()


async def test_a_mistake_has_the_shape_of_openai() -> None:
    async with asking(create_app(ECHO), model="echo", prompt=[1, 2], stream=True) as response:
        error = (await response.json())["error"]
    assert (response.status, error["param"]) == (400, "prompt")


@pytest.mark.parametrize(
    ("told", "suffix", "meant"),
    [
        ("messages[0].content", None, "prompt"),
        ("messages[0].content", "s", "suffix"),
        ("messages[1].content", "s", "prompt"),
        ("messages", "s", "prompt"),
        ("max_completion_tokens", None, "max_tokens"),
        ("model", None, "model"),
    ],
)
async def test_what_a_backend_refuses_is_named_as_in_the_request(
    told: str, suffix: str | None, meant: str
) -> None:
    backend = ScriptBackend()
    backend.refusal = UnsupportedError("no", param=told)
    app = create_app(script_config(), build=builder(backend))
    async with asking(app, model="fake", prompt="p", suffix=suffix) as response:
        assert (await response.json())["error"]["param"] == meant
