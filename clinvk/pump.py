"""Carries the events of a conversation's turns from its backend to their readers.

Owns one open backend, from its first turn to its last; what is between two turns is kept in
`clinvk.conversations`. A job of the supervisor, for readers come and go.

    open -> turn -> keep -> turn -> … -> leave
"""

import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import anyio

from clinvk import tokens
from clinvk.backends.base import Live, as_unavailable
from clinvk.capabilities import Level
from clinvk.conversations import Course, Kept, key_after, starts_over
from clinvk.errors import (
    BusyError,
    CliCrashedError,
    ClinvkError,
    CliProtocolError,
    InternalError,
    TurnTimeoutError,
)
from clinvk.events import (
    Event,
    Failed,
    Finished,
)
from clinvk.fetch import Fetcher
from clinvk.gate import Gate
from clinvk.procs import memory
from clinvk.procs.supervisor import Job
from clinvk.registry import Target
from clinvk.telling import Ask, Telling
from clinvk.turn import Message, Turn

SLOT_TURN_S = 10.0  # what a turn is taken to last before any has ended

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Lane:
    """A backend's gate, the conversations it holds, and how long its turns last: an average.

    `observe` is told of each turn that has ended. `onward` is told of one that failed before
    anything was told of it, and returns the failure to tell, or None if another has the turn now.
    """

    gate: Gate
    kept: "Kept[Pump]"
    observe: Callable[[Ask], None]
    onward: Callable[[Ask, ClinvkError], ClinvkError | None]
    fetcher: Fetcher
    turn_s: float = SLOT_TURN_S

    def learn(self, seconds: float) -> None:
        """Take how long a turn lasted; the average forgets."""
        self.turn_s += (seconds - self.turn_s) / 8

    @property
    def retry_after_s(self) -> float:
        """When a place should be free: the queue's length in rounds of turns."""
        rounds = (self.gate.waiting + 1) / self.gate.limit
        return max(1.0, math.ceil(self.turn_s * rounds))


class Pump:
    """One conversation with a backend."""

    def __init__(self, target: Target, lane: Lane, first: Ask) -> None:
        self.job: Job | None = None
        self._target = target
        self._lane = lane
        self._ask: Ask | None = first
        self._handed = anyio.Event()
        self._stack = AsyncExitStack()
        self._live: Live | None = None
        self._first = anyio.CancelScope()

    @property
    def waits(self) -> bool:
        """Whether it can go on."""
        return self._live is not None and self._live.waits

    def hand(self, ask: Ask | None) -> None:
        """Give a kept conversation its next turn, or None to end it; returns at once."""
        self._ask = ask
        self._handed.set()

    async def run(self) -> None:
        """Run turn after turn until there is none to wait for."""
        try:
            while (ask := self._ask) is not None:
                course = await self._serve(ask)
                if course is None or not await self._handed_in_time(course):
                    return
        finally:
            self._lane.kept.drop(self)
            await self._stack.aclose()

    async def _handed_in_time(self, course: Course) -> bool:
        config = self._target.config
        with anyio.move_on_after(config.park_s if course is Course.RESUMED else config.idle_s):
            await self._handed.wait()
        return self._handed.is_set()

    async def _serve(self, ask: Ask) -> Course | None:
        """Run a turn once its place is free; return as what the conversation is kept, if it is."""
        course: Course | None = None
        last: Finished | Failed | None = None
        try:
            if await admitted(self._target, ask):
                last, course = await self._outcome(ask)
            else:
                last = Failed(queued_too_long(self._target, self._lane))
            ask.record.outcome = "cancelled" if last is None else _name(last)
        finally:
            try:
                if course is None:
                    await self._stack.aclose()
            finally:
                ask.ticket.give_back()
                if ask.record.admitted is not None:
                    self._lane.learn(time.monotonic() - ask.record.admitted)
                told = await self._end(ask, last)
        # Who has not heard of its end will not go on with it.
        return course if told or not self._lane.kept.drop(self) else None

    async def _end(self, ask: Ask, last: Finished | Failed | None) -> bool:
        """Tell the end of a turn, or leave it to another; return whether somebody heard it."""
        if isinstance(last, Failed) and ask.way is not None and not ask.begun:
            error = self._lane.onward(ask, last.error)
            if error is None:
                return False
            last = Failed(error)
        told = await ask.end(last)
        self._lane.observe(ask)
        return told

    async def _outcome(self, ask: Ask) -> tuple[Finished | Failed | None, Course | None]:
        """Run the turn; return its last event, None if its reader has left, and how it is kept."""
        telling = Telling(ask)
        try:
            with anyio.fail_after(self._target.config.timeout_s):
                last = await self._turn_through(ask, telling)
        except TimeoutError:
            return Failed(too_long(self._target, "the turn took longer than", "timeout_s")), None
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return None, None
        except Exception as exc:  # noqa: BLE001 - every failure is the reader's to hear
            return Failed(as_error(exc)), None
        return last, self._keep(ask, telling, last)

    async def _turn_through(self, ask: Ask, telling: Telling) -> Finished | Failed:
        if ask.turn.limits.max_tokens is not None:
            await tokens.ready()
        try:
            with anyio.fail_after(self._target.config.first_s) as self._first:
                last = await self._gone_on(ask, telling) if ask.news else None
                if last is None:
                    last = await self._carry(await self._opened(ask.turn), telling)
                if telling.lacks_call(last):
                    again = telling.reminded()
                    last = await self._carry(await self._opened(again), telling)
                return last
        except TimeoutError:
            raise too_long(
                self._target, "the CLI and its model did not begin for", "first_s"
            ) from None

    async def _gone_on(self, ask: Ask, telling: Telling) -> Finished | Failed | None:
        """Go on with the conversation; None if it turns out that it cannot."""
        if self._live is None:
            return None
        try:
            await self._live.go_on(await self._shown(ask.turn, ask.news))
            return await self._carry(self._live, telling)
        except CliCrashedError as exc:
            if telling.begun:
                raise
            _log.info("%s could not go on, and starts anew: %s", self._target.backend.name, exc)
        ask.course = starts_over(ask.turn)
        return None

    async def _opened(self, turn: Turn) -> AsyncIterator[Event]:
        await self._stack.aclose()
        turn = replace(turn, messages=await self._shown(turn, turn.messages))
        opened = self._target.backend.open(turn, self._target.model)
        events = await self._stack.enter_async_context(opened)
        self._live = events if isinstance(events, Live) else None
        return events

    async def _shown(self, turn: Turn, last: tuple[Message, ...]) -> tuple[Message, ...]:
        """Return the last messages of a turn, with the images that its backend cannot fetch."""
        if self._target.backend.capabilities.image_urls is not Level.EMULATED:
            return last
        return await self._lane.fetcher.messages(last, first=len(turn.messages) - len(last))

    async def _carry(self, events: AsyncIterator[Event], telling: Telling) -> Finished | Failed:
        """Tell a turn's events; return the last one, untold."""
        silence_s = self._target.config.silence_s
        try:
            # One scope for all events: one for each would be the most of what a delta costs.
            with anyio.fail_after(math.inf) as silence:
                while True:
                    if self._first.deadline == math.inf:
                        silence.deadline = anyio.current_time() + silence_s
                    event = await anext(events, None)
                    silence.deadline = self._first.deadline = math.inf
                    if event is None:
                        break
                    last = await telling.feed(event)
                    if last is not None:
                        return last
        except TimeoutError:
            raise too_long(self._target, "the CLI was silent for", "silence_s") from None
        raise CliProtocolError(
            f"backend {self._target.backend.name!r} ended its answer without a result"
        )

    def _keep(self, ask: Ask, telling: Telling, last: Finished | Failed) -> Course | None:
        kept = self._lane.kept
        course = telling.goes_on_as(last)
        if course is None or not kept.wants(course) or not self.waits:
            return None
        if course is Course.CONTINUED and memory.is_scarce():
            for gone in kept.clear(course):
                gone.hand(None)
            return None
        self._ask = None
        self._handed = anyio.Event()
        key = key_after(ask.turn, telling.reply(), caller=ask.caller, model=self._target.full_name)
        for gone in kept.add(course, key, self):
            gone.hand(None)
        return course


@asynccontextmanager
async def run_in_place(target: Target, lane: Lane, ask: Ask) -> AsyncIterator[None]:
    """Enter once the place of a request that runs in its own task is free; within its time.

    Raises:
        ClinvkError: if it takes too long.
    """
    if not await admitted(target, ask):
        raise queued_too_long(target, lane)
    began = time.monotonic()
    try:
        with anyio.fail_after(target.config.timeout_s):
            yield
    except TimeoutError:
        raise too_long(target, "the request took longer than", "timeout_s") from None
    finally:
        lane.learn(time.monotonic() - began)


async def admitted(target: Target, ask: Ask) -> bool:
    """Wait for the place of a turn; return whether it came in time."""
    with anyio.move_on_after(target.config.queue_s):
        await ask.ticket.admitted()
        ask.record.admitted = time.monotonic()
        return True
    return False


def queued_too_long(target: Target, lane: Lane) -> BusyError:
    """Return the error that no place came free in time."""
    config, gate = target.config, lane.gate
    return BusyError(
        f"no place was free for {config.queue_s:g} s: backend {target.backend.name!r} "
        f"runs {gate.running} turns and {gate.waiting} wait; ask again later, or raise "
        f"max_concurrency or queue_s in backends.yaml",
        retry_after_s=lane.retry_after_s,
    )


def too_long(target: Target, what: str, key: str) -> TurnTimeoutError:
    """Return the error that something took longer than a limit allows."""
    seconds = getattr(target.config, key)
    return TurnTimeoutError(
        f"{what} {seconds:g} s; raise {key} of backend {target.backend.name!r} to allow more"
    )


def _name(last: Finished | Failed) -> str:
    return last.reason.value if isinstance(last, Finished) else last.error.name


def as_error(exc: Exception) -> ClinvkError:
    """Return `exc` if it is for the caller, else log it and return an `InternalError`."""
    if isinstance(exc, ClinvkError):
        return exc
    if isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 1:
        return as_error(exc.exceptions[0])
    if isinstance(exc, OSError):  # no room, no descriptors, a temp folder that is gone
        _log.error("a turn failed by this machine", exc_info=exc)
        return as_unavailable(exc)
    _log.error("a turn failed by a bug", exc_info=exc)
    return InternalError("clinvk failed on this request; its log says why")
