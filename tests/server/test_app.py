"""The HTTP server over a backend that plays a script."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import anyio
import pytest
from yarl import URL

from clinvk.backends.base import Health, State
from clinvk.errors import (
    BusyError,
    CliCrashedError,
    ClinvkError,
    ContextTooLongError,
    NotInstalledError,
    RateLimitedError,
    UnsupportedError,
)
from clinvk.events import Finished, FinishReason, ReasoningDelta, Started, TextDelta
from clinvk.server.app import create_app
from tests.fakes.backend import ANSWER, ScriptBackend, builder, script_config
from tests.serving import API, serving

HI = [{"role": "user", "content": "hi"}]


@dataclass
class Served:
    url: str
    backend: ScriptBackend
    http: aiohttp.ClientSession

    async def ask(self, **fields: Any) -> aiohttp.ClientResponse:
        body = {"model": "fake", "messages": HI, **fields}
        with anyio.fail_after(10):
            response = await self.http.post(f"{self.url}{API}/chat/completions", json=body)
            await response.read()
        return response


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    backend = ScriptBackend()
    config = script_config()
    config = config.model_copy(
        update={
            "server": config.server.model_copy(update={"keepalive_s": 0.05, "max_body_mb": 0.5})
        }
    )
    async with (
        serving(create_app(config, build=builder(backend))) as url,
        aiohttp.ClientSession() as http,
    ):
        yield Served(url, backend, http)


async def chunks(response: aiohttp.ClientResponse) -> list[Any]:
    text = await response.text()
    lines = [line for line in text.split("\n\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


async def test_an_answer_in_one_piece(served: Served) -> None:
    response = await served.ask(temperature=1)
    assert response.status == 200
    assert response.headers["x-clinvk-ignored"] == "temperature"
    assert response.headers["x-clinvk-backend"] == "fake"
    assert response.headers["x-request-id"].startswith("req_")
    assert "x-clinvk-usage" not in response.headers
    body = await response.json()
    assert body["choices"][0]["message"]["content"] == "Hello world"
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}


async def test_estimated_usage_is_told_by_a_header(served: Served) -> None:
    served.backend.script = (TextDelta("a"), Finished(FinishReason.STOP))
    assert (await served.ask()).headers["x-clinvk-usage"] == "estimated"


async def test_an_answer_in_chunks(served: Served) -> None:
    response = await served.ask(stream=True)
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert response.headers["x-request-id"].startswith("req_")
    *data, done = await chunks(response)
    assert done == "[DONE]"
    parsed = [json.loads(text) for text in data]
    assert len({chunk["id"] for chunk in parsed}) == 1
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in parsed) == "Hello world"


async def test_each_delta_is_sent_at_once(served: Served) -> None:
    hold = anyio.Event()
    served.backend.script = (TextDelta("one"), hold, *ANSWER)
    body = {"model": "fake", "messages": HI, "stream": True}
    with anyio.fail_after(5):
        async with served.http.post(f"{served.url}{API}/chat/completions", json=body) as response:
            seen = b""
            while b'"one"' not in seen:
                seen += await response.content.readany()
            hold.set()
            assert b"[DONE]" in await response.read()


async def test_silence_is_filled_with_comments(served: Served) -> None:
    hold = anyio.Event()
    served.backend.script = (hold, *ANSWER)
    body = {"model": "fake", "messages": HI, "stream": True}
    with anyio.fail_after(5):
        async with served.http.post(f"{served.url}{API}/chat/completions", json=body) as response:
            assert await response.content.readuntil(b"\n\n") == b": keep-alive\n\n"
            hold.set()
            assert b"[DONE]" in await response.read()


ERRORS: list[tuple[ClinvkError, dict[str, str]]] = [
    (
        RateLimitedError("slow down", retry_after_s=6.2),
        {"Retry-After": "7", "x-should-retry": "true"},
    ),
    (CliCrashedError("it died"), {"x-should-retry": "true"}),
    (NotInstalledError("install it"), {"x-should-retry": "false"}),
    (ContextTooLongError("too long"), {"x-should-retry": "false"}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("error", "headers"), ERRORS, ids=lambda v: type(v).__name__)
async def test_a_failure_before_the_first_delta_is_an_http_error(
    served: Served, error: ClinvkError, headers: dict[str, str], stream: bool
) -> None:
    served.backend.script = (Started("m"), error)
    response = await served.ask(stream=stream)
    assert response.status == error.status
    assert response.headers["x-request-id"].startswith("req_")
    assert {name: response.headers.get(name) for name in headers} == headers
    body = await response.json()
    assert body["error"] == {
        "message": error.message,
        "type": error.type,
        "param": None,
        "code": error.code,
    }


async def test_a_failure_in_a_stream_ends_it_with_an_error(served: Served) -> None:
    served.backend.script = (TextDelta("a"), CliCrashedError("it died"))
    *_, error, done = await chunks(await served.ask(stream=True))
    assert json.loads(error)["error"]["code"] == "cli_crashed"
    assert done == "[DONE]"


async def test_what_is_refused_is_refused_before_the_stream_opens(served: Served) -> None:
    served.backend.refusal = UnsupportedError("no", param="tools")
    response = await served.ask(stream=True)
    assert (response.status, (await response.json())["error"]["param"]) == (400, "tools")
    assert served.backend.turns == []


@pytest.mark.parametrize("stream", [False, True])
async def test_client_disconnect_stops_the_turn(served: Served, stream: bool) -> None:
    served.backend.script = (Started(), ReasoningDelta("hm"), anyio.Event())
    body = {"model": "fake", "messages": HI, "stream": stream}
    with anyio.fail_after(5):
        async with aiohttp.ClientSession() as gone, anyio.create_task_group() as group:
            group.start_soon(_post, gone, f"{served.url}{API}/chat/completions", body)
            await served.backend.entered.wait()
            group.cancel_scope.cancel()
        await served.backend.left.wait()
    assert served.backend.running == 0


async def _post(http: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> None:
    async with http.post(url, json=body) as response:
        await response.read()


async def test_choices_are_streamed_each_with_its_index(served: Served) -> None:
    *data, _ = await chunks(await served.ask(stream=True, n=2))
    texts = {0: "", 1: ""}
    for choice in (json.loads(text)["choices"][0] for text in data):
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == {0: "Hello world", 1: "Hello world"}


async def test_the_models(served: Served) -> None:
    async with served.http.get(f"{served.url}{API}/models") as response:
        body = await response.json()
    assert body["object"] == "list"
    assert [row["id"] for row in body["data"]] == ["fake", "short"]
    assert all(
        row["object"] == "model" and isinstance(row["created"], int) and row["owned_by"] == "tests"
        for row in body["data"]
    )


@pytest.mark.parametrize(
    ("path", "model"),
    [("fake", "fake"), ("fake/a/b", "fake/a/b"), ("fake%2Fa%2Fb", "fake/a/b"), ("short", "short")],
)
async def test_one_model(served: Served, path: str, model: str) -> None:
    async with served.http.get(URL(f"{served.url}{API}/models/{path}", encoded=True)) as response:
        assert (response.status, (await response.json())["id"]) == (200, model)


async def test_an_unknown_model_is_404(served: Served) -> None:
    async with served.http.get(f"{served.url}{API}/models/nope") as response:
        assert response.status == 404
    response = await served.ask(model="nope")
    assert response.status == 404
    assert (await response.json())["error"]["code"] == "model_not_found"


async def test_a_model_whose_cli_is_missing_is_not_offered(served: Served) -> None:
    served.backend.installed = False
    async with served.http.get(f"{served.url}{API}/models") as response:
        assert (await response.json())["data"] == []
    async with served.http.get(f"{served.url}{API}/models/fake") as response:
        assert response.status == 404


async def test_health_tells_each_backend_and_starts_no_turn(served: Served) -> None:
    served.backend.found = Health(
        State.NOT_LOGGED_IN, "1", tested=False, reason="no login", fix="fake login"
    )
    async with served.http.get(f"{served.url}/health") as response:
        body = await response.json()
    assert (response.status, body["status"]) == (200, "ok")
    assert body["backends"] == {
        "fake": {
            "state": "not_logged_in",
            "version": "1",
            "tested": False,
            "reason": "no login",
            "fix": "fake login",
        }
    }
    assert served.backend.turns == []


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/openai/v1/nowhere", 404, "not_found"),
        ("GET", "/openai/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/openai/v1/models", 405, "method_not_allowed"),
    ],
)
async def test_every_other_path_has_an_error_object(
    served: Served, method: str, path: str, status: int, code: str
) -> None:
    async with served.http.request(method, served.url + path) as response:
        assert response.status == status
        assert response.content_type == "application/json"
        error = (await response.json())["error"]
        assert (set(error), error["code"]) == ({"message", "type", "param", "code"}, code)
        assert response.headers["x-request-id"].startswith("req_")


async def test_a_body_over_the_limit_is_413(served: Served) -> None:
    response = await served.ask(user="x" * 600_000)
    assert response.status == 413
    assert (await response.json())["error"]["code"] == "request_too_large"


async def test_a_bug_is_a_500_without_a_traceback(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(served.backend, "check", broken)
    response = await served.ask()
    assert response.status == 500
    assert "secret" not in await response.text()
    assert (await response.json())["error"]["code"] == "internal_error"


async def test_a_full_queue_is_a_429_that_says_when(served: Served) -> None:
    served.backend.refusal = BusyError("busy", retry_after_s=3)
    response = await served.ask()
    assert (response.status, response.headers["Retry-After"]) == (429, "3")
