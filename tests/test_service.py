"""The service, over a backend that plays a script."""

import asyncio
import logging
from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from clinvk.backends.base import Health, State
from clinvk.errors import (
    BusyError,
    CliProtocolError,
    InternalError,
    ModelNotFoundError,
    OverloadedError,
    ShuttingDownError,
    TurnTimeoutError,
    UnsupportedError,
)
from clinvk.events import Event, Failed, Finished, FinishReason, ReasoningDelta, TextDelta, Usage
from clinvk.procs.supervisor import Supervisor
from clinvk.registry import Registry
from clinvk.service import Service
from clinvk.stream import Stream
from clinvk.turn import Limits, Message, Role, TextPart, Turn
from tests.fakes.backend import ANSWER, ScriptBackend, script_config

HELLO = (Message(Role.USER, (TextPart("hello world"),)),)
TURN = Turn("fake", HELLO)


@pytest.fixture
def backend() -> ScriptBackend:
    return ScriptBackend()


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    async with Supervisor() as running:
        yield running


def make(backend: ScriptBackend, supervisor: Supervisor, **limits: float) -> Service:
    config = script_config(**limits)
    return Service(config, Registry(config, {"fake": backend}), supervisor)


async def events(stream: Stream) -> list[Event]:
    with anyio.fail_after(10):
        return [event async for _, event in stream]


async def test_events_pass_through_in_order(backend: ScriptBackend, supervisor: Supervisor) -> None:
    assert await events(make(backend, supervisor).start(TURN)) == list(ANSWER)


async def test_the_model_after_the_slash_is_the_clis(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    service = make(backend, supervisor)
    for asked in ("fake", "fake/a/b", "alias-x", "short"):
        await events(service.start(Turn(asked, HELLO)))
    assert [model for _, model in backend.turns] == [None, "a/b", "alias-x", None]


async def test_an_unknown_model_lists_what_exists(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    for asked in ("nope", "nope/x", "fake/"):
        with pytest.raises(ModelNotFoundError) as caught:
            make(backend, supervisor).start(Turn(asked, HELLO))
        assert "there are: fake, short" in caught.value.message


async def test_what_the_backend_refuses_starts_nothing(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    backend.refusal = UnsupportedError("no", param="tools")
    with pytest.raises(UnsupportedError):
        make(backend, supervisor).start(TURN)
    assert backend.turns == []


async def test_ignored_fields_of_dialect_and_backend_are_told(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    backend.ignores = ("reasoning_effort",)
    stream = make(backend, supervisor).start(Turn("fake", HELLO, ignored=("seed",)))
    assert stream.ignored == ("seed", "reasoning_effort")
    await events(stream)


async def test_usage_is_estimated_only_if_none_is_reported(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    backend.script = (ReasoningDelta("hello"), TextDelta("a b c"), Finished(FinishReason.STOP))
    assert await events(make(backend, supervisor).start(TURN)) == [
        ReasoningDelta("hello"),
        TextDelta("a b c"),
        Usage(input_tokens=2, output_tokens=4, reasoning_tokens=1, estimated=True),
        Finished(FinishReason.STOP),
    ]


async def test_a_limit_leaves_the_backend_at_once(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    backend.script = (TextDelta("one two three four"), anyio.Event())
    turn = Turn("fake", HELLO, limits=Limits(max_tokens=2))
    assert (await events(make(backend, supervisor).start(turn)))[-1] == Finished(
        FinishReason.LENGTH
    )
    assert backend.running == 0


async def test_closing_the_stream_leaves_the_backend(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    backend.script = (TextDelta("a"), anyio.Event())
    stream = make(backend, supervisor).start(TURN)
    with anyio.fail_after(5):
        await anext(stream)
        stream.close()
        await backend.left.wait()
    assert backend.running == 0


async def test_a_raw_cancel_of_the_reader_leaves_the_backend(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    backend.script = (anyio.Event(),)
    service = make(backend, supervisor)

    async def read() -> None:
        stream = service.start(TURN)
        try:
            await anext(stream)
        finally:
            stream.close()

    task = asyncio.create_task(read())
    with anyio.fail_after(5):
        await backend.entered.wait()
        task.cancel()
        await backend.left.wait()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_choices_are_turns_of_their_own(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    stream = make(backend, supervisor).start(Turn("fake", HELLO, choices=3))
    got: dict[int, list[Event]] = {}
    with anyio.fail_after(5):
        async for choice, event in stream:
            got.setdefault(choice, []).append(event)
    assert got == {0: list(ANSWER), 1: list(ANSWER), 2: list(ANSWER)}


async def test_more_than_the_queue_holds_is_refused(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    backend.script = (anyio.Event(),)
    service = make(backend, supervisor, max_concurrency=1, max_queue=1)
    first, second = service.start(TURN), service.start(TURN)
    with pytest.raises(BusyError) as caught:
        service.start(TURN)
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s >= 1
    second.close()
    first.close()


async def test_choices_that_do_not_all_fit_take_no_place(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    service = make(backend, supervisor, max_concurrency=1, max_queue=0)
    with pytest.raises(BusyError):
        service.start(Turn("fake", HELLO, choices=2))
    assert await events(service.start(TURN)) == list(ANSWER)


async def test_the_next_in_line_runs_when_a_reader_goes(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    hold = anyio.Event()
    backend.script = (hold, *ANSWER)
    service = make(backend, supervisor, max_concurrency=1)
    first, second = service.start(TURN), service.start(TURN)
    with anyio.fail_after(5):
        await backend.entered.wait()
    first.close()
    hold.set()
    assert await events(second) == list(ANSWER)


@pytest.mark.parametrize(
    ("limits", "word"), [({"timeout_s": 0.01}, "timeout_s"), ({"silence_s": 0.01}, "silence_s")]
)
async def test_a_turn_over_its_time_fails_by_the_limit(
    backend: ScriptBackend, supervisor: Supervisor, limits: dict[str, float], word: str
) -> None:
    backend.script = (TextDelta("a"), anyio.Event())
    end = (await events(make(backend, supervisor, **limits).start(TURN)))[-1]
    assert isinstance(end, Failed)
    assert isinstance(end.error, TurnTimeoutError)
    assert word in end.error.message
    assert backend.running == 0


async def test_an_error_of_the_backend_is_the_last_event(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    error = OverloadedError("try later")
    for script in ((TextDelta("a"), error), (TextDelta("a"), Failed(error))):
        backend.script = script
        assert await events(make(backend, supervisor).start(TURN)) == [
            TextDelta("a"),
            Failed(error),
        ]
    backend.script = (ExceptionGroup("task group", [error]),)
    assert await events(make(backend, supervisor).start(TURN)) == [Failed(error)]


async def test_a_bug_is_logged_and_told_as_one(
    backend: ScriptBackend, supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    backend.script = (ZeroDivisionError("boom"),)
    with caplog.at_level(logging.ERROR):
        (end,) = await events(make(backend, supervisor).start(TURN))
    assert isinstance(end, Failed)
    assert isinstance(end.error, InternalError)
    assert "boom" not in end.error.message
    assert "boom" in caplog.text


async def test_an_answer_without_an_end_is_an_error(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    backend.script = (TextDelta("a"),)
    end = (await events(make(backend, supervisor).start(TURN)))[-1]
    assert isinstance(end, Failed)
    assert isinstance(end.error, CliProtocolError)


async def test_draining_waits_for_running_turns(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    hold = anyio.Event()
    backend.script = (hold, *ANSWER)
    service = make(backend, supervisor)
    stream = service.start(TURN)
    async with anyio.create_task_group() as group:
        group.start_soon(service.drain, 60.0)
        with anyio.fail_after(5):
            await backend.entered.wait()
            hold.set()
            assert await events(stream) == list(ANSWER)
    with pytest.raises(ShuttingDownError):
        service.start(TURN)


async def test_what_still_runs_after_the_grace_hears_why(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    backend.script = (TextDelta("a"), anyio.Event())
    service = make(backend, supervisor)
    stream = service.start(TURN)
    with anyio.fail_after(5):
        await backend.entered.wait()
        await service.drain(0)
    *_, end = await events(stream)
    assert isinstance(end, Failed)
    assert isinstance(end.error, ShuttingDownError)


async def test_health_is_remembered_and_renewed_behind_the_scenes(
    backend: ScriptBackend, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make(backend, supervisor)
    first = backend.found
    assert await service.health() == {"fake": first}
    await service.health()
    assert backend.looks == 1
    backend.found = Health(State.NOT_LOGGED_IN)
    monkeypatch.setattr("clinvk.checks.HEALTH_MAX_AGE_S", -1.0)
    assert await service.health() == {"fake": first}
    assert await service.health(fresh=True) == {"fake": backend.found}


async def test_who_asks_during_the_first_look_waits_for_it(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    backend.hold = anyio.Event()
    service = make(backend, supervisor)
    got: list[dict[str, Health]] = []

    async def ask() -> None:
        got.append(await service.health())

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        backend.hold.set()
    assert got == [{"fake": backend.found}] * 2
    assert backend.looks == 1


async def test_a_slow_reader_slows_its_own_turn_alone(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    backend.script = (*(TextDelta("x") for _ in range(500)), *ANSWER)
    service = make(backend, supervisor)
    slow = service.start(TURN)
    assert len(await events(service.start(TURN))) == 505
    assert backend.running == 1
    assert len(await events(slow)) == 505


async def test_warming_starts_what_is_installed(
    backend: ScriptBackend, supervisor: Supervisor
) -> None:
    service = make(backend, supervisor)
    await service.warm()
    service.close()
    assert (backend.warmed, backend.closed) == (1, True)
