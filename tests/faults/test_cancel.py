"""A turn that is cancelled at its first wait, its second, its third …: nothing is ever left.

The pump of a turn is driven step by step, and cancelled at the n-th of its waits; n grows until
the turn ends by itself. What asks and listens is the service, as the server uses it.
"""

from collections.abc import Awaitable, Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from clinvk.events import Event, Failed, Finished, FinishReason, Started, TextDelta, ToolCall, Usage
from clinvk.procs.supervisor import Job, Supervisor
from clinvk.registry import Registry
from clinvk.service import Service
from clinvk.stream import Stream
from clinvk.turn import Message, PriorCall, Role, TextPart, ToolSpec, Turn
from tests.fakes.backend import LiveBackend, script_config
from tests.faults.books import HUNG_S, until
from tests.faults.conftest import DRIVEN, made

MODELS = {"acp": "acp/n"}  # the choice of a model is a wait of its own
MOST_WAITS = 400  # a guard against a turn that never ends, not a measure


class Stepwise:
    """Awaits work, and calls `at` when it has waited `number` times."""

    def __init__(self, work: Awaitable[None], number: int, at: Callable[[], None]) -> None:
        self._work = work.__await__()
        self._number = number
        self._at = at
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, None]:
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                waited = self._work.send(value) if error is None else self._work.throw(error)
            except StopIteration:
                return
            self.waits += 1
            if self.waits == self._number:
                self._at()
            value = error = None
            try:
                value = yield waited
            except BaseException as exc:  # noqa: BLE001 - it is the work's to see
                error = exc


class CancellingSupervisor:
    """Cancels the first job that is started, a turn's pump, at its n-th wait."""

    def __init__(self, real: Supervisor, number: int) -> None:
        self._real = real
        self._number = number
        self._armed = True
        self.cancelled = False

    def start(self, work: Callable[[], Awaitable[None]]) -> Job:
        if not self._armed:
            return self._real.start(work)
        self._armed = False
        jobs: list[Job] = []

        def cancel() -> None:
            self.cancelled = True
            jobs[0].cancel()

        async def stepwise() -> None:
            await Stepwise(work(), self._number, cancel)

        jobs.append(self._real.start(stepwise))
        return jobs[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


async def last_of(stream: Stream) -> Event:
    with anyio.fail_after(HUNG_S):
        events = [event async for _, event in stream]
    stream.close()
    ends = [event for event in events if isinstance(event, Finished | Failed)]
    assert ends == events[-1:]
    return ends[0]


def asked(model: str) -> Turn:
    return Turn(model, (Message(Role.USER, (TextPart("hi"),)),))


async def cancelled_everywhere(service: Service, name: str, model: str) -> int:
    """Cancel a turn at its first wait, and so on until one ends; return how often it waited."""
    real = service._supervisor
    for number in range(1, MOST_WAITS):
        cancelling: Any = CancellingSupervisor(real, number)
        service._supervisor = cancelling
        ended = await last_of(service.start(asked(model)))
        service._supervisor = real
        # The whole answer may have come before the wait at which it was cancelled.
        right = ended == Finished(FinishReason.STOP)
        assert right or isinstance(ended, Failed), ended
        await until(lambda: not service.load()[name].running, service.load)
        if not cancelling.cancelled:
            assert right
            return number
    raise AssertionError("the turn never ended")


@pytest.mark.parametrize("adapter", DRIVEN)
async def test_a_turn_cancelled_at_any_wait_leaves_nothing(adapter: str, tmp_path: Path) -> None:
    async with made(adapter, tmp_path) as world:
        # First with a CLI that is not up yet, then with one that is.
        model = MODELS.get(adapter, adapter)
        cold = await cancelled_everywhere(world.service, adapter, model)
        warm = await cancelled_everywhere(world.service, adapter, model)
        assert min(cold, warm) > 3
        assert (await world.ask()).right
        await world.at_rest()


CALLED = (ToolCall("a", "f", "{}"), Usage(1, 1), Finished(FinishReason.TOOL_CALLS))
SAID = (Started("m"), TextDelta("yes"), Usage(1, 1), Finished(FinishReason.STOP))
FIRST = Turn("fake", asked("fake").messages, tools=(ToolSpec("f"),))
RESULTS = Turn(
    "fake",
    (
        *FIRST.messages,
        Message(Role.ASSISTANT, calls=(PriorCall("a", "f", "{}"),)),
        Message(Role.TOOL, (TextPart("1"),), call_id="a"),
    ),
    tools=FIRST.tools,
)


def is_left(backend: LiveBackend) -> bool:
    return backend.running == 0


@pytest.mark.parametrize("parks", [False, True])
async def test_the_service_cancelled_at_any_wait_balances(*, parks: bool) -> None:
    """With a conversation that was parked, the wait for its results and the turn after, too."""
    number = 0
    cancelled = True
    while cancelled:
        number += 1
        assert number < MOST_WAITS
        async with Supervisor() as supervisor:
            backend = LiveBackend(*((CALLED, SAID, SAID, SAID) if parks else (SAID, SAID)))
            config = script_config(max_concurrency=1)
            cancelling: Any = CancellingSupervisor(supervisor, number)
            service = Service(config, Registry(config, {"fake": backend}), cancelling)
            await last_of(service.start(FIRST))
            if parks:
                await last_of(service.start(RESULTS))
            cancelled = cancelling.cancelled
            assert await last_of(service.start(asked("fake"))) == SAID[-1]
            await service.drain(HUNG_S)
            await until(partial(is_left, backend), partial(repr, backend))
            load = service.load()["fake"]
            assert (load.running, load.waiting, load.parked, load.idle) == (0, 0, 0, 0)
    assert number > 2
