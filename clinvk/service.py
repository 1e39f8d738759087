"""Runs a turn: resolve, admit, time out, enforce limits, account. Knows no HTTP and no terminal.

    start(turn) -> Stream <- bounded memory stream <- pump (a job of the supervisor) <- backend

The reader owns nothing but the stream; closing it, at any time and from any task, makes the
pump leave the backend, which interrupts the CLI's turn.
"""

import logging
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from clinvk import tokens
from clinvk.backends.base import Health, State
from clinvk.config import BackendConfig, Config
from clinvk.errors import (
    BusyError,
    ClinvkError,
    CliProtocolError,
    InternalError,
    ShuttingDownError,
    TurnTimeoutError,
)
from clinvk.events import (
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    Usage,
)
from clinvk.gate import Gate, GateFullError, Ticket
from clinvk.limits import LimitFilter
from clinvk.procs.supervisor import Job, Supervisor
from clinvk.registry import Registry, Target
from clinvk.turn import Turn

BUFFERED_EVENTS = 64  # a reader further behind than this slows its own turn, and no other
HEALTH_MAX_AGE_S = 30.0
HEALTH_TIMEOUT_S = 20.0
SLOT_TURN_S = 10.0  # what a turn is taken to last before any has ended

_log = logging.getLogger(__name__)

Item = tuple[int, Event]


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
        self.jobs: list[Job] = []
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

    def close(self) -> None:
        """Stop every choice that still runs; returns at once."""
        for job in self.jobs:
            job.cancel()
        self._receive.close()


@dataclass(slots=True)
class _Lane:
    """A backend's gate, and how long its turns last: an average that forgets."""

    gate: Gate
    turn_s: float = SLOT_TURN_S

    def learn(self, seconds: float) -> None:
        self.turn_s += (seconds - self.turn_s) / 8

    @property
    def retry_after_s(self) -> float:
        """When a place should be free: the queue's length in rounds of turns."""
        rounds = (self.gate.waiting + 1) / self.gate.limit
        return max(1.0, math.ceil(self.turn_s * rounds))


class Service:
    """Every turn passes here, whoever asks for it."""

    def __init__(self, config: Config, registry: Registry, supervisor: Supervisor) -> None:
        self.registry = registry
        self._supervisor = supervisor
        self._lanes = {
            name: _Lane(Gate(backend.max_concurrency, backend.max_queue))
            for name, backend in config.backends.items()
        }
        self._health: dict[str, Health] = {}
        self._health_at = -math.inf
        self._health_lock = anyio.Lock()
        self._stopping = False
        self._jobs: set[Job] = set()

    def start(self, turn: Turn, *more: Turn) -> Stream:
        """Admit a turn, or each of its choices as a turn, and return the stream of its events.

        `more` are further turns of the same model in the same stream, their choices numbered
        through. All are admitted or none.

        Raises:
            ClinvkError: if it cannot be run: unknown model, unsupported content, no place.
        """
        if self._stopping:
            raise ShuttingDownError("the server is stopping; ask again in a moment")
        target = self.registry.resolve(turn.model)
        left_out = [name for each in (turn, *more) for name in target.backend.check(each)]
        choices = [each for each in (turn, *more) for _ in range(each.choices)]
        lane = self._lanes[target.backend.name]
        tickets = self._admit(lane, len(choices), target.backend.name)
        send, receive = anyio.create_memory_object_stream[Item](BUFFERED_EVENTS)
        ignored = tuple(dict.fromkeys((*turn.ignored, *left_out)))
        stream = Stream(target, ignored, len(choices), receive)
        for choice, ticket in enumerate(tickets):
            pump = _Pump(choices[choice], target, choice, lane, ticket, send.clone())
            job = self._supervisor.start(pump.run)
            stream.jobs.append(job)
        self._jobs = {job for job in self._jobs if not job.done}.union(stream.jobs)
        send.close()
        return stream

    async def drain(self, grace_s: float) -> None:
        """Take no new turns, wait up to `grace_s` seconds for the running ones, stop the rest."""
        self._stopping = True
        with anyio.move_on_after(grace_s):
            for job in list(self._jobs):
                await job.wait()
        self.stop_turns()

    def stop_turns(self) -> None:
        """Take no new turns and stop the running ones; their readers hear of it."""
        self._stopping = True
        for job in self._jobs:
            job.cancel()

    async def warm(self) -> None:
        """Start what backends can start before their first turn; failures are logged."""
        for name, backend in self.registry.backends.items():
            if backend.installed:
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
        return {name: self._health[name] for name in self.registry.backends}

    async def _look(self) -> None:
        found: dict[str, Health] = {}
        async with anyio.create_task_group() as group:
            for name in self.registry.backends:
                group.start_soon(self._look_at, name, found)
        self._health = found
        self._health_at = time.monotonic()

    async def _look_at(self, name: str, all_found: dict[str, Health]) -> None:
        found = Health(State.FAILING, reason="it did not answer in time", fix="clinvk doctor")
        with anyio.move_on_after(HEALTH_TIMEOUT_S):
            try:
                found = await self.registry.backends[name].health()
            except ClinvkError as exc:
                found = Health(State.FAILING, reason=exc.message, fix="clinvk doctor")
        all_found[name] = found

    def _admit(self, lane: _Lane, places: int, backend: str) -> list[Ticket]:
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


class _Pump:
    """Carries one choice's events from its backend to the reader."""

    def __init__(
        self,
        turn: Turn,
        target: Target,
        choice: int,
        lane: _Lane,
        ticket: Ticket,
        send: MemoryObjectSendStream[Item],
    ) -> None:
        self._turn = turn
        self._target = target
        self._choice = choice
        self._lane = lane
        self._ticket = ticket
        self._send = send
        self._account = _Account(turn)

    async def run(self) -> None:
        """Wait for the place, run the turn, and give the place back whatever happens."""
        started = time.monotonic()
        outcome = "cancelled"
        try:
            await self._ticket.admitted()
            started = time.monotonic()
            try:
                outcome = await self._turn_through()
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                outcome = "reader gone"
            except Exception as exc:  # noqa: BLE001 - every failure is the reader's to hear
                error = as_error(exc)
                outcome = error.code or type(error).__name__
                await self._tell(Failed(error))
        finally:
            self._ticket.give_back()
            self._send.close()
            seconds = time.monotonic() - started
            self._lane.learn(seconds)
            _log.info(
                "turn model=%s backend=%s outcome=%s seconds=%.3f",
                self._turn.model,
                self._target.backend.name,
                outcome,
                seconds,
            )

    async def _turn_through(self) -> str:
        config = self._target.config
        try:
            with anyio.fail_after(config.timeout_s):
                async with self._target.backend.open(self._turn, self._target.model) as events:
                    return await self._carry(events, config)
        except TimeoutError:
            raise TurnTimeoutError(
                f"the turn took longer than {config.timeout_s:g} s; "
                f"raise timeout_s of backend {self._target.backend.name!r} to allow more"
            ) from None

    async def _carry(self, events: AsyncIterator[Event], config: BackendConfig) -> str:
        limit = LimitFilter(self._turn.limits)
        if self._turn.limits.max_tokens is not None:
            await tokens.ready()
        while True:
            event = await self._next(events, config.silence_s)
            if event is None:
                raise CliProtocolError(
                    f"backend {self._target.backend.name!r} ended its answer without a result"
                )
            for passed in limit.feed(event):
                if isinstance(passed, Finished) and (usage := await self._account.missing()):
                    await self._send.send((self._choice, usage))
                self._account.note(passed)
                await self._send.send((self._choice, passed))
                if isinstance(passed, Finished):
                    return passed.reason.value
                if isinstance(passed, Failed):
                    return passed.error.code or "failed"

    async def _next(self, events: AsyncIterator[Event], silence_s: float) -> Event | None:
        try:
            with anyio.fail_after(silence_s):
                return await anext(events, None)
        except TimeoutError:
            raise TurnTimeoutError(
                f"the CLI was silent for {silence_s:g} s; "
                f"raise silence_s of backend {self._target.backend.name!r} to allow more"
            ) from None

    async def _tell(self, event: Event) -> None:
        try:
            await self._send.send((self._choice, event))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            _log.debug("nobody was left to hear %r", event)


class _Account:
    """Knows whether the CLI reported usage, and estimates it if not."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._reported = False

    def note(self, event: Event) -> None:
        """Take what was passed to the reader."""
        match event:
            case TextDelta(text=text):
                self._text.append(text)
            case ToolCall(arguments=arguments):
                self._text.append(arguments)
            case ReasoningDelta(text=text):
                self._reasoning.append(text)
            case Usage():
                self._reported = True
            case _:
                pass

    async def missing(self) -> Usage | None:
        """Return an estimate, or None if the CLI's own count was passed on."""
        if self._reported:
            return None
        await tokens.ready()
        reasoning = tokens.count("".join(self._reasoning))
        return Usage(
            input_tokens=sum(tokens.count(message.text) for message in self._turn.messages),
            output_tokens=tokens.count("".join(self._text)) + reasoning,
            reasoning_tokens=reasoning,
            estimated=True,
        )


def as_error(exc: Exception) -> ClinvkError:
    """Return `exc` if it is for the caller, else log it and return an `InternalError`."""
    if isinstance(exc, ClinvkError):
        return exc
    if isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 1:
        return as_error(exc.exceptions[0])
    _log.error("a turn failed by a bug", exc_info=exc)
    return InternalError("clinvk failed on this request; its log says why")
