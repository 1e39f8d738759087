"""What an operator sees: a line and a count for each request, readiness, content only if asked."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import pytest

from clinvk.backends.base import Health, State
from clinvk.cli.local import JsonFormatter
from clinvk.errors import OverloadedError
from clinvk.events import Finished, FinishReason, TextDelta, ToolCall, Usage
from clinvk.server.app import create_app
from clinvk.server.handlers import SERVICE
from clinvk.service import Service
from tests.fakes.backend import LiveBackend, ScriptBackend, builder, script_config
from tests.serving import API, serving

HUNG_S = 10  # a guard against hanging tests, not a measure
HI = {"model": "fake", "messages": [{"role": "user", "content": "sesame"}]}
CALL = (
    ToolCall("a", "open", '{"word": "sesame"}'),
    Usage(5, 2, cached_tokens=3, reasoning_tokens=1),
    Finished(FinishReason.TOOL_CALLS),
)


class Watched:
    """A served backend, and what was logged of it."""

    def __init__(
        self, url: str, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.url = url
        self.http = http
        self._caplog = caplog

    async def ask(self, path: str = f"{API}/chat/completions", **fields: Any) -> int:
        with anyio.fail_after(HUNG_S):
            async with self.http.post(self.url + path, json={**HI, **fields}) as reply:
                await reply.read()
                return reply.status

    async def get(self, path: str) -> tuple[int, str]:
        with anyio.fail_after(HUNG_S):
            async with self.http.get(self.url + path) as reply:
                return reply.status, await reply.text()

    async def lines(self, count: int) -> list[Any]:
        """The fields of the access log, once there are so many lines."""
        with anyio.fail_after(HUNG_S):
            while len(self._access) < count:  # noqa: ASYNC110 - a log tells nobody
                await anyio.sleep(0.01)
        return self._access

    @property
    def _access(self) -> list[Any]:
        records = [r for r in self._caplog.records if r.name == "clinvk.access"]
        return [vars(record)["clinvk"] for record in records]


@asynccontextmanager
async def watching(
    backend: ScriptBackend, caplog: pytest.LogCaptureFixture, *, log_prompts: bool = False
) -> AsyncIterator[Watched]:
    caplog.set_level(logging.INFO, "clinvk.access")
    app = create_app(script_config(), build=builder(backend), log_prompts=log_prompts)
    async with serving(app) as url, aiohttp.ClientSession() as http:
        yield Watched(url, http, caplog)


async def test_a_request_is_one_line_of_names_and_numbers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with watching(LiveBackend(CALL), caplog) as watched:
        assert await watched.ask(stream=True) == 200
        [line] = await watched.lines(1)
    assert line.pop("request").startswith("req_")
    assert 0 <= line.pop("queue_s") <= line.pop("first_s") <= line.pop("total_s")
    assert line == {
        "method": "POST",
        "path": f"{API}/chat/completions",
        "status": 200,
        "model": "fake",
        "backend": "fake",
        "turn": "new",
        "outcome": "tool_calls",
        "input_tokens": 5,
        "output_tokens": 2,
    }
    assert "sesame" not in caplog.text


async def test_a_failure_is_a_line_too(caplog: pytest.LogCaptureFixture) -> None:
    backend = ScriptBackend()
    backend.script = (OverloadedError("sesame"),)
    async with watching(backend, caplog) as watched:
        assert await watched.ask() == 502
        assert await watched.ask("/nowhere\x1b[31m here") == 404
        first, second = await watched.lines(2)
    assert (first["status"], first["outcome"]) == (502, "upstream_overloaded")
    assert "first_s" not in first
    assert "input_tokens" not in first
    assert second["path"] == "/nowhere_[31m_here"
    assert "backend" not in second
    assert "sesame" not in caplog.text


async def test_a_client_that_leaves_is_a_line_too(caplog: pytest.LogCaptureFixture) -> None:
    backend = ScriptBackend()
    backend.script = (TextDelta("a"), anyio.Event())
    async with watching(backend, caplog) as watched:
        async with watched.http.post(
            f"{watched.url}{API}/chat/completions", json={**HI, "stream": True}
        ) as reply:
            await reply.content.readline()
            reply.close()
        [line] = await watched.lines(1)
        assert line["status"] in {200, 499}
        with anyio.fail_after(HUNG_S):
            await backend.left.wait()


async def test_content_is_logged_only_if_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    async with watching(LiveBackend(CALL), caplog, log_prompts=True) as watched:
        await watched.ask()
        line, content = await watched.lines(2)
    assert content == {
        "request": line["request"],
        "messages": [{"role": "user", "text": "sesame"}],
        "answer": {
            "role": "assistant",
            "text": "",
            "calls": [{"name": "open", "arguments": '{"word": "sesame"}'}],
        },
    }


async def test_content_of_a_turn_that_never_ran_has_no_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = ScriptBackend()
    hold = anyio.Event()
    backend.script = (hold, OverloadedError("no"))
    caplog.set_level(logging.INFO, "clinvk.access")
    app = create_app(script_config(max_concurrency=1), build=builder(backend), log_prompts=True)
    async with serving(app) as url, aiohttp.ClientSession() as http:
        watched = Watched(url, http, caplog)
        async with anyio.create_task_group() as group:
            group.start_soon(watched.ask)
            with anyio.fail_after(HUNG_S):
                await backend.entered.wait()
            with anyio.move_on_after(0.1):
                await watched.ask()
            lines = await watched.lines(2)
            hold.set()
    assert [line["answer"] for line in lines if "answer" in line] == [None]


async def test_prometheus_is_told_everything(caplog: pytest.LogCaptureFixture) -> None:
    async with watching(LiveBackend(CALL, (OverloadedError("no"),)), caplog) as watched:
        await watched.ask()
        await watched.ask()
        await watched.ask("/nowhere")
        await watched.http.request("PROPFIND", f"{watched.url}/nowhere")
        status, text = await watched.get("/metrics")
    assert status == 200
    for expected in (
        'clinvk_turns_total{backend="fake",course="new",outcome="tool_calls"} 1.0',
        'clinvk_turns_total{backend="fake",course="new",outcome="upstream_overloaded"} 1.0',
        'clinvk_tokens_total{backend="fake",kind="input"} 5.0',
        'clinvk_tokens_total{backend="fake",kind="cached"} 3.0',
        f'{{method="POST",route="{API}/chat/completions",status="200"}} 1.0',
        'clinvk_http_requests_total{method="POST",route="none",status="404"} 1.0',
        'clinvk_http_requests_total{method="other",route="none",status="404"} 1.0',
        'clinvk_turn_seconds_count{backend="fake"} 2.0',
        'clinvk_first_token_seconds_count{backend="fake"} 1.0',
        'clinvk_turns_running{backend="fake"} 0.0',
        'clinvk_turns_parked{backend="fake"} 1.0',
        'clinvk_conversations_idle{backend="fake"} 0.0',
        "clinvk_info{version=",
        'clinvk_processes_running{backend="fake"} 2.0',
        'clinvk_processes_spares{backend="fake"} 1.0',
        'clinvk_processes_starts{backend="fake"} 5.0',
        'clinvk_processes_failures{backend="fake"} 3.0',
    ):
        assert expected in text


async def test_ready_means_that_a_turn_could_be_taken(caplog: pytest.LogCaptureFixture) -> None:
    backend = ScriptBackend()
    backend.found = Health(State.NOT_LOGGED_IN)
    async with watching(backend, caplog) as watched:
        status, text = await watched.get("/health/ready")
        assert (status, json.loads(text)["status"]) == (503, "not_ready")
    backend.found = Health(State.READY)
    app = create_app(script_config(), build=builder(backend))
    async with serving(app) as url, aiohttp.ClientSession() as http:
        watched = Watched(url, http, caplog)
        status, text = await watched.get("/health/ready")
        assert (status, json.loads(text)) == (
            200,
            {"status": "ready", "backends": {"fake": "ready"}},
        )
        service: Service = app[SERVICE]
        service.stop_turns()
        assert (await watched.get("/health/ready"))[0] == 503


def logged(name: str, text: str, **fields: Any) -> dict[str, Any]:
    """An event as a line of JSON, read again."""
    made = logging.getLogger(name).makeRecord(name, logging.INFO, "f", 1, text, (), None, **fields)
    event: dict[str, Any] = json.loads(JsonFormatter().format(made))
    assert event.pop("time").endswith("+00:00")
    return event


def test_json_logs_are_an_object_an_event() -> None:
    assert logged("a", "one\ntwo") == {"level": "info", "logger": "a", "message": "one\ntwo"}
    fields = {"clinvk": {"status": 200}}
    assert logged("b", "x", extra=fields) == {"level": "info", "logger": "b", "status": 200}


def test_json_logs_have_tracebacks() -> None:
    error = ValueError("boom")
    record = logging.makeLogRecord({"exc_info": (ValueError, error, None)})
    assert json.loads(JsonFormatter().format(record))["exception"] == "ValueError: boom"
