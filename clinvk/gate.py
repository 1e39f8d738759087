"""How many turns a backend runs at once, and how many may wait: first in, first out.

Synchronous but for the wait itself, so that no two callers can race. `repr` is the status line.
"""

from collections import deque

import anyio


class GateFullError(Exception):
    """Every place to run and every place to wait is taken."""


class Ticket:
    """A place at the gate: waiting, then running, until it is given back."""

    __slots__ = ("_admitted", "_gate")

    def __init__(self, gate: "Gate") -> None:
        self._gate = gate
        self._admitted = anyio.Event()

    async def admitted(self) -> None:
        """Wait until the turn may run."""
        await self._admitted.wait()

    def admit(self) -> None:
        """Let the turn run; the gate's call."""
        self._admitted.set()

    def give_back(self) -> None:
        """Leave, running or waiting; a second call does nothing."""
        self._gate.leave(self)


class Gate:
    """Admits `limit` tickets at once and lets `queue` more wait."""

    def __init__(self, limit: int, queue: int) -> None:
        self.limit = limit
        self.queue = queue
        self._running: set[Ticket] = set()
        self._waiting: deque[Ticket] = deque()

    def __repr__(self) -> str:
        return (
            f"<Gate {len(self._running)}/{self.limit} running, "
            f"{len(self._waiting)}/{self.queue} waiting>"
        )

    @property
    def running(self) -> int:
        """How many tickets run now."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many tickets wait now."""
        return len(self._waiting)

    def enter(self) -> Ticket:
        """Take a place.

        Raises:
            GateFullError: if there is none.
        """
        ticket = Ticket(self)
        if len(self._running) < self.limit:
            self._running.add(ticket)
            ticket.admit()
        elif len(self._waiting) < self.queue:
            self._waiting.append(ticket)
        else:
            raise GateFullError
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Free the ticket's place and admit the next in line."""
        if ticket in self._running:
            self._running.remove(ticket)
            if self._waiting:
                following = self._waiting.popleft()
                self._running.add(following)
                following.admit()
        elif ticket in self._waiting:
            self._waiting.remove(ticket)
