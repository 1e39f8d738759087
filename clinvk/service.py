"""Runs a turn: resolve, admit, time out, enforce limits, account. Knows no HTTP and no terminal.

    start(turn) -> Stream <- bounded memory stream <- clinvk.pump (a job) <- backend

The reader owns nothing but the stream; closing it, at any time and from any task, makes the
pump leave the backend, which interrupts the CLI's turn.
"""

import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from clinvk.backends.base import Backend, Health, State
from clinvk.config import BackendConfig, Config
from clinvk.conversations import Course, Kept, Place, place_of, starts_over
from clinvk.errors import BusyError, ClinvkError, ShuttingDownError
from clinvk.events import Failed, Finished
from clinvk.fetch import Fetcher
from clinvk.gate import Gate, GateFullError, Ticket
from clinvk.procs.supervisor import Job, Supervisor
from clinvk.pump import Lane, Pump, outcome_of, run_in_place
from clinvk.registry import Registry, Target
from clinvk.telling import Ask, Item
from clinvk.turn import Turn

BUFFERED_EVENTS = 64  # a reader further behind than this slows its own turn, and no other
SWEEP_JOBS = 64  # jobs that may be remembered though they are done
HEALTH_MAX_AGE_S = 30.0
HEALTH_TIMEOUT_S = 20.0

_log = logging.getLogger(__name__)


# Told of each turn that has ended: its backend, and what became of it.
Observer = Callable[[str, Ask], None]


@dataclass(frozen=True, slots=True)
class Load:
    """What a backend has to do now: turns that run or wait, conversations that are kept."""

    running: int
    waiting: int
    parked: int
    idle: int


class Stream:
    """The events of a turn as they come, each with the number of the choice it belongs to.

    Every choice ends by a `Finished` or a `Failed`. `close` stops what still runs.
    """

    def __init__(
        self,
        target: Target,
        ignored: tuple[str, ...],
        choices: int,
        receive: MemoryObjectReceiveStream[Item],
    ) -> None:
        self.backend = target.backend.name
        self.ignored = ignored
        self.asks: list[Ask] = []
        self._open = set(range(choices))
        self._receive = receive

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        try:
            choice, event = await self._receive.receive()
        except anyio.EndOfStream:
            if not self._open:
                self._receive.close()
                raise StopAsyncIteration from None
            # Only a pump that was cancelled leaves without a word.
            choice, event = self._open.pop(), Failed(ShuttingDownError("the server is stopping"))
        if isinstance(event, Finished | Failed):
            self._open.discard(choice)
        return choice, event

    def ready(self) -> Iterator[Item]:
        """Yield what has come already, without waiting for more."""
        while True:
            try:
                choice, event = self._receive.receive_nowait()
            except (anyio.WouldBlock, anyio.EndOfStream):
                return
            if isinstance(event, Finished | Failed):
                self._open.discard(choice)
            yield choice, event

    @property
    def course(self) -> Course:
        """How the turn came about; certain once its first event has come."""
        return self.asks[0].course

    def close(self) -> None:
        """Stop every choice that still runs; returns at once."""
        for ask in self.asks:
            ask.abandon()
        self._receive.close()


class Service:
    """Every turn passes here, whoever asks for it."""

    def __init__(self, config: Config, registry: Registry, supervisor: Supervisor) -> None:
        self.registry = registry
        self.observers: list[Observer] = []
        self._supervisor = supervisor
        self._fetch = config.server.fetch
        self._lanes = {name: self._lane(name, each) for name, each in config.backends.items()}
        self._warmed = False
        self._health: dict[str, Health] = {}
        self._health_at = -math.inf
        self._health_lock = anyio.Lock()
        self._stopping = False
        self._jobs: set[Job] = set()
        self._asks: set[Ask] = set()
        self._passing: set[anyio.CancelScope] = set()
        self._sweep_at = SWEEP_JOBS

    def start(self, turn: Turn, *more: Turn, caller: str = "") -> Stream:
        """Admit a turn, or each of its choices as a turn, and return the stream of its events.

        `more` are further turns of the same model in the same stream, their choices numbered
        through. All are admitted or none. A turn may go on with a conversation of the same
        `caller` only.

        Raises:
            ClinvkError: if it cannot be run: unknown model, unsupported content, no place.
        """
        if self._stopping:
            raise ShuttingDownError("the server is stopping; ask again in a moment")
        target = self.registry.resolve(turn.model)
        check = self.registry.check
        left_out = [name for each in (turn, *more) for name in check(each, target.backend)]
        choices = [each for each in (turn, *more) for _ in range(each.choices)]
        place = None
        if len(choices) == 1:
            place = place_of(turn, caller=caller, model=target.full_name)
        lane = self._lanes[target.backend.name]
        tickets = self._admit(lane, len(choices), target.backend.name)
        send, receive = anyio.create_memory_object_stream[Item](BUFFERED_EVENTS)
        ignored = tuple(dict.fromkeys(left_out))
        stream = Stream(target, ignored, len(choices), receive)
        for choice, (each, ticket) in enumerate(zip(choices, tickets, strict=True)):
            ask = Ask(
                each, choice, target.backend.name, caller, ticket, send.clone(), starts_over(each)
            )
            self._begin(ask, target, lane, place)
            stream.asks.append(ask)
        send.close()
        return stream

    @asynccontextmanager
    async def passing(self, target: Target, asked: str, caller: str) -> AsyncIterator[Ask]:
        """Hold a place of a backend for a request that passes to it as it is.

        Whoever enters does the work, in its own task, and says what the outcome was.

        Raises:
            ClinvkError: if there is no place, or no time.
        """
        if self._stopping:
            raise ShuttingDownError("the server is stopping; ask again in a moment")
        name = target.backend.name
        lane = self._lanes[name]
        (ticket,) = self._admit(lane, 1, name)
        send, receive = anyio.create_memory_object_stream[Item]()
        receive.close()
        ask = Ask(Turn(asked, ()), 0, name, caller, ticket, send, Course.RELAYED)
        self._asks.add(ask)
        try:
            with anyio.CancelScope() as scope:
                self._passing.add(scope)
                async with run_in_place(target, lane, ask):
                    yield ask
            if scope.cancelled_caught:
                raise ShuttingDownError("the server is stopping; ask again in a moment")
        except ClinvkError as exc:
            ask.record.outcome = outcome_of(exc)
            raise
        finally:
            self._passing.discard(scope)
            self._asks.discard(ask)
            ticket.give_back()
            await ask.end(None)
            self._observe(name, ask)

    def apply(self, registry: Registry) -> None:
        """Take new backends, models and aliases for the turns to come.

        A backend that the new registry has taken over goes on as it is. The running turns of any
        other end as they began, and it with the last of them.
        """
        old, self.registry = self.registry, registry
        lanes = self._lanes
        self._lanes = {
            name: lanes[name]
            if old.backends.get(name) is backend
            else self._lane(name, registry.config.backends[name])
            for name, backend in registry.backends.items()
        }
        for name, backend in old.backends.items():
            if registry.backends.get(name) is not backend:
                self._supervisor.start(partial(self._retire, lanes[name], backend))
        self._health = {}
        if self._warmed:
            self._supervisor.start(self.warm)

    async def drain(self, grace_s: float) -> None:
        """Take no new turns, wait up to `grace_s` seconds for the running ones, stop the rest."""
        self._stopping = True
        for lane in self._lanes.values():
            for pump in lane.kept.clear():
                pump.hand(None)
        with anyio.move_on_after(grace_s):
            for ask in list(self._asks):
                await ask.told.wait()
        self.stop_turns()

    def stop_turns(self) -> None:
        """Take no new turns and stop the running ones; their readers hear of it."""
        self._stopping = True
        for job in self._jobs:
            job.cancel()
        for scope in self._passing:
            scope.cancel()

    async def warm(self) -> None:
        """Start what backends can start before their first turn; failures are logged."""
        self._warmed = True
        for name, backend in self.registry.backends.items():
            if backend.installed and self.registry.config.backends[name].warm:
                try:
                    await backend.warm()
                except ClinvkError as exc:
                    _log.warning("backend %s could not be started ahead: %s", name, exc)

    def close(self) -> None:
        """Begin to stop the processes of every backend."""
        for backend in self.registry.backends.values():
            backend.close()

    async def health(self, *, fresh: bool = False) -> dict[str, Health]:
        """Return the state of each backend; starts no turn.

        What was seen last is returned at once and looked at anew behind the scenes when it is
        older than `HEALTH_MAX_AGE_S`; only the first look, or a `fresh` one, is waited for.
        """
        if fresh or not self._health:
            async with self._health_lock:
                if fresh or not self._health:  # who waited here may find it done
                    await self._look()
        elif time.monotonic() - self._health_at > HEALTH_MAX_AGE_S:
            self._health_at = time.monotonic()
            self._supervisor.start(self._look)
        return {name: self._now(name, backend) for name, backend in self.registry.backends.items()}

    @property
    def stopping(self) -> bool:
        """Whether no new turns are taken."""
        return self._stopping

    def load(self) -> dict[str, Load]:
        """Return what each backend has to do now."""
        return {
            name: Load(
                lane.gate.running,
                lane.gate.waiting,
                lane.kept.count(Course.RESUMED),
                lane.kept.count(Course.CONTINUED),
            )
            for name, lane in self._lanes.items()
        }

    def _lane(self, name: str, config: BackendConfig) -> Lane:
        return Lane(
            Gate(config.max_concurrency, config.max_queue),
            Kept(config.max_parked, config.max_idle),
            partial(self._observe, name),
            Fetcher(self._fetch),
        )

    async def _retire(self, lane: Lane, backend: Backend) -> None:
        """Close a backend that takes no new turns once its last has ended."""
        for pump in lane.kept.close():
            pump.hand(None)
        for ask in [each for each in self._asks if each.backend == backend.name]:
            await ask.told.wait()
        backend.close()

    def _observe(self, backend: str, ask: Ask) -> None:
        for observer in self.observers:
            observer(backend, ask)

    def _now(self, name: str, backend: Backend) -> Health:
        """What was seen last, unless the CLI is known to fail since."""
        seen, trouble = self._health[name], backend.trouble
        if trouble is None or seen.state is not State.READY:
            return seen
        return replace(seen, state=State.FAILING, reason=trouble, fix="clinvk doctor")

    async def _look(self) -> None:
        looked_at: Registry | None = None
        while looked_at is not self.registry:  # it may be replaced during a look
            looked_at = self.registry
            found: dict[str, Health] = {}
            async with anyio.create_task_group() as group:
                for name, backend in looked_at.backends.items():
                    group.start_soon(_look_at, name, backend, found)
        self._health = found
        self._health_at = time.monotonic()

    def _begin(self, ask: Ask, target: Target, lane: Lane, place: Place | None) -> None:
        """Hand the turn to the conversation that it goes on with, or start a new one."""
        pump = None if place is None else _claim(lane, place)
        if pump is not None and place is not None and pump.job is not None:
            ask.news, ask.course = place.news, place.course
            job = pump.job
            pump.hand(ask)
        else:
            pump = Pump(target, lane, ask)
            job = pump.job = self._supervisor.start(pump.run)
        ask.job = job
        self._asks.add(ask)
        self._jobs.add(job)
        if len(self._jobs) > self._sweep_at:
            self._asks = {each for each in self._asks if not each.told.is_set()}
            self._jobs = {each for each in self._jobs if not each.done}
            self._sweep_at = 2 * len(self._jobs) + SWEEP_JOBS

    def _admit(self, lane: Lane, places: int, backend: str) -> list[Ticket]:
        tickets: list[Ticket] = []
        try:
            while len(tickets) < places:
                tickets.append(lane.gate.enter())
        except GateFullError:
            for ticket in tickets:
                ticket.give_back()
            gate = lane.gate
            raise BusyError(
                f"backend {backend!r} runs {gate.running} turns and {gate.waiting} more wait; "
                f"ask again later, or raise max_concurrency or max_queue in backends.yaml",
                retry_after_s=lane.retry_after_s,
            ) from None
        return tickets


async def _look_at(name: str, backend: Backend, all_found: dict[str, Health]) -> None:
    found = Health(State.FAILING, reason="it did not answer in time", fix="clinvk doctor")
    with anyio.move_on_after(HEALTH_TIMEOUT_S):
        try:
            found = await backend.health()
        except ClinvkError as exc:
            found = Health(State.FAILING, reason=exc.message, fix="clinvk doctor")
    all_found[name] = found


def _claim(lane: Lane, place: Place) -> Pump | None:
    while (pump := lane.kept.claim(place)) is not None:
        if pump.waits:
            return pump
        pump.hand(None)
    return None
