"""Processes started ahead of their use, one of them for one conversation each.

Owns how many wait and for how long. One synchronous step decides what to start and what to stop;
the acting happens outside it, one start at a time, for starts side by side starve each other.
`repr` is the status line. Knows nothing of what the processes are.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import anyio

from clinvk.procs.backoff import Backoff

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 300.0
AFFORD_S = 10.0  # between two looks at the memory
CALM_S = 60.0  # without a miss, after which one spare fewer is kept

_log = logging.getLogger(__name__)


class Spare(Protocol):
    """What is needed of a process that waits."""

    @property
    def alive(self) -> bool:
        """Whether it can still be used."""

    def stop_soon(self) -> None:
        """Begin to stop it; returns at once."""


K = TypeVar("K", bound=Hashable)
S = TypeVar("S", bound=Spare)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many spares are kept: `least` of each kind that is asked for, `most` of all together.

    A kind nobody has asked for in `forget_s` gets none; a spare is replaced after `max_age_s`.
    """

    least: int
    most: int
    forget_s: float = 1800.0
    max_age_s: float = 1800.0


@dataclass(slots=True)
class _Line(Generic[S]):
    """The spares of one kind, oldest first, each with its time of start."""

    asked_at: float
    wanted: int
    missed_at: float
    backoff: Backoff
    waiting: deque[tuple[S, float]] = field(default_factory=deque)


@dataclass(slots=True)
class _Start(Generic[K, S]):
    """A start under way; whoever claims it gets the spare."""

    key: K
    claimed: bool = False
    spare: S | None = None
    done: anyio.Event = field(default_factory=anyio.Event)


@dataclass(frozen=True, slots=True)
class Plan(Generic[K, S]):
    """What is done in a step: a kind to start, spares to stop, and when to look again."""

    start: K | None
    stop: tuple[S, ...]
    look_in_s: float


class Spares(Generic[K, S]):
    """Keeps spares of every kind in use.

    Args:
        start: starts one and waits until it is ready.
        limits: how many to keep.
        afford: whether there is memory for one more.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        start: Callable[[K], Awaitable[S]],
        limits: Limits,
        *,
        afford: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = start
        self._limits = limits
        self._afford = afford
        self._clock = clock
        self._lines: dict[K, _Line[S]] = {}
        self._starting: _Start[K, S] | None = None
        self._changed = anyio.Event()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Spares {self.waiting}/{self._limits.most} waiting, {len(self._lines)} kinds>"

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(line.waiting) for line in self._lines.values())

    async def take(self, key: K) -> S | None:
        """Take the oldest spare of a kind, or the one that is coming up; None if there is none.

        Whoever finds none makes a kind want one more, once it is expected at all.
        """
        line = self._lines.get(key)
        if line is None:
            return None
        line.asked_at = self._clock()
        while line.waiting:
            spare, _ = line.waiting.popleft()
            if spare.alive:
                return spare
            spare.stop_soon()
        start = self._starting
        if start is not None and start.key == key and not start.claimed:
            return await self._join(start, line)
        line.missed_at = line.asked_at
        line.wanted = min(line.wanted + 1, self._limits.most)
        return None

    def expect(self, key: K) -> None:
        """Count on a kind being asked for again, and begin to replace what was taken."""
        if key not in self._lines and not self._closed:
            backoff = Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S, clock=self._clock)
            self._lines[key] = _Line(self._clock(), self._limits.least, -math.inf, backoff)
        self.refill()

    def refill(self) -> None:
        """Begin to replace what was taken; returns at once."""
        self._changed.set()

    async def keep(self) -> None:
        """Start and stop spares as they are needed, until cancelled; then stop them all."""
        try:
            while not self._closed:
                self._changed = anyio.Event()
                plan = await self.step()
                if plan.start is None:
                    with anyio.move_on_after(plan.look_in_s):
                        await self._changed.wait()
        finally:
            self.close()

    async def step(self) -> Plan[K, S]:
        """Do what is to be done now, and return what that was."""
        plan = self._plan()
        for spare in plan.stop:
            spare.stop_soon()
        if plan.start is not None:
            await self._add(plan.start)
        return plan

    def close(self) -> None:
        """Stop every spare, and start no more."""
        self._closed = True
        self._changed.set()
        for line in self._lines.values():
            while line.waiting:
                line.waiting.popleft()[0].stop_soon()

    def _plan(self) -> Plan[K, S]:
        """Decide; what is to be stopped waits no more."""
        now = self._clock()
        stop: list[S] = []
        for key, line in list(self._lines.items()):
            self._settle(line, now)
            stop += self._surplus(line, now)
            if not line.wanted and not line.waiting:
                del self._lines[key]
        room = self._limits.most - sum(len(line.waiting) for line in self._lines.values())
        short = [k for k, line in self._lines.items() if len(line.waiting) < line.wanted]
        due = [key for key in short if self._lines[key].backoff.retry_at <= now]
        # Who was asked for last is the likeliest to be asked for next.
        best = max(due, key=lambda key: self._lines[key].asked_at, default=None)
        if best is not None and room <= 0:
            made = self._make_room(best)
            stop += made
            best = best if made else None
        look_in_s = self._next_look(now, short)
        if best is not None and not self._afford():
            best, look_in_s = None, min(look_in_s, AFFORD_S)
        return Plan(best, tuple(stop), look_in_s)

    async def _add(self, key: K) -> None:
        line = self._lines[key]
        start = self._starting = _Start[K, S](key)
        try:
            start.spare = await self._start(key)
        except Exception as exc:  # noqa: BLE001 - a turn will tell of it, if it persists
            line.backoff.failed(exc)
            _log.debug("a spare could not be started: %s", exc)
        else:
            line.backoff.succeeded()
            if self._closed:
                start.spare.stop_soon()
            elif not start.claimed:
                line.waiting.append((start.spare, self._clock()))
        finally:
            self._starting = None
            start.done.set()

    async def _join(self, start: "_Start[K, S]", line: _Line[S]) -> S | None:
        start.claimed = True
        try:
            await start.done.wait()
        except BaseException:
            start.claimed = False
            if start.spare is not None:
                line.waiting.append((start.spare, self._clock()))
            raise
        return start.spare if start.spare is not None and start.spare.alive else None

    def _settle(self, line: _Line[S], now: float) -> None:
        """Want none of a kind that is forgotten, and one fewer after a calm time."""
        if now - line.asked_at >= self._limits.forget_s:
            line.wanted = 0
        elif line.wanted > self._limits.least and now - line.missed_at >= CALM_S:
            line.wanted -= 1
            line.missed_at = now

    def _surplus(self, line: _Line[S], now: float) -> list[S]:
        """Take out who is dead or too old, and who is one too many."""
        fit = deque(
            (spare, since)
            for spare, since in line.waiting
            if spare.alive and now - since < self._limits.max_age_s
        )
        gone = [spare for spare, since in line.waiting if (spare, since) not in fit]
        while len(fit) > line.wanted:
            gone.append(fit.popleft()[0])
        line.waiting = fit
        return gone

    def _make_room(self, best: K) -> list[S]:
        """Take out a spare of the kind that was asked for the longest ago, for one of `best`."""
        others = [key for key, line in self._lines.items() if line.waiting and key != best]
        oldest = min(others, key=lambda key: self._lines[key].asked_at, default=None)
        if oldest is None or self._lines[best].waiting:
            return []
        line = self._lines[oldest]
        line.wanted = len(line.waiting) - 1
        return [line.waiting.popleft()[0]]

    def _next_look(self, now: float, short: list[K]) -> float:
        """When something is next due, if nobody asks before."""
        due = [math.inf]
        for key, line in self._lines.items():
            due += [since + self._limits.max_age_s for _, since in line.waiting]
            if line.wanted or line.waiting:
                due.append(line.asked_at + self._limits.forget_s)
            if line.wanted > self._limits.least:
                due.append(line.missed_at + CALM_S)
            if key in short and line.backoff.retry_at > now:
                due.append(line.backoff.retry_at)
        return max(0.0, min(due) - now)
