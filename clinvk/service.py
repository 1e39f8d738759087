"""Runs a turn: resolve, admit, time out, enforce limits, account. Knows no HTTP and no terminal.

    start(turn) -> Stream <- bounded memory stream <- clinvk.pump (a job) <- backend

The reader owns nothing but the stream; closing it, at any time and from any task, makes the
pump leave the backend, which interrupts the CLI's turn.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio

from clinvk.backends.base import Backend, Health
from clinvk.checks import Checks
from clinvk.config import BackendConfig, Config
from clinvk.conversations import Course, Kept, Key, Place, has_begun, heads, place_of, starts_over
from clinvk.errors import BusyError, ClinvkError, ShuttingDownError
from clinvk.fetch import Fetcher
from clinvk.gate import Gate, GateFullError, Ticket
from clinvk.procs.supervisor import Job, Supervisor
from clinvk.pump import Lane, Pump, run_in_place
from clinvk.registry import Registry, Route, Target
from clinvk.routing import Router, Way
from clinvk.stream import BUFFERED_EVENTS, Stream
from clinvk.telling import Ask, Item, Record
from clinvk.turn import Turn

SWEEP_JOBS = 64  # jobs that may be remembered though they are done

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


@dataclass(frozen=True, slots=True)
class _Placed:
    """Who runs a turn, or choices together, where it goes on if it can, and its places."""

    target: Target
    lane: Lane
    ignored: tuple[str, ...]
    place: Place | None
    tickets: list[Ticket]


class Service:
    """Every turn passes here, whoever asks for it."""

    def __init__(self, config: Config, registry: Registry, supervisor: Supervisor) -> None:
        self.registry = registry
        self.observers: list[Observer] = []
        self._supervisor = supervisor
        self._router = Router(free=self._has_place)
        self._fetch = config.server.fetch
        self._lanes = {name: self._lane(name, each) for name, each in config.backends.items()}
        self._warmed = False
        self._checks = Checks(lambda: self.registry, supervisor)
        self._stopping = False
        self._jobs: set[Job] = set()
        self._asks: set[Ask] = set()
        self._passing: set[anyio.CancelScope] = set()
        self._sweep_at = SWEEP_JOBS

    def way_of(self, route: Route, known: tuple[Key, ...] = ()) -> Way:
        """Return in which order those are asked who may answer.

        `known` is by what the conversation so far is remembered, the closest first.
        """
        return self._router.way(route, known)

    def start(self, turn: Turn, *more: Turn, caller: str = "", way: Way | None = None) -> Stream:
        """Admit a turn, or each of its choices as a turn, and return the stream of its events.

        `more` are further turns of the same model in the same stream, their choices numbered
        through. All are admitted or none. A turn may go on with a conversation of the same
        `caller` only. `way` is who is asked, if that has begun or is not what the model means.

        Raises:
            ClinvkError: if nobody can run it: unknown model, unsupported content, no place.
        """
        if self._stopping:
            raise ShuttingDownError("the server is stopping; ask again in a moment")
        if way is None:
            way = self._way_for(turn, caller)
        choices = [each for each in (turn, *more) for _ in range(each.choices)]
        placed = self._placed(way, choices, caller)
        send, receive = anyio.create_memory_object_stream[Item](BUFFERED_EVENTS)
        stream = Stream(way, len(choices), receive)
        for choice, (each, ticket) in enumerate(zip(choices, placed.tickets, strict=True)):
            name = placed.target.backend.name
            ask = Ask(each, choice, name, caller, ticket, send.clone(), starts_over(each))
            ask.together = stream.asks
            stream.asks.append(ask)
            ask.way = way if len(choices) == 1 else way.split()
            self._begin(ask, placed)
        send.close()
        return stream

    @asynccontextmanager
    async def passing(
        self, target: Target, asked: str, caller: str, way: Way | None = None
    ) -> AsyncIterator[Ask]:
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
        ask = Ask(Turn(asked, ()), 0, name, caller, ticket, send, Course.RELAYED, way=way)
        ask.answering = target.full_name
        self._asks.add(ask)
        try:
            with anyio.CancelScope() as scope:
                self._passing.add(scope)
                async with run_in_place(target, lane, ask):
                    yield ask
            if scope.cancelled_caught:
                raise ShuttingDownError("the server is stopping; ask again in a moment")
        except ClinvkError as exc:
            ask.record.outcome = exc.name
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
        self._checks.forget()
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
        """Return the state of each backend; see `Checks.health`."""
        return await self._checks.health(fresh=fresh)

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
            self._onward,
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
        way = ask.way
        if way is None or len(way.route.candidates) == 1 or ask.record.first is None:
            return
        keys = way.keys
        if not keys and way.route.sticky:
            reply = None if ask.reply is None or has_begun(ask.turn) else ask.reply()
            keys = heads(ask.turn, reply, caller=ask.caller)
        self._router.answered(ask.answering, keys)

    def _placed(self, way: Way, choices: list[Turn], caller: str) -> "_Placed":
        """Return the first on the way that can take the turns, with their places.

        Raises:
            ClinvkError: if there is none.
        """
        while True:
            target = way.take()
            try:
                return self._try(target, choices, caller)
            except ClinvkError as exc:
                told = way.after(exc)
                if told is not None:
                    raise told from None

    def _try(self, target: Target, choices: list[Turn], caller: str) -> "_Placed":
        name = target.backend.name
        if self.registry.backends.get(name) is not target.backend:  # since the way was made
            raise ShuttingDownError(f"backend {name!r} was just replaced; ask again")
        lane = self._lanes[name]
        check = self.registry.check
        # Choices of a turn are the same turn, and its fields need be looked at once.
        each_turn = {id(each): each for each in choices}.values()
        left_out = [field for each in each_turn for field in check(each, target.backend)]
        place = None
        if len(choices) == 1:
            place = place_of(choices[0], caller=caller, model=target.full_name)
        tickets = self._admit(lane, len(choices), name)
        return _Placed(target, lane, tuple(dict.fromkeys(left_out)), place, tickets)

    def _begin(self, ask: Ask, placed: "_Placed") -> None:
        """Hand the turn to the conversation that it goes on with, or start a new one."""
        ask.backend, ask.answering = placed.target.backend.name, placed.target.full_name
        ask.ignored = placed.ignored
        place = placed.place
        pump = None if place is None else _claim(placed.lane, place)
        if pump is not None and place is not None and pump.job is not None:
            ask.news, ask.course = place.news, place.course
            job = pump.job
            pump.hand(ask)
        else:
            ask.news, ask.course = (), starts_over(ask.turn)
            pump = Pump(placed.target, placed.lane, ask)
            job = pump.job = self._supervisor.start(pump.run)
        ask.job = job
        self._asks.add(ask)
        self._jobs.add(job)
        if len(self._jobs) > self._sweep_at:
            self._asks = {each for each in self._asks if not each.told.is_set()}
            self._jobs = {each for each in self._jobs if not each.done}
            self._sweep_at = 2 * len(self._jobs) + SWEEP_JOBS

    def _onward(self, ask: Ask, error: ClinvkError) -> ClinvkError | None:
        """Have the next on its way answer a turn; return what to tell if there is none."""
        way = ask.way
        if way is None or ask.left or self._stopping:
            return error
        told = way.after(error)
        if told is None:
            try:
                placed = self._placed(way, [ask.turn], ask.caller)
            except ClinvkError as exc:
                return exc
            failed, following = ask.answering, placed.target.full_name
            _log.info("%s failed with %s, so %s is asked", failed, error.name, following)
            ask.record.ended = time.monotonic()
            self._observe(ask.backend, ask)
            ask.record = Record(asked=ask.record.asked)
            (ask.ticket,) = placed.tickets
            self._begin(ask, placed)
        return told

    def _way_for(self, turn: Turn, caller: str) -> Way:
        """Return who is asked for a turn, who still holds its conversation first."""
        route = self.registry.route(turn.model)
        if len(route.candidates) == 1 or not has_begun(turn):
            return self._router.way(route)
        way = self._router.way(route, heads(turn, caller=caller))
        for target in way.ahead if route.sticky else ():
            place = place_of(turn, caller=caller, model=target.full_name)
            lane = self._lanes[target.backend.name]
            if place is not None and lane.kept.holds(place) and not self._router.rests(target):
                way.put_back(target)
                break
        return way

    def _has_place(self, target: Target) -> bool:
        gate = self._lanes[target.backend.name].gate
        return gate.running < gate.limit

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


def _claim(lane: Lane, place: Place) -> Pump | None:
    while (pump := lane.kept.claim(place)) is not None:
        if pump.waits:
            return pump
        pump.hand(None)
    return None
