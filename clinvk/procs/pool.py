"""Leases on one long-lived server process: start, share, recycle, back off.

One synchronous step decides; starting and stopping happen outside it. `repr` is the status
line. Knows nothing of what the server speaks.
"""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import anyio

from clinvk.procs.backoff import Backoff

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0

_log = logging.getLogger(__name__)


class Server(Protocol):
    """What the pool needs of a server process."""

    @property
    def alive(self) -> bool:
        """Whether it can take another lease."""

    def stop_soon(self) -> None:
        """Begin to stop it; returns at once."""


S = TypeVar("S", bound=Server)


@dataclass(eq=False)
class _Seat(Generic[S]):
    server: S
    leases: int = 0
    served: int = 0


class ServerPool(Generic[S]):
    """At most one server takes new leases; older ones end with their last lease.

    Args:
        start: starts a server and waits until it answers.
        recycle_after: leases after which a server is replaced; None means never.
        background: runs work beside all else; with it a server serves until its successor is
            ready, without it the lease that comes too late waits.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        start: Callable[[], Awaitable[S]],
        *,
        recycle_after: int | None = None,
        background: Callable[[Callable[[], Awaitable[None]]], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = start
        self._recycle_after = recycle_after
        self._background = background
        self._succeeding = False
        self._stopped = False
        self._backoff = Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S, clock=clock)
        self._current: _Seat[S] | None = None
        self._draining: list[_Seat[S]] = []
        self._lock = anyio.Lock()
        self._starts = 0

    def __repr__(self) -> str:
        current = self._current
        leases = current.leases if current else 0
        served = current.served if current else 0
        failures = self._backoff.failures
        return (
            f"<ServerPool {'up' if current else 'down'}, {leases} leased, {served} served, "
            f"{len(self._draining)} draining, {self._starts} starts, {failures} failures>"
        )

    @property
    def running(self) -> int:
        """How many servers run."""
        return len(self._draining) + (self._current is not None)

    @property
    def starts(self) -> int:
        """How many were started, ever."""
        return self._starts

    @property
    def failures(self) -> int:
        """How many starts failed since the last that did not."""
        return self._backoff.failures

    @property
    def trouble(self) -> str | None:
        """Why no server can be started now, None if one could be tried or runs."""
        current = self._current
        return None if current is not None and current.server.alive else self._backoff.trouble

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[S]:
        """Hold a place on a running server, starting one if there is none.

        Raises:
            StartBackoffError: if the last start failed and the next is not yet due.
            Exception: what `start` raised.
        """
        seat = await self._seat()
        try:
            yield seat.server
        finally:
            self._give_back(seat)

    async def warm(self) -> None:
        """Start the server if none runs, without taking a place on it."""
        async with self._lock:
            if self._usable() is None:
                await self._replace()

    def stop(self) -> None:
        """Stop every server, leased or not."""
        self._stopped = True
        seats = [*self._draining, *([self._current] if self._current else [])]
        self._current = None
        self._draining = []
        for seat in seats:
            seat.server.stop_soon()

    async def _seat(self) -> _Seat[S]:
        seat = self._usable()
        if seat is None:
            async with self._lock:
                seat = self._usable() or await self._replace()
        seat.leases += 1
        seat.served += 1
        if self._background is not None and self._spent(seat) and not self._succeeding:
            self._succeeding = True
            self._background(self._succeed)
        return seat

    def _usable(self) -> _Seat[S] | None:
        """The seat that may take a lease now; retires one that may not."""
        seat = self._current
        if seat is None:
            return None
        if seat.server.alive and (self._background is not None or not self._spent(seat)):
            return seat
        self._current = None
        self._retire(seat)
        return None

    def _spent(self, seat: _Seat[S]) -> bool:
        return self._recycle_after is not None and seat.served >= self._recycle_after

    def _retire(self, seat: _Seat[S]) -> None:
        if seat.leases:
            self._draining.append(seat)
        else:
            seat.server.stop_soon()

    async def _succeed(self) -> None:
        """Start the successor of a server that has served long enough, and only then retire it."""
        try:
            async with self._lock:
                old = self._current
                if old is not None and self._spent(old):
                    await self._replace()
                    self._retire(old)
        except Exception as exc:  # noqa: BLE001 - the old one serves on, and the next lease tries
            _log.warning("a server could not be replaced yet: %s", exc)
        finally:
            self._succeeding = False

    def _give_back(self, seat: _Seat[S]) -> None:
        seat.leases -= 1
        if seat.leases:
            return
        if seat in self._draining:
            self._draining.remove(seat)
            seat.server.stop_soon()
        elif not seat.server.alive:
            self._usable()

    async def _replace(self) -> _Seat[S]:
        self._backoff.require()
        self._starts += 1
        try:
            server = await self._start()
        except Exception as exc:
            self._backoff.failed(exc)
            raise
        self._backoff.succeeded()
        if self._stopped:
            server.stop_soon()
        self._current = _Seat(server)
        return self._current
