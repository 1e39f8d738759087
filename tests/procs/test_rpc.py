"""The JSON-RPC peer, against a small child that speaks as it is told."""

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.procs import process
from clinvk.procs.process import Command
from clinvk.procs.rpc import METHOD_NOT_FOUND, OnRequest, RpcClosedError, RpcError, RpcPeer
from clinvk.procs.supervisor import Supervisor

# Answers what it is asked by the method's name, and repeats on `said` what it was sent.
CHILD = r"""
import json, os, sys
def say(line):
    sys.stdout.write(line + "\n"); sys.stdout.flush()
held = []
for line in sys.stdin:
    said = json.loads(line)
    number, method, params = said.get("id"), said.get("method"), said.get("params")
    if method == "echo":
        say(json.dumps({"id": number, "result": params}))
    elif method == "fail":
        say(json.dumps({"id": number, "error": {"code": -1, "message": "no", "data": {"a": 1}}}))
    elif method == "hold":
        held.append(number)
    elif method == "release":
        for number in reversed([*held, number]):
            say(json.dumps({"id": number, "result": number}))
    elif method == "raw":
        for text in params["lines"]:
            say(text)
        say(json.dumps({"id": number, "result": None}))
    elif method == "flood":
        for _ in range(params["times"]):
            say(json.dumps({"id": "q", "method": "question", "params": {"pad": "x" * 1000}}))
        say(json.dumps({"id": number, "result": None}))
    elif method == "die":
        os._exit(3)
    else:
        say(json.dumps({"method": "said", "params": said}))
"""


class Child:
    """A peer, and the notifications that came from it."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.noise: list[bytes] = []
        self.peer: RpcPeer

    def note(self, method: str, params: dict[str, Any]) -> None:
        self.said.append((method, params))


@asynccontextmanager
async def child(
    folder: Path, *, version: str | None = None, on_request: OnRequest | None = None
) -> AsyncIterator[Child]:
    """Run the child, with its lines routed."""
    talker = Child()
    async with Supervisor() as supervisor:
        command = Command((sys.executable, "-c", CHILD), dict(os.environ), folder)
        running = await process.start(supervisor, command)
        talker.peer = RpcPeer(
            running,
            version=version,
            on_notification=talker.note,
            on_request=on_request,
            on_noise=talker.noise.append,
        )
        supervisor.start(talker.peer.serve)
        with anyio.fail_after(20):
            yield talker


async def test_a_reply_comes_to_the_request_it_answers(tmp_path: Path) -> None:
    async with child(tmp_path) as talker:
        got: dict[str, Any] = {}

        async def ask(method: str) -> None:
            got[method] = await talker.peer.request(method)

        async with anyio.create_task_group() as group:
            group.start_soon(ask, "hold")
            await anyio.wait_all_tasks_blocked()
            group.start_soon(ask, "release")
    assert got == {"hold": 1, "release": 2}


async def test_params_and_results_are_carried_whole(tmp_path: Path) -> None:
    params = {"text": "a\u2028\u00e9\U0001f600\r\n" * 50_000, "none": None}
    async with child(tmp_path) as talker:
        assert await talker.peer.request("echo", params) == params


async def test_an_error_keeps_code_message_and_data(tmp_path: Path) -> None:
    async with child(tmp_path) as talker:
        with pytest.raises(RpcError) as caught:
            await talker.peer.request("fail")
    assert (caught.value.code, caught.value.message, caught.value.data) == (-1, "no", {"a": 1})


@pytest.mark.parametrize(("version", "header"), [(None, {}), ("2.0", {"jsonrpc": "2.0"})])
async def test_the_header_is_as_the_protocol_has_it(
    tmp_path: Path, version: str | None, header: dict[str, str]
) -> None:
    async with child(tmp_path, version=version) as talker:
        await talker.peer.notify("hello", {"a": 1})
        await talker.peer.request("echo")
    assert talker.said == [("said", {**header, "method": "hello", "params": {"a": 1}})]


async def test_lines_that_are_no_messages_are_skipped(tmp_path: Path) -> None:
    lines = [
        "",
        "warning: x",
        "[1, 2]",
        "7",
        "[" * 100_000,
        '{"id": 99, "result": 1}',
        '{"id": {}}',
    ]
    async with child(tmp_path) as talker:
        await talker.peer.request("raw", {"lines": lines})
    assert talker.said == []
    assert talker.noise == [b"", b"warning: x", b"[" * 100_000]


async def test_odd_messages_do_no_harm(tmp_path: Path) -> None:
    lines = ['{"method": "m", "params": [1]}', '{"id": 1, "error": "text"}']
    async with child(tmp_path) as talker:
        assert await talker.peer.request("raw", {"lines": lines}) is None
    assert talker.said == [("m", {})]


async def test_a_request_nobody_handles_is_refused(tmp_path: Path) -> None:
    question = {"id": "q1", "method": "approve?", "params": {}}
    async with child(tmp_path) as talker:
        await talker.peer.request("raw", {"lines": [json.dumps(question)]})
        while not talker.said:
            await talker.peer.request("echo")
    error = {"code": METHOD_NOT_FOUND, "message": "'approve?' is not known here"}
    assert talker.said == [("said", {"id": "q1", "error": error})]


async def test_a_handler_answers_incoming_requests(tmp_path: Path) -> None:
    async def answer(number: int | str, method: str, params: dict[str, Any]) -> None:
        await talker.peer.reply(number, {method: params})

    question = {"id": 5, "method": "ask", "params": {"a": 1}}
    async with child(tmp_path, on_request=answer) as talker:
        await talker.peer.request("raw", {"lines": [json.dumps(question)]})
        while not talker.said:
            await talker.peer.request("echo")
    assert talker.said == [("said", {"id": 5, "result": {"ask": {"a": 1}}})]


async def test_a_flood_of_questions_does_not_jam_both_sides(tmp_path: Path) -> None:
    async with child(tmp_path) as talker:
        await talker.peer.request("flood", {"times": 3000})
        while len(talker.said) < 3000:
            await talker.peer.request("echo")
    assert len(talker.said) == 3000


async def test_the_death_of_the_child_fails_what_is_pending_and_what_comes(tmp_path: Path) -> None:
    async with child(tmp_path) as talker:
        failed: list[str] = []

        async def ask(method: str) -> None:
            with pytest.raises(RpcClosedError):
                await talker.peer.request(method)
            failed.append(method)

        async with anyio.create_task_group() as group:
            group.start_soon(ask, "hold")
            await anyio.wait_all_tasks_blocked()
            group.start_soon(ask, "die")
        assert sorted(failed) == ["die", "hold"]
        assert talker.peer.closed
        with pytest.raises(RpcClosedError):
            await talker.peer.request("echo")


async def test_a_line_without_end_closes_the_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 10_000
    lines = process.Process.lines
    monkeypatch.setattr(process.Process, "lines", lambda child: lines(child, limit))
    async with child(tmp_path) as talker:
        with pytest.raises(RpcClosedError, match="longer than 10000 bytes"):
            await talker.peer.request("raw", {"lines": ["x" * 2 * limit]})


async def test_a_cancelled_request_does_not_take_the_next_reply(tmp_path: Path) -> None:
    async with child(tmp_path) as talker:
        async with anyio.create_task_group() as group:
            group.start_soon(talker.peer.request, "hold")
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        assert await talker.peer.request("release") == 2
