"""Conversations that go on through a whole server, clinvk over the real Codex CLI."""

import json
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from clinvk.backends.codex_server import AppServer
from tests.fakes.api import Captured, Reply
from tests.real.bridge import Bridge, bridge, clean_environment
from tests.real.codex_world import HUNG_S, until, until_unloaded, watch_starts

pytestmark = pytest.mark.real

Json = dict[str, Any]
CALLS = Reply(text=("Let me", " see."), tool_calls=(("f", {"x": 1}), ("g", {})))
DONE = Reply(text=("done",))
HI = {"role": "user", "content": "hi"}


def tool(name: str) -> Json:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


@pytest.fixture(autouse=True)
def clean_world(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave nothing of the machine's environment but PATH."""
    clean = clean_environment(home)
    for name in os.environ:
        if not name.startswith(("PYTEST_", "COV")):
            monkeypatch.delenv(name)
    for name, value in clean.items():
        monkeypatch.setenv(name, value)
    (home.parent / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", clean["TMPDIR"])


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[AppServer]:
    """The app-servers that were started, in order."""
    return watch_starts(monkeypatch)


@pytest.fixture
async def served(home: Path, started: list[AppServer]) -> AsyncIterator[Bridge]:
    async with bridge("codex", home) as running:
        assert started == []
        yield running


async def ask(served: Bridge, *messages: Json, **more: Any) -> tuple[str, Json]:
    """Ask with tools, streaming; return how the turn came about, and the message put together."""
    fields = {"tools": [tool("f"), tool("g")], "stream": True, **more}
    said: Json = {"role": "assistant", "content": ""}
    calls: dict[int, Json] = {}
    with anyio.fail_after(HUNG_S):
        async with served.post(messages=list(messages), **fields) as reply:
            assert reply.status == 200, await reply.text()
            how: str = reply.headers["x-clinvk-turn"]
            async for line in reply.content:
                if not line.startswith(b"data: {"):
                    continue
                for choice in json.loads(line[6:])["choices"]:
                    delta = choice["delta"]
                    said["content"] += delta.get("content") or ""
                    for piece in delta.get("tool_calls", ()):
                        call = calls.setdefault(piece["index"], {"function": {"arguments": ""}})
                        call.update({k: piece[k] for k in ("id", "type") if k in piece})
                        told = piece["function"]
                        call["function"]["name"] = told.get("name") or call["function"]["name"]
                        call["function"]["arguments"] += told.get("arguments") or ""
    if calls:
        said["tool_calls"] = [calls[index] for index in sorted(calls)]
    return how, said


def results(asking: Json) -> list[Json]:
    return [
        {"role": "tool", "tool_call_id": call["id"], "content": f"{call['function']['name']} says"}
        for call in asking["tool_calls"]
    ]


def heard(served: Bridge, at: int = -1) -> list[Json]:
    """The conversation that the model heard, each item in short."""
    return [
        {
            "type": item["type"],
            "role": item.get("role"),
            "text": "".join(part["text"] for part in item.get("content", ())),
            "call": item.get("call_id"),
            "output": item.get("output"),
        }
        for item in served.fake.requests[at].body["input"]
        if item["type"] != "additional_tools"  # stands before the conversation
    ]


async def test_an_agent_goes_on_and_its_user_too(served: Bridge) -> None:
    served.fake.answer(CALLS, Reply(text=(), tool_calls=(("g", {}),)), DONE, Reply(text=("more",)))
    history = [HI]
    courses = []
    for question in (None, None, {"role": "user", "content": "and?"}, None):
        how, said = await ask(served, *history)
        courses.append(how)
        history += [said, *(results(said) if "tool_calls" in said else ())]
        history += [question] if question else []
    assert courses == ["new", "resumed", "resumed", "continued"]
    assert [message["content"] for message in history if message["role"] == "assistant"] == [
        *("Let me see.", "", "done", "more")
    ]
    assert len(served.fake.requests) == 4
    how, _ = await ask(served, *history[:-1])
    assert how == "new"
    assert heard(served, -2) == heard(served)
    assert [item["type"] for item in heard(served)] == [
        *("message", "message", "function_call", "function_call"),
        *("function_call_output", "function_call_output"),
        *("function_call", "function_call_output", "message", "message"),
    ]


async def test_branches_of_one_conversation_are_each_answered_right(served: Bridge) -> None:
    def echo(request: Captured) -> Reply:
        return Reply(text=("after ", request.body["input"][-1]["content"][0]["text"]))

    served.fake.script = echo
    _, first = await ask(served, HI)
    told: dict[str, tuple[str, Json]] = {}

    async def branch(word: str) -> None:
        told[word] = await ask(served, HI, first, {"role": "user", "content": word})

    async with anyio.create_task_group() as group:
        for word in ("left", "right", "up"):
            group.start_soon(branch, word)
    assert sorted(how for how, _ in told.values()) == ["continued", "new", "new"]
    assert {word: said["content"] for word, (_, said) in told.items()} == {
        word: f"after {word}" for word in told
    }
    for at in (-3, -2, -1):
        texts = [item["text"] for item in heard(served, at)]
        assert texts[:2] == ["hi", "after hi"]
        assert len(texts) == 3
    for word, (_, answer) in told.items():  # each of them can be gone on with
        asked = {"role": "user", "content": word}
        how, said = await ask(served, HI, first, asked, answer, {"role": "user", "content": "x"})
        assert (how, said["content"]) == ("continued", "after x")


async def test_results_for_a_parked_turn_that_was_told_otherwise_start_anew(
    served: Bridge,
) -> None:
    served.fake.answer(CALLS, DONE)
    _, asking = await ask(served, HI)
    edited = {**asking, "content": "Let me think."}
    assert (await ask(served, HI, edited, *results(asking)))[0] == "replayed"
    assert heard(served)[1]["text"] == "Let me think."
    assert (await ask(served, HI, asking, *results(asking)))[0] == "resumed"


async def test_json_is_gone_on_with(served: Bridge) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form = {
        "type": "json_schema",
        "json_schema": {"name": "n", "strict": True, "schema": schema},
    }
    served.fake.answer(Reply(text=('{"n": 1}',)))
    _, said = await ask(served, HI, response_format=form)
    how, said = await ask(served, HI, said, HI, response_format=form)
    assert (how, said["content"]) == ("continued", '{"n": 1}')
    assert served.fake.requests[-1].body["text"]["format"]["schema"] == schema


async def test_a_parked_turn_nobody_comes_back_to_is_interrupted(
    started: list[AppServer], home: Path
) -> None:
    async with bridge("codex", home, park_s=0.01) as served:
        served.fake.answer(CALLS, DONE)
        _, asking = await ask(served, HI)
        await until_unloaded(started[0])
        how, said = await ask(served, HI, asking, *results(asking))
        assert (how, said["content"]) == ("replayed", "done")


async def test_a_server_that_stops_leaves_no_parked_turn(home: Path) -> None:
    async with bridge("codex", home) as served:
        served.fake.answer(CALLS, DONE)
        _, asking = await ask(served, HI)
        _, said = await ask(served, {"role": "user", "content": "other"})
        assert said["content"] == "done"
        assert psutil.Process().children(recursive=True)
    assert psutil.Process().children(recursive=True) == []
    assert list((home.parent / "tmp").iterdir()) == []
    async with bridge("codex", home) as served:
        served.fake.answer(DONE)
        how, said = await ask(served, HI, asking, *results(asking))
        assert (how, said["content"]) == ("replayed", "done")


async def test_a_codex_that_dies_between_two_turns_is_not_noticed(
    served: Bridge, started: list[AppServer]
) -> None:
    served.fake.answer(CALLS, DONE)
    _, asking = await ask(served, HI)
    for child in psutil.Process().children(recursive=True):
        child.kill()
    how, said = await ask(served, HI, asking, *results(asking))
    assert said["content"] == "done"
    assert how == "replayed"
    await until(lambda: len(started) == 2)
