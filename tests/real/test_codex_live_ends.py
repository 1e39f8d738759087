"""The real Codex CLI in conversations that go on no more: left, failed, or told otherwise."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.backends import codex
from clinvk.backends.base import Live
from clinvk.backends.codex_server import AppServer
from clinvk.errors import (
    CliCrashedError,
    ClinvkError,
    RateLimitedError,
    UpstreamError,
    UpstreamUnreachableError,
)
from clinvk.events import (
    Failed,
    Finished,
    FinishReason,
    Started,
)
from clinvk.turn import (
    Message,
    ToolChoice,
    ToolMode,
    ToolSpec,
)
from tests.fakes.api import Reply
from tests.real.codex_talk import (
    CALLS,
    SUNNY,
    TOOLS,
    as_told,
    asked,
    go_through,
    heard,
    parked,
    rest,
    result,
    waiting,
)
from tests.real.codex_world import (
    HUNG_S,
    World,
    codex_world,
    collect,
    loaded,
    said,
    servers,
    text,
    turn,
    until,
    until_unloaded,
    watch_starts,
)

pytestmark = pytest.mark.real


@pytest.fixture
async def world(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    async with codex_world(home, tmp_path, monkeypatch) as opened:
        yield opened


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[AppServer]:
    """The app-servers that were started, in order."""
    return watch_starts(monkeypatch)


async def test_leaving_a_parked_turn_interrupts_it(world: World, started: list[AppServer]) -> None:
    world.fake.answer(CALLS)
    async with world.backend().open(asked(), "m") as events:
        await parked(events)
        assert len(await loaded(started[0])) == 1
    await until_unloaded(started[0])
    assert len(world.fake.requests) == 1


async def test_leaving_an_idle_thread_drops_it(world: World, started: list[AppServer]) -> None:
    async with world.backend().open(turn("hi"), "m") as events:
        await waiting(events, FinishReason.STOP)
        assert len(await loaded(started[0])) == 1
    await until_unloaded(started[0])


@pytest.mark.parametrize("news", [said("user", "so?"), result("call_resp_1_0", "21")])
async def test_leaving_while_it_goes_on_stops_the_answer(
    world: World, started: list[AppServer], news: Message
) -> None:
    first = Reply(tool_calls=(("get_time", {}),)) if news.call_id else Reply()
    world.fake.answer(first, Reply(hold=2))
    async with world.backend().open(asked(), "m") as events:
        await rest(events)
        assert isinstance(events, Live)
        await events.go_on((news,))
        with anyio.fail_after(HUNG_S):
            assert await anext(events) == Started("m")
    await until(lambda: world.fake.aborted == 1)
    await until_unloaded(started[0])


async def test_one_thread_that_waits_holds_up_no_other(world: World) -> None:
    world.fake.answer(CALLS, Reply(), SUNNY)
    backend = world.backend()
    async with backend.open(asked(), "m") as events:
        live = await parked(events)
        assert text(await collect(backend, asked())) == "Hello from the fake."
        await live.go_on((result("call_resp_1_0", "21"), result("call_resp_1_1", "noon")))
        assert text(await rest(live)) == "Sunny."


async def test_a_server_that_has_served_long_enough_ends_with_its_last_conversation(
    world: World, started: list[AppServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codex, "RECYCLE_AFTER", 1)
    backend = world.backend()
    async with backend.open(turn("hi"), "m") as events:
        live = await waiting(events, FinishReason.STOP)
        await until(lambda: len(started) == 2)
        async with backend.open(turn("hi"), "m") as others:
            await waiting(others, FinishReason.STOP)
            assert len(await loaded(started[1])) == 1
        assert live.waits
        await live.go_on((said("user", "so?"),))
        assert text(await rest(live)) == "Hello from the fake."
        assert started[0].alive
    await until(lambda: not started[0].alive)
    assert [item["role"] for item in heard(world)] == ["user", "assistant", "user"]


@pytest.mark.parametrize("first", [CALLS, Reply()], ids=["parked", "idle"])
async def test_what_was_killed_does_not_wait(world: World, first: Reply) -> None:
    world.fake.answer(first)
    backend = world.backend()
    news = (result("call_resp_1_0", "1"), result("call_resp_1_1", "2"))
    async with backend.open(asked(), "m") as events:
        await rest(events)
        assert isinstance(events, Live)
        assert events.waits
        for server in servers():
            server.kill()
        await until(lambda: not events.waits)
        with pytest.raises(CliCrashedError):
            await go_through(events, news if first is CALLS else (said("user", "so?"),))
    assert text(await collect(backend, asked())) != ""


async def test_a_server_that_stops_keeps_nobody_waiting(world: World) -> None:
    backend = world.backend()
    async with backend.open(asked(), "m") as events:
        live = await waiting(events, FinishReason.STOP)
        backend.close()
        assert not live.waits


BROKEN: dict[str, tuple[Reply, type[ClinvkError]]] = {
    "429": (Reply(status=429, headers={"retry-after": "7"}), RateLimitedError),
    "500": (Reply(status=500), UpstreamError),
    "cut": (Reply(cut=2), UpstreamUnreachableError),
    "cut after a call": (replace(CALLS, text=(), cut=1), UpstreamUnreachableError),
    "failed": (Reply(text=(), error={"message": "x", "code": "server_error"}), UpstreamError),
}


@pytest.mark.parametrize("first", [CALLS, Reply()], ids=["parked", "idle"])
@pytest.mark.parametrize("name", BROKEN)
async def test_a_failure_is_typed_and_not_gone_on_from(
    world: World, name: str, first: Reply
) -> None:
    reply, kind = BROKEN[name]
    world.fake.answer(first, reply)
    async with world.backend().open(asked(), "m") as events:
        calls = as_told(await rest(events)).calls
        assert isinstance(events, Live)
        news = tuple(result(call.id, "1") for call in calls) or (said("user", "so?"),)
        await events.go_on(news)
        failed = (await rest(events))[-1]
        assert isinstance(failed, Failed)
        assert type(failed.error) is kind
        assert not events.waits
    if isinstance(failed.error, RateLimitedError):
        assert failed.error.retry_after_s == 7
    assert len(world.fake.requests) == 2


@pytest.mark.parametrize(
    ("more", "reply"),
    [
        ({"parallel_calls": False}, CALLS),
        ({"tools": TOOLS[:1]}, CALLS),
        ({"tool_choice": ToolChoice(ToolMode.REQUIRED)}, CALLS),
        ({}, Reply(stop="max_output_tokens")),
        ({}, Reply(stop="refusal")),
    ],
    ids=["one at a time", "one not offered", "required", "cut short", "refused"],
)
async def test_what_the_caller_was_not_told_is_not_gone_on_from(
    world: World, started: list[AppServer], more: dict[str, Any], reply: Reply
) -> None:
    world.fake.answer(reply)
    async with world.backend().open(asked(**more), "m") as events:
        await rest(events)
        assert isinstance(events, Live)
        assert not events.waits
    await until_unloaded(started[0])


@pytest.mark.parametrize("tools", [TOOLS, ()], ids=["tools", "no tools"])
async def test_a_wrong_call_that_codex_answered_is_not_gone_on_from(
    world: World, tools: tuple[ToolSpec, ...]
) -> None:
    world.fake.answer(Reply(text=(), tool_calls=(("shell", {"command": ["ls"]}),)), SUNNY)
    async with world.backend().open(asked(tools=tools), "m") as events:
        told = await rest(events)
        assert (text(told), told[-1]) == ("Sunny.", Finished(FinishReason.STOP))
        assert isinstance(events, Live)
        assert not events.waits


async def test_a_second_try_is_gone_on_from(world: World) -> None:
    world.fake.answer(Reply(status=500), Reply(), Reply(status=500), SUNNY)
    async with world.backend(retries=1).open(turn("hi"), "m") as events:
        live = await waiting(events, FinishReason.STOP)
        await live.go_on((said("user", "so?"),))
        assert text(await rest(live)) == "Sunny."
    assert len(world.fake.requests) == 4
